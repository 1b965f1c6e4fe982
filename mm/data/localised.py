"""Pictures in which people have marked what sounds: VGG-SS (Chen et al. 2021), Flickr-SoundNet (Senocak et al. 2018).

Boxes are in the `meta` of an item: "boxes" holds a list per annotator, each of [left, top, right, bottom] in shares of
the picture's width and height. An item that nobody marked has none.
"""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias
from xml.etree import ElementTree

from mm.data.item import Faults, Item, Items, may_skip, parts, require
from mm.data.table import table
from mm.data.videos import Clips, held_out, vggsound
from mm.files import read_json

logger = logging.getLogger(__name__)

Boxes: TypeAlias = list[list[list[float]]]  # by annotator: [left, top, right, bottom] in shares of the picture

FLICKR_ANNOTATORS = 3  # of every picture of Flickr-SoundNet
FLICKR_SIDE_PX = 256  # the pictures that the annotators of Flickr-SoundNet saw were squashed to this square
FAULTS = {
    "outside": "leaves the picture",
    "inverted": "has its right edge left of the left one, or its bottom above its top",
    "empty": "has no width or no height",
    "none": "has no box with an area",
}


def check_boxes(boxes: Sequence[Sequence[Sequence[float]]], name: str) -> dict[str, str]:
    """What is wrong with the boxes of one picture.

    Args:
        boxes: a list per annotator, each of (left, top, right, bottom) in shares of the picture's width and height.
        name: of the picture, for the messages.

    Returns:
        A sentence about the first box of each kind of fault, by the keys of `FAULTS`; {} = nothing is wrong.

    Raises:
        ValueError: a box is not four finite numbers.
    """
    found: dict[str, str] = {}
    for annotator, marked in enumerate(boxes, start=1):
        for number, box in enumerate(marked, start=1):
            where = f"{name}: box {number} of annotator {annotator}"
            if not (isinstance(box, Sequence) and len(box) == 4 and all(_is_finite(value) for value in box)):
                raise ValueError(f"{where} must be four finite numbers, left, top, right, bottom: got {box!r}.")
            left, top, right, bottom = box
            if min(box) < 0 or max(box) > 1:
                found.setdefault("outside", f"{where} {FAULTS['outside']}, which is 0 to 1: {list(box)}.")
            if right < left or bottom < top:
                found.setdefault("inverted", f"{where} {FAULTS['inverted']}: {list(box)}.")
            elif right == left or bottom == top:
                found.setdefault("empty", f"{where} {FAULTS['empty']}: {list(box)}.")
    if not any(right > left and bottom > top for marked in boxes for left, top, right, bottom in marked):
        found["none"] = f"{name} {FAULTS['none']}."
    return found


def vgg_ss(root: Path, split: str, skip_bad: bool = False) -> Items:
    """VGG-SS: 5,158 clips of VGGSound's test split with the boxes of what sounds in a frame (Chen et al. 2021).

    Test is all of it, in its order, and its boxes are what was published: 12 rows have a box that leaves the picture,
    12 an inverted one, 6 an empty one, and 2 of these have no other. The official figures count them, so they stay, and
    the log names them. Train and val are those of `vggsound`, without the videos that VGG-SS shows, and have no boxes.
    The owner of a clip is its video.

    Args:
        root: holds `vggss/vggss.json` as published, a list of {"file": clip, "class": label, "bbox": [[left, top,
            right, bottom], ...]}, and the frames and sounds, `vggss/frames/{file}.jpg` and `vggss/audio/{file}.wav`;
            and for train and val what `vggsound` reads.
        split: "train", "val", "test" or "trainval".
        skip_bad: as in `vggsound`.

    Raises:
        FileNotFoundError: the set is not there, or VGGSound is not, for train and val.
        UnreadableError: a frame or a sound is missing; the message names it.
        ValueError: a row of the file is damaged or comes twice.
    """
    parts(split)
    file = require(root / "vggss", "vggss.json") / "vggss.json"
    rows = _vggss_rows(file)
    if split != "test":
        return vggsound(root, split, skip_bad, without={_video(row["file"]) for row in rows})
    clips = Clips(require(file.parent, "vggss.json", "frames", "audio"))
    faults = Faults("vggss test", skip=False)
    odd: dict[str, list[str]] = defaultdict(list)  # kind of fault -> clips
    items = []
    for row in rows:
        name, boxes = row["file"], [row["bbox"]]
        for kind in check_boxes(boxes, f"{file}: {name}"):
            odd[kind].append(name)
        meta = {"category": row["class"], "boxes": boxes}
        if item := clips.item(name, _video(name), meta, f"{file}: {name}", faults):
            items.append(item)
    for kind, names in odd.items():
        what = f"has a box that {FAULTS[kind]}" if kind != "none" else FAULTS[kind]
        few = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        logger.warning("vggss test: %d of %d rows: %s; kept as published: %s", len(names), len(rows), what, few)
    return faults.items(items)


