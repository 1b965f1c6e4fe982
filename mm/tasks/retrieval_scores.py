"""How good a joint embedding is: metrics of a split, beside the controls without which they say nothing."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mm.data import Entry, Item, gallery
from mm.data.synthetic import Scenes, analogies, bag_of_words_scores, perfect_decoder_scores
from mm.losses import order_scores
from mm.losses.order import specific_first
from mm.metrics import analogy_recall
from mm.metrics import retrieval as metrics
from mm.metrics.ranking import checked
from mm.tasks.retrieval import Retrieval
from mm.tasks.retrieval_data import caches
from mm.tasks.retrieval_model import JointModel


def evaluated(items: Sequence[Item], cfg: Retrieval) -> Sequence[Item]:
    """The items that an evaluation ranks: all, or with `data.complete` those whose owner is known in every modality.

    Raises:
        ValueError: the owner of an item lacks a modality of the run, or every owner does.
    """
    if isinstance(items, Scenes):  # which lack nothing, and are drawn when asked for
        return items
    owners = [{item.owner for item in items if getattr(item, modality)} for modality in cfg.modalities]
    complete = set.intersection(*owners)
    known = [item for item in items if item.owner in complete]
    if not known or (len(known) < len(items) and not cfg.data.complete):
        kinds, first = ", ".join(cfg.modalities), next(item.id for item in items if item.owner not in complete)
        raise ValueError(
            f"every item of an evaluation must be known in {kinds}, itself or by another item of its owner: "
            f"{len(items) - len(known)} of {len(items)} are not, the first is {first!r}. "
            f"{'Set data.complete=true to evaluate on the others' if known else 'Choose other modalities'}."
        )
    return known


def embed_items(
    model: JointModel, items: Sequence[Item], cfg: Retrieval, modalities: Sequence[str] = ()
) -> tuple[dict[str, Tensor], dict[str, list[Entry]]]:
    """Unit vectors (n, E) of every source of a split, and the entries they belong to, by modality.

    Args:
        model: of the run.
        items: of the split; what an item lacks is left out.
        cfg: settings of the run; frozen encoders are read from its caches.
        modalities: those embedded; none = all of the run.
    """
    modalities = list(modalities) or cfg.modalities
    stored = caches(model, items, cfg, cfg.data.eval_views, modalities)
    vectors, entries = {}, {}
    for modality in modalities:
        entries[modality] = gallery(items, modality)
        vectors[modality] = model.embed(
            modality,
            [entry.source for entry in entries[modality]],
            cache=stored.get(modality),
        )
    return vectors, entries


def averaged(members: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Unit vectors whose cosines are the mean of several models' cosines: theirs, side by side.

    Args:
        members: each {modality: (n, E) unit vectors}; E may differ.

    Raises:
        ValueError: they are not of the same modalities and items.
    """
    sizes = [{modality: len(vectors) for modality, vectors in member.items()} for member in members]
    if any(size != sizes[0] for size in sizes):
        raise ValueError(f"an ensemble must embed the same items in the same modalities: got {sizes}.")
    together = {modality: [member[modality] for member in members] for modality in members[0]}
    return {modality: torch.cat(parts, dim=1) / len(parts) ** 0.5 for modality, parts in together.items()}


def evaluate(model: JointModel, items: Sequence[Item], cfg: Retrieval) -> dict[str, float]:
    """The metrics of a split, without controls: what training watches."""
    vectors, entries = embed_items(model, items, cfg)
    owners = {modality: [e.owner for e in entries[modality]] for modality in entries}
    return measured(vectors, owners, cfg)


