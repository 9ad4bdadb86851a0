"""Two-sample tests by classifier: can a classifier tell these samples from those?"""

import math
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, silu

from lv_core.random import Source, normal, uniform

__all__ = ["TwoSampleTest", "c2st"]

_WIDTH, _UPDATES, _RATE, _DECAY = 32, 150, 0.02, 1e-2


class TwoSampleTest(NamedTuple):
    """How well a classifier separates two sets of samples it was not fitted to.

    `accuracy` is the mean of the shares of either set that are recognised, 0.5 for sets that the
    classifier cannot tell apart; `error` its standard error; `p_value` the one-sided normal
    probability of such an accuracy if both sets came from one distribution.
    """

    accuracy: float
    error: float
    p_value: float


def c2st(
    x: Float[Tensor, " n *event"],
    y: Float[Tensor, " m *event"],
    *,
    classifier: Literal["quadratic", "mlp"] = "quadratic",
    folds: int = 5,
    generator: Source = None,
) -> TwoSampleTest:
    """Returns the cross-validated accuracy of a classifier between two sets of samples.

    0.5 says that this classifier finds no difference; another one may. Samples must be
    independent within each set: thin chains by their autocorrelation time first, or the standard
    error is too small.

    Arguments:
        x: One set of samples.
        y: The other; the sizes may differ, both sets weigh the same.
        classifier: "quadratic", logistic regression on all products of two coordinates, which is
            optimal between normals and fast up to some fifty coordinates; or "mlp", a network of
            two layers of 32 units, which also sees differences beyond second moments.
        folds: Number of parts; each is judged by a classifier fitted to the others.
        generator: Source of the partition and of the network's start.

    Raises:
        ValueError: If the event shapes differ, a set has fewer samples than folds, a sample is
            not finite, or a setting is out of range.

    Source:
        Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", 2017.
    """
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"x and y must have the same event shape, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if folds < 2 or min(len(x), len(y)) < folds:
        raise ValueError(
            f"folds must be at least 2 and at most the size of either set, got folds {folds} for "
            f"{len(x)} and {len(y)} samples"
        )
    if classifier not in ("quadratic", "mlp"):
        raise ValueError(f"unknown classifier {classifier!r}; there are: quadratic, mlp")
    points = torch.cat((x, y)).detach().double().flatten(1)
    lost = ~points.isfinite().all(1)
    if bool(lost.any()):
        raise ValueError(
            f"samples must be finite, got {int(lost[: len(x)].sum())} of {len(x)} in x and "
            f"{int(lost[len(x) :].sum())} of {len(y)} in y that hold NaN or infinity: find out "
            "why the sampler diverged, or remove them from both sets knowingly"
        )
    label = torch.cat((torch.zeros(len(x)), torch.ones(len(y)))).to(points)
    fold = torch.cat([_parts(len(s), folds, points, generator) for s in (x, y)])
    fitted = fold != torch.arange(folds, device=fold.device)[:, None]
    white = torch.stack([_standardised(points, part) for part in fitted])
    # Either set has the same weight in the fit, as it has in the accuracy.
    share = torch.stack([label[part].mean() for part in fitted])[:, None]
    weight = torch.where(label > 0, 0.5 / share, 0.5 / (1 - share)) * fitted
    if classifier == "quadratic":
        logit = torch.stack([_quadratic(z, label, w) for z, w in zip(white, weight, strict=True)])
    else:
        logit = _network(white, label, weight, generator)
    found = logit.gather(0, fold[None])[0] > 0
    right = (found == (label > 0)).to(points)
    shares = torch.stack((right[: len(x)].mean(), right[len(x) :].mean()))
    sizes = torch.tensor([len(x), len(y)]).to(shares)
    accuracy = shares.mean().item()
    error = 0.5 * (shares * (1 - shares) / sizes).sum().sqrt().item()
    by_chance = 0.25 * (1 / sizes).sum().sqrt().item()
    p_value = 0.5 * math.erfc((accuracy - 0.5) / by_chance / math.sqrt(2))
    return TwoSampleTest(accuracy=accuracy, error=error, p_value=p_value)


def _parts(n: int, folds: int, like: Tensor, generator: Source) -> Tensor:
    order = uniform((n,), like, generator).argsort()
    part = torch.empty_like(order)
    part[order] = torch.arange(n, device=order.device) % folds
    return part


def _standardised(points: Tensor, part: Tensor) -> Tensor:
    center, scale = points[part].mean(0), points[part].std(0)
    return (points - center) / torch.where(scale > 0, scale, 1.0)


def _quadratic(z: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Returns the logit of all points; points of weight zero take no part in the fit."""
    first, second = torch.triu_indices(z.shape[1], z.shape[1], device=z.device)
    design = torch.cat((torch.ones_like(z[:, :1]), z, z[:, first] * z[:, second]), dim=1)
    coefficient = design.new_zeros(design.shape[1])
    # A weak penalty keeps the coefficients finite where the sets are separable.
    penalty = 1e-3 * len(z) * torch.ones_like(coefficient)
    penalty[0] = 1e-9
    for _ in range(30):  # Newton's method; the problem is convex and smooth
        chance = torch.sigmoid(design @ coefficient)
        gradient = design.T @ (weight * (chance - label)) + penalty * coefficient
        curvature = (design.T * (weight * chance * (1 - chance))) @ design
        step = torch.linalg.solve(curvature + torch.diag(penalty), gradient)
        coefficient = coefficient - step
        # One synchronisation per iteration, to spare most of them.
        if step.abs().max().item() < 1e-8:
            break
    return design @ coefficient


def _network(z: Tensor, label: Tensor, weight: Tensor, generator: Source) -> Tensor:
    """Returns the logits of one network per fold, all fitted side by side: `(folds, points)`."""
    # Drawn here and not by torch.nn, whose layers draw from the global generator.
    leaves = []
    for inputs, outputs in pairwise((z.shape[2], _WIDTH, _WIDTH, 1)):
        start = normal(z.new_empty(len(z), inputs, outputs), generator) / inputs**0.5
        leaves.append(start.requires_grad_(True))
        leaves.append(z.new_zeros(len(z), 1, outputs).requires_grad_(True))

    def logit() -> Tensor:
        hidden = silu(z @ leaves[0] + leaves[1])
        hidden = silu(hidden @ leaves[2] + leaves[3])
        out: Tensor = (hidden @ leaves[4] + leaves[5]).squeeze(-1)
        return out

    optimizer = torch.optim.AdamW(leaves, lr=_RATE, weight_decay=_DECAY)
    with torch.enable_grad():
        for _ in range(_UPDATES):
            cross = binary_cross_entropy_with_logits(
                logit(), label.expand(weight.shape), weight=weight, reduction="sum"
            )
            # The sum over folds has separate gradients; the scale is that of a mean.
            loss = cross * len(weight) / weight.sum()
            for leaf, grad in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
                leaf.grad = grad
            optimizer.step()
    return logit().detach()
