"""scripts/explain.py and evaluate_explanations.py: every task, every method, what is told, and what cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mm.app.explained import EDGES, explain_view, view_of
from mm.app.objects import cases, score
from mm.app.runs import open_run
from mm.explain.methods import HEAT, METHODS, PIXELS
from mm.explain.pictures import draw_cells
from tests.shared import assert_clean, colours
from tests.talking import untrained_run

FOOT_PX = 30  # of a figure, where its note is


@pytest.fixture(scope="module")
def runs(
    scenes_run: Path, vqa_run: Path, localisation_run: Path, distillation_run: Path, captioning_run: Path
) -> dict[str, Path]:
    """A tiny run of each task."""
    return {
        "retrieval": scenes_run,
        "vqa": vqa_run,
        "localisation": localisation_run,
        "distillation": distillation_run,
        "teacher": distillation_run / "teacher",
        "captioning": captioning_run,
    }


def pixels(path: Path) -> np.ndarray:
    """(h, w, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def told(answer) -> dict:
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def test_every_task_is_explained_as_by_the_library(script, runs, scene, tmp_path: Path) -> None:
    picture, sound = {"image": scene.image}, {"audio": scene.audio}
    asked = {
        "retrieval": (picture, {"target": "a red circle"}),
        "vqa": (picture, {"question": "what colour is the star?", "target": "red"}),
        "localisation": (picture | sound, {}),
        "distillation": (sound, {}),
        "teacher": (picture, {}),
        "captioning": (picture, {"target": "red"}),
    }
    for name, (sources, said) in asked.items():
        grid = tmp_path / f"{name}.png"
        given = [word for option, value in (sources | said).items() for word in (f"--{option}", value)]
        found = told(script("explain", runs[name], *given, "--method", "saliency", "--grid", grid, "--json"))
        of, view = view_of(open_run(str(runs[name])), sources, **said)
        explained = explain_view(of, view, sources[of], "saliency")
        with torch.no_grad():
            output = view.net(view.seen)
        column = output[:, view.target] if isinstance(view.target, int) else view.target(output)  # (1,)
        place = np.argwhere(explained.heat.numpy() == float(explained.heat.max()))[0]  # (2,) row and column
        down, across = (place + 0.5) / explained.heat.shape
        assert set(found) == {"what", "score", "strongest"}, name
        assert found["what"] == view.said, name
        assert found["score"] == pytest.approx(float(column), rel=1e-5), name
        assert found["strongest"] == pytest.approx(dict(zip(EDGES[of], (across, down), strict=True))), name
        own = pixels(draw_cells(explained.cells, tmp_path / "own.png"))[:-FOOT_PX]
        assert len(np.unique(own.reshape(-1, 3), axis=0)) > 50, name
        assert (pixels(grid)[: len(own)] == own).all(), name
    assert "log-probability of 'red'" in found["what"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("of", ["image", "audio"])
def test_every_method_of_pictures_and_of_sounds(script, runs, scene, tmp_path: Path, method: str, of: str) -> None:
    given = ("--image", scene.image) if of == "image" else ("--audio", scene.audio)
    target = () if method == "activations" else ("--target", "a red circle")
    run = runs["retrieval"]
    if method == "filters":
        given, target = ("--of", of), ()
    if method == "cam":
        run, target = runs["teacher"], ()
        if of == "audio":
            assert_clean(script("explain", runs["distillation"], *given, "--method", "cam"), "cam", "grad_cam")
            return
    answer = script("explain", run, *given, *target, "--method", method, "--grid", tmp_path / "out.png")
    assert answer.code == 0, answer.err
    assert ("strongest:" in answer.out) == (method in (*HEAT, "cam"))
    assert colours(tmp_path / "out.png") > 50


def test_a_voice_is_explained_by_its_face(script, talk: Path, tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run")
    given = ("--audio", talk / "mix.wav", "--faces", talk / "a.mp4", talk / "b.mp4", "--target", 2)
    for method in PIXELS:
        answer = script("explain", run, *given, "--method", method, "--grid", tmp_path / f"{method}.png")
        assert answer.code == 0, answer.err
        assert "face 2" in answer.out
        assert colours(tmp_path / f"{method}.png") > 50
    for method in ("grad_cam", "visualise"):
        assert_clean(script("explain", run, *given, "--method", method), "unknown method for faces")
    for method in (("patches", "--unit", 1), ("filters",)):
        assert_clean(script("explain", run, "--method", *method, "--of", "audio"), "looks at faces over time")
    assert_clean(script("explain", run, "--audio", talk / "mix.wav"), "give faces and a sound")


def test_the_box_the_checks_and_random_weights(script, runs, scene, tmp_path: Path) -> None:
    given = (runs["retrieval"], scene.image, "--target", "a red circle", "--method", "grad_cam")
    plain, boxed = tmp_path / "plain.png", tmp_path / "boxed.png"
    told(script("explain", *given, "--json", "--grid", plain))
    found = told(script("explain", *given, "--json", "--box", "--check", "--randomise", "--grid", boxed))
    assert plain.read_bytes() != boxed.read_bytes()
    assert 0 <= found["box"]["from the left, first"] < found["box"]["from the left, last"] <= 1
    assert set(found["faithfulness"]) > {"insertion", "deletion", "insertion, random order"}
    left = found["correlation with random weights up to"]
    assert next(iter(left)) == "head"
    assert list(left)[-1].startswith("encoder.net.conv1")


def test_unknown_words_are_told(script, runs, scene) -> None:
    answer = script("explain", runs["retrieval"], scene.image, "--target", "a red zzqqx", "--method", "saliency")
    assert answer.code == 0
    assert "have no part in it: zzqqx" in answer.err


def test_patches_of_a_channel(script, runs, tmp_path: Path) -> None:
    for of in ("image", "audio"):
        answer = script(
            "explain",
            runs["retrieval"],
            "--method",
            "patches",
            "--unit",
            1,
            "--of",
            of,
            "--grid",
            tmp_path / f"{of}.png",
        )
        assert answer.code == 0, answer.err
        assert colours(tmp_path / f"{of}.png") > 50
    wrong = script("explain", runs["retrieval"], "--method", "patches", "--unit", 100_000)
    assert_clean(wrong, "unit must be one of 0..", "100000")


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("retrieval", ("IMAGE",), "one sentence or one other source: got neither"),
        ("retrieval", ("--target", "a red circle"), "a picture or a sound: got none"),
        ("retrieval", ("IMAGE", "--target", "sqare"), "Words like them: square"),
        ("retrieval", ("IMAGE", "--question", "what?", "--target", "red"), "is for runs of question answering"),
        ("vqa", ("IMAGE",), "a question is needed, whose answer is explained"),
        ("vqa", ("IMAGE", "--question", "zzz?"), "the model knows no word"),
        ("localisation", ("IMAGE",), "a picture and its sound: got image"),
        ("localisation", ("IMAGE", "--audio", "AUDIO", "--target", "left"), "two shares of width and height"),
        ("teacher", ("IMAGE", "--target", "dog"), "unknown class 'dog'"),
        ("retrieval", ("IMAGE", "--target", "red", "--method", "grad_cam", "--layer", "layr3"), "no layer 'layr3'"),
        ("retrieval", ("IMAGE", "--target", "red", "--layer", "encoder.net.layer3"), "a layer is for"),
        ("retrieval", ("missing.png", "--target", "red"), "missing.png"),
        ("retrieval", ("AUDIO", "--target", "red"), "scene.wav"),
        ("retrieval", ("IMAGE", "--target", "zzz red", "--target", "zzz"), "a word that the encoder knows: got 'zzz'"),
        ("retrieval", ("--method", "activations", "--of", "audio"), "those of an input: got none. Give a sound."),
    ],
)
def test_what_cannot_be_explained_is_said(script, runs, scene, name: str, given: tuple, said: str) -> None:
    files = {"IMAGE": scene.image, "AUDIO": scene.audio}
    assert_clean(script("explain", runs[name], *(files.get(one, one) for one in given)), said)


def test_wrong_commands_are_said(script, runs, scene) -> None:
    run, picture = runs["retrieval"], scene.image
    for given, said in (
        ((picture, "--image", picture), "given once"),
        ((picture, "--unit", 3), "--unit is of --method patches"),
        ((picture, "--method", "patches", "--unit", 3), "takes no file"),
        (("--method", "patches"), "--unit is of --method patches"),
        ((picture, "--method", "filters", "--box"), "are of a heat map"),
        ((picture, "--threshold", "0.5"), "--threshold is of --box"),
        (
            (picture, "--target", "a red circle", "--box", "--threshold", "1"),
            "a threshold must be a share",
        ),
        ((picture, "--target", "red", "--grid", "out.jpg"), "written as .png"),
        ((picture, "--target", "red", "--method", "activations"), "takes no target"),
        ((picture, "--method", "gradcam"), "invalid choice: 'gradcam'"),
    ):
        answer = script("explain", run, *given)
        assert answer.code == 2
        assert said in answer.err
    assert_clean(script("explain", "no/such/run", picture), "no/such/run")


def test_explanations_are_scored_on_scenes(script, runs) -> None:
    for name, of, methods in (
        ("retrieval", "image", ("saliency", "grad_cam")),
        ("vqa", "image", ("saliency", "grad_cam")),
        ("retrieval", "audio", ("saliency",)),
        ("teacher", "image", ("saliency", "cam")),
    ):
        command = ("evaluate_explanations", runs[name], "--of", of, "--methods", *methods, "--cases", 6)
        run, found = open_run(str(runs[name])), told(script(*command, "--json"))
        asked = cases(run, 6, of)
        edges = np.array([case.box for case in asked])  # (n, 4)
        assert 0.03 < found["controls"]["any place"] < 0.3
        assert found["controls"]["any place"] == pytest.approx((edges[:, 2:] - edges[:, :2]).prod(axis=1).mean())
        title, *lines = script(*command).out.splitlines()
        assert title.startswith("6 cases")
        assert set(found["methods"]) == set(methods)
        for line, method in zip(lines, methods, strict=False):
            own = score(run, method, asked, of=of)
            printed = found["methods"][method]
            assert (printed["inside"], printed["other"], printed["box"]) == (own.inside, own.other, own.boxes.share)
            numbers = [100 * one for one in (own.inside, own.other) if one is not None]
            numbers += [100 * own.boxes.share] if of == "image" else []  # of a sound only the time is known
            assert line.split()[:-1] == [method, *(f"{number:.1f}" for number in numbers)]
        assert (found["methods"][methods[0]]["other"] is None) == (name == "teacher")
        assert any("a box in the middle" in line for line in lines) == (of == "image")
    assert_clean(script("evaluate_explanations", runs["localisation"]), "objects of an image are known", "localisation")
    assert_clean(script("evaluate_explanations", runs["vqa"], "--of", "audio"), "to runs of retrieval: got vqa")
    assert_clean(script("evaluate_explanations", runs["vqa"], "--cases", 0), "number of cases must be at least 1")
