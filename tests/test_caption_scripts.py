"""The captioning scripts as a user meets them: what a run leaves, answers, and one clean message for what is wrong."""

import csv
import json
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mm.config import load as read_config
from mm.data.caption_files import read_results
from mm.engine.log import read_csv
from mm.metrics import captions
from mm.tasks import captioning
from mm.tasks.captioning import Captioning
from tests.shared import assert_clean, assert_same_run, colours, started, weights

REASON = "no Java: there is no program `java` on the PATH. Install a Java runtime, 8 or newer."
SAID = {1: "a man on a horse", 2: "Two dogs playing in the snow!", 3: "a cat"}
REFERENCES = {
    1: ["a man riding a horse", "a person on a brown horse"],
    2: ["two dogs play in the snow", "dogs in deep snow"],
    3: ["a black cat sleeps", "the cat is asleep"],
}


@pytest.fixture(autouse=True)
def hidden(request: pytest.FixtureRequest) -> None:
    """Java starts slowly: one test wants it."""
    if request.function is not test_meteor_where_java_is:
        request.getfixturevalue("no_java")


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def picture(own_table: Path, name: str = "red-circle") -> Path:
    return own_table.parent / f"{name}.jpg"


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def results(path: Path, said: dict) -> Path:
    return write(path, [{"image_id": image, "caption": text} for image, text in said.items()])


def coco(path: Path, references: dict) -> Path:
    rows = [(image, text) for image, texts in references.items() for text in texts]
    annotations = [{"id": n, "image_id": image, "caption": text} for n, (image, text) in enumerate(rows)]
    return write(path, {"images": [{"id": image} for image in references], "annotations": annotations})


def karpathy(path: Path, references: dict, split: str = "test") -> Path:
    rows = [
        {"filename": str(image), "split": split, "sentences": [{"raw": text} for text in texts]}
        for image, texts in references.items()
    ]
    return write(path, {"dataset": "own", "images": rows})


def references_of(own_table: Path, split: str) -> dict[str, list[str]]:
    with own_table.open(newline="") as file:
        return {r["id"]: [r["text_1"], r["text_2"]] for r in csv.DictReader(file) if r["split"] == split}


# What a run leaves --------------------------------------------------------------------------------------------------


def test_a_run_leaves_what_the_design_names(captioning_run: Path, own_table: Path) -> None:
    document = json.loads((captioning_run / "metrics.json").read_text())
    assert list(document) == [
        "task", "split", "metrics", "controls", "seed", "not_computed", "data", "seconds", "versions"
    ]  # fmt: skip
    assert [document[key] for key in ("task", "split", "seed", "data")] == ["captioning", "test", 0, "table"]
    assert document["not_computed"] == {"METEOR": REASON, "SPICE": REASON}
    assert list(document["controls"]) == ["constant_caption", "mean_attention"]
    names = {*(f"BLEU-{n}" for n in range(1, 5)), "ROUGE-L", "CIDEr", "CIDEr-D"}
    for numbers in (document["metrics"], *document["controls"].values()):
        assert names <= set(numbers)
        assert not {"METEOR", "SPICE"} & set(numbers)  # and never 0
    assert document["metrics"]["CIDEr"] > document["controls"]["mean_attention"]["CIDEr"]
    assert document["seconds"] > 0
    assert "constant caption" in (captioning_run / "stdout.log").read_text()
    assert read_config(Captioning, ["--config", str(captioning_run)]).out == str(captioning_run)
    rows = read_csv(captioning_run / "metrics.csv")
    assert {"train/loss", "train/captioning/word_loss", "val/CIDEr", "val/BLEU-4"} <= {row[2] for row in rows}
    losses = [float(row[3]) for row in rows if row[2] == "train/loss"]
    assert losses[-1] < 0.4 * losses[0]
    for pointer in ("last", "best"):
        folder = captioning_run / "checkpoints" / (captioning_run / "checkpoints" / pointer).read_text().strip()
        files = {"model.safetensors", "encoders.json", "captioner.json", "config.yaml", "state.json", "manifest.json"}
        assert files <= {file.name for file in folder.iterdir()}


