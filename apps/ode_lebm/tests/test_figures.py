"""Figures of cells made by hand, so that what is drawn can be checked against their numbers."""

import base64
import io
import json
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from apps._runner.report import save_figures
from apps.ode_lebm.cells import Cell, config_of
from apps.ode_lebm.figures import draw
from apps.ode_lebm.figures_compare import blocks_shown
from apps.ode_lebm.figures_factors import factors_of
from apps.ode_lebm.figures_frames import SEEN, mosaic
from apps.ode_lebm.figures_latent import plane_of
from apps.ode_lebm.figures_style import Study, end_of_seen, line_of
from apps.ode_lebm.results import TITLES, groups_of
from apps.ode_lebm.settings import Data, Model, Settings
from lv_dynamics import EnergyOde

TESTS, SHOWN, ROWS, SEEN_ROWS = 20, 4, 12, 5
SETTINGS = Settings(
    data_sets=Data(train=20, valid=10, test=TESTS),
    model=Model(
        state=2,
        static=2,
        field_hidden=(4,),
        emission_hidden=(4,),
        energy_hidden=(4,),
        step_size=0.5,
    ),
)
OBSERVED = {
    "sinusoid": (1,),
    "predator_prey": (2,),
    "hopper": (14,),
    "mocap": (50,),
    "rotating_digits": (1, 28, 28),
}
FACTORS = {"sinusoid": ("frequency", "amplitude"), "predator_prey": ("alpha", "beta")}
RULES = ("hold_last", "training_mean", "linear_interpolation", "constant_velocity")


@dataclass
class Cells:
    """A folder of cells, and their records."""

    folder: Path
    records: list[dict] = field(default_factory=list)

    def draw(self, settings: Settings = SETTINGS) -> dict:
        return draw(self.records, self.folder, settings)

    def study(self, system: str = "sinusoid", settings: Settings = SETTINGS) -> Study:
        return Study(system, groups_of(self.records)[system], self.folder, settings)

    def add(self, system: str, variant: str, seed: int = 0, *, level: float = 1.0) -> dict:
        """Adds a model with random weights, whose errors are all `level`."""
        cell = Cell(system=system, variant=variant, seed=seed, kind="ode")
        if variant in ("monode", "gru"):
            cell = replace(cell, kind="baseline")
        generator = np.random.default_rng(seed)
        record = cell.record() | {"seconds": 1.0, "tasks": tasks(level)}
        record["curve"] = [
            {"step": s, "mse": level / s, "sigma": 0.5, "accept": 0.6, "gap": 0.1 * s, "loss": 1.0}
            for s in (2, 4, 6)
        ]
        arrays = forecasts(OBSERVED[system], level, generator)
        if cell.kind == "ode":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = EnergyOde(config_of(cell, SETTINGS, OBSERVED[system]))
            model.save(self.folder / f"{cell.name}.pt")
            latents = generator.normal(size=(TESTS, model.dim)).astype(np.float32)
            arrays |= {"latents": latents, "best": latents, "prior/z": latents[::-1].copy()}
            values = arrays["task0/truth"][:, :SEEN_ROWS]
            arrays |= {"prior/times": arrays["task0/times"][0, :SEEN_ROWS], "prior/values": values}
            record["outside"] = {}
            for score in ("prior energy", "misfit", "posterior energy"):
                record["outside"][score] = 0.75
                arrays[f"inside/{score}"] = generator.normal(size=TESTS)
                arrays[f"outside/{score}"] = generator.normal(size=TESTS) + 2
            if system in FACTORS:
                r2 = {n: {"held_out": 0.25, "in_sample": 0.5} for n in FACTORS[system]}
                parts = ("all", "static") if "-static-mcmc" in variant else ("all",)
                record["factors"] = {part: r2 for part in parts}
                names = FACTORS[system]
                arrays |= {f"factor/{n}": generator.normal(size=TESTS) for n in names}
                for part in parts:
                    arrays[f"read off/{part}"] = generator.normal(size=(TESTS, len(names)))
            if system == "rotating_digits":
                arrays["factor/start"] = generator.integers(15, size=TESTS) * 24.0
        self._write(cell.name, record, arrays)
        return record

    def add_rules(self, system: str, *, level: float = 2.0) -> dict:
        cell = Cell(system=system, variant="trivial", seed=0, kind="trivial")
        levels = {rule: level for rule in RULES} | {"constant_velocity": 1000 * level}
        several = {rule: {"tasks": tasks(levels[rule])} for rule in RULES}
        record = cell.record() | {"seconds": 0.0, "several": several}
        arrays = {}
        for rule in RULES:
            made = forecasts(OBSERVED[system], levels[rule], np.random.default_rng(0))
            arrays |= {f"{rule}/{key}": array for key, array in made.items()}
        self._write(cell.name, record, arrays)
        return record

    def _write(self, name: str, record: dict, arrays: dict) -> None:
        np.savez_compressed(self.folder / f"{name}.npz", **arrays)
        self.records.append(json.loads(json.dumps(record)))


