"""How well a score tells two groups apart."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["auroc"]


def auroc(
    inside: Float[Tensor, " inside"], outside: Float[Tensor, " outside"]
) -> Float[Tensor, ""]:
    """Returns the area under the ROC curve, P(outside > inside) + P(equal) / 2.

    0.5 means that the score tells nothing; below 0.5 it points the wrong way.

    Arguments:
        inside: Scores of sequences of the training distribution.
        outside: Scores of sequences that should score higher.

    Returns:
        float64.

    Raises:
        ValueError: If a group is empty or a score is NaN.

    Source:
        Mann and Whitney, 1947; Fawcett, "An introduction to ROC analysis", 2006.
    """
    if not len(inside) or not len(outside):
        raise ValueError(f"both groups need scores, got {len(inside)} and {len(outside)}")
    low, high = inside.double().sort().values, outside.double()
    if bool(low.isnan().any() | high.isnan().any()):
        raise ValueError("inside and outside must not be NaN: leave out sequences without a score")
    below = torch.searchsorted(low, high)
    not_above = torch.searchsorted(low, high, right=True)
    return (below + not_above).double().mean() / (2 * len(low))