def test_its_captions_are_cocos_results_and_what_the_model_says(captioning_run: Path, own_table: Path) -> None:
    rows = json.loads((captioning_run / "captions.json").read_text())
    assert all(list(row) == ["image_id", "caption"] for row in rows)
    model, cfg = captioning.load(captioning_run)
    references = references_of(own_table, "test")
    pictures = [picture(own_table, name.removeprefix("test-")) for name in references]
    said = [caption.text for caption in model.describe(pictures, cfg.decoding)]
    assert {row["image_id"]: row["caption"] for row in rows} == dict(zip(references, said, strict=True))


def test_its_pictures(captioning_run: Path, own_table: Path) -> None:
    assert colours(captioning_run / "figures" / "attention.png") > 500
    page = (captioning_run / "captions.html").read_text()
    found = re.findall(r"<h2>(\S+) &middot; score ([\d.]+)</h2><p class=\"said\">(.*?)</p>", page)
    texts = {name: re.sub("<.*?>", "", words) for name, _, words in found}
    assert texts == read_results(captioning_run / "captions.json")
    scores = captions.evaluate(texts, references_of(own_table, "test")).each["CIDEr"]
    assert [float(score) for _, score, _ in found] == pytest.approx(scores, rel=1e-3)
    assert sorted(scores) == list(scores)  # the worst first
    assert page.count("data:image/jpeg;base64,") == 8


def test_again_says_finished_and_gives_the_same(script, tiny_captioning, captioning_run: Path, tmp_path: Path) -> None:
    run = copy(captioning_run, tmp_path / "run")
    found = weights(run)
    (run / "captions.json").unlink()
    answer = script("train_captioning", *tiny_captioning, f"out={run}")
    assert answer.code == 0, answer.err
    assert "is finished at step 60, nothing to train" in answer.out
    assert all(torch.equal(value, found[name]) for name, value in weights(run).items())
    for name in ("metrics.json", "captions.json", "captions.html"):
        assert (run / name).read_text() == (captioning_run / name).read_text(), name
    refused = script("train_captioning", *tiny_captioning, f"out={run}", "head.hidden=40")
    assert_clean(refused, "head.hidden: 32 there, 40 here", "Choose another out=")


def test_sigterm_saves_and_the_same_command_goes_on(
    script, tiny_captioning, captioning_run: Path, tmp_path: Path
) -> None:
    process = started("train_captioning", tiny_captioning, tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "")
    assert "Stopped at step" in output
    assert not (tmp_path / "run" / "metrics.json").exists()
    answer = script("train_captioning", *tiny_captioning, f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    assert "goes on from step" in answer.out
    assert_same_run(tmp_path / "run", captioning_run)
    said = [(run / "captions.json").read_text() for run in (tmp_path / "run", captioning_run)]
    assert said[0] == said[1]


# Training what cannot be trained ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("optim.learning_rate=1", "Did you mean 'optim.lr'?"),
        ("head.hiden=64", "Did you mean 'head.hidden'?"),
        ("modalities=[image]", "'modalities' is not a setting of Captioning. Did you mean 'modality'?"),
        ("head.embed_dim=64", "'head.embed_dim' is not a setting of Captioning"),
        ("encoder.text.name=gru", "'encoder.text.name' is not a setting of Captioning"),
        ("loop.steps=many", "loop.steps must be int: got 'many'"),
        ("head.hidden=wide", "head.hidden must be int: got 'wide'"),
        ("head.attention=sofft", "Did you mean 'soft'?"),
        ("modality=text", 'modality must be "image" | "audio": got'),
        ("modality=video", 'modality must be "image" | "audio": got'),
        ("head.dropout=1", "dropout must be in [0, 1)"),
        ("--beam=3", "settings are written key=value, without dashes"),
        ("--config=configs/captioning/flickr.yaml", "no configuration file"),
        ("encoder.image.name=resnet5", "Did you mean 'resnet50'?"),
        ("encoder.image.weights=nothing.pth", "'nothing.pth' not found"),
        ("encoder.image.init=runs/nothing", "runs/nothing must be a run folder"),
        ("data.batch_size=0", "batch_size must be"),
        ("data.views=0", "views must be"),
        ("data.views=11", "view"),
        ("loop.device=gpu", "device"),
        ("seed=-1", "the seed must be at least 0: got -1"),
        ("data.name=flikr8k", "Did you mean 'flickr8k'?"),
        ("data.file=nothing.csv", "nothing.csv must be a CSV or JSONL file"),
    ],
)
def test_training_with_wrong_settings(script, tiny_captioning, tmp_path: Path, wrong: str, said: str) -> None:
    answer = script("train_captioning", *tiny_captioning, f"out={tmp_path / 'run'}", wrong)
    assert_clean(answer, "train_captioning.py: ", said)
    last = tmp_path / "run" / "checkpoints" / "last"
    assert not last.exists() or last.read_text() == "step-00000000\n"  # nothing was trained


