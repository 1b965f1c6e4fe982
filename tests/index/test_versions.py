"""What is saved can be loaded whatever happens, and what is damaged is never believed."""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from mm.index import Index, IndexConflictError, IndexDamagedError, versions
from tests.shared import unit


def small_index(rows=20, seed=0, factory="exact"):
    ids = [f"ü {i}" if i % 2 else i for i in range(rows)]
    metadata = [{"text": f"“quoted” \\ {i}", "n": i} for i in range(rows)]
    about = {"modality": "text", "fingerprint": "abc", "run": "runs/x", "factory": factory}
    return Index.build(unit(rows, 8, seed=seed), ids, metadata, **about)


TYPES = {"exact": 20, "HNSW8": 60, "IVF2,SQ8": 100}  # and how many items to build one of
every_type = pytest.mark.parametrize("factory", TYPES)


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
    asked = unit(5, 8, seed=4)
    assert index.search(asked, 6, {"n": (3, 15)}).ids == saved.search(asked, 6, {"n": (3, 15)}).ids
    index.add(unit(1, 8, seed=3), ["later"])
    index.remove([2])
    index.save(tmp_path / "new" / "index")
    index.save(tmp_path / "new" / "index")
    again = Index.load(tmp_path / "new" / "index")
    assert again.ids == index.ids
    assert [path.name for path in files(tmp_path)] == ["current", "items.sqlite", "manifest.json", "vectors.faiss"]


def test_the_manifest_says_what_the_index_is(tmp_path):
    small_index().save(tmp_path)
    manifest = json.loads((tmp_path / "v00000001" / "manifest.json").read_text())
    assert manifest["format"] == 2
    assert manifest["count"] == 20
    assert manifest["dim"] == 8
    assert (manifest["metric"], manifest["factory"]) == ("inner_product", "exact")
    assert (manifest["fingerprint"], manifest["run"]) == ("abc", "runs/x")
    assert manifest["modalities"] == {"text": 20}
    assert manifest["search"] is None
    assert set(manifest["files"]) == {"vectors.faiss", "items.sqlite"}
    assert {"mm", "faiss", "numpy", "torch"} <= set(manifest["libraries"])
    assert b"pickle" not in b"".join(path.read_bytes() for path in files(tmp_path))


def test_the_manifest_says_how_the_index_is_searched(tmp_path):
    index = small_index(60, factory="HNSW8")
    index.save(tmp_path)
    manifest = json.loads((tmp_path / "v00000001" / "manifest.json").read_text())
    assert manifest["factory"] == manifest["search"]["factory"] == "HNSW8"
    assert manifest["search"]["rows"] == 60
    assert manifest["search"]["setting"]["effort"] >= 16
    assert [set(trial) for trial in manifest["search"]["trials"]] == [{"recall", "ms", "parameters"}] * len(
        index.trials
    )
    assert set(manifest["files"]) == {"vectors.faiss", "items.sqlite", "search.faiss", "rows.npy"}


def test_an_index_of_the_first_format_is_read(tmp_path):
    small_index().save(tmp_path)
    manifest = json.loads((tmp_path / "v00000001" / "manifest.json").read_text())
    del manifest["search"]
    write_manifest(tmp_path, manifest | {"format": 1, "factory": "exact"})
    index = Index.load(tmp_path)
    assert (index.built, len(index)) == ("exact", 20)
    assert index.search(unit(20, 8)[[3]], 1).ids == [["ü 3"]]
    index.save(tmp_path)
    assert json.loads((tmp_path / "v00000002" / "manifest.json").read_text())["format"] == 2


def test_an_empty_index_survives_saving(tmp_path):
    Index(5, fingerprint="f").save(tmp_path)
    index = Index.load(tmp_path)
    assert (len(index), index.dim) == (0, 5)
    index.add(unit(2, 5), ["a", "b"])
    assert index.search(unit(1, 5), 2).ids[0][0] == "a"


@every_type
def test_any_flipped_bit_in_any_file_is_an_error_that_names_it(tmp_path, factory):
    index = small_index(TYPES[factory], factory=factory)
    index.save(tmp_path)
    generator = np.random.default_rng(0)
    assert len(files(tmp_path)) == (4 if factory == "exact" else 6) and index.built == factory
    for path in files(tmp_path):
        whole = path.read_bytes()
        bits = 8 * len(whole)
        for bit in range(bits) if path.name == "current" else generator.choice(bits, 60, replace=False).tolist():
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(IndexDamagedError, match="build the index again") as caught:
                Index.load(tmp_path, mmap=bit % 2 == 0)
            assert path.name in str(caught.value) or path.name == "current"
        path.write_bytes(whole)
    assert len(Index.load(tmp_path)) == TYPES[factory]


