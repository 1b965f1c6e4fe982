"""An embedded corpus is the same files however often it was killed, and nothing damaged is read."""

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mm.data import corpora
from mm.files import read_sealed, write_sealed
from mm.index import Index, IndexConflictError, IndexDamagedError, corpus, versions
from mm.index.corpus import describe, index_of_corpus, read, write

DIM = 8


class Entry(NamedTuple):
    id: str
    source: str
    meta: dict


class Words:
    """A corpus of strings: "bad ..." cannot be read, "none" has no source, "two:x" has two, the id of "as:x" is x."""

    def __init__(self, names, meta=None, **description):
        self.names, self.meta, self.description = list(names), meta or {}, {"kind": "words", **description}
        self.listings = 0

    def listing(self, modality, fault):
        self.listings += 1
        for name in self.names:
            if name == "damaged":
                fault("shard 7", "it is cut off")
            else:
                yield name, name

    def entries(self, modality, things, fault):
        for name in things:
            if name == "unlisted":
                fault(name, "no word in it")
            elif name.startswith("two:"):
                yield from (Entry(f"{name}#{k}", f"{name}{k}", dict(self.meta)) for k in range(2))
            elif name != "none":
                yield Entry(name.removeprefix("as:"), name, {"letters": len(name), **self.meta})


def vector(source):
    values = np.random.default_rng(list(source.encode())).standard_normal(DIM).astype(np.float32)
    return values / np.linalg.norm(values)


def embed(modality, sources, *, bad):
    found = []
    for row, source in enumerate(sources):
        if source.startswith("bad"):
            bad(row, f"{source} is damaged")
        else:
            found.append(vector(source))
    return np.array(found).reshape(-1, DIM)


NAMES = [f"{n:03}" for n in range(10)] + ["two:u\u2028ü", "none"] + [f"z{n}" for n in range(11)]


def written(folder, names=NAMES, modalities=("text", "image"), **more):
    options = {"dim": DIM, "fingerprint": "f", "run": "runs/x", "size": 4} | more
    return write(folder, names if isinstance(names, Words) else Words(names), embed, modalities, **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_read_is_what_was_embedded(tmp_path):
    manifest = written(tmp_path / "new" / "c")
    parts = list(read(tmp_path / "new" / "c"))
    assert [part.modality for part in parts] == ["text"] * 6 + ["image"] * 6
    assert manifest["counts"] == {"text": 23, "image": 23} and list(manifest["parts"])[6] == "image-00000000"
    expected = [n for n in NAMES if len(n) == 3 or n[0] == "z"]
    expected[10:10] = ["two:u\u2028ü#0", "two:u\u2028ü#1"]
    for modality in ("text", "image"):
        some = [part for part in parts if part.modality == modality]
        assert [id_ for part in some for id_ in part.ids] == [f"{modality}:{name}" for name in expected]
        vectors = np.concatenate([part.vectors for part in some])
        sources = [name.replace("#", "") for name in expected]
        np.testing.assert_array_equal(vectors, [vector(source) for source in sources])
    assert parts[0].metadata == [{"letters": 3, "modality": "text"}] * 4 and parts[0].vectors.dtype == np.float32
    index = index_of_corpus(tmp_path / "new" / "c", factory="exact")
    assert (len(index), index.fingerprint, index.run) == (46, "f", "runs/x")
    assert index.metadata(["image:z10"]) == [{"letters": 3, "modality": "image"}]
    np.testing.assert_array_equal(index.vectors(["text:z3"]), [vector("z3")])


def test_a_second_run_embeds_nothing_and_changes_nothing(tmp_path):
    written(tmp_path / "c")
    before = {name: (tmp_path / "c" / name).stat().st_mtime_ns for name in contents(tmp_path / "c")}

    def refuse(*given, **more):
        raise AssertionError

    write(tmp_path / "c", Words(NAMES), refuse, ["text", "image"], dim=DIM, fingerprint="f", run="runs/x", size=4)
    after = {name: (tmp_path / "c" / name).stat().st_mtime_ns for name in before}
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}


@pytest.mark.parametrize("stop", [1, 5, 11, 17, 40])
def test_what_fails_part_way_goes_on_behind_the_last_whole_part(tmp_path, stop):
    written(tmp_path / "whole")
    calls = itertools.count()

    def failing(modality, sources, *, bad):
        if next(calls) == stop:
            raise RuntimeError("power cut")
        return embed(modality, sources, bad=bad)

    options = {"dim": DIM, "fingerprint": "f", "run": "runs/x", "size": 4}
    if stop < 12:
        with pytest.raises(RuntimeError, match="power cut"):
            write(tmp_path / "c", Words(NAMES), failing, ["text", "image"], **options)
        with pytest.raises(ValueError, match=r"c is not finished: repeat the command"):
            list(read(tmp_path / "c"))
        assert len(list((tmp_path / "c").glob("*.npy"))) == stop
    write(tmp_path / "c", Words(NAMES), failing, ["text", "image"], **options)
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")
    assert next(calls) == 12 + (stop < 12)


