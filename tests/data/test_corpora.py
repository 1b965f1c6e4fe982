import gzip
import json
import logging

import pytest

from mm.config import DataConfig
from mm.data import Item, UnreadableError, load
from mm.data.corpora import OF_FILES, of_folder, of_items, of_shards, of_table
from tests.shared import write_tar


def refuse(name, reason):
    raise UnreadableError(f"{name}: {reason}")


def opened(corpus, modality, fault=refuse):
    """{name: [(id, source, metadata)]} of everything in a corpus, each thing opened by itself."""
    return {
        name: [(entry.id, entry.source, entry.meta) for entry in corpus.entries(modality, [thing], fault)]
        for name, thing in corpus.listing(modality, fault)
    }


def test_a_folder(tmp_path, jpeg, sound):
    for name in ("b.jpg", "a/z.jpg"):
        jpeg(tmp_path / name)
    sound(tmp_path / "a.wav")
    corpus = of_folder(tmp_path)
    assert corpus.description == {"kind": "folder", "folder": str(tmp_path)} and corpus.modalities == ("image",)
    assert opened(corpus, "image") == {
        name: [(name, tmp_path / name, {"path": str(tmp_path / name)})] for name in ("a/z.jpg", "b.jpg")
    }
    assert list(opened(corpus, "audio")) == ["a.wav"]
    with pytest.raises(ValueError, match="files of 'image' or 'audio': got 'text'"):
        opened(corpus, "text")
    with pytest.raises(FileNotFoundError, match="must be a folder"):
        opened(of_folder(tmp_path / "none"), "image")


def test_shards(tmp_path, caplog):
    write_tar(tmp_path / "s-0.tar", {"a.jpg": "j", "a.json": '{"caption": ["one", "two"], "n": 1}', "b.txt": "three"})
    write_tar(tmp_path / "s-1.tar", {"c.jpg": "k", "c.npy": "0"})
    corpus = of_shards(str(tmp_path / "s-*.tar"))
    assert corpus.description == {"kind": "shards", "pattern": str(tmp_path / "s-*.tar"), "shards": 2}
    assert corpus.modalities == ("image", "text")
    with caplog.at_level(logging.WARNING):
        images, texts = opened(corpus, "image"), opened(corpus, "text")
    assert caplog.text.count(".npy (1)") == 1  # is told once
    place = {"n": 1, "item": "a", "shard": str(tmp_path / "s-0.tar"), "member": "a.jpg"}
    ((name, source, meta),) = images["a"]
    assert (name, source.read(), meta) == ("a", b"j", place)
    assert [name for name, some in images.items() if some] == ["a", "c"] and list(images) == list(texts) == [
        "a",
        "b",
        "c",
    ]
    assert texts["a"] == [
        (f"a#{k}", text, {"n": 1, "item": "a", "text": text}) for k, text in enumerate(("one", "two"))
    ]
    assert texts["b"] == [("b", "three", {"item": "b", "text": "three"})] and texts["c"] == []


def test_small_files_of_a_sample_are_opened_only_with_it(tmp_path):
    """So that a process that embeds every second part reads no more than headers of the others."""
    write_tar(tmp_path / "s.tar", {"a.jpg": "j", "a.json": "{}", "b.jpg": "k", "b.json": "no JSON", "b.txt": " "})
    corpus = of_shards(str(tmp_path / "s.tar"))
    (_, a), (_, b) = corpus.listing("image", refuse)
    assert [entry.id for entry in corpus.entries("image", [a], refuse)] == ["a"]
    told = {}
    assert [entry.id for entry in corpus.entries("text", [a, b], told.__setitem__)] == []
    assert list(told) == ["b"] and "b.json cannot be read" in told["b"]
    with pytest.raises(UnreadableError, match=r"b\.json cannot be read"):
        corpus.entries("image", [b], refuse)


def test_captions_are_not_read_for_pictures(tmp_path):
    write_tar(tmp_path / "s.tar", {"a.jpg": "j", "a.txt": b"\xff"})
    corpus = of_shards(str(tmp_path / "s.tar"))
    assert [entry.id for _, a in corpus.listing("image", refuse) for entry in corpus.entries("image", [a], refuse)] == [
        "a"
    ]
    with pytest.raises(UnreadableError, match=r"a\.txt"):
        opened(corpus, "text")


