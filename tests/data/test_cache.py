import logging
import operator
import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mm.data import Cache, DamagedCacheError, cached
from mm.data.cache import data_fingerprint
from mm.data.cache_writer import Writer
from tests.shared import in_a_spawned_process

ROOT = Path(__file__).parents[2]


def grid(sources, view):
    """Rows of one shape: (2, 3, 2), from the text of the source."""
    rows = [torch.arange(12.0).reshape(2, 3, 2) * len(source) + view for source in sources]
    return torch.stack(rows), None


def frames(sources, view):
    """Rows of as many frames as the source has letters."""
    lengths = torch.tensor([len(source) for source in sources])
    values = torch.full((len(sources), int(lengths.max()), 4), 99.0)  # what lies behind a row must not be kept
    for row, source in zip(values, sources, strict=True):
        row[: len(source)] = torch.tensor([[ord(letter) + view] * 4 for letter in source])
    return values, lengths


def names(n):
    return ["x" * (1 + k % 7) + str(k) for k in range(n)]


class Counting:
    def __init__(self, compute):
        self.compute = compute
        self.calls = []

    def __call__(self, sources, view):
        self.calls.append((len(sources), view))
        return self.compute(sources, view)


@pytest.mark.parametrize("compute", [grid, frames])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_every_row_is_what_compute_said(tmp_path, compute, dtype):
    sources = names(11)
    cache = cached(compute, sources, "abc", tmp_path, views=3, dtype=dtype, batch_size=4)
    assert len(cache) == 11 and cache.views == 3
    for k, source in enumerate(sources):
        for view in range(3):
            values, lengths = compute([source], view)
            expected = values[0] if lengths is None else values[0, : lengths[0]]
            assert torch.equal(cache[k, view], expected) and cache[k, view].dtype == torch.float32
            assert torch.equal(cache.row(source, view), expected) and cache.find(source) == k


def test_a_cache_of_more_views_serves_fewer(tmp_path):
    sources, compute = names(5), Counting(grid)
    large = cached(compute, sources, "abc", tmp_path, views=3, batch_size=4)
    asked = len(compute.calls)
    small = cached(compute, sources, "abc", tmp_path, views=2, batch_size=4)
    assert len(compute.calls) == asked and all(torch.equal(small[k, 1], large[k, 1]) for k in range(5))
    larger = cached(compute, sources, "abc", tmp_path, views=4, batch_size=4)
    assert len(compute.calls) > asked and larger.views == 4 and torch.equal(larger[2, 3], grid([sources[2]], 3)[0][0])
    assert cached(compute, sources, "other", tmp_path, views=2, batch_size=4).folder != large.folder


def test_half_precision_rounds_and_single_does_not(tmp_path):
    value = 1.00048828125  # 1 + 2**-11 lies between two float16
    cached_as = {
        dtype: cached(lambda s, v: (torch.full((len(s), 1), value), None), ["a"], "f", tmp_path, dtype=dtype)
        for dtype in ("float16", "float32")
    }
    assert cached_as["float32"][0, 0].item() == value and cached_as["float16"][0, 0].item() == 1.0


def test_rows_of_no_length(tmp_path):
    cache = cached(
        lambda s, v: (torch.ones(len(s), 5, 4), torch.zeros(len(s), dtype=torch.int64)), ["a", "b"], "f", tmp_path
    )
    assert cache[1, 0].shape == (0, 4)


def test_it_is_computed_once(tmp_path):
    first, again = Counting(grid), Counting(grid)
    told = []
    cached(first, names(10), "f", tmp_path, views=2, batch_size=4, progress=lambda *done: told.append(done))
    assert first.calls == [(4, 0), (4, 0), (2, 0), (4, 1), (4, 1), (2, 1)]
    assert told == [(4, 20), (8, 20), (10, 20), (14, 20), (18, 20), (20, 20)]
    cached(again, names(10), "f", tmp_path, views=2, batch_size=4)
    assert again.calls == []


def test_a_changed_fingerprint_is_another_cache(tmp_path):
    picture = tmp_path / "p.jpg"
    picture.write_bytes(b"one")

    def compute(sources, view):
        return torch.tensor([[float(len(source.read_bytes()))] for source in sources]), None

    def count(fingerprint="f", sources=(picture,), **options):
        counting = Counting(compute)
        cached(counting, list(sources), fingerprint, tmp_path / "cache", **options)
        return len(counting.calls)

    assert count() == 1 and count() == 0
    assert count("g") == 1 and count(views=2) == 2 and count(dtype="float32") == 1
    picture.write_bytes(b"four")
    assert count() == 1  # another size
    picture.write_bytes(b"FOUR")
    os.utime(picture, ns=(1, 1))
    assert count() == 1  # another modification time
    stamp = picture.stat()
    moved = picture.rename(tmp_path / "cache" / "p.jpg")
    assert count(sources=[moved]) == 0 and moved.stat().st_mtime_ns == stamp.st_mtime_ns
    assert data_fingerprint(["a", "b"]) != data_fingerprint(["b", "a"]) != data_fingerprint(["ba"])
    arrays = [np.zeros(3), np.zeros(3, np.float32), np.zeros((3, 1)), np.ones(3), torch.ones(3)]
    assert len({data_fingerprint([array]) for array in arrays}) == 5


