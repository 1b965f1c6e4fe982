"""The scripts of question answering as a user meets them: what a run leaves, answers, a message for what is wrong."""

import csv
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from mm.config import load as read_config
from mm.data.vqa_files import read_results
from mm.engine.log import read_csv
from mm.tasks import vqa
from mm.tasks.vqa import VQA
from tests.shared import ROOT, assert_clean, assert_same_run, by_one_and_by_two, colours, started, weights

SHAPES = ("circle", "square")


@pytest.fixture(scope="module")
def asked_table(own_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two questions to each picture and tone of `own_table`, in every split."""
    folder = tmp_path_factory.mktemp("asked")
    with own_table.open(newline="") as own, (folder / "asked.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "split", "owner", "image", "audio", "question", "answer", "type"])
        for row in csv.DictReader(own):
            for name in (row["image"], row["audio"]):
                shutil.copy(own_table.parent / name, folder / name)
            shape = row["image"].removesuffix(".jpg").split("-")[1]
            for kind, question, answer in (
                ("colour", f"what colour is the {shape}?", row["colour"]),
                ("shape", f"what shape is the {row['colour']} object?", shape),
            ):
                cells = [f"{row['id']} {kind}", row["split"], row["owner"], row["image"], row["audio"]]
                rows.writerow([*cells, question, answer, kind])
    return folder / "asked.csv"


@pytest.fixture(scope="module")
def tiny_vqa(asked_table: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return [
        "--config",
        str(ROOT / "configs/vqa/tiny.yaml"),
        "data.name=table",
        f"data.file={asked_table}",
        "data.batch_size=16",
        f"data.cache={tmp_path_factory.mktemp('cache')}",
        "encoder.image.size=32",
        "modalities=[image]",
        "optim.lr=5e-3",
        "loop.steps=60",
        "loop.checkpoint_every=10",
        "loop.tensorboard=false",
    ]


@pytest.fixture(scope="module")
def vqa_run(trained, tiny_vqa: list[str]) -> Path:
    return trained("vqa", *tiny_vqa)


def test_a_run_leaves_what_the_design_names(vqa_run: Path) -> None:
    document = json.loads((vqa_run / "metrics.json").read_text())
    assert [document[key] for key in ("task", "split", "seed", "data")] == ["vqa", "test", 0, "table"]
    controls = ["most_frequent", "most_frequent_of_type", "images_swapped", "words_shuffled", "question_only"]
    assert list(document["controls"]) == controls
    for numbers in (document["metrics"], *document["controls"].values()):
        assert {"accuracy", "accuracy_strict", "accuracy/colour", "accuracy/shape"} <= set(numbers)
    assert document["metrics"]["accuracy"] == 1
    assert document["metrics"]["ECE"] < 0.3
    assert document["controls"]["most_frequent_of_type"]["accuracy/colour"] == 0.25
    assert document["controls"]["question_only"]["accuracy"] <= 0.5  # a colour of four, a shape of two
    assert document["controls"]["images_swapped"]["accuracy"] < 0.7
    assert colours(vqa_run / "figures" / "answers.png") > 500
    assert "question only" in (vqa_run / "stdout.log").read_text()
    assert read_config(VQA, ["--config", str(vqa_run / "question_only")]).modalities == []
    assert {"train/loss", "train/vqa/answer_loss", "val/accuracy"} <= {
        row[2] for row in read_csv(vqa_run / "metrics.csv")
    }


def test_its_answers_are_in_the_official_format_and_what_the_model_says(vqa_run: Path, asked_table: Path) -> None:
    said = read_results(vqa_run / "answers.json")
    model, _ = vqa.load(vqa_run)
    with asked_table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    pictures = [asked_table.parent / row["image"] for row in rows]
    told = model.answer(pictures, [row["question"] for row in rows])
    assert said == {row["id"]: answer.text for row, answer in zip(rows, told, strict=True)}
    assert list(said.values()) == [row["answer"] for row in rows]


def test_evaluate_gives_what_training_gave(script, vqa_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(vqa_run, tmp_path / "run"))
    before = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").unlink()
    answer = script("evaluate", run, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    after = json.loads((run / "metrics.json").read_text())
    for numbers in (found, after):
        assert (numbers["metrics"], numbers["controls"]) == (before["metrics"], before["controls"])
    assert_clean(script("evaluate", run, "--ensemble", run), "this run answers questions. Leave it out")
    assert_clean(script("evaluate", run, "head.dim=64"), "of a finished run, data.*, encoder.*.cache and loop.device")


def test_answers_of_another_split_in_the_official_format(script, vqa_run: Path, tmp_path: Path) -> None:
    answer = script("evaluate", vqa_run, "--split", "val", "--write", tmp_path / "val.json", "--json")
    assert answer.code == 0, answer.err
    said = read_results(tmp_path / "val.json")
    assert all(name.startswith("val-") for name in said) and len(said) == 16
    assert json.loads(answer.out)["metrics"]["accuracy"] == 1
    assert "val" not in (vqa_run / "metrics.json").read_text()
    missing = script("evaluate", "--answers", "a", "--annotations", "b", "--write", "c")
    assert (missing.code, "--write keeps what a run says" in missing.err) == (2, True)


def test_an_unfinished_control_is_not_shown(script, vqa_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(vqa_run, tmp_path / "run"))
    (run / "question_only" / "metrics.json").unlink()
    answer = script("evaluate", run, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert "question_only" not in found["controls"]
    assert "run scripts/train_vqa.py to its end" in found["not_computed"]["question_only"]


def test_a_killed_run_goes_on_and_ends_the_same(script, tiny_vqa, vqa_run: Path, tmp_path: Path) -> None:
    process = started("train_vqa", tiny_vqa, tmp_path / "run")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    answer = script("train_vqa", *tiny_vqa, f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    assert "goes on from step" in answer.out
    assert_same_run(tmp_path / "run", vqa_run)
    assert_same_run(tmp_path / "run" / "question_only", vqa_run / "question_only")
    again = script("train_vqa", *tiny_vqa, f"out={tmp_path / 'run'}")
    assert again.code == 0
    assert again.out.count("is finished at step 60, nothing to train") == 2


def test_pictures_and_sounds_together(script, tiny_vqa, asked_table: Path, tmp_path: Path) -> None:
    given = ["modalities=[image, audio]", "loop.steps=3", "head.attention=san:2"]
    answer = script("train_vqa", *tiny_vqa, *given, f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    files = [asked_table.parent / f"red-circle.{kind}" for kind in ("jpg", "wav")]
    asked = ["what colour is the circle?", "--image", files[0], "--audio", files[1], "--grid", tmp_path / "grid.png"]
    answer = script("ask", tmp_path / "run", *asked, "--json")
    assert answer.code == 0, answer.err
    assert len(json.loads(answer.out)["answers"]) == 5
    assert colours(tmp_path / "grid.png") > 500


def test_a_cache_of_a_frozen_encoder_says_the_same(script, tiny_vqa, tmp_path: Path) -> None:
    frozen = ["encoder.image.freeze=true", "loop.steps=4", "loop.log_every=1", "data.cache_dtype=float32"]
    for name, cache in (("kept", "true"), ("anew", "false")):
        given = [f"encoder.image.cache={cache}", f"out={tmp_path / name}"]
        assert script("train_vqa", *tiny_vqa, *frozen, *given).code == 0
    rows = [read_csv(tmp_path / name / "metrics.csv") for name in ("kept", "anew")]
    losses = [[float(row[3]) for row in each if row[2] == "train/vqa/answer_loss"] for each in rows]
    assert len(losses[0]) == 4 and losses[0] == pytest.approx(losses[1], rel=1e-5)
    kept, anew = weights(tmp_path / "kept"), weights(tmp_path / "anew")
    for name in kept:  # Adam makes whole steps, 5e-3 at most, of gradients that are rounding
        torch.testing.assert_close(kept[name], anew[name], atol=1e-3, rtol=1e-3)


def test_question_only_by_itself(script, tiny_vqa, tmp_path: Path) -> None:
    answer = script("train_vqa", *tiny_vqa, "modalities=[]", "loop.steps=3", f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    document = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert list(document["controls"]) == ["most_frequent", "most_frequent_of_type", "words_shuffled"]
    asked = script("ask", tmp_path / "run", "what colour is the circle?")
    assert asked.code == 0, asked.err
    assert_clean(script("ask", tmp_path / "run", "what colour?", "--grid", tmp_path / "x.png"), "looks at nothing")


def test_ask(script, vqa_run: Path, asked_table: Path, tmp_path: Path) -> None:
    picture = asked_table.parent / "blue-square.jpg"
    answer = script("ask", vqa_run, "what colour is the square?", "--image", picture, "--top", 2)
    assert answer.code == 0, answer.err
    assert len(answer.out.splitlines()) == 2
    assert answer.out.split()[-1] != "blue"
    assert answer.out.splitlines()[0].endswith("%  blue")
    chosen = script("ask", vqa_run, "what colour is the square?", "--image", picture, "--choices", "red", "green")
    assert {line.split()[-1] for line in chosen.out.splitlines()} == {"red", "green"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["what?", "--image", "nothing.jpg"], "nothing.jpg"),
        (["zork blip", "--image", "PICTURE"], "the model knows no word of 'zork blip': it never met zork, blip."),
        (["", "--image", "PICTURE"], "a question must have words: got ''"),
        (["what colour is it?"], "needs image: got neither"),
        (["what colour?", "--image", "PICTURE", "--audio", "a.wav"], "trained on image: got audio"),
        (["what colour?", "--image", "PICTURE", "--top", "0"], "top must be at least 1: got 0"),
        (["what colour?", "--image", "PICTURE", "--choices", "mauve"], "of the choices mauve the model knows none"),
    ],
)
def test_asking_wrongly(script, vqa_run: Path, asked_table: Path, arguments: list[str], said: str) -> None:
    picture = str(asked_table.parent / "blue-square.jpg")
    assert_clean(script("ask", vqa_run, *(picture if a == "PICTURE" else a for a in arguments)), said)


def test_a_model_that_looks_at_nothing_has_no_picture(script, vqa_run: Path, asked_table: Path, tmp_path: Path) -> None:
    asked = ("ask", vqa_run / "question_only", "what colour is the square?", "--grid", tmp_path / "x.png")
    assert_clean(script(*asked), "this model looks at nothing. Leave it out")
    assert not (tmp_path / "x.png").exists()


def test_runs_of_other_tasks_are_refused(script, vqa_run: Path, captioning_run: Path, asked_table: Path) -> None:
    picture = asked_table.parent / "blue-square.jpg"
    assert_clean(
        script("ask", captioning_run, "what?", "--image", picture), "must be a checkpoint of question answering"
    )
    assert_clean(script("caption", vqa_run, picture), "must be a checkpoint of captioning")


# Anyone's results ---------------------------------------------------------------------------------------------------


def official(folder: Path, answers: dict[int, list[str]], types: dict[int, str]) -> Path:
    path = folder / "annotations.json"
    rows = [
        {
            "question_id": number,
            "image_id": 1,
            "question_type": types[number],
            "answer_type": "other",
            "multiple_choice_answer": said[0],
            "answers": [{"answer": a, "answer_confidence": "yes", "answer_id": k + 1} for k, a in enumerate(said)],
        }
        for number, said in answers.items()
    ]
    path.write_text(json.dumps({"annotations": rows}))
    return path


def test_answers_against_annotations(script, tmp_path: Path) -> None:
    people = {
        1: ["black"] * 10,
        2: ["black"] * 9 + ["gray"],
        3: ["two"] * 2 + ["3"] * 8,
        4: ["a dog"] * 3 + ["cat"] * 7,
    }
    annotations = official(tmp_path, people, {1: "what colour", 2: "what colour", 3: "how many", 4: "what"})
    results = tmp_path / "results.json"
    said = {1: "Black.", 2: "Black.", 3: "2", 4: "Dog"}
    results.write_text(json.dumps([{"question_id": n, "answer": a} for n, a in said.items()]))
    answer = script("evaluate", "--answers", results, "--annotations", annotations, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["metrics"]
    assert found["accuracy"] == pytest.approx((0 + 1 + 0.6 + 0.9) / 4)
    assert found["accuracy_strict"] == pytest.approx((1 + 1 + 0.6 + 0.9) / 4)
    assert found["accuracy/what colour"] == 0.5
    assert found["accuracy/how many"] == pytest.approx(0.6)
    questions = tmp_path / "questions.json"
    rows = [{"question_id": n, "image_id": 1, "question": "what?"} for n in (1, 2, 3, 9)]
    questions.write_text(json.dumps({"questions": rows}))
    with_questions = ["--answers", results, "--annotations", annotations, "--questions", questions]
    assert_clean(script("evaluate", *with_questions), "Are they the annotations of another split?")
    results.write_text(json.dumps([{"question_id": 1, "answer": "x"}]))
    assert_clean(script("evaluate", *with_questions[:4]), "3 of 4", "must have a result, as the official tool has it")
    results.write_text(json.dumps([{"question_id": 8, "answer": "x"}]))
    assert_clean(script("evaluate", *with_questions[:4]), "results must be of the annotated questions")


def test_arguments_that_do_not_go_together(script, vqa_run: Path) -> None:
    for arguments in (
        ["--answers", "a.json"],
        ["--annotations", "a.json"],
        [vqa_run, "--answers", "a.json", "--annotations", "b.json"],
        [vqa_run, "--questions", "a.json"],
        ["--answers", "a.json", "--annotations", "b.json", "--split", "val"],
        ["--answers", "a.json", "--annotations", "b.json", "--captions", "c.json", "--references", "d.json"],
    ):
        answer = script("evaluate", *arguments)
        assert answer.code == 2
        said = ("required", "--questions is for --answers", "--split is for a run or for references")
        assert any(words in answer.err for words in said)


# Two processes ------------------------------------------------------------------------------------------------------


def test_two_processes_train_what_one_trains(tiny_vqa: list[str], tmp_path: Path) -> None:
    """One question of each picture in turn: the loss is a mean over those of each process, who must have as many."""
    words = [*tiny_vqa, "encoder.image.freeze=true", "questions=1", "head.dropout=0"]
    losses = by_one_and_by_two("train_vqa", words, tmp_path, "vqa/answer_loss")
    assert len(losses[0]) == 60 and losses[1] == pytest.approx(losses[0], rel=1e-3)
    documents = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("one", "two")]
    for document in documents:
        assert document["metrics"]["accuracy"] > document["controls"]["question_only"]["accuracy"]
    answers = [read_results(tmp_path / run / "answers.json") for run in ("one", "two")]
    assert answers[0].keys() == answers[1].keys()
