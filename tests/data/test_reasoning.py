"""CLEVR and GQA in their published files: questions of many steps with one right answer."""

from __future__ import annotations

import json
import logging

import pytest

from mm.config import DataConfig
from mm.data import UnreadableError, clevr, gqa, load_asked, questions_of
from mm.data.item import Question

STEPS = {"scene": [], "filter_color": [0], "count": [1], "exist": [1], "query_shape": [1]}
CLEVR = [
    (0, 0, "How many red things are there?", "3", "count"),
    (1, 0, "Is there a cube?", "yes", "exist"),
    (2, 7, "What shape is the big thing?", "cylinder", "query_shape"),
    (3, 50, "Are there more cubes than spheres?", "no", "greater_than"),
    (4, 51, "How many cubes are there?", "0", "count"),
    (5, 100, "Is there a cube?", "no", "exist"),
]
GQA = {
    "train": {
        "02930152": ("2354786", "Is the sky dark?", "yes", "verify"),
        "07333408": ("2375429", "What is on the white wall?", "pipe", "query"),
        "07333405": ("2375429", "Is that pipe red?", "no", "verify"),
    },
    "val": {"05451384": ("2382986", "Are there any dogs?", "no", "logical")},
    "testdev": {
        "201307251": ("n161313", "Is it overcast?", "no", "verify"),
        "201640614": ("n235859", "Who?", "man", ""),
    },
}


def clevr_row(part, question, image, text, answer, last, key="function"):
    steps = [{key: "scene", "inputs": [], "value_inputs": []}, {key: last, "inputs": [0], "value_inputs": ["red"]}]
    return {
        "image_index": image,
        "image_filename": f"CLEVR_{part}_{image:06d}.png",
        "question_index": question,
        "question": text,
        "answer": answer,
        "program": steps,
        "question_family_index": 3,
        "split": part,
    }


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def write_clevr(root, part, rows):
    file = root / "CLEVR_v1.0" / "questions" / f"CLEVR_{part}_questions.json"
    write(file, {"info": {"split": part, "version": "1.0", "license": "CC BY"}, "questions": rows})


@pytest.fixture
def blocks(tmp_path, jpeg):
    """A CLEVR of five training pictures, and the same questions in val."""
    for part in ("train", "val"):
        write_clevr(tmp_path, part, [clevr_row(part, *row) for row in CLEVR])
        for _, image, *_ in CLEVR:
            folder = tmp_path / "CLEVR_v1.0" / "images" / part
            jpeg(folder / "x.jpg").rename(folder / f"CLEVR_{part}_{image:06d}.png")
    return tmp_path


def gqa_file(rows):
    return {
        name: {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "sky (2486325)"}],
            "entailed": [],
            "equivalent": [name],
            "question": text,
            "imageId": image,
            "isBalanced": True,
            "groups": {"global": None, "local": "06-sky_dark"},
            "answer": answer,
            "semanticStr": "select: sky (2486325)",
            "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
            "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": kind},
            "fullAnswer": "Yes, the sky is dark.",
        }
        for name, (image, text, answer, kind) in rows.items()
    }


@pytest.fixture
def scenes(tmp_path, jpeg):
    """A GQA of five pictures."""
    for part, rows in GQA.items():
        write(tmp_path / "gqa" / f"{part}_balanced_questions.json", gqa_file(rows))
        for image, *_ in rows.values():
            jpeg(tmp_path / "gqa" / "images" / f"{image}.jpg")
    return tmp_path


# CLEVR ---------------------------------------------------------------------------------------------------------------


def test_clevr_items_are_pictures_with_their_questions(blocks):
    items = clevr(blocks, "trainval")
    assert [item.id for item in items] == [f"CLEVR_train_{image:06d}" for image in (0, 7, 50, 51, 100)]
    assert items[0].questions == (
        Question("train-0", "How many red things are there?", ("3",), "count", "number"),
        Question("train-1", "Is there a cube?", ("yes",), "exist", "yes/no"),
    )
    assert items[1].questions[0].answer_type == "other"
    assert items[0].image == (blocks / "CLEVR_v1.0" / "images" / "train" / "CLEVR_train_000000.png",)
    assert all(item.image[0].is_file() and item.owner == item.id for item in items)


