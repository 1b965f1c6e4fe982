"""Every configuration parses and builds, and there is no setting that nothing reads."""

import ast
import functools
import inspect
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
import yaml

from mm import data
from mm.config import AudioConfig, ImageConfig, TextConfig, load, settings
from mm.data import DataConfig
from mm.encoders import AudioEncoder, audio_encoder, image_encoder, text_encoder
from mm.encoders.settings import NOT_THE_ENCODERS
from mm.tasks.retrieval import LossConfig, Objective, PoolConfig, Retrieval, build_model

ROOT = Path(__file__).parents[1]
TASKS = {"retrieval": Retrieval}  # folder of configs/ -> its dataclass
FILES = sorted((ROOT / "configs").rglob("*.y*ml"))
every_config = pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def test_every_task_has_its_configurations() -> None:
    assert {file.parent.name for file in FILES} == set(TASKS)
    for task in TASKS:
        assert (ROOT / "scripts" / f"train_{task}.py").is_file()
        assert {"default.yaml", "tiny.yaml"} <= {file.name for file in FILES if file.parent.name == task}


@every_config
def test_it_parses_and_says_what_it_is(file: Path) -> None:
    cfg = load(TASKS[file.parent.name], ["--config", str(file)])
    assert cfg.data.name in data.READERS
    assert file.read_text(encoding="utf-8").startswith("# ")
    if file.stem not in ("default", "tiny"):
        assert cfg.out == f"runs/{file.stem}"


