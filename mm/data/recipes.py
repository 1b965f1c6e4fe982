"""Recipe1M: photographs of dishes and how to cook them (Salvador et al. 2017, Marin et al. 2019)."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, cast

from mm.data.item import Faults, Item, Items, may_skip, parts, require
from mm.files import read_json
from mm.naming import known

PARTITIONS = ("train", "val", "test")
BACKGROUND = ("0", "background")  # of the published classes: none of the others
IMAGES = 5  # photographs of a recipe that train; val and test show the first (im2recipe-Pytorch, data_loader.py)
IMAGE_NAME = re.compile(r"\w{4}[\w.-]*")  # its first four characters are the folders that it is in

CHUNK = 2**20  # characters read at a time
LARGEST_ROW = 2**24  # characters; recipes have some thousands, and what is longer is no recipe
SPACE = re.compile(r"[ \t\n\r]*")


def recipe1m(root: Path, split: str, skip_bad: bool = False) -> Items:
    """Recipe1M: an item per recipe with a photograph; its text is title, ingredients and instructions in one.

    The images are the first five photographs of a training recipe, and the first one of val and test, as published.
    `meta` has "title" and "url", and "class" where the recipe has one that is not the background.

    Args:
        root: holds `recipe1m/layer1.json`, `recipe1m/layer2.json` and `recipe1m/images/`, with 0fa8309c13.jpg of the
            training recipes in `train/0/f/a/8/`, or in `0/f/a/8/` as in Recipe1M+. Optional, beside them:
            `classes1M.json` ({recipe: class}) and `train_keys.json`, `val_keys.json`, `test_keys.json` (the list of the
            recipes that count).
        split: "train", "val", "test" or "trainval".
        skip_bad: leave out training photographs that are missing and recipes without words, and count them.

    Raises:
        FileNotFoundError: the set is not there.
        UnreadableError: a photograph is missing or a recipe has no words; the message names it.
        ValueError: a file is not as published, or the split has no recipe.
    """
    folder = require(root / "recipe1m", "layer1.json", "layer2.json", "images")
    wanted = parts(split)
    photographs = _photographs(folder / "layer2.json", IMAGES if "train" in wanted else 1)
    keys = {part: _keys(folder / f"{part}_keys.json", photographs) for part in wanted}
    classes = _classes(folder / "classes1M.json")
    own = {part: folder / "images" / part for part in wanted}
    places = {part: place if place.is_dir() else folder / "images" for part, place in own.items()}
    faults = Faults(f"recipe1m {split}", may_skip(skip_bad, split))
    items: dict[str, Item] = {}
    for number, row in enumerate(rows(folder / "layer1.json")):
        where = f"{folder / 'layer1.json'}: row {number}"
        try:
            name, part = row["id"], known(row["partition"], PARTITIONS, "partition")
            if part not in wanted or name not in photographs or name not in keys[part]:
                continue
            meta, text = {"title": row["title"].strip(), "url": row["url"]}, _text(row)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{where} must be a recipe as published: {error!r}. Fetch the file anew.") from error
        if name in items:
            raise ValueError(f"{where} must have an id of its own: {name!r} was there before. Fetch the file anew.")
        files = [places[part].joinpath(*image[:4], image) for image in photographs[name]]
        here = tuple(file for file in files if file.is_file())
        for missing in sorted(set(files) - set(here)):
            faults.add(f"{missing}, of the recipe {name}, is not there.")
        if not text:
            faults.add(f"{where}: the recipe {name} has no words.")
        elif here:
            meta |= {"class": classes[name]} if name in classes else {}
            items[name] = Item(name, name, here, (text,), meta=meta)
    if not items:
        raise ValueError(f"{folder} must hold a recipe of the split {split!r} with a photograph: there is none.")
    return faults.items(items.values())


def _text(row: Mapping[str, Any]) -> str:
    """Title, ingredients, instructions: what comes first stays where a text encoder cuts."""
    ingredients, steps = ([line["text"].strip() for line in row[part]] for part in ("ingredients", "instructions"))
    told = (row["title"].strip(), ", ".join(filter(None, ingredients)), " ".join(filter(None, steps)))
    return " ".join(f"{part.rstrip('.')}." for part in told if part)


def _photographs(file: Path, most: int) -> dict[str, list[str]]:
    """{recipe: the names of its first photographs} of those that have any."""
    found = {}
    for number, row in enumerate(rows(file)):
        try:
            names = [image["id"] for image in row["images"][:most]]
            if wrong := [name for name in names if not IMAGE_NAME.fullmatch(name)]:
                raise ValueError(f"{wrong[0]!r} is no name of a photograph, such as 0fa8309c13.jpg")
            if names:
                found[row["id"]] = names
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file}: row {number} must list photographs as published: {error!r}. Fetch the file anew."
            ) from error
    return found


def _keys(file: Path, everything: Collection[str]) -> Collection[str]:
    """The recipes that count: those of the list, if there is one, else all."""
    if not file.exists():
        return everything
    keys = read_json(file)
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise ValueError(f"{file} must hold a JSON list of recipe ids. See docs/data.md, or take it away.")
    return frozenset(keys)


def _classes(file: Path) -> dict[str, str]:
    """{recipe: its class} of those that have one, if there is such a file."""
    classes = read_json(file) if file.exists() else {}
    if not (isinstance(classes, dict) and all(type(value) in (str, int) for value in classes.values())):
        raise ValueError(f"{file} must hold {{recipe id: name or number of its class}}. See docs/data.md.")
    return {name: str(value) for name, value in classes.items() if str(value) not in BACKGROUND}


def rows(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON list that may be larger than memory, one at a time.

    Raises:
        ValueError: the file is no such list, or is cut short; file and row are named.
    """
    number = 0
    try:
        with open(file, encoding="utf-8") as stream:
            text = _Text(stream)
            sign = text.take("[")
            while sign != "]":
                yield text.object()
                number += 1
                sign = text.take(",", "]")
            text.take("")
    except (ValueError, RecursionError) as error:  # with those of JSON and of UTF-8, and brackets without end
        said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise ValueError(f"{file} must be a JSON list of objects: at row {number}: {said}. Fetch it anew.") from error


class _Text:
    """A long JSON text, of which the part from the next sign on is read as far as it is needed."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.part, self.at = "", 0
        self.decoder = json.JSONDecoder()

    def more(self) -> bool:
        """Read on; False at the end of the file."""
        read = self.stream.read(CHUNK)
        self.part, self.at = self.part[self.at :] + read, 0
        return bool(read)

    def sign(self) -> str:
        """The next character that is no space, which stays; "" at the end of the file."""
        while True:
            self.at = cast(re.Match[str], SPACE.match(self.part, self.at)).end()
            if self.at < len(self.part):
                return self.part[self.at]
            if not self.more():
                return ""

    def take(self, *signs: str) -> str:
        """The next character that is no space, if it is one of these."""
        sign = self.sign()
        if sign not in signs:
            wanted, came = (" or ".join(repr(s) if s else "the end" for s in some) for some in (signs, (sign,)))
            raise ValueError(f"{wanted} must come: got {came}")
        self.at += len(sign)
        return sign

    def object(self) -> dict[str, Any]:
        """The object that comes."""
        self.take("{")
        self.at -= 1
        while True:
            try:
                value, self.at = self.decoder.raw_decode(self.part, self.at)
                return cast(dict[str, Any], value)
            except json.JSONDecodeError:  # it is broken, or its end is not read yet
                if len(self.part) - self.at > LARGEST_ROW or not self.more():
                    raise
