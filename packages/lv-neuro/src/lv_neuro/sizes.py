"""Which populations and grids can carry a kernel."""

import torch

__all__ = ["check_sizes"]


def check_sizes(*, neurons: int, bins: int, sigma: float, anti_collapse: str) -> None:
    """Refuses populations and grids too small for the kernel.

    Raises:
        ValueError: Names the argument, the rule and the remedy.
    """
    kinds = ("kernel", "von_mises", "cosine", "isometry", "none")
    if anti_collapse not in kinds:
        raise ValueError(f"unknown anti_collapse {anti_collapse!r}; there are: {', '.join(kinds)}")
    if not sigma > 0:
        raise ValueError(f"sigma must be positive (radians), got {sigma}")
    if anti_collapse in ("kernel", "von_mises") and sigma > torch.pi:
        raise ValueError(
            f"sigma must be at most pi radians, got {sigma:g}: is it in degrees? a kernel that "
            "wide is nearly constant and lets the codes collapse"
        )
    if bins < 8:
        raise ValueError(f"bins (N) must be at least 8, got {bins}")
    if neurons < 2:
        raise ValueError(f"neurons (d) must be at least 2, got {neurons}")
    if anti_collapse not in ("kernel", "von_mises"):
        return
    step = 2 * torch.pi / bins
    if step > sigma:
        raise ValueError(
            f"bins (N) is too small for the kernel: one bin is {step:.3g} rad, sigma is "
            f"{sigma:.3g} rad; use at least {int(2 * torch.pi / sigma) + 1} bins or a larger sigma"
        )
    # The kernel's harmonics fall below 1 % of the first beyond sqrt(2 log 100) / sigma; a code
    # of d neurons has d dimensions for two per harmonic.
    needed = int(2 * 3.03 / sigma) + 1
    if neurons < needed:
        raise ValueError(
            f"neurons (d) is too small for the kernel: sigma = {sigma:.3g} rad has harmonics that "
            f"need at least {needed} neurons, got {neurons}; raise neurons (a ring that "
            "integrates well takes several times as many) or sigma"
        )