def test_clevr_programs_of_either_edition_say_what_kind_a_question_is(blocks):
    expected = list(questions_of(clevr(blocks, "trainval")))
    write_clevr(blocks, "train", [clevr_row("train", *row, key="type") for row in CLEVR])
    assert list(questions_of(clevr(blocks, "trainval"))) == expected
    assert [question.type for question in expected] == [row[4] for row in CLEVR]


def test_clevr_splits(blocks):
    train, val, both, test = (clevr(blocks, split) for split in ("train", "val", "trainval", "test"))
    assert [item.id for item in val] == ["CLEVR_train_000000", "CLEVR_train_000050", "CLEVR_train_000100"]
    assert [item.id for item in train] == ["CLEVR_train_000007", "CLEVR_train_000051"]
    assert sorted(train + val) == sorted(both)
    assert [item.id for item in test] == [
        f"CLEVR_val_{image:06d}" for image in (0, 7, 50, 51, 100)
    ]  # the published val
    ids = [question.id for items in (both, test) for question in questions_of(items)]
    assert len(set(ids)) == len(ids) == 12


def clevr_changed(**change):
    return [*(clevr_row("train", *row) for row in CLEVR), clevr_row("train", 6, 7, "Why?", "no", "exist") | change]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (clevr_changed(question_index=2), "question 2: the question_index comes twice. Leave one of them"),
        (
            clevr_changed(question=" "),
            "question 6 must have a question and an answer, texts and not empty: got ' ', 'no'",
        ),
        (clevr_changed(answer=""), "question 6 must have a question and an answer"),
        (clevr_changed(answer=None), "question 6 must have a question and an answer.*: got 'Why.', None"),
        (clevr_changed(program=[]), r'question 6: the last step of program must have a "function" or "type": got None'),
        (clevr_changed(program=[{"inputs": []}]), "question 6: the last step of program .* got {'inputs'"),
        (clevr_changed(program=None), "question 6: the last step of program"),
        (clevr_changed(image_index="7"), "question 6: question_index and image_index must be whole .* got 6 and '7'"),
        (clevr_changed(question_index=None), "must be whole numbers: got None and 7"),
        (
            [{"question": "Why?", "question_index": 3}],
            r"questions\[0\] must have .*: image_index, image_filename, answer",
        ),
        ("x", "must be an object with a list 'questions'"),
    ],
)
def test_clevr_rows_that_are_wrong(blocks, rows, message):
    write_clevr(blocks, "train", rows)
    with pytest.raises(ValueError, match=message) as caught:
        clevr(blocks, "train", skip_bad=True)
    assert "CLEVR_train_questions.json" in str(caught.value)


def test_clevr_questions_of_a_hidden_test_set_are_named_for_what_they_lack(blocks):
    rows = [{k: v for k, v in clevr_row("val", *row).items() if k not in ("answer", "program")} for row in CLEVR]
    write_clevr(blocks, "val", rows)
    with pytest.raises(ValueError, match=r"questions\[0\] must have .*: answer, program missing"):
        clevr(blocks, "test")


# GQA -----------------------------------------------------------------------------------------------------------------


def test_gqa_items_are_pictures_with_their_questions(scenes):
    items = gqa(scenes, "train")
    assert [item.id for item in items] == ["2354786", "2375429"]
    assert items[0].questions == (Question("02930152", "Is the sky dark?", ("yes",), "verify", "yes/no"),)
    assert [question.id for question in items[1].questions] == ["07333408", "07333405"]
    assert items[1].questions[0] == Question("07333408", "What is on the white wall?", ("pipe",), "query", "other")
    assert items[1].image == (scenes / "gqa" / "images" / "2375429.jpg",) and items[1].owner == "2375429"


