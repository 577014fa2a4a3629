"""scale_depth on stacks that keep count of their blocks: it makes the network that its own code makes at that depth."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import archlab as al

TOKENS = torch.arange(3, 10)[None]
LANGUAGE = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 4}
GROUPED = LANGUAGE | {"num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
PATTERN = ["sliding_attention", "sliding_attention", "full_attention"]
SPEECH = {
    "vocab_size": 64, "d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 32, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
T5 = {
    "vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "pad_token_id": 0,
    "decoder_start_token_id": 0,
}  # fmt: skip
PHOTO = {"pixel_values": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
IDS, BOTH = {"input_ids": TOKENS}, {"input_ids": TOKENS, "decoder_input_ids": TOKENS[:, :4]}
HEARD = {"input_features": torch.randn(1, 8, 32), "decoder_input_ids": TOKENS[:, :4]}

# Name -> the model of so many blocks, its example, the span, and whether blocks can begin as identities.
STACKS: dict[str, tuple[Callable[[int], nn.Module], dict[str, Tensor], str, bool]] = {
    "llama": (
        lambda n: hugging("LlamaForCausalLM", num_hidden_layers=n, **GROUPED), IDS, "model.layers", True,
    ),
    "gemma": (
        lambda n: hugging(
            "Gemma3ForCausalLM", num_hidden_layers=n, layer_types=[PATTERN[i % 3] for i in range(n)], sliding_window=4,
            head_dim=8, **GROUPED,
        ),
        IDS, "model.layers", True,
    ),
    "gpt2": (
        lambda n: hugging(
            "GPT2LMHeadModel", n_layer=n, vocab_size=64, n_embd=16, n_head=2, n_positions=32, bos_token_id=1,
            eos_token_id=2, pad_token_id=0,
        ),
        IDS, "transformer.h", True,
    ),
    "whisper decoder": (
        lambda n: hugging("WhisperForConditionalGeneration", encoder_layers=3, decoder_layers=n, **SPEECH),
        HEARD, "model.decoder.layers", True,
    ),
    "whisper encoder": (
        lambda n: hugging("WhisperForConditionalGeneration", encoder_layers=n, decoder_layers=3, **SPEECH),
        HEARD, "model.encoder.layers", True,
    ),
    "t5 decoder": (
        lambda n: hugging("T5ForConditionalGeneration", num_layers=3, num_decoder_layers=n, **T5),
        BOTH, "decoder.block", True,
    ),
    "t5 encoder": (
        lambda n: hugging("T5ForConditionalGeneration", num_layers=n, num_decoder_layers=3, **T5),
        BOTH, "encoder.block", True,
    ),
    "bert": (lambda n: hugging("BertModel", num_hidden_layers=n, **LANGUAGE), IDS, "encoder.layer", False),
    "vit": (
        lambda n: hugging(
            "ViTModel", num_hidden_layers=n, hidden_size=16, intermediate_size=32, num_attention_heads=2, image_size=32,
            patch_size=8,
        ),
        PHOTO, "layers", True,
    ),
    "swin": (
        lambda n: hugging("SwinModel", image_size=32, patch_size=2, embed_dim=8, depths=[n, 2], num_heads=[2, 2],
                          window_size=4, drop_path_rate=0.0),
        PHOTO, "encoder.layers.0.blocks", True,
    ),
}  # fmt: skip


def hugging(name: str, **options: Any) -> nn.Module:
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    net = kind(kind.config_class(**options)).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # no norm or bias at a value that hides what it does
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return net


def outputs(net: nn.Module, example: dict[str, Tensor]) -> list[Tensor]:
    from archlab.capture.example import tensors_in

    with torch.no_grad():
        return tensors_in(net(**example))


def assert_as_built(made: nn.Module, build: Callable[[int], nn.Module], count: int, example: dict[str, Tensor]) -> None:
    """`made` is what the model's own code builds with so many blocks: configuration, caches, text that it writes."""
    built = build(count)
    built.load_state_dict(made.state_dict())
    assert made.config.to_dict() == built.config.to_dict()
    for found, wanted in zip(outputs(made, example), outputs(built, example), strict=True):
        assert torch.equal(found, wanted)
    places = [[getattr(m, "layer_idx", None) for m in net.modules()] for net in (made, built)]
    assert places[0] == places[1]
    config = built.config  # of T5, transformers makes the decoder's cache as long as the encoder is deep
    if made.can_generate() and getattr(config, "num_decoder_layers", 0) <= config.num_hidden_layers:
        first = {name: value for name, value in example.items() if not name.startswith("decoder")}
        texts = [net.generate(**first, max_new_tokens=8, do_sample=False) for net in (made, built)]
        assert torch.equal(*texts)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", STACKS)
def test_a_stack_is_what_its_own_code_builds_at_that_depth(name):
    build, example, span, identities = STACKS[name]
    net = build(3)
    config, state = copy.deepcopy(net.config.to_dict()), copy.deepcopy(net.state_dict())
    for count, init in ((2, "fresh"), (5, "fresh"), (6, "preserve")):
        if init == "preserve" and not identities:
            with pytest.raises(ValueError, match="layer_norm follows its last residual add"):
                al.scale_depth(net, example, span=span, count=count, init="preserve")
            continue
        made = al.scale_depth(net, example, span=span, count=count, init=init)
        assert_as_built(made, build, count, example)
        if init == "preserve":
            assert torch.equal(outputs(made, example)[0], outputs(net, example)[0])
            assert al.recipe(made).steps[-1].equality == "exact"
    assert net.config.to_dict() == config
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


