"""The magnifier's fast path shows what the plain network shows: each frame encoded once, any size, any mode."""

import doctest
import gc
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import count, islice
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_model
from torch.utils._python_dispatch import TorchDispatchMode

from studies.motion import magnification as all_models
from studies.motion.network.models import EIGHTH, LINEAR, QUARTER, Config, MagnificationNet, baseline
from studies.motion.video import magnifier as magnifying
from studies.motion.video import stream as streaming
from studies.motion.video.magnifier import magnify
from studies.motion.video.stream import coarsest_stride
from studies.motion.video.temporal import DYNAMIC, STATIC, Difference, filtered, fir, iir

from .clips import CPU, assert_within, clip, levels, plain

TINY = Config(width=4, encoder_blocks=(1, 1, 1), decoder_blocks=1)
MODES = [pytest.param(STATIC, id="static"), pytest.param(DYNAMIC, id="dynamic")]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture
def without_inductor(monkeypatch):
    """torch.compile as ever but for the last step: writing C++ and compiling it takes a minute."""
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda step, **options: compile(step, backend="aot_eager", **options))


@pytest.mark.parametrize("filter, execution", [(STATIC, "eager"), (DYNAMIC, "eager"), (DYNAMIC, "compile")])
def test_the_fast_path_equals_the_plain_network(filter, execution, without_inductor):
    net, video = MagnificationNet(TINY), clip()
    fast = list(magnify(net, video, factor=100, filter=filter, execution=execution, **CPU))
    wanted = plain(net, video, 100.0, filter)
    assert len(fast) == len(video)
    for image, shown in zip(fast, wanted, strict=True):
        assert_within(1e-4, image, shown)
    other = plain(net, video, 100.0, DYNAMIC if filter == STATIC else STATIC)
    assert np.abs(wanted[-1] - other[-1]).max() > 2, "the references make no difference: the test would miss a mistake"


@pytest.mark.parametrize("filter, execution", [(iir((0.5, 5), 20), "eager"), (fir((4, 8), 20, taps=5), "compile")])
def test_a_filter_sees_the_shapes_and_each_frame_comes_out_in_step(filter, execution, without_inductor):
    """Streamed, with a filter that waits for two frames as well, what the equation gives for the whole clip."""
    net, video = MagnificationNet(TINY), clip(6)
    images = torch.stack([torch.from_numpy(x).permute(2, 0, 1).float() / 127.5 - 1 for x in video])
    with torch.inference_mode():
        textures, shapes = net.encode(images)
        magnified = net.decoder(textures, net.manipulator(shapes - filtered(filter, shapes), shapes, 100.0))
    wanted = ((magnified.permute(0, 2, 3, 1) + 1) * 127.5).clamp(0, 255).numpy()
    fast = list(magnify(net, video, factor=100, filter=filter, execution=execution, **CPU))
    assert len(fast) == len(video)
    for image, shown in zip(fast, wanted, strict=True):
        assert_within(1e-4, image, shown)
    short = list(magnify(net, video[:2], factor=100, filter=filter, execution=execution, **CPU))
    assert len(short) == 2 and np.array_equal(short[0], fast[0]) == (filter.delay == 0)


def blur_of_a_long_clip(filter, trained):
    """Mean difference, in levels, between a clip that drifts far and settles, and its last frame magnified."""
    *_, last = video = clip(5, 32, 32)
    video += [last] * 3
    return np.abs(list(magnify(trained, video, factor=50, filter=filter, **CPU))[-1].astype(int) - last).mean()


def test_static_mode_with_a_drift_stays_sharp_where_the_camera_has_sunk(trained):
    plain, drifting = (blur_of_a_long_clip(filter, trained) for filter in (STATIC, Difference(drift=0.8)))
    rebuilt = blur_of_a_long_clip(DYNAMIC, trained)  # nothing moves at the end: how the network rebuilds the frame
    assert plain > 2 * rebuilt and drifting < 1.1 * rebuilt


@pytest.fixture(scope="module")
def trained():
    return baseline(pretrained=True).eval()


