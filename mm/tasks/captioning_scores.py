"""How good captions are: metrics of a split, beside the controls without which they say nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mm import data
from mm.data import Item, Scenes
from mm.data.said import judge, named
from mm.data.scenes import Thing
from mm.heads import Caption
from mm.metrics import Cider, captions, java_captions, ptb_tokenize
from mm.tasks.captioning import Captioning
from mm.tasks.captioning_data import caches
from mm.tasks.captioning_model import CaptionModel

log = logging.getLogger(__name__)

# How the train sentence is found that is best said of everything: each round tries what is left on so many items, and
# keeps so many sentences; the last round is over all items.
MOST_SENTENCES = 50_000
ROUNDS = ((8, 2000), (50, 20))


class Described(NamedTuple):
    """The captions of a split.

    Attributes:
        ids: of the items.
        captions: what the model says of each.
        references: the sentences of each.
    """

    ids: list[str]
    captions: list[Caption]
    references: dict[str, Sequence[str]]

    @property
    def texts(self) -> dict[str, str]:
        """{id: sentence}."""
        return {name: caption.text for name, caption in zip(self.ids, self.captions, strict=True)}


def describe_items(model: CaptionModel, items: Sequence[Item], cfg: Captioning) -> Described:
    """A sentence for every item of a split, about its first source of the modality."""
    every = list(items)
    sources = [getattr(item, model.modality)[0] for item in every]
    cache = caches(model, items, cfg).get(model.modality)
    told = model.describe(sources, cfg.decoding, cache=cache)
    return Described([item.id for item in every], told, {item.id: item.text for item in every})


def by_number(told: Described, items: Sequence[Item]) -> dict[int | str, str]:
    """{image: sentence} as COCO's results have it: COCO knows its images by number."""
    numbers = [item.meta.get("cocoid", item.id) for item in items]
    return dict(zip(numbers, told.texts.values(), strict=True))


def evaluate(model: CaptionModel, items: Sequence[Item], cfg: Captioning) -> dict[str, float]:
    """The metrics of a split, without controls: what training watches. The model writes every word itself."""
    told = describe_items(model, items, cfg)
    return captions.evaluate(told.texts, told.references).corpus


def score(
    model: CaptionModel, told: Described, items: Sequence[Item], train: Sequence[Item], cfg: Captioning
) -> tuple[dict[str, float], dict[str, dict[str, float]], dict[str, str]]:
    """The metrics of described items, and the controls that must stand beside them.

    Args:
        model: that described them.
        told: what it said.
        items: of the split.
        train: items of the train split, whose sentences may have been copied.
        cfg: settings of the run.

    Returns:
        metrics: BLEU with and without penalty, ROUGE-L, CIDEr, METEOR and SPICE where they can be computed, and
            diversity; on the embedded world also what is true (`score_truth`).
        controls: the same of `constant_caption`, the train sentence that scores best when said of everything, and of
            `mean_attention`, the same weights looking everywhere alike.
        missing: {metric: why it is not computed}.
    """
    sentences = list(data.sentences(train))
    if cfg.head.attention == "hard":
        log.info("hard attention, tested by %s", cfg.head.hard_test)
    results, missing = metrics_of(told.texts, told.references)
    results |= captions.diversity(list(told.texts.values()), sentences)
    constant = best_constant(told.references, sentences)
    controls = {}
    controls["constant_caption"], why = metrics_of(dict.fromkeys(told.ids, constant), told.references)
    missing |= why
    blind: Described | None = None
    if model.head.looks:
        with uniform_attention(model):
            blind = describe_items(model, items, cfg)
        controls["mean_attention"], why = metrics_of(blind.texts, blind.references)
        missing |= why
    if isinstance(items, Scenes):
        results |= score_truth(told, items, cfg)
        controls["constant_caption"] |= truths([constant] * len(items), items)
        if blind is not None:
            controls["mean_attention"] |= score_truth(blind, items, cfg)
    return results, controls, missing