# --- which block a new one is like ---------------------------------------------------------------------


class Window(nn.Module):
    """A residual block that shifts its input, by an amount of its own."""

    def __init__(self, shift: int):
        super().__init__()
        self.shift, self.layer = shift, nn.Linear(4, 4)

    def forward(self, x):
        return x + self.layer(x.roll(self.shift, 1))


class Changing(nn.Module):
    """A block that halves the map first, as the first of a stage does."""

    def __init__(self, stride: int, into: int = 4):
        super().__init__()
        self.layer = nn.Conv2d(into, 4, 3, stride, 1)
        self.plain = stride == 1

    def forward(self, x):
        return x + self.layer(x) if self.plain else self.layer(x)


@pytest.mark.parametrize(
    ("shifts", "behind"),
    [
        ((0,), [0, 0, 0]),
        ((0, 2), [0, 2, 0]),
        ((0, 2, 0), [2, 0, 2]),
        ((0, 0, 3), [0, 0, 3]),
        ((0, 0, 3, 0), [0, 3, 0]),
        ((1, 2, 4), [1, 2, 4]),
        ((5, 1, 1), [1, 1, 1]),
    ],
)
def test_alternating_blocks_go_on_in_turn(shifts, behind):
    net = nn.Sequential(*(Window(shift) for shift in shifts))
    x = torch.randn(1, 6, 4)
    for init in ("fresh", "preserve"):
        made = al.scale_depth(net, x, span="", count=len(shifts) + 3, init=init)
        assert [block.shift for block in made] == [*shifts, *behind]
    assert torch.equal(made(x), net(x))


def test_a_block_that_changes_the_shape_is_not_repeated():
    net = nn.Sequential(Changing(2, 3), Changing(1))
    made = al.scale_depth(net, torch.zeros(1, 3, 8, 8), span="", count=4)
    assert [block.layer.stride for block in made] == [(2, 2), (1, 1), (1, 1), (1, 1)]


@pytest.mark.parametrize("init", ["fresh", "preserve"])
def test_a_norm_behind_the_blocks_stays_behind_them(init):
    net = nn.Sequential(Window(0), Window(1), nn.LayerNorm(4))
    x = torch.randn(2, 6, 4)
    made = al.scale_depth(net, x, span="", count=4, init=init)
    assert [type(block) for block in made] == [Window] * 4 + [nn.LayerNorm]
    if init == "preserve":
        assert torch.equal(made(x), net(x))
    kept = {name: value for name, value in net.state_dict().items() if name.startswith("2.")}
    assert all(torch.equal(made.state_dict()[name], value) for name, value in kept.items())
    short = al.scale_depth(net, x, span="", count=1)
    assert torch.equal(short(x), net[2](net[0](x)))


class Normed(nn.Module):
    """A residual branch that ends in a norm; or the norm is behind the add."""

    def __init__(self, inside: bool):
        super().__init__()
        self.inside, self.layer, self.norm = inside, nn.Linear(4, 4), nn.LayerNorm(4)
        nn.init.normal_(self.norm.bias)

    def forward(self, x):
        return x + self.norm(self.layer(x)) if self.inside else self.norm(x + self.layer(x))


def test_a_branch_may_end_in_a_norm_and_a_norm_behind_the_add_is_the_reason():
    x = torch.randn(2, 6, 4)
    net = nn.Sequential(Normed(True), Normed(True))
    assert torch.equal(al.scale_depth(net, x, span="", count=4, init="preserve")(x), net(x))
    with pytest.raises(ValueError, match="layer_norm follows its last residual add"):
        al.scale_depth(nn.Sequential(Normed(False)), x, span="", count=2, init="preserve")


def test_a_list_with_an_entry_a_block_may_grow_and_other_outputs_may_not():
    class Net(nn.Module):
        def __init__(self, total: bool):
            super().__init__()
            self.blocks, self.total = nn.ModuleList([Window(0), Window(0)]), total

        def forward(self, x):
            hidden = [x]
            for block in self.blocks:
                hidden.append(block(hidden[-1]))
            return {"last": hidden[-1], "hidden": hidden} if not self.total else torch.cat(hidden)

    x = torch.randn(1, 6, 4)
    made = al.scale_depth(Net(False), x, span="blocks", count=4, init="preserve")
    assert len(made(x)["hidden"]) == 5
    with pytest.raises(ValueError, match="with 4 blocks the outputs would have the shapes"):
        al.scale_depth(Net(True), x, span="blocks", count=4)


def test_the_recipe_counts_what_is_there_now():
    made = al.scale_depth(nn.Sequential(Window(0)), torch.zeros(1, 6, 4), span="", count=4)
    assert "3 of 4 modules" in repr(al.recipe(made))


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_blocks_under_weight_norm_are_fresh():
    def block():
        return nn.Sequential(nn.utils.weight_norm(nn.Conv1d(4, 4, 3, padding=1)), nn.ReLU())

    net = nn.Sequential(nn.Conv1d(2, 4, 1), nn.Sequential(block(), block()), nn.Conv1d(4, 2, 1))
    deeper = al.scale_depth(net, torch.randn(1, 2, 9), span="1", count=3)
    directions = [module.weight_v for module in deeper.modules() if hasattr(module, "weight_v")]
    assert len(directions) == 3
    assert not any(torch.isclose(directions[a], directions[b]).any() for a, b in ((0, 1), (1, 2), (0, 2)))