@pytest.mark.parametrize("name", ["flickr8k", "flickr30k", "coco", "clotho", "audiocaps"])
def test_a_missing_data_set(script, tmp_path: Path, name: str) -> None:
    answer = script("train_captioning", f"data.name={name}", f"data.root={tmp_path}", f"out={tmp_path / 'run'}")
    assert_clean(answer, str(tmp_path), "must hold", "docs/data.md", "data.root")


def test_a_run_of_another_task_to_start_from(script, tiny_captioning, tiny_run: Path, tmp_path: Path) -> None:
    answer = script("train_captioning", *tiny_captioning, f"out={tmp_path / 'run'}", f"init={tiny_run}")
    assert_clean(answer, "must be a checkpoint of captioning: there is no captioner.json")


def test_a_table_without_sentences(script, tiny_captioning, tmp_path: Path, own_table: Path) -> None:
    rows = [f"{split}-1,{split},{picture(own_table)}" for split in ("train", "val", "test")]
    table = write(tmp_path / "mute.csv", "\n".join(["id,split,image", *rows, ""]))
    answer = script("train_captioning", *tiny_captioning, f"data.file={table}", f"out={tmp_path / 'run'}")
    assert_clean(answer, "captioning needs items with image and sentences: 0 of 1 have both")


def test_a_damaged_picture_while_training(script, tiny_captioning, own_table: Path, tmp_path: Path) -> None:
    folder = copy(own_table.parent, tmp_path / "own")
    (folder / "red-circle.jpg").write_bytes((folder / "red-circle.jpg").read_bytes()[:300])
    arguments = [*tiny_captioning, f"data.file={folder / 'own.csv'}", f"out={tmp_path / 'run'}", "loop.steps=1"]
    assert_clean(script("train_captioning", *arguments), "red-circle.jpg")
    # Training may skip it, the test split must not.
    arguments += ["data.skip_bad=true", f"out={tmp_path / 'other'}"]
    assert_clean(script("train_captioning", *arguments), "red-circle.jpg", "Truncated")


def test_a_loss_that_is_not_finite(script, tiny_captioning, tmp_path: Path) -> None:
    wild = ["optim.lr=1e38", "optim.warmup_steps=0", "optim.clip_norm=0", "optim.name=sgd"]
    answer = script("train_captioning", *tiny_captioning, *wild, f"out={tmp_path / 'run'}")
    assert_clean(answer, "the loss and its gradient must be finite: at step", "word_loss = ", "Lower optim.lr")


def test_one_item_is_trained_and_its_cider_of_nothing_is_said(
    script, tiny_captioning, tmp_path: Path, own_table: Path
) -> None:
    rows = [f"{split}-1,{split},{picture(own_table)},a red circle" for split in ("train", "val", "test")]
    table = write(tmp_path / "one.csv", "\n".join(["id,split,image,text", *rows, ""]))
    answer = script(
        "train_captioning", *tiny_captioning, f"data.file={table}", f"out={tmp_path / 'run'}", "loop.steps=2"
    )
    assert answer.code == 0, answer.err
    assert "CIDEr of one image is 0 by definition" in answer.out + answer.err
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["metrics"]["CIDEr"] == 0.0


