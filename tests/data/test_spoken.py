from collections import Counter

import numpy as np
import pytest

from mm.data import spoken_digits
from mm.data.spoken import WORDS


@pytest.fixture
def small(tmp_path, sound):
    """Two speakers, digits 3 and 7, takes 0, 4, 5, 44, 45 and 49."""
    for who in ("anna", "bo"):
        for digit in (3, 7):
            for take in (0, 4, 5, 44, 45, 49):
                sound(tmp_path / "fsdd" / "recordings" / f"{digit}_{who}_{take}.wav")
    return tmp_path


def takes(items):
    return Counter(item.meta["take"] for item in items if item.audio)


def test_takes_fall_into_the_official_splits(small):
    assert takes(spoken_digits(small, "train")) == {5: 4, 44: 4}
    assert takes(spoken_digits(small, "val")) == {45: 4, 49: 4}
    assert takes(spoken_digits(small, "test")) == {0: 4, 4: 4}
    assert takes(spoken_digits(small, "trainval")) == {5: 4, 44: 4, 45: 4, 49: 4}


def test_a_held_out_speaker_is_heard_in_the_test_only(small):
    parts = {split: spoken_digits(small, split, speaker="bo") for split in ("train", "val", "test")}
    assert {split: {i.meta["speaker"] for i in items if i.audio} for split, items in parts.items()} == {
        "train": {"anna"},
        "val": {"anna"},
        "test": {"bo"},
    }
    assert len(takes(parts["test"])) == 6 and set(takes(parts["train"])) == {0, 4, 5, 44}


def test_training_items_have_the_word_and_the_pictures_of_their_digit(small):
    for item in spoken_digits(small, "train"):
        digit = item.meta["digit"]
        assert item.owner == str(digit) and item.text == (WORDS[digit],) and len(item.audio) == 1
        assert len(item.image) > 80
        assert all(picture.shape == (64, 64, 3) and picture.dtype == np.uint8 for picture in item.image)


def test_evaluation_items_hold_one_thing_each(small):
    items = spoken_digits(small, "test")
    assert all(len(item.image) + len(item.text) + len(item.audio) == 1 for item in items)
    assert sorted(item.text[0] for item in items if item.text) == sorted(WORDS)
    assert len({item.id for item in items}) == len(items)
    pictured = Counter(item.owner for item in items if item.image)
    assert set(pictured) == set("0123456789") and min(pictured.values()) > 40


def test_no_picture_is_in_two_splits(small):
    train = {p.tobytes() for item in spoken_digits(small, "train") for p in item.image}
    seen = [{item.image[0].tobytes() for item in spoken_digits(small, s) if item.image} for s in ("val", "test")]
    assert not (train & seen[0] or train & seen[1] or seen[0] & seen[1])


def test_pictures_show_their_digit():
    """Against scikit-learn itself: shrunk again to 8 x 8, a picture is nearest to the original it was made from."""
    from sklearn.datasets import load_digits

    from mm.data.spoken import digit_pictures

    bunch = load_digits()
    originals = bunch.images.reshape(len(bunch.images), -1) / 16  # (1797, 64)
    for digit in range(10):
        picture = digit_pictures("val")[digit][0]
        small = picture[..., 0].reshape(8, 8, 8, 8).mean(axis=(1, 3)).ravel() / 255  # (64,)
        assert bunch.target[np.abs(originals - small).sum(axis=1).argmin()] == digit


def test_unknown_speaker_and_strange_file(small):
    with pytest.raises(ValueError, match=r"unknown speaker 'ana'. Choose from: anna, bo. Did you mean 'anna'\?"):
        spoken_digits(small, "test", speaker="ana")
    (small / "fsdd" / "recordings" / "x_anna_1.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x_anna_1\.wav must be named \{digit\}_\{speaker\}_\{take\}\.wav"):
        spoken_digits(small, "test")
    with pytest.raises(FileNotFoundError, match=r"fsdd must hold recordings"):
        spoken_digits(small / "nowhere", "test")


def test_an_empty_folder_is_not_a_data_set(tmp_path):
    (tmp_path / "fsdd" / "recordings").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="must hold FSDD's wav files"):
        spoken_digits(tmp_path, "train")


def test_fsdd_counts(real_data):
    root = real_data("fsdd").parent
    counts = {split: takes(spoken_digits(root, split)) for split in ("train", "val", "test", "trainval")}
    assert {split: sum(found.values()) for split, found in counts.items()} == {
        "train": 2400,
        "val": 300,
        "test": 300,
        "trainval": 2700,
    }
    assert set(counts["test"]) == set(range(5))
    held_out = spoken_digits(root, "test", speaker="theo")
    assert sum(takes(held_out).values()) == 500
