"""The tab that separates: a video, or a mixture and videos of those who talk -> a player for each voice."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from mm.app.events import named, on
from mm.app.inputs import KINDS, face_files, file, needed, slider, sound, video
from mm.app.runs import Run
from mm.heads.separator import MOST_FACES
from mm.tasks.separation_files import check_sound, faces_alone, faces_in, remarks, separate_files

PLAYERS = 8  # voices at most
HEARS = "Give a sound in which several talk, and say how many they are."
SEES = (
    "Give a video of those who talk: each face in it gets its voice. Or give the sound of all of them, and a file of "
    "each face. Faces in a video are found by a detector, unless a file of their boxes says where they are."
)


def tab(run: Run) -> None:
    """Lay out the tab, within a tab of Gradio."""
    import gradio

    hears = run.model.head.heard_only
    gradio.Markdown(HEARS if hears else SEES)
    with gradio.Row():
        if hears:
            mixture = sound("Sound of all")
            count = slider(1, MOST_FACES, 2, "How many talk")
            inputs = [mixture, count]
        else:
            with gradio.Column(min_width=260):
                movie = video("A video of all")
                boxes = file("Boxes of the faces in it (JSON)", "boxes")
            with gradio.Column(min_width=260):
                mixture = sound("or the sound of all")
                shown = face_files("and a file of each face")
            inputs = [movie, boxes, mixture, shown]
    button = gradio.Button("Separate", variant="primary")
    said = gradio.Textbox(label="What came out", interactive=False, lines=1, max_lines=9, elem_classes="voices")
    players = [gradio.Audio(visible=False, interactive=False, buttons=["download"]) for _ in range(PLAYERS)]

    def separate(*given: Any) -> list[Any]:
        text, voices = hear(run, given[0], int(given[1])) if hears else see(run, *given)
        shown = [gradio.Audio(value=wave, label=name, visible=True) for name, wave in voices]
        return [text, *shown, *(gradio.Audio(value=None, visible=False) for _ in range(PLAYERS - len(shown)))]

    on(button.click, separate, inputs, [said, *players], run.path)


Voices = list[tuple[str, tuple[int, np.ndarray]]]  # the name of each, its rate in Hz and (T,) int16


def hear(run: Run, mixture: str | None, count: int) -> tuple[str, Voices]:
    """So many voices of a mixture, by a run that only hears.

    Raises:
        OSError, ValueError: there is no sound, or it cannot be read.
    """
    return voices_of(run, Path(needed(mixture, KINDS["audio"])), count)


def see(
    run: Run, video: str | None, boxes: str | None, mixture: str | None, faces: Sequence[str] | None
) -> tuple[str, Voices]:
    """The voice of each face.

    Args:
        run: that goes by faces.
        video: that shows all of them.
        boxes: where they are in it, see `mm.video.read_tracks`; None = they are looked for.
        mixture: the sound, in the place of the video's own or of none.
        faces: files of one face each, instead of a video.

    Raises:
        OSError, ValueError: files are missing, too many or of the wrong kind, or cannot be read.
    """
    if bool(video) == bool(faces):
        raise ValueError("either a video of all or files of the faces are needed: got both or none. Give one of them.")
    if boxes and not video:
        raise ValueError("boxes are for the faces in a video: there is none. Give it, or leave them out.")
    if not mixture:
        check_sound(Path(needed(video, "the sound of all")))
    shown = (
        faces_in(Path(video), Path(boxes) if boxes else None) if video else faces_alone(list(map(Path, faces or [])))
    )
    return voices_of(run, Path(mixture or video or ""), shown)


def voices_of(run: Run, mixture: Path, faces: Any) -> tuple[str, Voices]:
    """What was separated in words, and the voices.

    Args:
        run: of separation.
        mixture: sound or video file.
        faces: as `separate_files` takes them.

    Raises:
        OSError, ValueError: see `separate_files`; or more voices than there are players.
    """
    count = faces if isinstance(faces, int) else len(faces)
    if count > PLAYERS:
        raise ValueError(f"the page plays {PLAYERS} voices at most: got {count}. scripts/separate.py writes all.")
    with tempfile.TemporaryDirectory() as folder:
        done = separate_files(run.model, mixture, faces, Path(folder))
        waves = [soundfile.read(path, dtype="int16") for path in done.paths]
    voices: Voices = []
    for path, share, (wave, rate) in zip(done.paths, done.shares, waves, strict=True):
        voices.append((f"{path.stem}: {share:.0%} of the mixture's energy", (rate, wave)))
    lines = [f"Voices: {count}, of {done.seconds:.2f} s each.", *remarks(done, run.model.head.fps)]
    return named("\n".join(lines)), voices
