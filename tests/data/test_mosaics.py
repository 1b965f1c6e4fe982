"""Mosaics: the box is the tile that shows what sounds, no other tile shows it, and all is drawn evenly."""

from __future__ import annotations

import csv
import functools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mm.data import Item, Mosaics, digit_mosaics, esc10_mosaics
from mm.data.mosaics import DIGIT_TILE_PX, EVERY_WORD, FEW_DIGITS, PHOTO_TILE_PX, shows, shuffled
from tests.shared import in_a_spawned_process

SPLITS = ("train", "val", "test")
GREYS = {name: 20 * (k + 1) for k, name in enumerate("abcde")}  # of the plain pictures of made-up classes
CAPTIONS = {
    "dog_bark": ["a dog runs", "two dogs", "A Dog and a man", "it jumps", "a brown animal"],
    "sea_waves": ["the ocean", "a man at the sea", "waves and people", "a beach", "a calm view"],
    "baby_cry": ["a baby", "an infant sits", "a toddler on a bed", "a baby laughs", "a smile"],
    "neutral": ["a man rides a bicycle", "a street", "people in a hall", "a red car", "a rock"],
    "too few": ["a dog runs", "two dogs", "it jumps", "a grey thing", "running"],
    "two": ["a dog on the beach"] * 5,
    "near": ["a child on a street"] * 5,
}
COLOURS = {  # RGB of the photographs; the last digit tells split and number apart
    "dog_bark": (200, 20, 20),
    "sea_waves": (20, 20, 200),
    "baby_cry": (20, 200, 20),
    "neutral": (100, 100, 100),
    "too few": (220, 220, 20),
    "two": (220, 20, 220),
    "near": (20, 220, 220),
}


def plain(n: int = 30, split: str = "train", seed: int = 0, **changes) -> Mosaics:
    """Mosaics of three classes with two, three and four clips among five that are seen, each of one grey."""
    clips = {name: [(f"{name}{k}", Path(f"{name}-{k}.wav")) for k in range(2 + i)] for i, name in enumerate("abc")}
    pictures = {name: [np.full((9, 9, 3), grey + k, np.uint8) for k in range(2)] for name, grey in GREYS.items()}
    given = {"side": 3, "tile_px": 6, "clips": clips, "pictures": pictures, "around": list("abcde"), **changes}
    return Mosaics(split, n, seed, **given)


def tiles_of(item: Item, side: int) -> list[np.ndarray]:
    """The tiles of a mosaic in reading order."""
    (image,) = item.image
    assert image.dtype == np.uint8 and image.shape[0] == image.shape[1]
    return [tile for row in np.split(image, side) for tile in np.split(row, side, axis=1)]


def cut(item: Item) -> np.ndarray:
    """What lies within the box of a mosaic."""
    (image,), [[(left, top, right, bottom)]] = item.image, item.meta["boxes"]
    high, wide = image.shape[:2]
    return image[round(top * high) : round(bottom * high), round(left * wide) : round(right * wide)]


def shown(tile: np.ndarray) -> str:
    """Which of the made-up classes a tile is of, "" = black."""
    grey = int(tile.mean())
    assert np.all(tile == grey)
    return next((name for name, least in GREYS.items() if grey in (least, least + 1)), "")


def same(a: Item, b: Item) -> bool:
    return a._replace(image=()) == b._replace(image=()) and np.array_equal(a.image[0], b.image[0])


def item_of(split: Mosaics, index: int) -> Item:
    return split[index]


