"""Log densities: functions from a batch of points to one number for each.

A log density maps `(*batch, *event)` to `(*batch,)`; larger is more probable; it may be
unnormalised. One value per chain, summed over the event and never averaged over the batch.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = [
    "Evaluates",
    "Evaluation",
    "LogDensity",
    "LogDensityPrior",
    "Sum",
    "check_batch_shape",
    "posterior",
    "tempered",
    "value_and_grad",
]

LogDensity = Callable[[Tensor], Tensor]
"""Maps points `(*batch, *event)` to log densities `(*batch,)`."""


@runtime_checkable
class LogDensityPrior(Protocol):
    """What `posterior` needs of a prior: a density of u, and the way from u to the latent."""

    def log_density(self, u: Tensor, /) -> Tensor:
        """Returns the log density of the sampling variable, shape `(*batch,)`."""
        ...

    def push(self, u: Tensor, /) -> Tensor:
        """Returns the latent z that the decoder sees."""
        ...


class Evaluation(NamedTuple):
    """A log density, its gradient and its named parts at some points; all detached."""

    value: Tensor
    grad: Tensor
    parts: dict[str, Tensor]


class Evaluates(Protocol):
    """A log density that computes its own gradient, in closed form or by another framework."""

    def __call__(self, u: Tensor, /) -> Tensor:
        """Returns the log density, shape `(*batch,)`."""
        ...

    def evaluate(self, u: Tensor, /) -> Evaluation:
        """Returns value, gradient and parts, detached; all may be buffers of the next call."""
        ...


class Sum:
    """A log density that is a weighted sum of named terms.

    All terms share one evaluation and one backward pass, and the value of each goes to the log.

    Arguments:
        terms: Name to term; a term is a log density, or a pair `(log_density, weight)`.

    Raises:
        ValueError: If there is no term.
        TypeError: If a term is not callable.

    Example:
        >>> target = Sum({"prior": prior.log_density, "x": log_likelihood, "y": (fit, 10.0)})
        >>> value, grad, parts = value_and_grad(target, z)
    """

    def __init__(self, terms: Mapping[str, LogDensity | tuple[LogDensity, float]]) -> None:
        if not terms:
            raise ValueError("terms must not be empty: give at least one named log density")
        self._terms: dict[str, tuple[LogDensity, float]] = {}
        for name, term in terms.items():
            function, weight = term if isinstance(term, tuple) else (term, 1.0)
            if not callable(function):
                raise TypeError(f"term {name!r} must be callable, got {type(function).__name__}")
            self._terms[name] = (function, float(weight))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the terms, in order."""
        return tuple(self._terms)

    def terms(self, u: Tensor) -> dict[str, Tensor]:
        """Returns the weighted terms at `u`, each of shape `(*batch,)`."""
        values = {}
        for name, (function, weight) in self._terms.items():
            value = function(u)
            values[name] = value if weight == 1.0 else weight * value
        return values

    def only(self, *names: str) -> "Sum":
        """Returns the sum of the named terms alone.

        Raises:
            KeyError: If a name is unknown; the message lists those that exist.
        """
        missing = [name for name in names if name not in self._terms]
        if missing:
            raise KeyError(f"unknown term {missing[0]!r}; there are: {', '.join(self._terms)}")
        return Sum({name: self._terms[name] for name in names})

    def __call__(self, u: Tensor) -> Tensor:
        """Returns the total at `u`, shape `(*batch,)`."""
        return _total(self.terms(u))

    def __repr__(self) -> str:
        """Shows the terms and the weights that are not one."""
        shown = [n if w == 1.0 else f"{w:g} * {n}" for n, (_, w) in self._terms.items()]
        return f"Sum({' + '.join(shown)})"


def _total(parts: dict[str, Tensor]) -> Tensor:
    total = None
    for name, part in parts.items():
        # A term averaged over the batch would broadcast and pass for one value per chain.
        if total is not None and part.shape != total.shape:
            raise ValueError(
                f"term {name!r} has shape {tuple(part.shape)}, the terms before it "
                f"{tuple(total.shape)}; each must return one value per chain, shape (*batch,)"
            )
        total = part if total is None else total + part
    assert total is not None
    return total


