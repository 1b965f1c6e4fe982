"""easy-VQA (github.com/vzhou842/easy-VQA): questions about one drawn shape of 64x64 pixels, thirteen answers."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from mm.data.asked import answer_type
from mm.data.item import Faults, Item, Items, Question, may_skip, parts, require
from mm.files import read_json
from mm.vocabulary import tokenize

VAL_EVERY = 20  # of the published training pictures one in so many is val: the set has no validation part


def easy_vqa(root: Path, split: str, skip_bad: bool = False) -> Items:
    """3,800 / 200 / 1,000 pictures with about ten questions each.

    Args:
        root: holds `easy_vqa/train` and `easy_vqa/test`, each with `questions.json` (rows of question, answer and
            picture number) and `images/<number>.png`.
        split: "train", "val", "test" or "trainval" for all published training pictures.
        skip_bad: leave out training rows that cannot be used, and count them.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: a row is no question, answer and picture number, or its picture is missing.
        ValueError: the file is damaged.
    """
    wanted, part = parts(split), "test" if split == "test" else "train"
    folder = require(root / "easy_vqa", f"{part}/questions.json", f"{part}/images") / part
    faults = Faults(f"easy_vqa {split}", may_skip(skip_bad, split))
    present = {file.stem for file in (folder / "images").glob("*.png")}
    asked: dict[int, list[Question]] = defaultdict(list)
    file = folder / "questions.json"
    if not isinstance(rows := read_json(file), list):
        raise ValueError(f"{file} must be a list of question, answer and picture number: got {type(rows).__name__}.")
    for number, row in enumerate(rows):
        question, answer, image = row if isinstance(row, list) and len(row) == 3 else ("", "", "")
        in_val = isinstance(image, int) and image % VAL_EVERY == 0
        if split != "test" and ("train", "val")[in_val] not in wanted:
            continue
        if not isinstance(image, int) or not all(isinstance(x, str) and tokenize(x) for x in (question, answer)):
            faults.add(f"{file}: row {number} must be question, answer and picture number: got {row}.")
        elif str(image) not in present:
            faults.add(f"{file}: row {number} is about images/{image}.png, which is not there.")
        else:
            kind = answer_type(answer)
            asked[image].append(Question(f"{part}-{number}", question, (answer,), type_of(answer), kind))
    return faults.items(
        Item(name := f"{part}-{image}", name, image=(folder / "images" / f"{image}.png",), questions=tuple(questions))
        for image, questions in sorted(asked.items())
    )


def type_of(answer: str) -> str:
    """What a question asks for: "yes/no", "shape" or "colour"."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "colour"
