"""Networks nobody here designed: torchvision, timm and Hugging Face, small variants with small inputs.

Expected counts stand where they follow from the architecture's table in its paper; the rest is
checked against the autograd graph.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn
from torchvision import models
from torchvision.models import convnext, efficientnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import BasicBlock
from torchvision.models.segmentation import LRASPP

from studies.motion.network.models import baseline

from .zoo import Entry, image


def photo(side: int, batch: int = 2) -> Tensor:
    return image(3, side, batch)


def ids(length: int = 8, vocabulary: int = 50) -> Tensor:
    return torch.randint(3, vocabulary, (2, length), generator=torch.Generator().manual_seed(7))


def _blocks() -> list[InvertedResidualConfig]:
    """Of MobileNetV3 (Howard et al. 2019), a block or two of each kind in place of fifteen."""
    block = partial(InvertedResidualConfig, dilation=1, width_mult=1.0)
    return [
        block(16, 3, 16, 16, False, "RE", 1), block(16, 3, 32, 24, False, "RE", 2),
        block(24, 3, 32, 24, False, "RE", 1),
        block(24, 5, 48, 32, True, "HS", 2), block(32, 5, 48, 32, True, "HS", 1), block(32, 5, 64, 40, True, "HS", 2),
    ]  # fmt: skip


def _features() -> nn.Sequential:
    return models.MobileNetV3(_blocks(), last_channel=32).features


def _detection() -> Entry:
    def ssdlite() -> nn.Module:
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        backbone = SSDLiteFeatureExtractorMobileNet(_features(), 6, norm)
        boxes = DefaultBoxGenerator([[2, 3] for _ in range(6)], min_ratio=0.2, max_ratio=0.95)
        head = SSDLiteHead([64, 240, 512, 256, 256, 128], boxes.num_anchors_per_location(), 3, norm)
        return SSD(backbone, boxes, (96, 96), 3, head=head, score_thresh=0.001)

    return Entry(
        ssdlite,
        lambda: ([image(3, 96, 1)[0]],),
        compiles=False,
        exports=False,
        halves=False,  # its non-maximum suppression
        trains=False,  # without the true boxes
        steady=False,
    )


def _segmentation() -> nn.Module:
    stages = IntermediateLayerGetter(_features(), return_layers={"4": "low", "7": "high"})
    return LRASPP(stages, 32, 240, 3)


def _raft() -> Entry:
    return Entry(
        lambda: torchvision.models.optical_flow.raft_small(weights=None),
        lambda: {"image1": image(3, 128, 1), "image2": image(3, 128, 1).flip(2), "num_flow_updates": 2},
        doubles=False,  # its coordinate grid is made in float32
        halves=False,
        compiles=False,
        exports=False,
    )


def _timm(name: str, side: int, *, compiles: bool = False, **options) -> Entry:
    """Compiling and exporting take seconds each: a few of different style stand for all."""
    model = lambda: timm.create_model(name, num_classes=5, **options)  # noqa: E731
    return Entry(model, lambda: photo(side), compiles=compiles, exports=compiles)


def _small(build: Callable[[], nn.Module], side: int) -> Entry:
    """A network whose class was given its sizes here."""
    return Entry(build, lambda: photo(side), compiles=False, exports=False)


def _huggingface(model: str, config: str, example: Any, **options) -> Entry:
    def factory() -> nn.Module:
        settings = getattr(transformers, config)(**options)
        return getattr(transformers, model)._from_config(settings, attn_implementation="eager")

    return Entry(factory, example, compiles=False, exports=False)


def vgg11_features() -> nn.Module:
    return torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"])


def _mvitv2() -> nn.Module:
    config = timm.models.mvitv2.MultiScaleVitCfg(depths=(1, 1, 1, 1), embed_dim=16, expand_attn=False)
    return timm.models.mvitv2.MultiScaleVit(config, img_size=64, num_classes=5)


def _mixer() -> nn.Module:
    return timm.models.mlp_mixer.MlpMixer(num_classes=5, img_size=32, patch_size=8, num_blocks=2, embed_dim=16)


def _mobilevit() -> nn.Module:
    inverted, transformer = timm.models.mobilevit._inverted_residual_block, timm.models.mobilevit._mobilevit_block
    blocks = (
        inverted(d=2, c=16, s=1, br=2.0),
        transformer(d=1, c=24, s=2, transformer_dim=16, transformer_depth=2, patch_size=2, br=2.0),
    )
    config = timm.models.byobnet.ByoModelCfg(
        blocks, stem_chs=16, stem_type="3x3", stem_pool="", downsample="", act_layer="silu", num_features=32
    )
    return timm.models.byobnet.ByobNet(config, num_classes=5)


def _mobilenetv3() -> nn.Module:
    """Depthwise-separable, inverted residual with and without squeeze and excitation, at one resolution and to half."""
    blocks = [["ds_r1_k3_s2_e1_c8_se0.25_nre"], ["ir_r1_k3_s2_e4_c16_nre", "ir_r1_k3_s1_e4_c16_nre"],
              ["ir_r2_k5_s1_e4_c24_se0.25"], ["cn_r1_k1_s1_c32"]]  # fmt: skip
    decoded = timm.models._efficientnet_builder.decode_arch_def(blocks)
    return timm.models.mobilenetv3.MobileNetV3(decoded, num_classes=5, stem_size=8, num_features=32)


def _hgnet() -> nn.Module:
    stages = {
        "stem_type": "v2", "stem_chs": [8, 8],
        # channels in, between, out; blocks, downsample, light, kernel size, layers
        "stage1": [8, 8, 16, 1, False, False, 3, 2],
        "stage2": [16, 8, 16, 1, True, False, 3, 1],
        "stage3": [16, 8, 16, 2, True, True, 5, 2],
        "stage4": [16, 8, 16, 1, True, True, 5, 1],
    }  # fmt: skip
    return timm.models.hgnet.HighPerfGpuNet(stages, num_classes=5, head_hidden_size=16)


def _vovnet() -> nn.Module:
    stages = {
        "stem_chs": [8, 8, 8], "stage_conv_chs": [8, 8, 16, 8], "stage_out_chs": [8, 16, 16, 24], "layer_per_block": 2,
        "block_per_stage": [1, 1, 2, 1], "residual": True, "depthwise": True, "attn": "ese",
    }  # fmt: skip
    return timm.models.vovnet.VovNet(stages, num_classes=5)


TINY_TEXT = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 32,
}  # fmt: skip


def _magnification() -> Entry:
    """Encoder 7, manipulator 1 and decoder 9 residual blocks of a ReLU each, and five ReLUs outside them."""
    frames = image(3, 32, 1), image(3, 32, 1).flip(2), 10.0
    return Entry(lambda: baseline(width=4), lambda: frames, {"block": 17}, compiles=False, exports=False)


TORCHVISION: dict[str, Entry] = {
    # He et al. 2016: basic blocks of two ReLUs, one ReLU before; all stages but the first begin with a projection
    "tv_resnet": Entry(
        lambda: models.ResNet(BasicBlock, [2, 2, 1, 1], num_classes=5),
        lambda: photo(32),
        {"activation": 13, "skip": 3, "branch": 3, "join": 3, "block": 3},
        compiles=False,
        exports=False,
    ),
    # Howard et al. 2019: an inverted residual has a skip where neither channels nor resolution change
    "tv_mobilenet_v3": Entry(
        lambda: models.MobileNetV3(_blocks(), 32, num_classes=5),
        lambda: photo(32),
        {"skip": 3, "join": 0},
        compiles=False,
        exports=False,
    ),
    # Simonyan & Zisserman 2014, configuration A without its classifier of 120 million weights
    "vgg11": Entry(vgg11_features, lambda: photo(32), {"activation": 8, "skip": 0, "block": 0}),
    "lraspp": Entry(_segmentation, lambda: photo(32), compiles=False, exports=False),
    "ssdlite": _detection(),
    "raft_small": _raft(),
}


def _inception() -> nn.Module:
    """The first seven of GoogLeNet's layers, with two of its nine inception modules."""
    return nn.Sequential(*list(models.GoogLeNet(10, aux_logits=False, init_weights=False).children())[:7])