@every_type
def test_truncated_and_missing_files_are_errors_that_name_them(tmp_path, factory):
    small_index(TYPES[factory], factory=factory).save(tmp_path)
    for path in files(tmp_path):
        whole = path.read_bytes()
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:length])
            with pytest.raises(IndexDamagedError, match=path.name):
                Index.load(tmp_path)
        path.write_bytes(whole + b"x")
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


def test_a_search_index_of_other_items_is_refused(tmp_path):
    index = small_index(60, factory="HNSW8")
    index.save(tmp_path / "a")
    small_index(61, factory="HNSW8").save(tmp_path / "b")
    of_a, of_b = (tmp_path / name / "v00000001" for name in "ab")
    for name in ("search.faiss", "rows.npy"):
        whole = (of_a / name).read_bytes()
        shutil.copy(of_b / name, of_a / name)
        sign(tmp_path / "a")
        with pytest.raises(IndexDamagedError, match=r"must agree on the rows: got \(60, 6[01], 6[01]\)"):
            Index.load(tmp_path / "a")
        (of_a / name).write_bytes(whole)
    np.save(of_a / "rows.npy", np.arange(1, 61))
    sign(tmp_path / "a")
    with pytest.raises(IndexDamagedError, match="every item must be in the search index: 1 of 60 are not"):
        Index.load(tmp_path / "a")


def test_a_manifest_of_another_dimension_or_a_newer_format_is_refused(tmp_path):
    small_index().save(tmp_path)
    manifest = json.loads((tmp_path / "v00000001" / "manifest.json").read_text())
    write_manifest(tmp_path, manifest | {"dim": 9})
    with pytest.raises(IndexDamagedError, match=r"must agree on the dim: got \(9, 8\)"):
        Index.load(tmp_path)
    write_manifest(tmp_path, manifest | {"metric": "l2"})
    with pytest.raises(IndexDamagedError, match="must agree on the metric"):
        Index.load(tmp_path)
    write_manifest(tmp_path, manifest | {"format": 3})
    with pytest.raises(ValueError, match=r"has format 3, this mm .* reads up to 2.* Install that or a newer one"):
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


def test_what_killed_writers_left_goes_with_the_next_save(tmp_path):
    small_index().save(tmp_path)
    (tmp_path / "v00000002").mkdir()
    (tmp_path / "v00000002" / "vectors.faiss").write_bytes(b"half of it")
    (tmp_path / ".current.12345").write_text("v000000")
    assert len(Index.load(tmp_path)) == 20
    small_index().save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "current", "v00000002"]
    assert len(Index.load(tmp_path)) == 20


def test_saving_over_what_another_has_saved_since_is_refused(tmp_path):
    small_index().save(tmp_path)
    first, second = Index.load(tmp_path), Index.load(tmp_path)
    first.add(unit(1, 8, seed=5), ["first"])
    first.save(tmp_path)
    second.add(unit(1, 8, seed=6), ["second"])
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


@every_type
def test_readers_are_never_disturbed_by_a_writer(tmp_path, factory):
    """Each sees one whole version, however often that is replaced while it reads."""
    index = small_index(TYPES[factory], factory=factory)
    index.save(tmp_path)
    seen, wrong, done = set(), [], threading.Event()

    def read(mmap):
        while not done.is_set():
            loaded = Index.load(tmp_path, mmap=mmap)
            more = len(loaded) - TYPES[factory]
            answers = loaded.search(unit(more, 8, seed=9), 1, exact=True).ids if more else []
            if answers != [[f"more {row}"] for row in range(more)]:
                wrong.append(answers)
            seen.add(more)

    readers = [threading.Thread(target=read, args=(number == 0,)) for number in range(2)]
    for reader in readers:
        reader.start()
    for row in range(12):
        index.add(unit(row + 1, 8, seed=9)[row:], [f"more {row}"])
        index.save(tmp_path)
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == [] and len(seen) > 1