def tasks(level: float) -> dict:
    numbers = {"mse": level, "mse_best": level, "median": level, "median_best": level}
    blocks = {"blocks": {"seen": numbers, "ahead": numbers}}
    return {"5 seen": blocks, "30% seen": blocks, "3 seen": blocks}


def forecasts(observed: tuple[int, ...], level: float, generator: np.random.Generator) -> dict:
    times = np.tile(np.arange(ROWS, dtype=np.float32) * 0.1, (SHOWN, 1))
    truth = generator.uniform(size=(SHOWN, ROWS, *observed)).astype(np.float32)
    seen = np.zeros((SHOWN, ROWS), dtype=bool)
    seen[:, :SEEN_ROWS] = True
    kept = {"times": times, "truth": truth, "seen": seen, "mean": truth / 2, "best": truth / 2}
    if len(observed) == 1:
        kept |= {"low": truth / 2 - 1, "high": truth / 2 + 1}
    kept |= {"error": np.full(ROWS, level, dtype=np.float32), "error_times": times[0]}
    return {f"task{k}/{name}": array for k in range(3) for name, array in kept.items()}


@pytest.fixture
def cells(tmp_path: Path) -> Cells:
    return Cells(tmp_path)


def axes_of(drawn: dict, title: str) -> list:
    return drawn[title][0].axes


def colored(ax, variant: str) -> list:
    return [line for line in ax.lines if line.get_color() == line_of(variant).color]


def test_numbers_and_pictures_get_their_own_figures_with_captions(cells: Cells):
    for system in ("sinusoid", "rotating_digits"):
        cells.add_rules(system)
        for variant in ("gaussian-plain-encoder", "energy-static-mcmc"):
            cells.add(system, variant)
    drawn = cells.draw()
    parts = ["all variants", "error over time", "sequences of another kind", "latent paths"]
    parts += ["energy landscape", "samples of the prior", "learning"]
    numbers, pictures = ["forecasts", "static factors"], ["frames", "film"]
    pictures += ["exchanged static variables"]
    expected = {f"sinusoids: {part}" for part in (*parts, *numbers)}
    assert set(drawn) == expected | {f"rotating digits: {part}" for part in (*parts, *pictures)}
    assert all(len(caption) > 100 for _, caption in drawn.values())
    some = {title: drawn[title] for title in drawn if "digits" in title}
    some["sinusoids: forecasts"] = drawn["sinusoids: forecasts"]
    saved = save_figures(cells.folder, some)
    files = [content for content, _ in saved.values() if content.endswith(".svg")]
    assert len(files) == len(some) - 1  # the film is HTML
    assert all((cells.folder / file).stat().st_size > 5_000 for file in files)


