"""Checkpoints: written whole or not at all, believed only if every byte is right."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mm.engine import checkpoint
from mm.engine.checkpoint import CheckpointError

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.5, dtype=torch.bfloat16), "n": torch.tensor(3)}


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """Within it, the system lets no file grow beyond `limit` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save(run: Path, step: int, pointer: checkpoint.Pointer = "last", tensors=None) -> Path:
    documents = {"state.json": {"step": step}, "encoders.json": {"image": {"class": "X"}}}
    tensors = {"model": WEIGHTS} if tensors is None else tensors
    return checkpoint.save(run, pointer, step, tensors=tensors, documents=documents, config="seed: 0\n")


def test_what_is_saved_is_found_and_equal(tmp_path: Path) -> None:
    folder = save(tmp_path, 120)
    assert (tmp_path / "checkpoints" / "last").read_text() == "step-00000120\n"
    assert checkpoint.find(tmp_path, "last") == folder == tmp_path / "checkpoints" / "step-00000120"
    assert checkpoint.find(tmp_path, "best") is None
    manifest = checkpoint.verify(folder)
    assert manifest["step"] == 120
    assert set(manifest["files"]) == {"model.safetensors", "state.json", "encoders.json", "config.yaml"}
    found = checkpoint.read_tensors(folder, "model")
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in WEIGHTS.items())
    assert json.loads((folder / "encoders.json").read_text()) == {"image": {"class": "X"}}


def test_only_the_folders_that_are_pointed_to_stay(tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    save(tmp_path, 10)
    (root / "my-own").mkdir()
    (root / "step-00000005").mkdir()
    (root / ".writing-99").mkdir()
    (root / ".last.99").write_text("")
    save(tmp_path, 10, "best")
    save(tmp_path, 20)
    save(tmp_path, 30)
    assert {file.name for file in root.iterdir()} == {"last", "best", "my-own", "step-00000030", "step-00000010-best"}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    first = save(tmp_path, 10)
    second = save(tmp_path, 10)
    assert second.name == "step-00000010.1"
    assert not first.exists()
    assert checkpoint.find(tmp_path, "last") == second


def test_tied_and_strided_tensors_are_kept_under_every_name(tmp_path: Path) -> None:
    model = nn.Module()
    model.a, model.b = nn.Linear(3, 3), nn.Linear(3, 3)
    model.b.weight = model.a.weight
    memory = torch.arange(12.0)
    values = {**model.state_dict(), "view": memory[3:6], "whole": memory, "turned": memory.reshape(3, 4).T}
    found = load_file(save(tmp_path, 1, tensors={"model": values}) / "model.safetensors")
    assert set(found) == set(values)
    assert all(torch.equal(found[name], value) for name, value in values.items())
    loaded = nn.Module()
    loaded.a, loaded.b = nn.Linear(3, 3), nn.Linear(3, 3)
    loaded.b.weight = loaded.a.weight
    loaded.load_state_dict({name: found[name] for name in model.state_dict()})
    assert torch.equal(loaded.a.weight, model.b.weight)
    assert loaded.a.weight is loaded.b.weight


def damage(folder: Path, how: str) -> None:
    file = folder / "model.safetensors"
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:-3])
    elif how == "one bit":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif how == "missing":
        file.unlink()
    elif how == "no manifest":
        (folder / "manifest.json").unlink()
    elif how == "manifest cut":
        (folder / "manifest.json").write_text('{"mm_version": ')
    elif how == "version":
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "mm_version": "99.1.0"}))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "truncated",
            r"model\.safetensors is damaged: \d+ bytes, \d+ were written.*Put back a good copy of .*another out=",
        ),
        ("one bit", r"model\.safetensors is damaged: .*sha256 differs"),
        ("missing", r"model\.safetensors is missing\. Put back a good copy"),
        ("no manifest", r"manifest\.json is missing or damaged"),
        ("manifest cut", r"manifest\.json is missing or damaged"),
        ("version", r"it was by 99\.1\.0\. Install mm 99\.1\.0 to go on .*init=RUN"),
    ],
)
def test_damage_is_found_and_named(tmp_path: Path, how: str, message: str) -> None:
    folder = save(tmp_path, 3)
    damage(folder, how)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.verify(folder)


@pytest.mark.parametrize("text", ["step-00000099\n", "", "..\n"])
def test_a_pointer_to_nothing_is_an_error(tmp_path: Path, text: str) -> None:
    save(tmp_path, 3)
    (tmp_path / "checkpoints" / "last").write_text(text)
    with pytest.raises(CheckpointError, match=r"last must name a checkpoint beside it.*Put back a good copy"):
        checkpoint.find(tmp_path, "last")


def test_tensors_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    folder = save(tmp_path, 3)
    with pytest.raises(CheckpointError, match=r"ema\.safetensors is missing or damaged"):
        checkpoint.read_tensors(folder, "ema")
    damage(folder, "truncated")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing or damaged"):
        checkpoint.read_tensors(folder, "model")


@pytest.mark.parametrize("large", ["weights", "document", "config"])  # which of them finds no room
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path, large: str) -> None:
    folder = save(tmp_path, 10)
    before = {file: file.read_bytes() for file in folder.iterdir()}
    tensors = {"model": {"a": torch.zeros(10_000 if large == "weights" else 1)}}
    documents = {"vocabulary.json": ["word"] * (10_000 if large == "document" else 1)}
    config = "a: b\n" * (10_000 if large == "config" else 1)
    with full_disk(5_000), pytest.raises(CheckpointError, match=r"step 20 could not be written .*Free disk space"):
        checkpoint.save(tmp_path, "last", 20, tensors=tensors, documents=documents, config=config)
    assert checkpoint.find(tmp_path, "last") == folder
    checkpoint.verify(folder)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before
    assert {file.name for file in (tmp_path / "checkpoints").iterdir()} == {"last", folder.name}
    assert save(tmp_path, 20).name == "step-00000020"


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(CheckpointError, match="step 1 could not be written"):
        save(tmp_path, 1)
