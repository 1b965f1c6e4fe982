"""Encoders in folders: described in encoders.json beside their weights, and read back from wherever a run left them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from mm import __version__, files
from mm.checks import check_changes
from mm.encoders.adapters import TorchvisionEncoder
from mm.encoders.audio import AudioEncoder
from mm.encoders.encoder import CONFIG_FILE, WEIGHTS_FILE, Encoder, load_weights
from mm.encoders.image import ImageEncoder
from mm.encoders.spectrogram import SpectrogramEncoder
from mm.encoders.text import TextEncoder
from mm.encoders.transformers_models import TransformersImageEncoder, TransformersTextEncoder
from mm.encoders.video import VideoEncoder
from mm.naming import known

DESCRIPTION_FILE = "encoders.json"
MANIFEST_FILE = "manifest.json"  # of a checkpoint: what each of its files must be
POINTERS = ("best", "last")  # in a run's checkpoints/: each a text file that names a folder beside it
ENCODERS: tuple[type[Encoder], ...] = (
    ImageEncoder,
    TextEncoder,
    AudioEncoder,
    SpectrogramEncoder,
    VideoEncoder,
    TorchvisionEncoder,
    TransformersImageEncoder,
    TransformersTextEncoder,
)
CLASSES = {encoder.__name__: encoder for encoder in ENCODERS}


def describe(encoders: Mapping[str, Encoder]) -> dict[str, dict[str, Any]]:
    """{modality: encoder} -> what encoders.json holds: {modality: {"class": name, "config": constructor arguments}}."""
    return {
        modality: {"class": type(encoder).__name__, "config": encoder.config} for modality, encoder in encoders.items()
    }


def build(description: Mapping[str, Any]) -> Encoder:
    """An encoder with random weights from one value of `describe`.

    Raises:
        ValueError: an unknown class, or arguments that it does not take.
    """
    if not {"class", "config"} <= set(description):
        raise ValueError(f'an encoder must be described by "class" and "config": got {sorted(description)}.')
    encoder = CLASSES[known(description["class"], CLASSES, "encoder class")]
    try:
        return encoder(**description["config"])
    except TypeError as error:
        raise ValueError(
            f"{description['class']} cannot be built: {error}. Was it saved by another version?"
        ) from error


@overload
def load(run: str | Path, modality: None = None) -> dict[str, Encoder]: ...


@overload
def load(run: str | Path, modality: str) -> Encoder: ...


def load(run: str | Path, modality: str | None = None) -> Encoder | dict[str, Encoder]:
    """Encoders with their trained weights, in eval mode.

    Args:
        run: a run folder (its best checkpoint, or the last if none is best yet), a checkpoint folder, a pointer file
            such as RUN/checkpoints/last, or a folder that `save_pretrained` wrote.
        modality: "image", "text", "audio" or "video"; None = all that are there.

    Returns:
        the encoder of the modality; for None {modality: encoder}. The image encoder of a run that sees faces is that
        of its frames.

    Raises:
        FileNotFoundError: nothing of the kind is there; the message says what was looked for.
        ValueError: no encoder of this modality, or a damaged file.
    """
    folder = find(Path(run))
    verify(folder)
    if (folder / DESCRIPTION_FILE).is_file():
        descriptions, prefix = read_json(folder / DESCRIPTION_FILE), "encoders.{}."
    else:
        config = read_json(folder / CONFIG_FILE)
        description = {"class": config.pop("class", None), "config": config}
        encoder_class = CLASSES[known(description["class"], CLASSES, f"encoder class in {folder / CONFIG_FILE}")]
        descriptions, prefix = {encoder_class.modality: description}, ""
    if modality == "image" and "image" not in descriptions and "video" in descriptions:
        video = filled(descriptions["video"], folder, prefix.format("video"))
        assert isinstance(video, VideoEncoder)
        if video.image is not None:
            return video.image.eval()
    if modality is not None:
        known(modality, descriptions, f"modality of {folder}")
        return filled(descriptions[modality], folder, prefix.format(modality))
    return {name: filled(description, folder, prefix.format(name)) for name, description in descriptions.items()}


def find(run: Path) -> Path:
    """The folder that holds the weights of a run, see `load`."""
    if run.is_file() and run.name in POINTERS:
        return follow(run)
    for pointer in POINTERS:
        if (run / "checkpoints" / pointer).is_file():
            return follow(run / "checkpoints" / pointer)
    if (run / WEIGHTS_FILE).is_file() and any((run / name).is_file() for name in (DESCRIPTION_FILE, CONFIG_FILE)):
        return run
    raise FileNotFoundError(
        f"{run} must be a run folder (checkpoints/best or checkpoints/last in it), a checkpoint folder ({WEIGHTS_FILE} "
        f"and {DESCRIPTION_FILE}) or a folder of save_pretrained ({WEIGHTS_FILE} and {CONFIG_FILE}): "
        f"none of these was found{'' if run.exists() else ', and there is no such path'}."
    )


def follow(pointer: Path) -> Path:
    """The checkpoint folder that a pointer file names."""
    folder = pointer.parent / pointer.read_text(encoding="utf-8").strip()
    missing = [name for name in (WEIGHTS_FILE, DESCRIPTION_FILE) if not (folder / name).is_file()]
    if missing or folder == pointer.parent:
        raise FileNotFoundError(
            f"{pointer} must name a checkpoint: {missing} not found in {folder}. Point it to another."
        )
    return folder


def verify(folder: Path) -> None:
    """Compare the weights and settings of a checkpoint with the sums written beside them; other folders have none.

    Raises:
        ValueError: a file has changed since it was written, or another version wrote the checkpoint.
    """
    manifest = folder / MANIFEST_FILE
    if not manifest.is_file():
        return
    content = read_json(manifest)
    written, sums = str(content.get("mm_version")), content.get("files", {})
    if written.split(".")[:2] != __version__.split(".")[:2]:
        raise ValueError(
            f"{folder} was written by mm {written}, this is {__version__}: train anew, or use mm {written}."
        )
    read = [name for name in sums if name == WEIGHTS_FILE or not name.endswith(".safetensors")]
    for name in read:  # the optimiser's memory is checked where a run goes on
        if not (folder / name).is_file() or files.sha256(folder / name) != sums[name]["sha256"]:
            raise ValueError(
                f"{folder / name} is damaged or gone: its sha256 is not the one in {MANIFEST_FILE}. Put back a good "
                "copy, or take another checkpoint."
            )


def filled(description: Mapping[str, Any], folder: Path, prefix: str) -> Encoder:
    """The encoder of a description, with the weights of a folder whose names begin with `prefix`."""
    encoder = build(description)
    path = folder / WEIGHTS_FILE
    try:
        with safe_open(path, framework="pt") as weights:
            state = {k.removeprefix(prefix): weights.get_tensor(k) for k in weights.keys() if k.startswith(prefix)}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}. Take another checkpoint, or save it again.") from error
    load_weights(encoder, state, path)
    return encoder.eval()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or holds no object.
    """
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object: got a {type(content).__name__}.")
    return content


