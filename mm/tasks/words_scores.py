"""How good word vectors are: loss on held-out sentences, kinds of words, analogies; beside what needs no learning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mm.losses import negative_sampling
from mm.tasks.words import LOSS, Scores, SkipGram, Words, WordVectors, three_cos_add, vectors_of
from mm.tasks.words_analogies import KINDS, Questions, answerable, own_questions, read_questions
from mm.tasks.words_data import held_out_corpus
from mm.tasks.words_pairs import PairBatches, kept_shares, noise_shares

ASKED = 1024  # questions answered at once
SHOWN = 6  # words shown beside one


def held_out(cfg: Words, model: SkipGram, split: str) -> PairBatches:
    """The batches of val or test: the first epoch of them is what is evaluated.

    Raises:
        ValueError, FileNotFoundError: see `mm.tasks.words_data.held_out_corpus`.
    """
    return PairBatches(held_out_corpus(cfg, model.words, split), np.array(model.counts), cfg)


def evaluate(model: SkipGram, batches: PairBatches, negatives: int) -> dict[str, float]:
    """The held-out loss of a model, wherever it is: {"words_loss": nats a pair}."""
    device = model.centre.weight.device
    return {
        LOSS: loss_of(lambda batch: model({name: part.to(device) for name, part in batch.items()}), batches, negatives)
    }


@torch.no_grad()
def loss_of(scores: Callable[[dict[str, Tensor]], Scores], batches: PairBatches, negatives: int) -> float:
    """The loss of a pair of held-out words, in nats.

    Args:
        scores: of a batch, by a model or by a rule.
        batches: of `held_out`.
        negatives: k of the loss.

    Raises:
        ValueError: there is no pair.
    """
    loss, pairs = 0.0, 0
    for batch in batches.once():
        positive, negative = scores(batch)
        loss += negative_sampling(positive.cpu(), negative.cpu(), batch["pairs"], negatives, total=1.0).item()
        pairs += len(positive)
    if not pairs:
        raise ValueError("the held-out sentences must have pairs of words: none is left. Raise subsample, or set it 0.")
    return loss / pairs


def by_frequency(cfg: Words, counts: Sequence[int]) -> Callable[[dict[str, Tensor]], Scores]:
    """The best scores that do not know the word in the middle: how much rather each word is near any than it is noise.

    That is log p(c) - log(k q(c)), p the shares of the words that are read and q those of noise: what minimises the
    loss among all scores of c alone (as in Levy and Goldberg 2014, eq. 7).
    """
    totals = np.array(counts)
    read = totals * kept_shares(totals, cfg.subsample)  # (V,)
    scores = torch.from_numpy(np.log(read / read.sum() / (cfg.negatives * noise_shares(totals)))).float()  # (V,)

    def score(batch: dict[str, Tensor]) -> Scores:
        return Scores(scores[batch["contexts"]], scores[batch["noise"]].expand(len(batch["words"]), -1))

    return score


def questions(cfg: Words) -> Questions:
    """The analogies that a run is asked.

    Raises:
        FileNotFoundError, ValueError: the file of questions is missing or wrong.
    """
    return read_questions(cfg.analogies) if cfg.analogies else own_questions()


def score(
    model: SkipGram, batches: PairBatches, cfg: Words
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, str]]:
    """Metrics of a model, those of the controls, and what could not be computed and why.

    Args:
        model: of the run.
        batches: of `held_out`.
        cfg: settings of the run.

    Returns:
        {"vocabulary": words, "words_loss": nats a pair, "same_kind": share, "accuracy": share of all analogies,
        "accuracy/<section>": share}; the same of the controls as far as they have it: chance, random vectors, for the
        loss the frequencies of words alone, for analogies the word nearest to the third, whatever the first two are
        (Linzen 2016: what a pair contributes shows only beside it); and the analogies that have unknown words.

    Raises:
        FileNotFoundError, ValueError: the file of questions is missing or wrong.
    """
    vectors = vectors_of(model)
    generator = torch.Generator().manual_seed(cfg.seed)
    random = WordVectors(model.words, torch.randn(vectors.vectors.shape, generator=generator))
    size = len(model.words)
    metrics = {"vocabulary": float(size), **evaluate(model, batches, cfg.negatives)}
    controls: dict[str, dict[str, float]] = {
        "chance": {LOSS: (1 + cfg.negatives) * math.log(2)},  # of scores that are 0
        "word_frequency": {LOSS: loss_of(by_frequency(cfg, model.counts), batches, cfg.negatives)},
        "random_vectors": {},
        "nearest_to_third": {},
    }
    missing = {}
    if kinds := known_kinds(model.words):
        metrics["same_kind"], controls["chance"]["same_kind"] = same_kind(vectors.unit, kinds)
        controls["random_vectors"]["same_kind"], _ = same_kind(random.unit, kinds)
    else:
        missing["same_kind"] = "no two words of a kind are in the vocabulary"
    sections = questions(cfg)
    rows = {section: answerable(those, model.words) for section, those in sections.items()}
    asked, known = (sum(map(len, of.values())) for of in (sections, rows))
    if known < asked:
        missing[f"accuracy on {asked - known} of {asked} analogies"] = "they have words that are not in the vocabulary"
    if known:
        learned = accuracies(rows, lambda rows: three_cos_add(vectors.unit, rows))
        metrics |= learned
        controls["chance"] |= dict.fromkeys(learned, 1 / max(size - 3, 1))  # a question's own words are no answers
        controls["random_vectors"] |= accuracies(rows, lambda rows: three_cos_add(random.unit, rows))
        controls["nearest_to_third"] |= accuracies(rows, lambda rows: nearest_to_third(vectors.unit, rows))
    return metrics, {name: numbers for name, numbers in controls.items() if numbers}, missing


def accuracies(rows: Mapping[str, list[list[int]]], answer: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """The share of questions whose answer has the one best score, of all and of each section that has any.

    Args:
        rows: {section: questions of four numbers}.
        answer: (Q, 3) questions -> (Q, V) scores of all words.
    """
    right = {}
    for section, questions in rows.items():
        if questions:
            parts = torch.tensor(questions).split(ASKED)
            right[section] = torch.cat([first(answer(part[:, :3]), part[:, 3]) for part in parts])  # (Q,)
    every = {"accuracy": torch.cat(list(right.values())), **{f"accuracy/{name}": each for name, each in right.items()}}
    return {name: each.double().mean().item() for name, each in every.items()}


def first(scores: Tensor, answers: Tensor) -> Tensor:
    """(Q, V) scores and (Q,) words -> (Q,) bool, whether none scores as much as it; equals count against it."""
    return (scores >= scores.gather(1, answers[:, None])).sum(dim=1) == 1


def nearest_to_third(unit: Tensor, questions: Tensor) -> Tensor:
    """(V, D) unit vectors and (Q, 3) questions -> (Q, V) cosines with the third word, -inf at the three."""
    return (unit[questions[:, 2]] @ unit.T).scatter(1, questions, float("-inf"))


def known_kinds(words: Sequence[str]) -> list[list[int]]:
    """The rows of the words of each of `KINDS` of which a vocabulary has two at least."""
    numbers = {word: number for number, word in enumerate(words)}
    found = ([numbers[word] for word in text.split() if word in numbers] for text in KINDS.values())
    return [rows for rows in found if len(rows) > 1]


def same_kind(unit: Tensor, kinds: Sequence[Sequence[int]]) -> tuple[float, float]:
    """The share of the words whose nearest word, among the words of all kinds, is of their kind; and that of chance.

    Args:
        unit: (V, D) unit vectors.
        kinds: rows of the words of each kind, two at least.
    """
    rows = torch.tensor([row for those in kinds for row in those])  # (n,)
    number = torch.tensor([kind for kind, those in enumerate(kinds) for _ in those])  # (n,)
    same = number[:, None] == number  # (n, n)
    scores = (unit[rows] @ unit[rows].T).fill_diagonal_(float("-inf"))  # (n, n)
    right = same.gather(1, scores.argmax(dim=1, keepdim=True))  # (n, 1)
    chance = (same.sum(dim=1) - 1) / (len(rows) - 1)  # (n,)
    return right.double().mean().item(), chance.double().mean().item()


def neighbours(vectors: WordVectors) -> str:
    """A line for each of the words of rank 1, 2, 4, 8, ... in the text, with the words nearest to it."""
    ranks = [2**power for power in range(len(vectors.words).bit_length())]
    lines = []
    for rank in ranks:
        word = vectors.words[rank - 1]
        near = ", ".join(f"{other} {cosine:.2f}" for other, cosine in vectors.nearest(word, SHOWN))
        lines.append(f"{word:>14}: {near}")
    return "\n".join(lines)
