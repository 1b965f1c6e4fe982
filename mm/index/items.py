"""The ids of an index and the metadata of each: rows in SQLite, in memory, and the filters over them."""

from __future__ import annotations

import json
import sqlite3
import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mm.naming import hint

Id: TypeAlias = str | int
Metadata: TypeAlias = dict[str, Any]  # JSON values
Where: TypeAlias = Mapping[str, Any]

FILTERS = 8  # whose answers are remembered: SQLite takes 0.1 s per 200,000 items to find them
TABLE = "CREATE TABLE items (key INTEGER PRIMARY KEY, id TEXT NOT NULL, metadata TEXT NOT NULL)"


class Items:
    """n items in a fixed order, that of their adding. An item's position shifts when earlier ones go, its key never.

    Attributes:
        ids: the ids by position.
        keys: (n,) int64 ascending, the keys by position.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        weakref.finalize(self, self._db.close)
        self._db.execute(TABLE)
        self.ids: list[Id] = []
        self.keys = np.zeros(0, np.int64)
        self._key: dict[Id, int] = {}
        self._next = 0
        self._found: dict[tuple, np.ndarray] = {}  # what `where` found since the last change, the latest last

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Sequence[Id], metadata: Sequence[Metadata]) -> None:
        """Append items: all of them, or none if one is wrong.

        Raises:
            ValueError: an id is there already or twice, or metadata is not JSON; the row is named.
        """
        new: dict[Id, int] = {}
        rows = []
        for row, (id_, values) in enumerate(zip(ids, metadata, strict=True)):
            if id_ in new or id_ in self._key:
                raise ValueError(f"ids must be unique: {id_!r} (row {row}) is there already. Remove it first.")
            new[id_] = self._next + row
            rows.append((self._next + row, json.dumps(id_), as_json(values, row)))
        with self._db:
            self._db.executemany("INSERT INTO items VALUES (?, ?, ?)", rows)
        self.ids.extend(new)
        self.keys = np.concatenate([self.keys, np.fromiter(new.values(), np.int64, len(new))])
        self._key.update(new)
        self._next += len(new)
        self._found = {}

    def renew(self, positions: np.ndarray, metadata: Sequence[Metadata] | None = None) -> None:
        """Give items new keys, which moves them to the end of the order; and new metadata, if any.

        Raises:
            ValueError: metadata is not JSON; the row is named, and nothing is changed.
        """
        ids = [self.ids[position] for position in positions.tolist()]
        values = self.metadata(self.keys[positions].tolist()) if metadata is None else metadata
        for row, one in enumerate(values):
            as_json(one, row)
        self.remove(positions)
        self.add(ids, values)

    def remove(self, positions: np.ndarray) -> None:
        """Take items out; the later ones move up."""
        gone = self.keys[positions].tolist()
        with self._db:
            self._db.execute("DELETE FROM items WHERE key IN (SELECT value FROM json_each(?))", [json.dumps(gone)])
        for position in positions.tolist():
            del self._key[self.ids[position]]
        kept = np.delete(np.arange(len(self)), positions).tolist()
        self.ids = [self.ids[position] for position in kept]
        self.keys = self.keys[kept]
        self._found = {}

    def positions(self, ids: Iterable[Id]) -> np.ndarray:
        """(len(ids),) int64 positions of ids.

        Raises:
            LookupError: an id that is not there, with the most similar one that is.
        """
        keys = []
        for id_ in ids:
            if id_ not in self._key:
                near = hint(id_, (i for i in self.ids if isinstance(i, str)))
                raise LookupError(f"id {id_!r} must be one of the {len(self)} of the index.{near}")
            keys.append(self._key[id_])
        return np.searchsorted(self.keys, np.array(keys, np.int64))

    def known(self, ids: Iterable[Id]) -> np.ndarray:
        """Positions of those of the ids that are there."""
        return self.positions(id_ for id_ in ids if id_ in self._key)

    def metadata(self, keys: Iterable[int]) -> list[Metadata]:
        """The metadata of items by key.

        Raises:
            LookupError: an item was removed.
        """
        keys = list(keys)
        query = "SELECT key, metadata FROM items WHERE key IN (SELECT value FROM json_each(?))"
        found = dict(self._db.execute(query, [json.dumps(keys)]))
        if missing := [key for key in keys if key not in found]:
            raise LookupError(f"{len(missing)} of these items were removed since they were found. Search again.")
        return [json.loads(found[key]) for key in keys]

    def where(self, conditions: Where) -> np.ndarray:
        """Positions of the items that meet every condition, ascending.

        Args:
            conditions: {key of the metadata: wanted}. Wanted is a value (None: null or not given), a list or set of
                values, any of which will do, or a tuple (low, high), both ends included, None = no bound; bounds that
                are numbers select numbers, bounds that are strings select strings.

        Raises:
            ValueError: no item has the key, or what is wanted cannot be compared.
        """
        if not isinstance(conditions, Mapping):
            raise ValueError(f"where must be a mapping of metadata keys to what is wanted: got {conditions!r}.")
        clauses, values = ["TRUE"], []
        for key, wanted in conditions.items():
            if not _is_key(key):
                raise ValueError(self._unknown(key))
            path = f'$."{key}"'
            clause, more = _range(path, wanted) if isinstance(wanted, tuple) else _any_of(path, wanted)
            clauses.append(clause)
            values += more
        query = f"SELECT key FROM items WHERE {' AND '.join(clauses)} ORDER BY key"
        asked = (query, *values)
        found = self._found.get(asked)
        if found is None:
            for key in conditions:
                exists = "SELECT 1 FROM items WHERE json_type(metadata, ?) NOTNULL LIMIT 1"
                if not self._db.execute(exists, [f'$."{key}"']).fetchall():
                    raise ValueError(self._unknown(key))
            keys = np.array([key for (key,) in self._db.execute(query, values)], np.int64)
            found = np.searchsorted(self.keys, keys)
            self._found = dict([*list(self._found.items())[1 - FILTERS :], (asked, found)])
        return found

    def allowed(self, where: Where | None, exclude: Iterable[Id]) -> np.ndarray | None:
        """Positions, ascending, of the items that meet conditions and are not excluded; None = all.

        Args:
            where: see `where`; an index without items has no keys, and any will do.
            exclude: ids; unknown ones are of no effect.
        """
        allowed = self.where(where) if len(self) and where else None  # (m,)
        unwanted = self.known(plain_ids(exclude))
        if not len(unwanted):
            return allowed
        is_allowed = np.full(len(self), allowed is None)
        if allowed is not None:
            is_allowed[allowed] = True
        is_allowed[unwanted] = False
        return np.flatnonzero(is_allowed)  # (m,)

    def counts(self, key: str) -> dict[str, int]:
        """How many items have each value of one key; those without it are left out."""
        value = "json_extract(metadata, ?)"
        query = f"SELECT {value}, COUNT(*) FROM items WHERE {value} NOTNULL GROUP BY 1 ORDER BY MIN(key)"
        return dict(self._db.execute(query, [f'$."{key}"'] * 2))

    def save(self, path: Path) -> None:
        """Write a database file."""
        self._db.execute("VACUUM INTO ?", [str(path)])

    @classmethod
    def load(cls, path: Path, mmap: bool = False, after: int = -1) -> Items:
        """Read a database file; it is not written to.

        Args:
            path: of the file.
            mmap: leave the metadata in the file; nothing can then be added or removed.
            after: keys up to this one were in use: none of them is given again.

        Raises:
            ValueError: an id is there twice.
        """
        items = cls.__new__(cls)
        source = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, check_same_thread=False)
        if mmap:
            items._db = source
        else:
            items._db = sqlite3.connect(":memory:", check_same_thread=False)
            with closing(source):
                source.backup(items._db)
        weakref.finalize(items, items._db.close)
        rows = items._db.execute("SELECT key, id FROM items ORDER BY key").fetchall()
        items.ids = [json.loads(id_) for _, id_ in rows]
        items.keys = np.array([key for key, _ in rows], np.int64)
        items._key = dict(zip(items.ids, items.keys.tolist(), strict=True))
        if len(items._key) < len(rows):
            raise ValueError(f"{path} must hold every id once: {len(rows) - len(items._key)} are there again.")
        items._next = max([after, *items.keys[-1:].tolist()]) + 1
        items._found = {}
        return items

    def _unknown(self, key: str) -> str:
        """What to say about a key that no item has."""
        query = "SELECT DISTINCT each.key FROM items, json_each(items.metadata) AS each"
        keys = sorted(known for (known,) in self._db.execute(query))
        return f"where: no item has the key {key!r}. Keys are: {', '.join(keys) or 'none'}.{hint(key, keys)}"


def plain_ids(ids: Iterable[Id]) -> list[Id]:
    """Strings and integers of Python's own.

    Raises:
        ValueError: one of them is something else, or all together are one string, whose letters are hardly meant.
    """
    if isinstance(ids, str):
        raise ValueError(f"ids must be a list or another collection of ids: got the string {ids!r}.")
    plain = [id_.item() if isinstance(id_, np.generic) else id_ for id_ in ids]
    for row, id_ in enumerate(plain):
        if not isinstance(id_, (str, int)) or isinstance(id_, bool):
            raise ValueError(f"ids must be strings or integers: got {id_!r} in row {row}.")
    return plain


def as_json(values: Metadata, row: int) -> str:
    """One item's metadata as text."""
    if not isinstance(values, dict):
        raise ValueError(f"metadata must be a dict of JSON values: row {row} is {type(values).__name__}.")
    for key in values:
        if not _is_key(key):
            raise ValueError(f"keys of metadata must be printable strings without quotes: row {row} has {key!r}.")
    try:
        text = json.dumps(values, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON values: row {row} is not, {error}.") from error
    return text


def _is_key(key: Any) -> bool:
    """Whether SQLite's JSON paths can name this key."""
    return isinstance(key, str) and key.isprintable() and '"' not in key and "\\" not in key


def _scalar(value: Any) -> str | int | float | bool | None:
    """A value that can be compared with one in the metadata."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError(
            f"where compares with strings, numbers, True, False and None: got {value!r}. "
            "Give a list or a set for several values, a tuple (low, high) for a range."
        )
    if isinstance(value, str) and "\0" in value:  # where SQLite would end the text
        raise ValueError(f"where compares text without NUL: got {value!r}.")
    if isinstance(value, (int, float)) and not abs(value) < 2**63:  # SQLite would round these, and NaN is none
        raise ValueError(f"where compares numbers between -2**63 and 2**63: got {value!r}. None is no bound.")
    return value


def _any_of(path: str, wanted: Any) -> tuple[str, list[Any]]:
    """SQL for: the value is the wanted one, or one of them."""
    several = isinstance(wanted, Collection) and not isinstance(wanted, (str, bytes, Mapping))
    values = [_scalar(value) for value in (wanted if several else [wanted])]
    clause = "json_extract(metadata, ?) IN (SELECT value FROM json_each(?))"
    parameters = [path, json.dumps([value for value in values if value is not None], allow_nan=False)]
    if None in values:
        return f"({clause} OR json_extract(metadata, ?) IS NULL)", [*parameters, path]
    return clause, parameters


def _range(path: str, wanted: tuple) -> tuple[str, list[Any]]:
    """SQL for: the value lies between two bounds, and is a number if they are, else a string."""
    bounds = [_scalar(bound) for bound in wanted]
    given = [bound for bound in bounds if bound is not None]
    is_text = [isinstance(bound, str) for bound in given]
    if len(bounds) != 2 or not given or len(set(is_text)) > 1:
        raise ValueError(f"where: a range is (low, high), two numbers or two strings, one may be None: got {wanted!r}.")
    kinds = "('text')" if is_text[0] else "('integer', 'real')"
    clause = f"json_type(metadata, ?) IN {kinds}"
    parameters: list[Any] = [path]
    for bound, operator in zip(bounds, (">=", "<="), strict=True):
        if bound is not None:
            clause += f" AND json_extract(metadata, ?) {operator} ?"
            parameters += [path, bound]
    return clause, parameters
