"""Several processes under `torchrun`: who am I, wait, gather with gradient, average. On one process all are no-ops."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed
import torch.distributed.nn.functional
from torch import Tensor

PATIENCE = datetime.timedelta(hours=2)  # how long ranks wait for one another: rank 0 evaluates while the others wait


def init(device: str = "") -> torch.device:
    """Join the process group that torchrun's environment describes, if there is one, and choose the device.

    Calling it again changes nothing. Processes on CPUs talk through gloo, on GPUs through NCCL.

    Args:
        device: "" = this process's GPU if there is one, else the CPU; or "cpu", "cuda", "cuda:1".

    Returns:
        The device of this process; its index is torchrun's LOCAL_RANK where none is given.

    Raises:
        ValueError: a device that does not exist here.
    """
    chosen = _device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)
    return chosen


def finish() -> bool:
    """Leave the process group; whether this process is the one that goes on with what is for one alone."""
    main = is_main()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return main


def rank() -> int:
    """Number of this process among all, from 0."""
    return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def is_main() -> bool:
    """Whether this process is the one that writes files and talks."""
    return rank() == 0


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        torch.distributed.barrier()


def gather_with_gradient(x: Tensor) -> Tensor:
    """The rows of all processes, in the order of the ranks; gradients flow back to the process that each row came from.

    Let every rank compute the whole batch's loss from the gathered rows and average the gradients over the ranks, as
    DistributedDataParallel does: they are then those of one process that has the whole batch. (Without a gradient
    through the gathering, they would be smaller by the number of ranks, and silently.)

    Args:
        x: (b, ...), b may differ between the ranks and may be 0; the other axes and the dtype may not.

    Returns:
        (sum of b, ...). On one process `x` itself.
    """
    if world_size() == 1:
        return x
    if torch.is_grad_enabled() and not x.requires_grad:
        x = x.detach().requires_grad_()  # the gradient's way back is collective too: every rank must take part in it
    own = torch.tensor([len(x)], device=x.device)  # (1,)
    rows = [torch.empty_like(own) for _ in range(world_size())]
    torch.distributed.all_gather(rows, own)
    counts = [int(count) for count in rows]
    padding = x.new_zeros(max(counts) - len(x), *x.shape[1:])  # (max b - b, ...)
    padded = torch.cat([x, padding]) if len(padding) else x.contiguous()  # (max b, ...)
    gathered = torch.distributed.nn.functional.all_gather(padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])  # (sum of b, ...)


def gather(value: Any) -> list[Any]:
    """One picklable object of every rank, in the order of the ranks. For small things: it passes through the CPU."""
    values: list[Any] = [value]
    if world_size() > 1:
        values = [None] * world_size()
        torch.distributed.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """Rank 0's object, on every rank."""
    values = [value]
    if world_size() > 1:
        torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def mean(rows: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Each named number averaged over the ranks that have it, for logging.

    Args:
        rows: as many on every rank, such as one dict a step; their names may differ between the ranks.
    """
    if world_size() == 1:
        return [dict(row) for row in rows]
    averaged = []
    for parts in zip(*gather([dict(row) for row in rows]), strict=True):
        names = dict.fromkeys(name for part in parts for name in part)
        values = {name: [part[name] for part in parts if name in part] for name in names}
        averaged.append({name: sum(of_ranks) / len(of_ranks) for name, of_ranks in values.items()})
    return averaged


def _device(name: str) -> torch.device:
    if not name:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or not (index.isdecimal() or index == ""):
        raise ValueError(f"the device must be cpu, cuda or cuda:<number>: got {name!r}.")
    if kind == "cpu":
        return torch.device("cpu")
    chosen = torch.device("cuda", int(index or os.environ.get("LOCAL_RANK", "0")))
    if chosen.index >= torch.cuda.device_count():
        raise ValueError(f"no device {str(chosen)!r} here: there are {torch.cuda.device_count()} GPUs. Choose cpu.")
    return chosen
