"""Beam search and sampling against trying every sentence, on decoders that are tables of random numbers."""

import itertools
import math
from collections import Counter

import pytest
import torch
from torch.nn import functional

from mm.heads import beam_search, sample
from mm.heads.decoder import draw
from mm.heads.decoding import Written, cut, length_rule, padded
from mm.vocabulary import END, PAD, START
from tests.heads.plain import Table, brute_force

LENGTH = 4
WORDS = (4, 5, 6)  # and <end>: four choices at every step


def search(table: Table, numbers=(0,), **how) -> list[Written]:
    state, memory = table.start(numbers)
    return beam_search(table.step, state, memory, **{"beam": 5, "max_length": LENGTH, **how})


@pytest.mark.parametrize("rule", ["none", "avg", "wu:0.7", "wu:2"])
def test_a_wide_beam_finds_the_best_of_all_sentences(rule: str) -> None:
    table = Table(6, len(WORDS), seed=3)
    for number, found in enumerate(search(table, range(6), beam=4**LENGTH, length=rule)):
        score, tokens = brute_force(table.log_probs(number), WORDS, LENGTH, length_rule(rule))
        assert found.tokens.tolist() == tokens
        assert found.score == pytest.approx(score, abs=1e-5)
        assert found.finished
        assert float(found.log_probs.sum()) == pytest.approx(
            sum(float(table.log_probs(number)(tokens[:t])[tokens[t]]) for t in range(len(tokens))), abs=1e-5
        )


@pytest.mark.parametrize("rule", ["none", "avg", "wu:0.7"])
def test_a_beam_of_one_is_greedy(rule: str) -> None:
    table = Table(20, 5, seed=1)
    state, memory = table.start(range(20))
    greedy = sample(table.step, state, memory, max_length=8, temperature=0)
    for number, (found, (likeliest,)) in enumerate(
        zip(search(table, range(20), beam=1, max_length=8, length=rule), greedy, strict=True)
    ):
        expected: list[int] = []
        while len(expected) < 8 and END not in expected:
            logits = table.logits(number, expected)
            expected.append(max((END, 4, 5, 6, 7, 8), key=lambda word: float(logits[word])))
        assert found.tokens.tolist() == likeliest.tokens.tolist() == expected
        torch.testing.assert_close(found.log_probs, likeliest.log_probs)
        assert found.finished == likeliest.finished == (END in expected)


@pytest.mark.parametrize(("beam", "rule", "no_repeat"), [(2, "none", 0), (5, "avg", 2), (3, "wu:0.7", 1)])
def test_a_batch_is_searched_as_its_inputs_one_by_one(beam: int, rule: str, no_repeat: int) -> None:
    table = Table(32, 6, seed=9, spread=1.0)
    how = {"beam": beam, "length": rule, "no_repeat": no_repeat, "max_length": 12}
    together = search(table, range(32), **how)
    for number, found in enumerate(together):
        (alone,) = search(table, (number,), **how)
        assert found.tokens.tolist() == alone.tokens.tolist()
        assert found.score == pytest.approx(alone.score, abs=1e-5)
        assert torch.equal(found.attention, alone.attention)
    assert len({len(found.tokens) for found in together}) > 2  # some inputs were done long before others


def test_attention_is_that_of_the_steps_that_made_the_words() -> None:
    for found in search(Table(8, 6, seed=2), range(8), max_length=9):
        before = [START, *found.tokens.tolist()[:-1]]  # the table looks at place (token before) mod 3
        assert torch.equal(found.attention, functional.one_hot(torch.tensor(before) % 3, 3).float())


def test_a_wider_beam_does_not_score_worse_on_average() -> None:
    table = Table(40, 8, seed=5, spread=1.0)
    means = [
        sum(found.score for found in search(table, range(40), beam=beam, max_length=8)) / 40 for beam in (1, 2, 4, 16)
    ]
    assert means == sorted(means)


def test_without_an_end_the_best_unfinished_sentence_is_given() -> None:
    class Endless(Table):
        def logits(self, number, sentence):
            return super().logits(number, sentence).index_fill(0, torch.tensor([END]), -1e4)

    table = Endless(3, 4)
    for found in search(table, range(3), beam=3, max_length=6):
        assert not found.finished
        assert len(found.tokens) == 6
        assert END not in found.tokens
        assert math.isfinite(found.score)


def test_min_length_and_no_repeat_hold() -> None:
    table = Table(30, 3, seed=7, spread=0.5)
    for found in search(table, range(30), min_length=5, max_length=12, no_repeat=2):
        tokens = found.tokens.tolist()
        assert len(tokens) >= 6
        pairs = list(itertools.pairwise(tokens))
        assert len(set(pairs)) == len(pairs)
    repeated = [found.tokens.tolist() for found in search(table, range(30), min_length=5, max_length=12)]
    assert any(len(set(itertools.pairwise(t))) < len(t) - 1 for t in repeated)  # it happens where it may


def test_where_every_word_is_forbidden_what_there_is_is_given() -> None:
    (found,) = search(Table(1, 2), min_length=4, max_length=9, no_repeat=1)  # two words, each once, then nothing
    assert sorted(found.tokens.tolist()) == [4, 5]
    assert not found.finished


def test_specials_are_never_written() -> None:
    class Eager(Table):
        def logits(self, number, sentence):
            return super().logits(number, sentence).index_fill(0, torch.tensor([0, 1, 3]), 50.0)

    table = Eager(5, 4)
    state, memory = table.start(range(5))
    drawn = [one for row in sample(table.step, state, memory, max_length=9, count=4) for one in row]
    for found in [*search(table, range(5), max_length=9), *drawn]:
        assert not set(found.tokens.tolist()) & {0, 1, 3}