def measured(vectors: Mapping[str, Tensor], owners: metrics.Owners, cfg: Retrieval) -> dict[str, float]:
    """`mm.metrics.evaluate` by the score that the run was trained for: the cosine, or that of order embeddings.

    The latter is a matrix of all pairs, held whole, for it is no product of vectors.
    """
    if cfg.loss.name != "order":
        return metrics.evaluate(vectors, owners, **protocol(cfg))
    checked(vectors, owners)
    found: dict[str, float] = {}
    for pair in itertools.combinations(vectors, 2):
        specific, abstract = specific_first(*pair)
        scores = order_scores(vectors[specific].float(), vectors[abstract].float())  # (n, m)
        if scores.shape[0] < scores.shape[1]:  # to the metrics each row is a vector, whose product with these is itself
            both = {specific: torch.eye(scores.shape[0]), abstract: scores.T}
        else:
            both = {specific: scores, abstract: torch.eye(scores.shape[1])}
        ordered = {modality: both[modality] for modality in pair}
        found |= without_sum(metrics.evaluate(ordered, {m: owners[m] for m in pair}, **protocol(cfg)))
    return found | {"rsum": sum(value for name, value in found.items() if "_R@" in name)}


def protocol(cfg: Retrieval) -> dict[str, Any]:
    """Among how many a query is ranked, as `mm.metrics.evaluate` is told it."""
    return {"folds": cfg.data.eval_folds, "subset": cfg.data.eval_subset}


