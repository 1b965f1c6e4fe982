"""The loss of several modalities over rows that lack some, on one process and on two, and the collapse it tells of."""

import itertools
import json
import logging
import multiprocessing
import os

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from mm import distributed
from mm.losses import (
    MARGINS,
    JointLoss,
    LossConfig,
    Memory,
    contrastive_loss,
    cosine_pairs,
    distance_weighted,
    hard,
    hinge,
    info_nce,
    mined_triplet,
    multi_similarity,
    n_pair,
    order_hinge,
    semi_hard,
    siglip,
    triplet,
)
from mm.losses.joint import COLLAPSE_STEPS

MARGIN, RADIUS = 0.2, 1.3
STEP = 3  # what is drawn by chance is drawn by the step
SCALE, BIAS = torch.tensor(10.0), torch.tensor(-3.0)
BATCH = 9
ROWS = {
    "image": torch.tensor([0, 1, 2, 4, 5, 8]),
    "text": torch.tensor([0, 2, 3, 4, 5, 6, 7, 8]),
    "audio": torch.tensor([1, 2, 3, 8]),
}
OWNER = torch.tensor([[7, 1], [7, 2], [3, 3], [4, 1], [5, 5], [5, 6], [6, 7], [8, 8], [3, 9]])


def two_ways(miner):
    """The triplet loss over what a miner gives, each side as anchors."""
    return lambda a, b, owner: sum(mined_triplet(x, y, miner(x, y, owner), MARGIN) for x, y in ((a, b), (b, a))) / 2


BY_NAME = {  # what each name stands for, per row
    "info_nce": lambda a, b, owner: info_nce(a, b, SCALE, owner),
    "siglip": lambda a, b, owner: siglip(a, b, SCALE, BIAS, owner),
    "hinge": lambda a, b, owner: hinge(a, b, owner, MARGIN) / len(a),
    "hardest": lambda a, b, owner: hinge(a, b, owner, MARGIN, hardest=True) / len(a),
    "triplet": lambda a, b, owner: triplet(a, b, owner, MARGIN),
    "triplet hard": two_ways(hard),
    "triplet semi_hard": two_ways(lambda a, b, owner: semi_hard(a, b, owner, MARGIN)),
    "triplet distance_weighted": two_ways(lambda a, b, owner: distance_weighted(a, b, owner, MARGIN, STEP)),
    "contrastive": lambda a, b, owner: contrastive_loss(a, b, owner, RADIUS),
    "n_pair": lambda a, b, owner: n_pair(a, b, owner, 0.002),
    "multi_similarity": lambda a, b, owner: multi_similarity(a, b, owner, 2, 50, 0.5, 0.1),
    "order": lambda a, b, owner: order_hinge(a, b, owner, MARGIN) / len(a),
    "cosine_semantic": lambda a, b, owner: 0.98 * cosine_pairs(a, b, owner, MARGIN, 0.8, STEP),
}
every_loss = pytest.mark.parametrize("name", BY_NAME)


def unit(rows, seed, dim=8):
    values = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return functional.normalize(values, dim=-1)


def batch(modalities=tuple(ROWS)):
    vectors = {modality: unit(len(ROWS[modality]), seed) for seed, modality in enumerate(ROWS)}
    return {m: vectors[m] for m in modalities}, {m: ROWS[m] for m in modalities}


def settings(name, **more):
    name, _, miner = name.partition(" ")
    margin = RADIUS if name == "contrastive" else MARGIN
    return LossConfig(name=name, margin=margin, warmup_steps=0, miner=miner or "all", **more)


def classes(vectors, owner):
    """Logits and targets where the loss learns classes too: two columns of the vectors, and one row in three."""
    logits = {m: own[:, :2] for m, own in vectors.items()}
    return {"logits": logits, "target": torch.where(torch.arange(len(owner)) % 3 == 0, 1, -1)}


def of_pairs(parts):
    return {name: value for name, value in parts.items() if "_class_" not in name}


def parts_of(name, vectors, rows, owner=OWNER, step=STEP):
    more = classes(vectors, owner) if name == "cosine_semantic" else {}
    return JointLoss(settings(name))(vectors, rows, owner, SCALE, BIAS, step, **more)


