"""Unknown names, with the nearest valid one: how every message of the house speaks of them."""

import difflib
from collections.abc import Iterable


def known(name: str, names: Iterable[str], what: str) -> str:
    """`name`, if it is one of `names`.

    Raises:
        ValueError: it is not; the message lists all and the nearest.
    """
    names = list(names)
    if name not in names:
        raise ValueError(f"unknown {what} {name!r}. Choose from: {', '.join(names)}.{hint(name, names)}")
    return name


def hint(name: object, names: Iterable[str]) -> str:
    """ " Did you mean 'x'?" for an unknown name, or nothing when no valid name is near."""
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
