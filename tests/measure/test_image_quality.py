"""Image quality against scikit-image and against the LPIPS authors' own pair; what it refuses, and how it says so."""

import socket
import time

import numpy as np
import pytest
import skimage.data
import torch
from skimage.io import imread
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from archlab.measure.image_quality import BackboneMissing, lpips, lpips_network, psnr, ssim

PAIRS = ("random", "astronaut", "chelsea", "coffee")


def as_batch(image: np.ndarray) -> Tensor:
    """H x W x 3 bytes -> 1 x 3 x H x W in [0, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


def pair(name: str) -> tuple[Tensor, Tensor]:
    """An image and a distorted copy of it (noise, and a gradient in brightness)."""
    generator = torch.Generator().manual_seed(3)
    if name == "random":
        return torch.rand(1, 3, 64, 48, generator=generator), torch.rand(1, 3, 64, 48, generator=generator)
    image = as_batch(getattr(skimage.data, name)()[40:240, 60:300])
    noise = 0.08 * torch.randn(image.shape, generator=generator)
    return image, (image * torch.linspace(0.8, 1.1, image.shape[-1]) + noise).clamp(0, 1)


def as_array(images: Tensor) -> np.ndarray:
    return images[0].permute(1, 2, 0).double().numpy()


@pytest.mark.parametrize("name", PAIRS)
def test_ssim_equals_scikit_images(name):
    image, other = pair(name)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = structural_similarity(as_array(image), as_array(other), data_range=1.0, channel_axis=2, **options)
    assert ssim(image, other).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", PAIRS)
def test_psnr_equals_scikit_images(name):
    image, other = pair(name)
    expected = peak_signal_noise_ratio(as_array(image), as_array(other), data_range=1.0)
    assert psnr(image, other).item() == pytest.approx(expected, abs=1e-4)


def test_images_in_bytes_with_their_data_range_give_the_same():
    image, other = pair("astronaut")
    assert ssim(255 * image, 255 * other, data_range=255).item() == pytest.approx(ssim(image, other).item(), abs=1e-5)
    assert psnr(255 * image, 255 * other, data_range=255).item() == pytest.approx(psnr(image, other).item(), abs=1e-4)


@pytest.mark.parametrize("measure", [ssim, psnr])
def test_one_value_an_image_and_their_mean(measure):
    pairs = [pair("astronaut"), pair("chelsea")]
    images, targets = (torch.cat(side) for side in zip(*pairs, strict=True))
    values = measure(images, targets, reduction="none")
    assert values.shape == (2,)
    alone = torch.stack([measure(*p) for p in pairs])
    assert torch.allclose(values, alone, atol=1e-5)
    assert torch.allclose(measure(images, targets), alone.mean(), atol=1e-5)


def test_equal_images():
    image, _ = pair("coffee")
    assert ssim(image, image).item() == pytest.approx(1.0, abs=1e-6)
    assert psnr(image, image).item() == float("inf")


def test_ssim_leaves_out_what_is_cropped():
    image, other = pair("astronaut")
    spoilt = other.clone()
    spoilt[..., :8, :] = 0  # windows reach 5 pixels further, to row 12
    assert ssim(image, spoilt, crop=13).item() == pytest.approx(ssim(image, other, crop=13).item(), abs=1e-6)
    assert ssim(image, spoilt).item() < ssim(image, other).item() - 0.01


def test_ssim_keeps_full_precision_under_autocast():
    image, other = pair("chelsea")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ssim(image, other), ssim(image.float(), other.float()))


@pytest.fixture
def alexnet(shared_data):
    return shared_data / "weights" / "alexnet_features_torchvision.pth"


@pytest.mark.parametrize("distorted, expected", [("ex_p0.png", 0.722), ("ex_p1.png", 0.138)])
def test_lpips_of_the_authors_own_pair(shared_data, alexnet, distorted, expected):
    folder = shared_data / "weights" / "lpips_reference_pair"
    reference, image = (as_batch(imread(folder / name)) for name in ("ex_ref.png", distorted))
    assert lpips(image, reference, backbone=alexnet).item() == pytest.approx(expected, abs=5e-4)
    both = lpips(torch.cat([image, reference]), torch.cat([reference] * 2), backbone=alexnet, reduction="none")
    assert both.tolist() == pytest.approx([expected, 0.0], abs=5e-4)


def test_the_lpips_network_is_frozen_made_once_and_differentiable_in_its_images(alexnet):
    network = lpips_network("alex", str(alexnet))
    assert network is lpips_network("alex", str(alexnet))
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    network(image, torch.rand(1, 3, 64, 64), normalize=True).sum().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0


@pytest.mark.parametrize("measure", [ssim, psnr, lpips])
@pytest.mark.parametrize("shapes", [((1, 3, 32, 32), (1, 3, 32, 31)), ((3, 32, 32), (3, 32, 32))])
def test_shapes_that_do_not_fit_are_named(measure, shapes):
    with pytest.raises(ValueError, match="two batches N x C x H x W") as error:
        measure(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
    assert str(shapes[0]) in str(error.value) and str(shapes[1]) in str(error.value)


@pytest.mark.parametrize("measure", [ssim, psnr])
def test_an_unknown_reduction_is_named(measure):
    image = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match="one of 'mean', 'none', got 'sum'"):
        measure(image, image, reduction="sum")


@pytest.mark.parametrize("side, crop, least", [(10, 0, 10), (16, 8, 16)])
def test_images_too_small_for_a_window_are_refused(side, crop, least):
    image = torch.zeros(1, 3, side, 40)
    with pytest.raises(ValueError, match=f"crop={crop} needs more than {least} pixels a side"):
        ssim(image, image, crop=crop)


def test_a_missing_backbone_is_named(tmp_path):
    image = torch.zeros(1, 3, 64, 64)
    with pytest.raises(BackboneMissing, match=r"nowhere\.pth: no such file"):
        lpips(image, image, backbone=tmp_path / "nowhere.pth")


def test_a_backbone_of_another_network_is_named(tmp_path):
    file, image = tmp_path / "other.pth", torch.zeros(1, 3, 64, 64)
    torch.save({"features.0.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"other\.pth: has no 'features\.0\.bias'; expected torchvision's features"):
        lpips(image, image, backbone=file)


def test_an_unknown_network_is_named():
    image = torch.zeros(1, 3, 64, 64)
    with pytest.raises(ValueError, match="net must be one of 'alex', 'vgg', got 'squeeze'"):
        lpips(image, image, net="squeeze")  # type: ignore[arg-type]


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """As on a fresh machine: torch has downloaded nothing yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def _nobody_known(*given):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def test_without_a_network_lpips_says_what_to_do(empty_cache, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", _nobody_known)
    image = torch.zeros(1, 3, 64, 64)
    with pytest.raises(BackboneMissing, match=r"downloading them failed .*backbone=FILE"):
        lpips(image, image)


def test_a_network_that_never_answers_is_given_up_soon(empty_cache, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        here = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", silent.getsockname())]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **options: here)
        monkeypatch.setattr("archlab.measure.image_quality._ANSWER_S", 0.2)
        begun, image = time.monotonic(), torch.zeros(1, 3, 64, 64)
        with pytest.raises(BackboneMissing, match="timed out"):
            lpips(image, image)
    assert time.monotonic() - begun < 60  # a few seconds, most of them torchvision's making the network
    assert socket.getdefaulttimeout() is None
