"""Entries of a split by their ids, of which nothing is drawn or read before it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mm.data.gallery import entries_of
from mm.data.item import Item, Source
from mm.data.synthetic import Scenes


class Named:
    """The items of a split by their ids; scenes are drawn when they are asked for."""

    def __init__(self, items: Sequence[Item]):
        names = map(items.name, range(len(items))) if isinstance(items, Scenes) else (item.id for item in items)
        self.items, self.places = items, {name: place for place, name in enumerate(names)}


class Entries(Mapping[str, Source]):
    """{id of an entry: its source} of one modality, of which nothing is drawn before it is asked for."""

    def __init__(self, named: Named, modality: str):
        self._named, self._modality = named, modality

    def __getitem__(self, entry: str) -> Source:
        places = self._named.places
        place = places[entry] if entry in places else places[entry.rpartition("#")[0]]
        found = {one.id: one.source for one in entries_of(self._named.items[place], self._modality)}
        return found[entry]

    def __iter__(self) -> Iterator[str]:
        return (one.id for item in self._named.items for one in entries_of(item, self._modality))

    def __len__(self) -> int:
        return sum(1 for _ in self)
