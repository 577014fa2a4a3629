"""The networks made faster for a CPU: what they show stays the same."""

import copy
import platform
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import archlab as al
from archlab.experiments import Scratch
from studies.motion.figures import full_hd
from studies.motion.network import fast
from studies.motion.network.example import example_for
from studies.motion.network.fast import RingConv2d, pad_as_torch_, pad_by_ring_, pad_in_half_, upsampling_folded
from studies.motion.network.models import Config, MagnificationNet
from studies.motion.video.magnifier import magnify

TINY = Config(width=4, encoder_blocks=(1, 1, 1), decoder_blocks=1)


@pytest.fixture
def every_map_is_large(monkeypatch):
    monkeypatch.setattr(fast, "LARGE", 1)


@pytest.mark.parametrize(
    "kernel, padding, mode",
    [(3, 1, "reflect"), (7, 3, "reflect"), (2, 1, "replicate"), (5, (2, 0), "replicate"), ((3, 5), (0, 2), "reflect")],
)
@torch.no_grad()
def test_a_border_by_ring_is_that_of_torch(kernel, padding, mode, every_map_is_large):
    layer, x = nn.Conv2d(4, 5, kernel, 1, padding, padding_mode=mode), torch.randn(2, 4, 11, 9)
    ring = pad_by_ring_(copy.deepcopy(layer))
    assert type(ring) is RingConv2d and ring.state_dict().keys() == layer.state_dict().keys()
    assert torch.allclose(ring(x), layer(x), rtol=0, atol=1e-6)
    assert torch.equal(ring(x[..., :7]), layer(x[..., :7])), "a map no larger than the kernel"


def test_with_gradients_torch_pads(every_map_is_large):
    layer, x = nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), torch.randn(1, 2, 8, 8, requires_grad=True)
    assert torch.equal(pad_by_ring_(copy.deepcopy(layer))(x), layer(x))


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding_mode": "circular"}, {"padding": 2}], ids=str
)
def test_what_has_no_such_ring_stays_as_it_is(options):
    layer = nn.Conv2d(4, 4, 3, **{"padding": 1, "padding_mode": "reflect"} | options)
    assert type(pad_by_ring_(layer)) is nn.Conv2d


def test_padding_in_half_precision_is_that_of_autocast_to_the_bit():
    torch.manual_seed(0)
    net = MagnificationNet(TINY)
    half, frames = pad_in_half_(copy.deepcopy(net)), torch.rand(2, 2, 3, 16, 16)
    assert any(type(module) is not type(other) for module, other in zip(half.modules(), net.modules(), strict=True))
    gradients = []
    for model in (net, half):
        with torch.autocast("cpu", torch.bfloat16):
            made = model(*frames, 5.0)
        made.square().mean().backward()
        gradients.append([made, *(p.grad for p in model.parameters())])
    assert torch.equal(gradients[0][0], gradients[1][0])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=1e-3)
    assert torch.equal(half(*frames, 5.0), net(*frames, 5.0)), "in fp32"


def test_what_padded_in_half_precision_pads_as_torch_again_after_a_pass():
    net = pad_in_half_(MagnificationNet(TINY))
    thin = al.remove(net, example_for(net), kinds="block")
    assert {type(m) for m in pad_as_torch_(thin).modules() if isinstance(m, nn.Conv2d)} == {nn.Conv2d}
    assert type(pad_in_half_(nn.Conv2d(2, 2, 3, padding=1))) is nn.Conv2d, "zeros are no map of their own"


def test_a_folded_network_shows_the_same_and_is_not_folded_twice(every_map_is_large):
    torch.manual_seed(0)
    net = MagnificationNet(TINY).eval()
    folded = upsampling_folded(net)
    assert [name for name, _ in net.named_children()] == [name for name, _ in folded.named_children()]
    assert upsampling_folded(folded) is folded
    video = np.random.default_rng(0).integers(0, 256, (3, 30, 42, 3), np.uint8)
    fp32 = {"factor": 5, "device": "cpu", "precision": "fp32"}
    for image, same in zip(magnify(net, video, **fp32), magnify(folded, video, **fp32), strict=True):
        assert np.abs(image.astype(int) - same).max() <= 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what mallopt is told is glibc's")
def test_memory_that_is_freed_stays_where_the_process_is_told_so():
    """Each 64 MB are new pages, 16,384 faults, but for what was freed before; in a process of its own, as it lasts."""
    code = (
        "import resource, torch\nfrom studies.motion.network.fast import keep_freed_memory\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def of_ten():\n    first = faults()\n    for _ in range(10): torch.ones(2**24)\n    return faults() - first\n"
        "before = of_ten()\nassert keep_freed_memory()\nof_ten()\nprint(before, of_ten())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = map(int, said.stdout.split())
    assert after < 100 < before


def test_steps_to_full_hd(tmp_path):
    row, scratch = {"name": "kept"}, Scratch(tmp_path)
    found = full_hd.cell(row, "smoke", 0, scratch)
    times = (found[name] for name in ("cpu_s", "wall_s", "fp32_cpu_s", "fp32_wall_s"))
    assert 0 < found["mean"] < 1 and min(times) > 0
    rows = pd.DataFrame([{"row": name, "seed": 0, "seconds": 1.0, **found} for name in full_hd.FORMS])
    rows.attrs["conditions"] = {"preset": "smoke", "data": None, "seeds": 1, "wall_s": 1.0, "device": "CPU",
                                "torch": "2", "commit": "abc"}  # fmt: skip
    full_hd.report(rows, tmp_path)
    assert "within 2 levels" in (tmp_path / "report.md").read_text()