@pytest.mark.parametrize(("system", "panels"), [("predator_prey", 4), ("hopper", 5), ("mocap", 4)])
def test_many_channels_are_drawn_as_a_few_named_ones(cells: Cells, system: str, panels: int):
    cells.add(system, "energy-plain-mcmc")
    cells.add(system, "energy-static-mcmc")
    cells.add(system, "gaussian-plain-encoder")
    drawn = cells.draw()
    title = {"predator_prey": "predator and prey", "mocap": "walking"}.get(
        system, "hopper, extrapolation"
    )
    axes = axes_of(drawn, f"{title}: forecasts")
    assert len(axes) == 3 * panels
    assert [ax.get_title() for ax in axes[:3]] == [
        TITLES[v] for v in ("energy-static-mcmc", "energy-plain-mcmc", "gaussian-plain-encoder")
    ]
    labels = [ax.get_ylabel() for ax in axes[::3]]
    if system == "hopper":
        assert labels == ["x", "height", "tilt", "joint 2", "height, velocity"]
        truth = axes[3].lines[0].get_ydata()  # second row: the height
        kept = np.load(cells.folder / "hopper-energy-static-mcmc-0.npz")["task0/truth"]
        assert truth == pytest.approx(kept[0, :, 1])
    assert len(set(labels)) == panels


def test_forecasts_mark_what_was_seen_and_where_it_ends(cells: Cells):
    cells.add("sinusoid", "energy-static-mcmc")
    ax = axes_of(cells.draw(), "sinusoids: forecasts")[1]  # the second sequence
    kept = np.load(cells.folder / "sinusoid-energy-static-mcmc-0.npz")
    truth, mean, seen, end = ax.lines
    assert truth.get_ydata() == pytest.approx(kept["task0/truth"][1, :, 0])
    assert mean.get_ydata() == pytest.approx(kept["task0/mean"][1, :, 0])
    assert seen.get_xdata() == pytest.approx(0.1 * np.arange(SEEN_ROWS))
    assert end.get_xdata() == pytest.approx([0.1 * (SEEN_ROWS - 1)] * 2)
    box = ax.collections[0].get_paths()[0].get_extents()
    assert (box.ymin, box.ymax) == pytest.approx(
        (kept["task0/low"][1].min(), kept["task0/high"][1].max())
    )


def test_observation_that_goes_on_to_the_end_has_no_end():
    times = np.linspace(0, 1, 11)
    seen = np.zeros((2, 11), dtype=bool)
    seen[0, [0, 5]] = seen[1, [2, 7]] = True
    assert end_of_seen(seen, times) == pytest.approx(0.7)
    seen[0, 10] = True
    assert end_of_seen(seen, times) is None


def test_errors_over_time_are_bands_over_seeds_and_wild_rules_leave_the_axes(cells: Cells):
    cells.add("sinusoid", "energy-static-mcmc", 0, level=0.5)
    cells.add("sinusoid", "energy-static-mcmc", 1, level=1.5)
    cells.add("sinusoid", "gru", level=0.8)
    cells.add_rules("sinusoid")
    left, right, *rest = axes_of(cells.draw(), "sinusoids: error over time")
    assert len(rest) == 2  # the last of the three tasks, and not the middle one
    assert [ax.get_title() for ax in rest] == ["variants: 3 seen", "against others: 3 seen"]
    assert left.get_yscale() == "log"
    assert colored(left, "energy-static-mcmc")[0].get_ydata() == pytest.approx([1.0] * ROWS)
    box = left.collections[0].get_paths()[0].get_extents()
    assert (box.ymin, box.ymax) == pytest.approx((0.5, 1.5))
    assert not colored(left, "gru")
    assert colored(right, "gru")
    assert colored(right, "constant_velocity")[0].get_ydata()[0] == 2000
    assert 2 < right.get_ylim()[1] < 2000


def test_sequences_without_common_times_have_no_errors_over_time(cells: Cells):
    record = cells.add("sinusoid", "energy-static-mcmc")
    path = cells.folder / f"{record['name']}.npz"
    kept = {key: array for key, array in np.load(path).items() if "error" not in key}
    np.savez_compressed(path, **kept)
    assert "sinusoids: error over time" not in cells.draw()


