"""Modules over several processes: copied or sharded, and when they exchange gradients."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import nn

__all__ = ["gathered", "spread", "syncing"]


def spread(module: nn.Module, *, sharded: bool, idle: bool) -> nn.Module:
    """Returns a module prepared for several processes.

    Arguments:
        module: On its device.
        sharded: Whether its parameters are sharded (FSDP2, in place) or copied (DDP).
        idle: Whether some parameters get no gradient in some updates.
    """
    if not sharded:
        return nn.parallel.DistributedDataParallel(module, find_unused_parameters=idle)
    from torch.distributed.fsdp import fully_shard

    # the encoder's mean is a view; nothing is written into it
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* view tensor")
    fully_shard(module)
    return module


@contextmanager
def gathered(modules: Iterable[nn.Module], *, sharded: bool) -> Iterator[None]:
    """Collects sharded parameters once for all fast steps."""
    found = list(modules) if sharded else []
    for module in found:
        module.unshard()  # type: ignore[operator]  # FSDP's
    try:
        yield
    finally:
        for module in found:
            module.reshard()  # type: ignore[operator]


@contextmanager
def syncing(modules: Iterable[nn.Module], *, now: bool) -> Iterator[None]:
    """Leaves the exchange of gradients to the last backward pass of an update."""
    with ExitStack() as stack:
        for module in modules:
            if isinstance(module, nn.parallel.DistributedDataParallel) and not now:
                stack.enter_context(module.no_sync())
        yield
