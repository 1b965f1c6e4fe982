"""The loss of several modalities over rows that lack some, on one process and on two, and the collapse it tells of."""

import itertools
import logging
import multiprocessing
import os

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from mm import distributed
from mm.losses import JointLoss, hinge, info_nce, siglip, triplet
from mm.losses.joint import COLLAPSE_STEPS

MARGIN = 0.2
SCALE, BIAS = torch.tensor(10.0), torch.tensor(-3.0)
BATCH = 9
ROWS = {
    "image": torch.tensor([0, 1, 2, 4, 5, 8]),
    "text": torch.tensor([0, 2, 3, 4, 5, 6, 7, 8]),
    "audio": torch.tensor([1, 2, 3, 8]),
}
OWNER = torch.tensor([[7, 1], [7, 2], [3, 3], [4, 1], [5, 5], [5, 6], [6, 7], [8, 8], [3, 9]])
BY_NAME = {  # what each name stands for, per row
    "info_nce": lambda a, b, owner: info_nce(a, b, SCALE, owner),
    "siglip": lambda a, b, owner: siglip(a, b, SCALE, BIAS, owner),
    "hinge": lambda a, b, owner: hinge(a, b, owner, MARGIN) / len(a),
    "hardest": lambda a, b, owner: hinge(a, b, owner, MARGIN, hardest=True) / len(a),
    "triplet": lambda a, b, owner: triplet(a, b, owner, MARGIN),
}
every_loss = pytest.mark.parametrize("name", BY_NAME)


def unit(rows, seed, dim=8):
    values = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(values, dim=-1)


def batch(modalities=tuple(ROWS)):
    vectors = {modality: unit(len(ROWS[modality]), seed) for seed, modality in enumerate(ROWS)}
    return {m: vectors[m] for m in modalities}, {m: ROWS[m] for m in modalities}


def parts_of(name, vectors, rows, owner=OWNER, step=0):
    return JointLoss(name, MARGIN)(vectors, rows, owner, SCALE, BIAS, step)


@every_loss
def test_it_is_the_pairwise_loss_of_the_rows_that_have_both(name):
    vectors, rows = batch()
    parts = parts_of(name, vectors, rows)
    assert list(parts) == ["image_text_loss", "image_audio_loss", "text_audio_loss"]
    for first, second in itertools.combinations(ROWS, 2):
        common = [row for row in range(BATCH) if row in ROWS[first].tolist() and row in ROWS[second].tolist()]
        a = vectors[first][[ROWS[first].tolist().index(row) for row in common]]
        b = vectors[second][[ROWS[second].tolist().index(row) for row in common]]
        expected = BY_NAME[name](a, b, OWNER[common])
        torch.testing.assert_close(parts[f"{first}_{second}_loss"], expected, rtol=1e-12, atol=0)


@every_loss
def test_three_modalities_are_the_three_pairs_each_alone(name):
    parts = parts_of(name, *batch())
    for first, second in itertools.combinations(ROWS, 2):
        alone = parts_of(name, *batch((first, second)))
        assert list(alone) == [f"{first}_{second}_loss"]
        assert torch.equal(alone[f"{first}_{second}_loss"], parts[f"{first}_{second}_loss"])


def test_a_pair_that_no_row_has_both_of_is_left_out():
    vectors, rows = batch()
    rows = {"image": torch.tensor([0, 1, 2, 3, 4, 5]), "text": rows["text"], "audio": torch.tensor([6, 7, 8])}
    vectors["audio"] = vectors["audio"][:3]
    assert list(parts_of("info_nce", vectors, rows)) == ["image_text_loss", "text_audio_loss"]


def test_related_rows_are_no_negatives_whichever_column_says_so():
    vectors, rows = batch(("image", "text"))
    alike = parts_of("hinge", vectors, rows, torch.zeros(BATCH, 1, dtype=torch.int64))
    assert float(alike["image_text_loss"]) == 0  # all belong together: nothing to tell apart
    apart = parts_of("hinge", vectors, rows, torch.arange(BATCH))
    either = parts_of("hinge", vectors, rows, torch.stack([torch.arange(BATCH), torch.zeros(BATCH).long()], dim=1))
    assert float(apart["image_text_loss"]) > 0
    assert float(either["image_text_loss"]) == 0


