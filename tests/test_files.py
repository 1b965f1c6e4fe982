"""Files that appear whole or not at all."""

import hashlib
import json
import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from mm.files import sha256, write_json, write_text


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
