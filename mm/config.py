"""Settings: dataclasses shared by the tasks, each default in one place, and how a run's settings are read.

defaults of the dataclass < each `--config` file in turn < each `key=value` on the command line.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast, get_args, get_origin, get_type_hints

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException


@dataclass
class ImageConfig:
    """Image encoder."""

    name: str = "small_cnn"  # of mm.encoders.IMAGE_ENCODERS, "torchvision:<model>" or "transformers:<name or folder>"
    size: int = 0  # pixels a side of the square input; 0 = the network's own (224, small_cnn 64)
    layer: str = ""  # layer whose output is the map; "" = the network's last map
    weights: str = ""  # "" = random, "DEFAULT" = torchvision's download, else a local state-dict file
    freeze: bool = False  # nothing trains, BatchNorm statistics stay
    train_from: str = ""  # first layer that trains, all before it are frozen; "" = all train
    rate: float = 1.0  # learning rate relative to optim.lr
    init: str = ""  # run folder whose image encoder to start from
    cache: bool = False  # keep what the frozen part computes on disk, see mm.data.cache


@dataclass
class TextConfig:
    """Text encoder."""

    name: str = "gru"  # a key of mm.encoders.TEXT_ENCODERS, or "transformers:<name or folder>"
    word_dim: int = 300  # numbers of a word embedding
    hidden: int = 512  # numbers of a word on the map; where both directions run, each gives half
    layers: int = 1  # of the recurrent network or transformer
    bidirectional: bool = True  # also from the last word to the first
    pool: Literal["last", "mean", "max", "class"] = "max"  # "class": the first token, of transformers only
    word_vectors: str = ""  # GloVe or word2vec text file; its vectors must have word_dim numbers
    min_count: int = 1  # rarer training words become <unk>
    max_tokens: int = 64  # longer sentences are cut
    dropout: float = 0.0  # share of the numbers of the words hidden while training
    word_dropout: float = 0.0  # share of words replaced by <unk> while training
    freeze: bool = False  # nothing trains
    rate: float = 1.0  # learning rate relative to optim.lr
    init: str = ""  # run folder whose text encoder and vocabulary to start from
    cache: bool = False  # keep what the frozen encoder computes on disk, see mm.data.cache


@dataclass
class AudioConfig:
    """Audio encoder."""

    name: str = "vgg"  # a key of mm.encoders.AUDIO_ENCODERS
    front_end: Literal["log_mel", "linear", "mfcc"] = "log_mel"  # soundnet takes the wave itself, yamnet its own
    sample_rate: int = 16000  # Hz
    window_s: float = 0.025  # seconds of sound in a column of the spectrogram
    hop_s: float = 0.010  # seconds from one column to the next
    bands: int = 64  # mel bands or cepstral coefficients
    width: int = 64  # channels of the widest convolution / 4
    spec_augment: float = 0.0  # share of the bands and of the frames hidden while training
    weights: str = ""  # "" = random, else a local state-dict file
    freeze: bool = False  # nothing trains, BatchNorm statistics stay
    rate: float = 1.0  # learning rate relative to optim.lr
    init: str = ""  # run folder whose audio encoder to start from
    cache: bool = False  # keep what the frozen encoder computes on disk, see mm.data.cache


@dataclass
class EncodersConfig:
    """The encoders of a run."""

    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)


@dataclass
class DataConfig:
    """What a run reads."""

    name: str = "synthetic"  # of mm.data.READERS; for questions ASKED, for localisation LOCALISED, for separation TALKS
    root: str = ""  # folder of the data sets; "" = $MM_DATA, else ./data
    batch_size: int = 128  # items of a batch, over all processes together
    workers: int = 0  # loading processes; the batches are the same for any number
    views: int = 1  # fixed crops of a picture that training draws from: 1 whole, 2 + mirrored, 10 + corners
    eval_views: int = 1  # of these crops, how many an evaluation averages over
    eval_folds: int = 1  # parts that an evaluation ranks in and averages over: 5 on COCO is the "1k" protocol
    eval_subset: int = 0  # owners that it draws at random, ten times, instead: 1000 on Recipe1M; 0 = all
    cache: str = "cache"  # folder of what frozen encoders computed, see mm.data.cache
    cache_dtype: Literal["float16", "float32"] = "float16"  # of the numbers kept there
    complete: bool = False  # evaluate on the items that are known in every modality of the run
    skip_bad: bool = False  # leave out unreadable training files and count them
    fold: int = 1  # test fold of ESC-10 / ESC-50
    speaker: str = ""  # who is heard in test alone: "george", "s1,s2", "unseen"; "" = the set's own split
    scenes: int = 20000  # training scenes and talks of the embedded world; training mosaics; strings of digits
    sources: int = 1  # things of the embedded world that sound at once where sounds are localised
    file: str = ""  # the CSV or JSONL of name=table, the folder of name=videos or talks, the pattern of name=shards
    sets: dict[str, float] = field(default_factory=dict)  # of name=mixed: {set: share of the batches}, see docs/data.md


@dataclass
class OptimConfig:
    """Optimiser and learning-rate schedule."""

    name: Literal["adamw", "muon", "sgd"] = "adamw"  # see mm.engine.optim.build_optimiser
    lr: float = 1e-3  # peak
    weight_decay: float = 0.01  # on matrices only, never on biases, norms or the temperature
    schedule: Literal["cosine", "constant"] = "cosine"  # what follows the warm-up
    warmup_steps: int = 100  # steps in which the learning rate rises to its peak
    clip_norm: float = 1.0  # 0 = no clipping


@dataclass
class LoopConfig:
    """The training loop."""

    steps: int = 2000  # optimiser steps
    accumulate: int = 1  # batches per optimiser step
    evaluate_every: int = 500  # steps; 0 = at the end only
    checkpoint_every: int = 500  # steps
    log_every: int = 20  # steps
    patience: int = 0  # evaluations without a better result before the run stops; 0 = never
    ema: float = 0.0  # decay of the averaged weights that are evaluated and kept as best; 0 = none
    amp: bool = False  # bfloat16 autocast
    compile: bool = False  # torch.compile the model
    device: str = ""  # "" = the GPU if there is one, else the CPU
    threads: int = 0  # CPU threads of this process; 0 = torch's choice
    tensorboard: bool = True  # write events if tensorboard is installed


T = TypeVar("T")
SCALARS = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}  # what a setting of a plain type takes


class ConfigError(ValueError):
    """A setting, a file or an argument that cannot be used; the message says which, why, and what to write instead."""


class Setting(NamedTuple):
    """One leaf of a dataclass of settings: the type it takes, its name, and the dataclass it stands in."""

    type: Any
    name: str
    group: type


def load(cls: type[T], argv: Sequence[str] = (), default: str | Path | None = None) -> T:
    """Settings from the command line: defaults < each `--config FILE` in turn < each `key=value`.

    `-h` or `--help` prints every key with its default and its comment, then exits.

    Args:
        cls: a dataclass of settings and of further such dataclasses.
        argv: what follows the script's name. `["--config", f"{run}/config.yaml"]` repeats a run.
        default: the file to read where no `--config` is given.

    Returns:
        An instance of `cls`, interpolations such as `${data.root}` resolved.

    Raises:
        ConfigError: an unknown key or argument (with the nearest valid one), a value of the wrong type, a file that is
            missing or is no YAML.
    """
    if any(argument in ("-h", "--help") for argument in argv):
        sys.stdout.write(usage(cls))
        raise SystemExit(0)
    files, pairs = _split(cls, argv)
    config = OmegaConf.structured(cls)
    for path in files or ([str(default)] if default else []):
        _merge(config, cls, _read(path), path)
    for key, text in pairs:
        _merge(config, cls, {key: _parse(cls, key, text)}, "command line")
    try:
        return cast(T, OmegaConf.to_object(config))
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key!r} has no default: give {error.full_key}=value.") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key!r} cannot be resolved: {str(error).splitlines()[0]}.") from error


def to_yaml(config: Any) -> str:
    """All settings of a dataclass instance as YAML that `load` reads back to an equal instance."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def differences(config: Any, path: str | Path, ignore: Sequence[str] = ()) -> list[str]:
    """What differs between settings and a YAML file that holds `to_yaml`, a line for each key.

    Args:
        config: a dataclass instance.
        path: the file.
        ignore: keys that may differ.

    Returns:
        Lines such as "optim.lr: 0.001 there, 0.003 here"; empty if nothing differs.
    """
    there, here = _flat(_read(path)), _flat(OmegaConf.to_container(OmegaConf.structured(config)))
    pairs = {key: (there.get(key, "nothing"), here.get(key, "nothing")) for key in here | there if key not in ignore}
    return [f"{key}: {old!r} there, {new!r} here" for key, (old, new) in pairs.items() if old != new]


