"""Questions line by line: what each line does, and that a wrong one changes nothing."""

from pathlib import Path

import numpy as np
import pytest

from mm.index import Index, Searcher
from mm.index.prompt import Prompt

WORDS = {"red": 0, "green": 1, "blue": 2, "dog": 3}


class Colours:
    """Embeds words as axes, and files that are named after words as the same."""

    def fingerprint(self):
        return "colours"

    def embed(self, modality, sources):
        names = [source.stem if isinstance(source, Path) else source for source in sources]
        if unknown := [name for name in names if not set(name.split()) <= set(WORDS)]:
            raise ValueError(f"{modality} {unknown[0]} cannot be embedded")
        total = np.stack([sum(np.eye(4)[WORDS[word]] for word in name.split()) for name in names])
        return (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def prompt():
    vectors = Colours().embed("text", ["red", "green", "blue", "dog", "red dog", "blue dog"])
    ids = ["red", "green", "blue", "dog", "red-dog", "blue-dog"]
    metadata = [{"legs": 4 if "dog" in id_ else 0, "size": len(id_)} for id_ in ids]
    index = Index.build(vectors, ids, metadata, modality="image", fingerprint="colours")
    return Prompt(Searcher(index, Colours()), k=2)


def ids(hits):
    return [hit.id for hit in hits]


def test_a_conversation(prompt):
    assert prompt.ask("k 1") is None  # nothing has been asked
    assert ids(prompt.ask("red")) == ["red"]
    assert ids(prompt.ask("+ dog")) == ["red-dog"]
    assert ids(prompt.ask("- red")) == ["dog"]
    assert ids(prompt.ask("+ image: some/blue.png")) == ["blue-dog"]
    assert ids(prompt.ask("k 3"))[0] == "blue-dog"
    assert ids(prompt.ask("where legs=0")) == ["blue", "red", "green"]
    assert ids(prompt.ask("where size=5..")) == ["green"]  # both conditions
    assert ids(prompt.ask("where size=4")) == ["blue"]  # a key has one
    assert ids(prompt.ask("audio: green.wav")) == ["blue"]
    assert ids(prompt.ask("where"))[0] == "green"
    assert ids(prompt.ask("  text: red dog "))[:2] == ["red-dog", "red"]  # the terms belonged to another question
    assert prompt.ask("red")[0].metadata == {"legs": 0, "size": 3, "modality": "image"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("purple", "text purple cannot be embedded"),
        ("image: purple.png", "image purple cannot be embedded"),
        ("+ purple", "text purple cannot be embedded"),
        ("+", r"must be followed by a term: got nothing\. Write \+ words"),
        ("- ", "must be followed by a term"),
        ("- red", "the sum of a query must not vanish"),
        ("k 0", "k must be at least 1: got 0"),
        ("where leg=4", "no item has the key 'leg'.*Did you mean 'legs'"),
        ("where legs=1..b", "two numbers or two strings"),
        ("where are the dogs", "text where are the dogs cannot be embedded"),  # a sentence
        ("k five", "text k five cannot be embedded"),
    ],
)
def test_a_line_that_cannot_be_used_leaves_the_question_as_it_was(prompt, line, message):
    before = prompt.ask("red")
    with pytest.raises(ValueError, match=message):
        prompt.ask(line)
    assert prompt.ask("k 2") == before


def test_what_is_wrong_before_anything_is_asked(prompt):
    with pytest.raises(ValueError, match="changes a question: ask one first"):
        prompt.ask("+ red")
    with pytest.raises(ValueError, match="k must be at least 1"):
        prompt.ask("k -3")
    with pytest.raises(ValueError, match="no item has the key 'colour'"):
        Prompt(prompt.searcher, 5, ("colour=red",))
    assert prompt.ask("where legs=4") is None
    assert ids(prompt.ask("red")) == ["red-dog", "dog"]
