"""Figures of records made by hand, so that what is drawn can be checked, and of a real run."""

import json
import math
import shlex
from pathlib import Path

import pytest

from apps._runner.report import save_figures
from apps.ltm.__main__ import main
from apps.ltm.figures import draw
from apps.ltm.figures_style import line_of, token_cost
from apps.ltm.single import read_record

BLOCKS = 6
COLUMNS = ("nelbo_shared_noise", "nelbo", "iwae", "nll_posterior", "kl", "kl_floor")


def costs(per_token: float, *, tokens: int = 10) -> list[float]:
    """Costs of blocks about a mean, in nats per block."""
    return [tokens * per_token + 0.5 * (k - (BLOCKS - 1) / 2) for k in range(BLOCKS)]


def bounds(**numbers: float) -> dict:
    return {"tokens": [10.0] * BLOCKS} | {name: costs(numbers[name]) for name in COLUMNS}


def record(variant: str, seed: int = 0, *, gain: float = 0.0, level: float = 4.0) -> dict:
    """A record of a model whose second halves cost `gain` less than 4 nats per token."""
    kind = {"ar": "ar", "amortised": "encoder"}.get(variant, "thought")
    shared = variant in ("fixed", "path_sum")
    latent = kind != "ar"
    step = {"seconds": 1.0, "nll": level, "norm": 1.0, "valid_nll": level}
    if latent:
        step |= {
            "valid_nelbo_shared_noise": level - 1,
            "valid_nelbo": level + 1,
            "valid_nll_posterior": level,
            "valid_kl": 0.3,
            "valid_kl_floor": math.nan if kind == "encoder" else 0.1,
        }
    numbers = {
        "nelbo_shared_noise": level - 1,
        "nelbo": level + 1,
        "iwae": level + 0.5,
        "nll_posterior": level,
        "kl": 0.3,
        "kl_floor": 0.1,
    }
    ways = ["encoder"] if kind == "encoder" else ["16", "32"]
    ways += [f"{way} released" for way in ways] if shared else []
    continuation = {"tokens": [10.0] * BLOCKS, "nll": costs(4 - gain)}
    if latent:
        continuation["nll_prior"] = costs(4.2)
    return {
        "name": f"{variant}-{seed}",
        "variant": variant,
        "seed": seed,
        "kind": kind,
        "inference": {"steps": 16, "noise": "shared" if shared else "fresh"},
        "train": {"iterations": 20},
        "operations": {"counted": 40.0 if latent else 4.0},
        "curve": [step | {"step": s, "nll": level + 10 / s} for s in (5, 10, 15, 20)],
        "held_out": {
            "continuation": continuation,
            **(
                {"bounds": {way: bounds(**numbers) for way in ways}}
                if latent
                else {"nll": {"tokens": [10.0] * BLOCKS, "nll": costs(level)}}
            ),
        },
        "samples": {"texts": [f"text of {variant}"], "entropy": [3.0], "entropy_of_text": [3.2]},
    }


def records() -> list[dict]:
    found = [record(v, seed) for v in ("ar", "fixed", "fresh", "amortised") for seed in (0, 1)]
    return [*found, record("path_sum")]


def panel(drawn: dict, title: str, place: int):
    figure, _ = drawn[title]
    return figure.axes[place]


def colors_of(lines: list) -> set[str]:
    return {line.get_color() for line in lines}


def test_every_part_is_drawn_with_a_caption_and_saved_without_warnings(tmp_path: Path):
    drawn = draw(records())
    assert list(drawn) == [
        "Every number side by side",
        "Against inference steps",
        "Predictive protocol",
        "Training curves",
        "Divergence and its floor",
        "Samples from the prior",
    ]
    saved = save_figures(tmp_path, drawn)
    assert all(len(caption) > 100 for _, caption in saved.values())
    files = [content for content, _ in saved.values() if content.endswith(".svg")]
    assert all((tmp_path / file).stat().st_size > 5_000 for file in files)


def test_points_stand_at_the_numbers_of_their_own_panel():
    drawn = draw([record("ar", level=4.0), record("fixed", level=5.0)])
    for place, expected in enumerate((4.0, 6.0, 5.5, 4.0)):
        points = panel(drawn, "Every number side by side", place).collections
        assert points[0].get_offsets()[0][0] == pytest.approx(4.0)  # autoregressive
        assert points[1].get_offsets()[0][0] == pytest.approx(expected)