def score(
    model: JointModel,
    vectors: Mapping[str, Tensor],
    entries: Mapping[str, Sequence[Entry]],
    items: Sequence[Item],
    cfg: Retrieval,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The metrics of embedded items, and the controls that must stand beside them.

    Returns:
        metrics: `image_to_text_R@1` and so on for every ordered pair of modalities, shares in 0..1; of two modalities
            together (`score_together`); on the embedded world of analogies (`score_analogies`).
        controls: the same of `chance`, of `shuffled_pairs` and of `constant_embeddings`, which must equal chance; on
            the embedded world also the ceilings of a perfect decoder and of a perfect bag of words.
    """
    owners = {modality: [entry.owner for entry in entries[modality]] for modality in entries}
    generator = np.random.default_rng(cfg.seed)
    shuffled = {modality: generator.permutation(owner) for modality, owner in owners.items()}
    constant = {modality: torch.ones_like(v) / v.shape[1] ** 0.5 for modality, v in vectors.items()}
    controls = {
        "chance": metrics.chance(owners, **protocol(cfg)),
        "shuffled_pairs": measured(vectors, shuffled, cfg),
        "constant_embeddings": measured(constant, owners, cfg),
    }
    results = measured(vectors, owners, cfg) | score_together(vectors, owners, cfg)
    if isinstance(items, Scenes):
        controls |= ceilings(items, **protocol(cfg))
        one_model = vectors["image"].shape[1] == model.head.embed_dim if "image" in vectors else False
        if one_model and "text" in vectors and cfg.loss.name != "order":  # an ensemble has no vector for a word
            analogy, alone = score_analogies(model, items, vectors["image"])
            results, controls = results | analogy, controls | alone
    return results, controls


def ceilings(scenes: Scenes, folds: int = 1, subset: int = 0) -> dict[str, dict[str, float]]:
    """What a perfect decoder of sentences scores on the embedded world, and a perfect decoder of their bags of words.

    Between sentences and sounds the perfect decoder hears what is left of what but sees no heights.
    """
    captions_of = [i for i in range(len(scenes)) for _ in scenes.captions(i)]
    eye = np.eye(len(scenes), dtype=np.float32)

    def both_ways(scores: np.ndarray, other: str) -> dict[str, float]:
        owners = {"text": captions_of, other: list(range(len(scenes)))}
        return without_sum(metrics.evaluate({"text": scores, other: eye}, owners, folds, subset=subset))

    seen = both_ways(perfect_decoder_scores(scenes), "image")
    heard = both_ways(perfect_decoder_scores(scenes, heard_only=True), "audio")
    return {"perfect_decoder": seen | heard, "perfect_bag_of_words": both_ways(bag_of_words_scores(scenes), "image")}


def score_together(
    vectors: Mapping[str, Tensor], owners: Mapping[str, Sequence[str]], cfg: Retrieval
) -> dict[str, float]:
    """What each of two modalities adds when both are given: `image+audio_to_text_R@1`; compare the single ones.

    The two vectors of an item are added and their sum is normalised. A modality with one source per item joins every
    source of the other; two modalities that both have several are not joined.
    """
    found: dict[str, float] = {}
    for first, second in itertools.combinations(vectors, 2):
        many, one = (first, second) if len(set(owners[second])) == len(owners[second]) else (second, first)
        place = {owner: row for row, owner in enumerate(owners[one])}
        others = [modality for modality in vectors if modality not in (first, second)]
        if len(place) < len(owners[one]) or set(place) != set(owners[many]) or not others:
            continue
        partners = vectors[one][[place[owner] for owner in owners[many]]]  # (n, E)
        name, joined = f"{first}+{second}", functional.normalize(vectors[many] + partners, dim=-1)  # (n, E)
        for other in others:
            both = {name: owners[many], other: owners[other]}
            scores = measured({name: joined, other: vectors[other]}, both, cfg)
            found |= {key: value for key, value in without_sum(scores).items() if key.startswith(name)}
    return found


def without_sum(found: dict[str, float]) -> dict[str, float]:
    """The metrics of single directions."""
    return {name: value for name, value in found.items() if name != "rsum"}


def score_analogies(model: JointModel, scenes: Scenes, images: Tensor) -> tuple[dict[str, float], dict]:
    """Image - its colour word + another colour word finds the scene that differs in just that.

    Args:
        model: embeds the colour words.
        scenes: the n scenes.
        images: (n, E) their pictures' vectors.

    Returns:
        metrics: `analogy_R@1`, `analogy_R@10`.
        controls: the same of `image_alone`, the query picture without any words, which may not itself be an answer.
    """
    questions = analogies(scenes)
    colours = sorted({colour for question in questions for colour in (question.old, question.new)})
    words = dict(zip(colours, model.embed("text", colours), strict=True))  # {colour: (E,)}
    origins = torch.tensor([question.query for question in questions])  # (Q,)
    shifts = torch.stack([words[question.new] - words[question.old] for question in questions])  # (Q, E)
    targets = [question.targets for question in questions]
    moved = functional.normalize(images[origins] + shifts, dim=-1)  # (Q, E)
    return analogy_recall(moved, images, origins, targets), {
        "image_alone": analogy_recall(images[origins], images, origins, targets)
    }


def examples(
    vectors: Mapping[str, Tensor], entries: Mapping[str, Sequence[Entry]], cfg: Retrieval, queries: int = 2, k: int = 6
) -> list[tuple[Entry, str, list[tuple[Entry, str, float]]]]:
    """Random queries of every direction and their k nearest: (query, its modality, [(answer, modality, score)])."""
    generator = np.random.default_rng(cfg.seed)
    rows = []
    for first, second in itertools.permutations(vectors, 2):
        for row in generator.choice(len(entries[first]), min(queries, len(entries[first])), replace=False):
            scores = similarities(first, vectors[first][row], second, vectors[second], cfg)  # (n,)
            best = scores.topk(min(k, len(scores)))
            answers = [(entries[second][i], second, c) for i, c in zip(best.indices, best.values.tolist(), strict=True)]
            rows.append((entries[first][row], first, answers))
    return rows


def similarities(modality: str, query: Tensor, other: str, gallery: Tensor, cfg: Retrieval) -> Tensor:
    """(n,) by what a run ranks the items (n, E) of another modality for one query (E,)."""
    if cfg.loss.name != "order":
        return gallery @ query  # (n,)
    if specific_first(modality, other)[0] == modality:
        return order_scores(query[None], gallery)[0]  # (n,)
    return order_scores(gallery, query[None])[:, 0]  # (n,)