# Evaluating a run ---------------------------------------------------------------------------------------------------


def test_evaluate_prints_what_training_did(script, captioning_run: Path, tmp_path: Path) -> None:
    run = copy(captioning_run, tmp_path / "run")
    document = json.loads((run / "metrics.json").read_text())
    (run / "metrics.json").unlink()
    shown = script("evaluate", run)
    assert shown.code == 0, shown.err
    trained = (run / "stdout.log").read_text()
    lines = [line for line in shown.out.splitlines() if line.strip()]
    assert [line for line in lines if line not in trained] == []
    missing = [f"{name}: not computed: {REASON}" for name in ("METEOR", "SPICE")]
    for line in ("  constant caption", "  mean attention", *missing):
        assert any(found.startswith(line) for found in lines), line
    assert f"{100 * document['metrics']['CIDEr']:.1f}" in shown.out
    rewritten = json.loads((run / "metrics.json").read_text())
    assert rewritten == document


def test_evaluate_json_is_metrics_json(script, captioning_run: Path, tmp_path: Path) -> None:
    run = copy(captioning_run, tmp_path / "run")
    document = json.loads((run / "metrics.json").read_text())
    answer = script("evaluate", "--json", run)
    assert answer.code == 0, answer.err
    shown = json.loads(answer.out)
    assert list(shown) == ["split", "metrics", "controls", "not_computed"]
    assert shown == {key: document[key] for key in shown}


def test_what_is_not_the_runs_own_evaluation_is_not_kept(script, captioning_run: Path, tmp_path: Path) -> None:
    run = copy(captioning_run, tmp_path / "run")
    before = (run / "metrics.json").read_text()
    shown = {}
    for name, arguments in {
        "own": ["--split", "val"],
        "short": ["decoding.max_length=2", "--split", "test"],
        "long": ["--split", "test", "decoding.min_length=12", "decoding.no_repeat=3"],
    }.items():
        answer = script("evaluate", run, *arguments, "--json")
        assert answer.code == 0, answer.err
        shown[name] = json.loads(answer.out)
    assert shown["own"]["split"] == "val"
    assert shown["short"]["metrics"]["words"] <= 2 < shown["own"]["metrics"]["words"] < 12
    assert shown["long"]["metrics"]["words"] >= 12
    assert (run / "metrics.json").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("decoding.bean=2",), "Did you mean 'decoding.beam'?"),
        (("decoding.beam=two",), "decoding.beam must be int"),
        (("decoding.beam=0",), "beam and max_length must be at least 1"),
        (("decoding.length=mean",), "the length rule must be none, avg or wu:<a>"),
        (("head.hidden=8",), "loop.device can be changed: got head.hidden=8"),
        (("init=elsewhere",), "loop.device can be changed: got init=elsewhere"),
        (("data.eval_views=2",), "data.eval_views=2 has no effect here: leave out, or give data.eval_views=1"),
        (("data.file=nothing.csv",), "nothing.csv must be"),
        (("data.name=flickr8k", "data.root=nothing"), "must hold"),
        (("--ensemble", "other"), "--ensemble averages the cosines of retrieval runs: this is a captioning run"),
        (("--partial",), "--partial is for --captions"),
        (("--split", "train"), "invalid choice: 'train'"),
    ],
)
def test_evaluate_a_run_with_wrong_arguments(script, captioning_run: Path, arguments, said: str) -> None:
    before = (captioning_run / "metrics.json").read_text()
    answer = script("evaluate", captioning_run, *arguments)
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err
    assert said in answer.err, answer.err
    assert (captioning_run / "metrics.json").read_text() == before


