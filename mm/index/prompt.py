"""`Prompt`: questions to an index, line by line."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mm.index.hits import Hit
from mm.index.searcher import Searcher, parse_where

HELP = """\
a dog in the snow    a sentence; text: a dog says that it is one
image: FILE          a picture
audio: FILE          a sound
+ night              a term more in the last question: words, image: FILE or audio: FILE
- day                a term less
k 5                  answers wanted
where key=value      a condition; key=a,b for either, key=low..high; where alone lifts all
"""
SOURCE = re.compile(r"(text|image|audio):\s*(.+)")
K = re.compile(r"k\s+(-?\d+)")
WHERE = re.compile(r"where(?:\s+(\S+?=.*))?")

Term = tuple[str, Any]  # modality and source


@dataclass(frozen=True)
class _Question:
    """What is asked: a source, terms that are added and taken away, and how."""

    k: int
    conditions: tuple[str, ...]
    main: Term | None = None
    plus: tuple[Term, ...] = ()
    minus: tuple[Term, ...] = ()


class Prompt:
    """A conversation in which every line asks anew or changes the last question; HELP says how.

    Args:
        searcher: with encoders.
        k: answers wanted, until a line says otherwise.
        conditions: as for `parse_where`, until a line says otherwise.
    """

    def __init__(self, searcher: Searcher, k: int = 10, conditions: tuple[str, ...] = ()):
        self.searcher = searcher
        self._last = _Question(k, conditions)
        self._answers(self._last)  # wrong conditions are an error now

    def ask(self, line: str) -> list[Hit] | None:
        """The answers to the question as it is with this line; None while nothing has been asked.

        Raises:
            OSError, ValueError: a file or a question that cannot be used; the last question is as it was.
        """
        question = _changed(self._last, line.strip())
        hits = self._answers(question)
        self._last = question
        return hits

    def _answers(self, question: _Question) -> list[Hit] | None:
        """The answers to a question."""
        where = parse_where(question.conditions)
        if question.main is None:
            anything = np.eye(1, self.searcher.index.dim, dtype=np.float32)  # (1, D)
            self.searcher.index.search(anything, question.k, where)  # so that k and conditions are looked at
            return None
        kind, source = question.main
        main: dict[str, Any] = {kind: source}
        return self.searcher.query(**main, plus=question.plus, minus=question.minus, k=question.k, where=where)


def _changed(last: _Question, line: str) -> _Question:
    """A question with what a line says."""
    if found := K.fullmatch(line):
        return replace(last, k=int(found[1]))
    if found := WHERE.fullmatch(line):
        if found[1] is None:
            return replace(last, conditions=())
        key = found[1].partition("=")[0]
        others = [condition for condition in last.conditions if condition.partition("=")[0] != key]
        return replace(last, conditions=(*others, found[1]))
    sign, _, rest = line.partition(" ")
    if sign in ("+", "-"):
        if last.main is None:
            raise ValueError(f"{line!r} changes a question: ask one first.")
        if not rest.strip():
            raise ValueError(
                f"{sign} must be followed by a term: got nothing. Write {sign} words, or {sign} image: FILE."
            )
        term = _term(rest.strip())
        return replace(last, plus=(*last.plus, term)) if sign == "+" else replace(last, minus=(*last.minus, term))
    return replace(last, main=_term(line), plus=(), minus=())


def _term(text: str) -> Term:
    """Modality and source of a text."""
    found = SOURCE.fullmatch(text)
    kind, source = found.groups() if found else ("text", text)
    return kind, source if kind == "text" else Path(source)