# Any mosaic ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [2, 3, 4])
@pytest.mark.parametrize("crowd", [None, 0, 2])
def test_the_box_is_the_tile_that_shows_what_sounds_and_no_other_does(side: int, crowd: int | None) -> None:
    split = plain(120, side=side, crowd=crowd)
    places = Counter()
    for i in range(120):
        item = split[i]
        names = [shown(tile) for tile in tiles_of(item, side)]
        heard = item.meta["category"]
        assert item.audio[0].name.startswith(heard) and item.meta["clip"] == item.audio[0].name
        assert names == item.meta["tiles"] and names[item.meta["tile"]] == shown(cut(item)) == heard
        assert names.count(heard) == 1
        others = Counter(names[: item.meta["tile"]] + names[item.meta["tile"] + 1 :])
        seen = side**2 - 1 if crowd is None else crowd
        assert others.pop("", 0) == side**2 - 1 - seen and others.total() == seen
        if seen:  # as different as can be
            assert len(others) == min(4, seen) and max(others.values()) - min(others.values()) <= 1
        assert item.image[0].shape == (6 * side, 6 * side, 3)
        assert json.loads(json.dumps(item.meta)) == item.meta
        places[item.meta["tile"]] += 1
    assert len(places) == side**2  # any tile


def test_classes_are_balanced_and_clips_take_turns() -> None:
    split = plain(72)
    items = [split[i] for i in range(72)]
    assert Counter(item.meta["category"] for item in items) == {"a": 24, "b": 24, "c": 24}
    for name, count in {"a": 2, "b": 3, "c": 4}.items():
        clips = [item.audio[0] for item in items if item.meta["category"] == name]
        assert Counter(clips) == {file: 24 // count for _, file in split.clips[name]}
        assert all(len(set(clips[start : start + count])) == count for start in range(0, 24, count))
    assert max(Counter(item.meta["category"] for item in items[:11]).values()) <= 4  # from the first on


def test_all_pictures_of_a_class_are_shown() -> None:
    found = {(item.meta["category"], int(cut(item)[0, 0, 0])) for item in plain(60)}
    assert found == {(name, GREYS[name] + k) for name in "abc" for k in range(2)}


def test_the_owner_is_the_recording() -> None:
    split = plain(60, clips={"a": [("r1", Path("1.wav")), ("r1", Path("2.wav")), ("r2", Path("3.wav"))]})
    owners = {item.audio[0].name: item.owner for item in split}
    assert owners == {"1.wav": "r1", "2.wav": "r1", "3.wav": "r2"}
    assert [item.id for item in split] == [f"train-{i:05d}" for i in range(60)]


def test_everything_follows_from_seed_split_and_index() -> None:
    one, again, longer = plain(20, seed=3), plain(20, seed=3), plain(5000, seed=3)
    for i in (0, 7, 19):
        assert same(one[i], again[i]) and same(one[i], longer[i]) and same(one[i], one[i - 20])
    others = [one, plain(20, "val", 3), plain(20, "test", 3), plain(20, seed=4)]
    assert len({tuple(item.image[0].tobytes() for item in split) for split in others}) == 4
    assert same(in_a_spawned_process(item_of, one, 7), one[7])


def test_clips_stand_in_an_order_that_their_names_decide() -> None:
    files = [(f"{k}", Path(f"/some/{k}.wav")) for k in range(20)]
    mixed = shuffled(files)
    assert mixed == shuffled(files[::-1]) and sorted(mixed) == sorted(files) and mixed != files
    moved = shuffled([(name, Path("/other") / file.name) for name, file in files])
    assert [name for name, _ in moved] == [name for name, _ in mixed]  # wherever the data lie


def test_rejected() -> None:
    with pytest.raises(ValueError, match=r"unknown split 'trian'.*Did you mean 'train'\?"):
        plain(split="trian")
    with pytest.raises(ValueError, match=r"unknown split 'trainval'\. Choose from: train, val, test"):
        plain(split="trainval")
    with pytest.raises(ValueError, match="at least one mosaic, and a seed of at least 0: got n=0, seed=0"):
        plain(0)
    with pytest.raises(ValueError, match="got n=30, seed=-1"):
        plain(seed=-1)
    with pytest.raises(ValueError, match=r"needs clips and pictures: val has none of \['b'\]"):
        plain(split="val", clips={"a": [("r", Path("r.wav"))], "b": []})
    pictures = {name: [np.zeros((9, 9, 3), np.uint8)] for name in "abcd"}
    with pytest.raises(ValueError, match=r"train has none of \['e'\]"):
        plain(pictures=pictures)
    with pytest.raises(ValueError, match=r"train has none of \['d'\]"):
        plain(pictures={**pictures, "d": [], "e": pictures["a"]})
    with pytest.raises(ValueError, match="needs clips and pictures"):
        plain(clips={})
    for index in (30, -31):
        with pytest.raises(IndexError, match=rf"the train split has mosaics 0 to 29: got {index}"):
            plain()[index]


# Spoken digits ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FSDD with two speakers and three takes of every split."""
    root = tmp_path_factory.mktemp("digits")
    folder = root / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for digit in range(10):
        for who in ("anna", "bo"):
            for take in (0, 1, 4, 5, 6, 44, 45, 46, 49):
                (folder / f"{digit}_{who}_{take}.wav").write_bytes(b"never read")
    return root


@functools.cache
def originals() -> tuple[np.ndarray, np.ndarray]:
    """The pictures of scikit-learn and their digits."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.reshape(len(bunch.images), -1) / 16, bunch.target  # (1797, 64), (1797,)


def original_of(tile: np.ndarray) -> int:
    """Which picture of scikit-learn a tile was made from: the nearest one."""
    small = tile[..., 0].reshape(8, DIGIT_TILE_PX // 8, 8, DIGIT_TILE_PX // 8).mean(axis=(1, 3)).ravel() / 255  # (64,)
    return int(np.abs(originals()[0] - small).sum(axis=1).argmin())


@pytest.mark.parametrize("split", SPLITS)
def test_a_spoken_digit_is_written_in_its_box_alone(digits: Path, split: str) -> None:
    mosaics, (_, digit_of) = digit_mosaics(digits, split, 60), originals()
    for item in mosaics:
        said = int(item.audio[0].name[0])
        assert item.meta["category"] == str(said) and item.owner == item.audio[0].stem
        tiles = tiles_of(item, 3)
        assert tiles[0].shape == (DIGIT_TILE_PX, DIGIT_TILE_PX, 3)
        seen = ["" if not tile.any() else str(digit_of[original_of(tile)]) for tile in tiles]
        assert seen == item.meta["tiles"] and str(digit_of[original_of(cut(item))]) == str(said)
        black = seen.count("")
        assert black == (8 - FEW_DIGITS if split == "train" else 0)
        assert len(set(seen) - {""}) == 9 - black  # all different
    assert Counter(item.meta["category"] for item in mosaics) == {str(digit): 6 for digit in range(10)}


def test_splits_of_digits_share_no_recording_and_no_picture(digits: Path) -> None:
    clips, pictures = [], []
    for split in SPLITS:
        items = list(digit_mosaics(digits, split, 120))
        clips.append({item.owner for item in items})
        pictures.append({original_of(tile) for item in items for tile in tiles_of(item, 3) if tile.any()})
    for one in range(3):
        for other in range(one):
            assert not clips[one] & clips[other] and not pictures[one] & pictures[other]
    assert all(len(found) == 60 for found in clips)  # every clip takes its turn
    assert all(len(found) > 100 for found in pictures)


def test_a_held_out_speaker_is_heard_in_the_test_only(digits: Path) -> None:
    heard = {s: {item.owner.split("_")[1] for item in digit_mosaics(digits, s, 90, speaker="bo")} for s in SPLITS}
    assert heard == {"train": {"anna"}, "val": {"anna"}, "test": {"bo"}}


def test_digits_that_nobody_says_and_unknown_splits_are_errors(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown split 'trainval'\. Choose from: train, val, test"):
        digit_mosaics(digits, "trainval", 3)
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    for digit in (0, 1, 2, 3, 4, 5, 6, 8, 9):
        (folder / f"{digit}_anna_0.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"needs clips and pictures: test has none of \['7'\]"):
        digit_mosaics(tmp_path, "test", 3)


# Environmental sounds -----------------------------------------------------------------------------------------------


def colour(kind: str, split: str, number: int) -> tuple[int, ...]:
    return tuple(level + 6 * SPLITS.index(split) + 2 * number for level in COLOURS[kind])


def write_photographs(root: Path, kinds: list[str]) -> None:
    rows = []
    for split in SPLITS:
        for kind in kinds:
            for number in range(2):
                name = f"{split}-{kind}-{number}.jpg"
                file = root / "flickr8k" / "Images" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (30, 20), colour(kind, split, number)).save(file, quality=100, subsampling=0)
                sentences = [{"raw": raw, "sentid": k} for k, raw in enumerate(CAPTIONS[kind])]
                rows.append({"filename": name, "split": split, "sentences": sentences})
    (root / "flickr8k" / "dataset_flickr8k.json").write_text(json.dumps({"images": rows}))


def write_sounds(root: Path, classes: list[str]) -> None:
    columns = ["filename", "fold", "target", "category", "freesound_id", "take"]
    (root / "esc10" / "audio").mkdir(parents=True)
    (root / "esc10" / "meta").mkdir()
    with (root / "esc10" / "meta" / "esc10.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for fold in range(1, 6):
            for target, category in enumerate(classes):
                for recording in range(3):
                    for take in "AB":
                        name = f"{fold}-{fold}{target}{recording}-{take}-{target}.wav"
                        (root / "esc10" / "audio" / name).write_bytes(b"never read")
                        table.writerow([name, fold, target, category, f"{fold}{target}{recording}", take])


@pytest.fixture(scope="module")
def sounding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ESC-10 with the three classes and rain, and Flickr8k with even photographs of all kinds."""
    root = tmp_path_factory.mktemp("sounding")
    write_photographs(root, list(COLOURS))
    write_sounds(root, ["dog_bark", "rain", "sea_waves", "baby_cry"])
    return root


def kind_of(tile: np.ndarray) -> tuple[str, str, int]:
    """Kind, split and number of the photograph that a tile shows: the nearest colour."""
    known = [(kind, split, number) for kind in COLOURS for split in SPLITS for number in range(2)]
    middle = tile.reshape(-1, 3).mean(axis=0)
    return min(known, key=lambda one: float(np.abs(np.array(colour(*one)) - middle).sum()))


@pytest.mark.parametrize("split", SPLITS)
def test_a_photograph_of_what_is_heard_lies_in_the_box_alone(sounding: Path, split: str) -> None:
    mosaics = esc10_mosaics(sounding, split, 48, fold=2)
    rows = (sounding / "esc10/meta/esc10.csv").read_text().splitlines()
    classes = {row.split(",")[0]: row.split(",")[3] for row in rows}
    numbers = set()
    for item in mosaics:
        tiles = tiles_of(item, 2)
        assert tiles[0].shape == (PHOTO_TILE_PX, PHOTO_TILE_PX, 3)
        heard = classes[item.audio[0].name]
        assert item.meta["category"] == heard in EVERY_WORD
        seen = [kind_of(tile) for tile in tiles]
        assert {part for _, part, _ in seen} == {split}
        assert [kind for kind, *_ in seen] == item.meta["tiles"]
        assert sorted(kind for kind, *_ in seen) == sorted([heard] + 3 * ["neutral"])
        assert kind_of(cut(item))[0] == heard
        numbers |= {(kind, number) for kind, _, number in seen}
    assert numbers == {(kind, number) for kind in (*EVERY_WORD, "neutral") for number in range(2)}
    assert Counter(item.meta["category"] for item in mosaics) == dict.fromkeys(EVERY_WORD, 16)


def test_clips_are_of_the_folds_and_their_recordings_the_owners(sounding: Path) -> None:
    for fold in (1, 4):
        clips = {split: [item.audio[0] for item in esc10_mosaics(sounding, split, 60, fold=fold)] for split in SPLITS}
        assert {clip.name[0] for clip in clips["test"]} == {str(fold)}
        assert len(set(clips["test"])) == 3 * 6 and max(Counter(clips["test"]).values()) <= 4
        assert all(clip.name[0] != str(fold) for split in ("train", "val") for clip in clips[split])
        assert not set(clips["train"]) & set(clips["val"])
    for item in esc10_mosaics(sounding, "train", 30):
        assert item.owner == item.audio[0].name.split("-")[1]  # shared by takes A and B


@pytest.mark.parametrize(
    ("photographs", "sounds", "missing"),
    [
        (["dog_bark", "sea_waves", "neutral", "near"], list(EVERY_WORD), "baby_cry"),
        (["dog_bark", "sea_waves", "baby_cry", "two"], list(EVERY_WORD), "neutral"),
        (list(COLOURS), ["dog_bark", "baby_cry"], "sea_waves"),
    ],
)
def test_a_missing_class_is_named(tmp_path: Path, photographs: list, sounds: list, missing: str) -> None:
    write_photographs(tmp_path, photographs)
    write_sounds(tmp_path, sounds)
    with pytest.raises(ValueError, match=rf"needs clips and pictures: val has none of \['{missing}'\]"):
        esc10_mosaics(tmp_path, "val", 3)


@pytest.mark.parametrize(("kind", "captions"), CAPTIONS.items())
def test_captions_agree_on_one_class_or_on_none_of_the_kind(kind: str, captions: list[str]) -> None:
    expected = kind if kind in (*EVERY_WORD, "neutral") else ""
    assert shows(captions) == shows(captions[::-1]) == expected


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        (["two puppies", "A GREYHOUND!", "huskies run", "x", "y"], "dog_bark"),
        (["two puppies", "A GREYHOUND!", "wolves run", "x", "y"], ""),  # two of five name it
        (["a dog"] * 4 + ["a wet dog"], ""),  # there may be water
        (["a dog"] * 4 + ["a child"], ""),
        (["surfers", "a surfboard", "the coastline", "a wave", "x"], "sea_waves"),
        (["babies"] * 3 + ["a kid", "a stroller"], "baby_cry"),
        (["seasoned food", "a dogged man", "the babysitter", "a beacon", "a petition"], "neutral"),
        (["a man", "a man", "a man", "a man", "a lake"], ""),
    ],
)
def test_words_count_whole_and_in_any_case(captions: list[str], expected: str) -> None:
    assert shows(captions) == expected


