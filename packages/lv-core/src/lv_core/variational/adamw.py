"""One step of AdamW on a tensor, as a function: no optimizer object, no hidden state."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["AdamW", "Moments"]


class Moments(NamedTuple):
    """A tensor under optimisation with the running moments of its gradient."""

    value: Tensor
    first: Tensor
    """exponential average of the gradient"""
    second: Tensor
    """exponential average of its square"""


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """The update rule of `torch.optim.AdamW`, element by element.

    Each element depends on the history of its own gradient alone, hence items of a batch are
    fitted as if each were alone; and the rule does not care for the scale of the objective, apart
    from `eps`.

    Raises:
        ValueError: If a setting is out of range.

    Source:
        Loshchilov and Hutter, "Decoupled weight decay regularization", 2019.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    """decay of the averages of gradient and square, in [0, 1)"""
    eps: float = 1e-8
    """added to the root of the second moment, positive: a gradient of zero divides by it"""
    weight_decay: float = 0.0
    """share of the value taken off per unit of learning rate"""

    def __post_init__(self) -> None:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")
        if not self.eps > 0:
            raise ValueError(
                f"eps must be positive, got {self.eps}: without it a gradient of zero gives NaN"
            )
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")

    def update(self, moments: Moments, grad: Tensor, *, step: int, lr: float) -> Moments:
        """Returns value and moments after one step down `grad`; `step` counts from 0."""
        beta1, beta2 = self.betas
        first = torch.lerp(moments.first, grad, 1 - beta1)
        second = torch.addcmul(beta2 * moments.second, grad, grad, value=1 - beta2)
        root = (second.sqrt() / (1 - beta2 ** (step + 1)) ** 0.5).add_(self.eps)
        value = moments.value * (1 - lr * self.weight_decay)
        value = value.addcdiv_(first, root, value=-lr / (1 - beta1 ** (step + 1)))
        return Moments(value, first, second)