def test_comparison_has_a_point_for_each_seed_and_the_mean_of_all(cells: Cells):
    for seed, level in enumerate((1.0, 2.0, 6.0)):
        cells.add("sinusoid", "energy-static-mcmc", seed, level=level)
        cells.add("sinusoid", "energy-plain-encoder", seed, level=level / 2)
    cells.add_rules("sinusoid")
    axes = axes_of(cells.draw(), "sinusoids: all variants")
    assert [ax.get_title() for ax in axes] == [
        "5 seen: seen",
        "5 seen: ahead",
        "3 seen: seen",
        "3 seen: ahead",
    ]
    bar, points = colored(axes[0], "energy-static-mcmc")
    assert bar.get_xdata() == pytest.approx([3.0, 3.0])
    assert list(points.get_xdata()) == [1.0, 2.0, 6.0]
    hollow = colored(axes[0], "energy-plain-encoder")[1]
    assert hollow.get_markerfacecolor() == "white"
    assert hollow.get_marker() != points.get_marker()
    assert [text.get_text() for text in axes[0].texts] == ["2,000 → "]  # constant velocity
    names = [label.get_text() for label in axes[0].get_yticklabels()]
    assert names[:2] == [TITLES["energy-static-mcmc"], TITLES["energy-plain-encoder"]]


def test_errors_of_the_hopper_are_in_the_published_unit_and_zero_is_told(cells: Cells):
    cells.add("hopper", "energy-static-mcmc", level=0.02)
    cells.add_rules("hopper", level=0.0)
    ax = axes_of(cells.draw(), "hopper, extrapolation: all variants")[0]
    assert colored(ax, "energy-static-mcmc")[1].get_xdata() == pytest.approx([2.0])
    assert ax.get_xlabel() == "MSE x 100"
    assert [text.get_text() for text in ax.texts] == [" ← 0"] * len(RULES)


def test_tasks_of_one_block_each_are_all_compared():
    one, two = {"blocks": {"all": {}}}, {"blocks": {"a": {}, "b": {}}}
    assert blocks_shown({"x": one, "y": one, "z": one}) == [
        ("x", "all"),
        ("y", "all"),
        ("z", "all"),
    ]
    assert blocks_shown({"x": two, "y": one, "z": two}) == [
        ("x", "a"),
        ("x", "b"),
        ("z", "a"),
        ("z", "b"),
    ]
    assert blocks_shown({"x": two}) == [("x", "a"), ("x", "b")]


def test_factors_are_drawn_against_truth_for_static_variables_and_for_all(cells: Cells):
    record = cells.add("sinusoid", "energy-static-mcmc")
    cells.add("sinusoid", "gaussian-plain-encoder")
    axes = axes_of(cells.draw(), "sinusoids: static factors")
    assert len(axes) == 6  # two factors of three
    heads = [ax.get_title() for ax in axes[:3]]
    assert [("static variables alone" in h, "all latents" in h) for h in heads] == [
        (True, False),
        (False, True),
        (False, True),
    ]
    assert all("0.25" in ax.get_title() for ax in axes)
    kept = np.load(cells.folder / f"{record['name']}.npz")
    points = axes[3].lines[1]  # amplitude, from static variables: the second factor
    assert points.get_xdata() == pytest.approx(kept["factor/amplitude"])
    low, high = axes[3].get_ylim()
    expected = kept["read off/static"][:, 1].clip(low, high)
    assert points.get_ydata() == pytest.approx(expected)


def test_scores_are_drawn_with_their_auroc_and_lose_no_sequence(cells: Cells):
    record = cells.add("sinusoid", "energy-static-mcmc")
    path = cells.folder / f"{record['name']}.npz"
    kept = dict(np.load(path))
    kept["outside/misfit"][:2] = (1e6, math.inf)  # wild scores must not hide all others
    np.savez_compressed(path, **kept)
    axes = axes_of(cells.draw(), "sinusoids: sequences of another kind")
    assert [ax.get_title().split("\n")[-1] for ax in axes] == [
        f"{score}: AUROC 0.75" for score in ("prior energy", "misfit", "posterior energy")
    ]
    assert axes[1].get_xlim()[1] < 1e6
    inside, outside = axes[1].patches
    for patch in (inside, outside):
        box = patch.get_xy()
        area = abs(np.sum(box[:-1, 0] * box[1:, 1] - box[1:, 0] * box[:-1, 1])) / 2
        assert area == pytest.approx(1.0)  # a density of all twenty


