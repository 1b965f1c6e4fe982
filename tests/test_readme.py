"""Every command and every Python block of README.md runs, in the order in which they stand, with fewer steps.

They run in a folder of its own that has the repository's scripts and configs, and small parts of the real data sets
where those are laid out. What needs a set that is not there is skipped; a run that such a training would have left is
replaced by one on made-up pictures.
"""

import csv
import itertools
import json
import math
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mm import data
from mm.config import load as read_config
from mm.data.caption_files import read_references, write_results
from mm.data.mosaics import EVERY_WORD, shows
from mm.tasks.captioning import Captioning
from mm.tasks.distillation import Distillation
from mm.tasks.localisation import Localisation
from mm.tasks.retrieval import Retrieval
from mm.tasks.separation import Separation
from mm.tasks.vqa import VQA
from mm.tasks.words import Words
from tests.talking import clips, untrained_run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
TASKS = {  # scripts/train_<task>.py -> its settings
    "retrieval": Retrieval,
    "captioning": Captioning,
    "vqa": VQA,
    "localisation": Localisation,
    "distillation": Distillation,
    "separation": Separation,
    "words": Words,
}
PHOTOGRAPHS = 24  # of each split of Flickr8k
CLIPS = 6  # of each split of the talking faces
FEW = [
    "loop.steps=2",
    "loop.evaluate_every=0",
    "loop.checkpoint_every=2",
    "loop.tensorboard=false",
    "data.batch_size=16",
    "data.scenes=64",
    "data.views=1",
    "data.workers=0",
]


def commands() -> list[str]:
    """What a reader may copy into a shell: lines of console blocks, and commands between backticks in the text."""
    shell = "\n".join(text for language, text in FENCED if language in ("console", "bash", "sh", "shell"))
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    lines = [*shell.replace("\\\n", " ").splitlines(), *re.findall(r"`([^`\n]+)`", prose)]
    cell = r"^--config configs/(\w+)/"  # of a table
    lines = [re.sub(cell, r"python scripts/train_\1.py --config configs/\1/", line) for line in lines]
    found = (shlex.join(shlex.split(line.removeprefix("$ "), comments=True)) for line in lines)
    return list(dict.fromkeys(c for c in found if re.match(r"(python|make|torchrun) ", c) and "..." not in c))


