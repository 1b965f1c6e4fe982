"""Endless training batches: batch k is a function of the seed and of k alone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from mm.data.cache import DamagedCacheError
from mm.data.collate import collate
from mm.data.item import UnreadableError
from mm.data.mixed import shares
from mm.data.pairs import Pairs

DAMAGE = (UnreadableError, DamagedCacheError)


class Examples(Protocol):
    """What `Batches` reads: `mm.data.pairs.Pairs`, or anything else that is looked up by (epoch, index)."""

    def __len__(self) -> int: ...

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]: ...


class Batches:
    """`batches(start_step)` is an endless iterator over the batches start_step, start_step + 1, ...

    Each epoch is a new permutation of all examples, drawn from (seed, epoch) and cut into batches; what does not fill
    the last batch waits for another epoch. Of mixed sets (`mm.data.mixed`) each has its share of every epoch, and an
    item is looked up by (pass over its set, index), so that one that comes twice in an epoch is not drawn alike. With
    several ranks, every rank reads its own consecutive part of one global batch, so that the parts in the order of the
    ranks are the batch that one process would read. Batches are the same for any number of workers.

    Args:
        dataset: looked up by (epoch, index).
        batch_size: examples of a step over all ranks together. A data set that is smaller gives batches of all its
            examples, less the few that do not divide among the ranks.
        seed: of the permutations, at least 0.
        workers: loading processes, each with one torch thread; 0 = this process loads.
        rank: of this process.
        world: number of processes; must divide the batch.
        collate: makes a batch of examples.

    Attributes:
        batch_size: examples of a step over all ranks, after the rule for small data sets.
        per_epoch: batches of an epoch.

    Raises:
        ValueError: an empty data set, fewer examples than ranks, or numbers that do not fit together.
    """

    def __init__(
        self,
        dataset: Examples,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        rank: int = 0,
        world: int = 1,
        collate: Callable[[list[Any]], dict[str, Any]] = collate,
    ):
        if not 0 <= rank < world:
            raise ValueError(f"rank must be in 0..{world - 1} for a world of {world}: got {rank}.")
        if batch_size < 1 or batch_size % world:
            raise ValueError(f"batch_size must be a positive multiple of the {world} ranks: got {batch_size}.")
        if workers < 0 or seed < 0:
            raise ValueError(f"workers and the seed must be at least 0: got {workers} and {seed}.")
        if len(dataset) < world:
            raise ValueError(f"a data set must have an example for each of the {world} ranks: got {len(dataset)}.")
        self.dataset = dataset
        self.batch_size = min(batch_size, len(dataset) // world * world)
        self.per_epoch = len(dataset) // self.batch_size
        self.seed = seed
        self.workers = workers
        self.rank = rank
        self.world = world
        self.collate = collate
        self.shares = shares(dataset.items, self.per_epoch * self.batch_size) if isinstance(dataset, Pairs) else None
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))  # the latest epoch and its keys

    def keys(self, step: int) -> list[tuple[int, int]]:
        """The (epoch, index) of this rank's examples in batch `step`."""
        epoch, batch = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            self._order = (epoch, self._drawn(epoch))
        share = self.batch_size // self.world
        first = batch * self.batch_size + self.rank * share
        return [(int(turn), int(index)) for turn, index in self._order[1][first : first + share]]

    def _drawn(self, epoch: int) -> np.ndarray:
        """(n, 2) keys of the examples of an epoch, in their order."""
        if self.shares:
            return self.shares.keys(self.seed, epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.dataset))  # (n,)
        return np.stack([np.full_like(order, epoch), order], axis=1)  # (n, 2)

    def __call__(self, start_step: int = 0) -> Iterator[dict[str, Any]]:
        """The batches from `start_step` on, as `collate` makes them, pinned where there is a GPU.

        Raises:
            ValueError: `start_step` is negative.
            UnreadableError, DamagedCacheError: (when it is its batch's turn) what an example is made of is damaged.
        """
        if start_step < 0:
            raise ValueError(f"start_step must be at least 0: got {start_step}.")
        loader: DataLoader[Any] = DataLoader(
            _Told(self.dataset),  # type: ignore[arg-type]
            batch_sampler=_Keys(self, start_step),
            num_workers=self.workers,
            collate_fn=partial(_collated, self.collate),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_leave_signals_to_the_parent,
            generator=torch.Generator().manual_seed(self.seed),  # else the loader would draw from torch's global one
        )
        return _or_error(iter(loader))


class _Told:
    """A data set that gives a damaged example as its error: a loading process would bury the message in a traceback."""

    def __init__(self, dataset: Examples):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any] | Exception:
        try:
            return self.dataset[key]
        except DAMAGE as error:
            return error


def _collated(collate: Callable[[list[Any]], dict[str, Any]], examples: list[Any]) -> dict[str, Any] | Exception:
    """The batch of some examples, or the first error among them."""
    return next((example for example in examples if isinstance(example, Exception)), None) or collate(examples)


def _or_error(batches: Iterator[Any]) -> Iterator[dict[str, Any]]:
    """Batches, until one is an error."""
    for batch in batches:
        if isinstance(batch, Exception):
            raise batch
        yield batch


class _Keys(Sampler[list[tuple[int, int]]]):
    """The endless key lists of a `Batches`, one epoch's permutation at a time."""

    def __init__(self, batches: Batches, start_step: int):
        self.batches = batches
        self.start_step = start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.start_step
        while True:
            yield self.batches.keys(step)
            step += 1


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C goes to the whole process group: the training process saves and ends its workers, they never end first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
