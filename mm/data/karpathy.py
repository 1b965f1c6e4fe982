"""Photographs with human captions in Karpathy's JSON: Flickr8k (with spoken captions too), Flickr30k, COCO.

Splits: Karpathy and Fei-Fei 2015, "Deep visual-semantic alignments for generating image descriptions".
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mm.data.item import Faults, Item, Items, may_skip, parts, require

SPOKEN = "Flickr8k_spoken"


def flickr8k(root: Path, split: str, skip_bad: bool = False) -> Items:
    """Flickr8k: 6,000 / 1,000 / 1,000 photographs, five captions each (Hodosh et al. 2013).

    Args:
        root: holds `flickr8k/dataset_flickr8k.json` and `flickr8k/Images/`.
        split: "train", "val", "test" or "trainval".
        skip_bad: leave out training rows without a picture or with an empty caption, and count them.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: a picture is missing or a caption empty; the message names it.
    """
    return karpathy(require(root / "flickr8k", "dataset_flickr8k.json", "Images"), "Images", split, skip_bad)


def flickr30k(root: Path, split: str, skip_bad: bool = False) -> Items:
    """Flickr30k: 29,000 / 1,014 / 1,000 photographs, five captions each (Young et al. 2014).

    Args and errors as `flickr8k`; files: `flickr30k/dataset_flickr30k.json`, `flickr30k/flickr30k-images/`.
    """
    folder = require(root / "flickr30k", "dataset_flickr30k.json", "flickr30k-images")
    return karpathy(folder, "flickr30k-images", split, skip_bad)


def coco(root: Path, split: str, skip_bad: bool = False) -> Items:
    """COCO 2014: 113,287 / 5,000 / 5,000 photographs, five captions or more each (Lin et al. 2014).

    "restval" (30,504 photographs of COCO's validation set that are in neither val nor test) belongs to train, as in
    all published results. Args and errors as `flickr8k`; files: `coco/dataset_coco.json`, `coco/train2014/`,
    `coco/val2014/`.
    """
    return karpathy(require(root / "coco", "dataset_coco.json", "train2014", "val2014"), "", split, skip_bad)


def flickr8k_spoken(root: Path, split: str, skip_bad: bool = False) -> Items:
    """Flickr8k with speech: all items of `flickr8k`; those with a spoken caption carry the clip as audio too.

    Of the clips at hand 753 belong to train, 113 to val and 125 to test. `meta["spoken"]` is the sentence that is said.

    Args and errors as `flickr8k`; files beside its own: `flickr8k/Flickr8k_spoken/index.jsonl` (a JSON object per line
    with "audio", "image" and "text") and the clips that it names. Where a clip may be skipped, its item stays.
    """
    items = flickr8k(root, split, skip_bad)
    folder = require(root / "flickr8k" / SPOKEN, "index.jsonl")
    here = set(os.listdir(folder))
    faults = Faults(f"flickr8k_spoken {split}", may_skip(skip_bad, split))
    spoken: dict[str, dict[str, str]] = {}
    for number, line in enumerate((folder / "index.jsonl").read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            spoken[row["image"]] = {"audio": row["audio"], "text": row["text"]}
        except (ValueError, KeyError, TypeError) as error:
            where = f"{folder / 'index.jsonl'}:{number}"
            raise ValueError(f"{where}: a line must be a JSON object with audio, image, text: {error!r}.") from error
    said = []
    for item in items:
        if row := spoken.get(item.id):
            if row["audio"] in here:
                item = item._replace(audio=(folder / row["audio"],), meta={**item.meta, "spoken": row["text"]})
            else:
                faults.add(f"{folder / row['audio']}, the spoken caption of {item.id}, is not there.")
        said.append(item)
    kept = faults.items(said)
    return Items(kept, (*items.skipped, *kept.skipped))


def karpathy(folder: Path, images: str, split: str, skip_bad: bool = False) -> Items:
    """One split of a Karpathy JSON: an item per photograph, its file name as id and owner.

    Args:
        folder: holds `dataset_<name of the folder>.json`.
        images: sub-folder of the pictures; "" where every row's "filepath" names it.
        split: "train" (with "restval"), "val", "test" or "trainval".
        skip_bad: as in `flickr8k`.
    """
    wanted = {*parts(split), *(["restval"] if "train" in parts(split) else [])}
    file = folder / f"dataset_{folder.name}.json"
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["images"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} must be Karpathy's JSON with a list 'images': {error!r}. Fetch it anew.") from error
    here: dict[Path, set[str]] = {}  # one listing per folder instead of one look-up per file
    faults = Faults(f"{folder.name} {split}", may_skip(skip_bad, split))
    items = []
    for row in rows:
        if row["split"] not in wanted:
            continue
        place = folder / (images or row["filepath"])
        if place not in here:
            here[place] = set(os.listdir(place)) if place.is_dir() else set()
        if row["filename"] not in here[place]:
            faults.add(f"{place / row['filename']} is not there.")
            continue
        captions = _captions(row, file, faults)
        if captions:
            meta = {"split": row["split"]} | ({"cocoid": row["cocoid"]} if "cocoid" in row else {})
            items.append(Item(row["filename"], row["filename"], (place / row["filename"],), captions, meta=meta))
    return faults.items(items)


def _captions(row: Mapping[str, Any], file: Path, faults: Faults) -> tuple[str, ...]:
    """The sentences of one photograph; empty ones are faults."""
    captions = []
    for sentence in row["sentences"]:
        text = sentence["raw"].strip()
        if text:
            captions.append(text)
        else:
            faults.add(f"{file}: the caption with sentid {sentence['sentid']} of {row['filename']} is empty.")
    if not row["sentences"]:
        faults.add(f"{file}: {row['filename']} has no caption.")
    return tuple(captions)
