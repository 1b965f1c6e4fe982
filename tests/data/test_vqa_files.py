"""VQA's official files: what is read is what stands in them, what is wrong is named, and results pair up."""

from __future__ import annotations

import json
import logging

import pytest

from mm.config import DataConfig
from mm.data import V1, V2, UnreadableError, load_asked, questions_of, vqa
from mm.data.item import Question
from mm.data.vqa_files import annotated, matched, read_annotations, read_questions, read_results, write_results
from mm.metrics.answers import evaluate

ABOUT = {"description": "This is a small set.", "version": "2.0", "year": 2017}
HEAD = {"info": ABOUT, "license": {"name": "CC BY 4.0"}, "data_type": "mscoco"}
CHOICES = ["yes", "no", "1", "2", "3", "4", "red", "blue", "green", "white", "cat", "dog"]
PEOPLE = {
    9000: ("Is this a dog?", "is this a", "yes/no", ["yes"] * 7 + ["no"] * 3),
    9001: ("How many cats are there?", "how many", "number", ["2"] * 4 + ["Two."] * 3 + ["3"] * 3),
    50000: ("What colour is the bus?", "what color is the", "other", ["red"] * 10),
    100000: ("Warum?", "none of the above", "other", ["keine Ahnung"] * 9 + ["…"]),
    151002: ("Is it a\ncat?", "is it a", "yes/no", ["no"] * 10),
}
QUESTIONS = "OpenEnded_mscoco_{}_questions.json"