def test_only_numbers_with_shared_noise_are_marked_as_no_bounds():
    drawn = draw([record("ar"), record("fixed"), record("fresh"), record("amortised")])
    hollow = {}
    for place in range(4):
        axes = panel(drawn, "Every number side by side", place)
        hollow[place] = [
            tuple(points.get_facecolor()[0][:3]) == (1, 1, 1) for points in axes.collections
        ]
    assert hollow[0] == [False, True, False, False]
    assert not any(hollow[1] + hollow[2] + hollow[3])
    assert "NOT A BOUND" in panel(drawn, "Every number side by side", 0).get_title()
    for title in ("Every number side by side", "Training curves", "Against inference steps"):
        assert "bound" in drawn[title][1].lower()


def test_steps_are_on_a_logarithmic_axis_with_own_and_released_schedules_in_rows():
    drawn = draw(records())
    figure, caption = drawn["Against inference steps"]
    assert len(figure.axes) == 8
    assert "released" in caption
    top, bottom = figure.axes[0], figure.axes[4]
    assert top.get_xscale() == "log"
    assert {line_of(v).color for v in ("ar", "fixed", "fresh", "amortised", "path_sum")} == (
        colors_of(top.lines)
    )
    released = {line_of(v).color for v in ("ar", "fixed", "path_sum")}
    assert colors_of(bottom.lines) == released
    fixed = next(x for x in top.lines if x.get_color() == line_of("fixed").color)
    assert list(fixed.get_xdata()) == [16, 32]
    assert fixed.get_ydata() == pytest.approx([3.0, 3.0])
    only_fresh = draw([record("ar"), record("fresh")])["Against inference steps"]
    assert len(only_fresh[0].axes) == 4
    assert "released" not in only_fresh[1]


def test_gains_have_the_sign_of_the_model_with_latents_and_intervals_hold_the_mean():
    drawn = draw([record("ar"), record("fixed", gain=0.5), record("fresh", gain=-0.25)])
    figure, _ = drawn["Predictive protocol"]
    left, right = figure.axes
    for place, gain in enumerate((0.5, -0.25)):
        # Costs of blocks differ by the same amounts in both models: the pairs leave no spread.
        assert left.lines[place].get_xdata() == pytest.approx([gain] * (BLOCKS + 1))
        assert left.lines[place].get_ydata()[-1] == 1
        bar = right.containers[2 * place]
        assert bar.lines[0].get_xdata() == pytest.approx([gain])
        assert right.containers[2 * place + 1].lines[0].get_xdata() == pytest.approx([-0.2])


def test_gains_pair_models_of_one_seed_only():
    drawn = draw([record("ar", 0), record("fixed", 1)])
    assert "Predictive protocol" not in drawn
    drawn = draw([record("ar", 0), record("fixed", 0), record("fixed", 1)])
    assert len(panel(drawn, "Predictive protocol", 1).containers) == 2


def test_operations_of_the_training_are_per_update_and_the_baseline_is_cheaper():
    drawn = draw([record("ar"), record("fixed")])
    axes = panel(drawn, "Training curves", 4)
    assert list(axes.lines[0].get_xdata()) == pytest.approx([1, 2, 3, 4])
    assert list(axes.lines[1].get_xdata()) == pytest.approx([10, 20, 30, 40])


def test_bands_run_from_the_lowest_to_the_highest_seed():
    two = [record("ar", 0, level=4.0), record("ar", 1, level=5.0), record("fixed")]
    drawn = draw(two)
    axes = panel(drawn, "Training curves", 0)
    assert axes.lines[0].get_ydata()[-1] == pytest.approx(5.0)  # mean of 4.5 and 5.5
    path = axes.collections[0].get_paths()[0].get_extents()
    assert (path.ymin, path.ymax) == pytest.approx((4.5, 7.0))


def test_curves_of_seeds_that_ended_early_are_compared_where_both_are():
    short = record("ar", 1)
    short["curve"] = short["curve"][:2]
    axes = panel(draw([record("ar", 0), short]), "Training curves", 0)
    assert list(axes.lines[0].get_xdata()) == [5, 10]


