"""Sentences -> words -> numbers, and back: `tokenize` and `Vocabulary`."""

import difflib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mm.files import write_json

PAD, START, END, UNK = range(4)
SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")
NEVER = (PAD, START, UNK)  # no sentence that a model writes holds these
WORD_STD = 0.1  # Adam moves a number by the rate a step at most: words that start at 1 stay what they were drawn as

APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u00b4\u0060\uff07", "'"))
# Written without spaces, so that each character is a word: kana, Han, Thai, Lao, Burmese, Khmer.
UNSPACED = (
    "[\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff]"
)
MARK = "\u0001"  # stands before every combining mark: `re` knows no class for them
MARKS = f"(?:{MARK}.)*"
LETTER = rf"(?:(?!{UNSPACED})[^\W_]{MARKS})"
WORD = re.compile(rf"(?![\W_]){UNSPACED}{MARKS}|{LETTER}+(?:'{LETTER}+)*")


def tokenize(text: str) -> list[str]:
    """The words of a text: Unicode NFKC, lower case; letters and digits of any script with the apostrophes inside.

    A script written without spaces (Chinese, Japanese, Thai, ...) gives one word per character.

    >>> tokenize("Two dogs don't run -- 3 others' DO!")
    ['two', 'dogs', "don't", 'run', '3', 'others', 'do']
    """
    text = text.translate(APOSTROPHES).replace(MARK, " ")
    if text.isascii():  # most often, and three times as fast
        return WORD.findall(text.lower())
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    marked = "".join(MARK + c if unicodedata.category(c)[0] == "M" else c for c in text)
    return [word.replace(MARK, "") for word in WORD.findall(marked)]


class Vocabulary:
    """The words that a model knows, each with its number; 0 to 3 are `SPECIALS`.

    Args:
        words: in the order of their numbers, from 4 on; each as `tokenize` gives it.

    Raises:
        ValueError: a word occurs twice, or is not what `tokenize` makes of it.
    """

    def __init__(self, words: Iterable[str] = ()):
        self.words = list(words)
        self._number = {word: number for number, word in enumerate([*SPECIALS, *self.words])}
        if len(self._number) < len(self):
            twice = [word for word, count in Counter([*SPECIALS, *self.words]).items() if count > 1]
            raise ValueError(f"words of a vocabulary must differ: {twice[:5]} occur more than once. Leave one of each.")
        for word in self.words:
            if not isinstance(word, str) or tokenize(word) != [word]:
                raise ValueError(f"a word must be one word as tokenize gives it: got {word!r}. Build from sentences.")

    @classmethod
    def build(cls, sentences: Iterable[str], min_count: int = 1) -> "Vocabulary":
        """The words of the training sentences, the most frequent first, equally frequent ones by their letters.

        Args:
            sentences: of the train split only.
            min_count: rarer words are left out, so that they become `<unk>`.

        Raises:
            ValueError: no word is left.
        """
        if isinstance(sentences, str):
            raise TypeError("sentences must be several: got one string. Write [sentence].")
        counts = Counter(word for sentence in sentences for word in tokenize(sentence))
        kept = sorted((word for word in counts if counts[word] >= min_count), key=lambda word: (-counts[word], word))
        if not kept:
            raise ValueError(
                f"at least one word must occur {min_count} times: the sentences have {len(counts)} different words, "
                f"the most frequent {max(counts.values(), default=0)} times. Lower min_count or give more sentences."
            )
        return cls(kept)

    def __len__(self) -> int:
        return len(SPECIALS) + len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    __hash__ = None  # type: ignore[assignment]  # `words` is a list

    def encode(self, text: str) -> list[int]:
        """The numbers of the words of a text, `<unk>` for those it does not know (`unknown` lists them).

        Raises:
            ValueError: the text has no word at all.
        """
        words = tokenize(text)
        if not words:
            raise ValueError(f"a sentence must have at least one word: got {text!r}. Give letters or digits.")
        return [self._number.get(word, UNK) for word in words]

    def decode(self, numbers: Iterable[int]) -> str:
        """The words of the numbers, up to the first `<end>`; `<pad>` and `<start>` are left out, `<unk>` is kept.

        Raises:
            ValueError: a number that no word has.
        """
        words = []
        for number in map(int, numbers):
            if number == END:
                break
            if not 0 <= number < len(self):
                raise ValueError(f"numbers of words must lie in 0..{len(self) - 1}: got {number}.")
            if number == UNK or number >= len(SPECIALS):
                words.append(SPECIALS[UNK] if number == UNK else self.words[number - len(SPECIALS)])
        return " ".join(words)

    def unknown(self, text: str) -> list[str]:
        """The words of a text that are not in the vocabulary, each once, in order."""
        return [word for word in dict.fromkeys(tokenize(text)) if word not in self._number]

    def nearest(self, word: str, count: int = 3) -> list[str]:
        """The known words that are spelled most like `word`, the best first; none if nothing is like it."""
        return difflib.get_close_matches(word.lower(), self.words, n=count)

    def save(self, path: str | Path) -> None:
        """Write a JSON file, whole or not at all."""
        write_json(path, {"words": self.words})

    @classmethod
    def load(cls, path: str | Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a vocabulary, damaged, or with words that cannot be.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:  # JSON and UTF-8 errors are both
            raise ValueError(f"{path} must be a vocabulary in JSON: {error}. Save it again.") from error
        words = content.get("words") if isinstance(content, dict) else None
        if not isinstance(words, Sequence) or isinstance(words, str):
            raise ValueError(f'{path} must hold {{"words": [...]}}: got {str(content)[:60]!r}. Is it another file?')
        try:
            return cls(words)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from error
