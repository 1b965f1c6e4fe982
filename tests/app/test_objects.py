"""Cases whose objects are known: each is where the picture or the sound changes with it, and is what is spoken of."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mm.app.explained import view_of
from mm.app.objects import SCENES, Case, cases, score
from mm.app.runs import Run, open_run
from mm.data import AskedScenes
from mm.data.scenes import COLOURS, SHAPES, SIDE_PX, Scene, recoloured
from mm.data.sentences import Phrase
from mm.data.synthetic import Scenes
from mm.explain.attribution import saliency
from mm.explain.cam import Box
from mm.explain.methods import HEAT
from mm.tasks.distillation_data import ONE_THING

CASES = 40
EDGE_PX = 3  # by which a box, of pixels that are covered by half, lies within all that are covered at all
FADED_S = 0.015  # in which a voice swells from silence, or dies away
ASKED = [
    re.compile(rf"what colour is the ((?P<size>small|large) )?(?P<shape>{'|'.join(SHAPES)})\?"),
    re.compile(rf"what shape is the ((?P<size>small|large) )?(?P<colour>{'|'.join(COLOURS)}) object\?"),
]
Worlds = dict[str, tuple[Run, Any]]
every_task = pytest.mark.parametrize("task", ["retrieval", "vqa", "distillation"])


@pytest.fixture(scope="module")
def worlds(scenes_run: Path, vqa_run: Path, distillation_run: Path) -> Worlds:
    """{task: a run of it, the scenes that it is tested on}."""
    retrieval, vqa, teacher = (open_run(str(path)) for path in (scenes_run, vqa_run, distillation_run / "teacher"))
    return {
        "retrieval": (retrieval, Scenes("test", SCENES, retrieval.cfg.seed)),
        "vqa": (vqa, AskedScenes("test", SCENES, vqa.cfg.seed, heard="audio" in vqa.cfg.modalities)),
        "distillation": (teacher, Scenes("test", SCENES, teacher.cfg.seed, ONE_THING)),
    }


def placed(run: Run, scenes: Any, of: str = "image") -> list[tuple[Case, int]]:
    """Cases, each with the number of the scene that it shows."""
    numbers = {np.asarray(getattr(scenes[k], of)[0]).tobytes(): k for k in range(2 * CASES)}
    return [(case, numbers[np.asarray(case.sources[of]).tobytes()]) for case in cases(run, CASES, of)]


def things_of(scenes: Any, index: int) -> Scene:
    return scenes.drawn(index)[0] if isinstance(scenes, AskedScenes) else scenes.scene(index)


def repainted(scenes: Any, index: int, number: int) -> Any:
    """Item `index` with its thing `number`, and nothing else, in another colour, which is seen and heard."""
    again, scene = copy.copy(scenes), things_of(scenes, index)
    own = np.array(COLOURS[scene[number].colour])
    changed = recoloured(scene, number, max(COLOURS, key=lambda name: np.abs(own - COLOURS[name]).sum()))
    if isinstance(scenes, AskedScenes):
        again.drawn = lambda index: (changed, *scenes.drawn(index)[1:])
    else:
        again.scene = lambda index: changed
    return again[index]


def spoken_of(case: Case, things: Scene) -> list[int]:
    """The things that a case's sentence or question is true of; all, if it has none."""
    if case.question:
        asked = next(filter(None, (pattern.fullmatch(case.question) for pattern in ASKED))).groupdict()
        return [n for n, thing in enumerate(things) if all(v in (None, getattr(thing, k)) for k, v in asked.items())]
    return [n for n, thing in enumerate(things) if case.target in ("", f"a {Phrase(*thing[:3])}")]


def lies_around(box: Box, seen: np.ndarray) -> bool:
    """Whether a box is that of pixels (h, w) bool."""
    (rows,), (columns,) = np.nonzero(seen.any(axis=1)), np.nonzero(seen.any(axis=0))
    around = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    beyond = (SIDE_PX * np.array(box) - around) * (1, 1, -1, -1)  # px that it ends before they do
    return bool((beyond >= 0).all() and (beyond <= EDGE_PX).all())


# Where they are -------------------------------------------------------------------------------------------------------


@every_task
def test_a_box_is_that_of_the_pixels_of_the_one_object_that_is_spoken_of(worlds: Worlds, task: str) -> None:
    run, scenes = worlds[task]
    places = set()
    for case, index in placed(run, scenes):
        (meant,) = spoken_of(case, things_of(scenes, index))
        picture = scenes[index].image[0]
        seen = [
            (picture != repainted(scenes, index, number).image[0]).any(axis=2)  # (h, w)
            for number in range(len(things_of(scenes, index)))
        ]
        assert lies_around(case.box, seen.pop(meant)), index
        if task == "distillation":
            assert case.other is None and not seen
        else:
            assert sum(lies_around(case.other, pixels) for pixels in seen) == 1, index
        places.add(meant)
    assert len(places) == (1 if task == "distillation" else 4)  # not always the first from the left