# What cannot be read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("bad one", "'bad one' cannot be embedded: bad one is damaged --skip-bad"),
        ("unlisted", "'unlisted' cannot be embedded: no word in it --skip-bad"),
        ("damaged", "'shard 7' cannot be embedded: it is cut off --skip-bad"),
    ],
)
def test_what_cannot_be_read_is_named_or_left_out_and_counted(tmp_path, name, said, caplog):
    names = ["a", "b", name, "d", "bad two", "f"]
    with pytest.raises(ValueError, match=said):
        written(tmp_path / "c", names)
    manifest = written(tmp_path / "c", names, skip_bad=True)
    assert manifest["counts"] == {"text": 4, "image": 4}
    assert [id_ for part in read(tmp_path / "c") for id_ in part.ids][:4] == ["text:a", "text:b", "text:d", "text:f"]
    whole = 4 if name != "damaged" else 3  # a shard is damaged once, whatever is embedded of it
    assert manifest["bad"] == whole and "bad two" in manifest["first_bad"]
    index_of_corpus(tmp_path / "c", factory="exact")
    assert f"{whole} unreadable sources left out of the index: " in caplog.text


@pytest.mark.parametrize(
    ("meta", "said"),
    [
        ({"modality": "sound"}, "metadata 'modality' says what an item is, 'text': got 'sound'"),
        ({"x": float("nan")}, "metadata must be JSON values"),
        ({'"': 1}, "keys of metadata must be printable strings without quotes"),
        ({"x": "\ud800"}, "metadata must be JSON values"),
    ],
)
def test_metadata_that_no_index_takes_is_refused_before_it_is_embedded(tmp_path, meta, said):
    with pytest.raises(ValueError, match=f"'a' cannot be embedded: .*{said}"):
        written(tmp_path / "c", Words(["a"], meta), ["text"])
    assert not list((tmp_path / "c").glob("*.npy"))


def test_nothing_to_embed(tmp_path):
    with pytest.raises(ValueError, match=r"a modality to embed of \{'kind': 'words'\}: got none\. Name it, --modality"):
        written(tmp_path / "c", NAMES, modalities=[])
    assert not (tmp_path / "c").exists()
    with pytest.raises(ValueError, match=r"there must be something to embed: \{'kind': 'words'\} has no text"):
        written(tmp_path / "c", [])
    with pytest.raises(
        ValueError, match="at least one text that can be embedded: got none, 4 unreadable, the first is 'bad'"
    ):
        written(tmp_path / "c", ["bad", "bad too"], skip_bad=True)
    with pytest.raises(ValueError, match="at least one text that can be embedded: got none"):
        written(tmp_path / "d", ["none"])


def test_a_name_that_comes_twice(tmp_path):
    for names in (["a", "b", "b", "c"], ["b", "c", "a", "c"]):
        with pytest.raises(ValueError, match=r"ids of a corpus must be unique: '([bc])' comes twice, \1 and \1"):
            written(tmp_path / "c", names)
    ascending = Words(["a", "a/b", "a.b", "b/a"])  # component by component, as folders are listed
    written(tmp_path / "d", ascending, ["text"])
    assert ascending.listings == 3  # a look, the digest, the vectors: nothing was held to compare


def test_a_corpus_that_changes_while_it_is_embedded(tmp_path):
    growing = Words(NAMES)

    def add(modality, sources, *, bad):
        growing.names = [*NAMES[:2], "0011", *NAMES[2:]]
        return embed(modality, sources, bad=bad)

    with pytest.raises(ValueError, match=r"must not change while it is embedded: it did\. Remove .*c"):
        write(tmp_path / "c", growing, add, ["text", "image"], dim=DIM, fingerprint="f", size=4)
    with pytest.raises(ValueError, match="not finished"):
        list(read(tmp_path / "c"))


def test_vectors_that_are_wrong(tmp_path):
    def double(modality, sources, *, bad):
        return 2 * embed(modality, sources, bad=bad)

    def short(modality, sources, *, bad):
        return embed(modality, sources[:-1], bad=bad)

    for function, said in ((double, "unit length"), (short, "a vector for each source: got 3 for 4 of text")):
        with pytest.raises(ValueError, match=said):
            write(tmp_path / "c", Words(NAMES), function, ["text"], dim=DIM, fingerprint="f", size=4)
    with pytest.raises(ValueError, match="7"):
        write(tmp_path / "e", Words(NAMES), embed, ["text"], dim=7, fingerprint="f", size=4)


