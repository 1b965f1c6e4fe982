"""What a task may reject of its settings: changes of a finished run, and settings that the others make idle."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import is_dataclass
from typing import Any

from mm.config import ConfigError


def check_changes(changes: Sequence[str], allowed: Sequence[str]) -> None:
    """Reject `key=value` pairs of a finished run whose keys match no pattern that is allowed, such as "data.*".

    Raises:
        ConfigError: another key.
    """
    if done := [c for c in changes if not any(fnmatch.fnmatch(c.partition("=")[0], pattern) for pattern in allowed)]:
        raise ConfigError(
            f"of a finished run, {', '.join(allowed[:-1])} and {allowed[-1]} can be changed: got {', '.join(done)}. "
            "Leave it out, or train anew with it."
        )


def check_idle(cfg: Any, idle: Iterable[str]) -> None:
    """Reject settings that are not read with these others, unless they have their defaults.

    Args:
        cfg: a dataclass of settings and of further such dataclasses, all of which have defaults.
        idle: keys that are not read.

    Raises:
        ConfigError: one of them was given.
    """
    defaults, given = values(type(cfg)()), values(cfg)
    if wrong := [key for key in idle if given[key] != defaults[key]]:
        came, free = (", ".join(f"{key}={of[key]}" for key in wrong) for of in (given, defaults))
        raise ConfigError(f"{came} {'has' if len(wrong) == 1 else 'have'} no effect here: leave out, or give {free}.")


def values(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of all settings."""
    flat: dict[str, Any] = {}
    for name, value in vars(cfg).items():
        flat |= values(value, f"{prefix}{name}.") if is_dataclass(value) else {f"{prefix}{name}": value}
    return flat
