import io
import json
import logging
import random
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mm.config import DataConfig
from mm.data import Pairs, UnreadableError, cached, load, readable
from mm.data.cache import data_fingerprint
from mm.data.gallery import read
from mm.data.shards import EXTENSIONS, files, item_of, samples, shards
from mm.data.tars import KEPT, member, members
from mm.encoders.audio import AudioEncoder
from mm.encoders.image import ImageEncoder
from mm.files import Member
from mm.media import MediaError, read_audio, read_image
from tests.shared import write_tar


def encoded(kind: str, level: int = 100) -> bytes:
    """The bytes of an even picture, or of a constant wave, of some format."""
    file = io.BytesIO()
    if EXTENSIONS[kind] == "image":
        Image.fromarray(np.full((12, 16, 3), level, np.uint8)).save(file, "jpeg" if kind == "jpg" else kind)
    else:
        soundfile.write(file, np.full(400, level / 255, np.float32), 8000, format=kind)
    return file.getvalue()


def sample(key: str, level: int = 100, **more: bytes | str) -> dict[str, bytes | str]:
    return {
        f"{key}.jpg": encoded("jpg", level),
        f"{key}.txt": f"grey {level}",
        **{f"{key}.{e}": c for e, c in more.items()},
    }


def pattern_of(folder: Path) -> str:
    return str(folder / "{split}-*.tar")


def refuse(name: str, reason: str) -> None:
    raise UnreadableError(reason)


# What is read -------------------------------------------------------------------------------------------------------


def test_members_of_a_key_are_an_item(tmp_path):
    details = {"caption": ["one", "grey 1", " two "], "text": "", "owner": "thing", "place": {"city": "Bonn"}, "n": 3}
    write_tar(
        tmp_path / "train-0.tar",
        {
            **sample("a/b.c/0001", 1, json=json.dumps(details), cls="17\n"),
            "./0002.PNG": encoded("png", 2),
            "./0002.caption": " a  caption ",
            "0003.wav": encoded("wav"),
            "0003.json": '{"text": "heard", "owner": null}',
            "0004.cls": "dog",
            "0004.flac": encoded("flac"),
        },
    )
    one, two, three, four = items = shards(pattern_of(tmp_path), "train")
    assert [item.id for item in items] == ["a/b.c/0001", "0002", "0003", "0004"]
    assert (one.owner, one.text, one.meta) == (
        "thing",
        ("grey 1", "one", "two"),
        {"place": {"city": "Bonn"}, "n": 3, "class": 17},
    )
    assert (two.owner, two.text, two.meta) == ("0002", ("a  caption",), {})
    assert (three.owner, three.text, three.image, four.meta) == ("0003", ("heard",), (), {"class": "dog"})
    assert [round(float(read_image(item.image[0]).mean())) for item in (one, two)] == [1, 2]
    for item in (three, four):
        assert read_audio(item.audio[0], 8000).tolist() == pytest.approx([100 / 255] * 400, abs=1e-3)


@pytest.mark.parametrize("kind", sorted(k for k, modality in EXTENSIONS.items() if modality in ("image", "audio")))
def test_every_kind_of_file_is_read_as_from_a_file_of_its_own(tmp_path, kind):
    content = encoded("jpg" if kind == "jpeg" else kind)
    alone = tmp_path / f"x.{kind}"
    alone.write_bytes(content)
    write_tar(tmp_path / "train-0.tar", {"first.txt": "before", f"x.{kind}": content, "y.txt": "behind"})
    item = shards(pattern_of(tmp_path), "train")[1]
    if EXTENSIONS[kind] == "image":
        np.testing.assert_array_equal(read_image(item.image[0]), read_image(alone))
        encoder = ImageEncoder("small_cnn", size=32)
    else:
        assert torch.equal(read_audio(item.audio[0], 8000), read_audio(alone, 8000))
        encoder = AudioEncoder(sample_rate=8000)
    assert torch.equal(encoder.prepare(getattr(item, EXTENSIONS[kind])[0]), encoder.prepare(alone))