COMMANDS = commands()
ASKED = [  # the sentences of its queries: the small vocabularies here must know their words
    said
    for words in map(shlex.split, COMMANDS)
    for option, said in itertools.pairwise(words)
    if option in ("--text", "--plus-text", "--minus-text")
]
PYTHON = [text for language, text in FENCED if language == "python"]
ASKED += re.findall(r'"([a-z]+)"', "".join(code for code in PYTHON if "import words" in code))
RUNS = {  # run folder that a configuration names -> its task and settings
    cfg.out: (task, cfg)
    for task, settings in TASKS.items()
    for file in sorted((ROOT / "configs" / task).glob("*.yaml"))
    for cfg in [read_config(settings, ["--config", str(file)])]
}


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory, own_table: Path) -> Iterator[Path]:
    """The folder that the commands run in."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("scripts", "configs", "docs", "mm", "Makefile"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(own_table.parent / "red-circle.jpg", folder / "photo.jpg")
    shutil.copy(own_table.parent / "red-circle.wav", folder / "clip.wav")
    clips(folder)
    answers = [{"answer": "yes", "answer_id": k} for k in range(10)]
    row = {"question_id": 1, "image_id": 1, "question_type": "is", "answer_type": "yes/no", "answers": answers}
    (folder / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": [row]}))
    (folder / "results.json").write_text(json.dumps([{"question_id": 1, "answer": "yes"}]))
    root = Path(os.environ.get("MM_DATA", "") or ROOT / "data")
    (folder / "data").mkdir()
    for found in root.iterdir() if root.is_dir() else ():
        (folder / "data" / found.name).symlink_to(found)
    if (root / "flickr8k").is_dir():
        few_photographs(root / "flickr8k", folder / "data" / "flickr8k")
    if (root / "grid_av").is_dir():
        few_clips(root / "grid_av", folder / "data" / "grid_av")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MM_DATA", raising=False)
        patch.setattr(data, "EVALUATION_SCENES", 60)
        patch.setattr(data, "DIGIT_MOSAICS", 20)
        patch.setattr(data, "ESC10_MOSAICS", 12)
        yield folder


def few_photographs(whole: Path, part: Path) -> None:
    """Flickr8k with the first photographs of each split, and two of each class that a mosaic can show.

    The queries of the README are added to training captions.
    """
    part.unlink()
    part.mkdir()
    document = json.loads((whole / "dataset_flickr8k.json").read_text(encoding="utf-8"))
    by_split: dict[str, list] = {}
    for row in document["images"]:
        by_split.setdefault(row["split"], []).append(row)
    document["images"] = []
    for rows in by_split.values():
        document["images"] += rows[:PHOTOGRAPHS]
        shown = [(row, shows([sentence["raw"] for sentence in row["sentences"]])) for row in rows[PHOTOGRAPHS:]]
        for name in (*EVERY_WORD, "neutral"):
            document["images"] += [row for row, its in shown if its == name][:2]
    for row in by_split["train"][:PHOTOGRAPHS]:
        row["sentences"][0]["raw"] += " " + " ".join(ASKED)
    (part / "dataset_flickr8k.json").write_text(json.dumps(document))
    for other in whole.iterdir():
        if other.name != "dataset_flickr8k.json":
            (part / other.name).symlink_to(other)


def few_clips(whole: Path, part: Path) -> None:
    """Talking faces: the first of each split."""
    part.unlink()
    part.mkdir()
    by_split: dict[str, list[str]] = {}
    for line in (whole / "index.jsonl").read_text(encoding="utf-8").splitlines():
        by_split.setdefault(json.loads(line)["split"], []).append(line)
    kept = [line for lines in by_split.values() for line in lines[:CLIPS]]
    (part / "index.jsonl").write_text("\n".join(kept) + "\n")
    (part / "clips").symlink_to(whole / "clips")


@pytest.fixture(scope="module")
def stand_in(script, tiny: list[str], tiny_captioning: list[str], own_table: Path, sandbox: Path):
    """stand_in(run) leaves a run of the task at a path where there is none, and says whether it did.

    One of retrieval knows the words that README's queries use.
    """

    def make(run: str) -> bool:
        if Path(run).exists():
            return False
        task, cfg = RUNS.get(run, ("retrieval", None))
        if task == "separation":
            untrained_run(Path(run), "mix.evaluated=4")
            return True
        if task == "words":
            text = own_table.with_name("readme.txt")
            text.write_text(f"{' '.join(ASKED)}\n" * 40)
            few = ["data.name=text", f"data.file={text}", "loop.steps=2", f"out={run}"]
            answer = script("train_words", "--config", str(ROOT / "configs/words/tiny.yaml"), *few)
            assert answer.code == 0, answer.err
            return True
        if task in ("vqa", "localisation", "distillation"):
            name = "default" if task == "distillation" else "tiny"  # other tasks start from its encoder
            few = ["--config", str(ROOT / f"configs/{task}/{name}.yaml"), *FEW, f"out={run}"]
            answer = script(f"train_{task}", *few)
            assert answer.code == 0, answer.err
            return True
        if task == "captioning":
            few = ["loop.steps=2", f"modality={cfg.modality}", f"out={run}"]
            answer = script("train_captioning", *tiny_captioning, *few)
            assert answer.code == 0, answer.err
            return True
        with own_table.open(newline="") as file:
            header, *rows = csv.reader(file)
        spoken = " ".join([*ASKED, *re.findall(r'"([^"\n]*)"', "".join(PYTHON))])
        table = own_table.with_name("readme.csv")
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([[*header, "text_3"], *([*row, spoken] for row in rows)])
        answer = script("train_retrieval", *tiny, f"data.file={table}", "loop.steps=2", f"out={run}")
        assert answer.code == 0, answer.err
        return True

    return make


def test_a_cell_of_a_table_is_a_command_of_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    table = "| photographs | `--config configs/captioning/flickr8k.yaml` | `--config configs/retrieval/esc10.yaml` |"
    monkeypatch.setitem(globals(), "README", table)
    monkeypatch.setitem(globals(), "FENCED", [])
    assert commands() == [
        "python scripts/train_captioning.py --config configs/captioning/flickr8k.yaml",
        "python scripts/train_retrieval.py --config configs/retrieval/esc10.yaml",
    ]


def test_the_readme_has_commands() -> None:
    for task in TASKS:
        assert any(command.startswith(f"python scripts/train_{task}.py") for command in COMMANDS)
    assert {"make demo", "make test"} <= set(COMMANDS)
    assert PYTHON
    assert README.index("make demo") < len("\n".join(README.splitlines()[:40]))  # on the first screen
    assert README.index("make test") < len("\n".join(README.splitlines()[:40]))


@pytest.mark.parametrize("command", COMMANDS, ids=COMMANDS)
def test_command(command: str, script, sandbox: Path, stand_in, no_java: None) -> None:
    program, *words = shlex.split(command)
    if program == "torchrun":
        words = words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]  # mm/engine's tests start two
    if program == "make":
        words = recipe(words[0])
    path, *arguments = words
    name = Path(path).stem
    if name == "pytest" or name == "benchmark":
        assert (ROOT / "tests").is_dir() if name == "pytest" else script(name, "--help").code == 0
        return
    if name.startswith("train_") and "--help" not in arguments:
        for word in [word for word in arguments if ".init=runs/" in word]:
            stand_in(word.partition("=")[2])
        arguments += FEW
        if name == "train_separation":
            arguments.append("mix.evaluated=4")
        task = name.removeprefix("train_")
        cfg = read_config(TASKS[task], arguments, default=ROOT / f"configs/{task}/default.yaml")
        of_encoders = (
            [getattr(encoder, "weights", "") for encoder in vars(cfg.encoder).values()] if task != "words" else []
        )
        needed = [file for file in [*of_encoders, getattr(cfg, "init", "")] if file]
        if missing := [file for file in needed if not Path(file).exists()]:
            pytest.skip(f"{', '.join(missing)} are not there")
        try:
            others = {"vqa": data.load_asked, "localisation": data.load_localised, "separation": data.load_talks}
            load = others.get(task, data.load)
            load(cfg.data, "test", cfg.seed)
        except FileNotFoundError as error:
            pytest.skip(f"the real data set is not laid out: {error}")
    elif name in ("evaluate", "build_index", "embed", "caption", "ask", "localise", "separate"):
        if "--references" in arguments:
            references = Path(arguments[arguments.index("--references") + 1])
            if not references.is_file():
                pytest.skip(f"the real data set is not laid out: {references} is not there")
        for word in [word for word in arguments if word.startswith("runs/")]:
            run, inside = "/".join(word.split("/")[:2]), word.split("/")[2:]
            if stand_in(run) and inside:  # its captions are of made-up pictures
                write_results(word, dict.fromkeys(read_references(references), "a dog in the snow"))
    answer = script(name, *arguments)
    assert answer.code == 0, (answer.out, answer.err)
    for picture in [word for word in arguments if word.endswith(".png")]:
        assert Path(picture).read_bytes().startswith(b"\x89PNG")


def recipe(target: str) -> list[str]:
    """The script or tool that a target of the Makefile runs last, and its arguments."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", target], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout.splitlines()[-1], comments=True)
    if "pytest" in words:
        return ["pytest"]
    found = [word for word in words if word.endswith(".py")]
    assert found, f"make {target} runs {done.stdout}"
    assert (ROOT / found[0]).is_file()
    return words[words.index(found[0]) :]


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_block(number: int, sandbox: Path, stand_in, no_java: None) -> None:
    code = PYTHON[number]
    for file in re.findall(r'"(data/[^"]+)"', code):
        if not Path(file).exists():
            pytest.skip(f"{file} is not there")
    for run in re.findall(r'"(runs/[^"/]+)"', code):
        stand_in(run)
    printed: list = []
    names: dict = {"__name__": "readme", "print": lambda *shown: printed.append(shown)}
    exec(compile(code, f"README.md, Python block {number}", "exec"), names)
    assert len(printed) == code.count("print(")
    for value in [value for shown in printed for value in shown]:
        said = re.search("captioning|vqa", code) and isinstance(value, str) and value.strip()
        value = torch.from_numpy(value) if isinstance(value, np.ndarray) else value
        near = "import words" in code and value and all(word and math.isfinite(cosine) for word, cosine in value)
        assert said or near or (isinstance(value, torch.Tensor) and value.isfinite().all()), printed
    for name, shape in re.findall(r"(\w+\.\w+) \(([\d, ]+)\)", code):  # what its comments promise
        assert list(eval(name, names).shape) == [int(size) for size in shape.split(",")], name


def test_files_that_the_readme_names_are_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for config in re.findall(r"configs/\S+?\.yaml", README):
        assert (ROOT / config).exists(), config


@pytest.mark.parametrize("target", ["demo", "test", "lint", "bench"])
def test_the_makefile_runs_what_is_there(target: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", target], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for script_file in re.findall(r"scripts/\w+\.py", done.stdout):
        assert (ROOT / script_file).is_file()
