"""The figures: all there, what they show, and what they do without parts of a run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from apps._runner.report import save_figures
from apps.head_direction import figures_grid, figures_paths, figures_ring, figures_tuning
from apps.head_direction.cells import plan
from apps.head_direction.figure_style import broken, thinned
from apps.head_direction.figures import draw
from apps.head_direction.recorded import RecordedCells, load_cells
from apps.head_direction.settings import Baselines, Evaluate, Recorded, Ring, Settings, Sweep
from apps.head_direction.train import load_model, run_cell
from lv_neuro import HeadDirectionModel, RnnSettings, Training
from lv_neuro.angles import grid, wrap

ALWAYS = [
    "Tuning curves",
    "Circle in principal components",
    "Path integration",
    "Recorded head turns",
    "Error correction",
    "Connectivity",
    "Tuning widths: learned and recorded",
    "Decoding recorded spikes",
]
SHORT = Training(iterations=3)

SETTINGS = Settings(
    seeds=2,
    processes=1,
    ring=Ring(bins=24, max_step=2, neurons=24, linear_neurons=12, kernel_width=9),
    rectified=SHORT,
    conv=replace(SHORT, iterations=40, lr=0.01),
    linear=replace(SHORT, rollout=1),
    sweep=Sweep(sigmas=(0.65, 0.8), neurons=(12, 24), variants=("conv", "linear_group")),
    evaluate=Evaluate(walks=4, lengths=(5, 20), segments=4, seconds=6),
    baselines=Baselines(rnn_training=RnnSettings(units=8, horizon=4, batch_size=8, iterations=3)),
    recorded=Recorded(source="synthetic"),
)


class Found(NamedTuple):
    settings: Settings
    records: list[dict]
    models: dict[str, HeadDirectionModel]
    recorded: RecordedCells


@pytest.fixture(scope="module")
def cells() -> RecordedCells:
    return load_cells(None, SETTINGS)  # no data folder is asked for: the cells are made up


def run(settings: Settings, folder: Path, cells: RecordedCells) -> Found:
    records = [run_cell(cell, settings, folder, cells.turns, "cpu") for cell in plan(settings)]
    models = {r["name"]: load_model(r, folder) for r in records if r["group"] == "main"}
    return Found(settings, records, models, cells)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory, cells: RecordedCells) -> Found:
    return run(SETTINGS, tmp_path_factory.mktemp("cells"), cells)


def words(figure: object) -> str:
    """Returns all text of a figure."""
    from matplotlib.text import Text

    return "\n".join(text.get_text() for text in figure.findobj(Text))


def keep(folder: Path, found: dict, *titles: str) -> None:
    """Writes some of the figures: warnings of the layout come then, and are errors."""
    save_figures(folder, {title: found[title] for title in titles})


def ordered(model: HeadDirectionModel, places: torch.Tensor) -> None:
    """Gives the first seed neurons with bumps at these angles."""
    x = grid(model.bins)
    bumps = torch.exp(2 * (wrap(x[:, None] - places).cos() - 1))
    with torch.no_grad():
        model.code.table[0] = bumps
    model.code.project()


def test_a_full_run_gives_all_figures(full: Found, tmp_path: Path):
    found = draw(*full)
    assert set(found) == {*ALWAYS, "Topography", "Sweep", "Ablations"}
    keep(tmp_path, found, "Topography", "Sweep", "Ablations", *ALWAYS[-2:], ALWAYS[3])
    assert "noise 0 and 0.1" in found["Path integration"][1]
    assert "means over 2 seeds" in found["Path integration"][1]


@pytest.mark.slow
def test_all_files_are_small(full: Found, tmp_path: Path):
    shown = save_figures(tmp_path, draw(*full))
    for title, (file, caption) in shown.items():
        size = (tmp_path / file).stat().st_size
        assert 5_000 < size < 600_000, (title, size)
        assert len(caption) > 80


def test_one_model_with_one_seed_and_nothing_beside_it_is_drawn(
    tmp_path: Path, cells: RecordedCells
):
    settings = replace(
        SETTINGS,
        seeds=1,
        variants=("linear_group",),
        ablations=False,
        sweep=Sweep(),
        baselines=Baselines(rnn=False, analytic=False),
        evaluate=replace(SETTINGS.evaluate, noise=(0.0,)),
    )
    found = draw(*run(settings, tmp_path, cells))
    assert list(found) == ALWAYS
    keep(tmp_path, found, "Path integration", "Error correction")
    assert "one seed" in found["Path integration"][1]


def test_the_other_variants_are_drawn(tmp_path: Path, cells: RecordedCells):
    settings = replace(
        SETTINGS,
        seeds=1,
        variants=("fc_taylor", "additive", "linear_poly"),
        ablations=False,
        sweep=Sweep(),
        baselines=Baselines(rnn=False, analytic=False),
    )
    found = draw(*run(settings, tmp_path, cells))
    keep(tmp_path, found, "Tuning curves", "Connectivity")
    assert "drive of a turn" in words(found["Connectivity"][0])


def test_collapsed_codes_are_drawn(full: Found, tmp_path: Path):
    models = {}
    for record in full.records:
        if record["group"] == "main":
            models[record["name"]] = HeadDirectionModel(**record["model"], seeds=record["seeds"])
            with torch.no_grad():
                models[record["name"]].code.table.fill_(1.0)
            models[record["name"]].code.project()
    found = draw(full.settings, full.records, models, full.recorded)
    keep(tmp_path, found, "Tuning curves", "Circle in principal components", "Connectivity")


def test_segments_too_short_for_a_second_leave_out_their_figure(full: Found):
    records = [record | {"turns": {"seconds": [], "error": [[]]}} for record in full.records]
    assert figures_paths.head_turns(records, full.recorded) is None
    assert figures_paths.head_turns(full.records, full.recorded) is not None


def test_neurons_of_the_map_are_in_the_order_of_their_directions(full: Found):
    generator = torch.Generator().manual_seed(0)
    model = full.models["fc-table"]
    before = model.code.table.detach().clone()
    places = grid(24)[torch.randperm(24, generator=generator)] + 0.1
    ordered(model, places)
    figure, _ = figures_tuning.tuning_curves(full.records, full.models, full.recorded)
    drawn = figure.axes[0].images[0].get_array()  # neurons x headings
    peaks = np.asarray(drawn).argmax(1)
    assert (np.diff(peaks) >= 0).all()
    # the table itself is in another order
    assert (np.diff(model.codes[0].argmax(0)) < 0).any()
    assert np.asarray(drawn).max(1) == pytest.approx(np.ones(24))
    with torch.no_grad():
        model.code.table.copy_(before)


def test_topography_tells_a_ring_in_order_from_a_shuffled_one(full: Found):
    conv = HeadDirectionModel(**full.records[1]["model"], seeds=[0])
    assert conv.variant == "conv"
    records, models = full.records[1:2], {"conv": conv}
    ordered(conv, -grid(24))
    figure, _ = figures_ring.ring_order(records, models)
    assert "index 1.00" in words(figure)
    ordered(conv, grid(24)[torch.randperm(24, generator=torch.Generator().manual_seed(1))])
    figure, _ = figures_ring.ring_order(records, models)
    assert "index 1.00" not in words(figure)


def test_kernels_are_drawn_towards_larger_directions(full: Found):
    conv = HeadDirectionModel(**full.records[1]["model"], seeds=[0])
    kernels = conv.transformation.kernels().detach()[0, :, 0, 0].numpy()
    drawn = {}
    for sense in (1, -1):
        ordered(conv, sense * grid(24))
        figure, _ = figures_ring.connectivity(full.records[1:2], {"conv": conv})
        ax = next(ax for ax in figure.axes if ax.get_title() == "kernels")
        line = next(line for line in ax.lines if line.get_label() == "k = 2")
        drawn[sense] = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert drawn[1][4] == kernels[-1, -1]
    assert drawn[-1][-4] == kernels[-1, -1]
    assert drawn[-1][4] != kernels[-1, -1]


def test_frequencies_share_all_energy_and_pairs_are_drawn_once(full: Found):
    record = next(r for r in full.records if r["name"] == "linear-group")
    for neurons in (12, 13):  # an odd number has a mode without a partner
        model = HeadDirectionModel("linear_group", neurons=neurons, bins=24, max_step=2)
        figure, _ = figures_ring.connectivity([record], {"linear-group": model})
        ax = next(ax for ax in figure.axes if ax.get_title() == "frequencies of B")
        points = ax.lines[-1]
        assert len(points.get_xdata()) == (neurons + 1) // 2
        assert points.get_ydata().sum() == pytest.approx(1.0, abs=1e-5)
        expected = model.transformation.spectrum().frequencies[0].abs().max().item()
        assert points.get_xdata().max() == pytest.approx(expected)


def test_errors_too_small_for_the_axis_lie_on_its_edge(full: Found):
    records = json.loads(json.dumps(full.records))
    for record in records:
        if record["turns"]:
            record["turns"]["error"] = [[0.0 for _ in row] for row in record["turns"]["error"]]
    figure, _ = figures_paths.head_turns(records, full.recorded)
    ax = figure.axes[0]
    lowest = min(np.min(line.get_ydata()) for line in ax.lines)
    assert lowest == figures_paths.FLOOR == ax.get_ylim()[0]


def test_error_correction_reads_the_report_of_every_seed(full: Found):
    record = full.records[0]
    figure, _ = figures_paths.error_correction([record])
    line = next(line for line in figure.axes[0].lines if line.get_label() == "disturbance 0.6")
    assert list(line.get_xdata()) == [0, 1, 3, 10]
    expected = [np.mean(record["report"][f"off_ring_scale0.6_after{n}"]) for n in (0, 1, 3, 10)]
    assert line.get_ydata() == pytest.approx(expected)


def test_the_sweep_shows_main_models_that_belong_to_it(full: Found):
    figure, _ = figures_grid.sweep(full.settings, full.records)
    main = next(r for r in full.records if r["name"] == "conv")
    assert not any(
        r["group"] == "sweep" and r["model"] == main["model"] for r in full.records
    )  # it was trained once
    table = figure.axes[0].images[0].get_array()
    assert not np.ma.is_masked(table)
    assert table[0, 1] == pytest.approx(np.median(main["report"]["gaussian_r2_median"]))
    alone = [r for r in full.records if r["group"] == "sweep"]
    figure, _ = figures_grid.sweep(full.settings, alone)
    assert np.ma.is_masked(figure.axes[0].images[0].get_array()[0, 1])


def test_wrong_winding_is_counted_by_seed(full: Found):
    records = json.loads(json.dumps(full.records))
    for record in records:
        if record["report"]:
            record["report"]["winding"] = [-1.0, 2.0]
    figure, _ = figures_grid.sweep(full.settings, records)
    assert (figure.axes[3].images[0].get_array() == 1).all()
    for record in records:
        if record["report"]:
            record["report"]["winding"] = [1.0, None]
    figure, _ = figures_grid.sweep(full.settings, records)
    assert (figure.axes[3].images[0].get_array() == 1).all()


def test_ablations_name_what_is_missing_and_what_is_undefined(full: Found, tmp_path: Path):
    records = json.loads(json.dumps(full.records))
    name = "fc-table-anti-collapse-none"
    next(r for r in records if r["name"] == name)["report"]["gaussian_r2_median"] = [None, None]
    figure, _ = figures_grid.ablations(full.settings, records)
    said = words(figure)
    for part in (
        "no anti-collapse loss",
        "no normalization",
        "rates may be negative",
        "no refinement",
        "short-range isometry loss",
        "undefined",
    ):
        assert part in said
    figure.savefig(tmp_path / "ablations.svg")
    figure, _ = figures_grid.ablations(full.settings, full.records)
    assert "undefined" not in words(figure)


def test_lines_of_headings_are_cut_at_north_and_at_gaps():
    x, y = broken(np.array([0.0, 1.0, 2.0, 3.0, 6.0]), np.array([350.0, 5, 10, 300, 299]), gap=2)
    assert np.isnan(y).tolist() == [False, True, False, False, True, False, True, False]
    assert np.nansum(np.abs(np.diff(y)) > 180) == 0
    assert np.isnan(x).sum() == 3


def test_large_populations_are_thinned():
    assert len(np.arange(1000)[thinned(1000)]) <= 120
    assert len(np.arange(120)[thinned(120)]) == 120
    assert len(np.arange(121)[thinned(121)]) == 61