@every_type
def test_a_mapped_index_answers_as_the_other_and_cannot_be_changed(tmp_path, factory):
    saved = small_index(TYPES[factory], factory=factory)
    saved.remove([0])
    saved.save(tmp_path / "a")
    index = Index.load(tmp_path / "a", mmap=True)
    saved.add(unit(1, 8, seed=3), ["later"])
    saved.save(tmp_path / "a")  # removes the files that are mapped: they stay until nobody uses them
    asked = unit(9, 8, seed=4)
    whole = small_index(TYPES[factory], factory=factory)
    whole.remove([0])
    for k, where in ((5, None), (7, {"n": (3, 15)})):
        assert index.search(asked, k, where).ids == whole.search(asked, k, where, exact=index.built == "exact").ids
    assert index.search_range(asked, 0.2).ids == whole.search_range(asked, 0.2).ids
    assert index.metadata(["ü 3"]) == whole.metadata(["ü 3"])
    np.testing.assert_array_equal(index.vectors(index.ids), whole.vectors(whole.ids))
    for change in (
        lambda: index.add(unit(1, 8, seed=5), ["x"]),
        lambda: index.remove(["ü 3"]),
        lambda: index.update(unit(1, 8, seed=5), ["ü 3"]),
        lambda: index.merge(small_index(3)),
        index.compact,
    ):
        with pytest.raises(ValueError, match="loaded with mmap=True cannot be changed"):
            change()
    assert len(index.tune(queries=asked)) >= 1  # how it is asked may change
    index.save(tmp_path / "b")
    assert Index.load(tmp_path / "b").ids == whole.ids


@every_type
def test_a_full_disk_leaves_the_old_index(tmp_path, factory):
    small_index().save(tmp_path)
    before = [path.relative_to(tmp_path) for path in files(tmp_path)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    large = small_index(3000, factory=factory)
    large.save(tmp_path / "other")
    sizes = {path.stat().st_size - 1 for path in files(tmp_path / "other") if path.suffix in (".faiss", ".sqlite")}
    shutil.rmtree(tmp_path / "other")
    for size in sizes:  # there is room for all files but one
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            with pytest.raises(OSError):
                large.save(tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(Index.load(tmp_path)) == 20
        assert [path.relative_to(tmp_path) for path in files(tmp_path)] == before


@pytest.fixture
def not_root(tmp_path):
    """Nobody's rights, where the tests run with all; and a folder below which one may read."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        if os.getuid() == 0:
            os.seteuid(0)
        for path in [Path(folder), *Path(folder).rglob("*")]:
            path.chmod(0o755)


@every_type
def test_a_folder_that_cannot_be_written_is_read_and_saving_says_what_to_do(not_root, factory):
    index = small_index(TYPES[factory], factory=factory)
    index.save(not_root / "index")
    before = files(not_root)
    for path in [not_root / "index", *(not_root / "index").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.getuid() == 0:
        os.seteuid(65534)  # nobody
    loaded = Index.load(not_root / "index")
    assert loaded.ids == index.ids
    for one in (loaded, index):
        with pytest.raises(PermissionError, match=r"index must be a folder that can be written: .* another one"):
            one.save(not_root / "index")
    with pytest.raises(PermissionError):
        loaded.save(not_root / "index" / "deeper")
    assert files(not_root) == before
    assert Index.load(not_root / "index", mmap=True).ids == index.ids


KILLED_WHILE_SAVING = """
import os, random, signal, sys, time
import numpy as np
from mm.index import Index

def rows_of(index):
    return [values["row"] for values in index.metadata(index.ids)]

folder, factory = sys.argv[1:]
random.seed(0)
vectors = np.random.default_rng(0).standard_normal((20_000, 16)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
index = Index.build(vectors[:500], range(500), [{"row": row} for row in range(500)], factory=factory)
index.save(folder)
start = time.perf_counter()
index = Index.load(folder)
index.save(folder)
once = time.perf_counter() - start
counts = set()
for attempt in range(25):
    child = os.fork()
    if child == 0:
        index, chance = Index.load(folder), np.random.default_rng(attempt)
        while True:
            if len(index) > 1400:
                index.remove(range(500, len(index)))
            more, free = len(index), np.setdiff1d(np.arange(len(vectors)), rows_of(index))
            new = chance.choice(free, 50, replace=False)
            index.add(vectors[new], range(more, more + 50), [{"row": row} for row in new.tolist()])
            index.save(folder)
    time.sleep(random.uniform(0.5, 3) * once)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    index = Index.load(folder)
    assert index.built == factory
    assert index.ids == list(range(len(index))) and len(index) % 50 == 0, len(index)
    asked = vectors[rows_of(index)]
    assert index.search(asked, 1, exact=True).ids == [[id_] for id_ in range(len(index))]
    found = index.search(asked, 1).ids
    assert sum(one == [id_] for id_, one in enumerate(found)) > 0.9 * len(found)
    counts.add(len(index))
print(len(counts))
"""


@pytest.mark.parametrize("factory", ["HNSW8", "IVF4,PQ4x4fs"])  # 25 kills each
def test_a_kill_at_any_moment_of_saving_leaves_an_index_that_loads(tmp_path, factory):
    command = [sys.executable, "-c", KILLED_WHILE_SAVING, str(tmp_path / "index"), factory]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1  # saves did come through between the kills
