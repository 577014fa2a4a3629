"""How far points of a picture have moved: Kanade, Lucas and Tomasi's tracker (Tomasi & Kanade 1991), coarse to fine."""

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from skimage.feature import corner_peaks, corner_shi_tomasi

RADIUS = 8  # pixels: half of a window
LEVELS = 3  # of the pyramid: so a motion of ten pixels is one of three windows' eighths at the coarsest
TURNS = 12  # at each level
SIGMA = 1.0  # pixels: pictures are blurred so much, for slopes that hold between pixels


def corners(image: np.ndarray, count: int, *, margin: int) -> np.ndarray:
    """The places (y, x) of the best corners of a grey picture, at most `count`, none within `margin` of the border."""
    strength = corner_shi_tomasi(image, sigma=1.5)  # pyright: ignore[reportArgumentType]  # its defaults are whole
    return corner_peaks(
        strength, min_distance=5, threshold_rel=0.02, num_peaks=count,
        exclude_border=margin,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def displacements(first: np.ndarray, other: np.ndarray, points: np.ndarray) -> np.ndarray:
    """By how much each of `points` (P x 2: y, x) of one grey picture has moved in the other: P x 2, pixels.

    Each window is fitted by translation alone, brightness aside, with the slopes of the first picture.

    >>> y, x = np.mgrid[:64, :64]
    >>> one, other = (np.sin(0.4 * (x - d)) * np.cos(0.3 * y) for d in (0, 1.5))
    >>> abs(displacements(one, other, np.array([[30, 30], [24, 40]])) - [0, 1.5]).max() < 0.05
    np.True_
    """
    if len(points) == 0:
        raise ValueError("there is no point to track: the picture has no corners where they were looked for")
    pyramids = [_pyramid(gaussian_filter(image.astype(np.float64), SIGMA)) for image in (first, other)]
    moved = np.zeros((len(points), 2))
    side = np.arange(-RADIUS, RADIUS + 1)
    window = np.stack(np.meshgrid(side, side, indexing="ij"))[None]  # 1 x 2 x w x w
    for level in range(LEVELS - 1, -1, -1):
        one, two = (pyramid[level] for pyramid in pyramids)
        moved *= 2 if level < LEVELS - 1 else 1
        places = points[:, :, None, None] / 2**level + window
        wanted = _centred(_sampled(one, places))
        slopes = np.stack([_sampled(slope, places) for slope in np.gradient(one)], axis=1)
        squares = np.einsum("pihw,pjhw->pij", slopes, slopes)
        squares += 1e-6 * np.trace(squares, axis1=1, axis2=2)[:, None, None] * np.eye(2) + 1e-12 * np.eye(2)
        for _ in range(TURNS):
            found = _centred(_sampled(two, places + moved[:, :, None, None]))
            towards = np.einsum("pihw,phw->pi", slopes, wanted - found)
            moved += np.linalg.solve(squares, towards[:, :, None])[:, :, 0].clip(-2, 2)
    return moved


def _pyramid(image: np.ndarray) -> list[np.ndarray]:
    levels = [image]
    for _ in range(LEVELS - 1):
        levels.append(gaussian_filter(levels[-1], 1.0)[::2, ::2])
    return levels


def _sampled(image: np.ndarray, places: np.ndarray) -> np.ndarray:
    """P x w x w of P x 2 x w x w, between pixels by lines."""
    return map_coordinates(image, places.transpose(1, 0, 2, 3), order=1, mode="nearest")


def _centred(windows: np.ndarray) -> np.ndarray:
    return windows - windows.mean(axis=(1, 2), keepdims=True)
