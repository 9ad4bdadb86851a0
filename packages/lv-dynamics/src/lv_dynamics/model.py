"""The latent energy-based neural ODE.

B sequences, T times, D = d + q latent numbers: d of the dynamic state at t = 0, q static ones.
"""

import os
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lv_core import Source, Sum
from lv_dynamics.checkpoint import load_weights, read_model
from lv_dynamics.closing import checked_grid
from lv_dynamics.config import OdeConfig
from lv_dynamics.likelihood import SequenceLikelihood
from lv_dynamics.parts import make_emission, make_field, make_noise, make_prior
from lv_dynamics.records import GeneratedSequences, OdeLosses
from lv_dynamics.sequences import Sequences
from lv_dynamics.solve import TimeGrid, solve
from lv_priors import EnergyPrior, GaussianPrior

__all__ = ["EnergyOde"]


class EnergyOde(nn.Module):
    """One latent for each sequence, carried through time by an ODE and decoded at any time.

        z = [z0, z_s] ~ exp(tilt(z)) N(z; 0, I) / Z
        dz_d/dt = f(z_d, z_s),  z_d(0) = z0
        x(t) ~ p(x | g(z_d(t), z_s))

    No encoder: the posterior of z is sampled (`lv_dynamics.infer`), and what was not observed
    drops out of the likelihood.

    Arguments:
        config: Settings.
        field: Vector field `field(y, static) -> dy/dt` in place of the perceptron of the
            settings; `field(y)` where no static variable enters the dynamics.
        emission: Network from `(..., width)` to `(..., *observed)` in place of that of the
            settings.
        noise: Observation model in place of that of the settings, see `Observation`.
        prior: Prior of one vector of D numbers in place of that of the settings.

    Raises:
        ValueError: If the prior has another event shape.

    Source:
        Cheng, Kong et al., "Latent Space Energy-based Neural ODEs", 2025.

    Example:
        >>> model = EnergyOde(OdeConfig(observed=(1,)))
        >>> forecast(model, infer(model, sequences), torch.linspace(0, 10, 101)).mean
    """

    sharded_methods: ClassVar[tuple[str, ...]] = (
        "trajectory",
        "emit",
        "log_prior",
        "mean",
        "sample",
    )

    anchor: Tensor

    def __init__(
        self,
        config: OdeConfig,
        *,
        field: nn.Module | None = None,
        emission: nn.Module | None = None,
        noise: nn.Module | None = None,
        prior: EnergyPrior | GaussianPrior | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.field = make_field(config) if field is None else field
        self.emission = make_emission(config) if emission is None else emission
        self.noise: Any = make_noise(config) if noise is None else noise
        self.prior = make_prior(config) if prior is None else prior
        if self.prior.event_shape != (config.dim,):
            raise ValueError(
                f"the prior must have the event shape {(config.dim,)} of [z0, z_s], got "
                f"{self.prior.event_shape}"
            )
        # Says dtype and device; moves with .to() and stays out of checkpoints.
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    @property
    def dim(self) -> int:
        """Numbers D of one latent."""
        return self.config.dim

    def split(
        self, z: Float[Tensor, "*batch dim"]
    ) -> tuple[Float[Tensor, "*batch state"], Float[Tensor, "*batch static"] | None]:
        """Returns the dynamic state at t = 0 and the static variables, None if there are none.

        Raises:
            ValueError: If `z` does not end in D numbers.
        """
        if z.shape[-1] != self.dim:
            raise ValueError(
                f"z must end in the {self.dim} numbers of the latent ({self.config.state} "
                f"dynamic, {self.config.static} static), got shape {tuple(z.shape)}"
            )
        state = self.config.state
        return z[..., :state], z[..., state:] if self.config.static else None

    def trajectory(
        self,
        z: Float[Tensor, "*batch dim"],
        times: Float[Tensor, "..."] | TimeGrid,
        *,
        check: bool = True,
    ) -> Float[Tensor, "*batch time state"]:
        """Returns the states at the given times.

        Arguments:
            z: Latents, shape `(*chains, B, D)`.
            times: Times, not negative and increasing (the last may be repeated), shape `(T,)` for
                all or `(B, T)`; or the steps of a fixed-step solver for one sequence or for all
                chains of all sequences.
            check: Whether to raise for a solve that diverges, instead of returning what is not
                finite.

        Raises:
            ValueError: If shapes disagree or times are out of order.
            SolveError: If `check` and a solve diverges; names the sequence.
        """
        start, static = self.split(z)
        entering = static if self.config.field_static else None
        if isinstance(times, TimeGrid):
            return solve(self.field, start, times, static=entering)
        solver = replace(self.config.solver, check=check)
        if times.ndim > 1 and times.shape[:-1] != z.shape[-2:-1]:
            raise ValueError(
                f"times must have shape (T,) or {(*z.shape[-2:-1], 'T')}, one row for each "
                f"sequence, got {tuple(times.shape)}"
            )
        grid = checked_grid(times, solver, tuple(z.shape[:-1]), z.dtype)
        states = solve(self.field, start, grid, static=entering, settings=solver)
        return states[..., : times.shape[-1], :]

    def emit(
        self,
        states: Float[Tensor, "*batch time state"],
        static: Float[Tensor, "*batch static"] | None,
    ) -> Float[Tensor, "..."]:
        """Returns the emission's output at the given states, shape `(*batch, T, *obs)`.

        Raises:
            ValueError: If the emission gives another shape.
        """
        if self.config.static_in_emission and static is not None:
            wide = static[..., None, :].expand(*states.shape[:-1], static.shape[-1])
            states = torch.cat((states, wide), dim=-1)
        output = cast(Tensor, self.emission(states))
        expected = (*states.shape[:-1], *self.config.observed)
        if tuple(output.shape) != expected:
            raise ValueError(
                f"the emission must return shape {expected} for states of shape "
                f"{tuple(states.shape)}, got {tuple(output.shape)}"
            )
        return output

    def decode(
        self,
        states: Float[Tensor, "*batch time state"],
        static: Float[Tensor, "*batch static"] | None,
    ) -> Float[Tensor, "..."]:
        """Returns the expected observations at the given states, shape `(*batch, T, *obs)`."""
        return cast(Tensor, self.noise.mean(self.emit(states, static)))

    def mean(
        self, z: Float[Tensor, "*batch dim"], times: Float[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Returns the expected observations, `(*batch, T, *obs)`; arguments as `trajectory`."""
        return self.decode(self.trajectory(z, times), self.split(z)[1])

    def likelihood(
        self,
        sequences: Sequences,
        *,
        sigma: float | Tensor | None = None,
        check: bool = False,
    ) -> SequenceLikelihood:
        """Returns the log-likelihood as a function of the latents, see `SequenceLikelihood`."""
        return SequenceLikelihood(self, sequences, sigma=sigma, check=check)

    def log_likelihood(
        self, z: Float[Tensor, "*chains batch dim"], sequences: Sequences
    ) -> Float[Tensor, "*chains batch"]:
        """Returns the log-likelihood of each sequence: summed over observed entries.

        Raises:
            ValueError: If shapes or types disagree.
            SolveError: If a solve diverges; names the sequence.
        """
        return self.likelihood(sequences, check=True)(z)

    def log_prior(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns the prior's log density, unnormalised."""
        return self.prior.log_density(z)

    def energy(self, z: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """Returns `-log_prior(z)`: lower is more probable."""
        return -self.log_prior(z)

    def posterior(self, sequences: Sequences, *, sigma: float | Tensor | None = None) -> Sum:
        """Returns the log density of latents `(*chains, B, D)`, terms named "prior" and "x".

        Sample it within `lv_core.frozen(model)`, where the solver needs no graph. Where a solve
        diverges the value is not finite. Arguments and errors as `SequenceLikelihood`.
        """
        return Sum({"prior": self.log_prior, "x": self.likelihood(sequences, sigma=sigma)})

    def forward(
        self,
        sequences: Sequences,
        z: Float[Tensor, "*chains batch dim"],
        z_prior: Float[Tensor, "n dim"] | None = None,
        *,
        generator: Source = None,
    ) -> OdeLosses:
        """Returns what learning minimises at posterior samples.

        Arguments:
            sequences: The data.
            z: Samples of the posterior, detached here.
            z_prior: Samples of the prior; None = drawn by `prior.sample`.
            generator: Source of randomness of that draw.

        Raises:
            ValueError: If shapes or types disagree.
            SolveError: If a solve diverges; names the sequence.

        Source:
            Gradients of Cheng, Kong et al., 2025; the prior's of Pang et al., 2020.
        """
        z = z.detach()
        value = self.log_likelihood(z, sequences).mean()
        loss, logs = self.prior.loss(z.reshape(-1, self.dim), z_prior, generator=generator)
        return OdeLosses(-value, loss, {"log_likelihood": value.detach(), **logs})

    @torch.no_grad()
    def sample(
        self,
        n: int,
        times: Float[Tensor, "..."],
        *,
        generator: torch.Generator | None = None,
    ) -> GeneratedSequences:
        """Returns sequences drawn from the model: latents by the prior's sampler, then noise.

        Arguments:
            n: Number of sequences.
            times: Shape `(T,)` or `(n, T)`.
            generator: Source of randomness.

        Raises:
            ValueError: If `n` is not positive or times are out of order.
            SolveError: If a solve diverges; names the sequence.
        """
        if n < 1:
            raise ValueError(f"n must be positive, got {n}")
        times = times.to(self.anchor)
        z = self.prior.sample(n, generator=generator)
        output = self.emit(self.trajectory(z, times), self.split(z)[1])
        values = self.noise.sample(output, generator=generator)
        return GeneratedSequences(z, self.noise.mean(output), Sequences(times, values))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes settings and weights to a file that `load` reads."""
        torch.save({"config": self.config.to_dict(), "state": self.state_dict()}, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: torch.device | str = "cpu",
        **modules: nn.Module,
    ) -> "EnergyOde":
        """Returns the model that `save` wrote, in the dtype it had; runs no code of the file.

        Arguments:
            path: The file.
            device: Where the model goes.
            **modules: The custom modules it was made with (`field`, `emission`, `noise`,
                `prior`), whose weights are loaded.

        Raises:
            ValueError: If the file is no such model, or fits other modules.
        """
        config, state = read_model(path, device)
        model = cls(config, **modules)  # type: ignore[arg-type]
        return load_weights(model, state, path, device)
