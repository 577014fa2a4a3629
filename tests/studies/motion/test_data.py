"""The generator against closed-form answers: what moves, by how much, and what noise does."""

import math

import numpy as np
import pytest
import torch

from studies.motion.data.generator import (
    PARTS,
    Generator,
    Layer,
    Limits,
    draw_layer,
    photon_noise,
    quantise,
    sampling_matrix,
)
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


def test_a_sample_is_fixed_by_seed_and_index_alone(sources):
    generator = Generator(sources, 48, seed=3)
    alone = generator.batch([7], noise=True)
    among = generator.batch(range(5, 9), noise=True)
    for a, b in zip(alone, among, strict=True):
        assert torch.equal(a[0], b[2])
    other = Generator(sources, 48, seed=4).batch([7], noise=True)
    assert not torch.equal(alone.a, other.a)


def test_what_moves_in_each_part(sources):
    batch = Generator(sources, 48, seed=0).batch(range(20), noise=False)
    level = 2.5 / 127.5  # stochastic quantisation moves a still pixel by up to one level each time
    change = (batch.clean_b - batch.a).abs().amax(dim=(1, 2, 3))
    for index in range(20):
        if PARTS[index % 5] == "static":
            assert change[index] <= level
    assert (change > 2 * level).sum() >= 10


def test_the_layers_of_each_part_and_how_far_they_move(sources, monkeypatch):
    drawn, render = [], Generator.render

    def spy(self, layers, gains):
        drawn.append((layers, gains))
        return render(self, layers, gains)

    monkeypatch.setattr(Generator, "render", spy)
    batch = Generator(sources, 48, seed=0).batch(range(40), noise=False)
    limits, ratio = Limits(), 48 / 384
    for index, (layers, gains) in enumerate(drawn):
        part, factor = PARTS[index % 5], batch.factor[index].item()
        assert gains == pytest.approx((0.0, 1.0, factor))
        background, *objects = layers
        moved = [math.hypot(*layer.motion) for layer in layers]
        assert max(moved) <= limits.motion * ratio + 1e-9
        assert max(moved) * factor <= limits.magnified * ratio + 1e-4
        assert (moved[0] == 0) == (part in ("static", "static background"))
        assert len(objects) == 0 if part == "background only" else len(objects) >= 2
        assert all((length == 0) == (part == "static") for length in moved[1:])
        assert (background.blur > 1) == (part == "blurred background")
    sizes = {len(layers) for layers, _ in drawn}
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
