"""VQA v2's official files through the scripts: trained on, answered, written, scored, as its server would."""

import json
from pathlib import Path

import pytest
from PIL import Image

from mm.data import V2
from mm.data.vqa_files import V2_TEST_DEV, read_results
from tests.shared import ROOT

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 30), "blue": (40, 60, 220)}
ASKED = ("What colour is the wall?", "Is the wall painted?")
ONLY_IN_TEST = ("Which zebra?", "stripes")


def said(colour: str) -> tuple[list[str], list[str]]:
    """What ten people answer to each of `ASKED`."""
    return [colour] * 6 + [f"{colour.title()}."] * 2 + ["grey"] * 2, ["yes"] * 7 + ["no"] * 3


def part(root: Path, name: str, images: list[int], edition=V2) -> None:
    """Pictures of one colour, a questions file and, of train and val, an annotations file."""
    hidden = name.endswith("2015")
    folder = "test2015" if hidden else name
    (root / "coco" / folder).mkdir(parents=True, exist_ok=True)
    (root / edition.folder).mkdir(exist_ok=True)
    questions, annotations = [], []
    for image in images:
        colour = list(COLOURS)[image % 3]
        Image.new("RGB", (40, 40), COLOURS[colour]).save(root / "coco" / folder / f"COCO_{folder}_{image:012d}.jpg")
        more = [(ONLY_IN_TEST[0], [ONLY_IN_TEST[1]] * 10)] if name == "val2014" and image == images[0] else []
        for k, (text, people) in enumerate([*zip(ASKED, said(colour), strict=True), *more]):
            number = 1000 * image + k
            questions.append({"question_id": number, "image_id": image, "question": text})
            answers = [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(people, 1)]
            kind = {"question_type": text.split()[0].lower(), "answer_type": "yes/no" if k == 1 else "other"}
            annotations.append({"question_id": number, "image_id": image, "answers": answers, **kind})
    (root / edition.folder / edition.questions.format(name)).write_text(json.dumps({"questions": questions}))
    if not hidden:
        (root / edition.folder / edition.annotations.format(name)).write_text(json.dumps({"annotations": annotations}))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("official")
    part(root, "train2014", list(range(1, 52)))  # 50 is val
    part(root, "val2014", list(range(100, 112)))
    part(root, "test-dev2015", [201, 202], V2_TEST_DEV)
    return root


@pytest.fixture(scope="module")
def run(script, official: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "v2"
    small = ["name=small_cnn", "weights=", "freeze=false", "cache=false", "size=32"]
    answer = script(
        "train_vqa",
        *["--config", str(ROOT / "configs/vqa/vqa_v2.yaml"), f"data.root={official}", f"out={out}"],
        *[f"encoder.image.{setting}" for setting in small],
        *["encoder.text.hidden=32", "encoder.text.word_dim=16", "head.dim=32", "head.hidden=32", "min_count=1"],
        *["data.batch_size=17", "data.workers=0", "optim.lr=5e-3", "optim.warmup_steps=5"],
        *["loop.steps=60", "loop.evaluate_every=0", "loop.checkpoint_every=60"],
    )
    assert answer.code == 0, answer.err
    return out


def test_colours_are_learned_and_scored_as_ten_people_have_it(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())["metrics"]
    assert metrics["accuracy/what"] == 1.0 and metrics["accuracy/is"] == 1.0
    assert metrics["accuracy"] == pytest.approx(24 / 25)  # nobody could know the zebra
    assert 0 <= metrics["ECE"] < 0.5


def test_words_and_answers_are_those_of_training_questions_alone(run: Path) -> None:
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "best").read_text().strip()
    answers = json.loads((checkpoint / "answerer.json").read_text())["answers"]
    assert set(answers) == {"red", "green", "blue", "yes"}
    assert "wall" in (told := (checkpoint / "encoders.json").read_text()) and "zebra" not in told


def test_the_results_file_is_scored_as_the_run_was(script, run: Path, official: Path, tmp_path: Path) -> None:
    written = tmp_path / "results.json"
    answer = script("evaluate", run, "--write", written, "--json")
    assert answer.code == 0, answer.err
    expected = json.loads(answer.out)["metrics"]
    annotations = official / V2.folder / V2.annotations.format("val2014")
    alone = script("evaluate", "--answers", written, "--annotations", annotations, "--json")
    found = json.loads(alone.out)["metrics"]
    assert found.keys() == expected.keys() - {"ECE"}
    assert found == pytest.approx({key: expected[key] for key in found})
    assert read_results(written) == read_results(run / "answers.json")


def test_a_hidden_test_set_is_answered_for_the_server(script, run: Path, tmp_path: Path) -> None:
    written = tmp_path / "test-dev.json"
    answer = script("evaluate", run, "data.name=vqa_v2_test_dev", "--write", written, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["metrics"] == {}
    assert read_results(written) == {"201000": "red", "201001": "yes", "202000": "green", "202001": "yes"}