def test_planes_hold_the_first_two_components():
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.1, 3.0, 0.1, 1.0])
    points = torch.randn(500, 4, generator=generator) * scale + 5
    plane = plane_of(points)
    assert plane.axes @ plane.axes.T == pytest.approx(torch.eye(2), abs=1e-5)
    assert plane.axes[0].abs().argmax() == 1
    assert plane.axes[1].abs().argmax() == 3
    spread = points.var(0)
    assert plane.share == pytest.approx(float(spread[[1, 3]].sum() / spread.sum()), abs=1e-3)
    assert plane.onto(points).mean(0) == pytest.approx(torch.zeros(2), abs=1e-4)
    assert plane_of(torch.ones(3, 2)).share == 1.0


def test_landscapes_add_the_tilt_to_the_normal_and_gaussian_priors_have_none(cells: Cells):
    cells.add("sinusoid", "gaussian-static-mcmc")
    assert "sinusoids: energy landscape" not in cells.draw()
    record = cells.add("sinusoid", "energy-static-encoder")
    axes = axes_of(cells.draw(), "sinusoids: energy landscape")
    tilt, normal, prior = (np.asarray(ax.images[0].get_array()) for ax in axes[:3])
    total = tilt + normal
    assert prior == pytest.approx(total - total.max(), abs=1e-4)
    assert np.ptp(tilt) > 1e-4
    model = EnergyOde.load(cells.folder / f"{record['name']}.pt")
    latents = torch.as_tensor(np.load(cells.folder / f"{record['name']}.npz")["latents"])
    corner = plane_of(latents)
    s = float(axes[0].get_xlim()[1])
    at = corner.center + torch.tensor([s, -s], dtype=torch.float32) @ corner.axes  # right, bottom
    assert tilt[0, -1] == pytest.approx(float(model.prior.tilt(at[None])[0].detach()), abs=1e-4)


def test_paths_of_the_prior_are_drawn_beside_those_of_test_sequences(cells: Cells):
    cells.add("sinusoid", "energy-static-mcmc")
    cells.add("hopper", "energy-static-mcmc")
    drawn = cells.draw()
    left, right, bar = axes_of(drawn, "sinusoids: latent paths")
    assert len(right.lines) == 2 * TESTS  # a path and its start
    assert bar.get_ylabel() == "frequency"
    lines = left.collections[0]
    shades = np.asarray(lines.get_array()).reshape(TESTS, -1)
    study = cells.study()
    factor = factors_of(study, study.groups["energy-static-mcmc"][0])["frequency"]
    assert shades[:, 0] == pytest.approx(factor)
    assert np.ptp(shades, axis=1).max() == 0
    assert axes_of(drawn, "hopper, extrapolation: latent paths")[2].get_ylabel() == "time"


def test_models_whose_paths_and_errors_are_no_numbers_are_left_out_without_an_error(cells: Cells):
    cells.add_rules("sinusoid")
    record = cells.add("sinusoid", "energy-static-mcmc", level=math.nan)
    path = cells.folder / f"{record['name']}.npz"
    kept = dict(np.load(path))
    kept["best"][:] = math.nan
    kept |= {key: np.full_like(kept[key], math.nan) for key in kept if key.endswith("error")}
    np.savez_compressed(path, **kept)
    drawn = cells.draw()
    save_figures(cells.folder, drawn)
    assert "sinusoids: latent paths" not in drawn
    ax = axes_of(drawn, "sinusoids: all variants")[0]
    assert "no number " in [text.get_text() for text in ax.texts]


def test_seen_frames_have_a_colored_rim():
    rows = [np.zeros((3, 4, 4)), np.ones((3, 4, 4))]
    picture = mosaic(rows, [np.array([True, False, False]), np.zeros(3, dtype=bool)])
    assert picture.shape == (12, 18, 3)
    assert tuple(picture[0, 0]) == SEEN
    assert tuple(picture[0, 6]) == (1, 1, 1)
    assert tuple(picture[1, 1]) == (0, 0, 0)
    assert tuple(picture[7, 1]) == (1, 1, 1)
    assert tuple(mosaic(rows)[0, 0]) == (1, 1, 1)


