"""Both decoders: `forced` against `step` and against the formulas written out, masks, batches, hard attention."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mm.features import Features
from mm.heads import Captioner, CaptionerConfig, LSTMDecoder
from mm.losses import hard_attention, sentence_sums, word_loss
from mm.vocabulary import END, PAD, START
from tests.heads.plain import plain_logits

WORDS = [f"word{k}" for k in range(9)]
KINDS = {
    "none": {"attention": "none"},
    "soft": {},
    "asks with the state": {"ask": "state"},
    "vector gate": {"gate": "vector"},
    "no gate, plain output": {"gate": "none", "deep_output": False},
    "narrow": {"see_dim": 3},
    "hard": {"attention": "hard", "hard_test": "expected"},
}
ALL = {**KINDS, "transformer": {"decoder": "transformer", "hidden": 8, "heads": 2}}


def captioner(**settings) -> Captioner:
    torch.manual_seed(0)
    small = {"word_dim": 4, "hidden": 8, "dropout": 0.0}
    return Captioner(6, 5, WORDS, CaptionerConfig(**{**small, **settings})).eval()


def features(real: tuple[int, ...] = (4, 2, 3), places: int = 4) -> Features:
    generator = torch.Generator().manual_seed(1)
    map = torch.randn(len(real), places, 6, generator=generator)
    mask = torch.arange(places) < torch.tensor(real)[:, None]
    return Features(map, mask, torch.randn(len(real), 5, generator=generator), (places,))


def sentences() -> tuple[Tensor, Tensor]:
    """Three inputs with two, one and two sentences of different lengths."""
    rows = [[[5, 6, 7, 8, END], [4, END]], [[6, 6, END], []], [[9], [12, 11, 10, END]]]
    tokens, lengths = torch.full((3, 2, 6), PAD), torch.zeros(3, 2, dtype=torch.int64)
    for b, k in itertools.product(range(3), range(2)):
        if rows[b][k]:
            tokens[b, k, : 1 + len(rows[b][k])] = torch.tensor([START, *rows[b][k]])
            lengths[b, k] = 1 + len(rows[b][k])
    return tokens, lengths


@pytest.mark.parametrize("kind", KINDS)
def test_known_sentences_against_the_formulas_written_out(kind: str) -> None:
    head, given, (tokens, lengths) = captioner(**KINDS[kind]), features(), sentences()
    forced = head(given, tokens, lengths)
    made, expected = {}, {}
    for sentence, position, row in zip(forced.sentence.tolist(), forced.position.tolist(), forced.logits, strict=True):
        made[sentence, position] = row
    for b, k in itertools.product(range(3), range(2)):
        if lengths[b, k]:
            logits, looked = plain_logits(head.decoder, given, b, tokens[b, k, : lengths[b, k] - 1].tolist())
            expected |= {(2 * b + k, t): row for t, row in enumerate(logits)}
            if head.looks:
                rows = forced.attention[forced.sentence == 2 * b + k][:, : looked.shape[1]]
                torch.testing.assert_close(rows, looked, atol=1e-6, rtol=1e-5)
    assert made.keys() == expected.keys()  # real words, no padding, the missing sentence nowhere
    for key, row in expected.items():
        torch.testing.assert_close(made[key], row, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_against_the_formulas_written_out(kind: str) -> None:
    head, given, (tokens, lengths) = captioner(**KINDS[kind]).double(), features(), sentences()
    given = Features(given.map.double(), given.mask, given.vector.double(), given.grid)
    forced = head(given, tokens, lengths)
    targets = tokens[:, :, 1:].flatten(0, 1)[forced.sentence, forced.position]
    loss = word_loss(forced.logits, targets)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in head.named_parameters() if p.grad is not None}
    head.zero_grad()
    losses = []
    for b, k in itertools.product(range(3), range(2)):
        if lengths[b, k]:
            words = tokens[b, k, : lengths[b, k]]
            logits, _ = plain_logits(head.decoder, given, b, words[:-1].tolist())
            losses += functional.cross_entropy(logits, words[1:], reduction="none").unbind()
    plain = torch.stack(losses).mean()
    plain.backward()
    assert loss.item() == pytest.approx(plain.item(), abs=1e-6)
    for name, parameter in head.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_word_by_word_is_as_all_at_once(kind: str) -> None:
    head, given, (tokens, lengths) = captioner(**ALL[kind]), features(), sentences()
    forced, memory = head(given, tokens, lengths), head.memory(given)
    state = tuple(part.expand(-1, 2, *part.shape[2:]) for part in head.decoder.start(memory))
    for t in range(tokens.shape[2] - 1):
        logits, state, alpha = head.decoder.step(tokens[:, :, t], state, memory)
        now = forced.position == t
        torch.testing.assert_close(logits.flatten(0, 1)[forced.sentence[now]], forced.logits[now], atol=1e-5, rtol=1e-5)
        if alpha is not None:
            torch.testing.assert_close(alpha.flatten(0, 1)[forced.sentence[now]], forced.attention[now])


@pytest.mark.parametrize("kind", ALL)
def test_attention_sums_to_one_and_never_sees_padding(kind: str) -> None:
    head, given, (tokens, lengths) = captioner(**ALL[kind]), features(), sentences()
    forced = head(given, tokens, lengths)
    if head.looks:
        torch.testing.assert_close(forced.attention.sum(1), torch.ones(len(forced.attention)))
        mask = given.mask[forced.sentence // 2]
        assert (forced.attention[~mask] == 0).all()
        assert (forced.attention >= 0).all()
    other = Features(given.map.masked_fill(~given.mask[..., None], 77.0), given.mask, given.vector, given.grid)
    assert torch.equal(head(other, tokens, lengths).logits, forced.logits)
    longer = Features(
        functional.pad(given.map, (0, 0, 0, 3), value=5.0), functional.pad(given.mask, (0, 3)), given.vector, (7,)
    )
    torch.testing.assert_close(head(longer, tokens, lengths).logits, forced.logits, atol=1e-5, rtol=1e-5)
    for a, b in zip(head.caption(given), head.caption(longer), strict=True):
        assert a.words == b.words
        if head.looks:
            torch.testing.assert_close(a.attention, b.attention, atol=1e-5, rtol=1e-4)
            assert a.grid == (a.attention.shape[1],)


@pytest.mark.parametrize("kind", ALL)
def test_a_batch_is_its_inputs_one_by_one_in_any_order(kind: str) -> None:
    head, given, (tokens, lengths) = captioner(**ALL[kind]), features(), sentences()
    forced, order = head(given, tokens, lengths), [2, 0, 1]

    def rows(part: Features, index: list[int]) -> Features:
        return Features(part.map[index], part.mask[index], part.vector[index], part.grid)

    def by_word(found, numbers: list[int]) -> dict:
        places = [
            (numbers[s // 2], s % 2, t) for s, t in zip(found.sentence.tolist(), found.position.tolist(), strict=True)
        ]
        return dict(zip(places, found.logits, strict=True))

    whole = by_word(forced, [0, 1, 2])
    parts = by_word(head(rows(given, order), tokens[order], lengths[order]), order)
    for b in range(3):
        parts |= by_word(head(rows(given, [b]), tokens[[b]], lengths[[b]]), [b])
        assert all(torch.allclose(whole[key], parts[key], atol=1e-5) for key in whole)
    told = head.caption(given)
    for b, again in zip(order, head.caption(rows(given, order)), strict=True):
        assert again.words == told[b].words == head.caption(rows(given, [b]))[0].words


def test_uniform_attention_looks_at_all_real_places_alike() -> None:
    for kind in ("soft", "hard", "transformer"):
        head, given, (tokens, lengths) = captioner(**ALL[kind]), features(), sentences()
        seen = head(given, tokens, lengths)
        head.set_uniform(True)
        uniform = head(given, tokens, lengths)
        mask = given.mask[uniform.sentence // 2]
        torch.testing.assert_close(uniform.attention, mask / mask.sum(1, keepdim=True))
        assert not torch.allclose(uniform.logits, seen.logits, atol=1e-4)
        head.set_uniform(False)
        assert torch.equal(head(given, tokens, lengths).logits, seen.logits)


# Hard attention -----------------------------------------------------------------------------------------------------


def test_hard_attention_looks_at_one_place_when_it_trains_and_at_the_likeliest_when_tested() -> None:
    head, given = captioner(attention="hard", hard_expected=0.0, hard_test="argmax"), features()
    decoder: LSTMDecoder = head.decoder
    alpha = torch.tensor([[[0.1, 0.6, 0.3, 0.0]]]).expand(3, 2, 4)
    assert torch.equal(decoder.chosen(alpha)[0], functional.one_hot(torch.tensor(1), 4).float().expand(3, 2, 4))
    decoder.train()
    weights, log_prob = decoder.chosen(alpha.expand(3, 2, 4).repeat(1, 2000, 1))
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(weights.sum(-1), torch.ones(3, 4000))
    torch.testing.assert_close(weights.mean((0, 1)), alpha[0, 0], atol=0.02, rtol=0)
    torch.testing.assert_close(log_prob.exp(), (weights * alpha[0, 0]).sum(-1))
    decoder.hard_expected = 0.25
    weights, log_prob = decoder.chosen(alpha.repeat(1, 2000, 1))
    mean = (weights == alpha[0, 0]).all(-1)
    assert float(mean.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert (log_prob[mean] == 0).all()
    told = head.eval().caption(given)[0]
    assert told.attention.sum(1).tolist() == pytest.approx([1.0] * len(told.words))


def test_the_estimated_gradient_is_the_enumerated_one() -> None:
    """4 places, 2 words: the mean of the REINFORCE gradient against the gradient of the expected log-likelihood."""
    head = captioner(attention="hard", hard_expected=0.0, hidden=4)
    decoder: LSTMDecoder = head.decoder.double()
    with torch.no_grad():
        decoder.score.weight.mul_(6)  # places must differ
        decoder.keys.weight.mul_(3)
    given = features((4,), 4)
    given = Features(given.map.double(), given.mask, given.vector.double(), given.grid)
    tokens, lengths = torch.tensor([[[START, 5, END]]]), torch.tensor([[3]])
    parameters = [decoder.score.weight, decoder.keys.weight, decoder.from_state.weight]

    expected = torch.zeros((), dtype=torch.float64)
    for places in itertools.product(range(4), repeat=2):
        chosen = iter(places)

        def at_given_place(alpha: Tensor, chosen=chosen) -> tuple[Tensor, Tensor]:
            place = next(chosen)
            return functional.one_hot(torch.tensor(place), 4).to(alpha).expand_as(alpha), alpha[..., place].log()

        decoder.chosen = at_given_place  # type: ignore[method-assign]
        told = decoder.forced(tokens, lengths, decoder.memory(given))
        log_prob = told.logits.log_softmax(-1)[torch.arange(2), tokens[0, 0, 1:]]
        expected = expected + told.place_log_prob.sum().exp() * log_prob.sum()
    del decoder.chosen  # the method again
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(-expected / 2, parameters)])

    torch.manual_seed(0)
    decoder.train()
    baseline, draws, drawn = torch.tensor(-5.0, dtype=torch.float64), 60, []
    repeats = 2000  # sentences of one call
    many, count = tokens.expand(1, repeats, 3), lengths.expand(1, repeats)
    for _ in range(draws):
        told = decoder.forced(many, count, decoder.memory(given))
        targets = many[:, :, 1:].flatten(0, 1)[told.sentence, told.position]
        log_prob = told.logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
        places = hard_attention(log_prob, told.place_log_prob, told.sentence, baseline, repeats)
        loss = -sentence_sums(log_prob, told.sentence, repeats).sum() / len(targets) + places
        drawn.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    estimates = torch.stack(drawn)
    error = estimates.std(0) / math.sqrt(draws)
    z = (estimates.mean(0) - exact).abs() / error.clamp_min(1e-12)
    assert float(exact.norm()) > 10 * float(error.norm()), "the estimate says nothing"
    assert float((z < 3).double().mean()) > 0.98
    assert float(z[error > 1e-9].max()) < 5  # of some hundred numbers


# Scheduled sampling -------------------------------------------------------------------------------------------------


def test_scheduled_sampling_goes_on_from_the_models_own_words() -> None:
    head, given, (tokens, lengths) = captioner(), features(), sentences()
    with torch.no_grad():  # whatever comes before, the model says word 7
        head.decoder.output.weight.zero_()
        head.decoder.output.bias.fill_(-50.0)
        head.decoder.output.bias[7] = 50.0
    own = tokens.clone()
    own[:, :, 1:][own[:, :, 1:] != PAD] = 7
    free, truth = head(given, tokens, lengths, sampling=1.0), head(given, own, lengths)
    torch.testing.assert_close(free.attention, truth.attention)
    assert not torch.allclose(free.attention, head(given, tokens, lengths).attention, atol=1e-5)
    with pytest.raises(ValueError, match="needs the lstm decoder"):
        captioner(decoder="transformer", heads=2)(given, tokens, lengths, 0.5)


def test_rejected() -> None:
    for wrong, said in {
        "attention": "unknown attention 'sof'. .* Did you mean 'soft'",
        "gate": "unknown gate 'sof'",
        "decoder": "unknown decoder 'sof'",
        "hard_test": "unknown test of hard attention 'sof'",
    }.items():
        with pytest.raises(ValueError, match=said):
            captioner(**{wrong: "sof"})
    with pytest.raises(ValueError, match="even multiple of the 3 heads: got 8"):
        captioner(decoder="transformer", heads=3)
    with pytest.raises(ValueError, match="a transformer attends softly: got attention='hard'"):
        captioner(decoder="transformer", attention="hard", heads=2)
    for wrong in ({"dropout": 1.0}, {"hard_expected": 1.5}):
        with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\) and hard_expected in 0..1"):
            captioner(**wrong)
    other = features()._replace(vector=torch.zeros(3, 4))
    with pytest.raises(ValueError, match="vectors of 5 numbers: got 6 and 4"):
        captioner().caption(other)
    with pytest.raises(ValueError, match="beam and max_length must be at least 1"):
        captioner().caption(features(), beam=0)