def usage(cls: type) -> str:
    """The text of `--help`: every key with its default and its comment."""
    lines = [f"usage: python {sys.argv[0]} [--config FILE]... [key=value]...", "", inspect.getdoc(cls) or ""]
    defaults = _flat(OmegaConf.to_container(OmegaConf.structured(cls)))
    group = ""
    for key, leaf in settings(cls).items():
        if group != (group := key.rpartition(".")[0]):
            lines += ["", f"{group}: {inspect.getdoc(leaf.group)}"]
        default = "(needed)" if defaults[key] == "???" else json.dumps(defaults[key])
        notes = [_kind(leaf.type) if get_origin(leaf.type) is Literal else "", _comments(leaf.group).get(leaf.name, "")]
        lines.append(f"  {f'{key}={default}':<40} {'; '.join(filter(None, notes))}".rstrip())
    return "\n".join(lines) + "\n"


def settings(cls: type, prefix: str = "") -> dict[str, Setting]:
    """{dotted key: Setting} of every leaf of a dataclass of settings, in the order they are written."""
    kinds = get_type_hints(cls)
    leaves: dict[str, Setting] = {}
    for name in (field_.name for field_ in fields(cls)):
        if is_dataclass(kinds[name]):
            leaves |= settings(kinds[name], f"{prefix}{name}.")
        else:
            leaves[prefix + name] = Setting(kinds[name], name, cls)
    return leaves