def question_rows(names=PEOPLE, choices=False):
    more = {"multiple_choices": CHOICES} if choices else {}
    return [{"question_id": n, "image_id": n // 1000, "question": PEOPLE[n][0], **more} for n in names]


def questions_file(part, rows, task="Open-Ended"):
    return {**HEAD, "task_type": task, "data_subtype": part, "questions": rows}


def annotation_rows(names=PEOPLE):
    rows = []
    for name in names:
        _, kind, answer_type, said = PEOPLE[name]
        answers = [{"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(said, start=1)]
        row = {"question_type": kind, "multiple_choice_answer": said[0], "answers": answers}
        rows.append({**row, "image_id": name // 1000, "answer_type": answer_type, "question_id": name})
    return rows


def annotations_file(part, rows):
    return {**HEAD, "data_subtype": part, "annotations": rows}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


@pytest.fixture
def small(tmp_path, jpeg):
    """Both editions: pictures 9, 50, 100 and 151 of train2014, 9 and 50 of val2014."""
    for edition in (V1, V2):
        for part, names in (("train2014", PEOPLE), ("val2014", (9000, 9001, 50000))):
            folder = tmp_path / edition.folder
            write(folder / edition.questions.format(part), questions_file(part, question_rows(names)))
            write(folder / edition.annotations.format(part), annotations_file(part, annotation_rows(names)))
            for image in {name // 1000 for name in names}:
                jpeg(tmp_path / "coco" / part / f"COCO_{part}_{image:012d}.jpg")
    jpeg(tmp_path / "coco" / "train2014" / "COCO_train2014_000000000777.jpg")  # nobody asks about it
    return tmp_path


# The sets ------------------------------------------------------------------------------------------------------------


def test_names_of_the_published_files():
    assert V2.questions.format("train2014") == "v2_OpenEnded_mscoco_train2014_questions.json"
    assert V2.annotations.format("val2014") == "v2_mscoco_val2014_annotations.json"
    assert V1.questions.format("val2014") == "OpenEnded_mscoco_val2014_questions.json"
    assert V1.annotations.format("train2014") == "mscoco_train2014_annotations.json"


@pytest.mark.parametrize("edition", [V1, V2])
def test_an_item_is_a_photograph_with_all_its_questions(small, edition):
    items = vqa(small, edition, "trainval")
    assert [item.id for item in items] == ["9", "50", "100", "151"]
    first = items[0]
    assert first.owner == "9" and first.text == () and first.audio == ()
    assert first.image == (small / "coco" / "train2014" / "COCO_train2014_000000000009.jpg",)
    assert all(item.image[0].is_file() for item in items)
    for question in questions_of(items):
        text, kind, answer_type, said = PEOPLE[int(question.id)]
        assert question == Question(question.id, text, tuple(said), kind, answer_type)
    assert [question.id for question in first.questions] == ["9000", "9001"]


@pytest.mark.parametrize("edition", [V1, V2])
def test_val_is_held_out_of_train_by_picture_and_test_is_the_published_val(small, edition):
    train, val, both, test = (vqa(small, edition, split) for split in ("train", "val", "trainval", "test"))
    assert [item.id for item in val] == ["50", "100"] and [item.id for item in train] == ["9", "151"]
    assert sorted(train + val) == sorted(both)
    assert {item.image[0] for item in train}.isdisjoint(item.image[0] for item in val)
    assert [item.id for item in test] == ["9", "50"]  # all of them
    assert {item.image[0].parent.name for item in test} == {"val2014"}
    with pytest.raises(ValueError, match=r"unknown split 'dev'"):
        vqa(small, edition, "dev")


def test_one_picture_in_fifty_is_val(tmp_path, jpeg):
    images = range(1, 201)
    rows = [{"question_id": 10 * i, "image_id": i, "question": "why?"} for i in images]
    said = [{"answer": "so", "answer_id": 1}]
    more = {"question_type": "why", "answer_type": "other", "answers": said}
    write(tmp_path / "vqa_v2" / V2.questions.format("train2014"), {"questions": rows})
    annotations = {"annotations": [{"question_id": 10 * i, "image_id": i, **more} for i in images]}
    write(tmp_path / "vqa_v2" / V2.annotations.format("train2014"), annotations)
    for i in images:
        (tmp_path / "coco" / "train2014").mkdir(parents=True, exist_ok=True)
        (tmp_path / "coco" / "train2014" / f"COCO_train2014_{i:012d}.jpg").touch()
    assert [item.id for item in vqa(tmp_path, V2, "val")] == ["50", "100", "150", "200"]
    assert len(vqa(tmp_path, V2, "train")) == 196


def test_multiple_choice_of_v1(small):
    choice = V1._replace(questions="MultipleChoice_mscoco_{}_questions.json")
    rows = question_rows(choices=True)
    path = small / "vqa_v1" / choice.questions.format("train2014")
    write(path, questions_file("train2014", rows, "Multiple-Choice"))
    items = vqa(small, choice, "trainval")
    assert all(question.choices == tuple(CHOICES) for question in questions_of(items))
    without = [question._replace(choices=()) for question in questions_of(items)]
    assert without == list(questions_of(vqa(small, V1, "trainval")))


def test_through_the_settings(small):
    for name, edition in (("vqa_v1", V1), ("vqa_v2", V2)):
        cfg = DataConfig(name=name, root=str(small))
        assert list(load_asked(cfg, "train")) == list(vqa(small, edition, "train"))
        blind = load_asked(cfg, "train", modalities=[])
        assert list(questions_of(blind)) == list(questions_of(vqa(small, edition, "train")))
        assert all(item.image == () for item in blind)


def test_a_set_that_is_not_there_says_where_to_look(small):
    (small / "vqa_v2" / V2.annotations.format("val2014")).unlink()
    with pytest.raises(
        FileNotFoundError, match=r"vqa_v2 must hold v2_Open.*: v2_mscoco_val.* not found\. docs/data\.md"
    ):
        vqa(small, V2, "test")
    with pytest.raises(FileNotFoundError, match="coco must hold train2014: train2014 not found"):
        (small / "coco" / "train2014").rename(small / "coco" / "train")
        vqa(small, V1, "train")
    with pytest.raises(ValueError, match=r"unknown data set with questions 'vqa_v3'.*Did you mean 'vqa_v2'"):
        load_asked(DataConfig(name="vqa_v3"), "train")


@pytest.mark.parametrize(("image", "split", "left"), [(9, "train", ["151"]), (9, "trainval", ["50", "100", "151"])])
def test_a_missing_picture_stops_or_is_counted_in_training(small, caplog, image, split, left):
    missing = small / "coco" / "train2014" / f"COCO_train2014_{image:012d}.jpg"
    missing.unlink()
    with pytest.raises(
        UnreadableError, match=rf"question 9000 is about .*{missing.name}, which is not there.*skip_bad"
    ):
        vqa(small, V2, split)
    with caplog.at_level(logging.WARNING):
        items = vqa(small, V2, split, skip_bad=True)
    assert [item.id for item in items] == left and len(items.skipped) == 1
    assert f"vqa_v2 {split}: left out 1 unreadable rows" in caplog.text
    assert len(vqa(small, V2, "val", skip_bad=True)) == 2  # which does not ask about it


def test_a_missing_picture_of_val_or_test_is_never_skipped(small):
    for split, part in (("val", "train2014"), ("test", "val2014")):
        (small / "coco" / part / f"COCO_{part}_000000000050.jpg").unlink()
        with pytest.raises(UnreadableError, match=rf"COCO_{part}_000000000050\.jpg, which is not there"):
            vqa(small, V2, split, skip_bad=True)


def test_annotations_of_another_split_or_edition(small):
    folder = small / "vqa_v2"
    annotations = folder / V2.annotations.format("train2014")
    annotations.write_bytes((folder / V2.annotations.format("val2014")).read_bytes())
    with pytest.raises(ValueError, match=r"2 of 5 are not in it, the first is question_id 100000\. Are they the annot"):
        vqa(small, V2, "val")


# The files -----------------------------------------------------------------------------------------------------------


def test_questions_without_answers(tmp_path):
    """A hidden test set."""
    path = write(tmp_path / "q.json", questions_file("test2015", question_rows()))
    asked = read_questions(path)
    assert list(asked) == [9, 50, 100, 151]
    assert asked[50] == [Question("50000", "What colour is the bus?")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", r"q\.json must be JSON in UTF-8"),
        ("", r"q\.json must be JSON in UTF-8"),
        ([], r"must be an object with a list 'questions': got \[\]"),
        (
            {"annotations": [], "info": 1},
            "must be an object with a list 'questions': got an object with annotations, info",
        ),
        ({"questions": {}}, "must be an object with a list 'questions'"),
        (
            {"questions": [1]},
            r"questions\[0\] must have question_id, image_id, question: question_id, image_id, question",
        ),
        ({"questions": [{"question_id": 1, "image_id": 2}]}, r"questions\[0\] must have .*: question missing"),
        ({"questions": question_rows() + question_rows([50000])}, "question_id 50000 comes twice. Leave one of them"),
        (
            {"questions": [*question_rows(), {"question_id": "9000", "image_id": 1, "question": "x"}]},
            "question_id 9000 comes twice",
        ),
        ({"questions": [{"question_id": 1, "image_id": 2, "question": ""}]}, "question 1 must be text and not empty"),
        (
            {"questions": [{"question_id": 1, "image_id": 2, "question": " \n"}]},
            "question 1 must be text and not empty",
        ),
        ({"questions": [{"question_id": 1, "image_id": 2, "question": None}]}, "not empty: got None"),
        (
            {"questions": [{"question_id": 1, "image_id": "2", "question": "x"}]},
            "image_id of question 1 must be a whole number: got '2'",
        ),
        (
            {"questions": [{"question_id": 1.5, "image_id": 2, "question": "x"}]},
            "question_id must be a whole number or text: got 1.5",
        ),
        (
            {"questions": [{"question_id": 1, "image_id": 2, "question": "x", "multiple_choices": "yes"}]},
            "multiple_choices of question 1 must be a list of texts: got 'yes'",
        ),
        (
            {"questions": [{"question_id": 1, "image_id": 2, "question": "x", "multiple_choices": [1, 2]}]},
            r"multiple_choices of question 1 must be a list of texts: got \[1, 2\]",
        ),
    ],
)
def test_rejected_questions(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_questions(write(tmp_path / "q.json", content))
    assert "q.json" in str(caught.value)


def changed(**change):
    return {"annotations": [*annotation_rows([9000]), annotation_rows([9001])[0] | change]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be JSON in UTF-8"),
        (
            questions_file("train2014", question_rows()),
            "must be an object with a list 'annotations': got an object with",
        ),
        ({"annotations": [{"question_id": 1}]}, "must have .*: answers, question_type, answer_type missing"),
        (changed(question_id=9000), "question_id 9000 comes twice. Leave one of them"),
        (changed(question_id=None), "question_id must be a whole number or text: got None"),
        (changed(answers=[]), "question 9001 must have answers: got none. Leave it out of both files"),
        (changed(answers=None), "question 9001: answers must be a list .* got None"),
        (changed(answers=["yes"]), r"question 9001: answers must be a list .* got \['yes'\]"),
        (changed(answers=[{"answer_id": 1}]), "question 9001: answers must be a list"),
        (changed(answers=[{"answer": 2}]), "question 9001: answers must be a list"),
        (changed(answer_type=None), "question_type and answer_type of question 9001 must be text: got .*None"),
    ],
)
def test_rejected_annotations(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_annotations(write(tmp_path / "a.json", content))
    assert "a.json" in str(caught.value)


def test_annotations_may_be_of_more_questions(tmp_path):
    path = write(tmp_path / "a.json", annotations_file("train2014", annotation_rows()))
    asked = read_questions(write(tmp_path / "q.json", questions_file("train2014", question_rows([50000, 9001]))))
    answered = annotated(asked, path)
    assert [q.id for some in answered.values() for q in some] == ["50000", "9001"]
    assert answered[9] == [Question("9001", PEOPLE[9001][0], tuple(PEOPLE[9001][3]), "how many", "number")]


def test_files_that_are_not_there(tmp_path):
    for read in (read_questions, read_annotations, read_results):
        with pytest.raises(FileNotFoundError, match=r"none\.json must be a JSON file: there is none of this name"):
            read(tmp_path / "none.json")


# Results -------------------------------------------------------------------------------------------------------------


def test_results_round_trip(tmp_path):
    said = {
        "7": "",
        "0": "«naïve» 猫",
        "0070": "a",
        "q-3": 'a "quoted"\nline',
        "²": "b",
        "-5": "c",
        "\u0661": "d",
        "1.0": "e",
    }
    write_results(tmp_path / "new" / "results.json", said)
    assert list(read_results(tmp_path / "new" / "results.json").items()) == list(said.items())
    rows = json.loads((tmp_path / "new" / "results.json").read_text(encoding="utf-8"))
    assert [row["question_id"] for row in rows] == [7, 0, "0070", "q-3", "²", -5, "\u0661", "1.0"]
    assert rows[0] == {"question_id": 7, "answer": ""}  # nothing else, as the official server takes it
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["results.json"]


def test_no_results_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="at least one answer: got none"):
        write_results(tmp_path / "r.json", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "must be JSON in UTF-8"),
        ([], r"must hold a list of .*, at least one: got \[\]"),
        ({"question_id": 1, "answer": "x"}, "must hold a list of .*: got {'question_id'"),
        ([{"question_id": 1, "answer": "x"}, "y"], "entry 1 must be .* got 'y'"),
        ([{"question_id": 1, "caption": "x"}], "entry 0 must be .* got {'question_id': 1, 'caption': 'x'}"),
        ([{"answer": "x"}], "entry 0 must be"),
        ([{"question_id": 1, "answer": 2}], "entry 0 must be"),
        ([{"question_id": True, "answer": "x"}], "question_id must be a whole number or text: got True"),
        ([{"question_id": [1], "answer": "x"}], r"question_id must be a whole number or text: got \[1\]"),
        (
            [{"question_id": i, "answer": "x"} for i in (1, 2, 1)],
            "entry 2: question_id 1 comes twice. Leave one of them",
        ),
        ([{"question_id": i, "answer": "x"} for i in (1, "1")], "entry 1: question_id 1 comes twice"),
    ],
)
def test_rejected_results(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_results(write(tmp_path / "r.json", content))
    assert "r.json" in str(caught.value)


def test_matched_results_stand_in_the_order_of_the_annotations():
    known = {"2": Question("2", "b"), "1": Question("1", "a"), "x": Question("x", "c")}
    assert list(matched({"1": "one", "x": "", "2": "two"}, known, "r.json").items()) == [
        ("2", "two"),
        ("1", "one"),
        ("x", ""),
    ]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (
            {"9000": "a", "12": "b", "13": "c"},
            r"2 of 3 are not, the first is '12' in r\.json.*results of another split",
        ),
        ({"900": "a"}, r"1 of 1 are not, the first is '900' in r\.json\. Are they the results"),
        ({"dgo-1": "a"}, r"the first is 'dgo-1' in r\.json\. Did you mean 'dog-1'\? Are they the results"),
        (
            {"9000": "a"},
            r"every annotated question must have a result.*: 3 of 4 have none in r\.json, the first is '9001'",
        ),
        ({}, "4 of 4 have none"),
    ],
)
def test_what_does_not_match(results, message):
    known = {name: Question(name, "") for name in ("9000", "9001", "50000", "dog-1")}
    with pytest.raises(ValueError, match=message):
        matched(results, known, "r.json")


def test_anyones_results_file_is_scored_by_the_official_rules(tmp_path):
    """Shares by hand: 1; 0.9, for "3" was said thrice; 0, for all say red and "Red." is not red; 0.3; 1."""
    annotations = read_annotations(write(tmp_path / "a.json", annotations_file("val2014", annotation_rows())))
    said = {"151002": "no", "9000": "yes", "9001": "three", "50000": "Red.", "100000": "…"}
    write_results(tmp_path / "r.json", said)
    results = matched(read_results(tmp_path / "r.json"), annotations, "r.json")
    by_name = annotations.items()
    metrics, scores = evaluate(
        results,
        {name: question.answers for name, question in by_name},
        {name: question.type for name, question in by_name},
        {name: question.answer_type for name, question in by_name},
    )
    assert scores.tolist() == pytest.approx([1, 0.9, 0, 0.3, 1])
    assert metrics["accuracy"] == pytest.approx(3.2 / 5) and metrics["accuracy_strict"] == pytest.approx(4.2 / 5)
    assert metrics["accuracy/yes/no"] == 1 and metrics["accuracy/number"] == pytest.approx(0.9)
    assert metrics["accuracy/other"] == pytest.approx(0.15) and metrics["accuracy/what color is the"] == 0
