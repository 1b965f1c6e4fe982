"""Losses of localisation against loops over pairs and places, in value and gradient, and what they may cost."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mm.heads.localiser import Compared, score_map
from mm.losses import hard_way, labelled_mean, map_cross_entropy, pooled_scores, scores_info_nce, two_way

HIGH, LOW, WIDTH, TEMPERATURE = 0.65, 0.4, 0.03, 0.07  # of the tri-map, as published
CHUNKED = ("max", "object")
POOLS = (*CHUNKED, "mean")


class Batch(NamedTuple):
    """Raw numbers, of which the losses see unit vectors: a gradient along a vector's own direction is nothing."""

    places: torch.Tensor  # (B, N, E)
    mask: torch.Tensor  # (B, N)
    sounds: torch.Tensor  # (B', E)
    owner: torch.Tensor | None

    def leaves(self):
        return self.places.clone().requires_grad_(), self.sounds.clone().requires_grad_()


def batch(rows=5, extra=0, columns=6, owner=None, padding=(), dim=4, seed=0, dtype=torch.float64):
    """Pictures in which some places are near their own sound, so that object, border and background all occur."""
    generator = torch.Generator().manual_seed(seed)
    sounds = torch.randn(rows + extra, dim, generator=generator, dtype=torch.float64)
    pull = torch.linspace(0, 3, columns, dtype=torch.float64)[None, :, None]  # (1, N, 1)
    places = torch.randn(rows, columns, dim, generator=generator, dtype=torch.float64) + pull * sounds[:rows, None]
    mask = torch.ones(rows, columns, dtype=torch.bool)
    for b, n in padding:
        mask[b, n] = False
    return Batch(places.to(dtype), mask, sounds.to(dtype), None if owner is None else torch.tensor(owner))


