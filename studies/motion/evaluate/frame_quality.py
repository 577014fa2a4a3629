"""How magnified frames look where no true magnification is known: blur, noise and flicker of the frames themselves.

Measures of the field that need neither a reference nor a trained model. NIQE, BRISQUE and their like need a model of
pristine pictures, which is a download. Clips are uint8 T x H x W x 3; a measure is of their brightness, the mean of the
colours, in levels of 255.
"""

import numpy as np
from skimage.measure import blur_effect


def blur(frames: np.ndarray) -> float:
    """How little a further blur would change the frames: 0 sharp, 1 blurred (Crété-Roffet et al. 2007).

    >>> squares = np.kron(np.eye(8), np.full((4, 4), 200))
    >>> frames = np.stack([squares] * 3, axis=-1)[None]
    >>> blur(frames) < blur((frames[:, 1:] + frames[:, :-1]) / 2)
    True
    """
    return float(np.mean([blur_effect(image) for image in _brightness(frames) / 255]))


def noise(frames: np.ndarray) -> float:
    """The standard deviation of white noise, from second differences along both axes (Immerkær 1996).

    Edges and lines along an axis leave no trace in them; fine texture, and a grid of artefacts, count as noise.
    """
    differences = np.diff(np.diff(_brightness(frames), n=2, axis=1), n=2, axis=2)
    return float(np.sqrt(np.pi / 2) / 6 * np.abs(differences).mean())


def flicker(frames: np.ndarray, clip: np.ndarray) -> float:
    """The mean change from frame to frame where the clip that was magnified is stillest, at half of its pixels."""
    varying = _brightness(clip).std(axis=0)
    still = varying <= np.median(varying)
    return float(np.abs(np.diff(_brightness(frames), axis=0))[:, still].mean())


def _brightness(frames: np.ndarray) -> np.ndarray:
    return frames.astype(np.float32).mean(axis=-1)
