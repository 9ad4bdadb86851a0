"""The hopper of MuJoCo against the trajectories of the data set."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lv_dynamics.systems import hoppers, split

SLIDE = '<joint type="slide" axis="{}"/>'
BALL = '<geom type="sphere" size=".1"/>'
ROOT = SLIDE.format("1 0 0") + SLIDE.format("0 1 0") + SLIDE.format("0 0 1") + BALL


def machine(*bodies):
    """Writes a model of bodies in each other."""
    inner = "".join(f"<body>{body}" for body in bodies) + "</body>" * len(bodies)
    return f"<mujoco><worldbody>{inner}</worldbody></mujoco>"


@pytest.fixture(autouse=True)
def mujoco():
    return pytest.importorskip("mujoco")


@pytest.mark.data
def test_reproduces_the_trajectories_of_the_data_set():
    with np.load(Path(os.environ["LV_DATA"]) / "hopper" / "hopper_2000.npz") as archive:
        states = torch.from_numpy(archive["states"][:40])
        low, high = torch.from_numpy(archive["min10k"]), torch.from_numpy(archive["max10k"])
    s = hoppers(40)
    # float32 rounding of the file, at velocities up to 45
    torch.testing.assert_close(s.values, states, atol=1e-5, rtol=0)
    torch.testing.assert_close(hoppers(3, skip=17).values, states[17:20], atol=1e-5, rtol=0)
    later = hoppers(5, skip=8000).values  # the usual test set lies within the stated extrema
    assert bool(((later >= low - 1e-4) & (later <= high + 1e-4)).all())
    wrong = hoppers(40, seed=124).values
    assert (wrong - states).abs().max() > 1


def test_draws_poses_in_their_ranges_and_then_falls():
    s = hoppers(300, 3)
    first = s.values[:, 0]
    for channels, low, high in (
        (slice(0, 2), 0, 0.5),
        (slice(2, 7), -2, 2),
        (slice(7, 14), -5, 5),
    ):
        part = first[:, channels]
        assert low <= part.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < part.max() <= high
    assert s.times[0].tolist() == pytest.approx([0, 1 / 3, 2 / 3])
    # a position moves by the velocity after the step (semi-implicit Euler), 5 ms later
    x = s.to(torch.float64).values
    torch.testing.assert_close(x[:, 1, :7], x[:, 0, :7] + 0.005 * x[:, 1, 7:], atol=1e-5, rtol=0)


def test_parts_do_not_overlap():
    parts = {
        part: split("hopper", part, n=2, rows=2).values for part in ("train", "valid", "test")
    }
    torch.testing.assert_close(parts["valid"], hoppers(2, 2, skip=7600).values)
    torch.testing.assert_close(parts["test"], hoppers(2, 2, skip=8000).values)
    assert not torch.equal(parts["train"], parts["test"])


def test_takes_a_model_file(tmp_path):
    path = tmp_path / "sliders.xml"
    path.write_text(machine(ROOT, ROOT, SLIDE.format("1 0 0") + BALL))
    s = hoppers(2, 5, model=path)
    assert s.values.shape == (2, 5, 14)
    path.write_text(machine(ROOT))
    with pytest.raises(ValueError, match="7 positions and 7 velocities, got 3 and 3"):
        hoppers(1, model=path)


def test_refuses_numbers_out_of_range_and_says_what_to_install(monkeypatch):
    with pytest.raises(ValueError, match="n and rows must be positive"):
        hoppers(0)
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ImportError, match=r"lv-dynamics\[mujoco\]"):
        hoppers(1)