@contextlib.contextmanager
def clean_exit(*errors: type[BaseException]) -> Iterator[None]:
    """Within it, an error that the user can put right ends the script with one message and exit code 2, no traceback.

    As a decorator: `@clean_exit()` above `def main() -> None`.

    Args:
        errors: kinds of error to treat so, beside `ConfigError`.
    """
    clean: tuple[type[BaseException], ...] = (ConfigError, *errors)
    try:
        yield
    except SystemExit:  # it brings its own exit code
        raise
    except KeyboardInterrupt:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: interrupted; the same command goes on from what is saved\n")
        raise SystemExit(130) from None
    except clean as error:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {error}\n")
        raise SystemExit(2) from None


def _split(cls: type, argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The files and the (key, text) pairs among the arguments."""
    files: list[str] = []
    pairs, rest = [], list(argv)
    while rest:
        argument = rest.pop(0)
        name, equals, text = argument.partition("=")
        if argument == "--config" and not rest:
            raise ConfigError("--config must be followed by a file: got nothing.")
        elif name == "--config":
            files.append(text if equals else rest.pop(0))
        elif name.startswith("-"):
            hint = f" Did you mean '{nearest}=...'?" if (nearest := _nearest(cls, name.lstrip("-"))) else ""
            raise ConfigError(f"unknown argument {argument!r}: settings are written key=value, without dashes.{hint}")
        elif not equals:
            raise ConfigError(f"an argument must be key=value or --config FILE: got {argument!r}.")
        else:
            pairs.append((name, text))
    return files, pairs


def _read(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, or in the config.yaml of a run folder."""
    path = Path(path, "config.yaml") if Path(path).is_dir() else Path(path)
    try:
        content = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file {path}.{_near_files(path)}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, DictConfig):
        raise ConfigError(f"{path} must hold 'key: value' lines: got {type(OmegaConf.to_container(content)).__name__}.")
    return cast(dict[str, Any], OmegaConf.to_container(content))