def file_is(file: Path, tile: np.ndarray) -> bool:
    """Does a tile show this photograph? Against Pillow's own way of making it small."""
    with Image.open(file) as image:
        small = np.asarray(image.convert("RGB").resize((16, 16), Image.Resampling.BOX)).astype(float)
    return bool(np.abs(small - np.asarray(Image.fromarray(tile).resize((16, 16), Image.Resampling.BOX))).mean() < 4)


def test_the_real_sets_have_every_class_in_every_split(real_data) -> None:
    root = real_data("esc10").parent
    assert real_data("flickr8k").parent == root
    clips, photographs = [], []
    for split in SPLITS:
        mosaics = esc10_mosaics(root, split, 12)
        assert set(mosaics.clips) == set(EVERY_WORD)
        assert min(len(mosaics.clips[name]) for name in EVERY_WORD) >= 3
        assert min(len(mosaics.pictures[name]) for name in (*EVERY_WORD, "neutral")) >= 3
        clips.append({file for files in mosaics.clips.values() for _, file in files})
        photographs.append({file for files in mosaics.pictures.values() for file in files})
        assert len(photographs[-1]) == sum(map(len, mosaics.pictures.values()))  # none shows two things
        item = mosaics[4]
        source = next(file for file in mosaics.pictures[item.meta["category"]] if file_is(file, cut(item)))
        assert source in photographs[-1] and item.audio[0] in clips[-1]
    for one in range(3):
        for other in range(one):
            assert not clips[one] & clips[other] and not photographs[one] & photographs[other]