def opened(
    run: str | Path, changes: Sequence[str], changeable: Sequence[str], name: str, task: str
) -> tuple[Path, dict[str, Any], list[str]]:
    """The best checkpoint of a finished run of a task.

    Args:
        run: run folder, see `load`.
        changes: `key=value` that are to differ from the run's own settings.
        changeable: patterns of the keys that may.
        name: of the file that checkpoints of this task have.
        task: for the message.

    Returns:
        Its folder, the JSON object that its head is rebuilt from, and the arguments for `mm.config.load`.

    Raises:
        FileNotFoundError: there is no such run.
        ConfigError: a change of anything else: the model and the training are done.
        ValueError: it is a run of another task, or damaged.
    """
    folder = find(Path(run))
    check_changes(changes, changeable)
    return folder, of_task(folder, name, task), ["--config", str(folder / "config.yaml"), *changes]


def of_task(folder: Path, name: str, task: str) -> dict[str, Any]:
    """The JSON object by which a checkpoint says what task it is of, and how to rebuild its head.

    Args:
        folder: of the checkpoint.
        name: of the file that checkpoints of this task have.
        task: for the message.

    Raises:
        ValueError: it is that of another task, or damaged.
    """
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{folder} must be a checkpoint of {task}: there is no {name}. Name another.")
    return read_json(path)


def fill(model: nn.Module, folder: Path) -> None:
    """Fill a whole model, encoders and head, from the weights of a checkpoint.

    Raises:
        ValueError: keys or shapes differ.
    """
    weights = folder / WEIGHTS_FILE
    load_weights(model, load_file(weights), weights)