def test_hardest_is_the_sum_of_hinges_before_the_warm_up_ends():
    vectors, rows = batch(("image", "text"))
    loss = JointLoss("hardest", MARGIN, warmup_steps=5)
    found = [float(loss(vectors, rows, OWNER, SCALE, None, step)["image_text_loss"]) for step in (0, 4, 5, 6)]
    before, after = (float(parts_of(name, vectors, rows)["image_text_loss"]) for name in ("hinge", "hardest"))
    assert found == [before, before, after, after]
    assert before > after


def test_what_cannot_be_is_rejected():
    with pytest.raises(ValueError, match=r"must be info_nce, siglip, hinge, hardest or triplet: got 'infonce'\."):
        JointLoss("infonce", MARGIN)
    with pytest.raises(ValueError, match=r"siglip needs a logit bias: build the head with one\."):
        JointLoss("siglip", MARGIN)(*batch(("image", "text")), OWNER, SCALE, None, 0)


# Two processes ------------------------------------------------------------------------------------------------------


class Towers(nn.Module):
    """A linear map per modality, as a joint model gives it: unit vectors of the rows that have the modality."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.maps = nn.ParameterDict(
            {m: nn.Parameter(torch.randn(5, 4, generator=generator, dtype=torch.float64)) for m in ROWS}
        )

    def forward(self, inputs):
        return {  # a joint model gives vectors without a gradient for what no row has
            m: functional.normalize(values @ self.maps[m], dim=-1) if len(values) else values.new_zeros(0, 4)
            for m, values in inputs.items()
        }


def share(rows, first, stop):
    """The part of the global batch from row `first` on: inputs and rows; of a modality that no row has, none."""
    inputs, own = {}, {}
    for seed, modality in enumerate(ROWS):
        here = (rows[modality] >= first) & (rows[modality] < stop)
        inputs[modality] = unit(len(rows[modality]), 10 + seed, dim=5)[here]
        own[modality] = rows[modality][here] - first
    return inputs, own


def gradients(name, rows, owner, first, stop, wrap=lambda model: model):
    model = Towers()
    inputs, own = share(rows, first, stop)
    wrapped = wrap(model)  # DDP must live until the backward pass
    parts = parts_of(name, wrapped(inputs), own, owner[first:stop])
    sum(parts.values()).backward()
    return {m: p.grad for m, p in model.maps.items()}, {part: value.item() for part, value in parts.items()}


OF_TWO = {  # rows of a global batch of eight, four on each rank
    "some lack some": {"image": [0, 1, 2, 4, 5, 7], "text": [0, 2, 3, 4, 5, 6, 7], "audio": [1, 2, 3, 7]},
    "one has no sound": {"image": [0, 1, 2, 4, 5, 7], "text": [0, 1, 3, 4, 5, 6, 7], "audio": [0, 1, 2]},
    "one has no picture": {"image": [4, 6, 7], "text": [0, 1, 2, 3, 4, 5, 7], "audio": [0, 2, 3, 6]},
}


def rank_process(rank, folder, results):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    owner = OWNER[:8]
    for case, rows in OF_TWO.items():
        rows = {modality: torch.tensor(places) for modality, places in rows.items()}
        for name in BY_NAME:

            def wrap(model):
                return DistributedDataParallel(model, find_unused_parameters=True)

            found, parts = gradients(name, rows, owner, 4 * rank, 4 * rank + 4, wrap)
            results.put((case, name, rank, {m: g.tolist() for m, g in found.items()}, parts))
    distributed.finish()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """{(case, loss, rank): (gradients, parts)} of two gloo processes with half of the batch each."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    folder = tmp_path_factory.mktemp("gloo")
    ranks = [context.Process(target=rank_process, args=(rank, folder, results), daemon=True) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    stuck = [process for process in ranks if process.is_alive()]
    for process in stuck:
        process.kill()
    found = {}
    while not results.empty():
        case, name, rank, gradient, parts = results.get()
        found[case, name, rank] = gradient, parts
    assert not stuck, f"the ranks wait for one another for ever; done: {list(found)}"
    assert [process.exitcode for process in ranks] == [0, 0]
    return found


@pytest.mark.parametrize("case", OF_TWO)
@every_loss
def test_two_processes_have_the_gradient_of_one(of_two, case, name):
    rows = {modality: torch.tensor(places) for modality, places in OF_TWO[case].items()}
    expected, parts = gradients(name, rows, OWNER[:8], 0, 8)
    for rank in (0, 1):
        found, of_rank = of_two[case, name, rank]
        assert of_rank.keys() == parts.keys()
        assert of_rank == pytest.approx(parts, rel=1e-12)
        for modality, gradient in expected.items():
            torch.testing.assert_close(
                torch.tensor(found[modality], dtype=torch.float64), gradient, rtol=1e-9, atol=1e-12
            )


# Collapse -----------------------------------------------------------------------------------------------------------


def train(loss, steps, offset, caplog):
    """Two linear maps learn to pair 64 points with their noisy pictures; with an offset all vectors start as one."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(64, 16, generator=generator)
    pictures = points @ torch.randn(16, 24, generator=generator) / 4 + 0.1 * torch.randn(64, 24, generator=generator)
    maps = nn.ModuleList([nn.Linear(16, 12), nn.Linear(24, 12)])
    for linear in maps:
        nn.init.normal_(linear.weight, std=0.02, generator=generator)
        nn.init.constant_(linear.bias, offset)
    optimiser = torch.optim.Adam(maps.parameters(), lr=0.01)
    rows = {"image": torch.arange(64), "text": torch.arange(64)}
    losses, warned = [], []
    with caplog.at_level(logging.WARNING, logger="mm"):
        for step in range(steps):
            vectors = {
                m: functional.normalize(linear(x), dim=-1)
                for m, linear, x in zip(rows, maps, (points, pictures), strict=True)
            }
            value = loss(vectors, rows, torch.arange(64), SCALE, None, step)["image_text_loss"]
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            losses.append(value.item())
            warned.append(len(caplog.records))
    return losses, warned


def test_a_collapse_from_the_start_is_told_within_twenty_steps(caplog):
    losses, warned = train(JointLoss("hardest", MARGIN), COLLAPSE_STEPS + 5, 10.0, caplog)
    assert losses[0] == pytest.approx(2 * MARGIN, rel=1e-3)  # per row: every score is equal
    assert warned == [0] * (COLLAPSE_STEPS - 1) + [1] * 6  # once, not at every step
    message = caplog.records[0].getMessage()
    assert message.startswith("the hardest-negative loss of image_text has stayed at 2 x margin x batch = 25.6 for 20")
    assert "loss.warmup_steps" in message


def test_the_default_recipe_leaves_the_collapse(caplog):
    losses, warned = train(JointLoss("hardest", MARGIN, warmup_steps=200), 400, 10.0, caplog)
    assert losses[0] == pytest.approx(2 * MARGIN * 63, rel=1e-2)  # the sum over all negatives
    assert losses[-1] < 0.6 * 2 * MARGIN
    assert warned[-1] == 0


def test_a_good_start_needs_no_warning(caplog):
    losses, warned = train(JointLoss("hardest", MARGIN), 60, 0.0, caplog)
    assert losses[-1] < 0.5 * losses[0]
    assert warned[-1] == 0


def test_each_pair_is_watched_by_itself(caplog):
    one = functional.normalize(torch.ones(6, 4), dim=-1)
    vectors = {"image": one, "text": one, "audio": unit(6, 0, dim=4).float()}
    rows = dict.fromkeys(vectors, torch.arange(6))
    loss = JointLoss("hardest", MARGIN)
    with caplog.at_level(logging.WARNING, logger="mm"):
        for step in range(2 * COLLAPSE_STEPS + 1):
            loss(vectors, rows, torch.arange(6), SCALE, None, step)
    told = [record.getMessage().split(" has ")[0] for record in caplog.records]
    assert told == ["the hardest-negative loss of image_text"] * 2  # and again after as many steps