def test_films_are_small_animations_of_every_frame(cells: Cells):
    from PIL import Image

    cells.add("rotating_digits", "energy-static-mcmc")
    html, caption = cells.draw()["rotating digits: film"]
    assert TITLES["energy-static-mcmc"] in html
    content = base64.b64decode(re.search(r"data:image/gif;base64,([^\"]+)", html)[1])
    assert len(html) < 300_000
    film = Image.open(io.BytesIO(content))
    assert film.n_frames == ROWS
    shown = int(re.search(r"a film of (\d) test", caption)[1])
    assert film.size == (shown * 30, 60)
    kept = np.load(cells.folder / "rotating-digits-energy-static-mcmc-0.npz")["task0/truth"]
    film.seek(SEEN_ROWS)  # the first frame that was not seen
    pixels = np.asarray(film.convert("RGB")) / 255
    assert pixels[1:29, 1:29, 0] == pytest.approx(kept[0, SEEN_ROWS, 0], abs=0.04)
    assert pixels[0, 0] == pytest.approx(np.ones(3))
    film.seek(SEEN_ROWS - 1)
    assert np.asarray(film.convert("RGB"))[0, 0] / 255 == pytest.approx(np.array(SEEN), abs=0.01)


def test_exchanged_pictures_have_the_state_of_one_and_the_statics_of_the_other(cells: Cells):
    record = cells.add("rotating_digits", "energy-static-mcmc")
    axes = axes_of(cells.draw(), "rotating digits: exchanged static variables")
    assert len(axes) == SHOWN // 2
    picture = np.asarray(axes[1].images[0].get_array())[..., 0]
    kept = np.load(cells.folder / f"{record['name']}.npz")
    model = EnergyOde.load(cells.folder / f"{record['name']}.pt")
    best = torch.as_tensor(kept["best"])
    z = torch.cat((best[2, : model.config.state], best[3, model.config.state :]))
    with torch.no_grad():
        made = model.mean(z[None], torch.as_tensor(kept["task0/times"][0]))[0, :, 0]
    for t in (0, ROWS - 1):
        frame = picture[2 * 30 + 1 : 2 * 30 + 29, t * 30 + 1 : t * 30 + 29]
        assert frame == pytest.approx(made[t].numpy(), abs=1e-5)
    plain = Cells(cells.folder)
    plain.add("rotating_digits", "energy-plain-mcmc")
    assert "rotating digits: exchanged static variables" not in plain.draw()


def test_learning_curves_compare_seeds_where_both_were_logged(cells: Cells):
    cells.add("sinusoid", "energy-static-mcmc", 0, level=1.0)
    record = cells.add("sinusoid", "energy-static-mcmc", 1, level=3.0)
    assert record["curve"]
    cells.records[-1]["curve"] = cells.records[-1]["curve"][:2]
    axes = axes_of(cells.draw(), "sinusoids: learning")
    titles = [ax.get_title() for ax in axes]
    assert titles[:4] == [
        "MSE of training batches",
        "sigma of the noise",
        "acceptance of the chains",
        "gap of the prior's tilt",
    ]
    line = colored(axes[0], "energy-static-mcmc")[0]
    assert list(line.get_xdata()) == [2, 4]
    assert line.get_ydata() == pytest.approx([1.0, 0.5])
    for one in cells.records:
        one["curve"] = []
    assert "sinusoids: learning" not in cells.draw()


def test_rules_alone_are_compared_and_nothing_else_is_drawn(cells: Cells):
    assert draw([], cells.folder, SETTINGS) == {}
    cells.add_rules("rotating_digits")
    expected = ["rotating digits: all variants", "rotating digits: error over time"]
    assert list(cells.draw()) == expected


def test_variants_can_be_told_apart():
    looks = {(x.color, str(x.dashes), x.marker, x.filled) for x in map(line_of, TITLES)}
    assert len(looks) == len(TITLES)
