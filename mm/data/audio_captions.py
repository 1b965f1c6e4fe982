"""Sounds with human captions: AudioCaps and Clotho, from the CSV files that their authors publish."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from mm.data.gallery import SUFFIXES
from mm.data.item import Faults, Item, Items, may_skip, parts, require
from mm.naming import hint

CLOTHO_PARTS = {"train": "development", "val": "validation", "test": "evaluation"}


def audiocaps(root: Path, split: str, skip_bad: bool = False) -> Items:
    """AudioCaps: 10 s of YouTube, one caption each in train and five in val and test (Kim et al. 2019).

    The CSV has a row per caption; rows of one clip (youtube_id and start_time) become one item.

    Args:
        root: holds `audiocaps/{train,val,test}.csv` and the clips in any sound format,
            `audiocaps/audio/{split}/{youtube_id}_{start_time}.*`.
        split: "train", "val", "test" or "trainval".
        skip_bad: leave out training clips that are not there or have an empty caption, and count them.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: a clip is missing (many are gone from YouTube: test sets want their rows removed, which belongs
            beside every figure) or a caption is empty; the message names it.
        ValueError: a CSV lacks a column.
    """
    faults = Faults(f"audiocaps {split}", may_skip(skip_bad, split))
    items: dict[str, Item] = {}
    for part in parts(split):
        folder = require(root / "audiocaps", f"{part}.csv", f"audio/{part}")
        clips = _by_stem(folder / "audio" / part)
        table = folder / f"{part}.csv"
        for line, row in _rows(table, ("youtube_id", "start_time", "caption")):
            name = f"{row['youtube_id']}_{row['start_time']}"
            caption = row["caption"].strip()
            if name not in clips:
                faults.add(f"{table}:{line}: the clip {folder / 'audio' / part / name}.* is not there.")
            elif not caption:
                faults.add(f"{table}:{line}: the caption of {name} is empty.")
            elif name in items:
                items[name] = items[name]._replace(text=(*items[name].text, caption))
            else:
                meta = {"youtube_id": row["youtube_id"], "start_time": row["start_time"]}
                items[name] = Item(name, name, text=(caption,), audio=(clips[name],), meta=meta)
    return faults.items(items.values())


def clotho(root: Path, split: str, skip_bad: bool = False) -> Items:
    """Clotho 2: 15 to 30 s from Freesound, five captions each (Drossos et al. 2020).

    Train, val and test are its development, validation and evaluation parts.

    Args:
        root: holds `clotho/clotho_captions_{development,validation,evaluation}.csv` (file_name, caption_1..caption_5)
            and the clips in `clotho/{development,validation,evaluation}/`.
        split: "train", "val", "test" or "trainval".
        skip_bad: as in `audiocaps`.

    Raises:
        FileNotFoundError, UnreadableError, ValueError: as in `audiocaps`.
    """
    faults = Faults(f"clotho {split}", may_skip(skip_bad, split))
    columns = [f"caption_{k}" for k in range(1, 6)]
    items = []
    for part in (CLOTHO_PARTS[name] for name in parts(split)):
        folder = require(root / "clotho", f"clotho_captions_{part}.csv", part)
        clips = {file.name: file for file in (folder / part).iterdir()}
        table = folder / f"clotho_captions_{part}.csv"
        for line, row in _rows(table, ("file_name", *columns)):
            name = row["file_name"]
            captions = tuple(row[column].strip() for column in columns)
            if name not in clips:
                faults.add(f"{table}:{line}: the clip {folder / part / name} is not there.")
            elif not all(captions):
                faults.add(f"{table}:{line}: {columns[captions.index('')]} of {name} is empty.")
            else:
                items.append(Item(f"{part}/{name}", f"{part}/{name}", text=captions, audio=(clips[name],)))
    return faults.items(items)


def _by_stem(folder: Path) -> dict[str, Path]:
    return {file.stem: file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES["audio"]}


def _rows(table: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a CSV that must have these columns."""
    with open(table, encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restval="")
        names = reader.fieldnames or []
        for column in columns:
            if column not in names:
                near = hint(column, names)
                raise ValueError(f"{table} must have the columns {', '.join(columns)}: {column!r} is missing.{near}")
        for row in reader:
            yield reader.line_num, row
