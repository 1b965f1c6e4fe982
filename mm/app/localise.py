"""The tab that localises: a picture and a sound -> the heat map of where it comes from, with a slider for both ends."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mm.app import examples
from mm.app.events import on
from mm.app.inputs import KINDS, figure, needed, picture, slider, sound
from mm.app.runs import Run
from mm.explain.heatmap import LEAST, overlay
from mm.media import read_image

SHOWN_PX = 480  # longer side of the heat map
STEP = 0.05  # of the sliders
HELP = (
    "Give a picture and a sound; the brighter a place, the more it goes with the sound. "
    "The first slider blends the heat over the picture, the second darkens what is below a share of the highest."
)


class Heat(NamedTuple):
    """What is drawn anew when a slider moves.

    Attributes:
        picture: (h, w, 3) uint8.
        scores: (H, W) cosines.
    """

    picture: np.ndarray
    scores: np.ndarray


def tab(run: Run) -> None:
    """Lay out the tab, within a tab of Gradio."""
    import gradio

    gradio.Markdown(HELP)
    with gradio.Row():
        with gradio.Column(scale=1, min_width=260):
            image, audio = picture(), sound()
            button = gradio.Button("Localise", variant="primary")
            examples.button(run, {"image": image, "audio": audio})
        with gradio.Column(scale=2):
            said = gradio.Textbox(label="Highest place", interactive=False, elem_classes="place")
            shown = figure("Heat map")
            strength = slider(0, 1, 1, "Strength of the heat", STEP, "strength")
            threshold = slider(0, 1, 0, "Least share of the highest score", STEP, "threshold")
    heat = gradio.State()

    def find(one: str | None, other: str | None, *sliders: float) -> tuple[Heat, str, np.ndarray]:
        found, place = localise(run, one, other)
        return found, place, blended(found, *sliders)

    def again(found: Heat | None, *sliders: float) -> np.ndarray | None:
        return blended(found, *sliders) if found else None

    on(button.click, find, [image, audio, strength, threshold], [heat, said, shown], run.path)
    for moved in (strength, threshold):
        options = {"show_progress": "hidden", "trigger_mode": "always_last"}
        on(moved.change, again, [heat, strength, threshold], [shown], **options)


def localise(run: Run, image: str | None, audio: str | None) -> tuple[Heat, str]:
    """The heat map of a sound over a picture, and its highest place in words.

    Raises:
        OSError, ValueError: a file is missing or cannot be read.
    """
    files = Path(needed(image, KINDS["image"])), Path(needed(audio, KINDS["audio"]))
    (located,) = run.model.localise([files[0]], [files[1]])
    x, y = located.peak_xy
    where = f"{100 * x:.0f} % from the left, {100 * y:.0f} % from the top"
    said = f"{where}; score {located.score:.2f}, of silence {located.silence:.2f}"
    seen = Image.fromarray(read_image(files[0]))
    width, height = (max(round(side * SHOWN_PX / max(seen.size)), 1) for side in seen.size)
    return Heat(np.asarray(seen.resize((width, height))), located.heat.numpy()), said


def blended(heat: Heat, strength: float, threshold: float) -> np.ndarray:
    """The heat over the picture: (h, w, 3) uint8.

    Args:
        heat: what is drawn.
        strength: 0 = the picture alone, 1 = the heat map as `mm.explain.heatmap.overlay` draws it.
        threshold: share of the highest score below which a place stays dark.
    """
    highest = float(heat.scores.max())
    kept = np.where(heat.scores >= threshold * highest, heat.scores, 0)  # (H, W)
    drawn = overlay(heat.picture, kept, max(highest, LEAST))  # (h, w, 3)
    both = Image.blend(Image.fromarray(heat.picture), Image.fromarray(drawn), float(strength))
    return np.asarray(both)  # (h, w, 3)
