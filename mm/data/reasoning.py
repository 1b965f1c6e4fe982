"""Questions of many steps with one right answer: CLEVR (Johnson et al. 2017) and GQA (Hudson and Manning 2019)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from mm.data.asked import answer_type
from mm.data.item import Faults, Item, Items, Question, may_skip, parts, require
from mm.data.vqa_files import rows_of
from mm.files import read_json
from mm.vocabulary import tokenize

CLEVR_VAL_EVERY = 50  # of the training pictures one in so many is our val; the published val is what is tested on
GQA_PARTS = {"train": "train_balanced", "val": "val_balanced", "test": "testdev_balanced"}


def clevr(root: Path, split: str, skip_bad: bool = False) -> Items:
    """CLEVR v1.0: 70,000 training pictures with ten questions each; tested on val, for answers of test are not public.

    Args:
        root: holds `CLEVR_v1.0/questions/CLEVR_<part>_questions.json` and `CLEVR_v1.0/images/<part>/`.
        split: "train", "val" (a fiftieth of the training pictures, which train then lacks), "trainval" or "test".
        skip_bad: leave out training questions whose picture is missing, and count them.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: a picture is missing.
        ValueError: a damaged file.
    """
    wanted, part = parts(split), "val" if split == "test" else "train"
    folder = require(root / "CLEVR_v1.0", name := f"questions/CLEVR_{part}_questions.json", f"images/{part}")
    asked: dict[str, list[Question]] = defaultdict(list)
    seen: set[int] = set()
    needed = ("question_index", "image_index", "image_filename", "question", "answer", "program")
    for row in rows_of(folder / name, "questions", needed):
        number, image, program = row["question_index"], row["image_index"], row["program"]
        where = f"{folder / name}: question {number!r}"
        if not isinstance(number, int) or not isinstance(image, int):
            got = f"{number!r} and {image!r}"
            raise ValueError(f"{where}: question_index and image_index must be whole numbers: got {got}.")
        if number in seen:
            raise ValueError(f"{where}: the question_index comes twice. Leave one of them.")
        seen.add(number)
        if split == "test" or ("train", "val")[image % CLEVR_VAL_EVERY == 0] in wanted:
            last = program[-1] if isinstance(program, list) and program else None
            kind = last.get("function", last.get("type")) if isinstance(last, dict) else None  # by edition of the file
            if not isinstance(kind, str):
                raise ValueError(f'{where}: the last step of program must have a "function" or "type": got {last!r}.')
            question = one_answer(f"{part}-{number}", row["question"], row["answer"], kind, where)
            asked[str(row["image_filename"])].append(question)
    return pictured(asked, folder / "images" / part, Faults(f"CLEVR {split}", may_skip(skip_bad, split)))


def gqa(root: Path, split: str, skip_bad: bool = False) -> Items:
    """GQA, the balanced questions: train, val, and testdev as test.

    Args:
        root: holds `gqa/<part>_balanced_questions.json` and `gqa/images/`.
        split: "train", "val", "trainval" or "test".
        skip_bad: leave out training questions whose picture is missing, and count them.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: a picture is missing.
        ValueError: a damaged file.
    """
    asked: dict[str, list[Question]] = defaultdict(list)
    for part in parts(split):
        folder = require(root / "gqa", name := f"{GQA_PARTS[part]}_questions.json", "images")
        rows = read_json(folder / name, unique=True)
        if not isinstance(rows, dict):
            raise ValueError(f"{folder / name} must be an object of questions by their ids: got {type(rows).__name__}.")
        for number, row in rows.items():
            where = f"{folder / name}: question {number}"
            missing = [key for key in ("imageId", "question", "answer") if not isinstance(row, dict) or key not in row]
            if missing:
                raise ValueError(f"{where} must have imageId, question, answer: {', '.join(missing)} missing.")
            types = row.get("types") or {}
            kind = types.get("structural") or "" if isinstance(types, dict) else types
            if not isinstance(kind, str):
                raise ValueError(f'{where}: types must be an object whose "structural" is text: got {types!r}.')
            asked[f"{row['imageId']}.jpg"].append(one_answer(number, row["question"], row["answer"], kind, where))
    return pictured(asked, folder / "images", Faults(f"gqa {split}", may_skip(skip_bad, split)))


def one_answer(name: str, text: Any, answer: Any, kind: str, where: str) -> Question:
    """A question with one right answer.

    Raises:
        ValueError: question or answer is no text, or empty.
    """
    if not all(isinstance(words, str) and words.strip() for words in (text, answer)) or not tokenize(text):
        raise ValueError(f"{where} must have a question and an answer, texts and not empty: got {text!r}, {answer!r}.")
    return Question(name, text, (answer,), kind, answer_type(answer))


def pictured(asked: dict[str, list[Question]], pictures: Path, faults: Faults) -> Items:
    """An item for every picture that is asked about."""
    present = {file.name for file in pictures.iterdir()}
    items = []
    for image, questions in asked.items():
        if image in present:
            name = Path(image).stem
            items.append(Item(name, name, image=(pictures / image,), questions=tuple(questions)))
        else:
            faults.add(f"question {questions[0].id} is about {pictures / image}, which is not there.")
    return faults.items(items)