def test_gqa_splits_are_the_published_ones(scenes):
    assert [item.id for item in gqa(scenes, "val")] == ["2382986"]
    assert list(gqa(scenes, "trainval")) == [*gqa(scenes, "train"), *gqa(scenes, "val")]
    test = gqa(scenes, "test")
    assert [item.id for item in test] == ["n161313", "n235859"] and test[1].questions[0].type == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be JSON in UTF-8"),
        ([], "must be an object of questions by their ids: got list"),
        (
            {"7": {"question": "Why?", "answer": "so"}},
            "question 7 must have imageId, question, answer: imageId missing",
        ),
        ({"7": "Why?"}, "question 7 must have imageId, question, answer: imageId, question, answer missing"),
        ({"7": {"imageId": "1", "question": "", "answer": "so"}}, "question 7 must have a question and an answer"),
        ({"7": {"imageId": "1", "question": "Why?", "answer": 3}}, "question 7 must have .*: got 'Why.', 3"),
        (
            {"7": {"imageId": "1", "question": "Why?", "answer": "so", "types": ["query"]}},
            r'question 7: types must be an object whose "structural" is text: got \[\'query\'\]',
        ),
        (
            {"7": {"imageId": "1", "question": "Why?", "answer": "so", "types": {"structural": 3}}},
            "question 7: types must be an object",
        ),
        ('{"7": {"imageId": "1"}, "8": {}, "7": {}}', "the key '7' comes twice"),
    ],
)
def test_gqa_files_that_are_wrong(scenes, content, message):
    write(scenes / "gqa" / "train_balanced_questions.json", content)
    for split in ("train", "trainval"):
        with pytest.raises(ValueError, match=message) as caught:
            gqa(scenes, split, skip_bad=True)
        assert "train_balanced_questions.json" in str(caught.value)


@pytest.mark.parametrize("types", [None, {}, {"structural": None}])
def test_gqa_without_types(scenes, types):
    content = {"7": {"imageId": "2354786", "question": "Why?", "answer": "so", "types": types}}
    write(scenes / "gqa" / "train_balanced_questions.json", content)
    assert [question.type for question in questions_of(gqa(scenes, "train"))] == [""]


# Both ----------------------------------------------------------------------------------------------------------------


def test_a_set_that_is_not_there_says_where_to_look(tmp_path):
    for name, read in (("CLEVR_v1.0", clevr), ("gqa", gqa)):
        with pytest.raises(FileNotFoundError, match=rf"{name} must hold .*questions\.json, images.*docs/data\.md"):
            read(tmp_path, "test")
        with pytest.raises(ValueError, match=r"unknown split 'tset'.*Did you mean 'test'"):
            read(tmp_path, "tset")


def test_through_the_settings(blocks, scenes):
    for name, read in (("clevr", clevr), ("gqa", gqa)):
        assert list(load_asked(DataConfig(name=name, root=str(blocks)), "test")) == list(read(blocks, "test"))


@pytest.mark.parametrize(
    ("read", "train", "test"),
    [
        (clevr, "CLEVR_v1.0/images/train/CLEVR_train_000007.png", "CLEVR_v1.0/images/val/CLEVR_val_000050.png"),
        (gqa, "gqa/images/2375429.jpg", "gqa/images/n161313.jpg"),
    ],
)
def test_a_missing_picture_stops_or_is_counted_in_training(blocks, scenes, caplog, read, train, test):
    for file in (train, test):
        (blocks / file).unlink()
    whole = len(list(questions_of(read(blocks, "val"))))
    with pytest.raises(UnreadableError, match=rf"question \S+ is about .*{train[-11:]}, which is not there.*skip_bad"):
        read(blocks, "train")
    with caplog.at_level(logging.WARNING):
        kept = read(blocks, "train", skip_bad=True)
    assert len(kept) == 1 and len(kept.skipped) == 1 and "left out 1 unreadable rows" in caplog.text
    assert len(read(blocks, "trainval", skip_bad=True)) == 1 + len(read(blocks, "val", skip_bad=True))
    assert len(list(questions_of(read(blocks, "val", skip_bad=True)))) == whole
    with pytest.raises(UnreadableError, match=rf"{test[-11:]}, which is not there"):
        read(blocks, "test", skip_bad=True)
