"""Figures of image data: strips of frames, exchanged static variables, samples, a film."""

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from apps.ode_lebm.figures_style import Study, figure, plain
from apps.ode_lebm.results import TITLES
from lv_dynamics import EnergyOde, swap_static

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["film", "generated_frames", "mosaic", "strips", "swapped"]

FRAMES = 15  # of a strip
FEW = 3  # sequences
RIM = 1  # pixels between frames
SEEN = (0.84, 0.37, 0.0)  # color of the frames that inference was given
LARGEST = 220_000  # bytes of a film, under 300 kB as text in the report
ZOOM = 3  # pixels of the page for one of a film
HOLD = 120  # milliseconds a frame


def mosaic(rows: Sequence[np.ndarray], marked: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Returns rows of frames as one picture with colors, `(height, width, 3)` in [0, 1].

    Arguments:
        rows: Each `(frames, height, width)`, clipped to [0, 1].
        marked: For each row, whether a frame gets a colored rim; None = none does.
    """
    count, height, width = rows[0].shape
    step = height + 2 * RIM, width + 2 * RIM
    canvas = np.ones((len(rows) * step[0], count * step[1], 3))
    for r, row in enumerate(rows):
        for c, frame in enumerate(row):
            y, x = r * step[0], c * step[1]
            if marked is not None and marked[r][c]:
                canvas[y : y + step[0], x : x + step[1]] = SEEN
            inner = frame.clip(0, 1)[..., None]
            canvas[y + RIM : y + RIM + height, x + RIM : x + RIM + width] = inner
    return canvas


def _pictures(values: np.ndarray) -> np.ndarray:
    """Returns frames `(..., height, width)` of images with one channel."""
    return values[..., 0, :, :]


def _images(study: Study, key: str) -> bool:
    return any(study.arrays(r)[key].ndim > 3 for r in study.main(key).values())


def _show(ax: "Axes", picture: np.ndarray, labels: Sequence[str], title: str = "") -> None:
    ax.imshow(picture, interpolation="nearest")
    plain(ax, title)
    ax.spines[:].set_visible(False)
    height = picture.shape[0] / len(labels)
    ax.set_yticks([(k + 0.5) * height for k in range(len(labels))], labels=list(labels))
    ax.set_xticks([])
    ax.tick_params(length=0, labelsize=7.5)


def strips(study: Study) -> tuple["Figure", str] | None:
    """Draws test sequences and their forecasts frame by frame; None for other data."""
    shown = study.main("task0/mean", most=3)
    if not shown or not _images(study, "task0/mean"):
        return None
    first = study.arrays(next(iter(shown.values())))
    rows = first["task0/truth"].shape[1]
    places = np.linspace(0, rows - 1, min(FRAMES, rows)).round().astype(int)
    count = min(FEW, len(first["task0/truth"]))
    high = 9.0 / len(places) * (len(shown) + 1)
    fig = figure((high + 0.15) * count + 0.35)
    axes = fig.subplots(count, 1, squeeze=False)[:, 0]
    for k, ax in enumerate(axes):
        pictures = [_pictures(first["task0/truth"])[k, places]]
        pictures += [_pictures(study.arrays(r)["task0/mean"])[k, places] for r in shown.values()]
        seen = first["task0/seen"][k, places]
        marked = [seen] + [np.zeros_like(seen)] * len(shown)
        _show(ax, mosaic(pictures, marked), ["truth", *(_broken(v) for v in shown)])
        if k == count - 1:
            width = 28 + 2 * RIM
            ax.set_xticks(
                [(c + 0.5) * width for c in range(len(places))], labels=[str(p) for p in places]
            )
            ax.set_xlabel("frame", fontsize=8)
    return fig, (
        f"{study.title}: {count} test sequences, every few frames; below the truth the mean of "
        "the forecast of each model's first seed. Frames with a red rim were given to "
        "inference: below them are reconstructions, after them forecasts. Forecasts that are "
        "unsure of a position or a shape blur it."
    )


def _broken(variant: str) -> str:
    """Returns the name of a variant in short lines."""
    return TITLES[variant].replace(" (", ",\n").replace(", ", ",\n").replace(")", "")


@torch.no_grad()
def swapped(study: Study) -> tuple["Figure", str] | None:
    """Draws sequences with the static variables of another; None without any."""
    if not study.groups or not _images(study, "task0/mean"):
        return None
    models = {n: g for n, g in study.main("best", most=99).items() if "-static-" in n}
    if not models:
        return None
    variant, record = next(iter(models.items()))
    arrays, model = study.arrays(record), study.model(record)
    truth = _pictures(arrays["task0/truth"])
    pairs = len(truth) // 2
    if pairs == 0 or not model.config.static:
        return None
    count = min(FRAMES, truth.shape[1])
    times = torch.as_tensor(arrays["task0/times"][0, :count]) * study.clock
    z = torch.as_tensor(arrays["best"][: 2 * pairs])
    one, other = z[0::2], z[1::2]
    made = _decoded(model, swap_static(model, one, other).first, times)
    own = _decoded(model, one, times)
    pairs = min(pairs, FEW)
    fig = figure((9.0 / count * 4 + 0.15) * pairs + 0.2)
    for k, ax in enumerate(fig.subplots(pairs, 1, squeeze=False)[:, 0]):
        rows = [truth[2 * k, :count], own[k], made[k], truth[2 * k + 1, :count]]
        labels = ["A, truth", "A, as inferred", "z0 of A, z_s of B", "B, truth"]
        _show(ax, mosaic(rows), labels)
    return fig, (
        f"{study.title}, {TITLES[variant]}, first seed: test sequences A and B, in pairs, and in "
        "the third row what the model makes of the initial state of A with the static variables "
        "of B. Where static variables hold what does not change along a sequence, this moves "
        "like A and looks like B; where they hold nothing, it is the second row again."
    )


def _decoded(model: EnergyOde, z: Tensor, times: Tensor) -> np.ndarray:
    """Returns frames `(B, T, height, width)`; black where the solver diverges."""
    made = model.decode(model.trajectory(z, times, check=False), model.split(z)[1])
    return _pictures(np.nan_to_num(made.numpy()))


def generated_frames(study: Study) -> tuple["Figure", str] | None:
    """Draws samples of the prior frame by frame; None for other data."""
    shown = study.main("prior/values")
    if not shown or not _images(study, "prior/values"):
        return None
    kept = [_pictures(study.arrays(r)["prior/values"])[:5] for r in shown.values()]
    places = np.linspace(0, kept[0].shape[1] - 1, min(FRAMES, kept[0].shape[1]))
    frames = places.round().astype(int)
    fig = figure(sum(9.0 / len(frames) * len(v) + 0.4 for v in kept))
    axes = fig.subplots(len(kept), 1, squeeze=False)[:, 0]
    for ax, variant, values in zip(axes, shown, kept, strict=True):
        labels = [f"sample {k + 1}" for k in range(len(values))]
        _show(ax, mosaic(list(values[:, frames])), labels, TITLES[variant])
    return fig, (
        f"{study.title}: sequences drawn from the prior of each model's first seed, one a row, "
        f"{len(frames)} of the {kept[0].shape[1]} frames of a training sequence, without noise. "
        "They should look and move like data."
    )


def film(study: Study) -> tuple[str, str] | None:
    """Returns a film of truth and forecasts as HTML; None for other data."""
    shown = study.main("task0/mean", most=3)
    if not shown or not _images(study, "task0/mean"):
        return None
    first = study.arrays(next(iter(shown.values())))
    rows = [_pictures(first["task0/truth"])]
    rows += [_pictures(study.arrays(record)["task0/mean"]) for record in shown.values()]
    for count in range(len(rows[0]), 0, -1):
        content = _gif([row[:count] for row in rows], first["task0/seen"][:count])
        if len(content) < LARGEST:
            break
    width = ZOOM * count * (rows[0].shape[-1] + 2 * RIM)
    look = f"width:{width}px;max-width:100%;image-rendering:pixelated"
    names = ["truth", *(TITLES[variant] for variant in shown)]
    data = base64.b64encode(content).decode()
    listed = "; ".join(names)
    alt = f"film, from top: {escape(listed)}"
    html = f'<img alt="{alt}" style="{look}" src="data:image/gif;base64,{data}">'
    return html, (
        f"{study.title}, a film of {count} test sequences side by side. From "
        f"top: {listed} (means of forecasts, first seeds). The truth has a red rim as long as "
        "inference is given its frames; all that follows is forecast."
    )


def _gif(rows: list[np.ndarray], seen: np.ndarray) -> bytes:
    """Returns an animated GIF; rows are `(sequences, frames, height, width)`, truth first."""
    from PIL import Image

    grays = 16
    palette = [round(255 * k / (grays - 1)) for k in range(grays) for _ in range(3)]
    palette += [round(255 * c) for c in SEEN]
    pages = []
    for t in range(rows[0].shape[1]):
        marked = [seen[:, t]] + [np.zeros_like(seen[:, t])] * (len(rows) - 1)
        picture = mosaic([row[:, t] for row in rows], marked)
        index = (picture[..., 0] * (grays - 1)).round().astype(np.uint8)
        index[(picture == np.array(SEEN)).all(-1)] = grays
        page = Image.fromarray(index, mode="P")
        page.putpalette(palette)
        pages.append(page)
    out = io.BytesIO()
    how = {"save_all": True, "append_images": pages[1:], "duration": HOLD, "loop": 0}
    pages[0].save(out, format="GIF", optimize=False, **how)
    return out.getvalue()
