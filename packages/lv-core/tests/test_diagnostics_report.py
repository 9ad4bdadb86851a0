"""The report about a run: right numbers, and words that name the trouble and the cure."""

import math

import pytest
import torch
from torch import Tensor

from lv_core import Langevin, Mala, Trace, stream
from lv_core.diagnostics.convergence import ess_bulk, rhat
from lv_core.diagnostics.report import ChainReport, chain_report
from lv_core.diagnostics.short_run import esjd
from lv_core.kernels.hmc import Hmc
from lv_core.kernels.nuts import Nuts


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def normals(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=stream(0, "draws"))


def run(steps: int = 600, step_size: float = 1.2, thin: int = 1, *batch: int) -> Trace:
    start = normals(*(batch or (4,)), 3)
    return Mala(steps=steps, step_size=step_size).run(
        normal_density, start, generator=stream(0, "noise"), thin=thin
    )


def said(report: ChainReport, words: str) -> bool:
    return any(words in line for line in report.words())


def test_healthy_chains_are_called_healthy() -> None:
    trace = run()
    report = chain_report(trace)
    assert report.words()[0].startswith("no sign of trouble: R-hat is at most 1.0")
    assert len(report.words()) == 1
    torch.testing.assert_close(report.rhat, rhat(trace.u))
    torch.testing.assert_close(report.ess_bulk, ess_bulk(trace.u))
    assert report.accept == pytest.approx(trace.accept.mean().item())
    assert report.esjd == pytest.approx(esjd(trace.u).mean().item())
    assert (report.draws, report.chains, report.evaluations) == (600, 4, 2400)
    assert report.ess_per_evaluation == pytest.approx(report.ess_bulk.min().item() / 2400)
    assert report.bad == 0.0
    assert report.divergent is None


def test_page_names_every_number() -> None:
    page = str(chain_report(run()))
    for name in ("R-hat, largest", "ESS bulk, least", "ESS tail", "MCSE", "ESJD", "acceptance"):
        assert name in page
    assert "4 x 600 kept draws, 3 coordinates" in page
    assert "divergent        not reported" in page
    assert "\n- no sign of trouble" in page
    assert "ESS/evaluation   not reported" in str(chain_report(normals(60, 2, 1)))


def test_short_runs_are_sent_to_the_short_run_report() -> None:
    report = chain_report(run(steps=49))
    assert report.short
    assert report.rhat.isnan().all()
    assert report.ess_bulk.isnan().all()
    assert said(report, "only 49 draws per chain were kept: R-hat")
    assert said(report, "short_run_report")
    assert "R-hat, largest   unknown" in str(report)
    assert not chain_report(run(steps=50)).short
    single = chain_report(normals(1, 1, 2))
    assert math.isnan(single.esjd)
    assert single.sd.isnan().all()


def test_chains_apart_are_found_and_the_coordinate_named() -> None:
    u = normals(600, 4, 3)
    u[:, 0, 2] += 2.0
    report = chain_report(u)
    assert said(report, "at u[2] and above 1.01 for 1 of 3 coordinates: the chains disagree")
    assert said(report, "temper if the target has several modes")
    u = normals(600, 4)
    u[:, 0] += 0.35
    report = chain_report(u)
    assert 1.01 < report.rhat < 1.05
    assert said(report, "at u and above 1.01 for 1 of 1 coordinates")
    assert not said(report, "temper")


def test_sticky_chains_lack_effective_draws() -> None:
    u = normals(400, 4, 2, 2)
    u[..., 1, 0] = u[..., 1, 0].cumsum(0)
    report = chain_report(u)
    assert said(report, "the bulk effective sample size is")
    assert said(report, "at u[1, 0], below 100 per chain")
    assert said(report, "the 5 % and 95 % quantiles cannot be trusted")


def test_one_chain_is_not_enough() -> None:
    assert said(chain_report(normals(500, 1, 2)), "one chain per target cannot show")


def test_wrong_step_sizes_show_in_the_acceptance() -> None:
    assert said(chain_report(run(step_size=3.0)), "of the proposals are accepted: lower step_size")
    assert said(chain_report(run(step_size=0.05)), "raise step_size")


