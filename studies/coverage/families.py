"""The networks of the sweep: one small variant of each family, with random weights and a small input."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Made = tuple[nn.Module, Any]  # a model in evaluation mode, and an example for it


@dataclass(frozen=True)
class Family:
    """One row of the sweep."""

    library: str
    name: str
    variant: str
    make: Callable[[], Made]

    @property
    def id(self) -> str:
        return f"{self.library}.{self.name}"


def families() -> list[Family]:
    """Every family of torchvision and timm as installed, and those of Hugging Face listed here."""
    return _torchvision() + _timm() + _huggingface()


def family(name: str) -> Family:
    """The family whose id is `name`."""
    return next(one for one in families() if one.id == name)


def photo(side: int, batch: int = 2, frames: int | None = None) -> Tensor:
    shape = (batch, 3, side, side) if frames is None else (batch, 3, frames, side, side)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# --- torchvision ------------------------------------------------------------------------------

# The smallest variant of each family, and the side of its input. A model that is in no family here
# is a larger variant of one of these, or one of the quantized, which do no arithmetic in floating point.
CLASSIFICATION = {
    "alexnet": ("alexnet", 64),
    "convnext": ("convnext_tiny", 64),
    "densenet": ("densenet121", 64),
    "efficientnet": ("efficientnet_b0", 64),
    "efficientnet_v2": ("efficientnet_v2_s", 64),
    "googlenet": ("googlenet", 64),
    "inception": ("inception_v3", 96),
    "maxvit": ("maxvit_t", 224),
    "mnasnet": ("mnasnet0_5", 64),
    "mobilenet_v2": ("mobilenet_v2", 64),
    "mobilenet_v3": ("mobilenet_v3_small", 64),
    "regnet_x": ("regnet_x_400mf", 64),
    "regnet_y": ("regnet_y_400mf", 64),
    "resnet": ("resnet18", 64),
    "resnext": ("resnext50_32x4d", 64),
    "shufflenet_v2": ("shufflenet_v2_x0_5", 64),
    "squeezenet": ("squeezenet1_1", 64),
    "swin": ("swin_t", 64),
    "swin_v2": ("swin_v2_t", 64),
    "vgg": ("vgg11", 32),
    "vision_transformer": ("vit_b_32", 64),
    "wide_resnet": ("wide_resnet50_2", 64),
}
SEGMENTATION = {
    "deeplabv3": ("deeplabv3_mobilenet_v3_large", 64),
    "fcn": ("fcn_resnet50", 64),
    "lraspp": ("lraspp_mobilenet_v3_large", 64),
}
DETECTION = {
    "faster_rcnn": ("fasterrcnn_mobilenet_v3_large_320_fpn", 96),
    "fcos": ("fcos_resnet50_fpn", 96),
    "keypoint_rcnn": ("keypointrcnn_resnet50_fpn", 96),
    "mask_rcnn": ("maskrcnn_resnet50_fpn", 96),
    "retinanet": ("retinanet_resnet50_fpn", 96),
    "ssd": ("ssd300_vgg16", 96),
    "ssdlite": ("ssdlite320_mobilenet_v3_large", 96),
}
VIDEO = {
    "mc3": ("mc3_18", 32, 4),
    "mvit_v1": ("mvit_v1_b", 224, 16),
    "mvit_v2": ("mvit_v2_s", 224, 16),
    "r2plus1d": ("r2plus1d_18", 32, 4),
    "r3d": ("r3d_18", 32, 4),
    "s3d": ("s3d", 224, 16),
    "swin3d": ("swin3d_t", 32, 4),
}
OPTICAL_FLOW = ("raft_small", "raft_large")


def _torchvision() -> list[Family]:
    from torchvision import models

    def plain(variant: str, side: int) -> Callable[[], Made]:
        size = {"image_size": side} if variant.startswith("vit") else {}
        return lambda: (models.get_model(variant, weights=None, **size).eval(), photo(side))

    def segmentation(variant: str, side: int) -> Callable[[], Made]:
        build = getattr(models.segmentation, variant)
        return lambda: (build(weights=None, weights_backbone=None).eval(), photo(side))

    def detection(variant: str, side: int) -> Callable[[], Made]:
        build = getattr(models.detection, variant)
        # min_size would scale a small input up to 800 pixels; SSD has its size built in
        size = {"min_size": side, "max_size": side} if not variant.startswith("ssd") else {}
        return lambda: (
            build(weights=None, weights_backbone=None, num_classes=3, **size).eval(),
            ([photo(side, 1)[0]],),
        )

    def video(variant: str, side: int, frames: int) -> Callable[[], Made]:
        return lambda: (models.get_model(variant, weights=None).eval(), photo(side, 1, frames))

    def flow(variant: str) -> Callable[[], Made]:
        return lambda: (
            models.get_model(variant, weights=None).eval(),
            {"image1": photo(128, 1), "image2": photo(128, 1).flip(3), "num_flow_updates": 2},
        )

    made = [Family("torchvision", n, v, plain(v, side)) for n, (v, side) in CLASSIFICATION.items()]
    made += [Family("torchvision", n, v, segmentation(v, side)) for n, (v, side) in SEGMENTATION.items()]
    made += [Family("torchvision", n, v, detection(v, side)) for n, (v, side) in DETECTION.items()]
    made += [Family("torchvision", n, v, video(v, *size)) for n, (v, *size) in VIDEO.items()]
    return made + [Family("torchvision", n, n, flow(n)) for n in OPTICAL_FLOW]


# --- timm -------------------------------------------------------------------------------------

# The smallest variant of each family of timm 1.0.31 by parameters (measured on the meta device).
SMALLEST = {
    "beit": "beit_base_patch16_224", "byoanet": "halonet_h1", "byobnet": "test_byobnet", "cait": "cait_xxs24_224",
    "coat": "coat_tiny", "convit": "convit_tiny", "convmixer": "convmixer_768_32", "convnext": "test_convnext",
    "cpubone": "cpubone_nano", "crossvit": "crossvit_tiny_240", "csatv2": "csatv2", "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny", "davit": "davit_tiny", "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224", "densenet": "densenet121", "dla": "dla46x_c", "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small", "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0", "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1", "efficientvit_mit": "efficientvit_b0", "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb", "fasternet": "fasternet_t0", "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf", "gcvit": "gcvit_xxtiny", "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050", "hardcorenas": "hardcorenas_b", "hgnet": "hgnetv2_b0", "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny", "hrnet": "hrnet_w18_small", "iformer": "iformer_t",
    "inception_next": "inception_next_atto", "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3", "inception_v4": "inception_v4", "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s", "lowformer": "lowformer_b0", "mambaout": "test_mambaout", "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12", "mlp_mixer": "gmlp_ti16_224", "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base", "mobilevit": "mobilevit_xxs", "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap", "nasnet": "nasnetalarge", "nest": "nest_tiny",
    "nextvit": "nextvit_small", "nfnet": "test_nfnet", "pit": "pit_ti_224", "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0", "qwen3_vit": "qwen3_vit_88m", "rdnet": "rdnet_tiny", "regnet": "regnetx_002",
    "repghost": "repghostnet_050", "repvit": "repvit_m1", "res2net": "res2next50", "resnest": "resnest14d",
    "resnet": "test_resnet", "resnetv2": "resnetv2_18", "rexnet": "rexnet_100", "selecsls": "selecsls42",
    "senet": "legacy_seresnet18", "sequencer": "sequencer2d_s", "shvit": "shvit_s1", "sknet": "skresnet18",
    "starnet": "starnet_s050", "swiftformer": "swiftformer_xs", "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256", "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224", "tnt": "tnt_s_legacy_patch16_224", "tresnet": "tresnet_m",
    "twins": "twins_svt_small", "vgg": "vgg11", "visformer": "visformer_tiny", "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224", "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224", "vitamin": "vitamin_small_224", "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw", "xception": "legacy_xception", "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}  # fmt: skip
SIDES = {
    "crossvit_tiny_240": 240,  # its two patch sizes divide no smaller one
    "deepseek_vit_412m": 56,
    "halonet_h1": 256,
    "efficientformer_l1": 224,
    "inception_resnet_v2": 96,
    "inception_v3": 96,
    "inception_v4": 96,
}
# Families whose smallest variant has more than 80 million parameters: the same code with fewer layers.
SHALLOWER: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"depth": 2},
    "deepseek_vit_412m": {"depth": 2},
    "gemma4_vit_167m": {"depth": 2},
    "naflexvit_base_patch16_parfac_gap": {"depth": 2},
    "qwen3_vit_88m": {"depth": 2},
    "samvit_base_patch16_224": {"depth": 3},
}


def _timm() -> list[Family]:
    import timm

    def make(variant: str) -> Callable[[], Made]:
        side = SIDES.get(variant, 64)

        def build() -> Made:
            options = {"num_classes": 10, **SHALLOWER.get(variant, {})}
            try:  # the families that fix their input's size take it as an option
                model = timm.create_model(variant, img_size=side, **options)
            except TypeError:
                model = timm.create_model(variant, **options)
            return model.eval(), photo(side)

        return build

    def smallest(module: str) -> str:
        return SMALLEST.get(module) or timm.list_models(module=module)[0]

    return [Family("timm", module, smallest(module), make(smallest(module))) for module in timm.list_modules()]


# --- Hugging Face -----------------------------------------------------------------------------

_TEXT = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_IMAGE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
_GROUPED = _TEXT | {"num_key_value_heads": 2}
_SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _tokens(length: int = 12) -> Tensor:
    return torch.randint(3, 99, (2, length), generator=torch.Generator().manual_seed(0))


def _ids() -> dict[str, Tensor]:
    return {"input_ids": _tokens()}


def _pixels(side: int = 32) -> dict[str, Tensor]:
    return {"pixel_values": photo(side)}


def _both() -> dict[str, Tensor]:
    return {"input_ids": _tokens(), "decoder_input_ids": _tokens(6)}


# Family -> the model's class, its configuration's options, its example.
HUGGING_FACE: dict[str, tuple[str, dict[str, Any], Callable[[], dict[str, Tensor]]]] = {
    "albert": ("AlbertModel", _TEXT | {"embedding_size": 16}, _ids),
    "bart": (
        "BartModel",
        {"vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64,
         "decoder_start_token_id": 2, **_SPECIAL},
        _both,
    ),
    "bert": ("BertModel", _TEXT, _ids),
    "bloom": ("BloomForCausalLM", {"vocab_size": 99, "hidden_size": 32, "n_layer": 2, "n_head": 4, **_SPECIAL}, _ids),
    "clip": (
        "CLIPModel",
        {"text_config": _TEXT, "vision_config": _IMAGE, "projection_dim": 16},
        lambda: {"input_ids": torch.cat([_tokens(11), torch.full((2, 1), 2)], dim=1), **_pixels()},
    ),
    "convnext": ("ConvNextModel", {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}, lambda: _pixels(64)),
    "deberta_v2": ("DebertaV2Model", _TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, _ids),
    "deit": ("DeiTModel", _IMAGE, _pixels),
    "dinov2": ("Dinov2Model", _IMAGE, _pixels),
    "distilbert": (
        "DistilBertModel",
        {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "pad_token_id": 0},
        _ids,
    ),
    "electra": ("ElectraModel", _TEXT | {"embedding_size": 16}, _ids),
    "falcon": ("FalconForCausalLM", _TEXT, _ids),
    "gemma": ("GemmaForCausalLM", _GROUPED | {"head_dim": 8}, _ids),
    "gpt2": (
        "GPT2LMHeadModel",
        {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **_SPECIAL},
        _ids,
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", _TEXT, _ids),
    "llama": ("LlamaForCausalLM", _GROUPED, _ids),
    "mamba": ("MambaForCausalLM", {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, **_SPECIAL}, _ids),
    "mistral": ("MistralForCausalLM", _GROUPED | {"sliding_window": None}, _ids),
    "opt": (
        "OPTForCausalLM",
        {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 64,
         "max_position_embeddings": 64, "word_embed_proj_dim": 32, **_SPECIAL},
        _ids,
    ),
    "phi": ("PhiForCausalLM", _TEXT, _ids),
    "qwen2": ("Qwen2ForCausalLM", _GROUPED, _ids),
    "resnet": (
        "ResNetModel",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
        lambda: _pixels(64),
    ),
    "roberta": ("RobertaModel", _TEXT | {"type_vocab_size": 1}, _ids),
    "segformer": (
        "SegformerForSemanticSegmentation",
        {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 3, 4],
         "decoder_hidden_size": 16},
        lambda: _pixels(64),
    ),
    "swin": (
        "SwinModel",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        _pixels,
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "pad_token_id": 0,
         "decoder_start_token_id": 0},
        _both,
    ),
    "vit": ("ViTModel", _IMAGE, _pixels),
    "whisper": (
        "WhisperModel",
        {"vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
         "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "num_mel_bins": 8,
         "max_source_positions": 16, "max_target_positions": 32, "decoder_start_token_id": 1, **_SPECIAL},
        lambda: {"input_features": photo(32)[:, 0, :8], "decoder_input_ids": _tokens(6)},
    ),
}  # fmt: skip


def _huggingface() -> list[Family]:
    def make(model: str, options: dict[str, Any], example: Callable[[], dict[str, Tensor]]) -> Callable[[], Made]:
        def build() -> Made:
            import transformers

            logging.getLogger("transformers").setLevel(logging.ERROR)
            build_model = getattr(transformers, model)
            return build_model(build_model.config_class(**options)).eval(), example()

        return build

    return [Family("transformers", name, entry[0], make(*entry)) for name, entry in HUGGING_FACE.items()]


def seeded(family: Family) -> Made:
    """The family's model and example, the same weights each time; no parameter at a value that hides a site.

    A layer scale or a normalisation that starts at zero would make a branch vanish whatever is done to it.
    """
    torch.manual_seed(0)
    model, example = family.make()
    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point() and p.numel() and not p.any():
                p.add_(0.01)
    return model, example