@pytest.mark.parametrize("name", ["captioner.json", "encoders.json", "model.safetensors", "config.yaml"])
def test_a_damaged_checkpoint_is_named(script, captioning_run: Path, own_table: Path, tmp_path: Path, name) -> None:
    run = copy(captioning_run, tmp_path / "run")
    file = run / "checkpoints" / (run / "checkpoints/best").read_text().strip() / name
    content = file.read_bytes()
    for damaged in (content[:-40], content.replace(b"circle", b"square").replace(b"image", b"imagf"), b""):
        file.write_bytes(damaged)
        if damaged != content:
            assert_clean(script("evaluate", run), name)
            assert_clean(script("caption", run, picture(own_table)), name)
    file.unlink()
    assert_clean(script("caption", run, picture(own_table)), name)


# Anyone's captions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("references", [coco, karpathy])
def test_files_are_scored_without_any_model(
    script, tmp_path: Path, references: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = {n: n if references is coco else f"{n}.jpg" for n in SAID}
    said, theirs = {ids[n]: SAID[n] for n in SAID}, {ids[n]: REFERENCES[n] for n in SAID}
    said_file, their_file = results(tmp_path / "said.json", said), references(tmp_path / "r.json", theirs)
    files = ("--captions", said_file, "--references", their_file)
    for loader in ("mm.tasks.captioning.load", "mm.tasks.retrieval.load", "mm.data.load"):
        monkeypatch.setattr(loader, lambda *given: pytest.fail("a model or a data set is read"))
    answer = script("evaluate", *files, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out) == {
        "metrics": pytest.approx(captions.evaluate(said, theirs).corpus),
        "controls": {},
        "not_computed": {"METEOR": REASON, "SPICE": REASON},
    }
    shown = script("evaluate", *files)
    assert f"{100 * captions.evaluate(said, theirs).corpus['CIDEr']:.1f}" in shown.out
    assert f"METEOR: not computed: {REASON}" in shown.out
    assert {file.name for file in tmp_path.iterdir()} == {"said.json", "r.json"}


def test_the_files_of_a_run_give_its_own_numbers(script, captioning_run: Path, own_table: Path, tmp_path: Path) -> None:
    theirs = coco(tmp_path / "r.json", references_of(own_table, "test"))
    answer = script("evaluate", "--captions", captioning_run / "captions.json", "--references", theirs, "--json")
    assert answer.code == 0, answer.err
    metrics, document = json.loads(answer.out)["metrics"], json.loads((captioning_run / "metrics.json").read_text())
    assert metrics == pytest.approx({name: document["metrics"][name] for name in metrics})
    assert {"CIDEr", "BLEU-4", "ROUGE-L"} <= set(metrics)


def test_the_split_of_karpathys_file(script, tmp_path: Path) -> None:
    said = results(tmp_path / "said.json", {"1": "a cat", "2": "a dog"})
    theirs = karpathy(tmp_path / "r.json", {"1": ["a cat"], "2": ["a dog"]}, split="val")
    answer = script("evaluate", "--captions", said, "--references", theirs, "--split", "val", "--json")
    assert json.loads(answer.out)["metrics"]["BLEU-1"] == pytest.approx(1.0)
    assert_clean(script("evaluate", "--captions", said, "--references", theirs), "no image of the split 'test'")


def test_some_images_without_a_caption(script, tmp_path: Path) -> None:
    few = {n: SAID[n] for n in (1, 3)}
    files = ("--captions", results(tmp_path / "said.json", few), "--references", coco(tmp_path / "r.json", REFERENCES))
    assert_clean(script("evaluate", *files), "1 of 3 have none, the first is 2", "--partial")
    answer = script("evaluate", *files, "--partial", "--json")
    assert answer.code == 0, answer.err
    expected = captions.evaluate(few, {n: REFERENCES[n] for n in few}).corpus
    assert json.loads(answer.out)["metrics"] == pytest.approx(expected)


def test_one_image_has_a_cider_of_nothing_and_it_is_said(script, tmp_path: Path) -> None:
    files = ("--captions", results(tmp_path / "said.json", {1: SAID[1]}))
    files += ("--references", coco(tmp_path / "r.json", {1: REFERENCES[1]}))
    warning = "CIDEr of one image is 0 by definition"
    shown = script("evaluate", *files)
    assert shown.code == 0
    assert warning in shown.out
    answer = script("evaluate", *files, "--json")
    assert answer.code == 0
    assert json.loads(answer.out)["metrics"]["CIDEr"] == 0.0
    assert json.loads(answer.out)["metrics"]["BLEU-1"] > 0.5
    assert warning in answer.err


def test_a_caption_without_words_scores_nothing_and_it_is_said(script, tmp_path: Path) -> None:
    said = SAID | {2: " ... "}
    files = ("--captions", results(tmp_path / "said.json", said), "--references", coco(tmp_path / "r.json", REFERENCES))
    answer = script("evaluate", *files, "--json")
    assert answer.code == 0
    assert "1 of 3 captions have no word: they score 0" in answer.err
    assert json.loads(answer.out)["metrics"] == pytest.approx(captions.evaluate(said, REFERENCES).corpus)


ROWS = [{"image_id": n, "caption": text} for n, text in SAID.items()]
ANNOTATIONS = [{"id": n, "image_id": n, "caption": text} for n, text in SAID.items()]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "got an empty list"),
        ("[{", "said.json must be JSON in UTF-8"),
        ("", "said.json must be JSON in UTF-8"),
        ("[" * 100_000, "said.json must be JSON in UTF-8"),
        ({"1": "a cat"}, "said.json must hold a list"),
        ([*ROWS, ROWS[1]], "image_id 2 comes 2 times"),
        ([*ROWS, {"image_id": 9, "caption": "a dog"}], "1 of 4 are not, the first is of image 9"),
        ([{**row, "image_id": str(row["image_id"])} for row in ROWS], "differs just by its type"),
        (ROWS[:2], "1 of 3 have none, the first is 3"),
        ([{"image_id": 1}], "must be an object with image_id and caption: got the keys image_id"),
        ([{"image_id": 1, "caption": 5}], "the caption of image 1 must be text: got 5"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_results_that_are_wrong(script, tmp_path: Path, content: object, said: str) -> None:
    theirs = coco(tmp_path / "r.json", REFERENCES)
    answer = script("evaluate", "--captions", write(tmp_path / "said.json", content), "--references", theirs)
    assert_clean(answer, "evaluate.py: ", said)
    assert answer.out == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "r.json must be JSON in UTF-8"),
        ([], "must be COCO's captions"),
        ({"images": []}, "no image of the split"),
        ({"annotations": []}, "no image of the split"),
        ({"annotations": [*ANNOTATIONS, {"image_id": 1, "id": 7, "caption": ""}]}, "id 7, image 1: a reference must"),
        ({"annotations": [*ANNOTATIONS, {"image_id": 1, "id": 7, "caption": "..."}]}, "a reference must have a word"),
        ({"images": [{"id": n} for n in (1, 2, 3, 4)], "annotations": ANNOTATIONS}, "1 of 4 have none, the first is 4"),
        ({"images": [{"id": 1}], "annotations": ANNOTATIONS}, "its image 2 must be listed under 'images'"),
        ({"annotations": ANNOTATIONS[:2]}, "1 of 3 are not, the first is of image 3"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_references_that_are_wrong(script, tmp_path: Path, content: object, said: str) -> None:
    said_ = results(tmp_path / "said.json", SAID)
    answer = script("evaluate", "--captions", said_, "--references", write(tmp_path / "r.json", content))
    assert_clean(answer, "evaluate.py: ", said)
    assert answer.out == ""


def test_files_that_are_not_there(script, tmp_path: Path) -> None:
    said, theirs = results(tmp_path / "said.json", SAID), coco(tmp_path / "r.json", REFERENCES)
    for given in ((tmp_path / "no.json", theirs), (said, tmp_path / "no.json")):
        assert_clean(script("evaluate", "--captions", given[0], "--references", given[1]), "no.json")
    assert_clean(script("evaluate", "--captions", said, "--references", tmp_path), str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "a run folder is required, or --captions and --references"),
        (("--captions", "said.json"), "a run folder is required, or --captions and --references"),
        (("--references", "r.json"), "a run folder is required, or --captions and --references"),
        (("RUN", "--captions", "said.json", "--references", "r.json"), "a run folder is required, or --captions"),
        (("--captions", "said.json", "--references", "r.json", "decoding.beam=2"), "which take no settings"),
        (("--captions", "said.json", "--references", "r.json", "--ensemble", "RUN"), "it does not go with files"),
    ],
)
def test_evaluate_what(script, arguments: tuple[str, ...], said: str) -> None:
    answer = script("evaluate", *arguments)
    assert answer.code == 2
    assert "usage:" in answer.err
    assert said in answer.err