# Other corpora in the same folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": "g"}, "fingerprint is 'f' there and 'g' now"),
        ({"run": "runs/y"}, "run is 'runs/x' there and 'runs/y' now"),
        ({"modalities": ("text",)}, r"modalities is \['text', 'image'\] there and \['text'\] now"),
        ({"names": Words(NAMES, split="val")}, "source is .* there and .*'val'.* now"),
        ({"names": [*NAMES, "zz"]}, "listed is .*'count': 23.* there and .*'count': 24.* now"),
        ({"names": [*NAMES[:-1], "z:"]}, "listed is .* there and .* now"),
        ({"settings": {"eval_views": 2}}, r"settings is \{\} there and \{'eval_views': 2\} now"),
        ({"size": 5}, "size is 4 there and 5 now"),
    ],
)
def test_a_folder_of_something_else_is_refused_or_made_anew(tmp_path, change, said):
    written(tmp_path / "c")
    before = contents(tmp_path / "c")
    with pytest.raises(ValueError, match=f"c holds a corpus that was embedded otherwise: {said}.* Name another folder"):
        written(tmp_path / "c", **change)
    assert contents(tmp_path / "c") == before
    (tmp_path / "c" / "mine.txt").write_text("stays")
    written(tmp_path / "c", **change, anew=True)
    written(tmp_path / "fresh", **change)
    assert contents(tmp_path / "c") == contents(tmp_path / "fresh") | {"mine.txt": b"stays"}


def test_the_second_of_two_writers_is_told(tmp_path):
    busy, done = threading.Event(), threading.Event()

    def slow(modality, sources, *, bad):
        busy.set()
        assert done.wait(30)
        return embed(modality, sources, bad=bad)

    options = {"dim": DIM, "fingerprint": "f", "run": "runs/x", "size": 4}
    writer = threading.Thread(
        target=write, args=(tmp_path / "c", Words(NAMES), slow, ["text", "image"]), kwargs=options
    )
    writer.start()
    assert busy.wait(30)
    with pytest.raises(IndexConflictError, match="another process is saving to"):
        written(tmp_path / "c")
    done.set()
    writer.join()
    written(tmp_path / "whole")
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


# Damage -------------------------------------------------------------------------------------------------------------