def test_proposals_outside_the_support_are_counted() -> None:
    def half_line(u: Tensor) -> Tensor:
        return torch.where(u[..., 0] > 0, -u[..., 0], torch.nan)

    trace = Mala(steps=200, step_size=1.0).run(
        half_line, normals(4, 1).abs(), generator=stream(0, "noise"), thin=1
    )
    report = chain_report(trace)
    assert report.bad == trace.bad.double().mean().item() > 0.05
    assert said(report, "of the steps met a non-finite log density or gradient")


def test_divergent_trajectories_are_counted() -> None:
    def narrow(u: Tensor) -> Tensor:
        return -0.5 * (u / torch.tensor([1.0, 1e-3])).square().sum(-1)

    kernel = Hmc(steps=60, step_size=0.1, leapfrog=3)
    report = chain_report(
        kernel.run(narrow, torch.zeros(4, 2), generator=stream(0, "noise"), thin=1)
    )
    assert report.divergent is not None
    assert report.divergent > 0.9
    assert said(report, "of the trajectories diverged")
    assert said(report, "2 of 2 coordinates never moved")
    assert report.evaluations == 60 * 4 * 3


def test_trees_report_their_depth_and_leapfrogs() -> None:
    trace = Nuts(steps=60, step_size=0.5).run(
        normal_density, normals(4, 2), generator=stream(0, "noise"), thin=1
    )
    report = chain_report(trace)
    assert report.depth == trace.stats["depth"].double().mean().item()
    assert report.evaluations == int(trace.stats["leapfrogs"].sum())
    assert chain_report(trace, evaluations=7).evaluations == 7


def test_unadjusted_chains_report_no_acceptance() -> None:
    trace = Langevin(steps=60, step_size=0.5).run(
        normal_density, normals(4, 2), generator=stream(0, "noise"), thin=1
    )
    assert chain_report(trace).accept is None


def test_a_coordinate_without_an_answer_does_not_hide_the_others() -> None:
    u = normals(500, 4, 3)
    u[7, 0, 0] = math.nan
    report = chain_report(u)
    assert report.words()[0].startswith("1 of 3 coordinates hold a NaN or an infinity")
    assert report.rhat[1:].isfinite().all()


def test_data_items_are_judged_alone() -> None:
    # Two items with targets far apart: chains of one item agree, chains of different ones do not.
    far = torch.tensor([[0.0], [50.0]]).double()
    trace = Mala(steps=400, step_size=1.0).run(
        lambda u: -0.5 * (u - far).square().sum(-1),
        normals(4, 2, 1) + far,
        generator=stream(0, "noise"),
        thin=1,
    )
    right = chain_report(trace)
    assert right.rhat.shape == (2, 1)
    assert right.rhat.max() < 1.05
    assert chain_report(trace, chain_axis=1).rhat.min() > 1.5  # wrong control
    alone = chain_report(trace, chain_axis=None)
    assert (alone.chains, alone.mean.shape) == (1, (4, 2, 1))
    assert alone.rhat.isnan().all()
    assert alone.esjd == pytest.approx(right.esjd)


def test_one_chain_without_a_batch_is_one_chain() -> None:
    trace = Mala(steps=60, step_size=1.0).run(
        lambda u: -0.5 * u.square(), torch.tensor(0.3), generator=stream(0, "noise"), thin=1
    )
    report = chain_report(trace)
    assert (report.chains, report.mean.shape) == (1, ())


def test_what_cannot_be_read_is_refused() -> None:
    bare = Mala(steps=3, step_size=1.0).run(normal_density, normals(4, 3))
    with pytest.raises(ValueError, match=r"kept no positions: call kernel\.run with thin=1"):
        chain_report(bare)
    with pytest.raises(ValueError, match=r"chain_axis must be None or in 0..0 .* got 1"):
        chain_report(run(steps=5), chain_axis=1)
    with pytest.raises(ValueError, match=r"draws must have shape .* got \(9,\)"):
        chain_report(normals(9))
    empty = chain_report(normals(60, 2, 0))
    assert "R-hat, largest   unknown" in str(empty)
