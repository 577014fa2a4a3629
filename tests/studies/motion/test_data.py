"""The generator against closed-form answers: what moves, by how much, and what noise does."""

import math

import numpy as np
import pytest
import torch

from studies.motion.data.generator import PARTS, Generator, Limits, averaged
from studies.motion.data.layers import Layer, draw_layer, sampling_matrix
from studies.motion.data.noise import normal, photon_noise, quantise, uniform
from studies.motion.data.sources import find_sources

SIZE = 64


@pytest.fixture(scope="module")
def sources():
    return find_sources(None, "train")


def layer(picture: torch.Tensor, *, scale: float, margin: float = 0.0, blur: float = 1.0) -> Layer:
    opaque = torch.cat([picture.expand(3, -1, -1), torch.ones(1, *picture.shape[-2:])])
    return Layer(opaque, scale, np.full(2, -margin), np.zeros(2), blur)


@pytest.mark.parametrize("shift", [0.01, 0.05, 0.3, 1.0, 5.5])
@pytest.mark.parametrize("scale", [1.4, 2.0])
def test_a_shifted_sinusoid_is_the_sinusoid_of_the_shifted_phase(shift, scale):
    margin, period = 20.0, 16.0  # sample pixels
    n = math.ceil((SIZE + 2 * margin) * scale)
    x = (torch.arange(n, dtype=torch.float64) + 0.5) / scale - margin  # where the source pixels lie in the sample
    wave = (0.5 + 0.4 * torch.sin(2 * math.pi * x / period)).float()
    moving = layer(wave.expand(1, n, n), scale=scale, margin=margin)
    drawn = draw_layer(moving, np.array([[0.0, 0.0], [0.0, shift]]), SIZE)
    u = torch.arange(SIZE, dtype=torch.float64) + 0.5
    damping = math.exp(-2 * (math.pi / period) ** 2)  # of a Gaussian of one sample pixel, at this frequency
    for image, moved in zip(drawn, (0.0, shift), strict=True):
        wanted = 0.5 + 0.4 * damping * torch.sin(2 * math.pi * (u - moved) / period)
        assert (image[0].double() - wanted).abs().max() < 1e-3
    phase = [torch.angle((row[0, SIZE // 2].double() * torch.exp(2j * math.pi * u / period)).sum()) for row in drawn]
    measured = (phase[1] - phase[0]).remainder(2 * math.pi) * period / (2 * math.pi)
    assert measured.item() == pytest.approx(shift, rel=0.01, abs=5e-4)


@pytest.mark.parametrize("shift", [(0.01, 0.0), (0.0, 0.25), (3.3, -2.1)])
def test_the_centroid_of_a_gaussian_moves_by_the_shift(shift):
    n = 2 * SIZE
    x = (torch.arange(n) + 0.5) / 2 - SIZE / 2
    spot = torch.exp(-(x[:, None] ** 2 + x[None] ** 2) / (2 * 4.0**2))
    images = draw_layer(layer(spot[None], scale=2.0), np.array([(0.0, 0.0), shift]), SIZE)[:, 0].double()
    u = torch.arange(SIZE, dtype=torch.float64) + 0.5

    def centroid(image):
        return torch.stack([(image.sum(1) * u).sum(), (image.sum(0) * u).sum()]) / image.sum()

    moved = centroid(images[1]) - centroid(images[0])
    assert torch.allclose(moved, torch.tensor(shift, dtype=torch.float64), atol=1e-3)


def test_each_sample_pixel_inside_is_a_weighted_mean():
    weights = sampling_matrix(SIZE, 400, 2.0, np.array([-30.0, -30.25]), 1.0)
    assert weights.shape == (2, SIZE, 400)
    assert torch.allclose(weights.sum(-1), torch.ones(2, SIZE), atol=1e-5)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for rounding: one value in a thousand may be another of two neighbouring levels of 8 bits."""
    off = (one - other).abs()
    return off.max() <= 1.01 / 127.5 and (off > 1e-5).float().mean() < 1e-3


@pytest.mark.parametrize("size", [48, 110])  # of one tile, and of several
def test_a_sample_is_fixed_by_seed_and_index_alone(sources, size):
    generator = Generator(sources, size, seed=3)
    alone = generator.batch([7], noise=True)
    among = generator.batch(range(5, 9), noise=True)
    for a, b in zip(alone[:4], among[:4], strict=True):
        assert same(a[0], b[2])
    assert alone.factor[0] == among.factor[2]
    other = Generator(sources, size, seed=4).batch([7], noise=True)
    assert not same(alone.a, other.a)


def test_a_sample_is_its_scene_rendered_alone(sources):
    generator = Generator(sources, 96, seed=3)
    frames = generator.frames(range(5))
    for index, pixels in enumerate(frames.pixels):
        scene = generator.scene(index)
        alone = generator.render(scene.layers, (0.0, 1.0, scene.factor))
        assert (pixels / 255 - alone).abs().max() <= 1.01 / 255
        assert frames.factor[index].item() == pytest.approx(scene.factor)


def test_tiles_make_no_difference(monkeypatch):
    picture = torch.rand(4, 70, 90)
    drawing = Layer(picture, 1.7, np.array([3.2, -8.6]), np.zeros(2), 1.0)
    shifts = np.array([[0.0, 0.0], [2.3, -4.1]])
    whole = draw_layer(drawing, shifts, SIZE)
    monkeypatch.setattr("studies.motion.data.layers.TILE", 17)
    torch.testing.assert_close(draw_layer(drawing, shifts, SIZE), whole, atol=1e-6, rtol=0)
    rows, columns = (
        sampling_matrix(SIZE, n, 1.7, drawing.origin[axis] + shifts[:, axis], 1.0) for axis, n in ((0, 70), (1, 90))
    )
    torch.testing.assert_close(rows[:, None] @ picture @ columns[:, None].mT, whole, atol=1e-5, rtol=0)


def test_bytes_are_drawn_as_the_numbers_that_they_stand_for():
    picture = torch.randint(0, 256, (4, 60, 60), dtype=torch.uint8)
    drawing = Layer(picture, 2.0, np.array([5.0, 7.0]), np.zeros(2), 1.0)
    drawn = [draw_layer(drawing._replace(picture=p), np.zeros((1, 2)), SIZE) for p in (picture, picture.float() / 255)]
    torch.testing.assert_close(*drawn, atol=1e-6, rtol=0)
    means = torch.nn.functional.avg_pool2d(picture.float() / 255, 7)
    torch.testing.assert_close(averaged(picture, 7), means)


def test_hashed_noise_is_uniform_and_normal():
    drawn = uniform(torch.tensor([1, 2], dtype=torch.int32), 2, 300, 300)
    assert drawn.shape == (2, 2, 300, 300) and 0 < drawn.min() and drawn.max() < 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=2e-3)
    assert drawn.std().item() == pytest.approx(12**-0.5, rel=5e-3)
    assert torch.histc(drawn, 64).div(drawn.numel() / 64).sub(1).abs().max() < 0.05
    flat = drawn.flatten(1)
    for one, other in ((flat[0], flat[1]), (flat[0, 1:], flat[0, :-1]), (flat[0, 300:], flat[0, :-300])):
        assert abs(torch.corrcoef(torch.stack([one, other]))[0, 1].item()) < 0.01
    assert torch.equal(uniform(torch.tensor([2], dtype=torch.int32), 2, 300, 300)[0], drawn[1])
    bell = normal(torch.tensor([5], dtype=torch.int32), 2, 300, 300)
    assert bell.mean().item() == pytest.approx(0, abs=0.01) and bell.std().item() == pytest.approx(1, rel=0.01)
    assert (bell.abs() < 1).float().mean().item() == pytest.approx(0.6827, abs=5e-3)


def test_what_moves_in_each_part(sources):
    batch = Generator(sources, 48, seed=0).batch(range(20), noise=False)
    level = 2.5 / 127.5  # stochastic quantisation moves a still pixel by up to one level each time
    change = (batch.clean_b - batch.a).abs().amax(dim=(1, 2, 3))
    for index in range(20):
        if PARTS[index % 5] == "static":
            assert change[index] <= level
    assert (change > 2 * level).sum() >= 10


def test_the_layers_of_each_part_and_how_far_they_move(sources):
    generator, sizes = Generator(sources, 48, seed=0), set()
    limits, ratio = Limits(), 48 / 384
    for index in range(40):
        part, (layers, factor, *_) = PARTS[index % 5], generator.scene(index)
        background, *objects = layers
        moved = [math.hypot(*layer.motion) for layer in layers]
        assert max(moved) <= limits.motion * ratio + 1e-9
        assert max(moved) * factor <= limits.magnified * ratio + 1e-4
        assert (moved[0] == 0) == (part in ("static", "static background"))
        assert len(objects) == 0 if part == "background only" else len(objects) >= 2
        assert all((length == 0) == (part == "static") for length in moved[1:])
        assert (background.blur > 1) == (part == "blurred background")
        sizes.add(len(layers))
    assert len(sizes) > 3, "the number of objects varies"


def test_ranges_shapes_and_factor(sources):
    batch = Generator(sources, 48, seed=0).batch(range(10), noise=True)
    for frame in batch[:4]:
        assert frame.shape == (10, 3, 48, 48)
    assert batch.target.abs().max() <= 1 and batch.clean_b.abs().max() <= 1
    assert ((batch.factor >= 2) & (batch.factor <= Limits().factor)).all()
    fixed = Generator(sources, 48, seed=0, factor=20.0).batch(range(3), noise=False)
    assert fixed.factor.tolist() == [20.0] * 3


def test_b_and_target_carry_one_colour_perturbation(sources):
    batch = Generator(sources, 48, seed=1).batch(range(3, 20, 5), noise=False)  # static: target and B show one picture
    shift = (batch.b - batch.clean_b).flatten(2).median(dim=2).values
    assert (shift.abs() <= Limits().colour).all() and shift.abs().max() > 0.05
    unclipped = (batch.target.abs() < 0.99) & (batch.clean_b.abs() < 0.7)
    difference = batch.target - batch.clean_b - shift[:, :, None, None]
    assert difference[unclipped].abs().max() < 3 / 127.5


def test_quantisation_keeps_changes_below_one_level():
    maker = torch.Generator().manual_seed(0)
    value = (100 + 0.3) / 255
    made = quantise(torch.full((400, 400), value), maker)
    assert set((made * 255).round().unique().tolist()) == {100.0, 101.0}
    assert made.double().mean().item() == pytest.approx(value, abs=1e-5)


def test_photon_noise_has_the_published_variance():
    maker = torch.Generator().manual_seed(0)
    for level, brightness in ((0.3, 0.0), (0.1, 0.8)):
        noise = photon_noise(torch.full((500, 500), brightness), level, maker) - brightness
        assert noise.std().item() == pytest.approx(level * math.sqrt((brightness + 1) / 127.5), rel=0.01)
        assert abs(noise.mean().item()) < 1e-3