def test_any_flipped_bit_and_any_cut_is_an_error_that_names_the_file_and_is_put_right(tmp_path):
    written(tmp_path / "c", NAMES[:6], ["text"])
    whole = contents(tmp_path / "c")
    generator = np.random.default_rng(0)
    for name in sorted(set(whole) - {versions.LOCK}):
        path, raw = tmp_path / "c" / name, whole[name]
        damages = [bytes(raw[:length]) for length in (0, 1, len(raw) // 2, len(raw) - 1)]
        for bit in generator.choice(8 * len(raw), 30, replace=False).tolist():
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            damages.append(bytes(flipped))
        for damaged in damages:
            path.write_bytes(damaged)
            with pytest.raises(IndexDamagedError, match=rf"{name} is not what was saved: .*repeat the command"):
                list(read(tmp_path / "c"))
        if name != "manifest.json":
            written(tmp_path / "c", NAMES[:6], ["text"])
            assert contents(tmp_path / "c") == whole
        path.unlink()
        with pytest.raises((IndexDamagedError, FileNotFoundError), match=name):
            list(read(tmp_path / "c"))
        written(tmp_path / "c", NAMES[:6], ["text"])
        assert contents(tmp_path / "c") == whole


def test_files_of_two_corpora_do_not_mix(tmp_path):
    written(tmp_path / "a")
    written(tmp_path / "b", fingerprint="g")
    shutil.copy(tmp_path / "b" / "text-00000001.json", tmp_path / "a")
    with pytest.raises(IndexDamagedError, match=r"text-00000001\.json is not that of this corpus"):
        list(read(tmp_path / "a"))
    written(tmp_path / "a")
    assert sum(len(part.ids) for part in read(tmp_path / "a")) == 46


def test_a_newer_format_and_no_corpus_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must hold an embedded corpus: it has no manifest\.json"):
        list(read(tmp_path))
    written(tmp_path / "c")
    manifest = read_sealed(tmp_path / "c" / "manifest.json")
    write_sealed(tmp_path / "c" / "manifest.json", manifest | {"format": 2})
    for function in (describe, written):
        with pytest.raises(ValueError, match=r"has format 2, this reads up to 1\. Install a newer mm"):
            function(tmp_path / "c")


def test_two_sources_of_one_id_are_refused_by_the_index(tmp_path):
    written(tmp_path / "c", ["two:a", "two:b", "as:two:a#1"], ["text"])
    with pytest.raises(ValueError, match="ids must be unique: 'text:two:a#1'"):
        index_of_corpus(tmp_path / "c", factory="exact")


def test_a_full_disk_keeps_what_is_embedded(tmp_path):
    written(tmp_path / "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # room for no part
    try:
        with pytest.raises(OSError, match="File too large"):
            written(tmp_path / "c")
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        large = Words([*NAMES[:4], "l" * 2000])
        with pytest.raises(
            OSError, match=r"text-00000001 cannot be written: File too large. What is embedded so far stays"
        ):
            written(tmp_path / "d", large, ["text"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(list((tmp_path / "d").glob("*.npy"))) in (1, 2) and (tmp_path / "d" / "text-00000000.json").exists()
    written(tmp_path / "c")
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="file"):
        written(tmp_path / "file" / "c")
    with pytest.raises(FileNotFoundError, match="must be a folder"):
        write(tmp_path / "c", corpora.of_folder(tmp_path / "none"), embed, ["image"], dim=DIM, fingerprint="f")
    assert not (tmp_path / "c").exists()


KILLED = """
import os, random, shutil, signal, sys, time
from pathlib import Path

sys.path.insert(0, sys.argv[2])
from tests.index.test_corpus import NAMES, contents, written
from mm.index.corpus import read

folder, whole = Path(sys.argv[1]) / "c", Path(sys.argv[1]) / "whole"
begun = time.perf_counter()
written(whole, modalities=["text"])
once = time.perf_counter() - begun
random.seed(0)
parts = set()
for attempt in range(50):
    child = os.fork()
    if child == 0:
        written(folder, modalities=["text"])
        os._exit(0)
    time.sleep(random.uniform(0, once))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    parts.add(len(list(folder.glob("*-*[0-9].json"))))
    if attempt % 3 == 2:  # after one, two and three kills
        written(folder, modalities=["text"])
        assert contents(folder) == contents(whole), attempt
        assert sum(len(part.ids) for part in read(folder)) == 23
        shutil.rmtree(folder)
print(len(parts))
"""


def test_a_kill_at_any_moment_ends_with_the_very_same_files(tmp_path):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=root)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 3  # it was killed at different parts


# Several processes --------------------------------------------------------------------------------------------------

TOGETHER = """
import sys
from mm.distributed import barrier, finish, init, rank

sys.path.insert(0, sys.argv[2])
import tests.index.test_corpus as test

made = []
embed = test.embed
test.embed = lambda modality, sources, *, bad: made.append(sources) or embed(modality, sources, bad=bad)
init("cpu")
test.written(sys.argv[1])
assert len(made) == 6, made
try:
    test.written(sys.argv[1], fingerprint="g")
except ValueError as error:  # told to every process
    assert "fingerprint is 'f' there and 'g' now" in str(error)
    print(f"refused {rank()}")
barrier()
finish()
"""


def test_two_processes_share_the_work_and_write_what_one_writes(tmp_path):
    written(tmp_path / "one")
    (tmp_path / "run.py").write_text(TOGETHER)
    root = Path(__file__).parents[2]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(tmp_path / "run.py"), str(tmp_path / "two"), str(root)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "refused 0" in done.stdout and "refused 1" in done.stdout
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


# From files ---------------------------------------------------------------------------------------------------------


def test_the_names_of_a_folder_are_held_directory_by_directory(tmp_path, monkeypatch):
    for number in range(40):
        folder = tmp_path / "f" / f"{number % 4}" / f"{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").touch()
    listed, most = [0], [0]
    scan = os.scandir

    def counted(directory):
        most[0] = max(most[0], len(list(scan(directory))))
        listed[0] += 1
        return scan(directory)

    monkeypatch.setattr(os, "scandir", counted)
    embed_names = lambda modality, sources, *, bad: np.array([vector(source.name) for source in sources])  # noqa: E731
    write(tmp_path / "c", corpora.of_folder(tmp_path / "f"), embed_names, ["image"], dim=DIM, fingerprint="f", size=7)
    parts = list(read(tmp_path / "c"))
    assert [len(part.ids) for part in parts] == [7, 7, 7, 7, 7, 5]
    found = [part.metadata[row]["path"] for part in parts for row in range(len(part.ids))]
    assert found == [str(path) for path in sorted((tmp_path / "f").rglob("*.jpg"))]
    assert most == [10] and json.loads((tmp_path / "c" / "image-00000000.json").read_text())["bad"] == []
    assert Index.build(parts[0].vectors, parts[0].ids).ids[0] == "image:0/0/0.jpg"
    assert corpus.PART == 4096