def metrics_of(texts: dict[str, str], references: dict[str, Sequence[str]]) -> tuple[dict[str, float], dict[str, str]]:
    """All metrics of sentences against references, and why some are not computed."""
    found, missing = captions.evaluate(texts, references).corpus, {}
    for name, metric in (("METEOR", java_captions.meteor), ("SPICE", java_captions.spice)):
        try:
            found[name] = metric(texts, references).corpus
        except java_captions.NotComputed as reason:
            missing[name] = str(reason).removeprefix(f"{name}: ")
    return found, missing


def best_constant(references: dict[str, Sequence[str]], sentences: Sequence[str]) -> str:
    """The train sentence that scores the highest CIDEr when it is said of every item, found in `ROUNDS`."""
    generator = np.random.default_rng(0)  # the same for every run on the same data
    different = list(dict.fromkeys(sentences))
    left = generator.permutation(len(different))[:MOST_SENTENCES].tolist()
    tokens = {i: ptb_tokenize(different[i]) for i in left}
    cider = Cider([[ptb_tokenize(text) for text in texts] for texts in references.values()])

    def means(images: list[int]) -> np.ndarray:
        pairs = [tokens[candidate] for candidate in left for _ in images]
        return cider.score(pairs, images * len(left)).reshape(len(left), len(images)).mean(1)  # (candidates,)

    for count, kept in ROUNDS:
        images = generator.permutation(len(references))[:count].tolist()
        left = [left[place] for place in np.argsort(-means(images), kind="stable")[:kept]]
    return different[left[int(means(list(range(len(references)))).argmax())]]


@contextlib.contextmanager
def uniform_attention(model: CaptionModel) -> Iterator[None]:
    """Within it, every word looks at all places alike, with the weights as they are."""
    model.head.set_uniform(True)
    try:
        yield
    finally:
        model.head.set_uniform(False)


def score_truth(told: Described, scenes: Scenes, cfg: Captioning) -> dict[str, float]:
    """What is true of sentences about scenes, and whether attention was where the words say.

    Returns:
        see `truths`; with attention over a picture also `attention_in_object`: of the content words (a colour, a shape,
        a size) that name a thing of the scene, the share for which the centre of the most attended cell lies in the box
        of such a thing.
    """
    found = truths([caption.text for caption in told.captions], scenes)
    if cfg.modality == "image" and told.captions[0].attention is not None:
        hits = [hit for i, caption in enumerate(told.captions) for hit in attended(caption, scenes[i])]
        if hits:  # else no word names a thing, and there is nothing to look for
            found["attention_in_object"] = float(np.mean(hits))
    return found


def truths(texts: Sequence[str], scenes: Scenes) -> dict[str, float]:
    """Shares of sentences that are of the grammar, have every attribute right, and are true of their scene."""
    judged = np.array([judge(text, scenes.scene(i)) for i, text in enumerate(texts)], dtype=float)  # (n, 3)
    return dict(zip(("grammatical", "attributes_exact", "true"), judged.mean(axis=0).tolist(), strict=True))


def attended(caption: Caption, item: Item) -> list[bool]:
    """For each content word of a caption that names a thing: does the most attended cell's centre lie in its box?

    Where a word may speak of several things, the box of any of them will do.
    """
    assert caption.attention is not None
    rows, columns = caption.grid
    things = item.meta["objects"]
    height, width = np.asarray(item.image[0]).shape[:2]
    scene = tuple(Thing(t["shape"], t["colour"], t["size"], *t["centre_px"]) for t in things)
    found = []
    for place, numbers in named(caption.words, scene):
        row, column = divmod(int(caption.attention[place].argmax()), columns)
        x, y = (column + 0.5) / columns * width, (row + 0.5) / rows * height  # px
        boxes = [things[number]["box_xyxy_px"] for number in numbers]
        found.append(any(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes))
    return found
