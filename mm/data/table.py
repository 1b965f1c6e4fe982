"""A data set of one's own: a CSV or JSONL file with a row per item."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mm.data.asked import answer_type
from mm.data.item import MODALITIES, SPLITS, Faults, Item, Items, Question, may_skip, parts
from mm.naming import hint
from mm.vocabulary import tokenize

COLUMNS = ("id", "split", "owner", *MODALITIES, "question")
ASKED = ("answer", "type", "choices")  # columns that belong to a question
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")  # 007 and 1e5 are text
NUMBERED = re.compile(rf"({'|'.join(MODALITIES)})(_[0-9]+)?")  # text, text_1, text_2, ...


def table(file: Path, split: str, skip_bad: bool = False) -> Items:
    """One split of a CSV (with a header) or a JSONL file (an object per line), or all of it.

    Columns: `id` (unique) and `split` (train, val or test), both needed, but where all rows are asked for the split may
    be missing, else it is metadata; `image`, `text`, `audio`, of which every row needs one at least: a cell holds one
    source or a JSON list of them, `text_1`, `text_2`, ... hold further ones, an empty cell holds none; `question`, with
    `answer` (one, or a JSON list of what several people said), `type` and `choices` (a JSON list), makes every row a
    question about its picture or sound; `owner` (the same for rows that are the same thing; the id where there is
    none). Every other column is metadata, a number where a cell of a CSV is written as one. Paths are relative to the
    file's folder.

    Args:
        file: `.csv`, or `.jsonl`.
        split: "train", "val", "test" or "trainval"; "" = all rows.
        skip_bad: leave out rows whose files are missing or whose texts are empty, of training splits and of all, and
            count them.

    Raises:
        FileNotFoundError: no such file.
        UnreadableError: a row names a file that is not there or has an empty text; the message gives file and line.
        ValueError: anything else that is wrong with a row or the columns, with file and line; or the split has no rows.
    """
    wanted = parts(split) if split else ()
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} must be a CSV or JSONL file: there is none of this name. Correct data.file, or --csv."
        )
    faults = Faults(f"{file} {split}".rstrip(), may_skip(skip_bad, split) if split else skip_bad)
    lines: dict[str, int] = {}
    items, found = [], set[str]()
    for line, row in _rows(file):
        where = f"{file}:{line}"
        _check_columns(row, where, ("id", "split") if split else ("id",))
        name = str(row["id"]).strip()
        if not name:
            raise ValueError(f"{where}: every row must have an id: got an empty one.")
        if name in lines:
            raise ValueError(f"{where}: the id {name!r} must be unique, line {lines[name]} has it too.")
        lines[name] = line
        if split and (row["split"] not in SPLITS or row["split"] == "trainval"):
            near = hint(str(row["split"]), ("train", "val", "test"))
            raise ValueError(f"{where}: split must be train, val or test: got {row['split']!r}.{near}")
        found.add(str(row.get("split")))
        if split and row["split"] not in wanted:
            continue
        if item := _item(name, row, file.parent, where, faults):
            meta = item.meta if split or "split" not in row else {**item.meta, "split": row["split"]}
            is_text = file.suffix.lower() == ".csv"  # every cell
            items.append(item._replace(meta={c: _number(cell) for c, cell in meta.items()} if is_text else meta))
    if split and not found & set(wanted):
        raise ValueError(f"{file} has no row of the split {split!r}: it has {', '.join(sorted(found)) or 'none'}.")
    if not found:
        raise ValueError(f"{file} must have a row at least: it has none.")
    return faults.items(items)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of the file."""
    if file.suffix.lower() == ".jsonl":
        for line, text in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
            try:
                row = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{file}:{line}: a line must be one JSON object: {error}.") from error
            if not isinstance(row, dict):
                raise ValueError(f"{file}:{line}: a line must be one JSON object: got {type(row).__name__}.")
            yield line, row
    elif file.suffix.lower() == ".csv":
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            names = next(reader, [])
            if len(set(names)) < len(names):
                raise ValueError(f"{file}:1: column names must be unique: got {', '.join(names)}.")
            for cells in _sound(reader, file):
                if len(cells) != len(names):
                    raise ValueError(
                        f"{file}:{reader.line_num}: a row must have {len(names)} cells, one per column: "
                        f"got {len(cells)}. Put quotes around a text with a comma."
                    )
                yield reader.line_num, dict(zip(names, cells, strict=True))
    else:
        raise ValueError(f"a table must end in .csv or .jsonl: got {file.name!r}.")


