import itertools

import numpy as np
import pytest
import torch

from mm.data import Batches, Item, Pairs, UnreadableError


class Numbers:
    """An example per (epoch, index) whose "text" says which; as long as asked for."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, key):
        return {"owner": key[1], "text_key": 1000 * key[0] + key[1], "text": torch.tensor(key)}


class Noisy(Numbers):
    """Examples that would change with a worker's own generators."""

    def __getitem__(self, key):
        wave = torch.from_numpy(np.random.default_rng((7, *key)).random(4))
        return {"owner": key[1], "audio": wave, "text": torch.tensor([torch.get_num_threads()])}


def take(batches, count, start=0):
    return list(itertools.islice(batches(start), count))


def keys(batch):
    return [tuple(row) for row in batch["text"].values.tolist()]


def equal(a, b):
    return torch.equal(a["owner"], b["owner"]) and all(
        torch.equal(a[name].values, b[name].values) for name in a if name != "owner"
    )


def test_every_epoch_is_a_permutation_cut_into_batches():
    batches = Batches(Numbers(23), batch_size=5, seed=1)
    assert batches.per_epoch == 4
    seen = [keys(batch) for batch in take(batches, 12)]
    for epoch in range(3):
        rows = [key for batch in seen[4 * epoch : 4 * epoch + 4] for key in batch]
        assert {e for e, _ in rows} == {epoch} and len({index for _, index in rows}) == 20
    orders = [[index for batch in seen[4 * e : 4 * e + 4] for _, index in batch] for e in range(3)]
    assert orders[0] != orders[1] != orders[2]
    left_out = [set(range(23)) - set(order) for order in orders]
    assert left_out[0] != left_out[1]  # what waits in one epoch comes in another


def test_batches_follow_the_seed():
    same, other = ([keys(b) for b in take(Batches(Numbers(50), 8, seed), 9)] for seed in (3, 4))
    assert same == [keys(b) for b in take(Batches(Numbers(50), 8, 3), 9)] != other


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_batches_for_any_number_of_workers(workers):
    alone, helped = (take(Batches(Noisy(30), 4, seed=2, workers=count), 10, start=5) for count in (0, workers))
    assert all(torch.equal(a["audio"].values, b["audio"].values) for a, b in zip(alone, helped, strict=True))
    assert helped[0]["text"].values.eq(1).all()  # one torch thread in a loading process


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_at_any_step(workers):
    batches = Batches(Numbers(23), 5, seed=6, workers=workers)
    whole = take(Batches(Numbers(23), 5, seed=6), 11)
    for start in (0, 1, 3, 4, 9):
        assert all(equal(a, b) for a, b in zip(take(batches, 2, start), whole[start : start + 2], strict=True))


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    take(Batches(Numbers(9), 3), 2)
    take(Batches(Numbers(9), 3, workers=1), 2)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_one_batch(world):
    for whole, *parts in zip(
        take(Batches(Numbers(40), 12, seed=8), 7),
        *(take(Batches(Numbers(40), 12, seed=8, rank=rank, world=world), 7) for rank in range(world)),
        strict=True,
    ):
        assert [len(keys(part)) for part in parts] == [12 // world] * world
        assert keys(whole) == [key for part in parts for key in keys(part)]


def test_a_data_set_that_is_smaller_than_a_batch():
    assert [len(keys(b)) for b in take(Batches(Numbers(7), 128), 3)] == [7, 7, 7]
    two = [Batches(Numbers(7), 128, rank=rank, world=2) for rank in range(2)]
    assert two[0].batch_size == 6 and two[0].per_epoch == 1
    first, second = (keys(take(part, 1)[0]) for part in two)
    assert len(first) == len(second) == 3 and not set(first) & set(second)


def test_a_damaged_file_is_named_from_a_loading_process(tmp_path, prepare):
    (tmp_path / "bad.jpg").write_bytes(b"no")
    pairs = Pairs([Item("x", "x", (tmp_path / "bad.jpg",))], prepare)
    for workers in (0, 1):
        with pytest.raises(UnreadableError, match=r"bad\.jpg"):
            take(Batches(pairs, 1, workers=workers), 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "positive multiple of the 1 ranks: got 0"),
        ({"batch_size": 9, "world": 2}, "positive multiple of the 2 ranks: got 9"),
        ({"rank": 2, "world": 2}, r"rank must be in 0\.\.1 for a world of 2: got 2"),
        ({"workers": -1}, "workers and the seed must be at least 0: got -1 and 0"),
        ({"seed": -5}, "got 0 and -5"),
        ({"world": 16, "batch_size": 16}, "an example for each of the 16 ranks: got 10"),
    ],
)
def test_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        Batches(Numbers(10), **{"batch_size": 4, **options})


def test_rejected_start_and_empty_set():
    with pytest.raises(ValueError, match="start_step must be at least 0: got -1"):
        Batches(Numbers(10), 2)(-1)
    with pytest.raises(ValueError, match="an example for each of the 1 ranks: got 0"):
        Batches(Numbers(0), 2)
