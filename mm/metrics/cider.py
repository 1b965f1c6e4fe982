"""CIDEr-D: how much a caption says what the references of its image say, rare n-grams counting most."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from mm.metrics.ngrams import LONGEST, LOW, NGrams, Sentences, pack

SIGMA = 6.0  # words of difference in length that cost a factor of exp(-1/2)


class Level(NamedTuple):
    """What the references hold of n-grams of one length, sorted by image and n-gram.

    Attributes:
        key: (k,) int64 image and n-gram, packed.
        reference: (k,) int64 positions of the references.
        weight: (k,) float64 term frequency times inverse document frequency.
        norm: (m,) float64 length of each reference's vector of weights.
        idf: (grams + 1,) float64 inverse document frequencies; the last is that of all n-grams not seen.
    """

    key: np.ndarray
    reference: np.ndarray
    weight: np.ndarray
    norm: np.ndarray
    idf: np.ndarray


class Cider:
    """CIDEr-D against the references of some images, whose document frequencies are counted once.

    Per n = 1..4, a sentence is a vector over n-grams of (count) * log(images / images with the n-gram in a reference).
    A caption is compared with each reference by the cosine, with its weights clipped to those of the reference, times
    exp(-(difference in length)^2 / (2 * 6^2)). The mean over references and n, times 10, lies in 0..10.

    Source: CIDEr-D of Vedantam et al. 2015, arXiv:1411.5726, as the authors' code computes it: an n-gram in no
    reference counts as if it were in one image, a length is the number of bigrams, and an n for which a caption or a
    reference is too short counts as 0.

    Args:
        references: of each image, of each reference, the tokens: strings or numbers.

    Raises:
        ValueError: no image, or an image without a reference.

    >>> cider = Cider([[["a", "dog"]], [["two", "cats"]]])
    >>> cider.score([["a", "dog"], ["a", "dog"]], [0, 1]).round(6).tolist()
    [5.0, 0.0]
    """

    def __init__(self, references: Sequence[Sequence[Sequence[Hashable]]]):
        self.references = np.array([len(image) for image in references], np.int64)  # (images,) how many each has
        if len(references) == 0 or not self.references.all():
            bad = int(np.argmin(self.references)) if len(references) else None
            raise ValueError(
                "CIDEr needs images, and a reference for each: "
                + ("got no image." if bad is None else f"image number {bad} has none. Leave it out.")
            )
        sentences = [reference for image in references for reference in image]
        self.ngrams = NGrams(sentences)
        self._bigrams = _bigrams(sentences)  # (m,)
        image = np.repeat(np.arange(len(references)), self.references)  # (m,) of each reference
        self._levels = []
        for counts, size in zip(self.ngrams.counts, self.ngrams.sizes, strict=True):
            key = pack(image[counts.sentence], counts.gram)  # (k,)
            distinct, _ = np.unique(key, return_counts=True)  # with counts it sorts, which is many times faster here
            frequency = np.bincount(distinct & LOW, minlength=size)  # (grams,) images with the n-gram
            idf = np.log(len(references)) - np.log(np.append(frequency, 1))  # (grams + 1,)
            weight = counts.times * idf[counts.gram]  # (k,)
            norm = np.sqrt(np.bincount(counts.sentence, weight**2, minlength=len(sentences)))  # (m,)
            order = np.argsort(key, kind="stable")
            self._levels.append(Level(key[order], counts.sentence[order], weight[order], norm, idf))

    def score(self, captions: Sentences, images: np.ndarray | Sequence[int]) -> np.ndarray:
        """(n,) float64 CIDEr-D of captions, each against the references of its image, in 0..10.

        As a reward it costs little: what is known of the references is not computed again.

        Args:
            captions: n captions as tokens; one without tokens scores 0.
            images: (n,) positions of their images in `references`; any order, an image may recur.

        Raises:
            ValueError: there are not as many images as captions, or an image does not exist.
        """
        images = np.asarray(images, np.int64)
        if images.shape != (len(captions),):
            raise ValueError(f"every caption needs one image: got {len(captions)} captions and images {images.shape}.")
        if len(images) and not 0 <= images.min() <= images.max() < len(self.references):
            raise ValueError(
                f"images must lie in 0..{len(self.references) - 1}: got {images.min()}..{images.max()}. "
                "They are positions in the references that this Cider was built from."
            )
        bigrams = _bigrams(captions)  # (n,)
        total = np.zeros(len(captions))
        for level, counts in zip(self._levels, self.ngrams.count(captions), strict=True):
            weight = counts.times * level.idf[np.minimum(counts.gram, len(level.idf) - 1)]  # (k,)
            norm = np.sqrt(np.bincount(counts.sentence, weight**2, minlength=len(captions)))  # (n,)
            key = pack(images[counts.sentence], counts.gram)  # (k,)
            first, last = np.searchsorted(level.key, key), np.searchsorted(level.key, key, side="right")
            # Pairs of a caption's n-gram and the same in one of the references of its image.
            mine = np.repeat(np.arange(len(key)), last - first)  # (pairs,)
            theirs = np.arange(len(mine)) + np.repeat(last - np.cumsum(last - first), last - first)  # (pairs,)
            caption, reference = counts.sentence[mine], level.reference[theirs]
            product = np.minimum(weight[mine], level.weight[theirs]) * level.weight[theirs]  # (pairs,)
            scale = norm[caption] * level.norm[reference]
            product /= np.where(scale > 0, scale, 1)  # n-grams of all images weigh nothing
            product *= np.exp(-((bigrams[caption] - self._bigrams[reference]) ** 2) / (2 * SIGMA**2))
            total += np.bincount(caption, product, minlength=len(captions))
        return 10 * total / (LONGEST * self.references[images])


def _bigrams(sentences: Sentences) -> np.ndarray:
    """(n,) int64 number of bigrams of each sentence."""
    return np.array([max(len(sentence) - 1, 0) for sentence in sentences], np.int64)
