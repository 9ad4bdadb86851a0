"""States of modules and optimizers as whole tensors, however many processes hold them.

torch's own `get_state_dict` and `set_state_dict` refuse optimizers of which some parameters had
no gradient yet, as cross-attention before a late start of the latents.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["module_state", "optimizer_state", "put_module", "put_optimizer"]


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """Returns whole tensors on the CPU, copies; all processes must call it."""
    return {name: _whole(value) for name, value in module.state_dict().items()}


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Returns what the optimizer knows of each parameter by name; all processes must call it.

    Step sizes and the like are no part of it: they follow from the settings.
    """
    known = {
        name: {key: _whole(value) for key, value in optimizer.state[parameter].items()}
        for name, parameter in module.named_parameters()
        if optimizer.state.get(parameter)
    }
    return {"state": known}


@torch.no_grad()
def put_module(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Takes whole tensors, each process its own part.

    Raises:
        ValueError: If names or shapes are others.
    """
    own = module.state_dict()
    if strange := sorted(own.keys() ^ state.keys()):
        raise ValueError(f"{strange[0]} is in one of the two alone")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise ValueError(f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}")
        value.copy_(_part(state[name], value))


def put_optimizer(
    module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Takes what `optimizer_state` returned; other parameters begin anew."""
    optimizer.state.clear()
    fused = any(group.get("fused") for group in optimizer.param_groups)
    for name, parameter in module.named_parameters():
        for key, value in state["state"].get(name, {}).items():
            if key != "step":
                value = _part(value, parameter.detach())
            elif fused:  # its count of steps lives beside the parameter
                value = value.to(parameter.device)
            optimizer.state[parameter][key] = value


def _whole(value: Tensor) -> Tensor:
    value = value.detach()
    whole = value.full_tensor() if isinstance(value, DTensor) else value
    return whole.cpu().clone()


def _part(value: Tensor, like: Tensor) -> Tensor:
    value = value.to(like.device, like.dtype)
    if isinstance(like, DTensor):
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value.clone()
