"""The paper's networks derived from the baseline by passes are those that the configuration builds, op for op."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import archlab as al
from archlab.capture.recorder import capture
from studies.motion.network.example import example_for
from studies.motion.network.models import EIGHTH, LINEAR, QUARTER, Config, MagnificationNet, baseline, proposed, scaled
from studies.motion.train.derive import coarser, derived, from_baseline, linear_encoder, narrower, scaled_net
from studies.motion.train.family import NETWORKS


def real_time(net: MagnificationNet) -> Iterator[tuple[str, nn.Module]]:
    """From the baseline to the real-time network in reading B, as (what was done, the network then)."""
    folded: nn.Module = net
    for what, folded in linear_encoder(net):
        yield what, folded
    quarter = coarser(folded, 2)
    yield "decoder's blocks at a quarter of the resolution", quarter
    yield "half the channels and four times the blocks", scaled_net(quarter, "decoder.blocks.span")


@pytest.fixture(scope="module")
def steps() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return dict(real_time(baseline().eval()))


def structure(net: nn.Module) -> list[tuple]:
    """Every op of one run: its name, the shapes that it makes, and those of its parameters."""
    record = capture(net, example_for(net, 48))
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    return [(op.name, op.out_shapes, tuple(shapes[name] for name in op.params)) for op in record.ops]


def costs(net: nn.Module) -> tuple[int, float]:
    """Parameters, and the paper's FLOPs [G] of a streamed frame of 384 x 384."""
    frame = torch.empty(1, 3, 384, 384)
    shape = torch.empty(1, net.encode(torch.zeros(1, 3, 16, 16))[1].shape[1], 192, 192)
    call = al.Call(lambda net, f, s: net.stream(f, s, 10.0), frame, shape)
    cost = al.cost(net, call, convention="paper")
    return cost.params, round(cost.macs / 1e9, 3)


@pytest.mark.parametrize(
    ("factor", "config", "params", "flops"), [(2, QUARTER, 1_040_835, 24.638), (4, EIGHTH, 1_114_691, 20.466)]
)
def test_coarser_decoders(factor, config, params, flops):
    net = coarser(baseline().eval(), factor)
    assert costs(net) == (params, flops)
    assert structure(net) == structure(MagnificationNet(config))


# motion.md: parameters and multiply-adds [G]
WIDTHS = {28: (741_331, 31.65), 20: (379_843, 16.34), 12: (138_099, 6.04), 4: (16_099, 0.757)}


@pytest.mark.parametrize("width", WIDTHS)
def test_channel_reduced_baselines(width):
    net = narrower(baseline().eval(), width)
    frame, shape = torch.empty(1, 3, 384, 384), torch.empty(1, width, 192, 192)
    cost = al.cost(net, al.Call(lambda net, f, s: net.stream(f, s, 10.0), frame, shape))
    assert cost.params == WIDTHS[width][0]
    assert cost.macs / 1e9 == pytest.approx(WIDTHS[width][1], abs=0.005)
    assert structure(net) == structure(MagnificationNet(Config(width=width)))


def test_removal_alone_folds_to_a_common_stem_and_a_single_branch_to_one_layer(steps):
    linear, single = (steps[name] for name in ("encoder without activations and residual blocks", "a single branch"))
    example = example_for(linear)
    stem = al.fold(al.hoist_padding(linear, example, where="encoder*"), example, where="encoder*")
    kernels = {n: m.kernel_size[0] for n, m in stem.encoder.named_modules() if isinstance(m, nn.Conv2d)}
    assert kernels == {"conv2": 9, "texture_conv": 3, "shape_conv": 3}
    assert al.cost(stem.encoder, torch.empty(1, 3, 384, 384)).macs / 1e9 == pytest.approx(0.711, abs=0.001)
    with pytest.raises(ValueError, match="both are padded"):
        al.fold(single, example, where="encoder*")
    folded = steps["a single linear layer"]
    layers = [m for m in folded.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.kernel_size, m.stride, m.padding, m.padding_mode) for m in layers] == [
        ((13, 13), (2, 2), (6, 6), "reflect")
    ]
    assert "exact" in al.recipe(folded).steps[-1].equality


