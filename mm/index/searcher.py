"""`Searcher`: an index and the encoders that embed its queries; `combine`: sums and differences of vectors."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mm.index.build import Embedder
from mm.index.hits import Hit
from mm.index.items import Id, Where
from mm.index.store import Index
from mm.vocabulary import tokenize

ZERO = 1e-6  # a sum shorter than this has no direction

log = logging.getLogger(__name__)


def combine(plus: Sequence[Any], minus: Sequence[Any] = ()) -> np.ndarray:
    """The direction of a sum of vectors less other vectors: picture - "day" + "night".

    Args:
        plus: vectors (D,).
        minus: vectors (D,).

    Returns:
        (D,) float32 unit vector.

    Raises:
        ValueError: there is no vector, widths differ, or the sum is zero.

    >>> combine([[3.0, 0.0], [0.0, 4.0]], minus=[[3.0, 0.0]]).tolist()
    [0.0, 1.0]
    """
    terms = [_vector(values) for values in plus] + [-_vector(values) for values in minus]
    shapes = {term.shape for term in terms}
    if len(shapes) != 1 or len(terms[0].shape) != 1:
        raise ValueError(f"a query is a sum of vectors of one width: got shapes {sorted(shapes) or 'none'}.")
    total = np.sum(terms, axis=0)  # (D,)
    length = np.linalg.norm(total)
    if not length > ZERO:
        raise ValueError(f"the sum of a query must not vanish: its length is {length:.2g}. Change one of its terms.")
    return (total / length).astype(np.float32)  # (D,)


class Searcher:
    """Answers pictures, sentences, sounds and vectors from an index.

    Args:
        index: what to search.
        embedder: what embeds queries, see `mm.index.build.Embedder`; None = queries are vectors. It may also have
            `unknown_words(text) -> list[str]` and `nearest_words(word) -> list[str]`: a sentence of unknown words alone
            is then an error that names the nearest known ones.

    Raises:
        ValueError: the index was made by other encoders, or does not say by which.
    """

    def __init__(self, index: Index, embedder: Embedder | None = None):
        self.index, self.embedder = index, embedder
        if embedder is not None and embedder.fingerprint() != index.fingerprint:
            raise ValueError(
                "queries must be embedded by the encoders that made the index: it has fingerprint "
                f"{index.fingerprint or 'unknown'!r}, these encoders {embedder.fingerprint()!r}. "
                f"Use those of run {index.run or 'unknown'!r}, or build the index again with these."
            )

    def query(
        self,
        *,
        image: Any = None,
        text: str | None = None,
        audio: Any = None,
        vector: Any = None,
        plus: Sequence[Any] = (),
        minus: Sequence[Any] = (),
        k: int = 10,
        where: Where | None = None,
        modality: str | Collection[str] | None = None,
        exclude: Iterable[Id] = (),
    ) -> list[Hit]:
        """The k nearest items to one query, the best first.

        Args:
            image: path, array or PIL image.
            text: a sentence.
            audio: path or wave.
            vector: (D,) unit vector.
            plus: terms added to the query, each a pair (modality, source) or a vector (D,).
            minus: terms taken away from it.
            k: answers wanted.
            where: conditions on the metadata, see `Index.search`.
            modality: answer with these only.
            exclude: ids that are no answers.

        Raises:
            ValueError: not exactly one of image, text, audio and vector, an unreadable or meaningless query, or wrong
                conditions.
        """
        conditions = dict(where or {})
        if modality is not None:
            if "modality" in conditions:
                raise ValueError("the modality was given twice, as modality= and in where=. Give one of them.")
            conditions["modality"] = modality
        query = self.vector(image=image, text=text, audio=audio, vector=vector, plus=plus, minus=minus)  # (D,)
        return self.index.search(query, k, conditions, exclude).rows()

    def vector(
        self,
        *,
        image: Any = None,
        text: str | None = None,
        audio: Any = None,
        vector: Any = None,
        plus: Sequence[Any] = (),
        minus: Sequence[Any] = (),
    ) -> np.ndarray:
        """(D,) float32 unit vector of a query; the arguments are those of `query`."""
        given = {"image": image, "text": text, "audio": audio, "vector": vector}
        given = {kind: source for kind, source in given.items() if source is not None}
        if len(given) != 1:
            raise ValueError(
                f"a query must be exactly one of image, text, audio and vector: got {', '.join(given) or 'none'}. "
                "Give further terms as plus= and minus=."
            )
        ((kind, source),) = given.items()
        main = source if kind == "vector" else self._embed(kind, source)
        if not len(plus) and not len(minus):
            return _alone(_vector(main))
        return combine([main, *map(self._term, plus)], [*map(self._term, minus)])

    def _term(self, term: Any) -> Any:
        """The vector of one term: (modality, source) or a vector."""
        if isinstance(term, tuple) and len(term) == 2 and isinstance(term[0], str):
            return self._embed(*term)
        if isinstance(term, (str, Path)):
            raise ValueError(f"a term must be a pair (modality, source) or a vector: got {term!r}.")
        return term

    def _embed(self, modality: str, source: Any) -> np.ndarray:
        """(D,) the vector of one source."""
        if self.embedder is None:
            raise ValueError(f"{modality} queries need encoders: this searcher has none. Give vector=, or an embedder.")
        if modality == "text":
            _check_words(self.embedder, source)
        return np.asarray(self.embedder.embed(modality, [source]))[0]  # (D,)


def _check_words(embedder: Any, text: str) -> None:
    """Refuse a sentence of which the encoder knows no word; say so if it does not know some."""
    unknown = embedder.unknown_words(text) if hasattr(embedder, "unknown_words") else []
    if not unknown:
        return
    if set(tokenize(text)) <= set(unknown):
        hint = ""
        if hasattr(embedder, "nearest_words"):
            near = {word: ", ".join(embedder.nearest_words(word)) or "nothing" for word in unknown}
            hint = " Nearest known words: " + "; ".join(f"{word}: {words}" for word, words in near.items()) + "."
        raise ValueError(f"a sentence must have a word that the encoder knows: got {text!r}.{hint}")
    log.warning("words that the encoder does not know have no part in the query: %s", ", ".join(unknown))


def read_vectors(file: str | Path) -> np.ndarray:
    """The numbers of a .npy file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    try:
        array = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} must hold an array of numbers as numpy.save writes it: it does not.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ValueError(f"{file} must hold an array of numbers: got {getattr(array, 'dtype', 'an archive')}.")
    return array


