"""One page about a run: the numbers that tell whether chains can be trusted, and words."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["ChainReport", "Extreme", "worst"]


class Extreme(NamedTuple):
    """The worst coordinate: its value (NaN = none is known) and its index."""

    value: float
    where: tuple[int, ...]

    def text(self, form: str) -> str:
        """Returns the value and the place, such as `1.013 at u[4]`."""
        return f"{self.value:{form}} at {self.place}" if self.value == self.value else "unknown"

    @property
    def place(self) -> str:
        """The coordinate as it would be indexed."""
        return f"u[{', '.join(map(str, self.where))}]" if self.where else "u"


def worst(values: Tensor, *, largest: bool) -> Extreme:
    """Returns the largest or smallest entry that is not NaN."""
    last = -math.inf if largest else math.inf
    known = torch.where(values.isnan(), last, values).flatten()
    if not known.numel() or bool(values.isnan().all()):
        return Extreme(math.nan, ())
    flat = int(known.argmax() if largest else known.argmin())
    index = torch.unravel_index(torch.tensor(flat), values.shape) if values.ndim else ()
    return Extreme(known[flat].item(), tuple(int(i) for i in index))


@dataclass(frozen=True, kw_only=True, eq=False)
class ChainReport:
    """What is known about the chains of a run; `words` and `str` say it in sentences.

    Tensors have the shape of the event (with the axes of data items in front, if any).
    """

    draws: int
    """kept draws per chain"""
    chains: int
    """chains on one target"""
    short: bool
    """too few draws to judge convergence; R-hat, ESS and MCSE are then NaN"""
    mean: Float[Tensor, "..."]
    """mean of all draws"""
    sd: Float[Tensor, "..."]
    """standard deviation of all draws"""
    rhat: Float[Tensor, "..."]
    """rank-normalised split R-hat; NaN for one chain"""
    ess_bulk: Float[Tensor, "..."]
    """effective sample size of the bulk"""
    ess_tail: Float[Tensor, "..."]
    """effective sample size of the 5 % and 95 % quantiles"""
    mcse_mean: Float[Tensor, "..."]
    """Monte Carlo standard error of the mean"""
    mcse_sd: Float[Tensor, "..."]
    """Monte Carlo standard error of the standard deviation"""
    esjd: float
    """expected squared jump distance between kept draws, summed over the event"""
    accept: float | None
    """mean acceptance probability; None where the kernel has none"""
    bad: float | None
    """share of steps that met a non-finite value; None where the kernel does not say"""
    divergent: float | None
    """share of trajectories with a large energy error; None where the kernel does not say"""
    depth: float | None
    """mean tree depth; None where the kernel does not say"""
    evaluations: int | None
    """gradient evaluations of all chains; None = unknown"""

    @property
    def ess_per_evaluation(self) -> float | None:
        """Smallest bulk ESS for each gradient evaluation; NaN when short, None when unknown."""
        if self.evaluations is None:
            return None
        return worst(self.ess_bulk, largest=False).value / self.evaluations

    def words(self) -> list[str]:
        """Returns what is wrong and what to do about it, worst first; one sentence a line."""
        if self.short:
            return [*_failures(self), *_movement(self), _too_short(self)]
        return [*_failures(self), *_movement(self), *_convergence(self)] or [_healthy(self)]

    def __str__(self) -> str:
        """Returns the report as one page of text."""
        size = self.mean.numel()
        rows = [
            ("chains", f"{self.chains} x {self.draws} kept draws, {size} coordinates"),
            ("R-hat, largest", worst(self.rhat, largest=True).text(".3f")),
            ("ESS bulk, least", worst(self.ess_bulk, largest=False).text(".0f")),
            ("ESS tail, least", worst(self.ess_tail, largest=False).text(".0f")),
            ("MCSE mean / sd", worst(self.mcse_mean / self.sd, largest=True).text(".3f")),
            ("MCSE sd / sd", worst(self.mcse_sd / self.sd, largest=True).text(".3f")),
            ("ESJD", f"{self.esjd:.4g} between kept draws"),
            ("acceptance", _shown(self.accept, ".3f")),
            ("non-finite", _shown(self.bad, ".2%")),
            ("divergent", _shown(self.divergent, ".2%")),
            ("tree depth", _shown(self.depth, ".1f")),
            ("evaluations", _shown(self.evaluations, "d")),
            ("ESS/evaluation", _shown(self.ess_per_evaluation, ".3g")),
        ]
        lines = [f"{name:<16} {text}" for name, text in rows]
        return "\n".join([*lines, "", *(f"- {sentence}" for sentence in self.words())])


def _too_short(found: ChainReport) -> str:
    return (
        f"only {found.draws} draws per chain were kept: R-hat and effective sample size are the "
        "wrong tools for short-run chains and are not given; ask short_run_report what a longer "
        "run would change, or ksd how far the samples are from the target"
    )


def _healthy(found: ChainReport) -> str:
    least = min(worst(x, largest=False).value for x in (found.ess_bulk, found.ess_tail))
    return (
        f"no sign of trouble: R-hat is at most {worst(found.rhat, largest=True).value:.3f} and "
        f"every coordinate has at least {least:.0f} effective draws"
    )


def _failures(found: ChainReport) -> list[str]:
    lines = []
    unknown = int((~torch.isfinite(found.mean)).sum())
    if unknown:
        lines.append(
            f"{unknown} of {found.mean.numel()} coordinates hold a NaN or an infinity: the chains "
            "diverged; lower step_size and check the log density where it happened"
        )
    if found.bad:
        lines.append(
            f"{found.bad:.2%} of the steps met a non-finite log density or gradient: lower "
            "step_size, or change variables so that the support has no edge"
        )
    if found.divergent:
        lines.append(
            f"{found.divergent:.2%} of the trajectories diverged, so some region is left out: "
            "lower step_size (a higher target acceptance), or reparametrise narrow regions"
        )
    return lines


def _movement(found: ChainReport) -> list[str]:
    lines = []
    stuck = int((found.sd == 0).sum())
    if stuck:
        lines.append(
            f"{stuck} of {found.sd.numel()} coordinates never moved: the log density may not "
            "depend on them, or every proposal was rejected"
        )
    if found.accept is not None and found.accept < 0.2:
        lines.append(
            f"only {found.accept:.1%} of the proposals are accepted: lower step_size (the best "
            "acceptance is about 0.57 for MALA, 0.65 for HMC, 0.8 for NUTS)"
        )
    if found.accept is not None and found.accept > 0.98:
        lines.append(
            f"{found.accept:.1%} of the proposals are accepted, so steps are shorter than they "
            "could be: raise step_size"
        )
    return lines


def _convergence(found: ChainReport) -> list[str]:
    lines = []
    if found.chains == 1:
        lines.append(
            "one chain per target cannot show that it has found all of it: R-hat is unknown; run "
            "at least four chains from spread starts"
        )
    apart = worst(found.rhat, largest=True)
    if apart.value > 1.01:
        count = int((found.rhat > 1.01).sum())
        cure = (
            "run longer and drop more of the start, or temper if the target has several modes"
            if apart.value > 1.05
            else "run longer"
        )
        lines.append(
            f"R-hat is {apart.value:.3f} at {apart.place} and above 1.01 for {count} of "
            f"{found.rhat.numel()} coordinates: the chains disagree; {cure}"
        )
    for name, values in (("bulk", found.ess_bulk), ("tail", found.ess_tail)):
        least = worst(values, largest=False)
        # Vehtari et al., 2021: about a hundred effective draws per chain.
        if least.value < 100 * found.chains:
            what = "the mean" if name == "bulk" else "the 5 % and 95 % quantiles"
            lines.append(
                f"the {name} effective sample size is {least.value:.0f} at {least.place}, below "
                f"100 per chain: {what} cannot be trusted to two digits; run longer, or raise "
                "step_size (per component, if scales differ)"
            )
    return lines


def _shown(value: float | int | None, form: str) -> str:
    return "not reported" if value is None else format(value, form)
