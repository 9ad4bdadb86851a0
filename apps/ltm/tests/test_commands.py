"""Commands on a tiny run: one success each with checked numbers, and mistakes in one line."""

import json
import math
import os
import shlex
import shutil
from pathlib import Path

import pytest
import torch

from apps.ltm.__main__ import main
from apps.ltm.commands_open import Common, open_model, table

TINY = shlex.split("""
--variants ar fixed amortised --processes 1 --corpus.documents 40 --corpus.vocabulary 300
--model.width 16 --model.heads 2 --model.length 24 --model.window 8 --model.slots 2
--inference.steps 2 --train.iterations 2 --train.batch-size 2 --train.micro-batch 2
--train.warm-up 1 --evaluate.blocks 3 --evaluate.quick-blocks 2 --evaluate.steps 4
--evaluate.samples 2 --generate.samples 1
""")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    main(["smoke", *TINY, "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in the formats of the benchmarks."""
    folder = tmp_path_factory.mktemp("sets")
    rows = [{"text": f"the cook of town {n} sold bread"} for n in range(40)]
    (folder / "lambada.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for split in ("train", "test"):
        problems = [
            {"question": f"What is {n} and 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"}
            for n in range(6)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, problems)))
    return folder


def words(run: Path, command: str, *flags: str) -> list[str]:
    return [command, "--run", str(run), *flags]


def written(run: Path, name: str) -> dict:
    return json.loads((run / f"{name}.json").read_text("utf-8"))


def test_generates_from_the_prior_reproducibly(run: Path, capsys):
    texts = []
    for seed in ("1", "1", "2"):
        main(words(run, "generate", "--count", "2", "--seed", seed, "--tokens", "9"))
        told = capsys.readouterr()
        assert "model: fixed-0" in told.err
        texts.append(told.out)
    assert texts[0] == texts[1] != texts[2]
    assert texts[0].count("z from the prior") == 2


def test_generates_without_latents_from_the_autoregressive_model(run: Path, capsys):
    main(words(run, "generate", "--model", "ar-0", "--count", "1"))
    assert "no latents: " in capsys.readouterr().out
    main(words(run, "generate", "--model", "ar-0", "--count", "1", "--prompt", "the cook"))
    told = capsys.readouterr().out
    assert "no latents" in told
    assert "the cook|" in told


def test_completes_a_prompt_with_new_inferences_beyond_the_models_length(run: Path, capsys):
    flags = ["--prompt", "the cook", "--count", "1", "--tokens", "40", "--replan", "8"]
    main(words(run, "generate", *flags, "--temperature", "0", "--steps", "3"))
    told = capsys.readouterr().out
    assert "the cook|" in told
    # 40 tokens in pieces of 8; an EOS may end it earlier
    assert 1 <= told.count("floor") <= 5


def test_evaluates_like_the_run_and_writes_what_it_prints(run: Path, capsys):
    main(words(run, "evaluate", "--blocks", "3", "--steps", "4", "--samples", "2"))
    told, found = capsys.readouterr().out, written(run, "evaluate-fixed-0")
    assert set(found["per_token"]["bounds"]) == {"2", "4", "2 released", "4 released"}
    assert "NO bound" in told
    assert "exact NLL without latents, ar-0" in told
    first = json.loads((run / "cells" / "fixed-0.json").read_text())["held_out"]
    for way, numbers in first["bounds"].items():
        for name in ("nelbo_shared_noise", "nelbo", "iwae", "kl"):
            mean = sum(numbers[name]) / sum(numbers["tokens"])
            value, error = found["per_token"]["bounds"][way][name]
            # float32 on one machine; the run rounds to 0.001 nats per block
            assert value == pytest.approx(mean, abs=1e-3)
            assert error >= 0
            assert f"{value:.3f} ± {error:.3f}" in told
    base = json.loads((run / "cells" / "ar-0.json").read_text())["held_out"]["continuation"]
    ours = first["continuation"]
    gain = (sum(base["nll"]) - sum(ours["nll"])) / sum(ours["tokens"])
    assert found["per_token"]["predictive_gain"][0] == pytest.approx(gain, abs=1e-3)


def test_evaluates_models_without_steps_and_without_latents(run: Path, capsys):
    main(words(run, "evaluate", "--blocks", "1", "--model", "amortised-0", "--samples", "1"))
    told = capsys.readouterr().out
    assert "NO bound" not in told
    assert "valid bound at one draw" in told
    numbers = written(run, "evaluate-amortised-0")["per_token"]
    assert math.isfinite(numbers["bounds"]["encoder"]["nelbo"][0])
    assert numbers["bounds"]["encoder"]["nelbo"][1] is None  # one block has no standard error
    assert numbers["predictive_gain"][1] is None
    main(words(run, "evaluate", "--blocks", "2", "--model", "ar-0"))
    assert "exact NLL without latents, ar-0" in capsys.readouterr().out
    assert written(run, "evaluate-ar-0")["per_token"]["bounds"] == {}


def test_scores_a_benchmark_zero_shot_with_bounds_marked(run: Path, sets: Path, capsys):
    flags = ["--set", "lambada", "--path", str(sets / "lambada.jsonl"), "--limit", "4"]
    main(words(run, "zero-shot", *flags, "--samples", "2"))
    rows = {row["number"]: row for row in written(run, "zero-shot-lambada-fixed-0")["scores"]}
    assert not rows["shared-noise number"]["a bound"]
    assert rows["valid bound"]["a bound"]
    assert rows["IWAE"]["nats per token"] <= rows["valid bound"]["nats per token"]
    assert rows["exact NLL without latents"]["a bound"]
    assert "4 of " in capsys.readouterr().out


def test_a_run_without_a_baseline_says_so(run: Path, sets: Path, capsys):
    alone = run.parent / "alone"
    (alone / "cells").mkdir(parents=True)
    shutil.copy(run / "run.json", alone)
    shutil.copy(run / "cells" / "amortised-0.state.pt", alone / "cells")
    flags = ["--set", "lambada", "--path", str(sets / "lambada.jsonl"), "--limit", "2"]
    main(words(alone, "zero-shot", *flags, "--samples", "1"))
    told = capsys.readouterr()
    assert "model: amortised-0" in told.err
    assert "model without latents: none in this run" in told.out
    assert len(written(alone, "zero-shot-lambada-amortised-0")["scores"]) == 3
    main(words(alone, "evaluate", "--blocks", "2", "--samples", "1"))
    assert written(alone, "evaluate-amortised-0")["per_token"]["exact"] == {}


def test_solves_problems_in_context_and_tells_both_scores(run: Path, sets: Path, capsys):
    flags = ["--path", str(sets), "--count", "3", "--shots", "2", "--repetitions", "2"]
    main(words(run, "gsm8k", *flags))
    told, found = capsys.readouterr().out, written(run, "gsm8k-2-shot-fixed-0")
    assert "pass@1: " in told
    assert "parity_substring_pass@2: " in told
    assert found["prompts_cut"] == 3  # 24 tokens hold no two demonstrations
    assert [len(one["texts"]) for one in found["answers"]] == [2, 2, 2]
    main(words(run, "gsm8k", *flags, "--model", "ar-0"))
    assert "all repetitions are alike" in capsys.readouterr().out


def test_probes_layers_swaps_and_paths(run: Path, capsys):
    main(words(run, "probe", "--blocks", "3", "--points", "3"))
    told, found = capsys.readouterr().out, written(run, "probe-fixed-0")
    assert found["layers"] == [0, 1, 2]
    assert len(found["accuracy_zeros"]) == len(found["accuracy_prior"]) == 3
    # With all layers kept nothing is replaced.
    assert found["nll_zeros"][-1] == pytest.approx(found["nll_prior"][-1], abs=1e-5)
    assert len(found["path"]) == 3
    matrix = torch.tensor(found["swap"]["fitted"]["matrix"])
    gap = (matrix - matrix.diagonal()[:, None]).sum() / (3 * 2)
    assert found["swap"]["fitted"]["gap_per_token"] == pytest.approx(float(gap), abs=1e-4)
    assert {"fitted", "fresh"} == found["swap"].keys()
    assert "decoded from its latents" in told


def test_probes_go_into_the_figures_of_a_record(run: Path):
    from apps.ltm.commands_probe import probe_model
    from apps.ltm.figures import draw
    from apps.ltm.single import read_record

    opened = open_model(Common(run=str(run), model="fixed-0", device="cpu"))
    record = read_record(run / "cells" / "fixed-0.json")
    record["probes"] = probe_model(opened, blocks=2, texts=1, points=0)
    assert "path" not in record["probes"]
    assert {"Latents by layer", "Reconstructions"} <= draw([record]).keys()


@pytest.mark.parametrize("name", ["generate", "evaluate", "zero-shot", "gsm8k", "probe"])
def test_every_command_has_help(name: str, capsys):
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    assert "--run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["generate", "--modle", "x"], "Perhaps you meant: --model STR"),
        (["generate", "--count", "0"], "count must be positive, got 0"),
        (["generate", "--tokens", "-3"], "tokens must be positive"),
        (["generate", "--tokens", "99"], "99"),
        (["generate", "--temperature", "-1"], "temperature must be finite and not negative"),
        (["generate", "--top-p", "0"], "top_p must be in (0, 1]"),
        (["generate", "--replan", "8"], "belong to a prompt"),
        (["generate", "--prompt", "a", "--scale", "0.5"], "scale is a factor on draws"),
        (["generate", "--prompt", "a " * 60], "set --replan"),
        (["generate", "--prompt", "a", "--steps", "-1"], "steps must be positive"),
        (["generate", "--model", "fresh-0"], "there are: amortised-0, ar-0, fixed-0"),
        (["evaluate", "--steps", "0"], "steps must be positive, got (0,)"),
        (["evaluate", "--blocks", "0"], "blocks must be positive, got 0"),
        (["zero-shot", "--model", "ar-0"], "there are: amortised-0, fixed-0"),
        (["zero-shot", "--limit", "-1"], "limit must be positive"),
        (["zero-shot", "--samples", "0"], "samples must be positive"),
        (["zero-shot", "--path", "no/such"], "path names no file or folder: 'no/such'"),
        (["zero-shot", "--set", "ptb"], "invalid choice"),
        (["gsm8k", "--count", "0"], "count must be positive"),
        (["gsm8k", "--tokens", "24"], "tokens must be in 1..23"),
        (["probe", "--blocks", "1"], "blocks must be two or more"),
        (["probe", "--model", "ar-0"], "needs a model with latents"),
    ],
)
def test_mistakes_end_in_one_line(run: Path, argv: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as end:
        main([*argv, "--run", str(run)])
    assert end.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].startswith(f"python -m apps.ltm {argv[0]}: ")
    assert message in told[-1]
    assert not any("Traceback" in line for line in told)


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path, capsys):
    def told(folder: Path) -> str:
        with pytest.raises(SystemExit) as end:
            main(["generate", "--run", str(folder)])
        assert end.value.code == 2
        return capsys.readouterr().err

    assert "holds no run (no run.json)" in told(tmp_path)
    record = json.loads((run / "run.json").read_text())
    cases = {
        "damaged": "{",
        "of the app 'sgds'": json.dumps(record | {"app": "sgds"}),
        "another version": json.dumps(record | {"settings": record["settings"] | {"nwe": 1}}),
        "holds no trained model yet": json.dumps(record),
    }
    for message, content in cases.items():
        (tmp_path / "run.json").write_text(content)
        assert message in told(tmp_path)
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "fixed-0.state.pt").touch()
    assert "is not beside it" in told(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_told(run: Path, capsys):
    with pytest.raises(SystemExit) as end:
        main(words(run, "generate", "--device", "cuda"))
    assert end.value.code == 2
    assert "torch sees no GPU" in capsys.readouterr().err


def test_problems_need_room_for_their_question(run: Path, sets: Path, capsys):
    with pytest.raises(SystemExit):
        main(words(run, "gsm8k", "--path", str(sets), "--tokens", "20"))
    assert "leave room for the question" in capsys.readouterr().err


def test_fewer_steps_scale_a_given_rate(run: Path):
    from dataclasses import replace

    opened = open_model(Common(run=str(run), device="cpu"))
    assert opened.inference() is opened.cell.inference
    given = replace(opened.cell.inference, steps=16, lr=0.3)
    opened = replace(opened, cell=replace(opened.cell, inference=given))
    assert opened.inference(48).lr == pytest.approx(0.1)


def test_tables_align_their_columns():
    text = table([{"model": "a", "NLL": 1.0}, {"model": "longer", "NLL": 12.5}]).splitlines()
    assert len({len(line) for line in text}) == 1
    assert text[3].endswith("12.5")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("wikitext", "wikitext2-eval"),
        ("lambada", "lambada"),
        ("ag-news", "ag-news"),
        ("scitldr", "scitldr"),
        ("tinyshakespeare", "tinyshakespeare"),
    ],
)
def test_reads_every_real_set(run: Path, name: str, folder: str):
    path = Path(os.environ["LV_DATA"]) / folder
    main(words(run, "zero-shot", "--set", name, "--path", str(path), "--limit", "2"))
    for row in written(run, f"zero-shot-{name}-fixed-0")["scores"]:
        # Two updates leave a model at about ln 300 = 5.7 nats per token.
        assert 4 < row["nats per token"] < 8


@pytest.mark.data
def test_reads_the_real_problems(run: Path):
    path = Path(os.environ["LV_DATA"]) / "gsm8k"
    main(words(run, "gsm8k", "--path", str(path), "--count", "2", "--repetitions", "2"))
    assert written(run, "gsm8k-0-shot-fixed-0")["answers"][0]["final"] == "18"
