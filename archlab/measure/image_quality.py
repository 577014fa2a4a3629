"""Image quality of N x 3 x H x W images in [0, 1], one value an image: SSIM and PSNR of torchmetrics, LPIPS."""

import math
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..arguments import choice, number, whole, wrong

Reduction = Literal["mean", "none"]
WIDEST = 1.5  # data ranges that values may spread over: a sharp filter leaves the range a little
_SSIM_SIDE = 11  # of the Gaussian window
_ANSWER_S = 10.0  # how long a download waits for an answer


class BackboneMissing(RuntimeError):
    """LPIPS' backbone is neither in a local file nor to be had from the network; the message says what to do."""


def ssim(
    images: Tensor, targets: Tensor, *, data_range: float = 1.0, crop: int = 0, reduction: Reduction = "mean"
) -> Tensor:
    """Return the structural similarity (Wang et al. 2004): 11 x 11 Gaussian window of sigma 1.5, mean over channels.

    Only windows that lie inside the image count, so no padding enters; scikit-image's ``structural_similarity``
    with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False`` gives the same.

    Args:
        images, targets: N x C x H x W, of one shape.
        data_range: The largest difference of two values.
        crop: Leave out so many outer pixels of the map, where that is more than the 5 which those windows cost.
        reduction: "mean", or "none" for one value an image.

    Returns:
        A scalar, or N values; 1 for equal images.

    Raises:
        ValueError: for images of another shape, or so small that there is no whole window; for targets with NaN, or
            with values that differ by much more than `data_range`.
        TypeError: for images that are no tensors of floating-point numbers.

    >>> ssim(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    tensor(1.)
    """
    _check(images, targets, data_range, reduction)
    whole("crop", crop, least=0)
    edge = max(crop, _SSIM_SIDE // 2)
    if min(images.shape[-2:]) <= 2 * edge:
        raise ValueError(f"ssim with crop={crop} needs more than {2 * edge} pixels a side, got {tuple(images.shape)}")
    from torchmetrics.functional.image import structural_similarity_index_measure

    options = {"sigma": 1.5, "kernel_size": _SSIM_SIDE, "data_range": data_range, "reduction": "none"}
    with torch.autocast(images.device.type, enabled=False):
        *_, full = structural_similarity_index_measure(
            images.float(), targets.float(), return_full_image=True, **options
        )
    values = full[..., edge : full.shape[-2] - edge, edge : full.shape[-1] - edge].mean(dim=(1, 2, 3))
    return _reduced(values, reduction)


def psnr(images: Tensor, targets: Tensor, *, data_range: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    """Return the peak signal-to-noise ratio in dB over all pixels and channels of an image.

    Args:
        images, targets: N x C x H x W, of one shape.
        data_range: The largest difference of two values.
        reduction: "mean", or "none" for one value an image.

    Returns:
        A scalar, or N values; infinite for equal images.

    Raises:
        ValueError: for images of another shape.

    >>> psnr(torch.full((1, 3, 8, 8), 0.1), torch.zeros(1, 3, 8, 8))
    tensor(20.)
    """
    _check(images, targets, data_range, reduction)
    from torchmetrics.functional.image import peak_signal_noise_ratio

    values = peak_signal_noise_ratio(
        images.float(), targets.float(), data_range=data_range, reduction="none", dim=(1, 2, 3)
    )
    return _reduced(values, reduction)


@torch.no_grad()
def lpips(
    images: Tensor,
    targets: Tensor,
    *,
    net: Literal["alex", "vgg"] = "alex",
    backbone: str | Path | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the learned perceptual distance (Zhang et al. 2018), version 0.1; lower is better.

    Args:
        images, targets: N x 3 x H x W in [0, 1], of one shape.
        net: The backbone: "alex", or "vgg".
        backbone: A file with torchvision's ``features.*`` of AlexNet or VGG-16. None takes torchvision's own cached
            copy or downloads it.
        reduction: "mean", or "none" for one value an image.

    Returns:
        A scalar, or N values.

    Raises:
        BackboneMissing: where the backbone is neither at hand nor to be had.
        ValueError: for images of another shape.

    >>> image = torch.zeros(1, 3, 64, 64)
    >>> lpips(image, image, backbone="alexnet.pth")
    Traceback (most recent call last):
    archlab.measure.image_quality.BackboneMissing: backbone alexnet.pth: no such file
    """
    _check(images, targets, 1.0, reduction)
    if images.shape[1] != 3:
        raise ValueError(wrong("images", "N x 3 x H x W for lpips", images, "repeat a grey channel three times"))
    network = lpips_network(net, None if backbone is None else str(backbone)).to(images.device)
    return _reduced(network(images.float(), targets.float(), normalize=True).flatten(), reduction)


@lru_cache(maxsize=4)
def lpips_network(net: Literal["alex", "vgg"], backbone: str | None) -> nn.Module:
    """The LPIPS network with frozen weights, in evaluation mode; made once. Differentiable, so a loss can use it.

    `backbone`: as for `lpips`. Raises BackboneMissing as that does, and ValueError for another `net`.

    >>> lpips_network("vgg", "vgg16.pth")
    Traceback (most recent call last):
    archlab.measure.image_quality.BackboneMissing: backbone vgg16.pth: no such file
    """
    from lpips import LPIPS

    choice("net", net, ("alex", "vgg"))
    if backbone is not None:
        with _old_torchvision_words():
            network = LPIPS(net=net, pnet_rand=True, verbose=False)
        network.net.load_state_dict(_features(network.net, Path(backbone)))
    else:
        try:
            with _old_torchvision_words(), _network_timeout(_ANSWER_S):
                network = LPIPS(net=net, verbose=False)
        except OSError as error:
            raise BackboneMissing(
                f"LPIPS ({net}) needs ImageNet weights, and downloading them failed ({error}); "
                "give a local copy of torchvision's with backbone=FILE"
            ) from error
    return network.eval().requires_grad_(False)


@contextmanager
def _old_torchvision_words() -> Iterator[None]:
    """lpips still says `pretrained=` to torchvision, which warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        yield


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """torch.hub opens its downloads without one, and would wait for a silent network as long as the system does."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _features(net: nn.Module, file: Path) -> dict[str, Tensor]:
    """The weights of LPIPS' slices, taken by layer number from torchvision's ``features``."""
    if not file.is_file():
        raise BackboneMissing(f"backbone {file}: no such file")
    given = torch.load(file, map_location="cpu", weights_only=True)
    wanted = {name: "features." + name.partition(".")[2] for name in net.state_dict()}
    missing = [name for name in wanted.values() if name not in given]
    if missing:
        raise ValueError(f"backbone {file}: has no {missing[0]!r}; expected torchvision's features.* of this network")
    return {name: given[source] for name, source in wanted.items()}


def _check(images: Tensor, targets: Tensor, data_range: float, reduction: str) -> None:
    """Raise for what no quality can be measured of: other kinds, values, shapes, or options."""
    number("data_range", data_range, above=0)
    choice("reduction", reduction, ("mean", "none"))
    for name, given in (("images", images), ("targets", targets)):
        if not isinstance(given, Tensor):
            raise TypeError(wrong(name, "a tensor N x C x H x W", given, "torch.from_numpy makes one of an array"))
        if not given.is_floating_point():
            raise TypeError(wrong(name, "floating-point numbers", given, "of bytes make given.float() / 255"))
        if not given.numel():
            raise ValueError(wrong(name, "a batch of one image or more", given))
    if images.device != targets.device:
        raise ValueError(wrong("targets", f"on the device of images, {images.device}", str(targets.device)))
    # What a network gives may be anything, NaN included, and so is then its quality. What it is compared with may not.
    _check_range("targets", targets, data_range)
    if float(images.detach().amax()) > WIDEST * data_range and bool((images == images.round()).all()):
        _check_range("images", images, data_range)  # whole numbers: bytes, not a network that went astray
    if images.shape != targets.shape or images.ndim != 4:
        shapes = f"{tuple(images.shape)} and {tuple(targets.shape)}"
        raise ValueError(f"expected two batches N x C x H x W of one shape, got {shapes}")


def _check_range(name: str, images: Tensor, data_range: float) -> None:
    low, high = (float(end) for end in images.detach().aminmax())
    if math.isnan(low):
        raise ValueError(f"{name} must be numbers, got NaN among them")
    if not high - low <= WIDEST * data_range:
        raise ValueError(
            f"{name} must have values that differ by data_range={data_range:g} at most, got {low:g} to {high:g}; scale "
            "them to it, or give their data_range"
        )


def _reduced(values: Tensor, reduction: str) -> Tensor:
    return values.mean() if reduction == "mean" else values
