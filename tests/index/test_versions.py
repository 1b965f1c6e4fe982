"""What is saved can be loaded whatever happens, and what is damaged is never believed."""

import hashlib
import json
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from mm.index import Index, IndexConflictError, IndexDamagedError, versions


def unit(rows, dim=8, seed=0):
    values = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def small_index(rows=20, seed=0):
    ids = [f"ü {i}" if i % 2 else i for i in range(rows)]
    metadata = [{"text": f"“quoted” \\ {i}", "n": i} for i in range(rows)]
    return Index.build(unit(rows, seed=seed), ids, metadata, modality="text", fingerprint="abc", run="runs/x")


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != versions.LOCK)


def test_what_is_loaded_equals_what_was_saved_and_can_be_changed_and_saved_again(tmp_path):
    saved = small_index()
    saved.remove([0, "ü 19"])
    saved.save(tmp_path / "new" / "index")
    index = Index.load(tmp_path / "new" / "index")
    assert (index.ids, index.fingerprint, index.run, index.dim) == (saved.ids, "abc", "runs/x", 8)
    np.testing.assert_array_equal(index.vectors(index.ids), saved.vectors(saved.ids))
    assert index.metadata(index.ids) == saved.metadata(saved.ids)
    asked = unit(5, seed=4)
    assert index.search(asked, 6, {"n": (3, 15)}).ids == saved.search(asked, 6, {"n": (3, 15)}).ids
    index.add(unit(1, seed=3), ["later"])
    index.remove([2])
    index.save(tmp_path / "new" / "index")
    index.save(tmp_path / "new" / "index")
    again = Index.load(tmp_path / "new" / "index")
    assert again.ids == index.ids
    assert [path.name for path in files(tmp_path)] == ["current", "items.sqlite", "manifest.json", "vectors.faiss"]