def flickr_soundnet(root: Path, split: str, skip_bad: bool = False) -> Items:
    """Flickr-SoundNet: pairs of a frame and its sound, 5,000 of them marked by three people each (Senocak et al. 2018).

    Test is the published list. Train and val are the pairs of `train_list.txt`, or without this file all that are not
    test; of these the first 5 %, at most 1,000, in the order of the SHA-256 of their ids, are val. Wherever there is an
    annotation, the item has its boxes. Every pair is its own owner.

    Args:
        root: holds `flickr_soundnet/frames/{id}.jpg` and `flickr_soundnet/audio/{id}.wav`, and as published
            `flickr_soundnet/Annotations/{id}.xml` (boxes in pixels of a picture of 256 x 256) and
            `flickr_soundnet/test_list.txt`; `flickr_soundnet/train_list.txt` where one trains on a part. A list has an
            id per line; a suffix, and what follows a comma, do not belong to it.
        split: "train", "val", "test" or "trainval".
        skip_bad: leave out training pairs of which a file is missing or whose boxes are at fault, and count them.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: a frame, a sound or an annotation is missing, or boxes are at fault; the message names it.
        ValueError: a list is empty or has an id twice.
    """
    wanted = parts(split)
    folder = require(root / "flickr_soundnet", "test_list.txt", "Annotations", "frames", "audio")
    clips = Clips(folder)
    test, train = _ids(folder / "test_list.txt"), folder / "train_list.txt"
    names, where = test, folder / "test_list.txt"
    if split != "test":
        tested = set(test)
        where = train if train.exists() else folder
        listed = _ids(train) if train.exists() else sorted(clips.image.keys() | clips.audio.keys())
        others = [name for name in listed if name not in tested]
        if train.exists() and len(others) < len(listed):
            logger.warning("%s: %d pairs that are tested on are left out", train, len(listed) - len(others))
        val = held_out(others)
        names = [name for name in others if ("val" if name in val else "train") in wanted]
    faults = Faults(f"flickr_soundnet {split}", may_skip(skip_bad, split))
    items = []
    for name in names:
        marked = folder / "Annotations" / f"{name}.xml"
        item = clips.item(name, name, {}, f"{where}: {name}", faults)
        if item and (marked.exists() or split == "test"):
            item = _annotated(item, marked, faults)
        if item:
            items.append(item)
    return faults.items(items)


def boxed_table(file: Path, split: str, skip_bad: bool = False) -> Items:
    """One split of a table of one's own, see `mm.data.table`, with its column `boxes` if it has one.

    A cell is a list of [left, top, right, bottom], or several such lists, one per annotator, as shares of the picture;
    in a CSV as JSON. An empty cell leaves the row without.

    Args:
        file: `.csv` or `.jsonl`.
        split: "train", "val", "test" or "trainval".
        skip_bad: leave out training rows whose files or boxes are at fault, and count them.

    Raises:
        UnreadableError: a row has a box that is at fault, see `check_boxes`.
        Also what `mm.data.table` raises.
    """
    faults = Faults(f"{file} {split}", may_skip(skip_bad, split))
    items = table(file, split, skip_bad)
    kept = [read for item in items if (read := _boxed(item, faults))]
    return Items(faults.items(kept), [*items.skipped, *faults.lines])


