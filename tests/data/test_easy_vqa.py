"""easy-VQA: the published rows, one picture in twenty held out, and how far a question alone gets."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import pytest

from mm.config import DataConfig
from mm.data import UnreadableError, easy_vqa, load_asked, questions_of
from mm.data.item import Question
from mm.metrics.answers import accuracy

ROWS = [
    ["what is the blue shape?", "rectangle", 1],
    ["what color is the shape?", "blue", 1],
    ["is there a red shape?", "no", 40],
    ["what color is the shape?", "teal", 0],
    ["is there a circle?", "yes", 1],
    ["what shape is present?", "circle", 21],
    ["is there not a circle?", "yes", 40],
]


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "questions.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))


@pytest.fixture
def small(tmp_path, jpeg):
    """Pictures 0, 1, 21 and 40 of train, 0 and 20 of test."""
    write(tmp_path / "easy_vqa" / "train", ROWS)
    write(tmp_path / "easy_vqa" / "test", [["is there a circle?", "no", 20], ["what shape is it?", "triangle", 0]])
    for part, images in (("train", (0, 1, 21, 40)), ("test", (0, 20))):
        for image in images:
            jpeg(tmp_path / "easy_vqa" / part / "images" / "x.jpg").rename(
                tmp_path / "easy_vqa" / part / "images" / f"{image}.png"
            )
    return tmp_path


def test_an_item_is_a_picture_with_its_questions(small):
    items = easy_vqa(small, "trainval")
    assert [item.id for item in items] == ["train-0", "train-1", "train-21", "train-40"]
    first = items[1]
    assert first.owner == "train-1" and first.image == (small / "easy_vqa" / "train" / "images" / "1.png",)
    assert first.questions == (
        Question("train-0", "what is the blue shape?", ("rectangle",), "shape"),
        Question("train-1", "what color is the shape?", ("blue",), "colour"),
        Question("train-4", "is there a circle?", ("yes",), "yes/no", "yes/no"),
    )
    assert all(item.image[0].is_file() and item.text == item.audio == () for item in items)


def test_val_is_held_out_of_train_by_picture(small):
    train, val, test = (easy_vqa(small, split) for split in ("train", "val", "test"))
    assert [item.id for item in train] == ["train-1", "train-21"]
    assert [item.id for item in val] == ["train-0", "train-40"]
    assert [item.id for item in test] == ["test-0", "test-20"]
    assert sorted(train + val) == sorted(easy_vqa(small, "trainval"))
    assert list(load_asked(DataConfig(name="easy_vqa", root=str(small)), "val")) == list(val)


def test_a_set_that_is_not_there_says_where_to_look(small):
    with pytest.raises(
        FileNotFoundError, match=r"easy_vqa must hold train/questions\.json, .* not found\. docs/data\.md"
    ):
        easy_vqa(small / "elsewhere", "train")
    (small / "easy_vqa" / "test" / "questions.json").unlink()
    with pytest.raises(FileNotFoundError, match=r": test/questions\.json not found"):
        easy_vqa(small, "test")
    assert len(easy_vqa(small, "train")) == 2
    with pytest.raises(ValueError, match=r"unknown split 'valid'.*Did you mean 'val'"):
        easy_vqa(small, "valid")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["why?", "no"], r"row 7 must be question, answer and picture number: got \['why\?', 'no'\]"),
        ("why?", "row 7 must be question, answer and picture number: got why"),
        (["", "no", 1], "row 7 must be question, answer and picture number"),
        ([" \n", "no", 1], "row 7 must be question, answer and picture number"),
        (["why?", "", 1], "row 7 must be question, answer and picture number"),
        ([None, "no", 1], "row 7 must be question, answer and picture number"),
        (["why?", 3, 1], "row 7 must be question, answer and picture number"),
        (["why?", "no", "1"], "row 7 must be question, answer and picture number"),
        (["why?", "no", 3], r"row 7 is about images/3\.png, which is not there"),
    ],
)
def test_rows_that_cannot_be_used_stop_or_are_counted_in_training(small, row, message):
    write(small / "easy_vqa" / "train", [*ROWS, row])
    for split in ("train", "trainval"):
        with pytest.raises(UnreadableError, match=message + r".*data\.skip_bad=true"):
            easy_vqa(small, split)
        kept = easy_vqa(small, split, skip_bad=True)
        assert len(kept.skipped) == 1 and f"questions.json: {message[:5]}" in kept.skipped[0]
        assert len(list(questions_of(kept))) == {"train": 4, "trainval": 7}[split]
    assert len(easy_vqa(small, "val", skip_bad=True)) == 2  # whose rows are sound


@pytest.mark.parametrize("row", [["", "no", 40], ["why?", "no", 60]])
def test_rows_of_val_and_test_are_never_skipped(small, row):
    write(small / "easy_vqa" / "train", [*ROWS, row])
    write(small / "easy_vqa" / "test", [row])
    for split in ("val", "test"):
        with pytest.raises(UnreadableError):
            easy_vqa(small, split, skip_bad=True)


def test_a_damaged_file(small):
    write(small / "easy_vqa" / "train", '[["why?", ')
    with pytest.raises(ValueError, match=r"questions\.json must be JSON in UTF-8"):
        easy_vqa(small, "train", skip_bad=True)
    write(small / "easy_vqa" / "train", {"questions": ROWS})
    with pytest.raises(ValueError, match=r"questions\.json must be a list of question, answer .* got dict"):
        easy_vqa(small, "train", skip_bad=True)


def test_the_published_set(real_data):
    root = real_data("easy_vqa").parent
    train, val, test, both = (easy_vqa(root, split) for split in ("train", "val", "test", "trainval"))
    assert [len(items) for items in (train, val, test, both)] == [3800, 200, 1000, 4000]
    asked, known = list(questions_of(test)), list(questions_of(both))
    assert len(known) == 38575 and len(asked) == 9673
    assert {item.id for item in train}.isdisjoint(item.id for item in val)
    assert len({question.id for question in known}) == len(known)
    answers = set((root / "easy_vqa" / "answers.txt").read_text().split())
    assert {question.answers[0] for question in known + asked} == answers and len(answers) == 13
    kinds = Counter(question.type for question in asked)
    assert kinds["yes/no"] == 7136 and set(kinds) == {"yes/no", "shape", "colour"}
    assert {question.answer_type for question in known if question.type != "yes/no"} == {"other"}
    assert all(item.image[0].is_file() for item in test[:20])

    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question in known:
        counts[question.text][question.answers[0]] += 1
    scores = [accuracy(counts[question.text].most_common(1)[0][0], question.answers) for question in asked]
    assert round(sum(scores) / len(scores), 4) == 0.67  # the bar of who reads the question alone
    yes = [accuracy("yes", question.answers) for question in asked]
    assert round(sum(yes) / len(yes), 4) == 0.3733
