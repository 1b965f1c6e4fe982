"""Files that appear whole or not at all."""

import hashlib
import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from mm.files import Member, in_memory, read_sealed, sha256, write_bytes, write_json, write_sealed, write_text


def test_json_takes_arrays_and_paths_and_rejects_the_rest(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "x.json", {"p": tmp_path, "n": np.int64(3), "t": torch.ones(2), "u": "é"})
    assert json.loads((tmp_path / "a" / "x.json").read_text()) == {
        "p": str(tmp_path),
        "n": 3,
        "t": [1.0, 1.0],
        "u": "é",
    }
    with pytest.raises(TypeError, match="JSON takes numbers, text, lists and dicts: got set"):
        write_json(tmp_path / "a" / "x.json", {"s": {1}})
    assert "é" in (tmp_path / "a" / "x.json").read_text()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "x.txt", "old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_text(tmp_path / "x.txt", "new" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "x.txt").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["x.txt"]


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_bytes_and_text_are_written_as_they_are(tmp_path: Path) -> None:
    write_bytes(tmp_path / "new" / "x", b"\r\n\x00\xff")
    write_text(tmp_path / "y", "\r\né\n")
    assert (tmp_path / "new" / "x").read_bytes() == b"\r\n\x00\xff"
    assert (tmp_path / "y").read_bytes() == "\r\né\n".encode()


def test_a_sealed_file_is_believed_to_the_last_byte_only(tmp_path: Path) -> None:
    path, value = tmp_path / "x.json", {"n": 1, "name": "é", "list": [[1.5, None], {"a": "b"}]}
    digest = write_sealed(path, value)
    whole = path.read_bytes()
    assert read_sealed(path) == value and json.loads(whole) == {**value, "sha256": digest}
    assert write_sealed(path, value) == digest and path.read_bytes() == whole
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x\.json is not what was saved"):
            read_sealed(path)
    for content in (b"", whole[:-1], whole + b" ", b"[]", b"{}", b"5", b"[" * 100_000, json.dumps(value).encode()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.json is not what was saved"):
            read_sealed(path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"x\.json"):
        read_sealed(path)


def test_a_member_is_a_stretch_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(b"0123456789")
    assert Member(path, "a", 2, 3).read() == b"234" and str(Member(path, "a/b.jpg", 2, 3)) == f"{path}:a/b.jpg"
    assert in_memory(Member(path, "a", 9, 1)).read() == b"9" == in_memory(b"9").read()
    assert in_memory(path) is path
    for offset, size, said in (
        (8, 3, "cut off after 2 of 3 bytes"),
        (20, 1, "cut off after 0 of 1"),
        (3, 0, "is empty"),
    ):
        with pytest.raises(ValueError, match=said):
            Member(path, "a", offset, size).read()
    with pytest.raises(FileNotFoundError, match="none"):
        Member(tmp_path / "none", "a", 0, 1).read()