def test_meteor_where_java_is(script, tmp_path: Path) -> None:
    pytest.importorskip("pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("no Java")
    few = {1: "A puppy runs in the snow.", 2: "Two kids at the caf\u00e9", 3: ""}
    known = {
        1: ["a dog is running through snow", "the hound ran"],
        2: ["two children in a caf\u00e9"],
        3: ["a cat"],
    }
    said, theirs = results(tmp_path / "said.json", few), coco(tmp_path / "r.json", known)
    shown = json.loads(script("evaluate", "--captions", said, "--references", theirs, "--json").out)
    assert shown["metrics"]["METEOR"] == pytest.approx(0.20727777169898678, abs=1e-7)  # pycocoevalcap's own
    assert "METEOR" not in shown.get("not_computed", {})


# Describing files ---------------------------------------------------------------------------------------------------


def test_pictures_are_described(script, captioning_run: Path, own_table: Path) -> None:
    names = ["blue-square", "red-circle", "blue-square"]
    files = [picture(own_table, name) for name in names]
    answer = script("caption", captioning_run, *files)
    assert answer.code == 0, answer.err
    model, cfg = captioning.load(captioning_run)
    told = model.describe(files, cfg.decoding)
    expected = [
        f"{file}: {caption.text}  ({float(caption.log_probs.mean()):.2f})"
        for file, caption in zip(files, told, strict=True)
    ]
    assert answer.out.splitlines() == expected
    assert answer.err == ""
    assert expected[0] == expected[2] != expected[1]
    assert all(colour in line for colour, line in zip(("blue", "red"), answer.out.splitlines(), strict=False))


def test_json_and_a_picture_of_where_it_looked(script, captioning_run: Path, own_table: Path, tmp_path: Path) -> None:
    grid = tmp_path / "new" / "out.png"
    answer = script("caption", captioning_run, picture(own_table), "--json", "--grid", grid, "--mode", "nearest")
    assert answer.code == 0, answer.err
    (row,) = json.loads(answer.out)
    assert list(row) == ["file", "caption", "words", "log_probs"]
    assert row["file"] == str(picture(own_table))
    assert " ".join(row["words"]) == f"{row['caption']} <end>"
    assert len(row["log_probs"]) == len(row["words"]) and max(row["log_probs"]) <= 0
    assert f"picture: {grid}" in answer.err
    assert colours(grid) > 500
    smooth = tmp_path / "smooth.png"
    assert script("caption", captioning_run, picture(own_table), "--grid", smooth).code == 0
    assert smooth.read_bytes() != grid.read_bytes()


def test_how_sentences_are_written_can_be_chosen(script, captioning_run: Path, own_table: Path) -> None:
    told = {}
    for options in ((), ("--beam", "1"), ("--beam", "8", "--length", "none"), ("--length", "wu:0.7")):
        answer = script("caption", captioning_run, picture(own_table), *options, "--json")
        assert answer.code == 0, answer.err
        told[options] = json.loads(answer.out)[0]
    model, cfg = captioning.load(captioning_run)
    greedy = model.describe([picture(own_table)], captioning.DecodingConfig(**vars(cfg.decoding) | {"beam": 1}))[0]
    assert told["--beam", "1"]["caption"] == greedy.text
    sums = {options: sum(row["log_probs"]) for options, row in told.items()}
    assert sums["--beam", "8", "--length", "none"] >= max(sums.values()) - 1e-3  # the likeliest of all


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "CMYK", "L", "P", "LA"])
def test_pictures_of_every_kind(script, captioning_run: Path, own_table: Path, tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("asked.tif" if mode in ("CMYK", "I;16") else "asked.png")
    with Image.open(picture(own_table)) as image:
        if mode == "I;16":
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(file)
        else:
            image.convert(mode).save(file)
    answer = script("caption", captioning_run, file, "--grid", tmp_path / "grid.png")
    assert answer.code == 0, answer.err
    if mode in ("RGBA", "P"):
        assert "red" in answer.out and "circle" in answer.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing.jpg",), "nothing.jpg"),
        ((".",), "."),
        (("README.md",), "README.md"),
        (("PICTURE", "nothing.jpg"), "nothing.jpg"),
        (("SOUND",), "red-circle.wav"),
        (("--audio", "SOUND"), "describes image: got audio files. Use a run that does."),
        (("PICTURE", "--beam", "0"), "beam and max_length must be at least 1"),
        (("PICTURE", "--no-repeat", "-1"), "no_repeat at least 0"),
        (("PICTURE", "--length", "mean"), "the length rule must be none, avg or wu:<a>, such as wu:0.7: got 'mean'"),
        (("PICTURE", "--length", "wu:x"), "the length rule must be none, avg or wu:<a>"),
    ],
)
def test_what_cannot_be_described(script, captioning_run: Path, own_table: Path, arguments, said: str) -> None:
    files = {"PICTURE": picture(own_table), "SOUND": picture(own_table).with_suffix(".wav")}
    answer = script("caption", captioning_run, *(files.get(word, word) for word in arguments))
    assert_clean(answer, "caption.py: ", said)
    assert answer.out == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "picture files are required, or --audio and sound files"),
        (("PICTURE", "--audio", "SOUND"), "picture files are required, or --audio and sound files"),
        (("PICTURE", "--beam", "few"), "invalid int value: 'few'"),
        (("PICTURE", "--mode", "nearest"), "--mode is for --grid"),
        (("PICTURE", "--mode", "cubic", "--grid", "out.png"), "invalid choice: 'cubic'"),
    ],
)
def test_captions_asked_for_in_the_wrong_form(script, captioning_run: Path, arguments, said: str) -> None:
    answer = script("caption", captioning_run, *arguments)
    assert answer.code == 2
    assert said in answer.err