@pytest.mark.parametrize("factor", [1.0, 50.0])
def test_the_stated_tolerance_of_fp32_holds_for_the_trained_baseline(trained, factor):
    video = clip(2, 64, 64)
    _, fast = magnify(trained, video, factor=factor, **CPU)
    assert_within(1e-4, fast, levels(trained, *video, factor))


@pytest.mark.parametrize("precision, most, mean", [("bf16", 16, 1.0), ("mixed", 8, 0.25), ("fp16", 2, 0.15)])
def test_the_stated_tolerance_of_half_precision_holds(trained, precision, most, mean, monkeypatch):
    """On a CPU, which computes both, though too slowly to be allowed to where it lacks the instructions."""
    monkeypatch.setattr(magnifying, "_check", lambda *args: None)
    video = clip(2, 64, 64)
    _, fast = magnify(trained, video, factor=50, device="cpu", precision=precision)
    difference = np.abs(fast - levels(trained, *video, 50.0).round())
    assert 0 < difference.mean() <= mean and difference.max() <= most


def test_auto_convolves_in_bf16_where_that_is_faster_on_the_cpu(monkeypatch):
    for has, precision, dtype in ((True, "mixed", torch.bfloat16), (False, "fp32", torch.float32)):
        monkeypatch.setattr(streaming, "_cpu_has_amx", lambda has=has: has)
        assert streaming.automatic(torch.device("cpu")) == precision
        seen = {}
        net = MagnificationNet(TINY)
        for name in ("encoder.conv2", "manipulator.conv2", "decoder.blocks", "decoder.conv1"):
            net.get_submodule(name).register_forward_hook(
                lambda module, args, out, name=name, seen=seen: seen.update({name: out.dtype})
            )
        next(magnify(net, clip(1), factor=2, device="cpu"))
        assert seen.pop("decoder.conv1") == dtype
        assert set(seen.values()) == {torch.float32}, "shapes and sums"


def test_mixed_precision_is_compiled_as_it_runs(without_inductor, monkeypatch):
    monkeypatch.setattr(streaming, "_cpu_has_bf16", lambda: True)
    net, video = MagnificationNet(TINY), clip()
    options = {"factor": 20, "device": "cpu", "precision": "mixed"}
    eager, compiled = (np.stack(list(magnify(net, video, execution=way, **options))) for way in ("eager", "compile"))
    assert np.abs(eager.astype(int) - compiled).max() <= 1
    assert not net.decoder.blocks._forward_pre_hooks, "the caller's network"


def test_factor_1_shows_the_frame_whatever_the_reference(trained):
    video = clip(2, 64, 64)
    static, moved = (list(magnify(trained, given, factor=1, **CPU))[1] for given in (video, [video[1], video[1]]))
    assert np.array_equal(static, moved)
    assert np.abs(static.astype(int) - video[1]).mean() < 15


class Elsewhere(torch.Tensor):
    """Pixels that, as those of a GPU, are an array only after they were fetched."""

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


BAND = {"band": (1.0, 3.0), "rate": 10.0}


@pytest.mark.parametrize(
    "options",
    [
        {"model": "net.safetensors", "mode": "fir", **BAND},
        {"model": "net.safetensors", "mode": "dynamic", "mask": (4, 2, 10, 9)},
        {"model": "linear", "drift_s": 2.0, "rate": 10.0},
        {"model": "phase", "axis": 30.0},
        {"model": "riesz", "mode": "fir", "axis": 30.0, **BAND},
        {"model": "acceleration", **BAND},
        {"model": "jerk", **BAND},
    ],
    ids=lambda options: "-".join(str(options[key]) for key in ("model", "mode", "mask", "axis") if key in options),
)
def test_all_is_done_where_the_frames_are_put(options, tmp_path, monkeypatch):
    """Whatever a step makes, it makes on the device that was asked for: not on torch's default one, here one without
    data. Frames may lie on another device before."""
    monkeypatch.chdir(tmp_path)
    save_model(MagnificationNet(Config(width=4)), "net.safetensors")
    video = clip(3, 17, 20)
    wanted = list(all_models.magnification(video, factor=5, device="cpu", **options))
    given = [torch.from_numpy(image).as_subclass(Elsewhere) for image in video]
    shown = all_models.magnification(given, factor=5, device="cpu", **options)
    with torch.device("meta"):
        shown = list(shown)
    assert all(np.array_equal(image, other) for image, other in zip(shown, wanted, strict=True))


