"""The model: a ring code, a transformation of it, and the losses that make both."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lv_neuro.analysis.summary import TuningSummary, tuning_summary
from lv_neuro.angles import check_radians
from lv_neuro.code import RingCode
from lv_neuro.integration import apply_turn, check_codes, integrate
from lv_neuro.losses import (
    AntiCollapse,
    check_isometry,
    isometry_loss,
    kernel_loss,
    kernel_target,
    one_step_loss,
    rollout_loss,
)
from lv_neuro.readout import LearnedReadout
from lv_neuro.sizes import check_sizes
from lv_neuro.training import Losses, Trainer, Training
from lv_neuro.transforms import (
    AdditiveRecurrence,
    ConvRecurrence,
    LinearGroup,
    LinearPoly,
    TableRecurrence,
    TaylorRecurrence,
    Transformation,
)
from lv_neuro.walks import Integration

__all__ = ["HeadDirectionModel", "Variant"]

# Shape legend: S stacked seeds, N bins, d neurons, B walks, T time, R turns of a roll-out.

Variant = Literal["fc_table", "fc_taylor", "additive", "conv", "linear_group", "linear_poly"]

TRANSFORMATIONS: dict[str, Callable[..., Transformation]] = {
    "fc_table": TableRecurrence,
    "fc_taylor": TaylorRecurrence,
    "additive": AdditiveRecurrence,
    "conv": ConvRecurrence,
    "linear_group": LinearGroup,
    "linear_poly": LinearPoly,
}

# Weights shared over the ring need no refinement; an additive drive and a series that magnifies
# harmonics cannot be refined to what they are not able to do, and lose their codes in trying.
DEFAULTS: dict[str, Training] = {
    "conv": Training(iterations=2000, lr=0.01, refine=1.0),
    "linear_group": Training(iterations=2000, lr=0.005, rollout=1, refine=1.0),
    "linear_poly": Training(iterations=2000, lr=0.005, refine=1.0),
    "additive": Training(refine=1.0),
}


class HeadDirectionModel(nn.Module):
    """A population code of heading and the recurrent update that turns it.

    Several seeds are trained at once: whatever belongs to the model has them stacked in its
    FIRST axis, also when there is one seed only.

    Example:
        >>> model = HeadDirectionModel("conv", neurons=40, bins=40, max_step=2, kernel_width=9)
        >>> _ = model.fit(iterations=20)
        >>> v = model.encode(torch.tensor([0.0, 1.0]))    # (seeds, 2, neurons)
        >>> turned = model.step(v, torch.tensor([0.3, -0.3]))
        >>> model.decode(turned).shape
        torch.Size([1, 2])

    Attributes:
        code: The `RingCode`.
        transformation: F, of the class that `variant` names.

    Source:
        Zhao et al., "A Minimalistic Representation Model for Head Direction System", 2024.
        Problem and claims are the paper's; parameterization, losses and numbers are our
        reconstruction, as no code was published.
    """

    def __init__(
        self,
        variant: Variant = "fc_table",
        *,
        neurons: int = 100,
        bins: int = 100,
        max_step: int = 5,
        seeds: int | Iterable[int] = 1,
        anti_collapse: AntiCollapse = "kernel",
        sigma: float = 0.65,
        isometry_scale: float | None = None,
        isometry_reach: int | None = None,
        non_negative: bool = True,
        renormalize: bool | None = None,
        readout: Literal["codebook", "learned"] = "codebook",
        **options: int,
    ) -> None:
        """Draws initial codes and weights.

        Arguments:
            variant: The transformation: "fc_table" (fully connected), "conv" (convolutional),
                "linear_group", "linear_poly", "fc_taylor" or "additive".
            neurons: Size d of the population.
            bins: Headings N on the grid.
            max_step: Largest turn K in one application of F, in grid steps.
            seeds: How many seeds 0, 1, ... are stacked, or the seeds themselves.
            anti_collapse: What keeps codes apart; "none" is the ablation (codes collapse).
            sigma: Width of the target kernel in radians; tuning comes out sigma / sqrt(2) wide.
            isometry_scale: Speed s of the code per radian, for "isometry"; None means what takes
                opposite headings as far apart as codes can be.
            isometry_reach: Distance in bins over which it holds, for "isometry"; None means
                half of the circle, which needs a scale of at most 0.45. A short one gives codes
                that wind several times.
            non_negative: Whether rates cannot be negative; False is the ablation.
            renormalize: Whether F is divided by its norm; None means what suits the variant
                (True for the rectified ones).
            readout: "codebook" compares with the codes; "learned" has vectors of its own.
            options: Further arguments of the transformation, e.g. `kernel_width` and `channels`
                of "conv".

        Raises:
            ValueError: For an unknown variant and sizes that cannot work.
        """
        super().__init__()
        if variant not in TRANSFORMATIONS:
            raise ValueError(
                f"unknown variant {variant!r}; there are: {', '.join(sorted(TRANSFORMATIONS))}"
            )
        check_sizes(neurons=neurons, bins=bins, sigma=sigma, anti_collapse=anti_collapse)
        self.variant: Variant = variant
        self.neurons, self.bins, self.max_step = neurons, bins, max_step
        self.seeds = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
        if not self.seeds:
            raise ValueError("seeds must name at least one seed, got none")
        self.anti_collapse, self.sigma = anti_collapse, sigma
        farthest = math.sqrt(2) if non_negative else 2.0
        self.isometry_scale = farthest / math.pi if isometry_scale is None else isometry_scale
        self.isometry_reach = bins // 2 if isometry_reach is None else isometry_reach
        if anti_collapse == "isometry":
            check_isometry(self.isometry_scale, self.isometry_reach, bins, farthest=farthest)
        extra: dict[str, Any] = dict(options)
        if renormalize is not None:
            extra["renormalize"] = renormalize
        self.code = RingCode(
            bins=bins, neurons=neurons, seeds=self.seeds, non_negative=non_negative
        )
        self.transformation = TRANSFORMATIONS[variant](
            neurons=neurons, bins=bins, max_step=max_step, seeds=self.seeds, **extra
        )
        if readout not in ("codebook", "learned"):
            raise ValueError(f"unknown readout {readout!r}; there are: codebook, learned")
        self.readout = LearnedReadout(self.code) if readout == "learned" else None
        self.target: Tensor | None
        kind = anti_collapse if anti_collapse in ("kernel", "von_mises", "cosine") else None
        target = kernel_target(kind, bins, sigma) if kind else None
        self.register_buffer("target", target, persistent=False)

    # Learning

    def fit(
        self,
        training: Training | None = None,
        *,
        callback: Callable[[int, Losses], None] | None = None,
        **changes: float | int,
    ) -> Losses:
        """Trains all seeds; who wants to save and resume drives a `Trainer` instead.

        Arguments:
            training: Settings; None means those that suit the variant, `default_training()`.
            callback: Called with the number of updates done and the losses, e.g. for progress;
                every update, so it should do little.
            changes: Fields of `Training` that are replaced, such as `iterations=500`.

        Returns:
            The losses of the last update, one value per seed.

        Raises:
            FloatingPointError: If training diverges.
            TypeError: If `changes` names no field of `Training`.
        """
        settings = self.default_training() if training is None else training
        settings = replace(settings, **cast(dict[str, Any], changes))
        trainer = Trainer(self, settings)
        losses = trainer.step()
        for done in range(1, settings.iterations):
            if callback is not None:
                callback(done, losses)
            losses = trainer.step()
        if callback is not None:
            callback(settings.iterations, losses)
        return losses

    def default_training(self) -> Training:
        """Returns the settings that suit the variant."""
        return DEFAULTS.get(self.variant, Training())

    def forward(
        self,
        turns: Int[Tensor, "seeds rollout"] | None = None,
        *,
        settings: Training,
        noise: Tensor | None = None,
        step: int = 0,
    ) -> Losses:
        """Returns the losses of one update, everything that carries parameter gradients.

        Arguments:
            turns: Turns of the roll-out in grid steps; None means one step, all turns.
            settings: The weights of the terms.
            noise: Added to the codes before each turn, shape `(rollout, seeds, bins, neurons)`.
            step: Number of the update, for schedules.
        """
        table = self.code.table
        if turns is None:
            first = None if noise is None else noise[0]
            transition = one_step_loss(table, self.transformation, noise=first)
        else:
            transition = rollout_loss(table, self.transformation, turns, noise=noise)
        apart = self._anti_collapse()
        read = torch.zeros_like(transition)
        if self.readout is not None:
            read = self.readout.loss(table, done=step / settings.iterations)
        weight = settings.transition_weight_at(step)
        total = weight * transition + settings.anti_collapse_weight * apart + read
        return Losses(total, transition, apart, read)

    # Use

    @property
    def codes(self) -> Float[Tensor, "seeds bins neurons"]:
        """The codes on the grid, detached: row n belongs to heading 2 pi n / bins."""
        return self.code.table.detach()

    def encode(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "seeds *batch neurons"]:
        """Returns the codes of headings x (radians, a tensor)."""
        check_radians("x", x)
        return self.code.encode(x.to(self.code.table.device))

    def decode(self, v: Float[Tensor, "seeds *batch neurons"]) -> Float[Tensor, "seeds ..."]:
        """Returns the headings that codes stand for, in [0, 2 pi)."""
        check_codes(v, seeds=len(self.seeds), neurons=self.neurons)
        return self.code.decode(v) if self.readout is None else self.readout.decode(v)

    def step(
        self, v: Float[Tensor, "seeds batch neurons"], dx: Float[Tensor, "..."]
    ) -> Float[Tensor, "seeds batch neurons"]:
        """Returns F(v, dx).

        Arguments:
            v: Codes.
            dx: Turns in radians, counter-clockwise positive, that broadcast to `(seeds, batch)`;
                larger ones than `transformation.largest_turn` are split into equal parts.

        Raises:
            ValueError: If `v` has other axes, or `dx` does not fit it.
        """
        check_radians("dx", dx, kind="turn")
        check_codes(v, seeds=len(self.seeds), neurons=self.neurons, turns=dx)
        largest = self.transformation.largest_turn
        return apply_turn(self.transformation.stepper(), v, dx.to(v), largest=largest)

    def tuning(self) -> TuningSummary:
        """Returns the tuning of every neuron and the figures of the active ones; in radians."""
        return tuning_summary(self.codes)

    def integrate(
        self,
        start: Float[Tensor, " walks"],
        turns: Float[Tensor, "walks time"],
        *,
        noise: float = 0.0,
        mode: Literal["vanilla", "reencode"] = "vanilla",
        generator: torch.Generator | None = None,
    ) -> Integration:
        """Follows headings from their turns alone; see `lv_neuro.integration.integrate`."""
        with torch.no_grad():
            return integrate(
                self.transformation.stepper(),
                self._start,
                self.decode,
                start,
                turns,
                largest=self.transformation.largest_turn,
                mode=mode,
                noise=noise,
                generator=generator,
            )

    def _start(self, x: Tensor) -> Tensor:
        x = x.to(self.code.table)
        return self.code.encode(x) if x.dim() == 1 else self.code.look_up(x)

    def _anti_collapse(self) -> Tensor:
        if self.anti_collapse == "none":
            return self.code.table.new_zeros(len(self.seeds))
        gram = self.code.gram()
        if self.target is not None:
            return kernel_loss(gram, self.target)
        return isometry_loss(gram, scale=self.isometry_scale, reach=self.isometry_reach)