def only(folder):
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found


@pytest.mark.parametrize(
    "damage", ["rows cut", "rows longer", "index changed", "manifest cut", "manifest gone", "format"]
)
def test_a_damaged_cache_is_computed_again(tmp_path, caplog, damage):
    sources = names(6)
    cached(frames, sources, "f", tmp_path)
    folder = only(tmp_path)
    rows, index, manifest = (folder / name for name in ("rows.bin", "index.bin", "manifest.json"))
    match damage:
        case "rows cut":
            os.truncate(rows, rows.stat().st_size - 2)
        case "rows longer":
            rows.write_bytes(rows.read_bytes() + b"\0\0")
        case "index changed":
            index.write_bytes(index.read_bytes()[:-1] + b"\7")
        case "manifest cut":
            manifest.write_text(manifest.read_text()[:-5])
        case "manifest gone":
            manifest.unlink()
        case "format":
            manifest.write_text(manifest.read_text().replace('"format": 1', '"format": 0'))
    with pytest.raises(DamagedCacheError, match=str(folder)):
        Cache(folder, sources)
    counting = Counting(frames)
    with caplog.at_level(logging.WARNING):
        cache = cached(counting, sources, "f", tmp_path)
    assert counting.calls == [(6, 0)] and "is damaged and is computed again" in caplog.text
    assert torch.equal(cache[5, 0], frames(sources[5:], 0)[0][0])


def test_a_changed_byte_is_found_when_its_row_is_read(tmp_path):
    sources = names(6)
    cached(grid, sources, "f", tmp_path)
    rows = only(tmp_path) / "rows.bin"
    content = bytearray(rows.read_bytes())
    content[3 * 24 + 5] ^= 1  # a row is 12 numbers of 2 bytes
    rows.write_bytes(content)
    cache = cached(grid, sources, "f", tmp_path)
    assert torch.equal(cache[2, 0], grid(sources[2:3], 0)[0][0])
    with pytest.raises(
        DamagedCacheError, match=r"row 3 \(view 0\) of the cache .* has changed on disk. Delete the folder"
    ):
        cache[3, 0]


def script(body):
    """A process that makes a cache of 40 sources; it may be killed at any moment."""
    common = f"""
        import sys, time, torch
        sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
        from mm.data import cached
        from test_cache import frames, names
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(common) + textwrap.dedent(body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SLOW = """
    def slow(sources, view):
        time.sleep(0.05)
        print("batch", flush=True)
        return frames(sources, view)
    cached(slow, names(40), "f", sys.argv[1] if len(sys.argv) > 1 else FOLDER, views=2, batch_size=4)