def test_a_damaged_picture_is_named(script, captioning_run: Path, own_table: Path, tmp_path: Path) -> None:
    file = tmp_path / "broken.jpg"
    for content in (picture(own_table).read_bytes()[:300], b"", b"\xff\xd8\xff nothing"):
        file.write_bytes(content)
        assert_clean(script("caption", captioning_run, picture(own_table), file), "broken.jpg")


def test_a_picture_that_cannot_be_written(script, captioning_run: Path, own_table: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    grid = tmp_path / "file" / "out.png"
    answer = script("caption", captioning_run, picture(own_table), "--grid", grid)
    assert answer.code == 2
    assert str(tmp_path / "file") in answer.err
    assert "Traceback" not in answer.err


def test_runs_that_do_not_describe(script, tiny_run: Path, own_table: Path, tmp_path: Path) -> None:
    answer = script("caption", tiny_run, picture(own_table))
    assert_clean(answer, "must be a checkpoint of captioning: there is no captioner.json. Name another.")
    assert_clean(script("caption", tmp_path / "nothing", picture(own_table)), "nothing must be a run folder")


def test_runs_that_do_not_embed(script, captioning_run: Path, tiny_run: Path, tmp_path: Path) -> None:
    said = (f"{captioning_run} must be a run of retrieval: it is one of captioning", "scripts/train_retrieval.py")
    assert_clean(script("build_index", captioning_run, "--out", tmp_path / "index"), "build_index.py: ", *said)
    assert not (tmp_path / "index").exists()
    question = ("--text", "a red circle", "--run", captioning_run)
    assert_clean(script("query_index", tiny_run / "index", *question), "query_index.py: ", *said)
    assert_clean(script("evaluate", tiny_run, "--ensemble", captioning_run), "evaluate.py: ", *said)
