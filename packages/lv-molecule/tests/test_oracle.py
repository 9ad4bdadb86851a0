import importlib
import io
import json
import math
import sys
import time

import numpy as np
import pytest
import torch

from lv_molecule import Oracle, OracleError, log_p, recombine
from lv_molecule.oracles.workers import WorkerPool

FAULTS = """
import math, os, subprocess, sys, time

def hang_on_nitrogen(smiles):
    if "N" in smiles:
        path = os.path.join(os.path.dirname(__file__), "survived")
        code = f"import time; time.sleep(2); open({path!r}, 'w').close()"
        subprocess.run([sys.executable, "-S", "-c", code])
        time.sleep(60)
    return float(len(smiles))

def die_on_nitrogen(smiles):
    if "N" in smiles:
        os._exit(3)
    return float(len(smiles))
"""


@pytest.fixture
def faults(tmp_path, monkeypatch):
    """A module of faulty functions that worker processes can import, too."""
    (tmp_path / "oracle_faults.py").write_text(FAULTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("oracle_faults")
    del sys.modules["oracle_faults"]


class Counter:
    """Counts real calls; fails where told."""

    def __init__(self, fault=None, where="N"):
        self.asked = []
        self.fault = fault
        self.where = where

    def __call__(self, smiles):
        self.asked.append(smiles)
        if self.fault is not None and self.where in smiles:
            if isinstance(self.fault, Exception):
                raise self.fault
            return self.fault
        return float(len(smiles))


def alkanes(n, start=1):
    return ["C" * length for length in range(start, start + n)]


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_batch_says_what_happened_to_each_molecule():
    function = Counter()
    oracle = Oracle(function, name="length", budget=3, min_heavy_atoms=2)
    batch = oracle(["OCC", "CCO", None, "", "C1CC", "C", "CCC", "C(C)O", "CCCC", "CCCCC", "CCC"])
    assert batch.status == (
        *("ok", "cached", "invalid", "empty", "invalid", "empty", "ok", "cached"),
        *("ok", "budget", "cached"),
    )
    assert batch.smiles[:6] == ("CCO", "CCO", None, None, None, "C")
    assert function.asked == ["CCO", "CCC", "CCCC"]
    assert np.isnan(batch.values[[2, 3, 4, 5, 9]]).all()
    assert batch.values[[0, 1, 6, 7, 8, 10]].tolist() == [3, 3, 3, 3, 4, 3]
    assert batch.values.dtype == np.float64
    assert (oracle.calls, oracle.remaining) == (3, 0)


def test_budget_is_exact_over_batches_with_repeats():
    function = Counter()
    oracle = Oracle(function, name="length", budget=7)
    for start in (1, 3, 6, 2):
        oracle([*alkanes(4, start), *alkanes(4, start)])
    assert len(function.asked) == len(set(function.asked)) == oracle.calls == 7
    assert function.asked == alkanes(7)
    assert oracle(["C" * 8, "CC"]).status == ("budget", "cached")


def test_no_budget_means_no_limit():
    oracle = Oracle(Counter(), name="length")
    oracle(alkanes(50))
    assert (oracle.calls, oracle.remaining) == (50, None)


def test_empty_batch_is_answered():
    batch = Oracle(Counter(), name="length")([])
    assert batch.smiles == batch.status == ()
    assert batch.values.shape == (0,)


def test_one_string_is_not_a_batch():
    with pytest.raises(TypeError, match=r"pass \[smiles\]"):
        Oracle(Counter(), name="length")("CCO")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (RuntimeError("no\ngrid"), "RuntimeError: no grid"),
        (math.nan, "the function returned nan"),
        (math.inf, "the function returned inf"),
        ("high", "ValueError: could not convert"),
    ],
)
def test_failed_call_is_charged_logged_and_not_repeated(tmp_path, fault, reason):
    function = Counter(fault)
    oracle = Oracle(function, name="length", log=tmp_path / "calls.jsonl")
    batch = oracle(["C", "CN", "CC"])
    assert batch.status == ("ok", "failed", "ok")
    assert math.isnan(batch.values[1])
    assert oracle.calls == 3
    line = lines(tmp_path / "calls.jsonl")[1]
    assert (line["call"], line["smiles"], line["value"], line["status"]) == (
        2,
        "CN",
        None,
        "failed",
    )
    assert reason in line["error"]
    assert oracle(["NC"]).status == ("failed",)
    assert len(function.asked) == 3


