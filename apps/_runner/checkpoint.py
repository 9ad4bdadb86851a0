"""One checkpoint file: written whole or not at all, read without running code from it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from apps._runner.settings import UserError

__all__ = ["check_settings", "gather", "plain", "read", "restore", "write"]

FORMAT = "lv-checkpoint-1"
# Where a run is kept and how fast it goes may change between its sessions.
FREE = ("out", "data", "resume", "check", "threads")


def gather(
    modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]
) -> dict[str, dict[str, Any]]:
    """Returns the states of plain or DDP-wrapped modules and of their optimisers.

    Names carry no "module." prefix, so a checkpoint moves between one process and many.
    """
    # imported here: it costs a second or more, which --help and errors need not wait for
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {
        "modules": {key: get_model_state_dict(m, options=whole) for key, m in modules.items()},
        "optimizers": {key: optimizer.state_dict() for key, optimizer in optimizers.items()},
    }


def plain(value: object, name: str) -> object:
    """Returns `value` made of tensors, numbers, strings, lists, tuples and dicts only.

    Raises:
        TypeError: If a part cannot be loaded with `weights_only=True`; names the part.
    """
    if isinstance(value, Tensor):
        return value.detach().clone()  # a view would drag its whole storage into the file
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {plain(key, name): plain(part, f"{name}[{key!r}]") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(part, f"{name}[{i}]") for i, part in enumerate(value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"{name} must consist of tensors, arrays, numbers, strings, lists and dicts, "
        f"got {type(value).__name__}; save its state_dict"
    )


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes `content` to `path` under a temporary name first: a kill leaves the old file."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **content}, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read(path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint with all tensors on the CPU.

    Raises:
        UserError: If the file is damaged or was not written by `write`.
    """
    remedy = "remove it and start over, or choose another --out"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen classes for damaged files
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise UserError(f"{path} cannot be read as a checkpoint ({reason}); {remedy}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of a run; {remedy}")
    return content


def check_settings(
    path: Path, saved: Mapping[str, Any], now: Mapping[str, Any], may_change: Sequence[str]
) -> None:
    """Refuses a checkpoint of other settings; both are flat, as from `settings.flatten`.

    Raises:
        UserError: Naming each key that differs, with both values.
    """
    differing = [
        f"{key} {saved.get(key, 'absent')!r} -> {now.get(key, 'absent')!r}"
        for key in sorted({*saved, *now})
        if saved.get(key) != now.get(key) and key not in (*FREE, *may_change)
    ]
    if differing:
        raise UserError(
            f"{path} was made with other settings: {', '.join(differing)}; "
            "use those it was made with, or another --out"
        )


def restore(
    path: Path,
    content: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, Optimizer],
) -> None:
    """Puts saved states into modules and optimisers.

    Raises:
        UserError: If the checkpoint lacks one or its shapes differ: the code has changed.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    for kind, targets in (("modules", modules), ("optimizers", optimizers)):
        if missing := [key for key in targets if key not in content[kind]]:
            raise UserError(
                f"{path} has no {kind} named {', '.join(missing)}; it has: "
                f"{', '.join(content[kind]) or 'none'}"
            )
    try:
        for key, module in modules.items():
            set_model_state_dict(module, content["modules"][key], options=whole)
        for key, optimizer in optimizers.items():
            optimizer.load_state_dict(content["optimizers"][key])
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"{path} does not fit the model ({' '.join(str(error).split())[:200]}); "
            "was it written by another version of the code?"
        ) from None
