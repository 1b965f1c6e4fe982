import re
from pathlib import Path

import pytest

from mm.config import DataConfig
from mm.data import READERS, load
from mm.data.item import data_root

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown data set 'flickr9k'. Choose from: .* Did you mean 'flickr8k'\?"):
        load(DataConfig(name="flickr9k"), "train")
    with pytest.raises(ValueError, match=r"unknown split 'tests'. Choose from: .* Did you mean 'test'\?"):
        load(DataConfig(), "tests")


@pytest.mark.parametrize("name", sorted(set(READERS) - {"mixed", "shards", "synthetic", "table"}))
def test_a_set_that_is_not_there_says_where_to_look(name, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=re.escape(str(tmp_path)) + r".* must hold .* not found\. docs/data\.md"
    ):
        load(DataConfig(name=name, root=str(tmp_path)), "train")


@pytest.mark.parametrize("name", sorted(READERS))
def test_the_page_of_data_sets_knows_every_reader(name):
    assert f"`{name}`" in PAGE.read_text()


def test_where_the_data_sets_are(monkeypatch):
    monkeypatch.delenv("MM_DATA", raising=False)
    assert data_root(DataConfig()) == Path("data")
    monkeypatch.setenv("MM_DATA", "/sets")
    assert data_root(DataConfig()) == Path("/sets") and data_root(DataConfig(root="mine")) == Path("mine")


def test_the_embedded_world_needs_no_file():
    items = load(DataConfig(scenes=7), "train", seed=3)
    assert (
        len(items) == 7
        and items[2].image
        and items[2].text
        and items[2].id == load(DataConfig(scenes=7), "train", 3)[2].id
    )
