"""The pieces of the leapfrog integrator, shared by all kernels with momenta.

Momenta have unit mass and the step size may have a value for each component, which is the same as
a diagonal mass matrix: with `u = s x` the components of x all move with step one.
"""

import torch
from torch import Tensor

__all__ = ["dot", "drift", "kick"]


def kick(p: Tensor, grad: Tensor, step_size: float | Tensor, fraction: float = 0.5) -> Tensor:
    """Returns the momenta after the force has acted, `p + fraction s grad`."""
    if isinstance(step_size, Tensor):
        return torch.addcmul(p, step_size, grad, value=fraction)
    return torch.add(p, grad, alpha=fraction * step_size)


def drift(u: Tensor, p: Tensor, step_size: float | Tensor) -> Tensor:
    """Returns the positions after a move at constant momenta, `u + s p`."""
    if isinstance(step_size, Tensor):
        return torch.addcmul(u, step_size, p)
    return torch.add(u, p, alpha=step_size)


def dot(a: Tensor, b: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Returns the inner product over the event axes; without any, the product itself."""
    # Not vecdot, which autocast would run in bfloat16: energies must stay exact.
    product = a * b
    return product.sum(dim=axes) if axes else product