def test_what_is_no_number_leaves_a_gap_and_no_error(tmp_path: Path):
    broken = records()
    for one in broken:
        one["curve"][1] = {k: math.nan if k != "step" else v for k, v in one["curve"][1].items()}
        one["held_out"]["continuation"]["nll"][0] = math.nan
        for way in one["held_out"].get("bounds", {}).values():
            for name in COLUMNS:
                way[name] = [math.nan] * BLOCKS
    drawn = draw(broken)
    save_figures(tmp_path, drawn)
    assert len(panel(drawn, "Predictive protocol", 0).lines[0].get_xdata()) == 2 * (BLOCKS - 1) + 1


def test_models_without_numbers_in_common_leave_figures_out():
    assert draw([]) == {}
    alone = draw([record("ar")])
    assert "Every number side by side" in alone
    assert not {"Against inference steps", "Predictive protocol"} & alone.keys()
    bare = record("fresh")
    bare["curve"], bare["samples"]["texts"] = [], []
    assert list(draw([bare])) == ["Every number side by side", "Against inference steps"]
    assert math.isnan(token_cost({"tokens": [1.0]}, "nll"))


def test_samples_are_quoted_verbatim_and_escaped():
    one = record("fixed")
    one["samples"]["texts"] = ['a <b>&"\n\x05\tc', "<svg onload=x>"]
    html, caption = draw([one])["Samples from the prior"]
    assert "a &lt;b&gt;&amp;&quot;\n\u2405\tc" in html
    assert "<svg" not in html
    assert "\x05" not in html
    assert "verbatim" in caption


def test_probes_are_drawn_only_where_a_record_has_them(tmp_path: Path):
    probed = record("fixed")
    probed["probes"] = {
        "layers": [0, 1, 2],
        "accuracy_zeros": [0.1, None, 0.4],
        "accuracy_prior": [0.05, 0.1, 0.4],
        "texts": [{"text": "one & two", "decoded": "one & one", "share": 0.5}],
    }
    drawn = draw([record("ar"), probed, record("fresh")])
    save_figures(tmp_path, drawn)
    zeros, prior = drawn["Latents by layer"][0].axes
    assert len(zeros.lines) == 1
    assert zeros.lines[0].get_ydata()[2] == 0.4
    assert math.isnan(zeros.lines[0].get_ydata()[1])
    assert list(prior.lines[0].get_ydata()) == [0.05, 0.1, 0.4]
    assert "one &amp; one" in drawn["Reconstructions"][0]
    assert not {"Latents by layer", "Reconstructions"} & draw(records()).keys()


def test_variants_keep_their_looks_and_unknown_ones_get_one():
    known = [line_of(v) for v in ("ar", "fixed", "fresh", "amortised", "semi_amortised")]
    assert len({line.color for line in known}) == len({line.marker for line in known}) == 5
    assert line_of("window 32, free bits") == line_of("window 32, free bits")


TINY = shlex.split("""
--variants ar fixed amortised --processes 1 --corpus.documents 40 --corpus.vocabulary 300
--model.width 16 --model.heads 2 --model.length 24 --model.window 8 --model.slots 2
--inference.steps 2 --train.iterations 2 --train.batch-size 2 --train.micro-batch 2
--train.warm-up 1 --evaluate.blocks 3 --evaluate.quick-blocks 2 --evaluate.steps 4
--evaluate.samples 2 --evaluate.every 1 --generate.samples 1
""")


def test_records_of_a_real_run_are_drawn_into_its_report(tmp_path: Path):
    out = tmp_path / "run"
    main(["smoke", *TINY, "--out", str(out)])
    found = [read_record(path) for path in sorted((out / "cells").glob("*.json"))]
    drawn = draw(found)
    page = (out / "report.html").read_text("utf-8")
    assert all(title in page for title in drawn)
    assert len(drawn) >= 6
    held_out = json.loads((out / "cells" / "ar-0.json").read_text())["held_out"]["nll"]
    point = panel(drawn, "Every number side by side", 1).collections[0].get_offsets()[0][0]
    assert point == pytest.approx(sum(held_out["nll"]) / sum(held_out["tokens"]))