def test_damaged_shards_are_told_by_the_listing(tmp_path):
    whole = write_tar(tmp_path / "s.tar", {"a.jpg": "j", "b.jpg": "k" * 600}).read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[:1700])
    corpus, told = of_shards(str(tmp_path / "s.tar")), {}
    assert [name for name, _ in corpus.listing("image", told.__setitem__)] == ["a"]
    assert "it is cut off, the last file that can be told is 'b.jpg'" in told[str(tmp_path / "s.tar")]
    with pytest.raises(UnreadableError, match=r"s\.tar"):
        list(corpus.listing("image", refuse))


def test_shards_without_a_sample_are_refused(tmp_path):
    (tmp_path / "s.tar").write_bytes(gzip.compress(write_tar(tmp_path / "t", {"a.jpg": "j"}).read_bytes()))
    with pytest.raises(ValueError, match=r"s\.tar must have a sample: .*s\.tar must be an uncompressed tar and whole"):
        of_shards(str(tmp_path / "s.tar"))
    write_tar(tmp_path / "s.tar", {"a.bmp": "j"})
    with pytest.raises(ValueError, match=r"must have a sample: .*'a\.bmp' has none of the extensions that are read"):
        of_shards(str(tmp_path / "s.tar"))


def test_every_row_of_a_table(tmp_path, jpeg):
    jpeg(tmp_path / "a.jpg")
    rows = [{"id": "x", "image": "a.jpg", "text": ["one", "two"], "n": 1}, {"id": "y", "split": "val", "text": "three"}]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = of_table(tmp_path / "t.jsonl")
    assert corpus.modalities == ("image", "text") and corpus.description["file"] == str(tmp_path / "t.jsonl")
    assert opened(corpus, "text") == {
        "x": [
            ("x#0", "one", {"n": 1, "item": "x", "text": "one"}),
            ("x#1", "two", {"n": 1, "item": "x", "text": "two"}),
        ],
        "y": [("y", "three", {"split": "val", "item": "y", "text": "three"})],
    }
    assert opened(corpus, "image")["y"] == []
    rows.append({"id": "z", "image": "gone.jpg"})
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UnreadableError, match=r"t\.jsonl:3: image names .*gone\.jpg, which is not there"):
        opened(of_table(tmp_path / "t.jsonl"), "text")
    told = {}
    assert list(opened(of_table(tmp_path / "t.jsonl"), "text", told.__setitem__)) == ["x", "y"] and len(told) == 1
    with pytest.raises(FileNotFoundError, match="must be a CSV or JSONL file"):
        of_table(tmp_path / "none.csv")
    (tmp_path / "t.csv").write_text("id,text\n")
    with pytest.raises(ValueError, match="must have a row at least: it has none"):
        of_table(tmp_path / "t.csv")


def test_numbers_of_a_csv_are_numbers_and_what_only_looks_like_one_is_text(tmp_path):
    cells = {
        "2010": 2010,
        "-7": -7,
        "0.50": 0.5,
        "007": "007",
        "1e5": "1e5",
        "1,5": "1,5",
        "": "",
        "nan": "nan",
        "9" * 16: "9" * 16,
    }
    lines = [f'{row},7,"{cell}",{row}' for row, cell in enumerate(cells)]
    (tmp_path / "t.csv").write_text("\n".join(["id,text,year,owner", *lines]))
    found = opened(of_table(tmp_path / "t.csv"), "text")
    assert [meta["year"] for ((_, _, meta),) in found.values()] == list(cells.values())
    assert list(found) == [str(row) for row in range(len(cells))]  # ids and sentences stay text
    assert {text for ((_, text, _),) in found.values()} == {"7"}
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": "x", "text": "a", "year": "2010"}))
    assert opened(of_table(tmp_path / "t.jsonl"), "text")["x"][0][2]["year"] == "2010"  # which says itself what it is


def test_items_are_the_entries_of_a_gallery_with_more_metadata():
    items = [Item("a", "o", text=("one", "two"), meta={"n": 1}), Item("b", "p", text=("three",))]
    corpus = of_items(items, {"kind": "data"}, {"split": "val"})
    assert opened(corpus, "text")["b"] == [("b", "three", {"item": "b", "text": "three", "split": "val"})]
    assert corpus.modalities == ("text",) and set(OF_FILES) == {"folder", "csv", "shards"}
    world = of_items(load(DataConfig(scenes=3), "train"), {})
    assert world.modalities == ("image", "text", "audio") and len(opened(world, "text")) == 3
