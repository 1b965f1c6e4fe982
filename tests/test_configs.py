"""Every configuration parses and builds, and there is no setting that nothing reads."""

import ast
import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
import yaml

from mm import data
from mm.checks import values
from mm.config import AudioConfig, EncodersConfig, ImageConfig, TextConfig, load, settings
from mm.data import AskedScenes, DataConfig, Item, Items, Question
from mm.encoders import AudioEncoder, audio_encoder, image_encoder, rates, text_encoder
from mm.encoders.settings import NOT_THE_ENCODERS
from mm.encoders.spectrogram import SpectrogramConfig, SpectrogramEncoder
from mm.encoders.video import VideoConfig, VideoEncoder
from mm.heads.answerer import AnswererConfig
from mm.tasks import (
    captioning,
    captioning_data,
    captioning_scores,
    distillation,
    localisation,
    retrieval,
    separation,
    vqa,
    vqa_data,
    words,
)
from mm.tasks.captioning import CaptionerConfig, Captioning
from mm.tasks.captioning_model import CaptionModel, DecodingConfig
from mm.tasks.distillation import Distillation
from mm.tasks.localisation import Localisation
from mm.tasks.retrieval import LossConfig, Objective, PoolConfig, Retrieval, build_model
from mm.tasks.separation import Separation
from mm.tasks.vqa import VQA
from mm.tasks.words import SkipGram, Words
from mm.vocabulary import END, Vocabulary

ROOT = Path(__file__).parents[1]


def asked(texts: list[str]) -> list[Question]:
    return [Question(str(number), text, ("yes",) * 10) for number, text in enumerate(texts * 2)]


class Taught(NamedTuple):
    """The encoders of teacher and student, each a model of its own."""

    encoders: dict[str, Any]
    classes: list[list[str]]


def teacher_and_student(cfg: Distillation, texts: list[str]) -> Taught:
    both = [distillation.build_model(each, texts) for each in (distillation.teacher_settings(cfg), cfg)]
    return Taught({model.modality: model.encoder for model in both}, [model.classes for model in both])


class NoEncoders(NamedTuple):
    """Word vectors: a model of its own."""

    encoders: dict[str, Any]
    model: SkipGram


def word_vectors(cfg: Words, texts: list[str]) -> NoEncoders:
    found = Vocabulary.build(texts, cfg.min_count).words
    return NoEncoders({}, SkipGram(found, [len(texts)] * len(found), cfg.dim))


class Task(NamedTuple):
    """What the tests of all configurations need to know of a task."""

    config: type  # its dataclass
    build: Callable[[Any, list[str]], Any]  # its model
    modalities: Callable[[Any], list[str]]  # that have an encoder
    prefix: str  # of the run folders that its configurations name


TASKS = {  # folder of configs/ -> the task
    "retrieval": Task(
        Retrieval, lambda cfg, texts: build_model(cfg, texts, ["a class"]), lambda cfg: cfg.modalities, ""
    ),
    "captioning": Task(Captioning, captioning.build_model, lambda cfg: [cfg.modality], "captioning_"),
    "vqa": Task(
        VQA, lambda cfg, texts: vqa.build_model(cfg, asked(texts)), lambda cfg: [*cfg.modalities, "text"], "vqa_"
    ),
    "localisation": Task(
        Localisation, lambda cfg, texts: localisation.build_model(cfg), lambda cfg: ["image", "audio"], "localisation_"
    ),
    "separation": Task(
        Separation, lambda cfg, texts: separation.build_model(cfg), lambda cfg: ["audio", "video"], "separation_"
    ),
    "distillation": Task(Distillation, teacher_and_student, lambda cfg: ["image", "audio"], "distillation_"),
    "words": Task(Words, word_vectors, lambda cfg: [], "words_"),
}
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
    task = TASKS[file.parent.name]
    cfg = load(task.config, ["--config", str(file)])
    assert cfg.data.name in {**data.READERS, **data.ASKED, **data.LOCALISED, **data.TALKS}
    assert file.read_text(encoding="utf-8").startswith("# ")
    if file.stem not in ("default", "tiny"):
        assert cfg.out == f"runs/{task.prefix}{file.stem}"