def test_the_search_stops_once_nothing_can_overtake() -> None:
    class Short(Table):
        def logits(self, number, sentence):
            return torch.tensor([-9.0, -9, 5, -9, 0, 0, 0])

    table = Short(4, 3)
    assert [found.tokens.tolist() for found in search(table, range(4), max_length=50)] == [[END]] * 4
    assert table.calls == 1


def test_length_rules() -> None:
    assert length_rule("none")(-3.0, 6) == -3.0
    assert length_rule("wu:1")(-3.0, 7) == pytest.approx(-1.5)  # ((5 + 7) / 6) ^ 1
    assert length_rule("wu:0")(-3.0, 7) == -3.0
    for wrong in ("mean", "wu", "wu:", "wu:-1", "wu:x", "avg:1"):
        with pytest.raises(ValueError, match=f"none, avg or wu:<a>.*got '{wrong}'"):
            length_rule(wrong)


@pytest.mark.parametrize(
    "wrong", [{"beam": 0}, {"max_length": 0}, {"min_length": 4}, {"min_length": -1}, {"no_repeat": -1}]
)
def test_numbers_out_of_range(wrong) -> None:
    with pytest.raises(ValueError, match="beam and max_length must be at least 1"):
        search(Table(1, 3), **wrong)
    state, memory = Table(1, 3).start([0])
    for bad in ({"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}, {"count": 0}):
        with pytest.raises(ValueError, match="must be at least 1, temperature and top_k at least 0"):
            sample(Table(1, 3).step, state, memory, **{"max_length": 3, **bad})


# Sampling -----------------------------------------------------------------------------------------------------------


def test_sentences_are_drawn_with_the_models_probabilities() -> None:
    torch.manual_seed(0)
    table, count = Table(1, 2, spread=1.0), 4000
    state, memory = table.start([0])
    (drawn,) = sample(table.step, state, memory, max_length=3, count=count)
    seen = Counter(tuple(one.tokens.tolist()) for one in drawn)
    allowed = torch.tensor([END, 4, 5])

    def probability(tokens: tuple[int, ...]) -> float:
        share = 1.0
        for t, token in enumerate(tokens):
            among = table.logits(0, tokens[:t])[allowed].softmax(-1)
            share *= float(among[allowed.tolist().index(token)])
        return share

    assert sum(map(probability, seen)) == pytest.approx(1.0, abs=0.02)
    for tokens, times in seen.items():
        expected = count * probability(tokens)
        assert abs(times - expected) < 4 * math.sqrt(expected) + 4, tokens
    for one in drawn[:50]:
        log_probs = [table.log_probs(0)(one.tokens[:t].tolist())[token] for t, token in enumerate(one.tokens)]
        torch.testing.assert_close(one.log_probs, torch.stack(log_probs))
        assert one.score == pytest.approx(float(one.log_probs.sum()), abs=1e-5)
        assert (one.tokens == END).sum() == int(one.finished)
        assert len(one.attention) == len(one.tokens)


def test_draws_follow_the_probabilities_and_never_hit_zero() -> None:
    torch.manual_seed(0)
    shares = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0], [0.5, 0.0, 0.0, 0.0, 1.5]])  # need not sum to one
    drawn = draw(shares.expand(20000, 2, 5))
    for row, expected in zip(drawn.unbind(1), ([0, 0.25, 0, 0.75, 0], [0.25, 0, 0, 0, 0.75]), strict=True):
        counts = torch.bincount(row, minlength=5) / 20000
        torch.testing.assert_close(counts, torch.tensor(expected), atol=0.015, rtol=0)
        assert (counts > 0).tolist() == [share > 0 for share in expected]


def test_cuts_keep_the_likeliest_words() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    assert cut(logits, 2, 1.0).softmax(-1).tolist() == [pytest.approx([0, 4 / 7, 0, 3 / 7])]
    assert cut(logits, 0, 0.6).isfinite().tolist() == [[False, True, False, True]]
    assert cut(logits, 0, 0.75).isfinite().tolist() == [[False, True, True, True]]
    assert cut(logits, 0, 0.01).isfinite().tolist() == [[False, True, False, False]]
    assert torch.equal(cut(logits, 9, 1.0), logits)


def test_one_likeliest_word_is_greedy_and_heat_makes_it_wild() -> None:
    table = Table(10, 6, seed=4)
    state, memory = table.start(range(10))

    def written(**how) -> list[list[int]]:
        torch.manual_seed(1)
        return [one.tokens.tolist() for (one,) in sample(table.step, state, memory, max_length=6, **how)]

    assert written(temperature=0) == written(top_k=1) == written(top_p=1e-6) == written(temperature=1e-3)
    assert written(temperature=0) != written(temperature=100.0)


def test_padded_is_what_a_decoder_reads() -> None:
    def one(*tokens: int) -> Written:
        return Written(torch.tensor(tokens), torch.zeros(len(tokens)), None, 0.0, True)

    tokens, lengths = padded([[one(5, END), one(END)], [one(4, 4, 4), one(6, END)]])
    assert tokens.tolist() == [
        [[START, 5, END, PAD], [START, END, PAD, PAD]],
        [[START, 4, 4, 4], [START, 6, END, PAD]],
    ]
    assert lengths.tolist() == [[3, 2], [4, 3]]