def test_the_manifest_says_what_the_index_is(tmp_path):
    small_index().save(tmp_path)
    manifest = json.loads((tmp_path / "v00000001" / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["count"] == 20
    assert manifest["dim"] == 8
    assert (manifest["metric"], manifest["factory"]) == ("inner_product", "exact")
    assert (manifest["fingerprint"], manifest["run"]) == ("abc", "runs/x")
    assert manifest["modalities"] == {"text": 20}
    assert set(manifest["files"]) == {"vectors.faiss", "items.sqlite"}
    assert {"mm", "faiss", "numpy", "torch"} <= set(manifest["libraries"])
    assert b"pickle" not in b"".join(path.read_bytes() for path in files(tmp_path))


def test_an_empty_index_survives_saving(tmp_path):
    Index(5, fingerprint="f").save(tmp_path)
    index = Index.load(tmp_path)
    assert (len(index), index.dim) == (0, 5)
    index.add(unit(2, 5), ["a", "b"])
    assert index.search(unit(1, 5), 2).ids[0][0] == "a"


def test_any_flipped_bit_in_any_file_is_an_error_that_names_it(tmp_path):
    small_index().save(tmp_path)
    generator = np.random.default_rng(0)
    assert len(files(tmp_path)) == 4
    for path in files(tmp_path):
        whole = path.read_bytes()
        bits = 8 * len(whole)
        for bit in range(bits) if path.name == "current" else generator.choice(bits, 60, replace=False).tolist():
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(IndexDamagedError, match="build the index again") as caught:
                Index.load(tmp_path)
            assert path.name in str(caught.value) or path.name == "current"
        path.write_bytes(whole)
    assert len(Index.load(tmp_path)) == 20


def test_truncated_and_missing_files_are_errors_that_name_them(tmp_path):
    small_index().save(tmp_path)
    for path in files(tmp_path):
        whole = path.read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(IndexDamagedError, match=path.name):
                Index.load(tmp_path)
        path.unlink()
        expected = FileNotFoundError if path.name == "current" else IndexDamagedError
        with pytest.raises(expected, match=path.name):
            Index.load(tmp_path)
        path.write_bytes(whole)


def sign(folder):
    """Make the digests right again after files were changed: what remains wrong is what the files say."""
    version = folder / "v00000001"
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["files"] = {name: versions.sha256(version / name) for name in manifest["files"]}
    write_manifest(folder, manifest)


def write_manifest(folder, manifest):
    text = json.dumps(manifest)
    (folder / "v00000001" / "manifest.json").write_text(text)
    (folder / "current").write_text(f"v00000001 {hashlib.sha256(text.encode()).hexdigest()}\n")


@pytest.mark.parametrize("name", ["vectors.faiss", "items.sqlite"])
def test_files_of_two_indexes_do_not_mix(tmp_path, name):
    small_index(20).save(tmp_path / "a")
    small_index(21).save(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "v00000001" / name, tmp_path / "a" / "v00000001" / name)
    with pytest.raises(IndexDamagedError, match="SHA-256"):
        Index.load(tmp_path / "a")
    sign(tmp_path / "a")
    with pytest.raises(IndexDamagedError, match=r"must agree on the count: got \(20, 2[01], 2[01]\)"):
        Index.load(tmp_path / "a")


def test_a_manifest_of_another_dimension_or_a_newer_format_is_refused(tmp_path):
    small_index().save(tmp_path)
    manifest = json.loads((tmp_path / "v00000001" / "manifest.json").read_text())
    write_manifest(tmp_path, manifest | {"dim": 9})
    with pytest.raises(IndexDamagedError, match=r"must agree on the dim: got \(9, 8\)"):
        Index.load(tmp_path)
    write_manifest(tmp_path, manifest | {"format": 2})
    with pytest.raises(ValueError, match=r"has format 2, this mm .* reads up to 1"):
        Index.load(tmp_path)


def test_no_index_is_said_to_be_no_index(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold an index: it has no file 'current'"):
        Index.load(tmp_path / "nowhere")


def test_the_second_of_two_writers_is_told(tmp_path):
    index = small_index()
    index.save(tmp_path)
    busy, done = threading.Event(), threading.Event()

    def slow(folder):
        busy.set()
        done.wait(10)
        return {"count": 0}

    writer = threading.Thread(target=versions.write, args=(tmp_path, slow))
    writer.start()
    assert busy.wait(10)
    with pytest.raises(IndexConflictError, match="another process is saving to"):
        index.save(tmp_path)
    assert len(Index.load(tmp_path)) == 20  # readers are not disturbed
    done.set()
    writer.join()


def test_saving_over_what_another_has_saved_since_is_refused(tmp_path):
    small_index().save(tmp_path)
    first, second = Index.load(tmp_path), Index.load(tmp_path)
    first.add(unit(1, seed=5), ["first"])
    first.save(tmp_path)
    second.add(unit(1, seed=6), ["second"])
    with pytest.raises(IndexConflictError, match="was saved by another process since this index was loaded"):
        second.save(tmp_path)
    second.save(tmp_path / "elsewhere")
    assert Index.load(tmp_path).ids[-1] == "first"
    small_index(3).save(tmp_path)  # a new index replaces what is there
    assert len(Index.load(tmp_path)) == 3


def test_a_reader_that_is_overtaken_by_a_writer_reads_again(tmp_path):
    index = small_index()
    index.save(tmp_path)
    opened = []

    def overtaken(folder, manifest):
        opened.append(folder.name)
        if len(opened) == 1:
            index.save(tmp_path)  # removes the version that is being read
        return (folder / "vectors.faiss").read_bytes()

    data, _ = versions.read(tmp_path, overtaken)
    assert opened == ["v00000001", "v00000002"]
    assert data == (tmp_path / "v00000002" / "vectors.faiss").read_bytes()


def test_a_full_disk_leaves_the_old_index(tmp_path):
    small_index().save(tmp_path)
    before = [path.relative_to(tmp_path) for path in files(tmp_path)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = small_index(3000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises((OSError, RuntimeError)):
            large.save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(Index.load(tmp_path)) == 20
    assert [path.relative_to(tmp_path) for path in files(tmp_path)] == before


KILLED_WHILE_SAVING = """
import os, random, signal, sys, time
import numpy as np
from mm.index import Index

folder = sys.argv[1]
random.seed(0)
vectors = np.eye(64, dtype=np.float32)[np.arange(2000) % 64]
index = Index.build(vectors[:1000], range(1000))
index.save(folder)
start = time.perf_counter()
index = Index.load(folder)
index.save(folder)
once = time.perf_counter() - start
counts = set()
for attempt in range(30):
    child = os.fork()
    if child == 0:
        index = Index.load(folder)
        while True:
            more = len(index)
            index.add(vectors[:50], range(more, more + 50), [{"n": more}] * 50)
            index.save(folder)
    time.sleep(random.uniform(0.5, 3) * once)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    index = Index.load(folder)
    assert index.ids == list(range(len(index))) and len(index) % 50 == 0, len(index)
    assert index.search(vectors[:1], 1).ids == [[0]]
    counts.add(len(index))
print(len(counts))
"""


def test_a_kill_at_any_moment_of_saving_leaves_an_index_that_loads(tmp_path):
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path / "index")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1  # saves did come through between the kills