def _boxed(item: Item, faults: Faults) -> Item | None:
    """The item with the boxes that its cell holds, or None when they are at fault and it may be left out."""
    meta = dict(item.meta)
    boxes = meta.pop("boxes", None)
    try:
        boxes = json.loads(boxes) if isinstance(boxes, str) and boxes.strip() else boxes
        if not boxes:
            return item._replace(meta=meta)
        if not isinstance(boxes, list):
            raise ValueError(f"{item.id}: boxes must be a list: got {boxes!r}.")
        boxes = [boxes] if all(_is_finite(value) for box in boxes for value in box) else boxes
        wrong = list(check_boxes(boxes, item.id).values())
    except (ValueError, TypeError) as error:
        wrong = [f"{item.id}: boxes must be JSON lists of left, top, right, bottom: {error}"]
    if wrong:
        faults.add(" ".join(wrong))
        return None
    return item._replace(meta={**meta, "boxes": boxes})


def _vggss_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of vggss.json, each of the published form."""
    rows = read_json(file)
    form = '{"file": id_start, "class": label, "bbox": [[left, top, right, bottom], ...]}'
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{file} must be a list of {form}, at least one: got {type(rows).__name__}. Fetch it anew.")
    seen = set()
    for number, row in enumerate(rows):
        fields = [row.get(key) for key in ("file", "class", "bbox")] if isinstance(row, dict) else [None] * 3
        if not all(isinstance(field, kind) for field, kind in zip(fields, (str, str, list), strict=True)):
            raise ValueError(f"{file}: entry {number} must be {form}: got {row!r}. Fetch it anew.")
        if row["file"] in seen:
            raise ValueError(f"{file}: entry {number}: the clip {row['file']} comes twice. Leave one of them.")
        seen.add(row["file"])
    return rows


def _video(clip: str) -> str:
    """The YouTube id, which may hold underscores itself, of a clip."""
    return clip.rpartition("_")[0] or clip


def _ids(path: Path) -> list[str]:
    """The ids of a list."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    names = [Path(line.split(",")[0].strip()).stem for line in lines if line.strip()]
    if not names:
        raise ValueError(f"{path} must hold an id per line: it is empty. Fetch it anew.")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{path}: the id {name} comes twice. Leave one of them.")
        seen.add(name)
    return names


def _annotated(item: Item, file: Path, faults: Faults) -> Item | None:
    """The item with the boxes of its annotation file, or None when they are at fault and it may be left out."""
    if not file.exists():
        faults.add(f"{file} is not there; docs/data.md says what the set must hold.")
        return None
    try:
        boxes = _flickr_boxes(file)
        wrong = list(check_boxes(boxes, str(file)).values())
    except (ElementTree.ParseError, ValueError) as error:
        wrong = [f"{file} must be an annotation of Flickr-SoundNet: {error}."]
    if wrong:
        faults.add(" ".join(wrong))
        return None
    return item._replace(meta={**item.meta, "boxes": boxes})


def _flickr_boxes(file: Path) -> Boxes:
    """The boxes of an annotation file: below the root an element per annotator, in it a `bbox` per box.

    A `bbox` names something first, then come xmin, ymin, xmax and ymax in pixels; all projects that read the files go
    by this order. Who marked nothing has an empty list, for a pixel is true when two of the three agree.
    """
    boxes: Boxes = []
    for annotator in ElementTree.parse(file).getroot():
        marked = annotator.findall("bbox")
        edges = [[int(edge.text or "") / FLICKR_SIDE_PX for edge in list(box)[1:5]] for box in marked]
        if edges:
            boxes.append(edges)
    return boxes + [[] for _ in range(FLICKR_ANNOTATORS - len(boxes))]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
