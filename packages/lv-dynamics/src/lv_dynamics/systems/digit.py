"""Rotating digits: sequences of pictures whose content is static."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from lv_dynamics.sequences import Sequences

__all__ = ["rotating_digits"]


def rotating_digits(
    images: Shaped[Tensor, "digits height width"],
    labels: Int[Tensor, " digits"],
    n: int = 1000,
    *,
    classes: Sequence[int] | None = None,
    frames: int = 16,
    loops: int = 0,
    step: float = 0.1,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
) -> Sequences:
    """Returns pictures that turn by 360 / (frames - 1) degrees from one frame to the next.

    Digits are drawn with replacement; a random one of the angles comes first. A full turn takes
    frames - 1 steps, so that with 16 frames the last is the first again. Rotation is by cubic
    splines on 8-bit pictures, values are in [0, 1].

    Arguments:
        images: Pictures, uint8 in 0..255 or floating-point in [0, 1], such as those of
            `read_mnist` or `glyph_digits`.
        labels: Class of each picture.
        n: Number of sequences.
        classes: Labels to draw from; None means all.
        frames: Angles in [0, 360] degrees, both ends included.
        loops: How many full turns a sequence makes, of frames - 1 pictures each; 0 means `frames`
            pictures. Test sets of 3 turns have 45.
        step: Time from one frame to the next.
        generator: Source of randomness; None means torch's global one.
        dtype: Type of the result.

    Returns:
        Sequences with values `(n, T, 1, height, width)` and the factors label, index (of the
        picture in `images`), both int64, and start (angle of the first frame in degrees).

    Raises:
        TypeError: If images are neither uint8 nor floating-point.
        ValueError: If no picture has one of the classes, or a number is out of range.

    Source:
        Auzina et al., "Modulated neural ODEs", 2023, code; Casale et al., 2018.
    """
    pictures = _as_bytes(images)
    if n < 1 or frames < 2 or loops < 0 or not step > 0:
        raise ValueError(
            "n and step must be positive, frames at least 2 and loops not negative, got "
            f"{n=}, {step=}, {frames=}, {loops=}"
        )
    if labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels must hold one class per picture, shape ({len(images)},), got "
            f"{tuple(labels.shape)}"
        )
    known = sorted(set(labels.tolist()))
    wanted = known if classes is None else sorted(classes)
    if not wanted or not set(wanted) <= set(known):
        raise ValueError(
            f"classes must be some of {known}, of which there are pictures, got {wanted}"
        )
    pool = torch.isin(labels.cpu(), torch.tensor(wanted)).nonzero()[:, 0]
    device = "cpu" if generator is None else generator.device
    picked = torch.randint(len(pool), (n,), generator=generator, device=device).cpu()
    first = torch.randint(frames, (n,), generator=generator, device=device).cpu()
    index = pool[picked]
    turned = _turned(pictures[index.numpy()], frames - 1)
    rows = loops * (frames - 1) if loops else frames
    # frame `frames` shows angle 360 degrees, which is angle 0: one of the two is left out
    angle = (first[:, None] + torch.arange(rows)) % (frames - 1)
    values = turned[torch.arange(n)[:, None], angle].to(dtype) / 255
    factors = {
        "label": labels.cpu()[index].long(),
        "index": index,
        "start": (angle[:, 0] * (360 / (frames - 1))).to(dtype),
    }
    mask = torch.ones(n, rows, dtype=torch.bool)
    times = torch.arange(rows, dtype=torch.float64) * step
    return Sequences(times, values[:, :, None], mask, factors=factors)


def _as_bytes(images: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    if images.is_floating_point():
        low, high = float(images.min()), float(images.max())
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"images of floating-point numbers must lie in [0, 1], got "
                f"{low:.4g}..{high:.4g}: divide 8-bit pictures by 255"
            )
        images = (images * 255).round().to(torch.uint8)
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8 or floating-point, got {images.dtype}")
    return np.asarray(images.cpu().numpy())


def _turned(
    pictures: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", angles: int
) -> Shaped[Tensor, "digits angles height width"]:
    from scipy.ndimage import rotate

    # On 8-bit pictures scipy clips the overshoot of the splines to 0..255.
    turns = [
        rotate(pictures, 360 * k / angles, axes=(1, 2), order=3, reshape=False) if k else pictures
        for k in range(angles)
    ]
    return torch.from_numpy(np.stack(turns, 1))
