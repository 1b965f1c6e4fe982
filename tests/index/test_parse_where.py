"""Conditions as a command line gives them, and that an index finds by them what a loop over the metadata finds."""

import numpy as np
import pytest

from mm.index import Index, parse_where


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("split=test", "test"),
        ("split=", ""),
        ("fold=3", 3),
        ("fold=-1", -1),
        ("seconds=0.5", 0.5),
        ("seconds=1e3", 1000.0),
        ("good=true", True),
        ("good=True", "True"),  # JSON's spelling is the lower one
        ("owner=null", None),
        ('fold="3"', "3"),
        ("name=a=b", "a=b"),
        ("name= dog ", " dog "),
        ("fold=1,2", [1, 2]),
        ("category=dog,rooster", ["dog", "rooster"]),
        ("mixed=1,dog,null", [1, "dog", None]),
        ('text="a dog, a cat"', "a dog, a cat"),
        ('text=["a, b", "c"]', ["a, b", "c"]),
        ('path="../a..b"', "../a..b"),
        ("seconds=0.5..", (0.5, None)),
        ("seconds=..2", (None, 2)),
        ("seconds=0.5..2.5", (0.5, 2.5)),
        ("name=a..m", ("a", "m")),
        ("seconds=-1..1", (-1, 1)),
    ],
)
def test_one_condition(text, wanted):
    (key, found), *others = parse_where([text]).items()
    assert (key, found, others) == (text.partition("=")[0], wanted, [])
    assert type(found) is type(wanted)


def test_several_conditions_and_none():
    assert parse_where([]) == {}
    assert parse_where(["a=1", "b=x"]) == {"a": 1, "b": "x"}


@pytest.mark.parametrize("text", ["split", "", "=test", "split:test"])
def test_without_a_key_or_a_value(text):
    with pytest.raises(ValueError, match=r"a condition must be key=value: got "):
        parse_where([text])


def test_a_key_twice():
    with pytest.raises(ValueError, match=r"a key may have one condition: 'fold' has two\. Write fold=a,b for either"):
        parse_where(["fold=1", "split=test", "fold=2"])


META = [{"fold": i % 5, "category": ["dog", "rooster", "cat"][i % 3], "seconds": i / 4} for i in range(30)]
LOOPS = {
    "fold=3": lambda m: m["fold"] == 3,
    "fold=1,2": lambda m: m["fold"] in (1, 2),
    "category=dog,cat": lambda m: m["category"] in ("dog", "cat"),
    "seconds=2..": lambda m: m["seconds"] >= 2,
    "seconds=..2": lambda m: m["seconds"] <= 2,
    "seconds=1..2.25": lambda m: 1 <= m["seconds"] <= 2.25,
    "category=a..d": lambda m: "a" <= m["category"] <= "d",
    'fold="3"': lambda m: m["fold"] == "3",
}


@pytest.mark.parametrize("condition", LOOPS)
def test_the_index_finds_what_a_loop_finds(condition):
    index = Index.build(np.eye(30, dtype=np.float32), list(range(30)), META)
    found = index.search(np.eye(30, dtype=np.float32)[0], 30, parse_where([condition])).ids[0]
    assert sorted(found) == [i for i, meta in enumerate(META) if LOOPS[condition](meta)]


@pytest.mark.parametrize("condition", ["seconds=..", "seconds=1..x", "fold=[[1]]", "fold=NaN"])
def test_conditions_that_cannot_be_compared_are_errors_of_the_search(condition):
    index = Index.build(np.eye(30, dtype=np.float32), list(range(30)), META)
    with pytest.raises(ValueError, match=r"where|JSON"):
        index.search(np.eye(30, dtype=np.float32)[0], 3, parse_where([condition]))
