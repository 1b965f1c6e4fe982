"""Questions of many steps with one right answer: CLEVR (Johnson et al. 2017) and GQA (Hudson and Manning 2019)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from mm.data.asked import answer_type
from mm.data.item import Faults, Item, Items, Question, may_skip, parts, require
from mm.data.vqa_files import rows_of
from mm.files import read_json

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
    needed = ("question_index", "image_index", "image_filename", "question", "answer", "program")
    for row in rows_of(folder / name, "questions", needed):
        if split == "test" or ("train", "val")[row["image_index"] % CLEVR_VAL_EVERY == 0] in wanted:
            last = row["program"][-1]
            kind = last.get("function") or last["type"]  # by whether the file is the first edition
            question = one_answer(f"{part}-{row['question_index']}", row["question"], row["answer"], kind)
            asked[row["image_filename"]].append(question)
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
        for number, row in read_json(folder / name).items():
            if missing := {"imageId", "question", "answer"} - set(row):
                raise ValueError(f"{folder / name}: question {number} lacks {', '.join(sorted(missing))}.")
            kind = row.get("types", {}).get("structural", "")
            asked[f"{row['imageId']}.jpg"].append(one_answer(number, row["question"], row["answer"], kind))
    return pictured(asked, folder / "images", Faults(f"gqa {split}", may_skip(skip_bad, split)))


def one_answer(name: str, text: str, answer: Any, kind: str) -> Question:
    """A question with one right answer."""
    return Question(name, text, (str(answer),), kind, answer_type(str(answer)))


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
