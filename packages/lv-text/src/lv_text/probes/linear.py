"""A linear classifier in closed form with cross-validation: what features say about labels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["LinearProbe", "linear_probe"]

# Shapes: n documents, d features, c classes.

PENALTIES = tuple(10.0**k for k in range(-5, 4))


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearProbe:
    """Accuracy of a ridge classifier on documents that it was not fitted on."""

    accuracy: float
    """Share of documents whose label is predicted by the fit on the other folds."""
    standard_error: float
    """Binomial standard error of `accuracy`; of groups, that of the mean over groups."""
    majority: float
    """Share of the most frequent label of the OTHER folds: what knowing nothing gives."""
    predictions: Tensor
    """Predicted label of each document, `(n,)`."""
    folds: Tensor
    """Fold in which each document was held out, `(n,)`."""
    fold_accuracy: Tensor
    """Accuracy in each fold."""
    penalties: tuple[float, ...]
    """Penalty chosen in each fold."""


def linear_probe(
    features: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
    *,
    folds: int = 5,
    groups: Int[Tensor, " n"] | None = None,
    penalties: Sequence[float] = PENALTIES,
    standardize: bool = True,
    generator: torch.Generator | None = None,
) -> LinearProbe:
    """Predicts labels from features by ridge regression on indicators, cross-validated.

    W = argmin |Y - 1 b - X W|^2 + penalty (|X|^2 / n) |W|^2,    label = argmax_c (b + x W)_c

    Solved through the n x n matrix of inner products, so the number of features hardly matters.
    The penalty of each fold is the one with the least leave-one-out error on the other folds,
    which has a closed form; nothing of the held-out fold is seen by any choice.

    Arguments:
        features: Such as posterior means; the event is flattened. Computed in float64.
        labels: Class of each document, any integers.
        folds: Number of folds, 2 or more; each class is spread evenly over them.
        groups: Documents with equal numbers stay in one fold; give the book of each passage, or
            the probe may recognize books instead of authors. None = each document by itself.
        penalties: Candidates, relative to the mean squared length of centered features.
        standardize: Whether features are scaled to variance one by the other folds; without, they
            are only centered.
        generator: Source of the folds.

    Raises:
        ValueError: If shapes do not fit, features are not finite, there is one class only, there
            are less documents or groups than folds, a class lacks documents outside of its fold,
            or a penalty is not positive.

    Source:
        Hoerl and Kennard, "Ridge regression", 1970; Allen, "The relationship between variable
        selection and data augmentation and a method for prediction", 1974, for leave-one-out.

    Example:
        >>> linear_probe(found.q.mean, authors, groups=books).accuracy
    """
    classes, codes = torch.unique(labels, return_inverse=True)
    _check(features, labels, len(classes), folds, groups, penalties)
    x = features.detach().flatten(1).double()
    y = torch.nn.functional.one_hot(codes, len(classes)).double()
    fold = assign_folds(codes, folds=folds, groups=groups, generator=generator)
    guess, common = torch.empty_like(codes), torch.empty_like(codes)
    chosen = []
    for number in range(folds):
        out = fold == number
        lost = classes[y[~out].sum(0) == 0]
        if len(lost):
            raise ValueError(
                f"labels must occur in two folds, label {int(lost[0])} is only in fold {number}: "
                "drop it, or give it more documents or groups"
            )
        inner, held = x[~out], x[out]
        center = inner.mean(0)
        inner, held = inner - center, held - center
        if standardize:
            spread = inner.square().mean(0).sqrt()
            scale = torch.where(spread > 1e-12, spread, torch.inf)  # constant features drop out
            inner, held = inner / scale, held / scale
        scores, penalty = _ridge(inner, y[~out], held, penalties)
        guess[out] = scores.argmax(1)
        common[out] = y[~out].sum(0).argmax()
        chosen.append(penalty)
    right = (guess == codes).double()
    return LinearProbe(
        accuracy=float(right.mean()),
        standard_error=grouped_error(right, groups),
        majority=float((common == codes).double().mean()),
        predictions=classes[guess],
        folds=fold,
        fold_accuracy=torch.stack([right[fold == number].mean() for number in range(folds)]),
        penalties=tuple(chosen),
    )


def assign_folds(
    codes: Int[Tensor, " n"],
    *,
    folds: int,
    groups: Int[Tensor, " n"] | None,
    generator: torch.Generator | None,
) -> Int[Tensor, " n"]:
    """Returns a fold for each document: classes spread evenly, groups kept whole.

    Groups (documents where there are none) come in random order, those of one class after the
    other; the next goes to the fold with the fewest documents of its class, then of all.

    Arguments:
        codes: Classes as 0..c-1; a group counts for the class of its first document.
        folds: Number of folds.
        groups: Group of each document.
        generator: Source of the order.
    """
    own = torch.arange(len(codes), device=codes.device) if groups is None else groups
    _, index = torch.unique(own, return_inverse=True)
    members: list[list[int]] = [[] for _ in range(int(index.max()) + 1)]
    for document, group in enumerate(index.tolist()):
        members[group].append(document)
    order = torch.randperm(len(members), generator=generator).tolist()
    kinds = codes.tolist()
    order.sort(key=lambda group: kinds[members[group][0]])  # stable: random within a class
    totals, fold = [0] * folds, [0] * len(kinds)
    counts: dict[int, list[int]] = {}
    for group in order:
        held = counts.setdefault(kinds[members[group][0]], [0] * folds)
        best = min(range(folds), key=lambda number: (held[number], totals[number], number))
        held[best] += len(members[group])
        totals[best] += len(members[group])
        for document in members[group]:
            fold[document] = best
    return torch.tensor(fold, device=codes.device)


def grouped_error(values: Float[Tensor, " n"], groups: Int[Tensor, " n"] | None) -> float:
    """Returns the standard error of the mean of documents that depend on each other in groups."""
    if groups is None:
        return float(values.std(correction=1) / math.sqrt(len(values)))
    _, index = torch.unique(groups, return_inverse=True)
    count = int(index.max()) + 1
    # A sum over groups of deviations, as for a ratio estimator: groups differ in size.
    sums = torch.zeros(count, dtype=values.dtype, device=values.device)
    sums.index_add_(0, index, values - values.mean())
    return float((sums.square().sum() * count / max(count - 1, 1)).sqrt() / len(values))


def _ridge(x: Tensor, y: Tensor, held: Tensor, penalties: Sequence[float]) -> tuple[Tensor, float]:
    """Returns scores of held-out documents and the penalty that leave-one-out prefers."""
    center = y.mean(0)
    gram = x @ x.T
    power = gram.diagonal().mean().clamp(min=torch.finfo(x.dtype).tiny)
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0)
    turned = vectors.T @ (y - center)
    best = (math.inf, 0.0)
    for penalty in penalties:
        shrink = values / (values + penalty * power)
        left = y - center - vectors @ (shrink[:, None] * turned)
        # Leverage: that of the features and that of the intercept.
        leverage = vectors.square() @ shrink + 1 / len(x)
        error = float((left / (1 - leverage).clamp(min=1e-12)[:, None]).square().mean())
        best = min(best, (error, penalty))
    weights = vectors @ (turned / (values + best[1] * power)[:, None])
    return center + held @ x.T @ weights, best[1]


def _check(
    features: Tensor,
    labels: Tensor,
    classes: int,
    folds: int,
    groups: Tensor | None,
    penalties: Sequence[float],
) -> None:
    n = len(labels)
    if features.ndim < 2 or len(features) != n or (groups is not None and len(groups) != n):
        raise ValueError(
            f"features, labels and groups must speak of as many documents, got shapes "
            f"{tuple(features.shape)}, {tuple(labels.shape)} and "
            f"{None if groups is None else tuple(groups.shape)}"
        )
    if not bool(features.isfinite().all()):
        raise ValueError("features must be finite, got others: inference of a document diverged")
    if classes < 2:
        raise ValueError(f"labels must be of two classes or more, got {classes}")
    units = n if groups is None else len(torch.unique(groups))
    if not 2 <= folds <= units:
        raise ValueError(
            f"folds must be in 2..{units}, the number of documents or groups, got {folds}"
        )
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties must be one or more positive numbers, got {[*penalties]}")
