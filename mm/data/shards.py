"""Tar shards in WebDataset's layout: members `key.extension` that follow one another are one sample.

A shard is an uncompressed tar, of which every member is read by itself, where it lies (`mm.data.tars`). Nothing is ever
unpickled.
"""

from __future__ import annotations

import glob
import itertools
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from mm.data.item import Faults, Item, Items, may_skip, parts
from mm.data.tars import members
from mm.files import Member

logger = logging.getLogger(__name__)

EXTENSIONS = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp"), "image"),
    **dict.fromkeys(("wav", "flac", "ogg", "mp3"), "audio"),
    **dict.fromkeys(("txt", "caption"), "text"),
    **dict.fromkeys(("json", "cls"), "metadata"),
}
SAID = ("text", "caption")  # keys of a sample's JSON that hold its sentences
MEMBER = re.compile(r"(?:\./)?((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)  # key, extension
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")
SPLIT = "{split}"  # in a pattern: the name of the split

Fault: TypeAlias = Callable[[str, str], None]  # told what is left out and why, or raises an error


class Sample(NamedTuple):
    """The members of one key, by their extensions."""

    key: str
    shard: Path
    members: dict[str, Member]

    def __str__(self) -> str:
        return f"{self.shard}:{self.key}"


def shards(pattern: str, split: str, skip_bad: bool = False) -> Items:
    """One split of a set in tar shards.

    The extensions in `EXTENSIONS` say what a member is. Sentences are those of `.txt` and `.caption` and of the keys
    "text" and "caption" of a `.json`, each once; the JSON's "owner" is the owner, all else in it is metadata, and what
    is in `.cls` is metadata "class". The id is the key, its folder included.

    Args:
        pattern: of the files, with `{split}` in the place of the split's name: `own/{split}-*.tar`, see `files`.
        split: "train", "val", "test" or "trainval".
        skip_bad: leave out damaged training samples and count them.

    Raises:
        FileNotFoundError: a shard that is not there.
        UnreadableError: a damaged shard or sample, named.
        ValueError: a wrong pattern, or a key that comes twice.
    """
    faults = Faults(f"{pattern} {split}", may_skip(skip_bad, split))
    paths = [path for part in parts(split) for path in files(pattern, part)]
    ignored: Counter[str] = Counter()
    found: dict[str, Path] = {}
    items = []
    for sample in samples(paths, lambda _, reason: faults.add(reason), ignored):
        if sample.key in found:
            raise ValueError(f"the key {sample.key!r} must be unique: it is in {found[sample.key]} and {sample.shard}.")
        found[sample.key] = sample.shard
        if item := item_of(sample, lambda _, reason: faults.add(reason)):
            items.append(item)
    say_ignored(ignored)
    return faults.items(items)


def files(pattern: str, split: str = "") -> list[Path]:
    """The shards that a pattern names, in its order.

    Args:
        pattern: a path with number ranges `{000..127}`, alternatives `{a,b}`, and `*`, `?` and `[...]`, whose files are
            sorted; `{split}` is the split's name.
        split: "train", "val" or "test"; "" = the pattern has no `{split}`.

    Raises:
        FileNotFoundError: a file that a range names is not there, or nothing matches.
        ValueError: braces that are neither, a file named twice, or one of `{split}` and a split without the other.
    """
    if (SPLIT in pattern) != bool(split):
        got = f"a split, {split!r}" if split else "no split"
        raise ValueError(f"{SPLIT} in a pattern of shards stands for the split's name: got {pattern!r} with {got}.")
    found, missing = [], []
    for name in _expanded(pattern.replace(SPLIT, split)):
        if Path(name).is_file():
            found.append(Path(name))
        elif matching := sorted(path for path in map(Path, glob.glob(name, recursive=True)) if path.is_file()):
            found += matching
        else:
            missing.append(name)
    if missing:
        of = f" {len(missing)} of {len(found) + len(missing)} are not, the first is {missing[0]}." if found else ""
        raise FileNotFoundError(f"the shards {pattern} must be there: {of.strip() or 'no file matches.'}")
    if twice := [path for path, count in Counter(found).items() if count > 1]:
        raise ValueError(f"a pattern must name each shard once: {pattern} names {twice[0]} twice.")
    return found


def _expanded(pattern: str) -> Iterator[str]:
    """The pattern for every combination of what its braces stand for, the last ones changing fastest."""
    pieces = BRACES.split(pattern)  # text, content of braces, text, ...
    choices = []
    for content in pieces[1::2]:
        if bounds := RANGE.fullmatch(content):
            first, last = bounds.groups()
            padded = any(len(bound) > 1 and bound[0] == "0" for bound in (first, last))
            width = max(len(first), len(last)) if padded else 0
            choices.append([f"{number:0{width}}" for number in range(int(first), int(last) + 1)])
        else:
            choices.append(content.split(",") if "," in content else [])
        if not choices[-1]:
            raise ValueError(f"braces must hold a range such as 000..127 or a,b: got {{{content}}} in {pattern!r}.")
    for chosen in itertools.product(*choices):
        yield "".join(itertools.chain.from_iterable(zip(pieces[::2], (*chosen, ""), strict=True)))


def samples(paths: Sequence[Path], fault: Fault, ignored: Counter[str]) -> Iterator[Sample]:
    """The samples of shards one after another; what is held at a time is what the headers of one shard say.

    Args:
        paths: of the shards.
        fault: told a name and what is wrong with it, for what is then left out.
        ignored: to which the extensions of members that are not read are added.
    """
    for shard in paths:
        found, damage = members(shard)
        if not found:
            fault(str(shard), damage or f"{shard} must hold files named key.extension: it holds none.")
            continue
        seen = set()
        groups = itertools.groupby(_named(found, ignored), key=lambda named: named[0])
        for key, of_key in groups:
            kinds = [(extension, member) for _, extension, member in of_key]
            if damage and found[-1] in (member for _, member in kinds):
                break  # the shard ends within it
            if wrong := f"the key {key!r} comes again behind others" if key in seen else _wrong(kinds):
                fault(key, f"{shard}: every sample must be whole and of its own: {wrong}.")
            else:
                ignored.update(f".{extension}" for extension, _ in kinds if extension not in EXTENSIONS)
                yield Sample(key, shard, dict(kinds))
            seen.add(key)
        if damage:
            fault(str(shard), damage)


def _named(found: Sequence[Member], ignored: Counter[str]) -> Iterator[tuple[str, str, Member]]:
    """(key, extension, member) of the members that are something; an extension is all behind the first dot."""
    for member in found:
        if match := MEMBER.fullmatch(member.name):
            yield match[1], match[2].lower(), member
        else:
            ignored["no key or extension"] += 1


def _wrong(kinds: Sequence[tuple[str, Member]]) -> str:
    """What is wrong with the members of one key, "" if nothing."""
    extensions = [extension for extension, _ in kinds]
    modalities = [EXTENSIONS[extension] for extension in set(extensions) if extension in EXTENSIONS]
    if twice := [extension for extension, count in Counter(extensions).items() if count > 1]:
        return f"{kinds[extensions.index(twice[0])][1].name!r} comes twice"
    for modality in ("image", "audio"):
        if modalities.count(modality) > 1:
            names = ", ".join(repr(member.name) for extension, member in kinds if EXTENSIONS.get(extension) == modality)
            return f"{names} have one key and are both {modality}"
    if not modalities:
        names = ", ".join(repr(member.name) for _, member in kinds)
        return f"{names} has none of the extensions that are read, which are .{', .'.join(EXTENSIONS)}"
    return ""


def say_ignored(ignored: Counter[str]) -> None:
    """Tell what was not read."""
    if ignored:
        kinds = ", ".join(f"{extension} ({count:,})" for extension, count in ignored.most_common())
        read = ", ".join(EXTENSIONS)
        logger.warning("members of other kinds than %s are not read, and nothing is unpickled: %s", read, kinds)


def item_of(sample: Sample, fault: Fault, texts: bool = True) -> Item | None:
    """The item of a sample, or None when it is left out.

    Args:
        sample: its small members are read now.
        fault: told its key and what is wrong with it.
        texts: False leaves `.txt` and `.caption` unread.
    """
    sources: dict[str, list[Any]] = {"image": [], "audio": [], "text": []}
    meta: dict[str, Any] = {}
    for extension, member in sample.members.items():
        kind = EXTENSIONS.get(extension, "")
        try:
            if kind in ("image", "audio"):
                sources[kind].append(member)
            elif extension == "json":
                meta |= _json_object(member)
            elif extension == "cls":
                name = member.read().decode().strip()
                meta["class"] = int(name) if name.isdecimal() else name
            elif kind and texts:
                sources["text"].append(_sentence(member.read().decode()))
        except (OSError, ValueError, RecursionError) as error:
            fault(sample.key, f"{member} cannot be read: {error}.")
            return None
    said = dict.fromkeys(sources["text"])
    for name in SAID:
        value = meta.pop(name, None) or []  # null and "" are no sentence
        listed = value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) and text.strip() for text in listed):
            fault(sample.key, f"{sample}: {name!r} must be a sentence or a list of them: got {value!r}.")
            return None
        said |= dict.fromkeys(text.strip() for text in listed if texts)
    if texts and not (sources["image"] or sources["audio"] or said):
        fault(sample.key, f"{sample} must have a picture, a sound or a sentence: it has none.")
        return None
    owner = str(meta.pop("owner", None) or sample.key)
    return Item(sample.key, owner, tuple(sources["image"]), tuple(said), tuple(sources["audio"]), meta)


def _sentence(text: str) -> str:
    if not text.strip():
        raise ValueError("it has no word")
    return text.strip()


def _json_object(member: Member) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    value = json.loads(member.read(), parse_constant=refuse)
    if not isinstance(value, dict):
        raise ValueError(f"it must be an object, it is {type(value).__name__}")
    return value
