"""Whether chains can be trusted: convergence, Stein and two-sample tests, calibration, reports."""

from lv_core.diagnostics.autocorrelation import autocorrelation
from lv_core.diagnostics.convergence import (
    autocorrelation_time,
    ess_bulk,
    ess_mean,
    ess_tail,
    mcse_mean,
    mcse_quantile,
    mcse_sd,
    rhat,
)
from lv_core.diagnostics.short_run import (
    Moments,
    ShortRunReport,
    esjd,
    moments_by_step,
    short_run_report,
)
from lv_core.diagnostics.stein import SteinDiscrepancy, ksd

__all__ = [
    "Moments",
    "ShortRunReport",
    "SteinDiscrepancy",
    "autocorrelation",
    "autocorrelation_time",
    "esjd",
    "ess_bulk",
    "ess_mean",
    "ess_tail",
    "ksd",
    "mcse_mean",
    "mcse_quantile",
    "mcse_sd",
    "moments_by_step",
    "rhat",
    "short_run_report",
]