def test_no_two_configurations_share_a_run_folder() -> None:
    outs = [load(TASKS[file.parent.name].config, ["--config", str(file)]).out for file in FILES]
    assert len(set(outs)) == len(outs)


@every_config
def test_every_line_has_an_effect(file: Path) -> None:
    task = TASKS[file.parent.name]
    cfg = load(task.config, ["--config", str(file)])
    modalities = task.modalities(cfg)
    needs = {  # {setting: what it takes for it to matter}; what the encoders ignore, they refuse themselves
        **{f"encoder.{m}.": m in modalities for m in data.MODALITIES},
        "data.views": "image" in modalities,
        "data.scenes": cfg.data.name in ("synthetic", "digit_mosaics", "esc10_mosaics"),
        "data.file": cfg.data.name == "table",
        "data.sets": cfg.data.name == "mixed",
        "data.fold": bool({cfg.data.name, *cfg.data.sets} & {"esc10", "esc50", "esc10_mosaics"}),
        "data.speaker": bool({cfg.data.name, *cfg.data.sets} & {"spoken_digits", "digit_mosaics"}),
        "loop.patience": cfg.loop.evaluate_every > 0,
        **NEEDS[type(cfg)](cfg),
    }
    given = flat(yaml.safe_load(file.read_text(encoding="utf-8")))
    assert [key for key in given for start, matters in needs.items() if key.startswith(start) and not matters] == []


def needs_of_retrieval(cfg: Retrieval) -> dict[str, bool]:
    pools = {getattr(cfg.head.pool, modality) for modality in cfg.modalities}
    return {
        **{f"head.pool.{m}": m in cfg.modalities for m in data.MODALITIES},
        "head.heads": "attention" in pools,
        "head.head_dim": "attention" in pools,
        **dict.fromkeys(retrieval.idle(cfg), False),
        "data.eval_views": "image" in cfg.modalities,
    }


def needs_of_captioning(cfg: Captioning) -> dict[str, bool]:
    """What training refuses in a value of its own is refused here in any value."""
    starts = {"min_count": not cfg.init, f"encoder.{cfg.modality}.weights": not cfg.init}  # init brings both
    return dict.fromkeys(captioning.idle(cfg), False) | starts


def needs_of_vqa(cfg: VQA) -> dict[str, bool]:
    return dict.fromkeys(vqa.idle(cfg, cfg.head.attention.partition(":")[0]), False)


def needs_of_distillation(cfg: Distillation) -> dict[str, bool]:
    return dict.fromkeys(distillation.idle(cfg), False)


def needs_of_localisation(cfg: Localisation) -> dict[str, bool]:
    return dict.fromkeys(localisation.idle(cfg), False)


def needs_of_separation(cfg: Separation) -> dict[str, bool]:
    return dict.fromkeys(separation.idle(cfg), False)


def needs_of_words(cfg: Words) -> dict[str, bool]:
    return dict.fromkeys(words.idle(cfg), False)


NEEDS = {
    Retrieval: needs_of_retrieval,
    Captioning: needs_of_captioning,
    VQA: needs_of_vqa,
    Distillation: needs_of_distillation,
    Localisation: needs_of_localisation,
    Separation: needs_of_separation,
    Words: needs_of_words,
}