@every_config
def test_every_line_has_an_effect(file: Path) -> None:
    cfg = load(TASKS[file.parent.name], ["--config", str(file)])
    pools = {getattr(cfg.head.pool, modality) for modality in cfg.modalities}
    needs = {  # {setting: what it takes for it to matter}; what the encoders ignore, they refuse themselves
        **{f"encoder.{m}.": m in cfg.modalities for m in data.MODALITIES},
        **{f"head.pool.{m}": m in cfg.modalities for m in data.MODALITIES},
        "head.heads": "attention" in pools,
        "head.head_dim": "attention" in pools,
        "loss.margin": cfg.loss.name in ("hinge", "hardest", "triplet"),
        "loss.warmup_steps": cfg.loss.name == "hardest",
        "data.views": "image" in cfg.modalities,
        "data.eval_views": "image" in cfg.modalities,
        "data.scenes": cfg.data.name == "synthetic",
        "data.file": cfg.data.name == "table",
        "data.fold": cfg.data.name in ("esc10", "esc50"),
        "data.speaker": cfg.data.name == "spoken_digits",
        "loop.patience": cfg.loop.evaluate_every > 0,
    }
    given = flat(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert [key for key in given for start, matters in needs.items() if key.startswith(start) and not matters] == []


@every_config
def test_it_builds(file: Path) -> None:
    cfg = load(TASKS[file.parent.name], ["--config", str(file)])
    for modality in ("image", "audio"):
        getattr(cfg.encoder, modality).weights = ""  # the files may not be here
    torch.manual_seed(0)
    model = build_model(cfg, ["a dog and a cat"] * 5)
    assert list(model.encoders) == cfg.modalities
    assert model.head.embed_dim == cfg.head.embed_dim


# No setting is idle -------------------------------------------------------------------------------------------------


def groups(cls: type, name: str = "cfg") -> dict[type, set[str]]:
    """{dataclass: names under which the code holds its instances}, for a task and all groups below it."""
    kinds = get_type_hints(cls)
    found: dict[type, set[str]] = {cls: {name}}
    for field in fields(cls):
        if is_dataclass(kinds[field.name]):
            for group, names in groups(kinds[field.name], field.name).items():
                found[group] = found.get(group, set()) | names
    return found


@functools.cache
def reads() -> set[tuple[str, str]]:
    """(last name of the owner, attribute) of every attribute that mm/ and scripts/ read, and of settings["name"]."""
    found = set()
    for file in [*(ROOT / "mm").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value.func if isinstance(node.value, ast.Call) else node.value
                found.add((getattr(owner, "attr", getattr(owner, "id", "")), node.attr))
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                found.add((getattr(node.value, "id", ""), node.slice.value))
    return found


LEAVES = [(group, names, leaf) for group, names in groups(Retrieval).items() for leaf in settings(group)]


@pytest.mark.parametrize(
    ("group", "names", "leaf"),
    [pytest.param(*row, id=f"{row[0].__name__}.{row[2]}") for row in LEAVES if "." not in row[2]],
)
def test_every_field_is_read(group: type, names: set[str], leaf: str) -> None:
    if group is PoolConfig:
        assert leaf in data.MODALITIES  # read as a dict, by modality
        return
    owners = names | {"cfg", "config"}
    if group in (ImageConfig, TextConfig, AudioConfig):
        owners |= {"getattr", "settings"}  # of one modality
        if leaf not in NOT_THE_ENCODERS:
            builders = {
                ImageConfig: [image_encoder],
                TextConfig: [text_encoder],
                AudioConfig: [audio_encoder, AudioEncoder],
            }[group]
            assert any(leaf in inspect.signature(builder).parameters for builder in builders)
            return
    assert reads() & {(owner, leaf) for owner in owners}, f"nothing reads {leaf} of {group.__name__}"


def test_what_an_encoder_does_not_take_is_read_by_the_task() -> None:
    assert set(NOT_THE_ENCODERS) <= {f.name for c in (ImageConfig, TextConfig, AudioConfig) for f in fields(c)}


@pytest.mark.parametrize(
    ("changed", "value"),
    [("name", "hinge"), ("name", "siglip"), ("name", "triplet"), ("margin", 0.5), ("warmup_steps", 3)],
)
def test_settings_of_the_loss_arrive(changed: str, value: Any) -> None:
    objective = Objective(LossConfig(**{"name": "hardest", changed: value}))
    assert getattr(objective.loss, changed) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("head.embed_dim", "48"),
        ("head.heads", "9"),
        ("head.head_dim", "16"),
        ("head.temperature", "0.5"),
        ("head.dropout", "0.25"),
        ("head.pool.image", "vector"),
        ("head.pool.text", "attention"),
        ("head.pool.audio", "vector"),
        ("encoder.image.name", "squeezenet1_1"),
        ("encoder.image.layer", "layer2"),
        ("encoder.image.freeze", "true"),
        ("encoder.image.train_from", "layer2"),
        ("encoder.image.size", "48"),
        ("encoder.text.name", "lstm"),
        ("encoder.text.hidden", "64"),
        ("encoder.text.layers", "2"),
        ("encoder.text.bidirectional", "false"),
        ("encoder.text.pool", "mean"),
        ("encoder.text.min_count", "2"),
        ("encoder.text.max_tokens", "3"),
        ("encoder.text.dropout", "0.5"),
        ("encoder.text.word_dropout", "0.5"),
        ("encoder.text.freeze", "true"),
        ("encoder.audio.name", "resnet"),
        ("encoder.audio.front_end", "mfcc"),
        ("encoder.audio.sample_rate", "8000"),
        ("encoder.audio.window_s", "0.05"),
        ("encoder.audio.hop_s", "0.005"),
        ("encoder.audio.bands", "40"),
        ("encoder.audio.width", "12"),
        ("encoder.audio.spec_augment", "0.3"),
        ("encoder.audio.freeze", "true"),
        ("loss.name", "siglip"),
        ("modalities", "[text, audio]"),
    ],
)
def test_settings_of_the_model_change_the_model(key: str, value: str) -> None:
    tiny = ["--config", str(ROOT / "configs/retrieval/tiny.yaml"), "data.name=table"]
    described = []
    for more in ([], [f"{key}={value}"]):
        torch.manual_seed(0)
        model = build_model(load(Retrieval, [*tiny, *more]), ["a dog and a cat", "a dog"])
        configs = {modality: model.encoder(modality).config for modality in model.encoders}
        shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        trains = [name for name, weight in model.named_parameters() if weight.requires_grad]
        described.append((configs, shapes, trains, str(model), float(model.head.logit_scale.detach())))
    assert described[0] != described[1]


def test_data_settings_that_readers_take() -> None:
    """What `mm.data.READERS` look at: a reader that ignores the settings made for it would be silent."""
    source = inspect.getsource(data) + inspect.getsource(data.item)
    for leaf in ("scenes", "file", "fold", "speaker", "skip_bad", "root"):
        assert leaf in {field.name for field in fields(DataConfig)}
        assert f"cfg.{leaf}" in source