@every_loss
def test_it_is_the_pairwise_loss_of_the_rows_that_have_both(name):
    vectors, rows = batch()
    parts = of_pairs(parts_of(name, vectors, rows))
    assert list(parts) == ["image_text_loss", "image_audio_loss", "text_audio_loss"]
    for first, second in itertools.combinations(ROWS, 2):
        common = [row for row in range(BATCH) if row in ROWS[first].tolist() and row in ROWS[second].tolist()]
        a = vectors[first][[ROWS[first].tolist().index(row) for row in common]]
        b = vectors[second][[ROWS[second].tolist().index(row) for row in common]]
        if name == "order" and first == "text":
            a, b = b, a  # a sentence is more abstract than a sound
        expected = BY_NAME[name](a, b, OWNER[common])
        torch.testing.assert_close(parts[f"{first}_{second}_loss"], expected, rtol=1e-12, atol=0)


@every_loss
def test_three_modalities_are_the_three_pairs_each_alone(name):
    parts = parts_of(name, *batch())
    for first, second in itertools.combinations(ROWS, 2):
        alone = parts_of(name, *batch((first, second)))
        assert list(of_pairs(alone)) == [f"{first}_{second}_loss"]
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
    loss = JointLoss(LossConfig(name="hardest", warmup_steps=5))
    found = [float(loss(vectors, rows, OWNER, SCALE, None, step)["image_text_loss"]) for step in (0, 4, 5, 6)]
    before, after = (float(parts_of(name, vectors, rows)["image_text_loss"]) for name in ("hinge", "hardest"))
    assert found == [before, before, after, after]
    assert before > after


def test_hard_triplets_are_all_triplets_before_the_warm_up_ends():
    vectors, rows = batch(("image", "text"))
    loss = JointLoss(LossConfig(name="triplet", miner="hard", warmup_steps=5))
    found = [float(loss(vectors, rows, OWNER, SCALE, None, step)["image_text_loss"]) for step in (0, 4, 5)]
    before, after = (float(parts_of(name, vectors, rows)["image_text_loss"]) for name in ("triplet", "triplet hard"))
    assert found == [before, before, after]
    assert before != after


def test_what_cannot_be_is_rejected():
    with pytest.raises(ValueError, match=r"siglip needs a logit bias: build the head with one\."):
        JointLoss(settings("siglip"))(*batch(("image", "text")), OWNER, SCALE, None, 0)
    with pytest.raises(
        ValueError, match=r'cosine_semantic needs logits of the classes, and batches with a class as "ta'
    ):
        JointLoss(settings("cosine_semantic"))(*batch(("image", "text")), OWNER, SCALE, None, 0)
    with pytest.raises(ValueError, match=r"loss.memory=8 needs a memory of each modality: got \[\]"):
        JointLoss(settings("info_nce", memory=8))


@pytest.mark.parametrize("name", MARGINS)
def test_a_margin_of_zero_is_the_usual_one(name):
    assert JointLoss(LossConfig(name=name)).margin == MARGINS[name]
    assert JointLoss(LossConfig(name=name, margin=0.3)).margin == 0.3


def test_classes_are_told_from_every_row_that_has_the_modality():
    vectors, rows = batch()
    parts = parts_of("cosine_semantic", vectors, rows)
    assert list(parts)[3:] == ["image_class_loss", "text_class_loss", "audio_class_loss"]
    for modality in ROWS:
        known = [k for k, row in enumerate(ROWS[modality].tolist()) if row % 3 == 0]
        logits, target = vectors[modality][known, :2], torch.ones(len(known), dtype=torch.int64)
        expected = 0.01 * functional.cross_entropy(logits.float(), target)
        torch.testing.assert_close(parts[f"{modality}_class_loss"], expected)


# Cross-batch memory --------------------------------------------------------------------------------------------------

KEPT = 13  # rows of a memory; a batch brings up to 8


