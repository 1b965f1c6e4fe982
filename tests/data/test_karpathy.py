import json
import logging

import pytest

from mm.config import DataConfig
from mm.data import UnreadableError, coco, flickr8k, flickr8k_spoken, flickr30k, load


def row(name, split, captions, sentid=0, **more):
    sentences = [{"raw": raw, "tokens": raw.split(), "sentid": sentid + k} for k, raw in enumerate(captions)]
    return {"filename": name, "split": split, "sentences": sentences, **more}


@pytest.fixture
def small(tmp_path, jpeg):
    """A Flickr8k of four pictures with a spoken caption each for two of them."""
    folder = tmp_path / "flickr8k"
    rows = [
        row("a.jpg", "train", [" A dog runs . ", "a dog"], 0),
        row("b.jpg", "train", ["two cats"], 2),
        row("c.jpg", "val", ["a tree"], 3),
        row("d.jpg", "test", ["the sea"], 4),
    ]
    for k, name in enumerate("abcd"):
        jpeg(folder / "Images" / f"{name}.jpg", 40 * k)
    (folder / "dataset_flickr8k.json").write_text(json.dumps({"images": rows}))
    return tmp_path


def test_an_item_is_a_picture_with_all_its_captions(small):
    items = flickr8k(small, "train")
    assert [item.id for item in items] == ["a.jpg", "b.jpg"]
    first = items[0]
    assert first.owner == "a.jpg" and first.image == (small / "flickr8k" / "Images" / "a.jpg",)
    assert first.text == ("A dog runs .", "a dog") and first.audio == () and first.meta == {"split": "train"}
    assert [[item.id for item in flickr8k(small, split)] for split in ("val", "test")] == [["c.jpg"], ["d.jpg"]]
    assert [item.id for item in flickr8k(small, "trainval")] == ["a.jpg", "b.jpg", "c.jpg"]


def test_coco_finds_pictures_by_their_folder_and_trains_on_restval(tmp_path, jpeg):
    rows = [
        row("t.jpg", "train", ["a"], filepath="train2014"),
        row("r.jpg", "restval", ["b"], filepath="val2014"),
        row("v.jpg", "val", ["c"], filepath="val2014", cocoid=42),
    ]
    for one in rows:
        jpeg(tmp_path / "coco" / one["filepath"] / one["filename"])
    (tmp_path / "coco" / "dataset_coco.json").write_text(json.dumps({"images": rows}))
    train = coco(tmp_path, "train")
    assert [(item.id, item.image[0].parent.name) for item in train] == [("t.jpg", "train2014"), ("r.jpg", "val2014")]
    assert [item.meta["split"] for item in train] == ["train", "restval"]
    (val,) = coco(tmp_path, "val")
    assert (val.id, val.meta) == ("v.jpg", {"split": "val", "cocoid": 42})  # results are written by this number


def test_flickr30k_layout(tmp_path, jpeg):
    jpeg(tmp_path / "flickr30k" / "flickr30k-images" / "x.jpg")
    rows = [row("x.jpg", "test", ["a"] * 5)]
    (tmp_path / "flickr30k" / "dataset_flickr30k.json").write_text(json.dumps({"images": rows}))
    assert len(flickr30k(tmp_path, "test")[0].text) == 5


def test_a_missing_set_names_the_folder_the_files_and_the_page(tmp_path):
    (tmp_path / "flickr8k").mkdir()
    message = (
        r"flickr8k must hold dataset_flickr8k\.json, Images: dataset_flickr8k\.json, Images not found.*docs/data\.md"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load(DataConfig(name="flickr8k", root=str(tmp_path)), "train")


def test_a_missing_picture_and_an_empty_caption_are_named(small, caplog):
    (small / "flickr8k" / "Images" / "b.jpg").unlink()
    with pytest.raises(UnreadableError, match=r"b\.jpg is not there.*data\.skip_bad=true"):
        flickr8k(small, "train")
    with caplog.at_level(logging.WARNING):
        items = flickr8k(small, "train", skip_bad=True)
    assert [item.id for item in items] == ["a.jpg"] and len(items.skipped) == 1 and "b.jpg" in items.skipped[0]
    assert "left out 1 unreadable row" in caplog.text
    rows = [row("a.jpg", "train", ["fine", "  "], 7), row("d.jpg", "test", [""], 9)]
    (small / "flickr8k" / "dataset_flickr8k.json").write_text(json.dumps({"images": rows}))
    with pytest.raises(UnreadableError, match=r"sentid 8 of a\.jpg is empty"):
        flickr8k(small, "train")
    assert flickr8k(small, "train", skip_bad=True)[0].text == ("fine",)
    with pytest.raises(UnreadableError, match=r"sentid 9 of d\.jpg is empty"):  # a test set never skips
        flickr8k(small, "test", skip_bad=True)


def test_a_damaged_json_is_named(small):
    (small / "flickr8k" / "dataset_flickr8k.json").write_text('{"images": [')
    with pytest.raises(ValueError, match=r"dataset_flickr8k\.json must be Karpathy's JSON"):
        flickr8k(small, "train")


def test_spoken_captions_join_their_pictures(small, sound):
    folder = small / "flickr8k" / "Flickr8k_spoken"
    lines = [
        {"audio": "a.ogg", "image": "a.jpg", "text": "A dog runs ."},
        {"audio": "c.ogg", "image": "c.jpg", "text": "a tree"},
        {"audio": "e.ogg", "image": "e.jpg", "text": "in no split"},
    ]
    sound(folder / "a.ogg"), sound(folder / "c.ogg")
    (folder / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = flickr8k_spoken(small, "train")
    assert first.audio == (folder / "a.ogg",) and first.meta["spoken"] == "A dog runs ." and len(first.text) == 2
    assert second.audio == () and second == flickr8k(small, "train")[1]
    (folder / "a.ogg").unlink()
    with pytest.raises(UnreadableError, match=r"a\.ogg, the spoken caption of a\.jpg, is not there"):
        flickr8k_spoken(small, "train")
    skipping = flickr8k_spoken(small, "train", skip_bad=True)
    assert [item.audio for item in skipping] == [(), ()] and len(skipping.skipped) == 1
    (folder / "index.jsonl").write_text(json.dumps(lines[1]) + '\n{"audio": "a.ogg"}\n')
    with pytest.raises(ValueError, match=r"index\.jsonl:2: a line must be a JSON object with audio, image, text"):
        flickr8k_spoken(small, "val")


def test_flickr8k_is_the_official_split(real_data):
    root = real_data("flickr8k").parent
    splits = {split: flickr8k(root, split) for split in ("train", "val", "test")}
    assert [len(items) for items in splits.values()] == [6000, 1000, 1000]
    assert sum(len(item.text) for item in splits["train"]) == 30000
    assert all(len(item.text) == 5 for items in splits.values() for item in items)
    assert len({item.owner for items in splits.values() for item in items}) == 8000


def test_the_spoken_captions_of_flickr8k(real_data):
    root = real_data("flickr8k").parent
    counts = []
    for split in ("train", "val", "test"):
        items = flickr8k_spoken(root, split)
        assert all(item.meta["spoken"] == item.text[0] for item in items if item.audio)
        counts.append(sum(bool(item.audio) for item in items))
    assert counts == [753, 113, 125]
