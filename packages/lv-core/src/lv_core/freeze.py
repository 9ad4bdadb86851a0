"""Switching parameter gradients off while latents are inferred."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["frozen"]


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """Freezes the parameters of `modules` inside the block and restores each flag afterwards.

    Inference needs gradients for the latent alone. Freezing keeps the stored activations small,
    keeps the hooks of distributed wrappers out of the loop and makes it impossible for an
    inference loop to leak into `parameter.grad`.

    Arguments:
        modules: The networks that the log density calls.

    Example:
        >>> with frozen(decoder, prior):
        ...     z = kernel(posterior(prior, log_likelihood), z)
    """
    flags = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
