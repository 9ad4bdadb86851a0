"""Plans: variants, the pieces of the study, and equal operations."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apps._runner import parse
from apps.ltm.__main__ import HERE, main
from apps.ltm.cells import Cell, plan
from apps.ltm.operations import equal_iterations, operations, used_parameters
from apps.ltm.results_study import MEASURES, gains, study_claims
from apps.ltm.settings import Settings, Study
from apps.ltm.study import PIECES, study_cells
from lv_text import ThoughtModel

TINY = shlex.split("""
--processes 1 --corpus.documents 60 --corpus.vocabulary 300 --model.width 16 --model.heads 2
--model.length 24 --model.window 8 --model.slots 2 --train.iterations 6
--train.batch-size 4 --train.micro-batch 4 --train.warm-up 1 --evaluate.blocks 3
--evaluate.quick-blocks 2 --evaluate.samples 2 --generate.samples 0
""")


@pytest.fixture(scope="module")
def settings() -> Settings:
    """Those of the preset."""
    return parse(Settings, HERE / "presets", ["study"], prog="ltm")[1]


def test_names_are_unique_and_every_piece_says_why(settings: Settings):
    given = replace(settings, study=Study(pieces=("all",), finalists=("ar", "half")))
    cells = study_cells(given, 1024)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) == len(PIECES) + 2 * 2
    assert {cell.variant for cell in cells} == set(PIECES)
    assert {cell.seed for cell in cells if cell.variant == "half"} == {0, 1, 2}
    assert len({piece.why for piece in PIECES.values()}) == len(PIECES)
    # each is another model or another training than all others
    records = [json.dumps({**c.record(), "name": "", "variant": ""}) for c in cells]
    assert len(set(records)) == len(records)


def test_pieces_cost_what_the_baseline_costs(settings: Settings):
    given = replace(settings, study=Study(pieces=("all",)))
    cells = {cell.variant: cell for cell in study_cells(given, 1024)}
    wanted = operations(cells["ar"])["counted"]
    plan = settings.train
    for name, cell in cells.items():
        assert operations(cell)["counted"] == pytest.approx(wanted, rel=0.01), name
        share = cell.train.warm_up / cell.train.iterations
        assert share == pytest.approx(plan.warm_up / plan.iterations, rel=0.1), name
    # a wrong control: the same number of updates costs many times as much
    paper = cells["paper"]
    assert cells["ar"].train.iterations == settings.train.iterations
    same = replace(paper, train=replace(paper.train, iterations=settings.train.iterations))
    assert operations(same)["counted"] > 5 * wanted
    assert equal_iterations(cells["ar"], same) == paper.train.iterations


def test_operations_count_each_part(settings: Settings):
    ar, fresh, wide, vae = (cell(settings, name) for name in ("ar", "fresh", "wide", "amortised"))

    def each(cell: Cell, **changes: float) -> float:
        changed = replace(cell, train=replace(cell.train, **changes))
        return operations(changed)["counted_per_token"]

    assert each(ar) < each(vae) < each(fresh) < each(wide)
    # fast steps are counted one by one: twice the steps, twice their cost
    costs = [
        operations(replace(fresh, inference=replace(fresh.inference, steps=n)))[
            "counted_per_token"
        ]
        for n in (1, 2, 4)
    ]
    assert costs[2] - costs[1] == pytest.approx(2 * (costs[1] - costs[0]))
    # a share without latents costs that share of the plain model
    assert each(fresh, late=0.5) == pytest.approx((each(ar) + each(fresh)) / 2)
    assert each(ar, late=0.5) == each(ar)
    # fast steps see a share of the tokens; the slow one sees all
    some = [each(fresh, known=share) for share in (0.5, 0.75, 1.0)]
    assert some[1] == pytest.approx((some[0] + some[2]) / 2)
    assert 0.5 * some[2] < some[0] < 0.6 * some[2]
    assert each(vae, known=0.5) < each(vae)


def cell(settings: Settings, variant: str) -> Cell:
    return plan(replace(settings, variants=(variant,), seeds=1), 1024)[0]


def test_parameters_that_no_update_reaches_are_not_counted(settings: Settings):
    model = ThoughtModel(cell(settings, "fresh").model)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    assert used_parameters(cell(settings, "fresh"), sizes) == model.parameters_count
    assert used_parameters(cell(settings, "ar"), sizes) < model.parameters_count


def test_parity_variants_may_have_fewer_seeds(settings: Settings):
    given = replace(settings, variants=("ar", "fixed", "path_sum"), seeds=2, parity_seeds=1)
    names = [cell.name for cell in plan(given, 300)]
    assert names == ["ar-0", "fixed-0", "path-sum-0", "ar-1", "fixed-1"]


def test_a_cell_survives_its_record(settings: Settings):
    for made in study_cells(replace(settings, study=Study(pieces=("all",))), 300):
        assert Cell.from_record(json.loads(json.dumps(made.record()))) == made


def test_the_study_runs_with_points_and_late_starts(tmp_path: Path):
    pieces = ["ar", "warm", "half-map", "half-vae", "late-few"]
    more = ["--evaluate.test-blocks", "2", "--evaluate.priors", "gaussian", "flow"]
    more += ["--evaluate.prior-blocks", "8"]
    flags = ["smoke", *TINY, *more, "--study.pieces", *pieces]
    main([*flags, "--out", str(tmp_path / "run")])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    found = result["metrics"]
    assert set(found) == {*pieces, "gains"}
    measured = found["gains"]["held_out"]
    assert set(measured) == set(pieces) - {"ar"}
    assert set(measured["warm"]) == set(MEASURES)
    assert set(measured["half-map"]) == {"predictive"}
    assert set(found["gains"]["test"]["warm"]) == {"bound", "iwae", "predictive"}
    assert len(result["claims"]) == 2
    report = (tmp_path / "run" / "report.md").read_text()
    assert "fitted flow prior" in report
    for name in pieces:
        assert found[name]["continuation"]["nll"][0] > 1
    # a point has no posterior, so no bound
    (way,) = found["half-map"]["bounds"].keys() - {"16"}
    numbers = found["half-map"]["bounds"][way]
    assert numbers["nelbo"] == [None]
    assert numbers["nll_posterior"][0] > 1
    assert found["late-few"]["bounds"]["8"]["nelbo"][0] > 1


def test_more_pieces_can_be_asked_for_later(tmp_path: Path):
    flags, out = ["smoke", *TINY], str(tmp_path / "run")
    main([*flags, "--study.pieces", "ar", "--out", out])
    before = (tmp_path / "run" / "cells" / "ar-0.json").read_bytes()
    main([*flags, "--study.pieces", "ar", "vae", "--resume", "True", "--out", out])
    assert (tmp_path / "run" / "cells" / "ar-0.json").read_bytes() == before
    found = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert set(found) == {"ar", "vae", "gains"}


def made(name: str, seed: int, nll: float, *, gain: float = 0.0) -> dict[str, Any]:
    """Returns the record of a piece that costs `nll - gain` nats on each of 40 sequences."""
    length, half = [10] * 40, [5] * 40
    wobble = [0.5 * (k % 3) for k in range(40)]
    cost = [nll - gain + w for w in wobble]
    scored: dict[str, Any] = {"continuation": {"tokens": half, "nll": cost}}
    if name == "ar":
        scored["nll"] = {"tokens": length, "nll": cost}
    else:
        bound = {"tokens": length, "nelbo": cost, "iwae": [c - 0.1 for c in cost], "kl": length}
        scored["bounds"] = {"8": bound}
    kind = "ar" if name == "ar" else "thought"
    record = {"variant": name, "seed": seed, "kind": kind, "inference": {"steps": 8}}
    return {**record, "held_out": scored, "test": scored, "train": {"iterations": 1}}


def test_gains_pair_the_same_sequences_of_the_same_seed():
    records = [made("ar", 0, 30.0), made("ar", 1, 60.0)]
    records += [made("late", k, 30.0 * (k + 1), gain=2.0) for k in (0, 1)]
    (found,) = gains(records).values()
    for k, gain in enumerate(found["bound"]):
        # every sequence gains 2 nats of 10 tokens, so the interval is a point
        assert gain.seed == k
        assert gain[1:] == pytest.approx((0.2, 0.2, 0.2), abs=1e-6)
    assert found["predictive"][0].value == pytest.approx(0.4)


def test_a_claim_needs_every_seed_and_the_test_split():
    records = [made("ar", k, 30.0) for k in (0, 1)]
    records += [made("late", k, 30.0, gain=2.0) for k in (0, 1)]
    assert [claim["holds"] for claim in study_claims(records)] == [True, True]
    # one seed that loses, or a test split that does not confirm
    losing = [*records[:3], made("late", 1, 30.0, gain=-2.0)]
    assert not any(claim["holds"] for claim in study_claims(losing))
    unconfirmed = [*records[:3], {**records[3], "test": made("late", 1, 31.0)["held_out"]}]
    assert not any(claim["holds"] for claim in study_claims(unconfirmed))
    # a piece of one seed is no finalist
    assert study_claims(records[:3]) == []