"""


def test_kill_at_random_moments_then_go_on(tmp_path):
    whole = tmp_path / "whole"
    cached(frames, names(40), "f", whole, views=2, batch_size=4)
    folder = tmp_path / "killed"
    for batches in (1, 3, 2):
        process = script(SLOW.replace("FOLDER", repr(str(folder))))
        for _ in range(batches):
            assert process.stdout.readline() == "batch\n"
        time.sleep(0.02 * batches)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert only(folder).suffix == ".part" and not (only(folder) / "manifest.json").exists()
    counting = Counting(frames)
    cache = cached(counting, names(40), "f", folder, views=2, batch_size=4)
    assert 0 < len(counting.calls) < 20  # six batches or so were there already
    assert (only(folder) / "rows.bin").read_bytes() == (only(whole) / "rows.bin").read_bytes()
    assert (only(folder) / "index.bin").read_bytes() == (only(whole) / "index.bin").read_bytes()
    assert len(cache) == 40


@pytest.mark.parametrize("damage", ["half a row", "half an index", "changed row", "no rows", "other batches", "layout"])
def test_what_a_killed_process_left_is_checked_before_it_is_used(tmp_path, damage):
    def stops(sources, view):
        if len(counting.calls) == 5:
            raise KeyboardInterrupt
        return frames(sources, view)

    counting = Counting(stops)
    with pytest.raises(KeyboardInterrupt):
        cached(counting, names(20), "f", tmp_path, batch_size=3)
    part = only(tmp_path)
    rows, index = part / "rows.bin", part / "index.bin"
    batch_size, there = 3, 4
    match damage:
        case "half a row":
            os.truncate(rows, rows.stat().st_size - 3)
            there = 3
        case "half an index":
            os.truncate(index, index.stat().st_size - 30)
            there = 3
        case "changed row":
            rows.write_bytes(b"\1" + rows.read_bytes()[1:])
            there = 0
        case "no rows":
            rows.unlink()
            there = 0
        case "other batches":
            batch_size, there = 4, 0
        case "layout":
            (part / "layout.json").write_text("{")
            there = 0
    again = Counting(frames)
    cache = cached(again, names(20), "f", tmp_path, batch_size=batch_size)
    assert len(again.calls) == -(-20 // batch_size) - there
    for k, name in enumerate(names(20)):
        assert torch.equal(cache[k, 0], frames([name], 0)[0][0])


def test_a_second_process_waits_and_finds_it_done(tmp_path):
    first = script(SLOW.replace("FOLDER", repr(str(tmp_path))))
    assert first.stdout.readline() == "batch\n"
    counting = Counting(frames)
    cache = cached(counting, names(40), "f", tmp_path, views=2, batch_size=4)
    out, err = first.communicate()
    assert first.returncode == 0, err
    assert counting.calls == [] and out.count("batch") == 19 and len(cache) == 40


def test_a_full_disk_is_an_error_and_nothing_is_lost(tmp_path):
    folder = tmp_path / "cache"
    limited = SLOW.replace("FOLDER", repr(str(folder))).replace("time.sleep(0.05)", "pass")
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, {resource.RLIM_INFINITY}))\n"
    process = script(textwrap.dedent(limited).replace("def slow", limit + "def slow", 1))
    _, err = process.communicate()
    assert process.returncode == 1 and "cannot be written: File too large. Make room or name another folder" in err
    counting = Counting(frames)
    cache = cached(counting, names(40), "f", folder, views=2, batch_size=4)
    assert 0 < len(counting.calls) < 20 and torch.equal(cache[39, 1], frames(names(40)[39:], 1)[0][0])


def test_no_room_is_seen_at_the_first_batch(tmp_path):
    usage = os.statvfs(tmp_path)
    rows = usage.f_bavail * usage.f_frsize // 8 + 10**6  # of 4 numbers of 2 bytes each
    with Writer(tmp_path / "x.part", rows, 1, np.dtype("float16"), 2) as writer:  # noqa: SIM117
        with pytest.raises(OSError, match=r"cannot be written: .* MB are needed, .* MB are free. Make room"):
            writer.write(["a", "b"], torch.ones(2, 4), None)


def test_a_cache_goes_to_loading_processes(tmp_path):
    sources = names(5)
    cache = cached(grid, sources, "f", tmp_path)
    assert len(pickle.dumps(cache)) < 2000
    assert torch.equal(in_a_spawned_process(operator.getitem, cache, (4, 0)), cache[4, 0])


def test_an_error_in_compute_is_passed_on_as_it_is(tmp_path):
    def missing(sources, view):
        raise FileNotFoundError("x.jpg")

    with pytest.raises(FileNotFoundError, match=r"^x\.jpg$"):
        cached(missing, ["a"], "f", tmp_path)


@pytest.mark.parametrize(
    ("values", "lengths", "message"),
    [
        (torch.ones(2, 3), None, r"one row of at least one axis per source: got \(2, 3\) for 3 sources"),
        (torch.ones(3), None, r"got \(3,\) for 3 sources"),
        (torch.ones(3, 2, 5), torch.tensor([2, 3, 1]), r"one per source, in 0\.\.2: got \[2, 3, 1\]"),
        (torch.ones(3, 2, 5), torch.tensor([2, 1]), r"one per source, in 0\.\.2: got \[2, 1\]"),
        (torch.full((3, 2), float("nan")), None, "not finite in float16 for text a"),
        (torch.tensor([[1.0], [7e4], [1.0]]), None, "not finite in float16 for text bb.*need dtype='float32'"),
    ],
)
def test_rejected_rows(tmp_path, values, lengths, message):
    with pytest.raises(ValueError, match=message):
        cached(lambda sources, view: (values, lengths), ["a", "bb", "ccc"], "f", tmp_path)


def test_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"must end in one shape: got \[2\] after \[1\]"):
        cached(lambda s, v: (torch.ones(1, 3, len(s[0])), None), ["a", "bb"], "f", tmp_path, batch_size=1)
    with pytest.raises(ValueError, match="got 0, 1 and 64"):
        cached(grid, [], "f", tmp_path)
    with pytest.raises(ValueError, match="got 1, 0 and 64"):
        cached(grid, ["a"], "f", tmp_path, views=0)
    with pytest.raises(ValueError, match="dtype must be 'float16', 'float32' or 'uint8': got 'int8'"):
        cached(grid, ["a"], "f", tmp_path, dtype="int8")
    with pytest.raises(ValueError, match=r"every source must be there once: use mm\.data\.gallery\.unique"):
        cached(grid, ["a", "a"], "f", tmp_path)
    cache = cached(grid, ["a"], "f", tmp_path)
    for key in ((1, 0), (-1, 0), (0, 1)):
        with pytest.raises(IndexError, match=r"index must be in 0\.\.0 and view in 0\.\.0"):
            cache[key]
    with pytest.raises(KeyError, match="text b is not in the cache"):
        cache.find("b")