def posterior(prior: LogDensityPrior, log_likelihood: LogDensity) -> Sum:
    """Returns the unnormalised posterior of u, `log p(u) + log p(x | push(u))`.

    Arguments:
        prior: Defines the density of the sampling variable u and the latent `push(u)`.
        log_likelihood: Maps latents to the log-likelihood of the data, one value per chain.
    """
    return Sum({"prior": prior.log_density, "x": lambda u: log_likelihood(prior.push(u))})


def tempered(log_density: LogDensity, inverse_temperature: float) -> LogDensity:
    """Returns `inverse_temperature * log_density`; below one flattens the target."""
    return lambda u: inverse_temperature * log_density(u)


def value_and_grad(log_density: LogDensity, u: Tensor) -> Evaluation:
    """Returns the log density at `u`, its gradient with respect to `u`, and its named parts.

    One forward and one backward pass, whatever the number of terms. Parameter gradients are
    neither computed nor touched, and the call works under `torch.no_grad` as well. A target with
    a method `evaluate` is asked for its own gradient, which may lie in a buffer that the next
    evaluation reuses.

    Arguments:
        log_density: The target; a `Sum` also reports its parts.
        u: Points, shape `(*batch, *event)`.

    Raises:
        ValueError: If the target returns anything but one value per chain, or does not depend
            on `u`.
    """
    own = getattr(log_density, "evaluate", None)
    if own is not None:
        evaluation: Evaluation = own(u)
        # One number a chain is cheaply copied; the gradient may stay in the target's buffer.
        return Evaluation(
            evaluation.value.clone(),
            evaluation.grad,
            {name: part.clone() for name, part in evaluation.parts.items()},
        )
    if torch.compiler.is_compiling():
        return _traceable_value_and_grad(log_density, u)
    with torch.enable_grad():
        point = u.detach().requires_grad_(True)
        parts = log_density.terms(point) if isinstance(log_density, Sum) else {}
        value = _total(parts) if parts else log_density(point)
        check_batch_shape(value, u)
        # Parameters that require gradients give a graph that u may still not be part of.
        grad = None
        if value.requires_grad:
            ones = torch.ones_like(value)  # spares the sum over chains and its derivative
            (grad,) = torch.autograd.grad(value, point, ones, allow_unused=True)
        if grad is None:
            raise ValueError(
                "the log density does not depend on u through differentiable operations: remove "
                ".detach(), .item(), torch.no_grad() and torch.inference_mode() from it"
            )
    return Evaluation(value.detach(), grad, {name: part.detach() for name, part in parts.items()})


def _traceable_value_and_grad(log_density: LogDensity, u: Tensor) -> Evaluation:
    """Does the same by a functional transformation, which compiled graphs take in whole."""

    def split(point: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        parts = log_density.terms(point) if isinstance(log_density, Sum) else {}
        return (_total(parts) if parts else log_density(point)), parts

    # Three values with has_aux, which the annotation of vjp does not say.
    value, pull, parts = torch.func.vjp(split, u.detach(), has_aux=True)  # type: ignore[misc]
    (grad,) = pull(torch.ones_like(value))
    return Evaluation(
        value.detach(), grad.detach(), {name: part.detach() for name, part in parts.items()}
    )


def check_batch_shape(value: Tensor, u: Tensor) -> None:
    """Raises a clear error unless `value` has one entry per chain of `u`.

    Raises:
        ValueError: If `value` is a scalar (the mean over the batch, the usual mistake) or its
            shape is not the leading part of the shape of `u`.
    """
    shape, point = tuple(value.shape), tuple(u.shape)
    if not shape and u.ndim > 0:
        raise ValueError(
            "the log density returned a scalar; return one value per chain, shape (*batch,): sum "
            "over the event axes and do not average over the batch (a mean makes the step size "
            f"depend on the number of chains); u has shape {point}"
        )
    if shape != point[: len(shape)] or len(shape) > len(point):
        raise ValueError(
            f"the log density returned shape {shape} for u of shape {point}; it must be the "
            "leading (batch) part of that shape"
        )
