"""Corpora through the scripts: embedded, indexed, asked; by one process and by two; and what is refused."""

from __future__ import annotations

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mm.index import Index
from mm.index.corpus import read
from tests.shared import ROOT, assert_clean, assert_same_run, colours, write_tar


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def items(folder: Path) -> dict[str, tuple[dict, np.ndarray]]:
    """{id: (metadata, vector)} of what was embedded."""
    return {
        id_: (meta, vector)
        for part in read(folder)
        for id_, meta, vector in zip(part.ids, part.metadata, part.vectors, strict=True)
    }


@pytest.fixture(scope="module")
def shards(own_table: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The eight pictures of `own_table` with their sounds and a caption each, in two shards; the pattern of these."""
    folder = tmp_path_factory.mktemp("shards")
    pictures = sorted(own_table.parent.glob("*.jpg"))
    for number in range(2):
        files: dict[str, bytes | str] = {}
        for picture in pictures[4 * number : 4 * number + 4]:
            name = f"own/{picture.stem}"
            files |= {f"{name}.jpg": picture.read_bytes(), f"{name}.wav": picture.with_suffix(".wav").read_bytes()}
            files |= {f"{name}.txt": f"a {picture.stem}", f"{name}.json": f'{{"letters": {len(picture.stem)}}}'}
        write_tar(folder / f"s-{number:03}.tar", files)
    return str(folder / "s-{000..001}.tar")


@pytest.fixture(scope="module")
def embedded(script, tiny_run: Path, shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedded") / "c"
    answer = script("embed", tiny_run, "--out", out, "--shards", shards)
    assert answer.code == 0, answer.err
    assert f"{out}: 8 image, 8 text, 8 audio, 32 numbers each; parts: 3" in answer.out
    assert f"build_index.py {tiny_run} --embeddings {out}" in answer.out
    return out


@pytest.fixture(scope="module")
def index(script, tiny_run: Path, shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("index") / "i"
    answer = script("build_index", tiny_run, "--out", out, "--shards", shards)
    assert answer.code == 0, answer.err
    assert "24 items (8 image, 8 text, 8 audio)" in answer.out and "--modality image" in answer.out
    return out


def test_shards_a_folder_and_a_table_of_the_same_files_have_the_same_vectors(
    script, tiny_run: Path, own_table: Path, embedded: Path, tmp_path: Path
) -> None:
    folder = own_table.parent
    assert script("embed", tiny_run, "--out", tmp_path / "f", "--folder", folder, "--batch-size", 3).code == 0
    assert script("embed", tiny_run, "--out", tmp_path / "t", "--csv", own_table).code == 0
    in_shards, in_folder, in_table = (items(where) for where in (embedded, tmp_path / "f", tmp_path / "t"))
    assert list(in_folder) == [f"image:{path.name}" for path in sorted(folder.glob("*.jpg"))]
    meta, vector = in_folder["image:red-circle.jpg"]
    assert meta == {"path": str(folder / "red-circle.jpg"), "modality": "image"}
    np.testing.assert_allclose(in_shards["image:own/red-circle"][1], vector, atol=2e-6)
    np.testing.assert_allclose(in_table["image:val-red-circle"][1], vector, atol=2e-6)
    sound = in_table["audio:test-red-circle"]
    np.testing.assert_allclose(in_shards["audio:own/red-circle"][1], sound[1], atol=2e-6)
    assert {"split": "test", "colour": "red", "number": 0, "modality": "audio"}.items() <= sound[0].items()
    assert len(in_table) == 3 * 8 * 4 and "text:train-red-circle#1" in in_table
    shard = {"letters": 10, "item": "own/red-circle", "member": "own/red-circle.wav", "modality": "audio"}
    assert in_shards["audio:own/red-circle"][0].items() >= shard.items()
    assert in_shards["text:own/red-circle"][0]["text"] == "a red-circle"


def test_an_index_of_embeddings_equals_the_index_of_the_split(script, tiny_run: Path, tmp_path: Path) -> None:
    embed = ("embed", tiny_run, "--out", tmp_path / "c", "--split", "val", "--data", "table")
    assert script(*embed).code == 0
    answer = script("build_index", tiny_run, "--out", tmp_path / "one", "--embeddings", tmp_path / "c")
    assert answer.code == 0, answer.err
    assert script("build_index", tiny_run, "--out", tmp_path / "two", "--split", "val").code == 0
    one, two = (Index.load(tmp_path / name) for name in ("one", "two"))
    assert one.ids == two.ids and one.metadata(one.ids) == two.metadata(two.ids)
    assert (one.fingerprint, one.run) == (two.fingerprint, two.run)
    np.testing.assert_allclose(one.vectors(one.ids), two.vectors(two.ids), atol=2e-6)


def test_an_index_of_shards_is_asked_and_drawn_from_them(script, index: Path, embedded: Path, tmp_path: Path) -> None:
    built, vectors = Index.load(index), items(embedded)
    assert built.ids == list(vectors) and not (index / ".parts").exists()
    np.testing.assert_array_equal(built.vectors(built.ids), [vector for _, vector in vectors.values()])
    for modality in ("image", "audio"):
        picture = tmp_path / f"{modality}.png"
        answer = script(
            "query_index", index, "--text", "a red circle", "--modality", modality, "--grid", picture, "-k", 3
        )
        assert answer.code == 0, answer.err
        assert answer.out.count(f"{modality}:own/") == 3 and answer.out.count(".tar") == 3
        assert colours(picture) > 256


def test_training_on_shards_is_training_on_a_table_of_the_same_items(
    script, tiny: list[str], own_table: Path, tmp_path: Path
) -> None:
    files: dict[str, dict[str, bytes | str]] = {"train": {}, "val": {}, "test": {}}
    with own_table.open(newline="") as rows:
        for row in csv.DictReader(rows):
            about = {"caption": [row["text_1"], row["text_2"]], "owner": row["owner"], "colour": row["colour"]}
            files[row["split"]] |= {
                f"{row['id']}.json": json.dumps(about),
                **{
                    f"{row['id']}.{kind}": (own_table.parent / f"{row['owner']}.{kind}").read_bytes()
                    for kind in ("jpg", "wav")
                },
            }
    for split, members in files.items():
        write_tar(tmp_path / f"{split}-0.tar", members)
    source = ("data.name=shards", f"data.file={tmp_path}/{{split}}-*.tar")
    for name, settings in (("table", ()), ("shards", source), ("workers", (*source, "data.workers=1"))):
        answer = script("train_retrieval", *tiny, "loop.steps=6", *settings, f"out={tmp_path / name}")
        assert answer.code == 0, answer.err
    assert_same_run(tmp_path / "shards", tmp_path / "table")
    assert_same_run(tmp_path / "shards", tmp_path / "workers")


def test_two_processes_build_the_index_that_one_builds(
    tiny_run: Path, shards: str, index: Path, tmp_path: Path
) -> None:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [
        str(ROOT / "scripts" / "build_index.py"),
        str(tiny_run),
        "--out",
        str(tmp_path / "i"),
        "--shards",
        shards,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launch, *command], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("24 items") == 1
    one, two = Index.load(index), Index.load(tmp_path / "i")
    assert one.ids == two.ids and one.metadata(one.ids) == two.metadata(two.ids)
    np.testing.assert_array_equal(one.vectors(one.ids), two.vectors(two.ids))


def test_what_was_embedded_before_a_failure_is_kept(script, tiny_run: Path, own_table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for file in own_table.parent.glob("red-*.*"):
        (folder / file.name).write_bytes(file.read_bytes())
    whole = (folder / "red-square.wav").read_bytes()
    (folder / "red-square.wav").write_bytes(whole[:100])
    build = ("build_index", tiny_run, "--out", tmp_path / "i", "--folder", folder, "--modality", "image", "audio")
    assert_clean(script(*build), "'red-square.wav' cannot be embedded: cannot read", "--skip-bad")
    with pytest.raises(FileNotFoundError, match="must hold an index"):
        Index.load(tmp_path / "i")
    (folder / "red-square.wav").write_bytes(whole)
    answer = script(*build)
    assert answer.code == 0 and "image-00000000:" not in answer.out and "audio-00000000: 2 vectors" in answer.out
    assert Index.load(tmp_path / "i").modalities == {"image": 2, "audio": 2}
    (folder / "red-square.wav").write_bytes(whole[:100])  # the parts are gone: all is embedded anew
    answer = script(*build, "--skip-bad")
    assert "image-00000000: 2 vectors" in answer.out and "left out of the index: red-square.wav" in answer.out
    answer = script("embed", tiny_run, "--out", tmp_path / "c", "--folder", folder, "--modality", "audio", "--skip-bad")
    assert (
        f"1 unreadable sources left out of {tmp_path / 'c'}: red-square.wav" in answer.out and "1 audio" in answer.out
    )


def test_factories(
    script, tiny_run: Path, embedded: Path, shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builds: list[str] = []
    compact = Index.compact
    monkeypatch.setattr(Index, "compact", lambda index: builds.append(index.factory) or compact(index))
    for number, (source, factory) in enumerate(
        ((("--embeddings", embedded), "HNSW8"), (("--shards", shards), "Flat"), (("--split", "val"), "HNSW8"))
    ):
        out = tmp_path / f"{number}"
        answer = script("build_index", tiny_run, "--out", out, *source, "--factory", factory)
        assert answer.code == 0, answer.err
        built = Index.load(out)
        assert built.factory == factory and f"searched by {built.built}" in answer.out
        assert builds == [factory]  # once: it may take hours
        builds.clear()
        found = built.search(built.vectors(built.ids), 1).ids
        assert [one for (one,) in found] == built.ids
    answer = script("build_index", tiny_run, "--out", tmp_path / "wrong", "--shards", shards, "--factory", "HNWS8")
    assert_clean(answer, "HNWS8")
    assert not (tmp_path / "wrong").exists()


# What is refused ----------------------------------------------------------------------------------------------------


def test_another_run_or_another_source_in_the_same_folder(
    script, tiny: list[str], tiny_run: Path, shards: str, own_table: Path, embedded: Path, tmp_path: Path
) -> None:
    before = contents(embedded)
    other = tmp_path / "run"
    assert script("train_retrieval", *tiny, f"out={other}", "seed=5", "loop.steps=1").code == 0
    out = ("--out", embedded)
    first = shards.replace("{000..001}", "000")
    for command, said in (
        ((other, *out, "--shards", shards), "fingerprint is "),
        ((tiny_run, *out, "--shards", first), "source is "),
        ((tiny_run, *out, "--csv", own_table), "source is "),
        ((tiny_run, *out, "--shards", shards, "--modality", "text"), "modalities is "),
        ((tiny_run, *out, "--shards", shards, "data.eval_views=2"), "settings is {'eval_views': 1} there"),
    ):
        assert_clean(script("embed", *command), "embedded otherwise", said, "Name another folder")
    assert contents(embedded) == before
    build = ("build_index", other, "--out", tmp_path / "i", "--embeddings", embedded)
    assert_clean(script(*build), "must be embedded by the encoders of", str(tiny_run))
    assert not (tmp_path / "i").exists()


def test_a_damaged_or_unfinished_folder_of_embeddings(script, tiny_run: Path, shards: str, tmp_path: Path) -> None:
    embed = ("embed", tiny_run, "--out", tmp_path / "c", "--shards", shards)
    build = ("build_index", tiny_run, "--out", tmp_path / "i", "--embeddings", tmp_path / "c")
    assert_clean(script(*build), "must hold an embedded corpus")
    assert script(*embed).code == 0
    before = contents(tmp_path / "c")
    vectors = bytearray(before["text-00000000.npy"])
    vectors[-1] ^= 1
    (tmp_path / "c" / "text-00000000.npy").write_bytes(vectors)
    assert_clean(script(*build), "text-00000000.npy is not what was saved", "repeat the command")
    assert script(*embed).code == 0
    assert contents(tmp_path / "c") == before
    assert script(*build).code == 0


def test_damaged_shards_with_and_without_skip_bad(script, tiny_run: Path, own_table: Path, tmp_path: Path) -> None:
    picture = (own_table.parent / "red-circle.jpg").read_bytes()
    files = {"a.jpg": picture, "b.jpg": b"\xff\xd8 no", "c.jpg": picture, "d.jpg": picture}
    whole = write_tar(tmp_path / "s.tar", files).read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[: whole.index(b"d.jpg") + 600])
    embed = ("embed", tiny_run, "--out", tmp_path / "c", "--shards", tmp_path / "s.tar")
    assert_clean(script(*embed), "s.tar must be an uncompressed tar", "cut off", "'d.jpg'", "--skip-bad")
    answer = script(*embed, "--skip-bad", "data.eval_views=2")  # of which the first tells what is damaged
    assert answer.code == 0, answer.err
    assert "2 unreadable sources left out of" in answer.out and f"{tmp_path / 's.tar'}, b" in answer.out
    assert list(items(tmp_path / "c")) == ["image:a", "image:c"]
    write_tar(tmp_path / "s.tar", {name: picture for name in ("a.jpg", "c.jpg")} | {"x.bmp": picture})
    assert_clean(script("embed", tiny_run, "--out", tmp_path / "d", *embed[4:]), "'x.bmp' has none of the extensions")


@pytest.mark.parametrize("name", ["embed", "build_index"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--shards", "none-{0..3}.tar"), "none-{0..3}.tar must be there"),
        (("--shards", "none-{0..3.tar"), "no file matches"),
        (("--shards", "{split}.tar"), "stands for the split's name"),
        (("--csv", "none.csv"), "none.csv must be a CSV or JSONL file"),
        (("--csv", "OWN", "--folder", "OWN"), "not allowed with argument"),
        (("--folder", "none"), "none must be a folder"),
        (("--folder", "FOLDER", "--modality", "text"), "files of 'image' or 'audio'"),
        (("--folder", "FOLDER", "--modality", "video"), "invalid choice: 'video'"),
        (("--csv", "OWN", "data.nam=x"), "data.nam"),
        (("--folder", "FOLDER", "data.skip_bad=true"), "data.skip_bad=true would have no effect with --folder"),
        (("--shards", "GZIP"), "GZIP must be an uncompressed tar"),
    ],
)
def test_wrong_arguments(
    script, name: str, tiny_run: Path, own_table: Path, tmp_path: Path, arguments, said: str
) -> None:
    places = {"OWN": own_table, "FOLDER": own_table.parent, "GZIP": tmp_path / "GZIP"}
    places["GZIP"].write_bytes(gzip.compress(b"\0" * 2000))
    answer = script(name, tiny_run, "--out", tmp_path / "out", *(places.get(word, word) for word in arguments))
    assert answer.code == 2, answer
    assert said in answer.err and "Traceback" not in answer.err
    assert not (tmp_path / "out").exists()


def test_arguments_that_have_no_effect(script, tiny_run: Path, own_table: Path, embedded: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    answer = script("embed", tiny_run, *out, "--folder", own_table.parent, "--split", "val")
    assert answer.code == 2 and "--split is of a data set: got it with --folder" in answer.err
    answer = script("embed", tiny_run, *out, "--folder", own_table.parent, "--batch-size", 0)
    assert answer.code == 2 and "--batch-size must be at least 1: got 0" in answer.err
    answer = script("build_index", tiny_run, *out, "--split", "val", "--min-count", 2)
    assert answer.code == 2 and "--min-count is of the words: give --vocabulary too" in answer.err
    answer = script("build_index", tiny_run, *out, "--embeddings", embedded, "data.root=x")
    assert answer.code == 2 and "data.root=x would have no effect with --embeddings" in answer.err
    for more in (("--modality", "image"), ("--skip-bad",)):
        answer = script("build_index", tiny_run, *out, "--embeddings", embedded, *more)
        assert answer.code == 2 and "were for embed.py" in answer.err
    answer = script("build_index", tiny_run, *out, "--embeddings", embedded, "--folder", own_table.parent)
    assert answer.code == 2 and "not allowed with argument" in answer.err
    assert not (tmp_path / "out").exists()


def test_one_key_in_two_shards(script, tiny_run: Path, own_table: Path, tmp_path: Path) -> None:
    picture = (own_table.parent / "red-circle.jpg").read_bytes()
    for number in range(2):
        write_tar(tmp_path / f"s-{number}.tar", {"x/a.jpg": picture})
    answer = script("embed", tiny_run, "--out", tmp_path / "c", "--shards", tmp_path / "s-*.tar", "--skip-bad")
    assert_clean(answer, "ids of a corpus must be unique: 'x/a' comes twice", "s-0.tar:x/a", "s-1.tar:x/a")


@pytest.mark.parametrize("name", ["embed", "build_index"])
def test_an_out_folder_that_cannot_be_written(script, name: str, tiny_run: Path, shards: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_clean(script(name, tiny_run, "--out", tmp_path / "file", "--shards", shards), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"
    assert_clean(script(name, tiny_run, "--out", "/proc/none", "--shards", shards), "/proc/none")
    (tmp_path / "closed").mkdir(mode=0o500)
    if not os.access(tmp_path / "closed", os.W_OK):  # to root nothing is closed
        assert_clean(script(name, tiny_run, "--out", tmp_path / "closed", "--shards", shards), "closed")
