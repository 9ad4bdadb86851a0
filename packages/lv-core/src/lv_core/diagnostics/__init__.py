"""Whether chains can be trusted: convergence, Stein and two-sample tests, calibration, reports."""

from lv_core.diagnostics.arviz import to_arviz
from lv_core.diagnostics.autocorrelation import autocorrelation
from lv_core.diagnostics.calibration import CalibrationTest, sbc, sbc_ranks, sbc_test
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
from lv_core.diagnostics.joint_test import JointTest, geweke_joint_test
from lv_core.diagnostics.report import chain_report
from lv_core.diagnostics.short_run import (
    Moments,
    ShortRunReport,
    esjd,
    moments_by_step,
    short_run_report,
)
from lv_core.diagnostics.stein import SteinDiscrepancy, ksd
from lv_core.diagnostics.two_sample import TwoSampleTest, c2st
from lv_core.diagnostics.verdict import ChainReport

__all__ = [
    "CalibrationTest",
    "ChainReport",
    "JointTest",
    "Moments",
    "ShortRunReport",
    "SteinDiscrepancy",
    "TwoSampleTest",
    "autocorrelation",
    "autocorrelation_time",
    "c2st",
    "chain_report",
    "esjd",
    "ess_bulk",
    "ess_mean",
    "ess_tail",
    "geweke_joint_test",
    "ksd",
    "mcse_mean",
    "mcse_quantile",
    "mcse_sd",
    "moments_by_step",
    "rhat",
    "sbc",
    "sbc_ranks",
    "sbc_test",
    "short_run_report",
    "to_arviz",
]