@every_config
def test_it_builds(file: Path) -> None:
    task = TASKS[file.parent.name]
    cfg = load(task.config, ["--config", str(file)])
    for encoder in vars(getattr(cfg, "encoder", EncodersConfig())).values():
        for name in {"weights", "init"} & set(vars(encoder)):
            setattr(encoder, name, "")  # the files and runs may not be here
    if isinstance(cfg, Captioning):
        cfg.init = ""  # nor the run
    torch.manual_seed(0)
    model = task.build(cfg, ["a dog and a cat"] * 5)
    assert list(model.encoders) == task.modalities(cfg)
    if isinstance(cfg, Retrieval):
        assert model.head.embed_dim == cfg.head.embed_dim
    elif isinstance(cfg, VQA):
        assert model.head.answers == ["yes"]
        assert model.cached == {m for m in cfg.modalities if getattr(cfg.encoder, m).cache}
        assert (model.head.attention is None) == (cfg.head.attention == "none" or not cfg.modalities)
    elif isinstance(cfg, Localisation):
        assert model.head.log_scale.requires_grad == (cfg.head.temperature == 0)
        assert model.cached == {m for m in model.encoders if getattr(cfg.encoder, m).cache}
    elif isinstance(cfg, Separation):
        assert model.head.mask == cfg.head.mask
        assert (model.head.queries is None) == cfg.faces
    elif isinstance(cfg, Distillation):
        assert model.classes == [["a dog and a cat"] * 5] * 2
    elif isinstance(cfg, Words):
        assert model.model.words == ["a", "and", "cat", "dog"]
        assert model.model.centre.weight.shape == (4, cfg.dim)
    else:
        assert model.head.vocabulary.words == ["a", "and", "cat", "dog"]
        assert type(model.head.decoder).__name__.lower() == f"{cfg.head.decoder}decoder"
        assert model.cached == getattr(cfg.encoder, cfg.modality).cache


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
def reads(task: str) -> set[tuple[str, str]]:
    """(last name of the owner, attribute) of every attribute that mm/ and scripts/ read, and of settings["name"].

    What is only for other tasks does not count.
    """
    found = set()
    for file in [*(ROOT / "mm").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]:
        if any(file.stem.removeprefix("train_").split("_")[0] == other for other in TASKS if other != task):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                owner = node.value.func if isinstance(node.value, ast.Call) else node.value
                found.add((getattr(owner, "attr", getattr(owner, "id", "")), node.attr))
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                found.add((getattr(node.value, "id", ""), node.slice.value))
    return found


OF_THE_CAPTIONER = [  # (what must be set too, key, another value than that of the tiny configuration)
    ("", "modality", "audio"),
    ("head.word_dim=256", "head.decoder", "transformer"),
    ("", "head.attention", "none"),
    ("", "head.attention", "hard"),
    ("", "head.ask", "state"),
    ("", "head.gate", "none"),
    ("", "head.gate", "vector"),
    ("", "head.deep_output", "false"),
    ("", "head.see_dim", "8"),
    ("", "head.positions", "false"),
    ("", "head.word_dim", "24"),
    ("", "head.hidden", "40"),
    ("", "head.dropout", "0.25"),
    ("head.attention=hard", "head.hard_test", "expected"),
    ("head.attention=hard", "head.hard_expected", "0"),
    ("head.decoder=transformer head.word_dim=256", "head.blocks", "1"),
    ("head.decoder=transformer head.word_dim=256", "head.heads", "4"),
    ("", "min_count", "2"),
    ("", "encoder.image.name", "squeezenet1_1"),
    ("", "encoder.image.layer", "layer2"),
    ("", "encoder.image.freeze", "true"),
    ("", "encoder.image.train_from", "layer2"),
    ("", "encoder.image.size", "48"),
    ("modality=audio", "encoder.audio.name", "resnet"),
    ("modality=audio", "encoder.audio.front_end", "mfcc"),
    ("modality=audio data.name=table", "encoder.audio.sample_rate", "8000"),
    ("modality=audio", "encoder.audio.window_s", "0.05"),
    ("modality=audio", "encoder.audio.hop_s", "0.005"),
    ("modality=audio", "encoder.audio.bands", "40"),
    ("modality=audio", "encoder.audio.width", "12"),
    ("modality=audio", "encoder.audio.spec_augment", "0.3"),
    ("modality=audio", "encoder.audio.freeze", "true"),
]
OF_THE_ANSWERER = [  # the same of a model that answers
    ("", "modalities", "[image]"),
    ("", "modalities", "[]"),
    ("", "answers", "1"),
    ("", "min_count", "2"),
    ("", "head.dim", "64"),
    ("", "head.attention", "san:2"),
    ("head.attention=san:2", "head.attention", "san:3"),
    ("", "head.fusion", "concat"),
    ("", "head.positions", "false"),
    ("", "head.hidden", "40"),
    ("", "head.hidden", "0"),
    ("", "head.dropout", "0.5"),
    ("", "encoder.text.name", "lstm"),
    ("", "encoder.text.word_dim", "24"),
]
OF_THE_DECODING: list[tuple[int, str, Callable]] = [  # (how gladly sentences end, setting, what then holds)
    (5, "decoding.beam=1", lambda words: True),
    (5, "decoding.length=none", lambda words: True),
    (5, "decoding.min_length=7", lambda words: len(words) >= 7),
    (-5, "decoding.max_length=4", lambda words: len(words) <= 4),
    (-5, "decoding.no_repeat=1", lambda words: len(set(words)) == len(words)),
]
LEAVES = [
    (task, group, names, leaf)
    for task in TASKS
    for group, names in groups(TASKS[task].config).items()
    for leaf in settings(group)
]


