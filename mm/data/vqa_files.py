"""VQA v1 and v2 in their official JSON files: questions, annotations, and the results that a model writes.

Formats: visualqa.org (Antol et al. 2015, Goyal et al. 2017).
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mm.data.item import Faults, Item, Items, Question, may_skip, parts, require
from mm.files import read_json, write_json
from mm.naming import hint
from mm.vocabulary import tokenize

_NUMBER = re.compile(r"0|-?[1-9][0-9]*")
VAL_EVERY = 50  # of the pictures of train2014 one in so many is our val; the published val2014 is what all test on


class Edition(NamedTuple):
    """File names of one edition of the set, "{}" standing for a part such as train2014.

    Attributes:
        folder: of the files.
        questions: file name.
        annotations: file name.
        test: the part to test on; answers to a part of 2015 are known to the evaluation server alone.
    """

    folder: str
    questions: str
    annotations: str
    test: str = "val2014"


V1 = Edition("vqa_v1", "OpenEnded_mscoco_{}_questions.json", "mscoco_{}_annotations.json")
V1_CHOICES = V1._replace(questions="MultipleChoice_mscoco_{}_questions.json")
V2 = Edition("vqa_v2", "v2_OpenEnded_mscoco_{}_questions.json", "v2_mscoco_{}_annotations.json")
V2_TEST_DEV = V2._replace(test="test-dev2015")


def vqa(root: Path, edition: Edition, split: str, skip_bad: bool = False) -> Items:
    """Photographs of COCO with questions and ten answers each; train on train2014, test on val2014 or for the server.

    Args:
        root: holds `vqa_v1` or `vqa_v2` with the JSON files, and `coco/train2014`, `coco/val2014` with the pictures.
        edition: V1, V1_CHOICES, V2 or V2_TEST_DEV, whose test questions come without answers.
        split: "train", "val" (a fiftieth of the pictures of train2014, which train then lacks), "trainval" or "test".
        skip_bad: leave out training questions whose picture is missing, and count them.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: a picture is missing.
        ValueError: a file is damaged, questions and annotations do not belong together.
    """
    wanted, part = parts(split), edition.test if split == "test" else "train2014"
    hidden, taken = part.endswith("2015"), "test2015" if part.endswith("2015") else part
    names = [edition.questions.format(part), *([] if hidden else [edition.annotations.format(part)])]
    folder, pictures = require(root / edition.folder, *names), require(root / "coco", taken) / taken
    asked = read_questions(folder / names[0])
    if not hidden:
        asked = annotated(asked, folder / names[1])
    faults = Faults(f"{edition.folder} {split}", may_skip(skip_bad, split))
    present = {file.name for file in pictures.glob("*.jpg")}
    items = []
    for image, questions in asked.items():
        if split != "test" and ("train", "val")[image % VAL_EVERY == 0] not in wanted:
            continue
        file = f"COCO_{taken}_{image:012d}.jpg"
        if file not in present:
            where = f"{folder / names[0]}: question {questions[0].id}"
            faults.add(f"{where} is about {pictures / file}, which is not there.")
            continue
        items.append(Item(str(image), str(image), image=(pictures / file,), questions=tuple(questions)))
    return faults.items(items)


def read_questions(path: str | Path) -> dict[int, list[Question]]:
    """Questions by picture, without answers: {"questions": [{"question_id", "image_id", "question"}]}.

    "multiple_choices" of VQA v1 become `choices`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, a question is empty, or a question id comes twice.
    """
    path = Path(path)
    found: dict[int, list[Question]] = defaultdict(list)
    seen: set[str] = set()
    for row in rows_of(path, "questions", ("question_id", "image_id", "question")):
        name, image, text = _id_of(row, path), row["image_id"], row["question"]
        choices = row.get("multiple_choices", [])
        if name in seen:
            raise ValueError(f"{path}: question_id {name} comes twice. Leave one of them.")
        if isinstance(image, bool) or not isinstance(image, int):
            raise ValueError(f"{path}: image_id of question {name} must be a whole number: got {image!r}.")
        if not isinstance(text, str) or not tokenize(text):
            raise ValueError(f"{path}: question {name} must be text and not empty: got {text!r}.")
        if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
            raise ValueError(f"{path}: multiple_choices of question {name} must be a list of texts: got {choices!r}.")
        seen.add(name)
        found[image].append(Question(name, text, choices=tuple(choices)))
    return dict(found)


def annotated(asked: Mapping[int, Sequence[Question]], path: str | Path) -> dict[int, list[Question]]:
    """The same questions with the answers of an annotations file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or is of other questions: the annotations of another split.
    """
    path = Path(path)
    answers = read_annotations(path)
    names = [question.id for questions in asked.values() for question in questions]
    missing = [name for name in names if name not in answers]
    if missing:
        raise ValueError(
            f"{path} must hold the answers to all questions: {len(missing)} of {len(names)} are not in it, the first "
            f"is question_id {missing[0]}. Are they the annotations of another split?"
        )
    return {
        image: [answers[question.id]._replace(text=question.text, choices=question.choices) for question in questions]
        for image, questions in asked.items()
    }


def read_annotations(path: str | Path) -> dict[str, Question]:
    """Questions without their words, by id: {"annotations": [{"question_id", "answers": [{"answer"}], ...}]}.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or a question has no answer, no types, or comes twice.
    """
    path = Path(path)
    found: dict[str, Question] = {}
    for row in rows_of(path, "annotations", ("question_id", "answers", "question_type", "answer_type")):
        name, kinds = _id_of(row, path), (row["question_type"], row["answer_type"])
        if name in found:
            raise ValueError(f"{path}: question_id {name} comes twice. Leave one of them.")
        if not all(isinstance(kind, str) for kind in kinds):
            raise ValueError(f"{path}: question_type and answer_type of question {name} must be text: got {kinds}.")
        found[name] = Question(name, "", _answers(row["answers"], f"{path}: question {name}"), *kinds)
    return found


def write_results(path: str | Path, answers: Mapping[str, str]) -> None:
    """Write answers by question id as the official results: [{"question_id", "answer"}], beside and renamed.

    Ids that are written like whole numbers become numbers, as in the official files.

    Raises:
        ValueError: no answers.
    """
    if not answers:
        raise ValueError(f"results must hold at least one answer: got none for {path}. Answer a question first.")
    rows = [{"question_id": int(n) if _NUMBER.fullmatch(n) else n, "answer": a} for n, a in answers.items()]
    write_json(path, rows)


def read_results(path: str | Path) -> dict[str, str]:
    """Answers by question id, in the order of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or empty, or a question comes twice.
    """
    path = Path(path)
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise ValueError(f'{path} must hold a list of {{"question_id", "answer"}}, at least one: got {_short(rows)}.')
    found: dict[str, str] = {}
    for number, row in enumerate(rows):
        if not (isinstance(row, dict) and isinstance(row.get("answer"), str) and "question_id" in row):
            form = '{"question_id": ..., "answer": "..."}'
            raise ValueError(f"{path}: entry {number} must be {form}: got {_short(row)}.")
        name = _id_of(row, path)
        if name in found:
            raise ValueError(f"{path}: entry {number}: question_id {name} comes twice. Leave one of them.")
        found[name] = row["answer"]
    return found


def matched(results: Mapping[str, str], questions: Mapping[str, Question], where: str) -> dict[str, str]:
    """The results in the order of the annotated questions, each of which must have one: the official tool's rule.

    Raises:
        ValueError: unknown or missing questions.
    """
    unknown = [name for name in results if name not in questions]
    if unknown:
        near = "" if _NUMBER.fullmatch(unknown[0]) else hint(unknown[0], questions)  # numbers are all alike
        raise ValueError(
            f"results must be of the annotated questions: {len(unknown)} of {len(results)} are not, the first is "
            f"{unknown[0]!r} in {where}.{near} Are they the results of another split?"
        )
    missing = [name for name in questions if name not in results]
    if missing:
        raise ValueError(
            f"every annotated question must have a result, as the official tool has it: {len(missing)} of "
            f"{len(questions)} have none in {where}, the first is {missing[0]!r}. Answer them too."
        )
    return {name: results[name] for name in questions}


def rows_of(path: Path, key: str, needed: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of the list under `key` of a JSON file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or an object lacks a key that is needed.
    """
    content = read_json(path)
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        came = f"an object with {', '.join(map(str, content))}" if isinstance(content, dict) else _short(content)
        raise ValueError(f"{path} must be an object with a list {key!r}: got {came}.")
    for number, row in enumerate(rows):
        missing = [name for name in needed if not isinstance(row, dict) or name not in row]
        if missing:
            raise ValueError(f"{path}: {key}[{number}] must have {', '.join(needed)}: {', '.join(missing)} missing.")
    return rows


def _answers(rows: Any, where: str) -> tuple[str, ...]:
    """What people said to one question."""
    if not isinstance(rows, list) or not all(isinstance(r, dict) and isinstance(r.get("answer"), str) for r in rows):
        raise ValueError(f'{where}: answers must be a list of {{"answer": "..."}}: got {_short(rows)}.')
    if not rows:
        raise ValueError(f"{where} must have answers: got none. Leave it out of both files.")
    return tuple(sys.intern(row["answer"]) for row in rows)  # millions, of which few differ


def _id_of(row: dict[str, Any], path: Path) -> str:
    number = row["question_id"]
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise ValueError(f"{path}: question_id must be a whole number or text: got {number!r}.")
    return str(number)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else text[:77] + "..."