def stream(steps):
    """Batches of new vectors and owners, of which some come back."""
    for step in range(steps):
        vectors = {m: unit(len(ROWS[m]), 100 * step + seed).float() for seed, m in enumerate(ROWS)}
        owner = torch.randint(0, 12, (BATCH, 2), generator=torch.Generator().manual_seed(step))
        yield step, vectors, owner + torch.tensor([0, 50])


def remembering(name, memory_from=0):
    cfg = settings(name, memory=KEPT, memory_from=memory_from)
    return JointLoss(cfg, {modality: Memory(KEPT, 8) for modality in ROWS})


def one_way(name, a, b, owner, step):
    """The loss of finding the partners of `a` among the rows of `b`, per row."""
    by_row = {
        "info_nce": lambda: info_nce(a, b, SCALE, owner, both_ways=False),
        "siglip": lambda: siglip(a, b, SCALE, BIAS, owner),
        "hinge": lambda: 2 * hinge(a, b, owner, MARGIN, both_ways=False) / len(a),
        "hardest": lambda: 2 * hinge(a, b, owner, MARGIN, 1.0, both_ways=False) / len(a),
        "triplet": lambda: triplet(a, b, owner, MARGIN, both_ways=False),
        "triplet hard": lambda: mined_triplet(a, b, hard(a, b, owner), MARGIN),
        "triplet semi_hard": lambda: mined_triplet(a, b, semi_hard(a, b, owner, MARGIN), MARGIN),
        "triplet distance_weighted": lambda: mined_triplet(a, b, distance_weighted(a, b, owner, MARGIN, step), MARGIN),
        "contrastive": lambda: contrastive_loss(a, b, owner, RADIUS),
        "n_pair": lambda: n_pair(a, b, owner, 0.002, both_ways=False),
        "multi_similarity": lambda: multi_similarity(a, b, owner, 2, 50, 0.5, 0.1, both_ways=False),
        "order": lambda: 2 * order_hinge(a, b, owner, MARGIN, both_ways=False) / len(a),
        "cosine_semantic": lambda: 0.98 * cosine_pairs(a, b, owner, MARGIN, 0.8, step),
    }
    return by_row[name]()


@every_loss
def test_with_a_memory_it_is_the_loss_over_the_whole_bank(name):
    """The bank as lists that grow: each batch first, then what earlier ones had, the newest first, `KEPT` rows."""
    loss = remembering(name)
    bank = {modality: [] for modality in ROWS}
    for step, vectors, owner in stream(4):
        more = classes(vectors, owner) if name == "cosine_semantic" else {}
        leaves = {m: own.requires_grad_() for m, own in vectors.items()}
        parts = of_pairs(loss(leaves, ROWS, owner, SCALE, BIAS, step, **more))
        for first, second in itertools.combinations(ROWS, 2):
            common = [row for row in range(BATCH) if row in ROWS[first].tolist() and row in ROWS[second].tolist()]
            total = 0
            for one, other, sign in ((first, second, 1), (second, first, -1)):
                if name == "order" and first == "text":
                    sign = -sign
                sign = sign if name == "order" else 1
                a = sign * leaves[one][[ROWS[one].tolist().index(row) for row in common]]
                b = leaves[other][[ROWS[other].tolist().index(row) for row in common]]
                rows = [*b, *(vector for vector, _ in bank[other])]
                owners = [*owner[common], *(whose for _, whose in bank[other])]
                total = total + one_way(name, a, sign * torch.stack(rows), torch.stack(owners), step) / 2
            found = parts[f"{first}_{second}_loss"]
            torch.testing.assert_close(found, total, rtol=1e-6, atol=1e-6)
            mine, slow = (torch.autograd.grad(x, leaves[first], retain_graph=True)[0] for x in (found, total))
            torch.testing.assert_close(mine, slow, rtol=1e-5, atol=1e-6)
        for modality in ROWS:
            new = list(zip(vectors[modality].detach(), owner[ROWS[modality]], strict=True))
            bank[modality] = [*new, *bank[modality]][:KEPT]
    assert [len(some) for some in bank.values()] == [KEPT] * 3  # and something was forgotten