def test_splits_are_those_of_the_names(tmp_path):
    for split, numbers in (("train", "01"), ("val", "2"), ("test", "3")):
        for number in numbers:
            write_tar(tmp_path / f"{split}-{number}.tar", sample(number))
    cfg = DataConfig(name="shards", file=pattern_of(tmp_path))
    found = {split: [item.id for item in load(cfg, split)] for split in ("train", "val", "test", "trainval")}
    assert found == {"train": ["0", "1"], "val": ["2"], "test": ["3"], "trainval": ["0", "1", "2"]}
    with pytest.raises(ValueError, match=r"data\.name=shards needs data\.file='FOLDER/\{split\}-\*\.tar'"):
        load(DataConfig(name="shards"), "train")


def test_training_draws_from_shards_and_caches_know_them(tmp_path):
    write_tar(tmp_path / "train-0.tar", {**sample("a", 10), **sample("b", 200)})
    items = shards(pattern_of(tmp_path), "train")
    prepare = {
        "image": ImageEncoder("small_cnn", size=32).prepare,
        "text": lambda text, view: torch.tensor([len(text)]),
    }
    pairs = Pairs(items, prepare)
    assert [int(pairs[0, row]["image"].float().mean()) for row in (0, 1)] == [10, 200]

    def compute(sources, view):
        return torch.stack([prepare["image"](one, view).float().mean()[None, None] for one in sources])[..., 0, :], None

    sources = [item.image[0] for item in items]
    cache = cached(compute, sources, "f", tmp_path / "cache")
    assert cache.row(sources[1]).tolist() == [200]
    before = data_fingerprint(sources)
    assert before == data_fingerprint(shards(pattern_of(tmp_path), "train")[0].image + items[1].image)
    assert before != data_fingerprint(sources[::-1])
    write_tar(tmp_path / "train-0.tar", {**sample("a", 11), **sample("b", 200)})
    assert before != data_fingerprint([item.image[0] for item in shards(pattern_of(tmp_path), "train")])


