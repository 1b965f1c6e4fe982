"""Word vectors from the text files of GloVe and word2vec."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor


def read_word_vectors(path: str | Path, words: Iterable[str], dim: int) -> tuple[dict[str, Tensor], int]:
    """The vectors (dim,) of the words that a text file has, and how many of them it has with capitals only.

    Each line is a word and its numbers; word2vec's first line, "<words> <dimension>", may be there or not.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"word_vectors must be a GloVe or word2vec text file: {str(path)!r} not found.")
    wanted = set(words)
    exact: dict[str, Tensor] = {}
    capitalised: dict[str, Tensor] = {}
    with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if number <= 2:  # a header, and the first vector with or without one
                fields = line.split()
                header = number == 1 and len(fields) == 2 and all(field.isdecimal() for field in fields)
                given = int(fields[1]) if header else len(fields) - 1
                if given != dim:
                    raise ValueError(
                        f"the vectors of {path} must have word_dim = {dim} numbers: line {number} has {given}."
                    )
                if header:
                    continue
            word, _, rest = line.partition(" ")
            if word.lower() not in wanted:
                continue
            fields = rest.split()
            if len(fields) > dim:
                continue  # an entry of several words
            try:
                vector = torch.tensor([float(field) for field in fields])  # (dim,)
            except ValueError as error:
                raise ValueError(f"line {number} of {path} must be a word and {dim} numbers: {error}.") from error
            if len(fields) < dim or not vector.isfinite().all():
                raise ValueError(
                    f"line {number} of {path} must have {dim} finite numbers: got {len(fields)}. Is it cut off?"
                )
            (exact if word in wanted else capitalised).setdefault(word.lower(), vector)
    return capitalised | exact, len(capitalised.keys() - exact.keys())