@pytest.mark.parametrize("name", [name for name in BY_NAME if name != "cosine_semantic"])  # which then draws twice
def test_the_first_step_uses_the_batch_alone_and_a_memory_changes_the_next(name):
    loss, plain = remembering(name), JointLoss(settings(name))
    found = []
    for step, vectors, owner in stream(2):
        both = [each(vectors, ROWS, owner, SCALE, BIAS, step) for each in (loss, plain)]
        found.append([float(parts["image_text_loss"]) for parts in both])
    assert found[0][0] == pytest.approx(found[0][1], rel=1e-5)
    assert found[1][0] != pytest.approx(found[1][1], rel=1e-3)


def test_relatives_in_the_memory_are_no_negatives():
    """The very batch again, as on the next epoch of a small set: nothing in the memory may be pushed away."""
    loss, plain = remembering("hinge"), JointLoss(settings("hinge"))
    _, vectors, owner = next(stream(1))
    for step in range(3):
        parts = loss(vectors, ROWS, owner, SCALE, BIAS, step)
    alone = plain(vectors, ROWS, owner, SCALE, BIAS, 0)
    assert {*parts} == {*alone}
    assert parts["image_text_loss"] > alone["image_text_loss"]  # others' vectors count
    same = torch.zeros_like(owner)
    loss, plain = remembering("hinge"), JointLoss(settings("hinge"))
    for step in range(3):
        parts = loss(vectors, ROWS, same, SCALE, BIAS, step)
    assert all(float(part) == 0 for part in parts.values())


def test_the_memory_begins_when_asked_to():
    loss, plain = remembering("info_nce", memory_from=2), JointLoss(settings("info_nce"))
    differs = []
    for step, vectors, owner in stream(4):
        parts = [each(vectors, ROWS, owner, SCALE, BIAS, step)["image_text_loss"] for each in (loss, plain)]
        differs.append(abs(float(parts[0] - parts[1])) > 1e-3)
    assert differs == [False, False, False, True]  # filled from step 2 on


def test_its_state_survives_in_the_middle_bit_for_bit():
    whole, parts = remembering("info_nce"), remembering("info_nce")
    given = list(stream(5))
    kept = {}
    for step, vectors, owner in given:
        if step == 1:  # one batch in, the memory is not full
            kept = {m: {k: v.clone() for k, v in own.state_dict().items()} for m, own in whole.memory.items()}
        last = whole(vectors, ROWS, owner, SCALE, BIAS, step)
    for modality, memory in parts.memory.items():
        memory.load_state_dict(kept[modality])
    for step, vectors, owner in given[1:]:
        again = parts(vectors, ROWS, owner, SCALE, BIAS, step)
    assert all(torch.equal(again[name], last[name]) for name in last)
    for modality, memory in parts.memory.items():
        assert 0 < int(kept[modality]["count"]) < KEPT == int(memory.count)
        assert all(torch.equal(x, y) for x, y in zip(memory.kept(), whole.memory[modality].kept(), strict=True))


def test_no_gradient_goes_into_the_memory_and_no_average_takes_it_in():
    loss = remembering("info_nce")
    for step, vectors, owner in stream(2):
        leaves = {m: own.requires_grad_() for m, own in vectors.items()}
        sum(loss(leaves, ROWS, owner, SCALE, BIAS, step).values()).backward()
        assert all(own.grad.norm() > 0 for own in leaves.values())
    for memory in loss.memory.values():
        assert not memory.kept()[0].requires_grad and not list(memory.parameters())
        assert not any(buffer.is_floating_point() for buffer in memory.buffers())  # what mm.engine.optim averages


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
    cfg = settings(
        name.removesuffix(" memory"), **({"memory": 20, "memory_from": 0} if name.endswith(" memory") else {})
    )
    loss = JointLoss(cfg, {m: Memory(20, 4) for m in ROWS} if cfg.memory else None)
    target = torch.where(torch.arange(8) % 3 == 0, 1, -1)[first:stop]
    for step in range(0 if cfg.memory else STEP, STEP + 1):  # the last one behind what is kept of earlier batches
        vectors = wrapped(inputs)
        more = {**classes(vectors, owner), "target": target} if cfg.name == "cosine_semantic" else {}
        parts = loss(vectors, own, owner[first:stop] + step - STEP, SCALE, BIAS, step, **more)
    sum(parts.values()).backward()
    return {m: p.grad for m, p in model.maps.items()}, {part: value.item() for part, value in parts.items()}