def test_too_many_failures_stop_the_batch_and_keep_its_record(tmp_path):
    function = Counter(ValueError("no binary"), where="CCCCC")
    log = tmp_path / "deep" / "calls.jsonl"
    oracle = Oracle(function, name="docking", log=log, max_failed=0.1)
    with pytest.raises(OracleError) as caught:
        oracle(alkanes(40))
    message = str(caught.value)
    assert "\n" not in message
    for part in ("'docking'", "5 of 40 calls (12%", "ValueError: no binary", str(log)):
        assert part in message
    # Four are fine, then failures begin; the fifth is more than a tenth of the batch.
    assert len(function.asked) == len(lines(log)) == oracle.calls == 9
    assert oracle(["CC"]).status == ("cached",)


def test_failures_add_up_over_small_batches():
    oracle = Oracle(Counter(ValueError("x"), where="CC"), name="length", max_failed=0.5)
    for start in range(1, 19, 3):
        oracle(alkanes(3, start))
    with pytest.raises(OracleError, match="20 of 21 calls"):
        oracle(alkanes(3, 19))


def test_allowed_share_of_failures_passes():
    molecules = [*alkanes(18), "CN", "CCN"]
    oracle = Oracle(Counter(math.nan), name="length", max_failed=0.1)
    assert oracle(molecules).status.count("failed") == 2
    with pytest.raises(OracleError):
        Oracle(Counter(math.nan), name="length", max_failed=0.09)(molecules)


def test_log_has_one_line_per_call_in_order(tmp_path):
    path = tmp_path / "calls.jsonl"
    oracle = Oracle(Counter(), name="length", log=path)
    oracle(["CC", "C", "CC", None])
    oracle(["C", "OC"])
    found = lines(path)
    assert [(x["call"], x["smiles"], x["value"]) for x in found] == [
        (1, "CC", 2.0),
        (2, "C", 1.0),
        (3, "CO", 2.0),
    ]
    assert set(found[0]) == {"call", "smiles", "value", "status", "seconds", "error"}
    assert oracle.history == {"CC": 2.0, "C": 1.0, "CO": 2.0}


def test_log_of_another_run_is_not_overwritten(tmp_path):
    path = tmp_path / "calls.jsonl"
    path.write_text('{"call": 1}\n')
    oracle = Oracle(Counter(), name="length", log=path)
    with pytest.raises(ValueError, match="another run"):
        oracle(["C"])
    assert path.read_text() == '{"call": 1}\n'
    assert oracle.calls == 0


def test_killed_run_resumes_exactly(tmp_path):
    def fresh(name):
        return Oracle(Counter(math.nan), name="length", budget=6, log=tmp_path / name)

    def record(name):
        return [{k: v for k, v in x.items() if k != "seconds"} for x in lines(tmp_path / name)]

    batches = [["C", "CN", "CC"], ["CC", "CCC"], ["CCCC", "NC", "CCCCC", "CCCCCC", "O"]]
    whole = fresh("whole")
    answers = [whole(batch) for batch in batches]

    first = fresh("broken")
    first(batches[0])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    first(batches[1])  # lost: the run is killed before its next checkpoint
    with (tmp_path / "broken").open("a") as log:
        log.write('{"call": 5, "smi')
    file.seek(0)
    again = fresh("broken")
    again.load_state_dict(torch.load(file, weights_only=True))
    assert (again.calls, again.remaining) == (3, 3)
    for batch, expected in zip(batches[1:], answers[1:], strict=True):
        answer = again(batch)
        assert answer.status == expected.status
        np.testing.assert_array_equal(answer.values, expected.values)
    assert record("broken") == record("whole")
    assert len(record("whole")) == 6


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-5], "the state recorded"),
        (lambda text: text.replace('"C"', '"N"'), "damaged or of another run"),
        (lambda text: "", "the state recorded"),
    ],
)
def test_damaged_log_is_refused_and_left_alone(tmp_path, damage, message):
    path = tmp_path / "calls.jsonl"
    oracle = Oracle(Counter(), name="length", log=path)
    oracle(["C", "CC"])
    path.write_text(damage(path.read_text()))
    content = path.read_text()
    again = Oracle(Counter(), name="length", log=path)
    with pytest.raises(ValueError, match=message):
        again.load_state_dict(oracle.state_dict())
    assert path.read_text() == content
    assert again.calls == 0