def parse_where(conditions: Iterable[str]) -> dict[str, Any]:
    """Conditions as a command line gives them.

    Args:
        conditions: "key=value", "key=a,b" for any of several, "key=low..high" for a range with an end left open or
            not. Values are read as JSON where they are such (3, true, null, "a, b", ["a, b", "c"]), else as text.

    Raises:
        ValueError: a condition without "=", or a key twice.

    >>> parse_where(["split=test", "fold=1,2", "seconds=0.5..", "category=dog"])
    {'split': 'test', 'fold': [1, 2], 'seconds': (0.5, None), 'category': 'dog'}
    """
    where: dict[str, Any] = {}
    for condition in conditions:
        key, equals, text = condition.partition("=")
        if not equals or not key:
            raise ValueError(f"a condition must be key=value: got {condition!r}.")
        if key in where:
            raise ValueError(f"a key may have one condition: {key!r} has two. Write {key}=a,b for either.")
        low, dots, high = text.partition("..")
        if text[:1] in ('"', "["):
            where[key] = _value(text)
        elif dots:
            where[key] = (_value(low) if low else None, _value(high) if high else None)
        elif "," in text:
            where[key] = [_value(part) for part in text.split(",")]
        else:
            where[key] = _value(text)
    return where


def _value(text: str) -> Any:
    """What a text is in JSON, or the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _alone(vector: np.ndarray) -> np.ndarray:
    """A vector (D,), or the one of (1, D): of several, all but the first would have no part in the answer."""
    if vector.ndim == 2 and len(vector) == 1:
        return vector[0]
    if vector.ndim != 1:
        raise ValueError(f"a query must be one vector (D,): got shape {vector.shape}.")
    return vector


def _vector(values: Any) -> np.ndarray:
    """A vector as float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
    return np.asarray(values, np.float32)
