import hashlib
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mm import __version__, encoders
from mm.encoders import AudioEncoder, ImageEncoder, TextEncoder, build, describe, find, load

WORDS = ["a", "red", "dog"]


@pytest.fixture(scope="module")
def towers():
    torch.manual_seed(0)
    return {
        "image": ImageEncoder("small_cnn", size=32, train_from="layer3"),
        "text": TextEncoder(WORDS, word_dim=8, hidden=8),
        "audio": AudioEncoder(width=4),
    }


def write_checkpoint(folder, towers, head: float = 0.0):
    folder.mkdir(parents=True)
    model = nn.ModuleDict({"encoders": nn.ModuleDict(towers), "head": nn.Linear(2, 2)})
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "encoders.json").write_text(json.dumps(describe(towers)))
    (folder / "config.yaml").write_text("seed: 0\n")


@pytest.fixture
def run(tmp_path, towers):
    write_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000120", towers)
    (tmp_path / "run" / "checkpoints" / "best").write_text("step-00000120\n")
    return tmp_path / "run"


def test_describe_and_build_are_inverse(towers):
    description = json.loads(json.dumps(describe(towers)))
    assert description["text"]["class"] == "TextEncoder" and description["text"]["config"]["words"] == WORDS
    for modality, one in description.items():
        encoder = build(one)
        assert type(encoder) is type(towers[modality]) and encoder.config == towers[modality].config
        encoder.load_state_dict(towers[modality].state_dict())
        assert encoder.fingerprint() == towers[modality].fingerprint()


@pytest.mark.parametrize("where", ["", "checkpoints/best", "checkpoints/step-00000120"])
def test_load_from_a_run(run, towers, where):
    loaded = load(run / where)
    assert list(loaded) == ["image", "text", "audio"]
    for modality, encoder in loaded.items():
        assert encoder.fingerprint() == towers[modality].fingerprint() and not encoder.training
        assert load(str(run / where), modality).fingerprint() == encoder.fingerprint()
    one, other = loaded["text"].encode(["a red dog"]), towers["text"].encode(["a red dog"])
    assert torch.equal(one.vector, other.vector)
    assert find(run / where) == run / "checkpoints" / "step-00000120"


def test_best_comes_before_last(run, towers):
    other = towers | {"text": TextEncoder(["cat"], word_dim=8, hidden=8)}
    write_checkpoint(run / "checkpoints" / "step-00000200", other)
    (run / "checkpoints" / "last").write_text("step-00000200")
    assert load(run, "text").vocabulary.words == WORDS
    assert load(run / "checkpoints" / "last", "text").vocabulary.words == ["cat"]
    (run / "checkpoints" / "best").unlink()
    assert load(run, "text").vocabulary.words == ["cat"]


@pytest.mark.parametrize("modality", ["image", "text", "audio"])
def test_load_what_save_pretrained_wrote(tmp_path, towers, modality):
    towers[modality].save_pretrained(tmp_path / "saved")
    assert load(tmp_path / "saved", modality).fingerprint() == towers[modality].fingerprint()
    assert list(load(tmp_path / "saved")) == [modality]
    with pytest.raises(ValueError, match=rf"unknown modality of .*saved 'video'\. Choose from: {modality}"):
        load(tmp_path / "saved", "video")


def test_what_is_not_there_is_named(run, tmp_path):
    with pytest.raises(ValueError, match=r"unknown modality of .* 'texts'\. Choose from: image, text, audio.*'text'"):
        load(run, "texts")
    with pytest.raises(FileNotFoundError, match=r"nowhere must be a run folder \(checkpoints/best.*no such path"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"save_pretrained \(model\.safetensors and config\.json\): none of these"
    ):
        load(tmp_path / "empty")
    for pointer in ("step-00000999", ""):
        (run / "checkpoints" / "best").write_text(pointer)
        with pytest.raises(FileNotFoundError, match=r"best must name a checkpoint: .* not found in"):
            load(run)


def test_damaged_checkpoints(run):
    folder = run / "checkpoints" / "step-00000120"
    whole = (folder / "encoders.json").read_text()
    for content, message in (
        ("{", "must be JSON"),
        ("[]", "must hold a JSON object"),
        (whole.replace("TextEncoder", "TextEncoda"), "unknown encoder class 'TextEncoda'.*Did you mean 'TextEncoder'"),
        (
            whole.replace('"hidden"', '"hiden"'),
            "TextEncoder cannot be built: .*hiden.* Was it saved by another version",
        ),
        ('{"text": {"kind": "gru"}}', r'must be described by "class" and "config": got \[\'kind\'\]'),
    ):
        (folder / "encoders.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            load(run)
    (folder / "encoders.json").write_text(whole)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged: .*Take another checkpoint"):
        load(run)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "encoders.json").write_text(whole.replace('"hidden": 8', '"hidden": 16'))
    with pytest.raises(ValueError, match=r"must have the shape .* got .*Build TextEncoder with the settings"):
        load(run, "text")
    assert load(run, "image").size == 32


@pytest.mark.parametrize("name", ["captioner.json", "encoders.json", "config.yaml", "model.safetensors"])
def test_every_file_of_a_manifest_must_be_as_it_was_written(run, name):
    folder = run / "checkpoints" / "step-00000120"
    (folder / "captioner.json").write_text('{"words": ["a"]}')  # what a task keeps beside the encoders
    (folder / "optimiser.safetensors").write_bytes(b"memory")
    sums = {file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} for file in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"mm_version": __version__, "files": sums}))
    (folder / "optimiser.safetensors").unlink()  # not read here, and checked where a run goes on
    assert list(load(run)) == ["image", "text", "audio"]
    whole = (folder / name).read_bytes()
    for damaged in (whole[:-1], whole[::-1], whole + b" ", b""):
        (folder / name).write_bytes(damaged)
        for read in (load, lambda run: load(run, "text"), lambda run: encoders.verify(find(run))):
            with pytest.raises(ValueError, match=rf"{name} is damaged or gone: its sha256 is not the one in manifest"):
                read(run)
    (folder / name).write_bytes(whole)
    assert load(run, "text").vocabulary.words == WORDS
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is damaged or gone"):
        encoders.verify(folder)


def test_names_stand_on_one_page_and_the_import_is_light():
    assert all(hasattr(encoders, name) for name in encoders.__all__)
    code = "import mm.encoders, sys; print([m for m in ('torchvision', 'transformers', 'librosa') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