def test_a_span_is_that_of_the_one_voice_that_is_spoken_of(worlds: Worlds) -> None:
    run, scenes = worlds["retrieval"]
    places = set()
    for case, index in placed(run, scenes, "audio"):
        things, wave = things_of(scenes, index), scenes[index].audio[0]
        (meant,) = spoken_of(case, things)
        spans = []
        for number in range(len(things)):
            again = repainted(scenes, index, number).audio[0]
            louder = np.median(again[wave != 0] / wave[wave != 0])  # the whole is scaled to its peak
            (heard,) = np.nonzero(np.abs(again - louder * wave) > 0.01 * np.abs(wave).max())  # (k,) samples
            spans.append((heard[0] / len(wave), 0.0, (heard[-1] + 1) / len(wave), 1.0))  # low to high: all bands
        assert case.box == pytest.approx(spans.pop(meant), abs=FADED_S), index
        assert sum(case.other == pytest.approx(span, abs=FADED_S) for span in spans) == 1, index
        places.add(meant)
    assert len(places) == 4


def test_all_questions_that_are_about_one_object_are_asked(worlds: Worlds) -> None:
    run, scenes = worlds["vqa"]
    found = placed(run, scenes)
    expected = [
        (question.text, number)
        for number in range(found[-1][1] + 1)
        for question in scenes[number].questions
        if len(things_of(scenes, number)) > 1
        and any(pattern.fullmatch(question.text) for pattern in ASKED)
        and len(spoken_of(found[0][0]._replace(question=question.text), things_of(scenes, number))) == 1
    ]
    assert [(case.question, number) for case, number in found] == expected[:CASES]
    for case, number in found:
        sound = scenes[number].audio
        assert (case.sources["audio"] == sound[0]).all() if sound else set(case.sources) == {"image"}


# What finds them ------------------------------------------------------------------------------------------------------


def lit(box: Box) -> torch.Tensor:
    """(1, H, W) heat on a box, the most in its middle."""
    left, top, right, bottom = box
    middles = (np.arange(SIDE_PX) + 0.5) / SIDE_PX
    across, down = (middles >= left) & (middles < right), (middles >= top) & (middles < bottom)
    heat = torch.from_numpy(np.outer(down, across)).float()
    heat[int(SIDE_PX * (top + bottom) / 2), int(SIDE_PX * (left + right) / 2)] += 0.5
    return heat[None]


@pytest.mark.parametrize(
    ("task", "of"), [("retrieval", "image"), ("retrieval", "audio"), ("vqa", "image"), ("distillation", "image")]
)
def test_heat_on_the_object_and_heat_elsewhere(
    worlds: Worlds, task: str, of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = worlds[task]
    found = cases(run, 12, of)

    def scored(boxes: Sequence[Box], threshold: float = 0.2) -> tuple[float, float | None, float]:
        heats = iter(boxes)
        monkeypatch.setitem(HEAT, "by hand", lambda net, seen, target, layer: lit(next(heats)))
        found_by_hand = score(run, "by hand", found, of=of, threshold=threshold)
        return found_by_hand.inside, found_by_hand.other, found_by_hand.boxes.share

    own = [case.box for case in found]
    assert scored(own, 0.9)[2] == 0  # only the middle is as hot
    if task == "distillation":
        assert scored(own) == (1, None, 1)
        assert scored([(0.0, 0.0, 0.05, 0.05)] * len(own)) == (0, None, 0)
        return
    others = [case.other for case in found]
    assert scored(own) == (1, 0, 1)
    assert scored(others) == (0, 1, 0)
    assert scored(own[:3] + others[3:]) == (0.25, 0.75, 0.25)


@pytest.mark.parametrize("task", ["retrieval", "vqa"])
def test_the_heat_is_that_of_each_case(worlds: Worlds, task: str) -> None:
    run, _ = worlds[task]
    found, inside, other = cases(run, CASES), [], []
    for case in found:
        _, view = view_of(run, case.sources, "image", case.target, case.question)
        heat = saliency(view.net, view.seen, view.target)[0].numpy()  # (H, W)
        row, column = np.unravel_index(heat.argmax(), heat.shape)
        x, y = (column + 0.5) / heat.shape[1], (row + 0.5) / heat.shape[0]
        for (left, top, right, bottom), hits in ((case.box, inside), (case.other, other)):
            hits.append(left <= x < right and top <= y < bottom)
    scored = score(run, "saliency", found)
    assert (scored.inside, scored.other) == pytest.approx((np.mean(inside), np.mean(other)))
    assert sum(inside) + sum(other) > 0
