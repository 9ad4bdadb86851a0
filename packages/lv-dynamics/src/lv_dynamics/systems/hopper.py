"""A falling and tumbling planar hopper, by the physics engine MuJoCo."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lv_dynamics.sequences import Sequences

__all__ = ["hoppers"]

STEP = 0.005  # seconds of one physics step
# Name, place of the body in its parent (z), ends of its capsule (x0, z0, x1, z1), radius, range
# of the hinge that holds it in degrees; lengths in meters. Dimensions of the planar hopper of
# dm_control (Apache-2.0).
LINKS = (
    ("pelvis", -0.05, (0.0, 0.0, 0.0, -0.15), 0.065, (-30.0, 30.0)),
    ("thigh", -0.2, (0.0, 0.0, 0.0, -0.33), 0.04, (-170.0, 10.0)),
    ("calf", -0.33, (0.0, 0.0, 0.0, -0.32), 0.03, (5.0, 150.0)),
    ("foot", -0.32, (-0.08, 0.0, 0.17, 0.0), 0.04, (-45.0, 45.0)),
)
TORSO = (((0.0, -0.05, 0.0, 0.2), 0.0653), ((0.08, 0.13, 0.15, 0.14), 0.03))


def hoppers(
    n: int,
    rows: int = 200,
    *,
    seed: int = 123,
    skip: int = 0,
    model: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> Sequences:
    """Returns trajectories of a planar hopper that is thrown in a random pose, without control.

    For each trajectory (x, z) ~ U(0, 0.5), the tilt and the four joint angles ~ U(-2, 2), all
    velocities ~ U(-5, 5); then state and one physics step of 5 ms in turns. Numbers come from
    NumPy's legacy generator, as in the data sets in use, hence a seed and no torch generator: the
    default reproduces the trajectories of the data set hopper in their order, bit for bit with
    MuJoCo 3.3.7.

    Arguments:
        n: Number of trajectories.
        rows: States in each.
        seed: Seed of the legacy generator.
        skip: How many trajectories of that seed to pass over, e.g. 8000 for the usual test set.
        model: MuJoCo model file of another machine with 7 degrees of freedom; None means the
            hopper, which is built here.
        dtype: Type of the result; it is computed in float64.

    Returns:
        Sequences with values `(n, rows, 14)`, 7 positions and 7 velocities, and times k / rows in
        units of the whole trajectory (1 s when rows is 200).

    Raises:
        ImportError: If mujoco is not installed.
        ValueError: If a number is out of range, or the model has other degrees of freedom.

    Source:
        Rubanova et al., "Latent ODEs for irregularly-sampled time series", 2019, code; Tassa et
        al., "DeepMind control suite", 2018.
    """
    try:
        import mujoco
    except ImportError:
        raise ImportError("hoppers needs MuJoCo: pip install 'lv-dynamics[mujoco]'") from None
    if n < 1 or rows < 1 or skip < 0:
        raise ValueError(
            f"n and rows must be positive and skip not negative, {n=}, {rows=}, {skip=}"
        )
    compiled = _hopper() if model is None else mujoco.MjModel.from_xml_path(str(model))
    if (compiled.nq, compiled.nv) != (7, 7):
        raise ValueError(
            f"model must have 7 positions and 7 velocities, got {compiled.nq} and {compiled.nv}"
        )
    data = mujoco.MjData(compiled)
    legacy = np.random.RandomState(seed)
    states = np.empty((n, rows, 14))
    for number in range(-skip, n):
        start = [legacy.uniform(0, 0.5, 2), legacy.uniform(-2, 2, 5), legacy.uniform(-5, 5, 7)]
        if number < 0:
            continue
        mujoco.mj_resetData(compiled, data)
        data.qpos[:], data.qvel[:] = np.concatenate(start[:2]), start[2]
        # The halves of a step in dm_control's order; mj_step starts the contact solver otherwise
        # and differs by 2e-6 after 200 steps.
        mujoco.mj_forward(compiled, data)
        for row in range(rows):
            states[number, row] = *data.qpos, *data.qvel
            mujoco.mj_step2(compiled, data)
            mujoco.mj_step1(compiled, data)
    times = torch.arange(rows, dtype=torch.float64) / rows
    return Sequences(times, torch.from_numpy(states)).to(dtype)


def _hopper() -> Any:  # noqa: ANN401 - mujoco has no complete stubs
    """Builds the hopper: a free torso in the plane y = 0 and four links on hinges."""
    import mujoco

    capsule = mujoco.mjtGeom.mjGEOM_CAPSULE
    slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
    spec = mujoco.MjSpec()
    spec.option.timestep = STEP
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[50, 1.25, 0.2], pos=[48, 0, 0])
    body = spec.worldbody.add_body(name="torso", pos=[0, 0, 1])
    for kind, axis in ((slide, [1, 0, 0]), (slide, [0, 0, 1]), (hinge, [0, 1, 0])):
        body.add_joint(type=kind, axis=axis)
    for ends, radius in TORSO:
        body.add_geom(type=capsule, fromto=_ends(*ends), size=[radius, 0, 0])
    for name, place, ends, radius, bounds in LINKS:
        body = body.add_body(name=name, pos=[0, 0, place])
        body.add_joint(
            type=hinge, axis=[0, 1, 0], limited=True, range=bounds, damping=0.05, armature=0.2
        )
        body.add_geom(type=capsule, fromto=_ends(*ends), size=[radius, 0, 0])
    return spec.compile()


def _ends(x0: float, z0: float, x1: float, z1: float) -> list[float]:
    return [x0, 0.0, z0, x1, 0.0, z1]