@pytest.mark.parametrize(
    ("task", "group", "names", "leaf"),
    [pytest.param(*row, id=f"{row[0]}.{row[1].__name__}.{row[3]}") for row in LEAVES if "." not in row[3]],
)
def test_every_field_is_read(task: str, group: type, names: set[str], leaf: str) -> None:
    if group in (CaptionerConfig, DecodingConfig):  # given on as they are
        tried = {key for _, key, _ in OF_THE_CAPTIONER} | {key.partition("=")[0] for _, key, _ in OF_THE_DECODING}
        assert f"{next(iter(names))}.{leaf}" in tried  # a test below shows what it changes
        return
    if group is AnswererConfig:
        assert f"head.{leaf}" in {key for _, key, _ in OF_THE_ANSWERER}
        return
    refused = {
        "captioning": captioning.idle(Captioning()),
        "vqa": vqa.idle(VQA(), "topdown"),
        "distillation": distillation.idle(Distillation()),
        "localisation": localisation.idle(Localisation(data=DataConfig(name="table"))),
        "separation": separation.idle(Separation()),
        "words": words.idle(Words()),
        "retrieval": [],
    }[task]
    if group in (DataConfig, TextConfig) and f"{next(iter(names))}.{leaf}" in [
        key.removeprefix("encoder.") for key in refused
    ]:
        return  # it is refused, see below
    if group is PoolConfig:
        assert leaf in data.MODALITIES  # read as a dict, by modality
        return
    owners = names | {"cfg", "config"}
    if group in (VideoConfig, SpectrogramConfig):
        if leaf not in NOT_THE_ENCODERS:
            encoder = VideoEncoder if group is VideoConfig else SpectrogramEncoder
            assert leaf in inspect.signature(encoder).parameters
            return
        owners |= {"getattr"}  # of one modality
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
    assert reads(task) & {(owner, leaf) for owner in owners}, f"nothing reads {leaf} of {group.__name__}"


def test_what_an_encoder_does_not_take_is_read_by_the_task() -> None:
    assert set(NOT_THE_ENCODERS) <= {f.name for c in (ImageConfig, TextConfig, AudioConfig) for f in fields(c)}


@pytest.mark.parametrize(
    ("leaf", "value"), [("eval_views", 2), ("eval_folds", 5), ("eval_subset", 5), ("complete", True)]
)
def test_what_captioning_does_not_read_of_the_data_it_refuses(leaf: str, value: Any) -> None:
    assert not reads("captioning") & {(owner, leaf) for owner in ("cfg", "data")}
    given = Captioning()
    captioning.check(given)
    setattr(given.data, leaf, value)
    with pytest.raises(ValueError, match=rf"data\.{leaf}={value} has no effect here: leave out, or give data\.{leaf}="):
        captioning.check(given)


@pytest.mark.parametrize(
    ("changed", "value"),
    [("name", "hinge"), ("name", "siglip"), ("name", "triplet"), ("margin", 0.5), ("warmup_steps", 3)],
)
def test_settings_of_the_loss_arrive(changed: str, value: Any) -> None:
    objective = Objective(LossConfig(**{"name": "hardest", changed: value}))
    assert getattr(objective.loss.cfg, changed) == value


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