def test_state_of_another_property_is_refused():
    state = Oracle(Counter(), name="qed").state_dict()
    with pytest.raises(ValueError, match="'qed', this one is 'length'"):
        Oracle(Counter(), name="length").load_state_dict(state)


def test_share_of_failures_survives_resuming():
    oracle = Oracle(Counter(ValueError("first")), name="length")
    oracle(["N" + "C" * n for n in range(1, 15)])
    again = Oracle(Counter(), name="length")
    again.load_state_dict(oracle.state_dict())
    with pytest.raises(OracleError, match=r"14 of 20 calls.*ValueError: first"):
        again(alkanes(6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": -1}, "budget"),
        ({"workers": -1}, "workers"),
        ({"timeout": 0.0, "workers": 1}, "timeout must"),
        ({"timeout": 1.0}, "needs workers"),
        ({"max_failed": 1.5}, "max_failed"),
        ({"min_heavy_atoms": 0}, "min_heavy_atoms"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Oracle(Counter(), name="length", **arguments)


def test_function_that_workers_cannot_receive_is_refused_at_once():
    with pytest.raises(TypeError, match="top of a module"):
        Oracle(lambda smiles: 1.0, name="constant", workers=1)


@pytest.mark.dist
def test_number_of_workers_changes_nothing(tmp_path):
    molecules = [*recombine(60), "C1CC", None, *recombine(10)]

    def run(name, workers):
        with Oracle(
            log_p, name="log_p", budget=55, log=tmp_path / name, workers=workers
        ) as oracle:
            parts = [oracle(molecules[:7]), oracle(molecules[7:])]
        record = [(x["call"], x["smiles"], x["value"]) for x in lines(tmp_path / name)]
        return record, [p.status for p in parts], np.concatenate([p.values for p in parts])

    alone, parallel = run("alone", 0), run("parallel", 2)
    assert alone[:2] == parallel[:2]
    assert len(alone[0]) == 55
    np.testing.assert_array_equal(alone[2], parallel[2])


@pytest.mark.dist
def test_hanging_call_is_killed_with_its_programs_and_the_others_are_answered(faults, tmp_path):
    oracle = Oracle(faults.hang_on_nitrogen, name="hang", workers=1, timeout=0.5)
    with oracle:
        batch = oracle([*alkanes(5), "CN", *alkanes(5, 6)])
        killed = time.monotonic()
    assert batch.status == (*["ok"] * 5, "failed", *["ok"] * 5)
    assert batch.values[-1] == 10
    assert "timeout=0.5" in oracle.state_dict()["first_error"]
    if sys.platform != "win32":  # process groups are a POSIX matter
        time.sleep(max(0.0, killed + 2.0 - time.monotonic()))
        assert not (tmp_path / "survived").exists()


@pytest.mark.dist
def test_dying_worker_fails_one_call_alone(faults):
    with Oracle(faults.die_on_nitrogen, name="die", workers=1, max_failed=1.0) as oracle:
        batch = oracle([*alkanes(30), "CN", *alkanes(3, 31)])
    assert batch.status == (*["ok"] * 30, "failed", *["ok"] * 3)
    assert "exit code 3" in oracle.state_dict()["first_error"]


@pytest.mark.dist
def test_worker_that_cannot_import_the_function_is_an_oracle_error(faults, tmp_path, capfd):
    oracle = Oracle(faults.die_on_nitrogen, name="lost", workers=1)
    (tmp_path / "oracle_faults.py").unlink()
    with oracle, pytest.raises(OracleError, match=r"'lost'.*before it took work"):
        oracle(["C"])
    assert oracle.calls == 0
    assert "oracle_faults" in capfd.readouterr().err


@pytest.mark.dist
def test_batch_left_early_leaves_no_stale_answers():
    pool = WorkerPool(log_p, 1)
    try:
        for _ in pool.run(alkanes(6)):
            break
        answers = dict(pool.run(["CCO", "CCN"]))
        assert {k: v.value for k, v in answers.items()} == {0: log_p("CCO"), 1: log_p("CCN")}
    finally:
        pool.close()