def test_frames_of_a_gpu_are_shown_beside_their_magnification():
    video = clip(2, 16, 16)
    given = [torch.from_numpy(image).as_subclass(Elsewhere) for image in video]
    shown = list(all_models.beside(given, lambda frames: (np.zeros((16, 16, 3), np.uint8) for _ in frames)))
    assert np.array_equal(shown[1][:, :16], video[1]) and shown[1].shape == (16, 32, 3)


def bytes_of_tensors():
    """Of those that were made since `gc.freeze`."""
    gc.collect()
    return sum(thing.nbytes for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))


@pytest.mark.parametrize("model", ["net.safetensors", "jerk"])
def test_a_long_clip_takes_no_more_memory_than_a_short_one(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(MagnificationNet(Config(width=4)), "net.safetensors")
    video, options = clip(4, 16, 16), BAND | ({} if model == "jerk" else {"mode": "fir"})
    magnified = partial(all_models.magnification, model=model, factor=5, device="cpu", mask=(2, 2, 9, 9), **options)
    shown, held = all_models.beside((torch.from_numpy(np.array(video[n % 4])) for n in count()), magnified), []
    gc.collect()
    gc.freeze()
    try:
        for number, _ in zip(range(40), shown, strict=False):
            held += [bytes_of_tensors()] if number in (20, 39) else []
    finally:
        gc.unfreeze()
    assert held[0] == held[1] > 16 * 16 * 3, "after 10 frames the filter is full, and what waits for it"


class Counting(MagnificationNet):
    encoded = 0

    def encode(self, frame):
        Counting.encoded += frame.device.type != "meta"
        return super().encode(frame)


@pytest.mark.parametrize("filter", [*MODES, pytest.param(fir((5, 9), 20, taps=5), id="fir")])
def test_each_frame_is_taken_when_it_is_needed_and_encoded_once(filter):
    taken = []

    def endless():
        for number in count():
            taken.append(number)
            yield clip(8)[number % 8]

    Counting.encoded = 0
    magnified = magnify(Counting(TINY), endless(), factor=5, filter=filter, **CPU)
    assert (len(taken), Counting.encoded) == (0, 0)
    for number, _ in enumerate(islice(magnified, 5), start=1 + filter.delay):
        assert (len(taken), Counting.encoded) == (number, number)


def test_the_network_and_the_callers_modes_are_untouched():
    net = MagnificationNet(TINY).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    magnified = magnify(net, clip(), factor=3, **CPU)
    first = next(magnified)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert net.training and all(p.requires_grad for p in net.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    with torch.no_grad():
        net.decoder.conv2.bias.add_(1)  # nor does the magnifier see what happens to it later
    with torch.autocast("cpu", dtype=torch.bfloat16):  # nor the caller's autocast
        rest = list(magnified)
    with torch.no_grad():
        net.decoder.conv2.bias.sub_(1)
    for image, wanted in zip([first, *rest], plain(net, clip(), 3.0), strict=True):
        assert_within(1e-4, image, wanted)


@pytest.mark.parametrize("design, stride", [(TINY, 4), (QUARTER, 4), (EIGHTH, 8), *((c, 4) for c in LINEAR.values())])
def test_any_size_will_do_and_only_the_frames_pixels_come_back(design, stride):
    net = MagnificationNet(replace(design, width=4))
    assert coarsest_stride(net) == stride
    for height, width in ((16, 16), (17, 29), (stride * 5, stride * 4 + 1)):
        video = clip(2, height, width)
        fast = list(magnify(net, video, factor=4, **CPU))
        side = [-x % stride for x in (height, width)]
        mirrored = [np.pad(x, ((0, side[0]), (0, side[1]), (0, 0)), mode="reflect") for x in video]
        for image, wanted in zip(fast, plain(net, mirrored, 4.0), strict=True):
            assert_within(1e-4, image, wanted[:height, :width])


def test_a_network_that_keeps_no_size_is_refused():
    class Halving(torch.nn.Conv2d):
        def forward(self, a, b, factor):
            return F.avg_pool2d(super().forward(a), 2)

    with pytest.raises(ValueError, match="Halving returns no image of its input's size, 17 to 272 pixels"):
        coarsest_stride(Halving(3, 3, 3, padding=1))


def test_arrays_and_tensors_of_any_layout_are_frames():
    net, video = MagnificationNet(TINY), clip(3)
    wanted = list(magnify(net, video, factor=4, **CPU))
    read_only = [np.array(x) for x in video]
    for array in read_only:
        array.flags.writeable = False
    mirrored = [np.array(x[:, ::-1])[:, ::-1] for x in video]
    columns = [np.asfortranarray(x) for x in video]
    tensors = [torch.from_numpy(np.array(x)) for x in video]
    for given in (read_only, mirrored, columns, tensors, np.stack(video), iter(video)):
        assert all(np.array_equal(a, b) for a, b in zip(magnify(net, given, factor=4, **CPU), wanted, strict=True))


@pytest.mark.parametrize(
    "options, words",
    [
        ({"factor": 0}, "factor must be positive and finite, got 0"),
        ({"factor": -2.0}, "factor must be positive and finite, got -2"),
        ({"factor": float("nan")}, "factor must be positive and finite, got nan"),
        ({"factor": float("inf")}, "factor must be positive and finite, got inf"),
        ({"precision": "fp8"}, "precision must be one of auto, fp32, mixed, fp16, bf16, got 'fp8'"),
        ({"execution": "fast"}, "execution must be one of eager, compile, graph, got 'fast'"),
        ({"execution": "graph"}, "execution='graph' is a CUDA graph, and the device is cpu: use 'eager' or 'compile'"),
        ({"precision": "fp16"}, "precision='fp16' is for GPUs, and the device is cpu: use 'fp32' or 'auto'"),
        ({"precision": "bf16"}, "precision='bf16': cpu has no instructions for it and would be slower: use 'auto'"),
        ({"precision": "mixed"}, "precision='mixed': cpu has no instructions for it and would be slower: use 'auto'"),
        ({"device": "meta"}, "device must be a cpu or cuda device, got 'meta'"),
        ({"device": "gpu"}, "device must be a cpu or cuda device, got 'gpu'"),
        ({"device": 0.5}, "device must be a cpu or cuda device, got 0.5"),
        ({"device": "cuda:99"}, r"device='cuda:99': (torch finds no CUDA|there are \d+ CUDA)"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(options, words, monkeypatch):
    monkeypatch.setattr(streaming, "_cpu_has_bf16", lambda: False)
    with pytest.raises(ValueError, match=words):
        magnify(MagnificationNet(TINY), clip(), **({"factor": 2, "device": "cpu"} | options))


def test_wrong_frames_are_named():
    net, video = MagnificationNet(TINY), clip(3)
    for given, words in (
        ([], "there is no frame to magnify: the video is empty"),
        ([*video, video[0][:-1]], "frame 3 is 39 x 56 x 3, those before are 40 x 56 x 3"),
        ([x[..., 0] for x in video], "a frame must be uint8, H x W x 3, got uint8, 40 x 56 as frame 0"),
        ([video[0], video[1] / 255], "a frame must be uint8, H x W x 3, got float64, 40 x 56 x 3 as frame 1"),
        ([x[:15] for x in video], "frames must have at least 16 pixels a side, got 15 x 56"),
    ):
        with pytest.raises(ValueError, match=words):
            list(magnify(net, given, factor=2, **CPU))


def test_an_overflow_is_no_black_frame():
    net = MagnificationNet(TINY)
    with torch.no_grad():
        net.manipulator.conv2.weight.mul_(1e6)
    with pytest.raises(ValueError, match=r"frame 0: the output is not finite in torch\.float32 at factor 1e\+38"):
        next(magnify(net, clip(), factor=1e38, **CPU))


class Same(torch.nn.Conv2d):
    """The least that can be magnified with."""

    def __init__(self):
        super().__init__(3, 3, 1)
        self.manipulator, self.decoder = (lambda a, b, factor: b), (lambda texture, shape: texture)

    def encode(self, frame):
        return frame, super().forward(frame)

    def forward(self, a, b, factor):
        return b


def test_more_videos_are_compiled_than_torch_keeps_versions_of_a_function(without_inductor):
    for width in range(16, 16 + torch._dynamo.config.cache_size_limit + 2):
        video = clip(2, 16, width)
        fast = list(magnify(Same(), video, factor=2, execution="compile", **CPU))
        assert all(np.array_equal(a, b) for a, b in zip(fast, video, strict=True))


class Graph(TorchDispatchMode):
    """What a CUDA graph does, on a CPU: operations are noted, without effect, and repeated on the same memory."""

    def __init__(self):
        super().__init__()
        self.calls, self.before = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.is_mutable:
            self.before.append((args[0], args[0].clone()))
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def __exit__(self, *raised):
        super().__exit__(*raised)
        for tensor, value in self.before:
            tensor.copy_(value)

    def replay(self):
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            if isinstance(result, torch.Tensor):
                result.copy_(again)


@pytest.mark.parametrize("filter", [*MODES, pytest.param(iir((0.5, 5), 20), id="iir")])
def test_a_graph_replays_what_eager_does(filter, monkeypatch):
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, Mock())
    monkeypatch.setattr(torch.cuda, "stream", lambda side: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", lambda graph: graph)
    stream = streaming.Stream(MagnificationNet(TINY), 100.0, 4, filter, torch.device("cpu"), torch.float32)
    pixels = [torch.from_numpy(image) for image in clip(5)]
    shown = []
    with streaming.inference(torch.device("cpu")):
        for execution in (streaming.graphed, streaming.eager):
            first = streaming.encoded(stream, pixels[0])
            memory = streaming.begun(stream, *first)
            streaming.due(stream, memory, *first)
            run = execution(stream, memory, pixels[1])
            shown.append([run(frame)[0].clone() for frame in pixels[1:]])
    assert all(torch.equal(a, b) for a, b in zip(*shown, strict=True))
    assert not torch.equal(shown[0][1], shown[0][2])


@needs_cuda
@pytest.mark.parametrize("filter", MODES)
@pytest.mark.parametrize("precision, most, mean", [("fp32", 2, 0.15), ("fp16", 2, 0.15), ("bf16", 16, 1.0)])
@pytest.mark.parametrize("execution", ["eager", "compile", "graph"])
def test_the_stated_tolerance_holds_on_a_gpu(trained, execution, precision, most, mean, filter):
    video = clip(4, 64, 62)
    mirrored = [np.pad(x, ((0, 0), (0, 2), (0, 0)), mode="reflect") for x in video]
    fast = list(magnify(trained, video, factor=20, filter=filter, precision=precision, execution=execution))
    for image, wanted in zip(fast, plain(trained, mirrored, 20.0, filter), strict=True):
        difference = np.abs(image - wanted[:, :62].round())
        assert difference.mean() <= mean and difference.max() <= most


@needs_cuda
def test_a_graph_takes_frames_that_are_on_the_gpu_already():
    net, video = MagnificationNet(TINY), clip()
    there = [torch.from_numpy(np.array(x)).cuda() for x in video]
    graphed, eager = (list(magnify(net, there, factor=5, execution=execution)) for execution in ("graph", "eager"))
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(graphed, eager, strict=True))


@pytest.mark.parametrize("module", [magnifying, streaming, all_models])
def test_the_examples(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