def _sound(reader: Any, file: Path) -> Iterator[list[str]]:
    """The rows of a csv reader, with file and line in the error that a broken quotation gives."""
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(f"{file}:{reader.line_num}: the quotation marks of a CSV must close: {error}.") from error


def _check_columns(row: dict[str, Any], where: str, needed: tuple[str, ...]) -> None:
    """The columns that are needed and a modality are there, and none is a slip of the pen for one that is not."""
    for column in needed:
        if column not in row:
            raise ValueError(f"{where}: the column {column!r} is missing.{hint(column, row)}")
    columns = (*COLUMNS, *ASKED) if "question" in row else COLUMNS
    for column in row:
        known = column in columns or NUMBERED.fullmatch(column)
        free = [name for name in columns if name not in row]
        if not known and (near := hint(column, free)):
            raise ValueError(f"{where}: unknown column {column!r}.{near} If it is metadata, give it another name.")
    if not any(NUMBERED.fullmatch(column) for column in row):
        raise ValueError(f"{where}: at least one of the columns {', '.join(MODALITIES)} must be there.")


def _item(name: str, row: dict[str, Any], folder: Path, where: str, faults: Faults) -> Item | None:
    """The item of one row, or None when the row is left out."""
    sources: dict[str, list[Any]] = {modality: [] for modality in MODALITIES}
    for column, cell in row.items():
        if not (match := NUMBERED.fullmatch(column)):
            continue
        for value in _values(cell, f"{where}: {column}"):
            if not value.strip():
                faults.add(f"{where}: {column} has an empty entry.")
                return None
            source = value.strip() if match[1] == "text" else folder / value
            if isinstance(source, Path) and not source.is_file():
                faults.add(f"{where}: {column} names {source}, which is not there.")
                return None
            sources[match[1]].append(source)
    if not any(sources.values()):
        raise ValueError(f"{where}: a row must have at least one of {', '.join(MODALITIES)}: all cells are empty.")
    owner = str(row.get("owner", "")).strip() or name
    columns = (*COLUMNS, *ASKED) if "question" in row else COLUMNS
    meta = {c: cell for c, cell in row.items() if c not in columns and not NUMBERED.fullmatch(c)}
    questions = _questions(name, row, where)
    return Item(name, owner, tuple(sources["image"]), tuple(sources["text"]), tuple(sources["audio"]), meta, questions)


def _number(cell: str) -> str | int | float:
    """The number that a cell of a CSV is, or its text."""
    found = NUMBER.fullmatch(cell.strip())
    return cell if found is None else float(cell) if found[2] else int(cell)


def _questions(name: str, row: dict[str, Any], where: str) -> tuple[Question, ...]:
    """The question of a row, if it asks one."""
    if "question" not in row:
        return ()
    text, kind = row["question"], row.get("type") or ""
    if not (isinstance(text, str) and tokenize(text)):
        raise ValueError(f"{where}: question must be text and not empty: got {text!r}.")
    if not isinstance(kind, str):
        raise ValueError(f"{where}: type must be text: got {kind!r}.")
    answers, choices = (_values(row.get(column), f"{where}: {column}") for column in ("answer", "choices"))
    for column, values in (("answer", answers), ("choices", choices)):
        if not all(value.strip() for value in values):
            raise ValueError(f"{where}: {column} has an empty entry. Leave it out.")
    of_answer = answer_type(Counter(answers).most_common(1)[0][0]) if answers else "other"
    return (Question(name, text.strip(), tuple(answers), kind.strip(), of_answer, tuple(choices)),)


def _values(cell: Any, where: str) -> list[str]:
    """The sources of one cell: none, one, or a list."""
    if cell is None or cell == "":
        return []
    if isinstance(cell, str) and cell.startswith("["):
        try:
            cell = json.loads(cell)
        except ValueError:
            cell = [cell]  # a sentence that begins with a bracket
    cell = [cell] if isinstance(cell, str) else cell
    if not (isinstance(cell, list) and all(isinstance(value, str) for value in cell)):
        raise ValueError(f"{where} must hold a string or a list of strings: got {cell!r}.")
    return cell
