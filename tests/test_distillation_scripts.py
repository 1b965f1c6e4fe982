"""The script of distillation as a user meets it: what a run leaves, what can start from it, a message for mistakes."""

import csv
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from mm import data, encoders
from mm.config import EncodersConfig
from mm.config import load as read_config
from mm.engine.log import read_csv
from mm.tasks import captioning, distillation, retrieval, vqa
from mm.tasks.distillation import Distillation
from tests.shared import ROOT, assert_clean, assert_same_run, by_one_and_by_two, started, weights

AUDIO = ["encoder.audio.width=4", "encoder.audio.bands=16", "encoder.audio.window_s=0.04", "encoder.audio.hop_s=0.02"]
RUNS = (".", "teacher", "shuffled_pairs")  # within a run folder


@pytest.fixture(scope="module")
def paired_table(own_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of `own_table` beside their tones; the class of both is the colour."""
    folder = tmp_path_factory.mktemp("paired")
    with own_table.open(newline="") as own, (folder / "paired.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "split", "owner", "image", "audio"])
        for row in csv.DictReader(own):
            for name in (row["image"], row["audio"]):
                shutil.copy(own_table.parent / name, folder / name)
            rows.writerow([row["id"], row["split"], row["colour"], row["image"], row["audio"]])
    return folder / "paired.csv"


@pytest.fixture(scope="module")
def tiny_distillation(paired_table: Path) -> list[str]:
    return [
        "--config",
        str(ROOT / "configs/distillation/tiny.yaml"),
        "data.name=table",
        f"data.file={paired_table}",
        "data.batch_size=8",
        *AUDIO,
        "loop.steps=40",
        "loop.checkpoint_every=10",
        "loop.tensorboard=false",
    ]


@pytest.fixture(scope="module")
def distillation_run(trained, tiny_distillation: list[str]) -> Path:
    return trained("distillation", *tiny_distillation)


def test_a_run_leaves_what_the_design_names(distillation_run: Path) -> None:
    document, teacher, control = (json.loads((distillation_run / run / "metrics.json").read_text()) for run in RUNS)
    for one in (document, teacher, control):
        assert [one[key] for key in ("task", "split", "seed", "data")] == ["distillation", "test", 0, "table"]
    names = ["probe_accuracy", "zero_shot_accuracy", "agreement"]
    assert list(document["metrics"]) == list(control["metrics"]) == names
    rows = ["chance", "most_frequent", "teacher", "spectrogram", "random_encoder", "shuffled_pairs"]
    assert list(document["controls"]) == rows
    assert document["metrics"]["zero_shot_accuracy"] == document["metrics"]["agreement"] == 1
    assert document["controls"]["chance"] == dict.fromkeys(names, 0.25)
    assert document["controls"]["shuffled_pairs"] == control["metrics"]
    assert control["metrics"]["zero_shot_accuracy"] < 1
    assert teacher["metrics"] == {"accuracy": document["controls"]["teacher"]["zero_shot_accuracy"]} == {"accuracy": 1}
    assert "shuffled pairs" in (distillation_run / "stdout.log").read_text()
    assert "most frequent" in (distillation_run / "teacher" / "stdout.log").read_text()
    logged = {row[2] for row in read_csv(distillation_run / "metrics.csv")}
    assert {"train/loss", "train/distillation/distillation_loss", "val/agreement"} <= logged
    assert {"train/teacher/class_loss", "val/accuracy"} <= {
        row[2] for row in read_csv(distillation_run / "teacher" / "metrics.csv")
    }
    settings = [read_config(Distillation, ["--config", str(distillation_run / run)]) for run in RUNS]
    assert [(cfg.learner, cfg.shuffle_pairs) for cfg in settings] == [
        ("student", False),
        ("teacher", False),
        ("student", True),
    ]


def test_the_run_can_be_used_from_python(distillation_run: Path, paired_table: Path) -> None:
    student, cfg = distillation.load(distillation_run)
    assert (student.modality, cfg.learner, student.training) == ("audio", "student", False)
    assert student.classify([paired_table.parent / "red-circle.wav"], top=1)[0][0][0] == "red"
    teacher, cfg = distillation.load(distillation_run / "teacher")
    assert (teacher.modality, cfg.learner) == ("image", "teacher")
    assert teacher.classify([paired_table.parent / "blue-square.jpg"], top=1)[0][0][0] == "blue"


def test_a_killed_run_goes_on_and_ends_the_same(
    script, tiny_distillation: list[str], distillation_run: Path, tmp_path: Path
) -> None:
    process = started("train_distillation", tiny_distillation, tmp_path / "run")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    answer = script("train_distillation", *tiny_distillation, f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    assert "goes on from step" in answer.out
    for run in RUNS:
        assert_same_run(tmp_path / "run" / run, distillation_run / run)
    again = script("train_distillation", *tiny_distillation, f"out={tmp_path / 'run'}")
    assert again.code == 0
    assert again.out.count("is finished at step 40, nothing to train") == 3


def test_a_finished_teacher_teaches_the_same(
    script, tiny_distillation: list[str], distillation_run: Path, tmp_path: Path
) -> None:
    given = [f"teacher={distillation_run / 'teacher'}", "encoder.image.size=0"]
    answer = script("train_distillation", *tiny_distillation, *given, f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    assert not (tmp_path / "run" / "teacher").exists()
    for run in (".", "shuffled_pairs"):
        assert_same_run(tmp_path / "run" / run, distillation_run / run)
    wrong = [f"teacher={distillation_run}", "encoder.image.size=0", f"out={tmp_path / 'wrong'}"]
    assert_clean(
        script("train_distillation", *tiny_distillation, *wrong),
        "a teacher must be a run of learner=teacher",
        f"Name {distillation_run / 'teacher'}",
    )


def test_a_teacher_by_itself(script, tiny_distillation: list[str], distillation_run: Path, tmp_path: Path) -> None:
    answer = script("train_distillation", *tiny_distillation, "learner=teacher", f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    assert_same_run(tmp_path / "run", distillation_run / "teacher")
    assert [folder.name for folder in (tmp_path / "run").iterdir() if folder.is_dir()] == ["checkpoints"]


def test_the_control_by_itself_is_the_same(
    script, tiny_distillation: list[str], distillation_run: Path, tmp_path: Path
) -> None:
    answer = script("train_distillation", *tiny_distillation, "shuffle_pairs=true", f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    assert "shuffled_pairs" not in json.loads((tmp_path / "run" / "metrics.json").read_text())["controls"]
    one, two = weights(tmp_path / "run"), weights(distillation_run / "shuffled_pairs")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_embedded_world(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "EVALUATION_SCENES", 24)
    few = ["data.scenes=200", "data.batch_size=8", "loop.steps=2", "loop.tensorboard=false", *AUDIO]
    settings = ["--config", str(ROOT / "configs/distillation/tiny.yaml"), *few]
    answer = script("train_distillation", *settings, f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    document = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert document["data"] == "synthetic" and document["controls"]["chance"]["agreement"] == 1 / 48


# Other tasks --------------------------------------------------------------------------------------------------------


def test_the_audio_encoder_starts_other_tasks(
    script, distillation_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = EncodersConfig()
    cfg.audio.name, cfg.audio.width, cfg.audio.bands = "resnet", 4, 16
    cfg.audio.window_s, cfg.audio.hop_s, cfg.audio.init = 0.04, 0.02, str(distillation_run)
    torch.manual_seed(1)
    taught = distillation.load(distillation_run)[0].encoder.state_dict()
    started_from = encoders.by_settings("audio", cfg, ()).state_dict()
    assert started_from.keys() == taught.keys()
    assert all(torch.equal(started_from[name], taught[name]) for name in taught)

    monkeypatch.setattr(data, "EVALUATION_SCENES", 20)
    given = ["modalities=[audio]", *AUDIO, f"encoder.audio.init={distillation_run}", "encoder.audio.freeze=true"]
    few = ["data.scenes=16", "data.batch_size=8", "loop.steps=1", "optim.warmup_steps=1", "loop.tensorboard=false"]
    settings = ["--config", str(ROOT / "configs/vqa/tiny.yaml"), *given, *few]
    answer = script("train_vqa", *settings, f"out={tmp_path / 'vqa'}")
    assert answer.code == 0, answer.err
    found = weights(tmp_path / "vqa")
    assert all(torch.equal(found[f"encoders.audio.{name}"], taught[name]) for name in taught)


def test_runs_of_other_tasks_are_refused(distillation_run: Path, captioning_run: Path, tiny_run: Path) -> None:
    for run in (captioning_run, tiny_run):
        with pytest.raises(
            ValueError, match=r"must be a checkpoint of distillation: there is no classifier.json. Name another"
        ):
            distillation.load(run)
    with pytest.raises(ValueError, match="must be a run of retrieval: it is one of distillation"):
        retrieval.load(distillation_run)
    for task in (captioning, vqa):
        with pytest.raises(ValueError, match="must be a checkpoint of"):
            task.load(distillation_run)
    with pytest.raises(FileNotFoundError, match="must be a run folder"):
        distillation.load(distillation_run / "nothing")
    with pytest.raises(
        ValueError, match=r"of a finished run, data.\* and loop.device can be changed: got temperature=2"
    ):
        distillation.load(distillation_run, ["temperature=2"])
    _, cfg = distillation.load(distillation_run, ["data.batch_size=3"])
    assert cfg.data.batch_size == 3


# What is rejected ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["encoder.text.hidden=9"], "encoder.text.hidden=9 has no effect here: leave out, or give"),
        (["teacher=nothing", "encoder.image.size=0"], "nothing must be a run folder"),
        (["temperature=-1"], "temperature must be positive"),
        (["encoder.audio.name=resent"], "unknown audio encoder 'resent'"),
        (["encoder.audio.init=nothing"], "nothing must be a run folder"),
        (["temprature=2"], "Did you mean 'temperature'?"),
        (["data.name=nothing"], "unknown data set 'nothing'"),
    ],
)
def test_wrong_settings(script, tiny_distillation: list[str], tmp_path: Path, changes: list[str], said: str) -> None:
    assert_clean(script("train_distillation", *tiny_distillation, *changes, f"out={tmp_path / 'run'}"), said)
    assert not (tmp_path / "run").exists()


def test_an_item_that_is_no_pair_is_named(
    script, tiny_distillation: list[str], paired_table: Path, tmp_path: Path
) -> None:
    with paired_table.open(newline="") as file:
        header, *rows = csv.reader(file)
    rows[3][4] = ""
    table = paired_table.with_name("lacking.csv")
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    answer = script("train_distillation", *tiny_distillation, f"data.file={table}", f"out={tmp_path / 'run'}")
    assert rows[3][1] == "train"
    assert_clean(answer, f"must be a pair of picture and sound: {rows[3][0]} has no sound. Complete it")
    assert not (tmp_path / "run").exists()


def test_the_teacher_stays_while_the_student_changes(
    script, tiny_distillation: list[str], distillation_run: Path, tmp_path: Path
) -> None:
    shutil.copytree(distillation_run / "teacher", tmp_path / "run" / "teacher")
    changed = ["encoder.audio.width=6", "temperature=2", f"out={tmp_path / 'run'}"]
    answer = script("train_distillation", *tiny_distillation, *changed)
    assert answer.code == 0, answer.err
    assert answer.out.count("nothing to train") == 1
    assert_same_run(tmp_path / "run" / "teacher", distillation_run / "teacher")


# Two processes ------------------------------------------------------------------------------------------------------


def test_two_processes_train_what_one_trains(
    tiny_distillation: list[str], distillation_run: Path, tmp_path: Path
) -> None:
    start = [f"encoder.audio.init={distillation_run}", "encoder.audio.freeze=true"]
    words = [*tiny_distillation, f"teacher={distillation_run / 'teacher'}", "encoder.image.size=0", *start]
    losses = by_one_and_by_two(
        "train_distillation", [*words, "loop.steps=6"], tmp_path, "distillation/distillation_loss"
    )
    assert len(losses[0]) == 6 and losses[1] == pytest.approx(losses[0], rel=1e-3)
    assert (tmp_path / "two" / "shuffled_pairs" / "metrics.json").is_file()
