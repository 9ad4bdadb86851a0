"""Traces handed to ArviZ: the same draws, statistics beside the draws they belong to."""

import builtins
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lv_core import Langevin, Mala, Trace, stream
from lv_core.diagnostics.arviz import to_arviz
from lv_core.diagnostics.convergence import ess_bulk, rhat
from lv_core.kernels.nuts import Nuts


@pytest.fixture
def arviz() -> Any:
    # Some releases warn at their first import of the day that a newer line exists.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("arviz")


def normal_density(u: Tensor) -> Tensor:
    return -0.5 * u.square().sum(-1)


def run(thin: int = 1, steps: int = 120, *batch: int) -> Trace:
    start = torch.randn(*(batch or (4,)), 3, generator=stream(0, "start"))
    return Mala(steps=steps, step_size=1.0).run(
        normal_density, start, generator=stream(0, "noise"), thin=thin
    )


def values(tree: Any, group: str, name: str) -> Any:
    return tree[group][name].values


def test_holds_the_draws_with_chains_first(arviz: Any) -> None:
    trace = run()
    tree = to_arviz(trace)
    u = values(tree, "posterior", "u")
    assert tree["posterior"]["u"].dims[:2] == ("chain", "draw")
    assert np.array_equal(u, trace.u.transpose(0, 1).numpy())


def test_summary_and_plot_read_it(arviz: Any) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    trace = run()
    tree = to_arviz(
        trace,
        split=lambda u: {"mu": u[..., 0], "pair": u[..., 1:].exp()},
        dims={"pair": ["which"]},
        coords={"which": ["left", "right"]},
    )
    table = arviz.summary(tree, round_to=None, kind="diagnostics")
    assert list(table.index) == ["mu", "pair[left]", "pair[right]"]
    number = arviz.ess(tree, method="bulk")
    mu = number["mu"] if "mu" in number else number["posterior"]["mu"]
    assert float(mu) == pytest.approx(ess_bulk(trace.u[..., 0]).item(), rel=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about fonts and layouts, which are not ours
        assert arviz.plot_trace(tree) is not None


@pytest.mark.parametrize("thin", [1, 4])
def test_statistics_stand_beside_their_draws(arviz: Any, thin: int) -> None:
    trace = run(thin)
    tree = to_arviz(trace)
    density = normal_density(trace.u).T.numpy()
    lp = values(tree, "sample_stats", "lp")
    assert np.allclose(lp, density, atol=1e-6)
    started = trace.log_density[thin - 1 :: thin].T.numpy()
    assert not np.allclose(started, density, atol=1e-3)  # wrong control: values at the start
    accept = values(tree, "sample_stats", "acceptance_rate")
    assert np.array_equal(accept, trace.accept[thin - 1 :: thin].T.numpy())
    assert not values(tree, "sample_stats", "diverging").any()


def test_trouble_between_kept_draws_is_marked(arviz: Any) -> None:
    def half_line(u: Tensor) -> Tensor:
        return torch.where(u[..., 0] > 0, -u[..., 0], torch.nan)

    trace = Mala(steps=41, step_size=0.5).run(
        half_line, torch.ones(3, 1), generator=stream(0, "noise"), thin=4
    )
    marked = values(to_arviz(trace), "sample_stats", "diverging")
    assert np.array_equal(marked, trace.bad[:40].reshape(10, 4, 3).any(1).T.numpy())
    assert marked.any()
    assert not np.array_equal(marked, trace.bad[3:40:4].T.numpy())  # wrong control


def test_trees_bear_the_names_of_arviz(arviz: Any) -> None:
    start = torch.randn(2, 3, generator=stream(0, "start"))
    trace = Nuts(steps=30, step_size=0.5).run(
        normal_density, start, generator=stream(0, "noise"), thin=1
    )
    tree = to_arviz(trace)
    for name, ours in (("tree_depth", "depth"), ("n_steps", "leapfrogs"), ("energy", "energy")):
        assert np.array_equal(values(tree, "sample_stats", name), trace.stats[ours].T.numpy())
    assert values(tree, "sample_stats", "diverging").dtype == bool


def test_last_density_is_unknown_where_the_kernel_does_not_cache_it(arviz: Any) -> None:
    trace = Langevin(steps=20, step_size=0.5).run(
        normal_density, torch.zeros(2, 3), generator=stream(0, "noise"), thin=1
    )
    lp = values(to_arviz(trace), "sample_stats", "lp")
    assert np.allclose(lp[:, :-1], normal_density(trace.u[:-1]).T.numpy(), atol=1e-6)
    assert np.isnan(lp[:, -1]).all()


def test_data_items_become_an_axis_of_the_variables(arviz: Any) -> None:
    trace = run(1, 30, 4, 5)
    tree = to_arviz(trace, dims={"u": ["item", "latent"]})
    assert dict(tree["posterior"]["u"].sizes) == {"chain": 4, "draw": 30, "item": 5, "latent": 3}
    alone = to_arviz(trace, chain_axis=None)
    assert values(alone, "posterior", "u").shape == (1, 30, 4, 5, 3)
    assert values(alone, "sample_stats", "lp").shape == (1, 30, 4, 5)
    single = to_arviz(trace, chain_axis=1)
    assert values(single, "posterior", "u").shape == (5, 30, 4, 3)
    result = arviz.rhat(tree)
    found = result["u"] if "u" in result else result["posterior"]["u"]
    assert np.allclose(found.values, rhat(trace.u).numpy(), rtol=1e-6)


def test_the_spacing_of_the_run_is_known_when_it_does_not_divide_the_steps(arviz: Any) -> None:
    trace = run(7, 40)
    lp = values(to_arviz(trace), "sample_stats", "lp")
    assert np.array_equal(lp, trace.log_density[7:36:7].T.numpy())
    # Wrong control: the spacing that 40 steps and 5 draws suggest.
    assert not np.array_equal(lp, trace.log_density[8::8].T.numpy())


def test_what_cannot_be_converted_is_refused(arviz: Any) -> None:
    trace = run(1, 10)
    with pytest.raises(ValueError, match=r"split must keep the first two axes \(4, 10\)"):
        to_arviz(trace, split=lambda u: {"mean": u.mean(0)})
    bare = Mala(steps=3, step_size=1.0).run(normal_density, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="kept no positions"):
        to_arviz(bare)


def test_absence_of_arviz_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "arviz":
            raise ImportError(name)
        return find(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "arviz", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'lv-core\[arviz\]'"):
        to_arviz(run(1, 10))