def _regnet() -> nn.Module:
    params = BlockParams.from_init_params(depth=4, w_0=8, w_a=8.0, w_m=2.0, group_width=8, se_ratio=0.25)
    return models.RegNet(params, 10)


def _swin() -> nn.Module:
    return models.SwinTransformer([4, 4], 12, [2, 2], [2, 2], [4, 4], num_classes=10)


MB, CN = efficientnet.MBConvConfig, convnext.CNBlockConfig

# Other classification families of torchvision, with as few and narrow layers as their classes allow; the rest differ
# little from one of these, and all are in python -m studies.coverage.
CLASSIFICATION: dict[str, Entry] = {
    f"tv_{name}": Entry(build, lambda side=side: photo(side), compiles=False, exports=False)
    for name, (build, side) in {
        "convnext": (lambda: models.ConvNeXt([CN(8, 16, 2), CN(16, None, 2)], stochastic_depth_prob=0.1), 32),
        "densenet": (lambda: models.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8), 32),
        "efficientnet": (lambda: models.EfficientNet([MB(1, 3, 1, 8, 8, 1), MB(4, 3, 2, 8, 16, 2)], 0.0), 32),
        "googlenet": (_inception, 32),
        "maxvit": (lambda: models.MaxVit((32, 32), 8, 2, [8, 16], [1, 1], 4, 0.0, num_classes=10), 32),
        "regnet_y": (_regnet, 64),
        "shufflenet_v2": (lambda: models.ShuffleNetV2([2, 2, 2], [8, 16, 32, 32, 64], 10), 64),
        "swin": (_swin, 32),
        "vision_transformer": (lambda: models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=10), 32),
    }.items()
}