def captioner(*words: str) -> tuple[CaptionModel, Captioning]:
    """A small captioner of random weights, the same for the same settings, in training mode."""
    tiny = ["--config", str(ROOT / "configs/captioning/tiny.yaml"), "data.name=table", "data.batch_size=4"]
    small = "encoder.audio.width=4" if "modality=audio" in words else "encoder.image.size=32"
    cfg = load(Captioning, [*tiny, small, *words])
    torch.manual_seed(0)
    return captioning.build_model(cfg, data.sentences(some_items())).train(), cfg


@functools.cache
def some_items() -> Items:
    generator = np.random.default_rng(0)
    texts = [("a dog", "the dog and a cat"), ("two cats", "a dog"), ("a bird", "the bird sings"), ("a cat", "cats")]
    return Items(
        Item(
            str(number),
            str(number),
            (generator.integers(0, 256, (32, 32, 3), dtype=np.uint8),),
            text,
            (generator.normal(0, 0.1, 1600).astype(np.float32),),
        )
        for number, text in enumerate(texts)
    )


def batch_of(model: CaptionModel, cfg: Captioning) -> dict:
    return next(captioning_data.training_batches(model, some_items(), cfg)(0))


@pytest.mark.parametrize(("beside", "key", "value"), OF_THE_CAPTIONER)
def test_settings_of_the_captioner_change_what_it_says_or_learns(beside: str, key: str, value: str) -> None:
    """What it holds, what of it trains, or what it says of the same sentences."""
    described = []
    for more in ([], [f"{key}={value}"]):
        model, cfg = captioner(*beside.split(), *more)
        shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        trains = [name for name, weight in model.named_parameters() if weight.requires_grad]
        batch = batch_of(model, cfg)
        torch.manual_seed(1)
        learning = model(batch).logits.tolist()
        described.append((model.modality, shapes, trains, learning, model.eval()(batch).logits.tolist()))
    assert described[0] != described[1]


@pytest.mark.parametrize(("beside", "key", "value"), OF_THE_ANSWERER)
def test_settings_of_the_answerer_change_what_it_says_or_learns(beside: str, key: str, value: str) -> None:
    described = []
    items = Items(AskedScenes("train", 4))
    for more in ([], [f"{key}={value}"]):
        given = ["--config", str(ROOT / "configs/vqa/tiny.yaml"), "data.batch_size=4", "encoder.image.size=32"]
        cfg = load(VQA, [*given, *beside.split(), *more])
        torch.manual_seed(0)
        model = vqa.build_model(cfg, list(data.questions_of(items)))
        batch = next(vqa_data.training_batches(model, items, cfg)(0))
        torch.manual_seed(1)
        described.append((model(batch).logits.tolist(), model.eval()(batch).logits.tolist()))
    assert described[0] != described[1]


@pytest.mark.parametrize("key", vqa.idle(VQA(), "topdown"))
def test_what_answering_does_not_read_it_refuses(key: str) -> None:
    cfg = load(VQA, [f"{key}={'true' if key.endswith(('complete', 'cache')) else 7}"])
    with pytest.raises(ValueError, match=rf"{key}=.* has no effect here: leave out, or give {key}="):
        vqa.check(cfg)


@pytest.mark.parametrize(
    "key",
    [
        *(f"learner=student {key}" for key in distillation.idle(Distillation())),
        *(f"learner=teacher {key}" for key in distillation.OF_THE_STUDENT),
        *(f"teacher=RUN {key}" for key in distillation.idle(Distillation(teacher="RUN")) if "image" in key),
    ],
)
def test_what_distillation_does_not_read_it_refuses(key: str) -> None:
    beside, key = key.split()
    kind = settings(Distillation)[key].type
    other = {bool: str(not values(Distillation())[key]).lower(), str: "other"}.get(kind, "7")
    cfg = load(Distillation, [beside, f"{key}={get_args(kind)[-1] if get_origin(kind) else other}"])
    with pytest.raises(ValueError, match=rf"{key}=.* has no effect here: leave out, or give {key}="):
        distillation.check(cfg)


