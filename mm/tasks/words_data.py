"""What word vectors are learned from: the sentences of a data set or of a text file, as numbers of words.

The text is read twice: to count its words, then to write their numbers into a file without a name, four bytes each,
that is looked up from there on. So a text may be larger than memory, and any part of it is at hand at once.
"""

from __future__ import annotations

import codecs
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from mm import data
from mm.config import ConfigError
from mm.tasks.words import TEXT, Words
from mm.vocabulary import Vocabulary, tokenize

HELD_OUT = 20  # sentences of a text file, of which the last but one is for val and the last for test
EVALUATED = 100_000  # words of val or test at most: the loss is known to a thousandth or so
LINE_BYTES = 10_000  # longer lines are cut at a space, so that a text without line ends is read in parts too
END = -1  # stands behind each sentence
FLUSHED = 1_000_000  # numbers written at once


class TextLines(Iterable[str]):
    """The lines of a text file in UTF-8 that belong to a split, read anew each time; empty lines do not count.

    Args:
        path: of the file.
        split: "train", "val" or "test", see `HELD_OUT`.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(self, path: str | Path, split: str):
        self.path, self.split = Path(path), split
        if not self.path.is_file():
            raise FileNotFoundError(f"data.file must be a text file, a sentence a line: {self.path} not found.")

    def __iter__(self) -> Iterator[str]:
        """Line after line.

        Raises:
            ValueError: bytes that are not UTF-8.
        """
        held_out = {HELD_OUT - 2: "val", HELD_OUT - 1: "test"}
        number = 0
        for line in self._lines():
            if line.strip():
                if held_out.get(number % HELD_OUT, "train") == self.split:
                    yield line
                number += 1

    def _lines(self) -> Iterator[str]:
        decoder, number, rest = codecs.getincrementaldecoder("utf-8-sig")(), 1, ""
        with self.path.open("rb") as file:
            try:
                while read := file.readline(LINE_BYTES):
                    text, ends = rest + decoder.decode(read), read.endswith(b"\n")
                    cut = len(read) == LINE_BYTES and not ends and " " in text  # its last word waits for what follows
                    line, _, rest = text.rpartition(" ") if cut else (text, "", "")
                    yield line
                    number += ends
                yield rest + decoder.decode(b"", final=True)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"line {number} of {self.path} must be text in UTF-8: {error.reason}. Convert the file first."
                ) from error


def sentences(cfg: Words, split: str) -> Iterable[str]:
    """The sentences of a split, which can be gone through again.

    Raises:
        ValueError: an unknown data set.
        FileNotFoundError: it is not in its folder.
    """
    if cfg.data.name != TEXT:
        return list(data.sentences(data.load(cfg.data, split, cfg.seed)))
    if not cfg.data.file:
        raise ConfigError(f"data.name={TEXT} needs data.file=FILE.txt, a sentence a line: got none.")
    return TextLines(cfg.data.file, split)


class Corpus(NamedTuple):
    """Sentences as numbers.

    Attributes:
        tokens: (T,) int32, the numbers of the words, `END` behind each sentence.
        starts: (n + 1,) where each batch begins, and the end.
        counts: (V,) how often each word was read.
    """

    tokens: np.ndarray
    starts: np.ndarray
    counts: np.ndarray


def encoded(
    sentences: Iterable[str],
    words: Sequence[str],
    batch_size: int,
    file: IO[bytes],
    most: int | None = None,
    what: str = "the text",
) -> Corpus:
    """Sentences as numbers of words, in a file; words beyond the vocabulary are left out.

    Args:
        sentences: of a split.
        words: the vocabulary.
        batch_size: words of a batch at least, which is made of whole sentences; only the last may have more.
        file: open for writing and reading. It may be closed afterwards, and have no name.
        most: sentences are read until they have so many words; None = all of them.
        what: how the message of an error names them.

    Raises:
        ValueError: no two words of the vocabulary stand side by side.
        OSError: the disk is full.
    """
    numbers = {word: number for number, word in enumerate(words)}
    counts = np.zeros(len(numbers), dtype=np.int64)  # (V,)
    starts, written, waiting, filled, pairs = [0], 0, array("i"), 0, False
    for sentence in sentences:
        found = [numbers[word] for word in tokenize(sentence) if word in numbers]
        if not found:
            continue
        pairs |= len(found) > 1
        waiting.extend([*found, END])
        filled += len(found)
        if filled >= batch_size:
            starts.append(written + len(waiting))
            filled = 0
        if len(waiting) >= FLUSHED:
            written += flushed(waiting, file, counts)
        if most is not None and written + len(waiting) >= most:
            break
    written += flushed(waiting, file, counts)
    if not pairs:
        raise ValueError(
            f"{what} must have a sentence with two words of the vocabulary: there is none. Give more text (of each "
            f"{HELD_OUT} lines of a file, one is for val and one for test), or lower min_count."
        )
    if filled:  # the rest goes with the last batch, or is the only one
        starts[max(len(starts) - 1, 1) :] = [written]
    file.flush()
    tokens = np.memmap(file, dtype=np.int32, mode="r", shape=(written,))  # type: ignore[call-overload]
    return Corpus(tokens, np.array(starts), counts)


def flushed(waiting: array, file: IO[bytes], counts: np.ndarray) -> int:
    """Write numbers to a file, count them in, and forget them: how many there were."""
    numbers = np.frombuffer(waiting, dtype=np.int32)
    file.write(numbers.tobytes())
    counts += np.bincount(numbers[numbers != END], minlength=len(counts))
    size = len(numbers)
    del numbers  # an array cannot shrink while another looks at its memory
    del waiting[:]
    return size


def training_corpus(cfg: Words) -> tuple[list[str], Corpus]:
    """The vocabulary of the training sentences, the most frequent word first, and the sentences as numbers.

    Raises:
        ValueError: there is no sentence, or no word is frequent enough.
        FileNotFoundError: there is no such file or data set.
    """
    read = sentences(cfg, "train")
    words = Vocabulary.build(read, cfg.min_count).words
    Path(cfg.out).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=cfg.out) as file:  # beside the run, where there is room
        return words, encoded(read, words, cfg.data.batch_size, file)


def held_out_corpus(cfg: Words, words: Sequence[str], split: str) -> Corpus:
    """The first sentences of val or test as numbers.

    Raises:
        ValueError: no two words of the vocabulary stand side by side there.
    """
    what = f"{split} of {cfg.data.file or cfg.data.name}"
    with tempfile.TemporaryFile() as file:
        return encoded(sentences(cfg, split), words, cfg.data.batch_size, file, EVALUATED, what)