def _near_files(path: Path) -> str:
    """A hint that names existing YAML files like the one that was asked for."""
    folder = next(parent for parent in (*path.parents, Path(".")) if parent.is_dir())
    found = (str(file) for depth in ("", "*/", "*/*/") for file in folder.glob(f"{depth}[!.]*.yaml"))
    near = difflib.get_close_matches(str(path), list(itertools.islice(found, 999)), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else f" None of a like name in {folder.resolve()}."


def _parse(cls: type, key: str, text: str) -> Any:
    """The value of `key=text`: the text itself for a setting that is text, else YAML (3e-4, true, [a, b])."""
    leaf = settings(cls).get(key)
    if leaf is None or leaf.type is str or get_origin(leaf.type) is Literal:
        return text
    try:
        return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"])))["value"]
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"command line: {key} must be {_kind(leaf.type)}: got {text!r}.") from error


def _merge(config: DictConfig, cls: type, values: dict[str, Any], source: str, prefix: str = "") -> None:
    """Set every value in `config`; groups may be nested or dotted."""
    leaves = settings(cls)
    for name, value in values.items():
        key = f"{prefix}{name}"
        inside = [leaf for leaf in leaves if leaf.startswith(f"{key}.")]
        if key in leaves:
            _set(config, key, leaves[key].type, value, source)
        elif inside and isinstance(value, dict):
            _merge(config, cls, value, source, f"{key}.")
        elif inside:
            raise ConfigError(f"{source}: {key!r} is a group: got {value!r}. Set one of {', '.join(inside)}.")
        else:
            hint = f"Did you mean {nearest!r}?" if (nearest := _nearest(cls, key)) else "See --help for all keys."
            raise ConfigError(f"{source}: {key!r} is not a setting of {cls.__name__}. {hint}")


def _set(config: DictConfig, key: str, kind: Any, value: Any, source: str) -> None:
    """Set one leaf, without OmegaConf's silent conversions (007 to the text "7", 2 to true)."""
    interpolated = isinstance(value, str) and "${" in value
    try:
        if kind in SCALARS and not interpolated and type(value) not in SCALARS[kind]:
            raise TypeError(f"{key} takes no {type(value).__name__}")
        OmegaConf.update(config, key, value, merge=get_origin(kind) is not dict)  # a mapping takes another's place
    except (TypeError, OmegaConfBaseException) as error:
        hint = " Put it in quotes." if kind is str and isinstance(value, int | float) else ""
        hint = {list: " Write [a, b].", dict: " Write {a: 1, b: 2}."}.get(cast(Any, get_origin(kind)), hint)
        if near := difflib.get_close_matches(str(value), map(str, get_args(kind)), n=1):
            hint = f" Did you mean {near[0]!r}?"
        came = "nothing (null)" if value is None else f"{value!r} ({type(value).__name__})"
        raise ConfigError(f"{source}: {key} must be {_kind(kind)}: got {came}.{hint}") from error


def _nearest(cls: type, key: str) -> str | None:
    """The valid key that a wrong one most likely meant: the same last name, its initials (lr), or similar letters."""
    name = key.rpartition(".")[2]
    lasts = {k: k.rpartition(".")[2] for k in settings(cls)}
    similar = difflib.get_close_matches(name, lasts.values(), n=1)
    same = [k for k, last in lasts.items() if last == name]
    same = same or [k for k, last in lasts.items() if name == _initials(last) or last == _initials(name)]
    same = same or [k for k, last in lasts.items() if last in similar]
    close = difflib.get_close_matches(key, same, n=1, cutoff=0) or difflib.get_close_matches(key, lasts, n=1)
    return close[0] if close else None


def _initials(name: str) -> str:
    return "".join(word[:1] for word in name.split("_"))


def _kind(kind: Any) -> str:
    """How a message names a type: float, list[str], "adamw" | "sgd"."""
    if get_origin(kind) is Literal:
        return " | ".join(json.dumps(choice) for choice in get_args(kind))
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; an empty mapping is a value."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {f"{prefix}{name}": value}
    return flat


def _comments(cls: type) -> dict[str, str]:
    """{field: the comment at the end of its line}; empty where there is no source, as in a notebook."""
    try:
        lines = inspect.getsource(cls).splitlines()
    except (OSError, TypeError):
        return {}
    found = (re.match(r"\s+(\w+): .*?  # (.*)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}
