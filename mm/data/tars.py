"""The files of an uncompressed tar, found by its headers, which are read once; what they say is kept beside it."""

from __future__ import annotations

import logging
import tarfile
from pathlib import Path

from mm.files import Member, read_sealed, write_sealed

logger = logging.getLogger(__name__)

FORMAT = 2  # of what is kept beside a tar; 1 passed over links
KEPT = ".{}.members.json"  # beside the tar of this name


def members(shard: Path) -> tuple[list[Member], str]:
    """All files in a tar, from the headers alone; and what is wrong with it, "" if nothing.

    What was found is kept beside the shard if that can be written, and counts while the shard's size and time of change
    stay. Of a damaged one nothing is kept.

    Raises:
        FileNotFoundError: there is no such file.
    """
    beside = shard.with_name(KEPT.format(shard.name))
    stat = shard.stat()
    state = {"format": FORMAT, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    try:
        kept = read_sealed(beside)
        if {name: kept.get(name) for name in state} == state:
            return [Member(shard, *place) for place in kept["members"]], ""
    except FileNotFoundError:
        logger.debug("%s: its headers were not read before", shard)
    except (OSError, ValueError) as error:
        logger.warning("%s The tar is read anew.", error)
    found, damage = _scanned(shard, stat.st_size)
    if not damage:
        try:
            write_sealed(beside, {**state, "members": [(one.name, one.offset, one.size) for one in found]})
        except OSError as error:
            logger.debug("%s is not kept, its headers will be read again: %s", beside, error)
    return found, damage


def member(shard: Path, name: str) -> Member:
    """One file of a tar.

    Raises:
        FileNotFoundError: there is no such tar, or no such file in it.
    """
    for found in members(shard)[0]:
        if found.name == name:
            return found
    raise FileNotFoundError(f"{shard} must hold {name!r}: it does not, or not any more.")


def _scanned(shard: Path, size: int) -> tuple[list[Member], str]:
    """The members of a tar of this size in bytes, up to where it is damaged, and how it is."""
    found: list[Member] = []
    wrong = ""
    try:
        with shard.open("rb") as file, tarfile.open(fileobj=file, mode="r:", encoding="utf-8", errors="strict") as tar:
            while not wrong and (head := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if head.issparse():
                    wrong = f"it holds a sparse file, {head.name!r}"
                elif head.isreg() or head.islnk() or head.issym():
                    held = head.size if head.isreg() else 0  # bytes; who reads a link is told that it is empty
                    found.append(Member(shard, head.name, head.offset_data, held))
                    if head.offset_data + held > size:
                        wrong = "it is cut off"
            file.seek(tar.offset)
            end = file.read(tarfile.BLOCKSIZE)  # of zeros; tarfile takes a damaged header for the end too
            if not wrong and (len(end) < tarfile.BLOCKSIZE or any(end)):
                wrong = "it is cut off" if len(end) < tarfile.BLOCKSIZE else "what follows is not the head of a file"
    except (tarfile.TarError, ValueError, IndexError, OverflowError) as error:
        wrong = str(error) or type(error).__name__
    if wrong:
        after = f", the last file that can be told is {found[-1].name!r}" if found else ""
        wrong = f"{shard} must be an uncompressed tar and whole: {wrong}{after}."
    return found, wrong