def test_with_the_blocks_kept_folding_leaves_what_would_cost_more():
    net = al.remove(baseline().eval(), example_for(baseline()), kinds="activation", where="encoder*")
    example = example_for(net)
    hoisted = al.hoist_padding(net, example, where="encoder*")
    assert al.recipe(hoisted).steps[-1].taken == ("encoder.conv1", "encoder.conv2")
    folded = al.fold(hoisted, example, where="encoder*")
    assert al.recipe(folded).steps[-1].taken == ("encoder.conv1", "encoder.conv2")
    kept = [m.kernel_size[0] for m in folded.encoder.modules() if isinstance(m, nn.Conv2d)]
    assert kept == [9] + [3] * 16


def test_reading_b_is_derived_without_replacing_anything(steps):
    assert costs(steps["decoder's blocks at a quarter of the resolution"]) == (902_115, 20.529)
    net = steps["half the channels and four times the blocks"]
    assert costs(net) == (730_547, 10.081)
    assert structure(net) == structure(MagnificationNet(scaled(LINEAR["B"])))
    assert [step.name for step in al.recipe(net).steps] == [
        "discard", "share", "hoist_padding", "fold", "scale_resolution", "scale_width", "scale_depth",
    ]  # fmt: skip


def test_the_recipe_rebuilds_it_from_a_file(steps, tmp_path):
    net = steps["half the channels and four times the blocks"]
    al.save(net, tmp_path / "real_time.safetensors")
    again = al.load(tmp_path / "real_time.safetensors", baseline, example_for(net)).eval()
    frames = example_for(net, 64)
    with torch.no_grad():
        assert torch.equal(again(*frames), net(*frames))
        assert torch.equal(again(*frames[:2], 20.0), net(*frames[:2], 20.0)), "the factor is an argument still"


def test_another_process_rebuilds_it(steps, tmp_path):
    net = steps["a single linear layer"]
    al.save(net, tmp_path / "net.safetensors")
    code = (
        "import archlab as al\nfrom studies.motion.network.example import example_for\n"
        "from studies.motion.network.models import baseline\n"
        f"net = al.load({str(tmp_path / 'net.safetensors')!r}, baseline, example_for(baseline())).eval()\n"
        "print(float(net(*example_for(net, 48)).double().sum()))"
    )
    root = Path(__file__).resolve().parents[3]
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    with torch.no_grad():
        wanted = float(net(*example_for(net, 48)).double().sum())
    assert float(said.stdout) == pytest.approx(wanted, rel=1e-5)


# motion.md: FLOPs [G] before and after depth and width are scaled, parameters after
READINGS = {"A": (20.10, 9.868, 731_715), "B": (20.529, 10.081, 730_547), "C": (20.17, 9.857, 730_739)}


@pytest.mark.parametrize("reading", READINGS)
def test_the_three_readings_cost_what_they_should(reading):
    before, after, params = READINGS[reading]
    assert costs(MagnificationNet(LINEAR[reading]))[1] == pytest.approx(before, abs=0.005)
    assert costs(proposed(reading=reading)) == (params, after)
    with pytest.raises(ValueError, match="reading must be one of A, B, C"):
        proposed(reading="D")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["linear C", "scaled A", "width 16"])
def test_networks_of_the_figures_begin_with_what_the_baseline_has_learned(name):
    torch.manual_seed(0)
    start = baseline().eval()
    net = from_baseline(NETWORKS[name], start)
    assert net.config == NETWORKS[name]
    assert torch.equal(net.decoder.conv2.bias, start.decoder.conv2.bias)
    kept, learned = (set(one.manipulator.conv1.bias.tolist()) for one in (net, start))
    assert kept <= learned and len(kept) == net.config.width


def test_a_network_that_no_pass_leads_to_is_refused_by_name():
    with pytest.raises(ValueError, match=r"no pass leads from Config\(.* to Config\(.*manipulator_blocks=2"):
        derived(Config(manipulator_blocks=2), baseline())
