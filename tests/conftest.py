"""What all tests share: no network, one thread, real data sets where they are, scripts as functions, runs of tasks."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

import soundfile
import torch
from PIL import Image, ImageDraw

from mm import data
from mm.data import SoundingScenes
from tests.shared import Scene

ROOT = Path(__file__).resolve().parent.parent
COLOURS = {"red": (220, 30, 30), "green": (30, 170, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40)}
SHAPES = ("circle", "square")
FEW = ["data.scenes=64", "data.batch_size=16", "loop.steps=4", "loop.tensorboard=false"]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """real_data("flickr8k") is the folder of that set below $MM_DATA or ./data; the test is skipped without it."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("MM_DATA", "") or ROOT / "data") / name
        if not folder.is_dir():
            pytest.skip(f"the real data set {name} is not in {folder.parent} (MM_DATA names another folder)")
        return folder

    return find


class Answer(NamedTuple):
    """How a script ended, and what it said."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def script() -> Callable[..., Answer]:
    """script("evaluate", RUN, "--json") runs scripts/evaluate.py in this process; what it does not catch comes out."""

    def run(name: str, *arguments: object) -> Answer:
        path = ROOT / "scripts" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"script_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        out, err, code = io.StringIO(), io.StringIO(), 0
        root, mm = logging.getLogger(), logging.getLogger("mm")
        handlers, levels = root.handlers[:], (root.level, mm.level)
        root.handlers.clear()  # the script sets up its own
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", [str(path), *map(str, arguments)])
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    spec.loader.exec_module(module)
                    module.main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        finally:
            for handler in set(root.handlers) - set(handlers):
                handler.close()
            root.handlers[:] = handlers
            root.setLevel(levels[0])
            mm.setLevel(levels[1])
        return Answer(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def trained(script: Callable[..., Answer], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """trained("vqa", ARGUMENT...) is the folder of a run that scripts/train_vqa.py has finished."""

    def train(task: str, *arguments: str) -> Path:
        out = tmp_path_factory.mktemp("runs") / task
        answer = script(f"train_{task}", *arguments, f"out={out}")
        assert answer.code == 0, answer.err
        return out

    return train


@pytest.fixture(scope="session")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two talkers in files, see `tests.talking.clips`."""
    from tests.talking import clips  # with it come torch and the tasks, which few tests need

    return clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="session")
def own_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of one's own: eight pictures, each with two sentences and a tone of a pitch of its own, in every split."""
    folder = tmp_path_factory.mktemp("own")
    with (folder / "own.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "split", "owner", "image", "text_1", "text_2", "audio", "colour", "number"])
        for number, (colour, shape) in enumerate((c, s) for c in COLOURS for s in SHAPES):
            name = f"{colour}-{shape}"
            picture = Image.new("RGB", (48, 40), "grey")
            draw = getattr(ImageDraw.Draw(picture), "ellipse" if shape == "circle" else "rectangle")
            draw((8, 4, 38, 34), fill=COLOURS[colour])
            picture.save(folder / f"{name}.jpg", quality=95)
            time_s = np.arange(1600) / 16000
            soundfile.write(folder / f"{name}.wav", 0.3 * np.sin(2 * np.pi * 200 * (2 + number) * time_s), 16000)
            for split in ("train", "val", "test"):
                texts = (f"a {colour} {shape}", f"one {shape} in {colour}")
                row = [f"{split}-{name}", split, name, f"{name}.jpg", *texts, f"{name}.wav", colour, number]
                rows.writerow(row)
    return folder / "own.csv"


@pytest.fixture(scope="session")
def tiny(own_table: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a training of a second or two on `own_table`; `out=` and what else a test wants come behind."""
    return [
        "--config",
        str(ROOT / "configs/retrieval/tiny.yaml"),
        "data.name=table",
        f"data.file={own_table}",
        "data.batch_size=8",
        f"data.cache={tmp_path_factory.mktemp('cache')}",
        "encoder.image.size=32",
        "encoder.audio.width=4",
        "loop.steps=24",
        "loop.checkpoint_every=4",
        "loop.tensorboard=false",
    ]


@pytest.fixture(scope="session")
def tiny_run(script: Callable[..., Answer], tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three modalities on `own_table`, with its index; not to be written to."""
    out = tmp_path_factory.mktemp("runs") / "tiny"
    answer = script("train_retrieval", *tiny, f"out={out}")
    assert answer.code == 0, answer.err
    return out


@pytest.fixture(scope="session")
def index_folder(script: Callable[..., Answer], tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of the test split of `tiny_run`; not to be written to."""
    out = tmp_path_factory.mktemp("index") / "index"
    answer = script("build_index", tiny_run, "--out", out)
    assert answer.code == 0, answer.err
    return out


@contextlib.contextmanager
def java_hidden() -> Iterator[None]:
    """Within it, no program `java` is found; every other one is."""
    which = shutil.which
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "which", lambda name, *given, **o: None if name == "java" else which(name, *given, **o))
        yield


@pytest.fixture
def no_java() -> Iterator[None]:
    """Without Java, whose start takes longer than all that these tests look at."""
    with java_hidden():
        yield


@pytest.fixture(scope="session")
def tiny_captioning(own_table: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Arguments of a captioning of a few seconds that learns the two sentences of each picture of `own_table`."""
    return [
        "--config",
        str(ROOT / "configs/captioning/tiny.yaml"),
        "data.name=table",
        f"data.file={own_table}",
        "data.batch_size=8",
        f"data.cache={tmp_path_factory.mktemp('caption_cache')}",
        "encoder.image.size=32",
        "optim.lr=5e-3",
        "loop.steps=60",
        "loop.checkpoint_every=10",
        "loop.tensorboard=false",
    ]


@pytest.fixture(scope="session")
def captioning_run(
    script: Callable[..., Answer], tiny_captioning: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished captioning run on `own_table`, made without Java; not to be written to."""
    out = tmp_path_factory.mktemp("runs") / "captioning"
    with java_hidden():
        answer = script("train_captioning", *tiny_captioning, f"out={out}")
    assert answer.code == 0, answer.err
    return out


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    item = SoundingScenes("val", 1)[0]
    Image.fromarray(item.image[0]).save(folder / "scene.png")
    soundfile.write(folder / "scene.wav", item.audio[0], 16000)
    return Scene(folder / "scene.png", folder / "scene.wav")


@pytest.fixture(scope="session")
def briefly(trained: Callable[..., Path]) -> Callable[..., Path]:
    """briefly("vqa") is a run on the embedded data that was trained for four steps and evaluated on a few scenes."""

    def train(task: str, *changes: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, "EVALUATION_SCENES", 12)
            return trained(task, "--config", str(ROOT / f"configs/{task}/tiny.yaml"), *FEW, *changes)

    return train


@pytest.fixture(scope="session")
def scenes_run(briefly: Callable[..., Path]) -> Path:
    """A run of retrieval on the embedded data; `tiny_run` is one on files."""
    return briefly("retrieval")


@pytest.fixture(scope="session")
def vqa_run(briefly: Callable[..., Path]) -> Path:
    return briefly("vqa")


@pytest.fixture(scope="session")
def localisation_run(briefly: Callable[..., Path]) -> Path:
    return briefly("localisation", "loop.steps=20")


@pytest.fixture(scope="session")
def distillation_run(briefly: Callable[..., Path]) -> Path:
    return briefly("distillation")