# Patterns -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a-{00..02}.tar", ["a-00.tar", "a-01.tar", "a-02.tar"]),
        ("a-{9..11}.tar", ["a-9.tar", "a-10.tar", "a-11.tar"]),
        ("{0..1}/{b,a}.tar", ["0/b.tar", "0/a.tar", "1/b.tar", "1/a.tar"]),
        ("a-{008..010}{,.x}.tar", [f"a-{n}{x}.tar" for n in ("008", "009", "010") for x in ("", ".x")]),
        ("q-*.tar", ["q-1.tar", "q-2.tar"]),
        ("{p,q}-[0-1].tar", ["p-0.tar", "q-1.tar"]),
        ("**/deep.tar", ["s/t/deep.tar"]),
        ("it[1].tar", ["it[1].tar"]),
    ],
)
def test_patterns(tmp_path, pattern, names):
    for name in {*names, "q-1.tar", "q-2.tar", "p-0.tar"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert files(f"{tmp_path}/{pattern}") == [tmp_path / name for name in names]


@pytest.mark.parametrize(
    ("pattern", "split", "said"),
    [
        ("none-*.tar", "", r"the shards .*none-\*\.tar must be there: no file matches"),
        ("a-{0..3}.tar", "", r"2 of 4 are not, the first is .*a-2\.tar"),
        ("a-{3..0}.tar", "", r"braces must hold a range such as 000\.\.127 or a,b: got \{3\.\.0\}"),
        ("a-{x}.tar", "", r"got \{x\} in"),
        ("a-{0..1}.tar", "train", r"\{split\} in a pattern of shards stands for .* with a split, 'train'"),
        ("{split}-0.tar", "", "with no split"),
        ("{a,?}-0.tar", "", r"must name each shard once: .* names .*a-0\.tar twice"),
    ],
)
def test_patterns_that_are_wrong(tmp_path, pattern, split, said):
    for number in "01":
        (tmp_path / f"a-{number}.tar").touch()
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        files(f"{tmp_path}/{pattern}", split)


# Headers ------------------------------------------------------------------------------------------------------------


def test_headers_are_read_once_and_anew_when_the_shard_or_what_is_kept_has_changed(tmp_path, monkeypatch):
    shard = write_tar(tmp_path / "s.tar", sample("a"))
    first = members(shard)
    kept = tmp_path / KEPT.format("s.tar")
    opened = []
    monkeypatch.setattr(
        tarfile, "open", lambda *given, open=tarfile.open, **more: opened.append(1) or open(*given, **more)
    )
    assert members(shard) == first and [one.name for one in first[0]] == ["a.jpg", "a.txt"]
    assert not opened
    whole = kept.read_bytes()
    for damaged in (b"", whole[:-9], whole.replace(b'"a.txt"', b'"a.tyt"')):
        kept.write_bytes(damaged)
        assert members(shard) == first and kept.read_bytes() == whole
    assert len(opened) == 3
    with tarfile.open(shard, "a") as tar:
        tar.addfile(tarfile.TarInfo("b.cls"))
    assert [one.name for one in members(shard)[0]] == ["a.jpg", "a.txt", "b.cls"]


def test_a_folder_that_cannot_be_written_is_read_every_time(tmp_path, monkeypatch):
    shard = write_tar(tmp_path / "s.tar", sample("a"))

    def full(path, value):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("mm.data.tars.write_sealed", full)
    assert members(shard) == members(shard)
    assert [path.name for path in tmp_path.iterdir()] == ["s.tar"]


def test_one_member_by_its_name(tmp_path):
    shard = write_tar(tmp_path / "s.tar", {"a.txt": "one", "b.txt": "two"})
    assert member(shard, "b.txt").read() == b"two"
    with pytest.raises(FileNotFoundError, match=r"s\.tar must hold 'c\.txt'"):
        member(shard, "c.txt")


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_links_and_folders(tmp_path, layout):
    """A picture that is packed as a link is not missing, it is empty."""
    key = f"{'d' * 90}/{'k' * 80}"
    with tarfile.open(tmp_path / "train-0.tar", "w", format=layout) as tar:
        for name, kind in (("d" * 90, tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE), ("h.jpg", tarfile.LNKTYPE)):
            head = tarfile.TarInfo(name)
            head.type, head.linkname = kind, "elsewhere"
            tar.addfile(head)
        head = tarfile.TarInfo(f"{key}.txt")
        head.size = 3
        tar.addfile(head, io.BytesIO(b"one"))
    *links, item = shards(pattern_of(tmp_path), "train")
    assert (item.id, item.text) == (key, ("one",)) and [link.id for link in links] == ["l", "h"]
    for link in links:
        with pytest.raises(MediaError, match=rf"train-0\.tar:{link.id}\.jpg: it is empty"):
            read_image(link.image[0])


# What is wrong ------------------------------------------------------------------------------------------------------

WRONG = {
    "two pictures": ({"x.jpg": encoded("jpg"), "x.png": encoded("png")}, r"'x\.jpg', 'x\.png' have one key and are bo"),
    "two sounds": ({"x.wav": encoded("wav"), "x.ogg": encoded("ogg")}, "are both audio"),
    "unknown": ({"x.bmp": b"BM", "x.npy": b""}, r"'x\.npy' has none of the extensions that are read, which are \.jpg"),
    "no word": ({"x.txt": " \n"}, r"x\.txt cannot be read: it has no word"),
    "empty": ({"x.jpg": encoded("jpg"), "x.json": ""}, r"x\.json cannot be read: it is empty"),
    "no UTF-8": ({"x.txt": b"\xff\xfe"}, r"x\.txt cannot be read: 'utf-8' codec"),
    "no JSON": ({"x.json": "{'a': 1}"}, r"x\.json cannot be read: Expecting property name"),
    "no number": ({"x.json": '{"a": NaN}'}, r"x\.json cannot be read: NaN is no JSON"),
    "no object": ({"x.json": "[1]"}, r"x\.json cannot be read: it must be an object, it is list"),
    "no end": ({"x.json": "[" * 100_000}, r"x\.json cannot be read: maximum recursion depth"),
    "no sentence": ({"x.json": '{"caption": 5}'}, r":x: 'caption' must be a sentence or a list of them: got 5"),
    "an empty sentence": ({"x.json": '{"text": ["a", ""]}'}, r"a sentence or a list of them: got \['a', ''\]"),
    "nothing": ({"x.json": '{"n": 1}'}, r":x must have a picture, a sound or a sentence"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_damaged_sample_is_named_or_left_out(tmp_path, name, caplog):
    content, said = WRONG[name]
    write_tar(tmp_path / "train-0.tar", {**sample("a"), **content, **sample("z")})
    with pytest.raises(UnreadableError, match=rf"train-0\.tar.*{said}.*data\.skip_bad=true"):
        shards(pattern_of(tmp_path), "train")
    caplog.clear()
    items = shards(pattern_of(tmp_path), "train", skip_bad=True)
    assert [item.id for item in items] == ["a", "z"] and len(items.skipped) == 1
    assert "train: left out 1 unreadable rows" in caplog.text
    write_tar(tmp_path / "test-0.tar", content)
    with pytest.raises(UnreadableError):
        shards(pattern_of(tmp_path), "test", skip_bad=True)


def test_a_member_or_a_key_that_comes_twice(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        for name in ("a.txt", "a.txt", "b.txt", "c.txt", "b.txt"):
            head = tarfile.TarInfo(name)
            head.size = 1
            tar.addfile(head, io.BytesIO(b"w"))
    with pytest.raises(UnreadableError, match=r"train-0\.tar: .*'a\.txt' comes twice"):
        shards(pattern_of(tmp_path), "train")
    items = shards(pattern_of(tmp_path), "train", skip_bad=True)
    assert [item.id for item in items] == ["b", "c"]
    assert "the key 'b' comes again behind others" in items.skipped[1]
    write_tar(tmp_path / "train-1.tar", {"c.txt": "other"})
    with pytest.raises(ValueError, match=r"the key 'c' must be unique: it is in .*train-0\.tar and .*train-1\.tar"):
        shards(pattern_of(tmp_path), "train", skip_bad=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda raw: b"", "empty file"),
        (lambda raw: raw[:300], "truncated header"),
        (lambda raw: b"no tar" * 400, "(bad checksum|invalid header)"),
        (lambda raw: raw[: raw.index(b"z.jpg") + 700], r"it is cut off, the last file that can be told is 'z\.jpg'"),
        (lambda raw: raw[: raw.index(b"z.jpg") + 300], r"it is cut off, the last file that can be told is 'a\.txt'"),
        (lambda raw: raw[: raw.index(b"z.jpg")], r"it is cut off, the last file that can be told is 'a\.txt'"),
        (lambda raw: raw.replace(b"z.jpg", b"z.jpx"), r"what follows is not the head of a file, .* is 'a\.txt'"),
        (lambda raw: raw[: raw.index(b"z.txt") + 512], r"it is cut off, the last file that can be told is 'z\.txt'"),
    ],
)
def test_a_damaged_shard_is_named_with_its_last_member(tmp_path, content, said):
    whole = write_tar(tmp_path / "train-0.tar", {**sample("a"), **sample("z")}).read_bytes()
    (tmp_path / "train-0.tar").write_bytes(content(whole))
    with pytest.raises(UnreadableError, match=rf"train-0\.tar must be an uncompressed tar and whole: {said}"):
        shards(pattern_of(tmp_path), "train")
    write_tar(tmp_path / "train-1.tar", sample("b"))
    items = shards(pattern_of(tmp_path), "train", skip_bad=True)
    assert [item.id for item in items] == (["a", "b"] if "z" in said[-9:] else ["b"]) and len(items.skipped) == 1
    assert not (tmp_path / KEPT.format("train-0.tar")).exists()


def test_a_compressed_or_a_sparse_tar_and_one_without_samples(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
    with pytest.raises(UnreadableError, match=r"train-0\.tar must be an uncompressed tar"):
        shards(pattern_of(tmp_path), "train")
    with tarfile.open(tmp_path / "train-0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        head = tarfile.TarInfo("a.jpg")
        head.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.map": "0,0", "GNU.sparse.size": "9"}
        tar.addfile(head)
    with pytest.raises(UnreadableError, match=r"it holds a sparse file, 'a\.jpg'"):
        shards(pattern_of(tmp_path), "train")
    write_tar(tmp_path / "train-0.tar", {})
    with pytest.raises(UnreadableError, match=r"train-0\.tar must hold files named key\.extension: it holds none"):
        shards(pattern_of(tmp_path), "train")


def test_a_damaged_picture_is_named_and_left_out_of_training(tmp_path):
    write_tar(tmp_path / "train-0.tar", {**sample("a"), **sample("x"), "y.jpg": b"\xff\xd8 no", "y.txt": "grey"})
    items = shards(pattern_of(tmp_path), "train")
    prepare = {"image": ImageEncoder("small_cnn", size=32).prepare}
    with pytest.raises(UnreadableError, match=r"^y: cannot read .*train-0\.tar:y\.jpg: cannot identify"):
        read(prepare["image"], items[2].image[0], 0, "y")
    left = readable(items, prepare)
    assert [item.id for item in left] == ["a", "x"] and "train-0.tar:y.jpg" in left.skipped[0]


def test_a_shard_that_changes_under_the_reader(tmp_path):
    write_tar(tmp_path / "train-0.tar", sample("a"))
    source = shards(pattern_of(tmp_path), "train")[0].image[0]
    (tmp_path / "train-0.tar").write_bytes(b"short")
    with pytest.raises(
        MediaError, match=rf"cannot read .*train-0\.tar:a\.jpg: it is cut off after 0 of {source.size} bytes"
    ):
        read_image(source)
    (tmp_path / "train-0.tar").unlink()
    with pytest.raises(FileNotFoundError, match=r"train-0\.tar"):
        read_image(source)
    with pytest.raises(MediaError, match="it is empty"):
        read_audio(Member(Path(__file__), "a.wav", 0, 0), 8000)


def test_other_kinds_are_ignored_with_a_word_and_nothing_is_unpickled(tmp_path, caplog):
    bomb = b"cposix\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    write_tar(
        tmp_path / "train-0.tar",
        {**sample("a", pyd=bomb, pickle=bomb), "README": "x", "._a.jpg": "mac", "a.seg.png": "p"},
    )
    with caplog.at_level(logging.WARNING):
        (item,) = shards(pattern_of(tmp_path), "train")
    assert item.id == "a" and len(item.image) == 1 and not (tmp_path / "ran").exists()
    for said in ("nothing is unpickled", ".pyd (1)", ".pickle (1)", ".seg.png (1)", "no key or extension (2)"):
        assert said in caplog.text


def test_no_damage_to_a_shard_passes_for_another_error(tmp_path):
    """Flipped bits and cuts: every sample that is given is one of the shard's, what is missing was told."""
    names = {f"{n}/{n}.{e}": c for n in "abc" for e, c in (("jpg", encoded("jpg")), ("txt", n), ("json", '{"n": 1}'))}
    whole = write_tar(tmp_path / "whole.tar", names).read_bytes()
    generator = random.Random(0)
    told = 0
    for _ in range(400):
        damaged = bytearray(whole)
        if generator.random() < 0.3:
            damaged = damaged[: generator.randrange(len(whole))]
        else:
            bit = generator.randrange(8 * len(whole))
            damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "s.tar").write_bytes(damaged)
        faults: dict[str, str] = {}
        add = faults.__setitem__
        found = [item_of(one, add) for one in samples([tmp_path / "s.tar"], add, Counter())]
        ids = [item.id for item in found if item]
        assert faults or ids == ["a/a", "b/b", "c/c"]
        assert set(ids) <= {"a/a", "b/b", "c/c"} and all("s.tar" in reason for reason in faults.values())
        told += bool(faults)
    assert told > 100
