"""What a user can type, and what is said when it is wrong."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from apps._runner import RunSettings, UserError, cli_errors, parse


@dataclass(frozen=True, kw_only=True)
class Kernel:
    steps: int = 20
    """Langevin steps"""
    step_size: float = 0.1
    clip: float | None = None

    def __post_init__(self):
        if self.steps <= 0:
            raise ValueError(f"steps must be positive, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class Train:
    steps: int = 60
    """optimiser updates"""
    batch_size: int = 8
    sizes: tuple[int, ...] = (4, 4)
    kernel: Kernel = field(default_factory=Kernel)


@dataclass(frozen=True, kw_only=True)
class Settings(RunSettings):
    """A made-up app."""

    mode: Literal["joint", "two-stage"] = "joint"
    train: Train = field(default_factory=Train)


@pytest.fixture
def presets(tmp_path):
    folder = tmp_path / "presets"
    folder.mkdir()
    for name in ("gpu", "paper"):
        (folder / f"{name}.toml").write_text("# nothing\n")
    (folder / "smoke.toml").write_text('mode = "two-stage"\n[train]\nsteps = 5\n')
    (folder / "cpu.toml").write_text(
        "check = true\n[train]\nbatch_size = 2\nsizes = [1, 2, 3]\n"
        "[train.kernel]\nsteps = 7\nclip = -2.5\n"
    )
    return folder


def read(presets, *argv):
    return parse(Settings, presets, argv, prog="python -m apps.made_up")


def test_without_a_preset_takes_smoke(presets):
    name, settings = read(presets, "--train.batch-size", "3")
    assert (name, settings.mode, settings.train.steps, settings.train.batch_size) == (
        "smoke",
        "two-stage",
        5,
        3,
    )


def test_command_line_wins_over_preset_and_preset_over_defaults(presets):
    _, settings = read(presets, "cpu", "--train.kernel.steps", "9", "--resume", "True")
    assert settings.train.kernel == Kernel(steps=9, clip=-2.5)
    assert settings.train.sizes == (1, 2, 3)
    assert settings.train.steps == 60
    assert settings.check is True
    assert settings.resume is True


def test_takes_a_file_of_ones_own(presets, tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text("seed = 4\nout = ''\n")
    name, settings = read(presets, str(own))
    assert (name, settings.seed) == ("mine", 4)


def test_help_shows_the_values_of_the_preset(presets, capsys):
    with pytest.raises(SystemExit) as end:
        read(presets, "cpu", "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "default: 1 2 3" in text
    assert "optimiser updates" in text
    assert "python -m apps.made_up cpu" in text


def test_unknown_preset_lists_those_that_exist(presets):
    with pytest.raises(UserError) as error:
        read(presets, "smok")
    assert str(error.value) == "unknown preset 'smok'; there are: cpu, gpu, paper, smoke"


def test_missing_file_is_named(presets):
    with pytest.raises(UserError, match=r"there is no preset file nowhere\.toml"):
        read(presets, "nowhere.toml")


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("[trian]\nsteps = 3\n", "trian.steps = 3", "--train.steps"),
        ('seed = 1\n[train]\nsteps = "many"\n', "train.steps = 'many'", "int"),
        ("[train]\nsteps = 2.5\n", "train.steps = 2.5", "int"),
        ('mode = "jiont"\n', "mode = 'jiont'", "two-stage"),
        ("[train.kernel]\nsteps = -1\n", "train.kernel.steps = -1", "must be positive, got -1"),
    ],
)
def test_wrong_key_or_value_in_a_file_is_named(presets, tmp_path, text, key, reason):
    own = tmp_path / "mine.toml"
    own.write_text(text)
    with pytest.raises(UserError) as error:
        read(presets, str(own))
    assert str(error.value).startswith(f"{own}: {key}: ")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_file_that_is_not_toml_is_named(presets, tmp_path):
    own = tmp_path / "mine.toml"
    own.write_text("seed = = 3\n")
    with pytest.raises(UserError, match=r"mine\.toml is not valid TOML"):
        read(presets, str(own))


def test_misspelt_flag_gets_a_suggestion_and_status_2(presets, capsys):
    with pytest.raises(SystemExit) as end:
        read(presets, "smoke", "--trian.steps", "3")
    assert end.value.code == 2
    assert "--train.steps INT" in capsys.readouterr().err


def test_booleans_are_spelt_out(presets):
    with pytest.raises(SystemExit):
        read(presets, "smoke", "--resume")


def test_mistakes_of_the_user_end_with_one_line_and_status_2(capsys):
    with pytest.raises(SystemExit) as end, cli_errors("prog", KeyError):
        raise UserError("first\n  second")
    assert end.value.code == 2
    assert capsys.readouterr().err == "prog: first second\n"


def test_listed_errors_end_with_one_line_and_others_keep_their_traceback():
    with pytest.raises(SystemExit), cli_errors("prog", ZeroDivisionError):
        raise ZeroDivisionError("listed")
    with pytest.raises(ValueError, match="a bug"), cli_errors("prog", ZeroDivisionError):
        raise ValueError("a bug")


def test_only_the_first_process_prints(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit), cli_errors("prog"):
        raise UserError("said by rank 0 alone")
    assert capsys.readouterr().err == ""


def test_presets_of_every_app_fit_its_settings():
    # The apps own their settings; here only that each preset file starts with its cost.
    for path in Path(__file__).parents[2].glob("*/presets/*.toml"):
        assert path.read_text().startswith("#"), f"{path} must begin with a comment on its cost"
