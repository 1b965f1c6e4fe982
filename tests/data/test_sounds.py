import csv
from collections import Counter

import pytest

from mm.data import esc10, esc50
from mm.data.sounds import FOLDS, PHRASES

ESC50_CLASSES = 50


def write(folder, name, rows, columns):
    (folder / "meta").mkdir(parents=True, exist_ok=True)
    with open(folder / "meta" / f"{name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def small(tmp_path, sound):
    """Two classes, five folds, four recordings of two clips each per fold and class."""
    rows = []
    for fold in FOLDS:
        for target, category in enumerate(("dog_bark", "rain")):
            for recording in range(4):
                for take in "AB":
                    name = f"{fold}-{fold}{target}{recording}-{take}-{target}.wav"
                    sound(tmp_path / "esc10" / "audio" / name)
                    rows.append([name, fold, target, category, f"{fold}{target}{recording}", take])
    columns = ["filename", "fold", "target", "category", "freesound_id", "take"]
    write(tmp_path / "esc10", "esc10", [dict(zip(columns, row, strict=True)) for row in rows], columns)
    return tmp_path


def clips(items):
    return {item.id: item for item in items if item.audio}


def test_the_test_fold_is_left_out_and_val_shares_no_recording_with_train(small):
    for fold in FOLDS:
        train, val, test, trainval = (clips(esc10(small, s, fold)) for s in ("train", "val", "test", "trainval"))
        assert {item.meta["fold"] for item in test.values()} == {fold} and len(test) == 16
        assert set(train) | set(val) == set(trainval) and not set(trainval) & set(test) and not set(train) & set(val)
        recordings = [{item.meta["recording"] for item in part.values()} for part in (train, val)]
        assert not recordings[0] & recordings[1]
        assert Counter(item.owner for item in val.values()) == {"dog_bark": 4, "rain": 4}  # 3.2 at least, in pairs


def test_validation_is_fixed_by_the_recordings_not_by_the_order_of_rows(small):
    before = set(clips(esc10(small, "val")))
    table = small / "esc10" / "meta" / "esc10.csv"
    head, *rows = table.read_text().splitlines()
    table.write_text("\n".join([head, *reversed(rows)]))
    assert set(clips(esc10(small, "val"))) == before


def test_phrases(small):
    for item in esc10(small, "train"):
        assert item.text == PHRASES[item.owner] and len(item.text) >= 3 and len(item.audio) == 1
    tested = esc10(small, "test")
    assert all(not item.text for item in tested if item.audio)
    assert [(item.owner, item.text) for item in tested if item.text] == [
        ("dog_bark", ("a dog barking",)),
        ("rain", ("rain falling",)),
    ]


def test_no_phrase_stands_for_two_classes_of_a_set():
    same = (
        {"baby_cry", "crying_baby"},
        {"dog", "dog_bark"},
        {"fire_crackling", "crackling_fire"},
        {"person_sneeze", "sneezing"},
    )
    owners: dict[str, set[str]] = {}
    for category, phrases in PHRASES.items():
        assert len(set(phrases)) == len(phrases) >= 3 or category == "footsteps"
        for phrase in phrases:
            owners.setdefault(phrase, set()).add(category)
    assert all(len(found) == 1 or found in same for found in owners.values())
    assert len(PHRASES) == ESC50_CLASSES + 4  # four classes have another name in the first ESC-10


def test_esc50_layout(tmp_path, sound):
    columns = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    rows = []
    for fold in FOLDS:
        for recording in range(3):
            name = f"{fold}-{fold}{recording}-A-0.wav"
            sound(tmp_path / "esc50" / "audio" / name)
            rows.append(dict(zip(columns, [name, fold, 0, "dog", True, f"{fold}{recording}", "A"], strict=True)))
    write(tmp_path / "esc50", "esc50", rows, columns)
    assert [len(clips(esc50(tmp_path, split, 2))) for split in ("train", "val", "test")] == [10, 2, 3]


def test_errors(small):
    with pytest.raises(ValueError, match="fold must be one of 1, 2, 3, 4, 5: got 6"):
        esc10(small, "train", fold=6)
    with pytest.raises(FileNotFoundError, match=r"esc50 must hold meta/esc50\.csv, audio"):
        esc50(small, "train")
    next((small / "esc10" / "audio").glob("1-*")).unlink()
    with pytest.raises(FileNotFoundError, match=r"1-.*\.wav is named in the data set's CSV"):
        esc10(small, "test", fold=1)
    table = small / "esc10" / "meta" / "esc10.csv"
    good = table.read_text()
    table.write_text(good.replace("rain", "rein", 1))
    with pytest.raises(ValueError, match=r"esc10\.csv:10: unknown class 'rein'.*Did you mean 'rain'\?"):
        esc10(small, "test")
    table.write_text(good.replace("category", "categories", 1))
    with pytest.raises(ValueError, match=r"'category' is missing. Did you mean 'categories'\?"):
        esc10(small, "test")


def test_esc10_folds(real_data):
    root = real_data("esc10").parent
    for fold in FOLDS:
        train, val, test, trainval = (clips(esc10(root, s, fold)) for s in ("train", "val", "test", "trainval"))
        assert len(test) == 80 and len(trainval) == 320 and len(train) + len(val) == 320
        assert set(Counter(item.owner for item in test.values()).values()) == {8}
        counts = Counter(item.owner for item in val.values())
        assert len(counts) == 10 and min(counts.values()) >= 4 and max(counts.values()) <= 5
        assert not {i.meta["recording"] for i in train.values()} & {i.meta["recording"] for i in val.values()}
