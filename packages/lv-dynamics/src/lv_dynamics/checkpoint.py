"""Files of settings and weights, which run no code when they are read."""

import os
from typing import TypeVar

import torch
from torch import Tensor, nn

from lv_dynamics.config import OdeConfig

__all__ = ["load_weights", "read_model"]

Model = TypeVar("Model", bound=nn.Module)


def read_model(
    path: str | os.PathLike[str], device: torch.device | str
) -> tuple[OdeConfig, dict[str, Tensor]]:
    """Returns settings and weights of the file that `EnergyOde.save` wrote.

    Raises:
        ValueError: If the file holds anything else.
    """
    record = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(record, dict) or record.keys() != {"config", "state"}:
        raise ValueError(f"{os.fspath(path)} is no model that EnergyOde.save wrote")
    return OdeConfig.from_dict(record["config"]), record["state"]


def load_weights(
    model: Model,
    state: dict[str, Tensor],
    path: str | os.PathLike[str],
    device: torch.device | str,
) -> Model:
    """Returns the model with the weights of a file, in their dtype, on a device.

    Raises:
        ValueError: If the weights are those of other modules.
    """
    kinds = {t.dtype for t in state.values() if t.is_floating_point()}
    model.to(device=device, dtype=kinds.pop() if len(kinds) == 1 else None)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{os.fspath(path)} holds weights of other modules than the settings make: give the "
            f"custom ones to load(path, field=..., emission=...): {error}"
        ) from error
    return model
