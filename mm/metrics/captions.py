"""Caption metrics that need nothing but Python: BLEU, ROUGE-L, CIDEr and diversity, equal to COCO's evaluation.

Conventions, for every number here:

- Words are those of COCO's caption evaluation: `ptb_tokenize`. Numbers agree with pycocoevalcap 1.2 on equal words.
- BLEU: Papineni et al. 2002, section 2.3, over the corpus, against the reference of the closest length (the shorter of
  two). With COCO's constants: 1e-15 is added to every count of matches and 1e-9 to every count of n-grams, so that a
  corpus without a 4-gram in common scores little, not 0. "BLEU-n_no_penalty" leaves the brevity penalty out, as Xu et
  al. 2015 report BLEU.
- ROUGE-L: Lin 2004, eq. 2-4 with beta = 1.2, from the best precision and the best recall among the references (which
  may be two different ones); the mean over captions.
- CIDEr: what COCO's evaluation calls CIDEr is what Vedantam et al. 2015 call CIDEr-D (clipped, with a penalty on length
  and without stemming; see `Cider`), with document frequencies from the references given. "CIDEr" and "CIDEr-D" are
  therefore one number here; both names are given since papers use both.
- Shares lie in 0..1, CIDEr in 0..10 as the official tool gives it; the field prints all of them times 100.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mm.metrics.cider import Cider
from mm.metrics.ngrams import LONGEST, LOW, NGrams, pack
from mm.metrics.ptb import ptb_tokenize
from mm.naming import hint

__all__ = ["Cider", "Scores", "diversity", "evaluate", "ptb_tokenize", "tokenized"]

TINY, SMALL = 1e-15, 1e-9  # COCO's: added to matches and to n-grams
BETA = 1.2  # how much more recall weighs than precision in ROUGE-L

Tokens = list[str]

log = logging.getLogger(__name__)


class Scores(NamedTuple):
    """Metrics of a set of captions.

    Attributes:
        corpus: {name: number} of the whole set.
        each: {name: (n,) float64} of each caption, for "BLEU-1" to "BLEU-4" (its own: their mean is not that of the
            corpus), "ROUGE-L", "CIDEr" and "CIDEr-D".
        ids: the n images, in the order of `each`.
    """

    corpus: dict[str, float]
    each: dict[str, np.ndarray]
    ids: list


def evaluate(captions: Mapping[Any, str], references: Mapping[Any, Sequence[str]]) -> Scores:
    """BLEU-1..4 with and without brevity penalty, ROUGE-L, CIDEr, CIDEr-D and the ratio of lengths.

    A caption without a word scores 0 and is reported in the log.

    Args:
        captions: {image: its caption}.
        references: {image: its references}, of the same images; each of any number.

    Returns:
        The scores, in the order of `captions`. `length_ratio` is the number of words over that of the closest
        references; below 1, BLEU is reduced.

    Raises:
        ValueError: nothing to score, the two do not name the same images, an image has no reference, or a reference has
            no word.
        TypeError: a caption is not a string, or the references of an image are one string.

    >>> round(evaluate({7: "a dog", 8: "Two cats."}, {7: ["A dog runs."], 8: ["two cats"]}).corpus["ROUGE-L"], 4)
    0.8861
    """
    hypotheses, targets = tokenized(captions, references)
    sentences, owners = list(hypotheses.values()), list(targets.values())
    empty = sum(not words for words in sentences)
    if empty:
        log.warning("%d of %d captions have no word: they score 0", empty, len(sentences))
    if len(sentences) == 1:
        log.warning("CIDEr of one image is 0 by definition: every word is in all images. Score more images at once.")
    cider = Cider(owners)
    corpus, bleu = _bleu(sentences, owners, cider.ngrams)
    rouge = np.array([_rouge(words, theirs) for words, theirs in zip(sentences, owners, strict=True)])  # (n,)
    consensus = cider.score(sentences, np.arange(len(sentences)))  # (n,)
    each = bleu | {"ROUGE-L": rouge, "CIDEr": consensus, "CIDEr-D": consensus}
    corpus |= {name: float(each[name].mean()) for name in ("ROUGE-L", "CIDEr", "CIDEr-D")}
    return Scores(corpus, each, list(hypotheses))


def tokenized(
    captions: Mapping[Any, str], references: Mapping[Any, Sequence[str]]
) -> tuple[dict[Any, Tokens], dict[Any, list[Tokens]]]:
    """The words of captions and of references, checked, in the order of `captions`; for the errors see `evaluate`."""
    if not captions:
        raise ValueError("there must be captions to score: got none.")
    missing = [image for image in captions if image not in references]
    if missing:
        raise ValueError(
            f"every caption needs references: {len(missing)} of {len(captions)} images have none, the first is "
            f"{missing[0]!r}.{_near(missing[0], references)} Check that ids are of one type and of one split."
        )
    extra = [image for image in references if image not in captions]
    if extra:
        raise ValueError(
            f"every image needs a caption: {len(extra)} of {len(references)} images have references and no caption, "
            f"the first is {extra[0]!r}.{_near(extra[0], captions)} Give the references of the captioned images only."
        )
    hypotheses, targets = {}, {}
    for image, caption in captions.items():
        if not isinstance(caption, str):
            raise TypeError(f"a caption must be one string: image {image!r} has {caption!r}.")
        if isinstance(references[image], str):
            raise TypeError(f"references must be several: image {image!r} has one string. Write [reference].")
        hypotheses[image] = ptb_tokenize(caption)
        targets[image] = [ptb_tokenize(reference) for reference in references[image]]
        if not targets[image]:
            raise ValueError(f"every image needs a reference: {image!r} has none. Leave it out of both.")
        if not all(targets[image]):
            wrong = references[image][targets[image].index([])]
            raise ValueError(f"a reference must have a word: image {image!r} has {wrong!r}. Leave that reference out.")
    return hypotheses, targets


def _near(image: Any, images: Iterable) -> str:
    """The hint at a near name, for images named by strings."""
    return hint(image, (other for other in images if isinstance(other, str))) if isinstance(image, str) else ""


def _bleu(
    captions: list[Tokens], references: list[list[Tokens]], ngrams: NGrams
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """BLEU of the corpus by name, with the ratio of lengths, and (n,) of each caption by name.

    Args:
        captions: n captions.
        references: of each.
        ngrams: those of all references in their order.
    """
    length = np.array([len(words) for words in captions], np.int64)  # (n,)
    sizes = np.array([len(theirs) for theirs in references], np.int64)  # (n,)
    image = np.repeat(np.arange(len(captions)), sizes)  # (m,) of each reference
    lengths = np.array([len(words) for theirs in references for words in theirs], np.int64)  # (m,)
    nearness = pack(np.abs(lengths - length[image]), lengths)  # (m,) nearest first, then shortest
    closest = np.minimum.reduceat(nearness, np.cumsum(sizes) - sizes) & LOW  # (n,)
    matches = np.zeros((LONGEST, len(captions)), np.int64)
    for n, (mine, theirs) in enumerate(zip(ngrams.count(captions), ngrams.counts, strict=True)):
        key = pack(image[theirs.sentence], theirs.gram)  # (k,)
        order = np.argsort(key, kind="stable")
        key, first = np.unique(key[order], return_index=True)  # n-grams of an image
        most = np.maximum.reduceat(theirs.times[order], first)  # in one of its references
        wanted = pack(mine.sentence, mine.gram)
        _, found, at = np.intersect1d(wanted, key, assume_unique=True, return_indices=True)
        clipped = np.minimum(mine.times[found], most[at])
        matches[n] = np.bincount(mine.sentence[found], clipped, minlength=len(captions))
    total = np.maximum(length - np.arange(LONGEST)[:, None], 0)  # (4, n) n-grams of each caption
    plain, reduced = _precision(matches.sum(axis=1), total.sum(axis=1), length.sum(), closest.sum())
    corpus = {f"BLEU-{n + 1}": float(reduced[n]) for n in range(LONGEST)}
    corpus |= {f"BLEU-{n + 1}_no_penalty": float(plain[n]) for n in range(LONGEST)}
    corpus["length_ratio"] = float(length.sum() / closest.sum())
    of_each = _precision(matches, total, length, closest)[1]  # (4, n)
    return corpus, {f"BLEU-{n + 1}": of_each[n] for n in range(LONGEST)}


def _precision(
    matches: np.ndarray, total: np.ndarray, length: np.ndarray, closest: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """BLEU-1..4 without and with the brevity penalty, each (4, ...).

    Args:
        matches: (4, ...) clipped matches of n-grams.
        total: (4, ...) n-grams.
        length: (...) words.
        closest: (...) words of the closest reference.
    """
    root = 1 / np.arange(1, LONGEST + 1).reshape(-1, *[1] * length.ndim)  # (4, ...)
    precision = np.cumprod((matches + TINY) / (total + SMALL), axis=0) ** root  # (4, ...)
    ratio = (length + TINY) / (closest + SMALL)
    return precision, precision * np.exp(np.minimum(1 - 1 / ratio, 0))


def _rouge(caption: Tokens, references: list[Tokens]) -> float:
    """ROUGE-L of one caption.

    The longest common subsequence comes from sums of whole numbers whose bits are the words of the caption: Hyyro 2004,
    "Bit-parallel LCS-length computation revisited".
    """
    places: dict[str, int] = {}
    for place, word in enumerate(caption):
        places[word] = places.get(word, 0) | 1 << place
    everywhere = (1 << len(caption)) - 1
    precision = recall = 0.0
    for reference in references:
        free = everywhere
        for word in reference:
            if word in places:
                taken = free & places[word]
                free = (free + taken) | (free - taken)
        common = len(caption) - (free & everywhere).bit_count()
        if common:
            precision = max(precision, common / len(caption))
            recall = max(recall, common / len(reference))
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0


def diversity(captions: Sequence[str], train: Iterable[str] = ()) -> dict[str, float]:
    """How much captions differ from one another, and from those that a model was trained on.

    Args:
        captions: one or more.
        train: sentences of the train split, if copies of them are to be counted.

    Returns:
        "distinct-1" and "distinct-2": different words and bigrams over all words and bigrams of all captions together
        (Li et al. 2016, arXiv:1510.03055; 0 where there is none); "vocabulary": number of different words; "words":
        mean number of words; and, if `train` holds a sentence, "copied": share of the captions that are one of them
        word for word.

    Raises:
        ValueError: there is no caption.

    >>> diversity(["A dog runs.", "a dog sleeps"], train=["A dog sleeps!"])["copied"]
    0.5
    """
    if isinstance(captions, str) or not captions:
        raise ValueError(f"captions must be a list of one or more strings: got {captions!r}.")
    words = [ptb_tokenize(caption) for caption in captions]
    ones, twos = NGrams(words).counts[:2]
    result = {
        "distinct-1": _share_of_different(ones.gram, ones.times),
        "distinct-2": _share_of_different(twos.gram, twos.times),
        "vocabulary": float(len(np.unique(ones.gram))),
        "words": float(np.mean([len(sentence) for sentence in words])),
    }
    known = {tuple(ptb_tokenize(sentence)) for sentence in train}
    if known:
        result["copied"] = float(np.mean([tuple(sentence) in known for sentence in words]))
    return result


def _share_of_different(gram: np.ndarray, times: np.ndarray) -> float:
    """Different n-grams over all n-grams; 0 where there is none."""
    return len(np.unique(gram)) / max(int(times.sum()), 1)
