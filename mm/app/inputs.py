"""What the tabs take: pictures, sounds and other files, as they were uploaded, and no file that was not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mm.app.events import UPLOADS

KINDS = {"video": "a file of each face", "image": "a picture", "audio": "a sound"}
HIGH_PX = 260  # of a picture or a video
FILE_PX = 150  # of where files are dropped


def picture(label: str = "Picture") -> Any:
    """An upload, a shot by the camera, or the clipboard's picture; its value is a path."""
    import gradio

    buttons: list[Any] = ["fullscreen"]
    return kept(gradio.Image(label=label, format="png", height=HIGH_PX, elem_classes="picture", buttons=buttons))


def sound(label: str = "Sound") -> Any:
    """An upload or a recording; its value is a path."""
    import gradio

    return kept(gradio.Audio(label=label, type="filepath", editable=False, elem_classes="sound", buttons=[]))


def video(label: str) -> Any:
    """An upload; its value is a path."""
    import gradio

    return kept(gradio.Video(label=label, sources=["upload"], height=HIGH_PX, elem_classes="video", buttons=[]))


def file(label: str, name: str) -> Any:
    """An upload of any kind; its value is a path. `name` is its class in the page."""
    import gradio

    return kept(gradio.File(label=label, height=FILE_PX, elem_classes=name))


def face_files(label: str = "A file of each face") -> Any:
    """Uploads of any kind; its value is a list of paths."""
    import gradio

    return kept(gradio.File(label=label, file_count="multiple", height=FILE_PX, elem_classes="faces"))


def box(label: str, placeholder: str, name: str, records: bool) -> Any:
    """A sentence and any number of files, also recordings; its value is {"text", "files": paths}."""
    import gradio

    return kept(
        gradio.MultimodalTextbox(
            label=label,
            placeholder=placeholder,
            sources=["upload", "microphone"] if records else ["upload"],
            file_count="multiple",
            submit_btn=False,
            elem_id=name,
        )
    )


def sources(modalities: Iterable[str]) -> dict[str, Any]:
    """An input for each of "image", "audio" and "video", which is faces, that a model takes."""
    makers = {"video": face_files, "image": picture, "audio": sound}
    return {modality: makers[modality]() for modality in modalities if modality in makers}


def slider(low: float, high: float, value: float, label: str, step: float = 1, name: str = "") -> Any:
    """A number from `low` to `high` in steps; beyond them it is the nearest, and where it is left out `value`."""
    import gradio

    component: Any = gradio.Slider(low, high, value, step=step, label=label, elem_classes=name or None)

    component.preprocess = lambda given: within(given, low, high, value, step)
    return component


def within(given: Any, low: float, high: float, value: float, step: float = 1) -> float:
    """The nearest number that a slider has; `value` where what is given is none."""
    number = given if isinstance(given, int | float) and given == given else value  # NaN is not itself
    return low + round((min(max(number, low), high) - low) / step) * step


def figure(title: str) -> Any:
    """Where a picture is shown below a title; its value is an array (h, w, 3) uint8."""
    import gradio

    gradio.Markdown(f"**{title}**")
    buttons: list[Any] = ["download", "fullscreen"]
    return gradio.Image(show_label=False, format="png", interactive=False, buttons=buttons, elem_classes="figure")


def needed(file: str | None, what: str) -> str:
    """The file.

    Raises:
        ValueError: there is none.
    """
    if not file:
        raise ValueError(f"{what} is needed: got none. Upload or record one.")
    return file


# Uploads --------------------------------------------------------------------------------------------------------------


def kept(component: Any) -> Any:
    """A component that takes files, changed so that it gives their paths and looks into none of them.

    A request may name any path, or an address, as if it had been uploaded: those are refused before Gradio copies or
    fetches them.
    """
    move = component.async_move_resource_to_block_cache

    async def moved(path: Any) -> Any:
        return await move(uploaded(path))

    component.async_move_resource_to_block_cache = moved
    component.preprocess = paths_of
    return component


def paths_of(payload: Any) -> Any:
    """What a component of Gradio is sent -> a path, a list of them, {"text", "files"}, or None."""
    if payload is None:
        return None
    if hasattr(payload, "files"):
        return {"text": payload.text, "files": [uploaded(file.path) for file in payload.files]}
    if hasattr(payload, "root"):
        return [uploaded(file.path) for file in payload.root]
    return uploaded(payload.path)


def uploaded(path: Any) -> str:
    """The path of an upload.

    Raises:
        gradio.Error: it lies elsewhere.
    """
    import gradio

    if not Path(str(path)).resolve().is_relative_to(os.environ[UPLOADS]):
        raise gradio.Error("only what was uploaded can be taken. Upload it again.", print_exception=False)
    return str(path)
