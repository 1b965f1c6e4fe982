import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mm.data import Entry, Item, UnreadableError, folder, gallery, prepared, unique
from mm.data.gallery import read


@pytest.fixture
def items():
    return [
        Item("a", "dog", (Path("a.jpg"),), ("one", "two"), meta={"city": "Bonn"}),
        Item("b", "cat", (), ("three",), (Path("b.wav"), np.zeros(3, np.float32))),
    ]


def test_every_source_of_a_modality_is_an_entry(items):
    assert gallery(items, "text") == [
        Entry("a#0", "dog", "one", {"city": "Bonn", "item": "a", "text": "one"}),
        Entry("a#1", "dog", "two", {"city": "Bonn", "item": "a", "text": "two"}),
        Entry("b", "cat", "three", {"item": "b", "text": "three"}),
    ]
    assert gallery(items, "image") == [Entry("a", "dog", Path("a.jpg"), {"city": "Bonn", "item": "a", "path": "a.jpg"})]
    assert [(entry.id, set(entry.meta)) for entry in gallery(items, "audio")] == [
        ("b#0", {"item", "path"}),
        ("b#1", {"item"}),
    ]


def test_shared_sources_are_kept_once():
    shared = np.ones((2, 2, 3), np.uint8)
    made = [Item(str(k), "x", (shared.copy(), Path("p.jpg")), ("word",)) for k in range(3)]
    made.append(Item("3", "x", (shared + 1,), ("other",)))
    assert len(unique(made, "image")) == 3 and [entry.source for entry in unique(made, "text")] == ["word", "other"]


def test_unknown_and_absent_modalities(items):
    with pytest.raises(ValueError, match=r"unknown modality 'texts'.*Did you mean 'text'\?"):
        gallery(items, "texts")
    with pytest.raises(ValueError, match="no item of this data set has image"):
        gallery(items[1:], "image")


def test_a_folder_is_listed_in_order(tmp_path, jpeg, sound):
    for name in ("b.jpg", "sub/a.JPEG", "a.png"):
        jpeg(tmp_path / name)
    sound(tmp_path / "s" / "x.wav")
    jpeg(tmp_path / "a.b" / "c.jpg")
    jpeg(tmp_path / "b.jpg.d" / "e.jpg")
    (tmp_path / "sub" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "link.webp").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "notes.txt").write_text("no picture")
    entries = folder(tmp_path, "image")
    pictures = {".jpg", ".jpeg", ".png", ".webp"}
    expected = sorted(p for p in tmp_path.rglob("*") if p.suffix.lower() in pictures and p.is_file())
    assert [entry.source for entry in entries] == expected and len(expected) == 6
    assert [entry.id for entry in entries] == [p.relative_to(tmp_path).as_posix() for p in expected]
    assert entries[5].source == tmp_path / "sub" / "a.JPEG" and entries[5].meta == {"path": str(entries[5].source)}
    assert [entry.id for entry in folder(tmp_path, "audio")] == ["s/x.wav"]
    with pytest.raises(FileNotFoundError, match=r"holds no audio file: looked for .*\.wav"):
        folder(tmp_path / "sub", "audio")
    with pytest.raises(FileNotFoundError, match="must be a folder"):
        folder(tmp_path / "none", "image")
    with pytest.raises(ValueError, match=r"files of 'image' or 'audio': got 'audios'. Did you mean 'audio'\?"):
        folder(tmp_path, "audios")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_prepared_equals_a_loop(tmp_path, sound, prepare, workers):
    for k in range(11):
        sound(tmp_path / f"{k:02}.wav", 0.05 * k, samples=20 + k)
    entries = folder(tmp_path, "audio")
    seen = []
    for batch in prepared(entries, prepare["audio"], batch_size=4, workers=workers):
        for entry, wave, length in zip(batch.entries, batch.values, batch.lengths, strict=True):
            assert torch.equal(wave[:length], prepare["audio"](entry.source)) and not wave[length:].any()
            seen.append(entry)
    assert seen == entries


def test_the_view_reaches_prepare(prepare):
    entries = [Entry("x", "x", np.zeros((8, 8, 3), np.uint8), {})]
    (batch,) = prepared(entries, prepare["image"], view=7)
    assert batch.lengths is None and batch.values.shape == (1, 3, 8, 8) and batch.values.eq(7).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_is_named_or_listed(tmp_path, jpeg, prepare, workers):
    for k in range(7):
        jpeg(tmp_path / f"{k}.jpg", 10 * k)
    for k in (2, 3, 6):
        (tmp_path / f"{k}.jpg").write_bytes(b"damaged")
    entries = folder(tmp_path, "image")
    with pytest.raises(UnreadableError, match=r"2\.jpg"):
        list(prepared(entries, prepare["image"], 2, workers))
    bad = {}
    left_out = lambda entry, reason: bad.update({entry.id: reason})  # noqa: E731
    batches = list(prepared(entries, prepare["image"], 2, workers, bad=left_out))
    assert [[entry.id for entry in batch.entries] for batch in batches] == [["0.jpg", "1.jpg"], ["4.jpg", "5.jpg"]]
    assert list(bad) == ["2.jpg", "3.jpg", "6.jpg"] and all(name in reason for name, reason in bad.items())


def test_threads_read_ahead_but_not_without_end():
    done = []

    def slow(source, view):
        done.append(source)
        return torch.zeros(3)

    entries = [Entry(str(k), "", str(k), {}) for k in range(100)]
    batches = prepared(entries, slow, batch_size=5, workers=2)
    next(batches)
    time.sleep(0.2)
    assert 5 <= len(done) <= 20
    batches.close()
    time.sleep(0.05)
    assert len(done) <= 20 and not [t for t in threading.enumerate() if t.name.startswith("prepare")]


def test_rejected(prepare):
    with pytest.raises(ValueError, match="batch_size must be at least 1 and workers at least 0: got 0 and 2"):
        next(prepared([], prepare["text"], batch_size=0))
    with pytest.raises(ValueError, match="got 4 and -1"):
        next(prepared([], prepare["text"], batch_size=4, workers=-1))


def test_a_source_without_a_shape_is_named_by_its_type():
    def refuse(source, view):
        raise ValueError("no")

    with pytest.raises(UnreadableError, match=r"^query: bytes cannot be read: no$"):
        read(refuse, b"not a picture", 0, "query")
    with pytest.raises(UnreadableError, match=r"^query: ndarray \(2, 3\) cannot be read: no$"):
        read(refuse, np.zeros((2, 3)), 0, "query")
