"""Whether explanations find the object in question: scenes of the embedded world, where it is known where and when."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from mm.app.explained import ENCODER, view_of
from mm.app.runs import Run
from mm.data import AskedScenes
from mm.data.scenes import SIDE_PX
from mm.data.synthetic import Scenes
from mm.data.voices import SAMPLE_RATE
from mm.explain.cam import THRESHOLD, Box, Found, box_scores, peaks_inside
from mm.explain.methods import heat_of, layer_for
from mm.tasks import distillation_data

SCENES = 1000  # of the test split
ASKED = ("colour", "shape")  # types of questions that are about one object
WORDS = ("shape", "colour", "size")


class Case(NamedTuple):
    """A scene, and what is said of one of its objects.

    Attributes:
        sources: {modality: array}.
        target: a sentence about the object, or "".
        question: about the object, or "".
        box: of the object, as shares of the picture's width and height, or of the sound's time and bands.
        other: of another object; None where there is none.
    """

    sources: dict[str, Any]
    target: str
    question: str
    box: Box
    other: Box | None


class Scored(NamedTuple):
    """How well the explanations of n cases find their objects.

    Attributes:
        inside: share whose highest place lies in the object.
        other: share whose highest place lies in another object of the scene, one for each case; None where there is
            none.
        boxes: of the boxes around the heat, beside one box in the middle.
        seconds: of CPU for one explanation.
    """

    inside: float
    other: float | None
    boxes: Found
    seconds: float


def cases(run: Run, count: int, of: str = "image") -> list[Case]:
    """Cases of a run of retrieval, of question answering or of classes of pictures, of the embedded world.

    Args:
        run: of these.
        count: of the cases.
        of: what is explained, "image"; of retrieval "audio" too.

    Raises:
        ValueError: another task or world, or fewer cases than that.
    """
    makers = MAKERS[of]
    if run.task not in makers or run.cfg.data.name != "synthetic" or of not in run.model.encoders:
        raise ValueError(
            f"objects of an {of} are known in the embedded world, to runs of {', '.join(makers)}: got {run.task} of "
            f"{run.cfg.data.name} with {', '.join(run.model.encoders)}."
        )
    found = list(islice(makers[run.task](run), max(count, 1)))
    if not 1 <= count <= len(found):
        raise ValueError(f"the number of cases must be at least 1 and at most what there are: got {count}.")
    return found


def sentences(run: Run) -> Iterator[Case]:
    """A sentence about one object of each scene that has several: "a small red star"."""
    for number, item in enumerate(Scenes("test", SCENES, run.cfg.seed)):
        things = item.meta["objects"]
        if len(things) > 1:
            thing, other = things[number % len(things)], things[(number + 1) % len(things)]
            yield Case({"image": item.image[0]}, phrase(thing), "", box_of(thing), box_of(other))


def moments(run: Run) -> Iterator[Case]:
    """The same of the voices, which sound one after another."""
    for number, item in enumerate(Scenes("test", SCENES, run.cfg.seed)):
        heard, wave = item.meta["sounding"], np.asarray(item.audio[0])  # (T,)
        if len(heard) > 1:
            first, second = number % len(heard), (number + 1) % len(heard)
            end = len(wave) / SAMPLE_RATE  # s
            spans = [(start / end, 0.0, stop / end, 1.0) for start, stop in item.meta["moments_s"]]
            target = phrase(item.meta["objects"][heard[first]])
            yield Case({"audio": wave}, target, "", spans[first], spans[second])


def phrase(thing: dict[str, Any]) -> str:
    """The sentence about a thing."""
    return f"a {thing['size']} {thing['colour']} {thing['shape']}"


def questions(run: Run) -> Iterator[Case]:
    """Questions whose words are true of one object alone, which they ask the colour or the shape of."""
    for item in AskedScenes("test", SCENES, run.cfg.seed, heard="audio" in run.cfg.modalities):
        things = item.meta["objects"]
        sources = {"image": item.image[0]} | ({"audio": item.audio[0]} if item.audio else {})
        for question in item.questions if len(things) > 1 else ():
            said = set(question.text.rstrip("?").split())
            named = {word: {thing[word] for thing in things} & said for word in WORDS}
            meant = [n for n, thing in enumerate(things) if all(not of or thing[w] in of for w, of in named.items())]
            if question.type in ASKED and any(named.values()) and len(meant) == 1:
                other = things[(meant[0] + 1) % len(things)]
                yield Case(sources, "", question.text, box_of(things[meant[0]]), box_of(other))


def classes(run: Run) -> Iterator[Case]:
    """The class of the only object of each scene."""
    for item in distillation_data.load_pictures(run.cfg, "test"):
        (thing,) = item.meta["objects"]
        yield Case({"image": item.image[0]}, "", "", box_of(thing), None)


def box_of(thing: dict[str, Any]) -> Box:
    """The box of a thing as shares of the picture."""
    left, top, right, bottom = (edge / SIDE_PX for edge in thing["box_xyxy_px"])
    return left, top, right, bottom


MAKERS: dict[str, dict[str, Callable[[Run], Iterator[Case]]]] = {  # of the cases, by what is explained and the task
    "image": {"retrieval": sentences, "vqa": questions, "distillation": classes},
    "audio": {"retrieval": moments},
}


def score(
    run: Run, method: str, found: list[Case], layer: str = "", of: str = "image", threshold: float = THRESHOLD
) -> Scored:
    """Explain every case by a method, and see where the heat is; `threshold` is that of the boxes, see `box_scores`."""
    heats, spent = [], 0.0
    for case in found:
        _, view = view_of(run, case.sources, of, case.target, case.question)
        begun = time.process_time()
        own = layer_for(method, view.net, view.seen, layer, ENCODER)
        heats.append(heat_of(method, view.net, view.seen, view.target, own, view.head)[0].cpu())  # (H, W)
        spent += time.process_time() - begun
    boxes = [case.box for case in found]
    pairs = [(heat, case.other) for heat, case in zip(heats, found, strict=True) if case.other]
    other = float(np.mean(peaks_inside(*zip(*pairs, strict=True)))) if pairs else None
    inside = float(np.mean(peaks_inside(heats, boxes)))
    around = box_scores(heats, boxes, threshold, size=(view.seen.shape[2], view.seen.shape[3]))
    return Scored(inside, other, around, spent / len(found))