# Families of different style that are quick to read; all of them are in python -m studies.coverage.
TIMM: dict[str, Entry] = {
    "byobnet": _timm("test_byobnet", 64),
    "convnext": _timm("test_convnext", 64, compiles=True),
    "efficientnet": _timm("test_efficientnet", 64, compiles=True),
    "mambaout": _timm("test_mambaout", 64),
    "coatnet": _timm("test_coatnet", 64, img_size=64),
    "nfnet": _timm("test_nfnet", 64),
    "resnet": _timm("test_resnet", 64),
    "vit": _timm("test_vit", 64, img_size=64, compiles=True),
    "vit_relpos": _timm("test_vit_relpos", 64, img_size=64, depth=3),
    "dla": _timm("dla46x_c", 64, levels=[1, 1, 1, 2, 1, 1], channels=[8, 16, 32, 32, 32, 32]),
    "edgenext": _timm("edgenext_xx_small", 64, depths=(1, 2, 2, 1), dims=(16, 16, 32, 32)),
    "efficientvit": _timm("efficientvit_b0", 64, depths=(1, 1, 1, 1, 1), head_widths=(32, 32)),
    "hgnet": _small(_hgnet, 64),
    "inception_next": _timm("inception_next_atto", 64, depths=(1, 1, 2, 1), dims=(16, 16, 24, 32)),
    "mobilenetv3": _small(_mobilenetv3, 64),
    "mobilevit": _small(_mobilevit, 64),
    "pvt_v2": _timm("pvt_v2_b0", 64, depths=(1, 1, 1, 1), embed_dims=(8, 16, 40, 64)),
    "starnet": _timm("starnet_s050", 64),
    "swiftformer": _timm("swiftformer_xs", 64, layers=[1, 1, 2, 1], embed_dims=[16, 16, 24, 32]),
    "vovnet": _small(_vovnet, 64),
    "levit": _timm("levit_128s", 64, img_size=64, embed_dim=(16, 24, 32), num_heads=(1, 2, 2), depth=(1, 1, 2)),
    "convit": _timm("convit_tiny", 32, img_size=32, depth=4, embed_dim=16, num_heads=4, local_up_to_layer=3),
    "mvitv2": _small(_mvitv2, 64),
    "tiny_vit": _timm("tiny_vit_5m_224", 64, depths=(1, 1, 1, 1), embed_dims=(16, 32, 40, 80)),
    "twins": _timm("twins_svt_small", 64, img_size=64, depths=(1, 1, 1, 1), embed_dims=(16, 32, 32, 32)),
    "samvit": _timm("samvit_base_patch16_224", 64, img_size=64, embed_dim=32, depth=2, num_heads=2),
    "swin": _timm("swin_tiny_patch4_window7_224", 56, img_size=56, depths=(2, 2), embed_dim=12, num_heads=(2, 2)),
    "mixer": _small(_mixer, 32),
}

HUGGING_FACE: dict[str, Entry] = {
    "bert": _huggingface("BertModel", "BertConfig", lambda: {"input_ids": ids()}, **TINY_TEXT),
    "gpt2": _huggingface(
        "GPT2LMHeadModel", "GPT2Config", lambda: {"input_ids": ids()},
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32,
    ),
    "llama": _huggingface("LlamaForCausalLM", "LlamaConfig", lambda: {"input_ids": ids()}, **TINY_TEXT),
}  # fmt: skip

FAMILIES = ({"magnification": _magnification()}, TORCHVISION, CLASSIFICATION, TIMM, HUGGING_FACE)
REAL = {name: entry for family in FAMILIES for name, entry in family.items()}
assert len(REAL) == sum(map(len, FAMILIES)), "two networks have one name"