IN_TWO = [*BY_NAME, *(f"{name} memory" for name in BY_NAME)]
OF_TWO = {  # rows of a global batch of eight, four on each rank
    "some lack some": {"image": [0, 1, 2, 4, 5, 7], "text": [0, 2, 3, 4, 5, 6, 7], "audio": [1, 2, 3, 7]},
    "one has no sound": {"image": [0, 1, 2, 4, 5, 7], "text": [0, 1, 3, 4, 5, 6, 7], "audio": [0, 1, 2]},
    "one has no picture": {"image": [4, 6, 7], "text": [0, 1, 2, 3, 4, 5, 7], "audio": [0, 2, 3, 6]},
}


def rank_process(rank, folder):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    owner, results = OWNER[:8], []
    for case, rows in OF_TWO.items():
        rows = {modality: torch.tensor(places) for modality, places in rows.items()}
        for name in IN_TWO:

            def wrap(model):
                return DistributedDataParallel(model, find_unused_parameters=True)

            found, parts = gradients(name, rows, owner, 4 * rank, 4 * rank + 4, wrap)
            results.append((case, name, {m: g.tolist() for m, g in found.items()}, parts))
    (folder / f"{rank}.json").write_text(json.dumps(results))
    distributed.finish()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    """{(case, loss, rank): (gradients, parts)} of two gloo processes with half of the batch each."""
    context = multiprocessing.get_context("fork")
    folder = tmp_path_factory.mktemp("gloo")
    ranks = [context.Process(target=rank_process, args=(rank, folder), daemon=True) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    stuck = [process for process in ranks if process.is_alive()]
    for process in stuck:
        process.kill()
    assert not stuck, "the ranks wait for one another for ever"
    assert [process.exitcode for process in ranks] == [0, 0]
    found = {}
    for rank in (0, 1):
        for case, name, gradient, parts in json.loads((folder / f"{rank}.json").read_text()):
            found[case, name, rank] = gradient, parts
    return found


@pytest.mark.parametrize("case", OF_TWO)
@pytest.mark.parametrize("name", IN_TWO)
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
    losses, warned = train(JointLoss(settings("hardest")), COLLAPSE_STEPS + 5, 10.0, caplog)
    assert losses[0] == pytest.approx(2 * MARGIN, rel=1e-3)  # per row: every score is equal
    assert warned == [0] * (COLLAPSE_STEPS - 1) + [1] * 6  # once, not at every step
    message = caplog.records[0].getMessage()
    assert message.startswith("the hardest-negative loss of image_text has stayed at 2 x margin x batch = 25.6 for 20")
    assert "loss.warmup_steps" in message


def test_the_default_recipe_leaves_the_collapse(caplog):
    losses, warned = train(JointLoss(LossConfig(name="hardest")), 400, 10.0, caplog)
    assert losses[0] == pytest.approx(2 * MARGIN * 63, rel=1e-2)  # the sum over all negatives
    assert losses[-1] < 0.6 * 2 * MARGIN
    assert warned[-1] == 0


def test_a_good_start_needs_no_warning(caplog):
    losses, warned = train(JointLoss(settings("hardest")), 60, 0.0, caplog)
    assert losses[-1] < 0.5 * losses[0]
    assert warned[-1] == 0


def test_each_pair_is_watched_by_itself(caplog):
    one = functional.normalize(torch.ones(6, 4), dim=-1)
    vectors = {"image": one, "text": one, "audio": unit(6, 0, dim=4).float()}
    rows = dict.fromkeys(vectors, torch.arange(6))
    loss = JointLoss(settings("hardest"))
    with caplog.at_level(logging.WARNING, logger="mm"):
        for step in range(2 * COLLAPSE_STEPS + 1):
            loss(vectors, rows, torch.arange(6), SCALE, None, step)
    told = [record.getMessage().split(" has ")[0] for record in caplog.records]
    assert told == ["the hardest-negative loss of image_text"] * 2  # and again after as many steps