PADDING = [(0, 5), (0, 4), (2, 0), (3, 5), (3, 3)]
CASES = {
    "plain": batch(),
    "padding": batch(padding=PADDING),
    "owners": batch(owner=[3, 1, 3, 4, 1], seed=1),
    "two columns, unknown ids": batch(owner=[[3, -1], [1, 7], [3, -1], [4, 7], [-2, 8]], padding=PADDING, seed=2),
    "all are one": batch(owner=[3] * 5),
    "silence": batch(extra=2, seed=3),
    "silence, owners of the others": batch(extra=2, owner=[3, 1, 3, 4, 1], padding=PADDING, seed=4),
    "sounds of another process": batch(extra=3, owner=[3, 1, 3, 4, 1, 1, 3, 9], seed=5),
    "one": batch(rows=1),
    "one, padding": batch(rows=1, padding=[(0, 5)]),
    "one and silence": batch(rows=1, extra=2),
    "one and its relative": batch(rows=1, extra=1, owner=[5, 5]),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def unit(x):
    return functional.normalize(x, dim=-1)


def related(owner, i, j):
    """Slow and obvious: are clips i and j others that belong together?"""
    if i == j or owner is None or max(i, j) >= len(owner):
        return False
    left, right = owner[i].reshape(-1).tolist(), owner[j].reshape(-1).tolist()
    return any(x == y and x >= 0 for x, y in zip(left, right, strict=True))


def real_places(places, mask, b):
    return [places[b, n] for n in range(places.shape[1]) if mask[b, n]]


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def mean_above(cosines):
    weights = [sigmoid((cosine - HIGH) / WIDTH) for cosine in cosines]
    return sum(w * c for w, c in zip(weights, cosines, strict=True)) / sum(weights)


def mean_below(cosines):
    weights = [sigmoid((LOW - cosine) / WIDTH) for cosine in cosines]
    return sum(w * c for w, c in zip(weights, cosines, strict=True)) / sum(weights)


def slow_pooled(places, mask, sounds, pool):
    rows = []
    for b in range(len(places)):
        row = []
        for sound in sounds:
            cosines = [place @ sound for place in real_places(places, mask, b)]
            best = cosines[0]
            for cosine in cosines[1:]:
                best = cosine if cosine > best else best
            row.append({"max": best, "object": mean_above(cosines), "mean": sum(cosines) / len(cosines)}[pool])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def surprise(right, others):
    """Minus the logarithm of the softmax of the right one."""
    return -torch.log(torch.exp(right) / (torch.exp(right) + sum(torch.exp(other) for other in others)))


def slow_info_nce(scores, temperature, owner):
    forth, back = [], []
    rows, columns = scores.shape
    for i in range(rows):
        others = [scores[i, j] / temperature for j in range(columns) if j != i and not related(owner, i, j)]
        forth.append(surprise(scores[i, i] / temperature, others))
        others = [scores[j, i] / temperature for j in range(rows) if j != i and not related(owner, i, j)]
        back.append(surprise(scores[i, i] / temperature, others))
    return (sum(forth) / rows + sum(back) / rows) / 2


def slow_hard_way(places, mask, sounds, owner):
    losses = []
    for b in range(len(places)):
        real = real_places(places, mask, b)
        others = [j for j in range(len(sounds)) if j != b and not related(owner, b, j)]
        negatives = [mean_above([place @ sounds[j] for place in real]) for j in others]
        own = [place @ sounds[b] for place in real]
        negatives.append(mean_below(own))
        losses.append(surprise(mean_above(own) / TEMPERATURE, [negative / TEMPERATURE for negative in negatives]))
    return sum(losses) / len(losses)


def slow_two_way(seen, sounds, owner):
    losses = []
    for i in range(len(seen)):
        for j in range(len(sounds)):
            if i != j and not related(owner, i, j):
                near, far = torch.dist(seen[i], sounds[j]), torch.dist(seen[i], sounds[i])
                first, second = functional.softmax(torch.stack([far, near]), dim=0)  # of its own, of the other
                losses.append((first - 0) ** 2 + (second - 1) ** 2)
    return sum(losses) / len(losses) if losses else (seen.sum() + sounds.sum()) * 0


def slow_map_cross_entropy(scores, mask, target, temperature):
    losses = []
    for b in range(len(scores)):
        answers = [n for n in range(scores.shape[1]) if mask[b, n]]
        powers = {n: torch.exp(scores[b, n] / temperature) for n in answers} | {-1: torch.ones_like(scores[b, 0])}
        total = sum(powers.values())
        losses.append(-sum(target[b, n] * torch.log(power / total) for n, power in powers.items()))
    return torch.stack(losses)


def assert_same(mine, slow, inputs):
    """Two scalars and their gradients."""
    torch.testing.assert_close(mine, slow, rtol=1e-9, atol=1e-11)
    found, expected = (torch.autograd.grad(one, inputs, retain_graph=True, allow_unused=True) for one in (mine, slow))
    for x, y, of in zip(found, expected, inputs, strict=True):
        x, y = (torch.zeros_like(of) if grad is None else grad for grad in (x, y))
        torch.testing.assert_close(x, y, rtol=1e-7, atol=1e-9)


# Against loops ------------------------------------------------------------------------------------------------------


@every_case
@pytest.mark.parametrize("pool", POOLS)
def test_pooled_scores(case, pool):
    places, sounds = case.leaves()
    fast = pooled_scores(unit(places), case.mask, unit(sounds), pool)
    slow = slow_pooled(unit(places), case.mask, unit(sounds), pool)
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    aims = torch.randn(slow.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    assert_same((fast * aims).sum(), (slow * aims).sum(), (places, sounds))


@every_case
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_scores_info_nce(case, temperature):
    scores = slow_pooled(unit(case.places), case.mask, unit(case.sounds), "max").requires_grad_()
    learned = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    mine, slow = scores_info_nce(scores, learned, case.owner), slow_info_nce(scores, learned, case.owner)
    assert_same(mine, slow, (scores, learned))


@every_case
def test_hard_way(case):
    inputs = case.leaves()
    places, sounds = map(unit, inputs)
    mine, slow = hard_way(places, case.mask, sounds, case.owner), slow_hard_way(places, case.mask, sounds, case.owner)
    assert_same(mine, slow, inputs)


@every_case
def test_two_way(case):
    inputs = case.places[:, -1].clone().requires_grad_(), case.sounds.clone().requires_grad_()
    seen, sounds = map(unit, inputs)
    assert_same(two_way(seen, sounds, case.owner), slow_two_way(seen, sounds, case.owner), inputs)


def targets(mask, seed=0):
    """Shares over the real places and nowhere: of one source, of two, of none, and a row that is not labelled."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.zeros(mask.shape[0], mask.shape[1] + 1, dtype=torch.float64)
    for b in range(len(mask)):
        real = [n for n in range(mask.shape[1]) if mask[b, n]]
        kind = b % 5
        if kind == 0:
            target[b, real[int(torch.randint(len(real), (), generator=generator))]] = 1
        elif kind == 1:
            target[b, real[0]], target[b, real[-1]] = 0.25, 0.75
        elif kind == 2:
            target[b, -1] = 1
        elif kind == 3:
            target[b, real] = torch.rand(len(real), generator=generator, dtype=torch.float64)
            target[b, -1] = 0.3
            target[b] /= target[b].sum()
    return target


@every_case
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_map_cross_entropy(case, temperature):
    scores = torch.einsum("bne,be->bn", unit(case.places), unit(case.sounds)[: len(case.places)]).requires_grad_()
    learned = torch.tensor(temperature, dtype=torch.float64, requires_grad=True)
    target = targets(case.mask)
    mine = map_cross_entropy(scores, case.mask, target, learned)
    slow = slow_map_cross_entropy(scores, case.mask, target, learned)
    torch.testing.assert_close(mine, slow, rtol=1e-9, atol=1e-12)
    aims = torch.rand(len(mine), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert_same((mine * aims).sum(), (slow * aims).sum(), (scores, learned))


@given(labelled=st.lists(st.booleans(), min_size=1, max_size=9), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_labelled_mean_and_its_gradient_are_those_of_the_labelled_rows_alone(labelled, seed):
    case = batch(rows=len(labelled), seed=seed)
    scores = torch.einsum("bne,be->bn", unit(case.places), unit(case.sounds)).requires_grad_()
    target = torch.eye(7, dtype=torch.float64)[torch.arange(len(labelled)) % 7] * torch.tensor(labelled)[:, None]
    mine = labelled_mean(map_cross_entropy(scores, case.mask, target, 0.2), target)
    rows = [b for b, known in enumerate(labelled) if known]
    slow = [slow_map_cross_entropy(scores[b : b + 1], case.mask, target[b : b + 1], 0.2)[0] for b in rows]
    assert_same(mine, sum(slow) / len(slow) if slow else scores.sum() * 0, (scores,))
    if not slow:
        assert mine.item() == 0


# What belongs together ----------------------------------------------------------------------------------------------


def losses_of(places, mask, sounds, owner):
    """All three losses that have negatives, of raw vectors."""
    places, sounds = unit(places), unit(sounds)
    return {
        "info_nce": scores_info_nce(pooled_scores(places, mask, sounds), 0.1, owner),
        "hard_way": hard_way(places, mask, sounds, owner),
        "two_way": two_way(places[:, -1], sounds, owner),
    }


@pytest.mark.parametrize("name", ["info_nce", "hard_way", "two_way"])
def test_a_relative_neither_pulls_nor_pushes(name):
    """In a batch of two clips of one owner, a picture does not change with the other clip's sound."""
    case = batch(rows=2, owner=[4, 4])
    places, sounds = case.leaves()
    for row in range(2):
        inputs = places[row : row + 1], case.mask[:1], sounds[row : row + 1], None
        alone = losses_of(*inputs)[name]
        both = losses_of(places, case.mask, sounds, case.owner)[name]
        mine = torch.autograd.grad(both, (places, sounds), allow_unused=True)
        other = torch.autograd.grad(alone, (places, sounds), allow_unused=True)
        for x, y in zip(mine, other, strict=True):
            torch.testing.assert_close(x[row] * 2, y[row])  # its half of a mean of two
    strangers = losses_of(places, case.mask, sounds, torch.tensor([4, 5]))[name]
    assert strangers > both


@pytest.mark.parametrize("name", ["info_nce", "hard_way", "two_way"])
def test_silence_is_pushed_away_from_every_picture(name):
    case = batch(rows=4, extra=1, owner=[2, 2, 2, 2], seed=6)  # nothing else is a negative
    places, sounds = case.leaves()
    whole = losses_of(places, case.mask, sounds, case.owner)[name]
    (push,) = torch.autograd.grad(whole, sounds)
    with torch.no_grad():
        sounds[4] -= 0.01 * unit(push[4])
    assert push[4].any() and losses_of(places, case.mask, sounds, case.owner)[name] < whole
    for row in range(4):
        own = case.sounds[row]
        near, far = (
            losses_of(case.places[[row]], case.mask[[row]], torch.stack([own, silent]), None)[name]
            for silent in (own, -own)
        )
        assert near > far + 0.1


@pytest.mark.parametrize("name", ["info_nce", "hard_way", "two_way"])
@pytest.mark.parametrize("extra", [0, 2])
def test_one_clip_in_float32_is_finite(name, extra):
    case = batch(rows=1, extra=extra, dtype=torch.float32)
    places, sounds = case.leaves()
    loss = losses_of(places, case.mask, sounds, None)[name]
    loss.backward()
    assert loss.isfinite() and places.grad.isfinite().all() and sounds.grad.isfinite().all()
    assert extra or name == "hard_way" or loss == 0


@pytest.mark.parametrize("name", ["info_nce", "hard_way", "two_way"])
@pytest.mark.parametrize("cosine", [-1.0, 0.0, 0.4, 0.65, 1.0])
def test_places_all_alike_are_finite_in_float32(name, cosine):
    """As after a collapse, or with no place on one side of the tri-map's borders."""
    sounds = torch.tensor([[1.0, 0.0]]).repeat(4, 1).requires_grad_()
    places = torch.tensor([cosine, math.sqrt(1 - cosine**2)]).repeat(4, 6, 1).requires_grad_()
    loss = losses_of(places, torch.ones(4, 6, dtype=torch.bool), sounds, None)[name]
    loss.backward()
    assert loss.isfinite() and places.grad.isfinite().all() and sounds.grad.isfinite().all()


def test_the_background_of_a_picture_that_is_all_object_is_no_less_bright():
    """In float32 as in float64: its darkest places are its background, however bright they are."""
    found = []
    for dtype in (torch.float32, torch.float64):
        cosines = torch.tensor([0.99, 0.97, 0.95, 0.93], dtype=dtype)
        places = torch.stack([cosines, (1 - cosines**2).sqrt()], dim=-1)[None].requires_grad_()  # (1, 4, 2)
        loss = hard_way(places, torch.ones(1, 4, dtype=torch.bool), torch.eye(2, dtype=dtype)[:1])
        loss.backward()
        found.append((loss.detach().double(), places.grad.double()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["info_nce", "hard_way"])
def test_padding_may_hold_anything(name):
    case = batch(padding=PADDING, dtype=torch.float32)
    found = []
    for content in (1.0, -50.0):
        places, sounds = case.leaves()
        with torch.no_grad():
            places[~case.mask] = content
        loss = losses_of(places, case.mask, sounds, None)[name]
        loss.backward()
        assert not places.grad[~case.mask].any()
        found.append([loss, places.grad, sounds.grad])
    torch.testing.assert_close(found[1], found[0])


# Memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("rows_at_once", [1, 2, 4])
def test_parts_equal_the_whole_in_value_and_gradient(pool, rows_at_once):
    case = batch(rows=5, extra=2, padding=PADDING)
    row_mb = 7 * 6 * 8 / 1e6
    aims = torch.randn(5, 7, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = []
    for most_mb in (1.0, row_mb * (rows_at_once + 0.5)):
        inputs = case.leaves()
        scores = pooled_scores(unit(inputs[0]), case.mask, unit(inputs[1]), pool, most_mb)
        found.append([scores, *torch.autograd.grad((scores * aims).sum(), inputs)])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-14)


class Largest(TorchDispatchMode):
    """The most numbers that any tensor had which was made within it, on the way forth or back."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        self.numbers = max([self.numbers, *(x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor))])
        return made


@pytest.mark.parametrize("pool", CHUNKED)
def test_memory_is_bounded(pool):
    """64 x 64 pairs of 256 places: a million cosines, of which a part is computed at a time and none is kept."""
    case = batch(rows=64, columns=256, dtype=torch.float32)
    places, sounds = (unit(x).detach().requires_grad_() for x in case.leaves())

    def storages(*tensors):
        """Where the numbers lie, whatever part of them is looked at."""
        return {x.untyped_storage().data_ptr() for x in tensors if x.numel()}

    def cost(most_mb):
        kept = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x)
        with Largest() as largest:
            with hooks:
                scores = pooled_scores(places, case.mask, sounds, pool, most_mb)
            torch.autograd.grad(scores.square().sum(), (places, sounds))
        return largest.numbers, storages(*kept) - storages(places, case.mask, sounds)

    cosines = 64 * 64 * 256
    largest, kept = cost(100.0)  # 4 MB fit: nothing is computed twice
    assert largest == cosines and kept
    largest, kept = cost(0.5)
    assert largest <= 0.5e6 / 4 < cosines / 8
    assert not kept  # but what was given


# Distances ----------------------------------------------------------------------------------------------------------


def raw_two_way(seen, sounds):
    """As in the authors' code, of vectors of any length, with the next clip's sound as the other one."""
    own = (seen - sounds).norm(dim=1)  # (B,)
    other = (seen - sounds.roll(1, 0)).norm(dim=1)  # (B,)
    first, second = torch.stack([own, other], dim=1).softmax(dim=1).unbind(1)
    return (first**2 + (1 - second) ** 2).mean()


def test_long_vectors_still_learn():
    """Each picture shows the next clip's sound: as wrong as can be, yet where vectors are long nothing would change."""
    generator = torch.Generator().manual_seed(0)
    sounds = 60 * torch.randn(4, 8, generator=generator)
    seen = (sounds.roll(1, 0) + torch.randn(4, 8, generator=generator)).requires_grad_()
    dead = raw_two_way(seen, sounds)
    (gradient,) = torch.autograd.grad(dead, seen)
    assert dead.item() == pytest.approx(2) and not gradient.any()
    optimiser = torch.optim.Adam([seen], lr=20.0)
    losses = []
    for _ in range(60):
        loss = two_way(unit(seen), unit(sounds))
        optimiser.zero_grad()
        loss.backward()
        assert loss.item() < 2 and all(row.any() for row in seen.grad)
        optimiser.step()
        losses.append(loss.item())
    cosines = unit(seen.detach()) @ unit(sounds).T
    assert losses[-1] < losses[0] and cosines.argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_a_perfect_match_has_finite_gradients():
    """A distance of 0, of which a root has no gradient."""
    sounds = unit(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    seen = sounds.clone().requires_grad_()
    two_way(seen, sounds).backward()
    assert seen.grad.isfinite().all()


# Maps ---------------------------------------------------------------------------------------------------------------


def test_it_is_least_where_the_softmax_is_the_target():
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(3, 6, generator=generator, dtype=torch.float64) + 0.1
    target[1, 4] = 0  # padding
    target /= target.sum(dim=1, keepdim=True)
    mask = torch.ones(3, 5, dtype=torch.bool)
    mask[1, 4] = False
    scores = (0.3 * (target[:, :5].clamp_min(1e-9) / target[:, 5:]).log()).requires_grad_()  # nowhere's cosine is 0
    least = map_cross_entropy(scores, mask, target, 0.3)
    entropy = [-sum(p * math.log(p) for p in row if p) for row in target.tolist()]
    assert least.tolist() == pytest.approx(entropy)
    (gradient,) = torch.autograd.grad(least.sum(), scores)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)
    for _ in range(20):
        other = scores + 0.2 * torch.randn(3, 5, generator=generator, dtype=torch.float64)
        assert torch.all(map_cross_entropy(other, mask, target, 0.3) > least)


def test_nowhere_lowers_every_place_and_a_box_raises_its_own_alone():
    scores = torch.tensor([[0.3, -0.2, 0.1]] * 2, requires_grad=True)
    target = torch.tensor([[0.0, 0, 0, 1], [0, 1.0, 0, 0]])
    losses = map_cross_entropy(scores, torch.ones(2, 3, dtype=torch.bool), target, 0.1)
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    assert (-gradient).sign().tolist() == [[-1, -1, -1], [-1, 1, -1]]


def test_a_row_that_is_not_labelled_is_nothing():
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    target = torch.zeros(3, 5)
    target[1, 2] = 1
    temperature = torch.tensor(0.1, requires_grad=True)
    losses = map_cross_entropy(scores, torch.ones(3, 4, dtype=torch.bool), target, temperature)
    assert losses[0] == losses[2] == 0 < losses[1]
    losses.sum().backward()
    assert not scores.grad[[0, 2]].any() and scores.grad[1].any() and temperature.grad != 0


@pytest.mark.parametrize("content", [0.5, 1e30, -math.inf, math.inf, math.nan])
def test_scores_of_padding_may_be_anything(content):
    case = batch(padding=PADDING, dtype=torch.float32)
    found = []
    for filling in (0.0, content):
        scores = torch.einsum("bne,be->bn", unit(case.places), unit(case.sounds)).masked_fill(~case.mask, filling)
        scores.requires_grad_()
        temperature = torch.tensor(0.1, requires_grad=True)
        losses = map_cross_entropy(scores, case.mask, targets(case.mask).float(), temperature)
        losses.sum().backward()
        assert torch.all(scores.grad[~case.mask] == 0)
        found.append([losses, scores.grad, temperature.grad])
    torch.testing.assert_close(found[1], found[0])
    assert found[1][2].isfinite() and found[1][2] != 0


def test_maps_of_the_head_with_padding_train_its_temperature():
    case = batch(padding=PADDING, dtype=torch.float32)
    temperature = torch.tensor(0.1, requires_grad=True)
    compared = Compared(unit(case.places), case.mask, unit(case.sounds), temperature)
    map_cross_entropy(score_map(compared), case.mask, targets(case.mask).float(), temperature).sum().backward()
    assert temperature.grad.isfinite() and temperature.grad != 0


# Labels -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [0, 1, 3, 60])
def test_the_labelled_share_does_not_change_the_learning_rate(more):
    """Rows behind that are not labelled change neither the loss nor the step of what is learned."""
    case = batch(rows=4 + more, seed=7)
    weight = torch.eye(4, dtype=torch.float64).requires_grad_()
    target = torch.zeros(4 + more, 7, dtype=torch.float64)
    target[torch.arange(4), torch.arange(4)] = 1
    scores = torch.einsum("bne,be->bn", unit(case.places @ weight), unit(case.sounds))
    mine = labelled_mean(map_cross_entropy(scores, case.mask, target, 0.1), target)
    few = torch.einsum("bne,be->bn", unit(case.places[:4] @ weight), unit(case.sounds[:4]))
    assert_same(mine, sum(slow_map_cross_entropy(few, case.mask[:4], target[:4], 0.1)) / 4, (weight,))


@pytest.mark.parametrize("labelled", [1, 2, 5])
def test_equal_rows_are_one_step_however_many_are_labelled(labelled):
    case = batch(rows=1)
    scores = (unit(case.places)[0] @ unit(case.sounds)[0]).requires_grad_()
    target = torch.zeros(5, 7, dtype=torch.float64)
    target[:labelled, 2] = 1
    losses = map_cross_entropy(scores.expand(5, -1), case.mask.expand(5, -1), target, 0.1)
    one = map_cross_entropy(scores[None], case.mask, target[:1], 0.1)[0]
    assert_same(labelled_mean(losses, target), one, (scores,))


# Precision ----------------------------------------------------------------------------------------------------------


def test_autocast_costs_no_precision():
    case = batch(rows=6, extra=1, padding=PADDING, dtype=torch.float32)
    found = []
    for enabled in (False, True):
        places, sounds = (unit(x).detach().requires_grad_() for x in case.leaves())
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            values = [pooled_scores(places, case.mask, sounds, pool, mb) for pool in POOLS for mb in (1.0, 1e-4)]
            values += [scores_info_nce(values[0], 0.07), hard_way(places, case.mask, sounds)]
            values.append(two_way(places[:, -1], sounds))
        gradients = torch.autograd.grad(sum(value.sum() for value in values), (places, sounds))
        found.append([*values, *gradients])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