def test_the_questions_of_a_batch_the_loss_and_the_rates_of_answering_arrive() -> None:
    items = Items(AskedScenes("train", 4))
    tiny = ["--config", str(ROOT / "configs/vqa/tiny.yaml"), "encoder.image.size=32"]
    found = {}
    for more in ("questions=0", "questions=1", "loss.name=bce"):
        cfg = load(VQA, [*tiny, "data.batch_size=4", "encoder.text.rate=0.5", more])
        torch.manual_seed(0)
        model = vqa.build_model(cfg, list(data.questions_of(items))).eval()
        batch = next(vqa_data.training_batches(model, items, cfg)(0))
        found[more] = len(batch["text"].rows), vqa.Objective(cfg.loss)(model, batch, 0)["answer_loss"].item()
        assert rates(cfg.encoder, [*cfg.modalities, "text"]) == {
            "encoders.image": 1.0,
            "encoders.audio": 1.0,
            "encoders.text": 0.5,
        }
    assert found["questions=1"][0] == 4 < found["questions=0"][0]
    assert found["loss.name=bce"][1] != found["questions=0"][1]


def test_the_rate_of_an_encoder_and_the_sentences_of_a_batch_arrive() -> None:
    model, cfg = captioner("encoder.image.rate=0.1", "captions=1")
    assert rates(cfg.encoder, [cfg.modality]) == {"encoders.image": 0.1}
    assert len(batch_of(model, cfg)["text"].rows) == 4
    model, cfg = captioner("captions=0")
    assert rates(cfg.encoder, [cfg.modality]) == {"encoders.image": 1.0}
    assert len(batch_of(model, cfg)["text"].rows) == 8


@pytest.mark.parametrize(
    ("beside", "changed", "parts"),
    [
        ("", "loss.smoothing=0.3", {"word_loss"}),
        ("", "loss.sampling=1", {"word_loss"}),
        ("loss.doubly_stochastic=1", "loss.doubly_stochastic=2", {"doubly_stochastic_loss"}),
        ("head.attention=hard", "loss.reinforce=3", {"place_loss"}),
        ("head.attention=hard", "loss.entropy=0.5", {"entropy_loss"}),
        ("loss.name=self_critical captions=1", "loss.samples=3", {"self_critical_loss", "reward"}),
    ],
)
def test_settings_of_the_captioning_loss_arrive(beside: str, changed: str, parts: set[str]) -> None:
    """They change the part of the loss that they are about and no other."""
    found = []
    for more in ([], [changed]):
        model, cfg = captioner(*beside.split(), *more)
        step = captioning_data.objective(model, some_items(), cfg)
        torch.manual_seed(1)
        loss = step(model, batch_of(model, cfg), cfg.loop.steps - 1)
        found.append({name: value.item() for name, value in loss.items()})
    assert found[0].keys() == found[1].keys()
    assert {name for name in found[0] if found[0][name] != found[1][name]} == parts


@pytest.mark.parametrize(("ends", "changed", "holds"), OF_THE_DECODING)
def test_settings_of_the_decoding_arrive(ends: int, changed: str, holds: Callable[[list[str]], bool]) -> None:
    """Sentences of a model that would like to end at once (ends > 0) or never."""
    base = ["decoding.beam=4", "decoding.length=avg", "decoding.min_length=3", "decoding.max_length=9"]
    told = []
    for more in ([], [changed]):
        model, cfg = captioner(*base, *more)
        model.head.decoder.output.bias.data[END] = ends
        told.append(captioning_scores.describe_items(model, some_items(), cfg).captions)
    assert [(one.text, one.score) for one in told[0]] != [(one.text, one.score) for one in told[1]]
    assert all(holds(one.words) for one in told[1])


def test_data_settings_that_readers_take() -> None:
    """What `mm.data.READERS` look at: a reader that ignores the settings made for it would be silent."""
    source = inspect.getsource(data) + inspect.getsource(data.item)
    for leaf in ("scenes", "file", "fold", "speaker", "skip_bad", "root", "sets"):
        assert leaf in {field.name for field in fields(DataConfig)}
        assert f"cfg.{leaf}" in source
