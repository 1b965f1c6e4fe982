"""scripts/explain.py and evaluate_explanations.py: every task, every method, what is told, and what cannot be."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mm.data import SoundingScenes
from mm.explain.methods import HEAT, METHODS, PIXELS
from tests.shared import assert_clean, colours
from tests.talking import untrained_run


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A scene of the embedded world as files."""
    folder, item = tmp_path_factory.mktemp("scene"), SoundingScenes("test", 4)[0]
    Image.fromarray(item.image[0]).save(folder / "scene.png")
    soundfile.write(folder / "scene.wav", np.asarray(item.audio[0]), 16_000)
    return {"image": folder / "scene.png", "audio": folder / "scene.wav"}


@pytest.fixture(scope="module")
def runs(trained: Callable[..., Path]) -> dict[str, Path]:
    """A tiny run of each task, on the embedded world."""
    less = ("loop.tensorboard=false", "loop.steps=4")
    found = {
        task: trained(task, "--config", f"configs/{task}/tiny.yaml", *less)
        for task in ("retrieval", "vqa", "localisation", "distillation")
    }
    return found | {"teacher": found["distillation"] / "teacher"}


def told(answer) -> dict:
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def test_every_task_is_explained(script, runs, scene, captioning_run: Path, tmp_path: Path) -> None:
    picture, sound = scene["image"], scene["audio"]
    asked = {
        "retrieval": (picture, "--target", "a red circle"),
        "vqa": (picture, "--question", "what colour is the star?", "--target", "red"),
        "localisation": (picture, "--audio", sound),
        "distillation": ("--audio", sound),
        "teacher": (picture,),
    }
    for name, given in asked.items():
        out = tmp_path / f"{name}.png"
        found = told(script("explain", runs[name], *given, "--method", "saliency", "--grid", out, "--json"))
        assert set(found) == {"what", "score", "strongest"}, name
        assert colours(out) > 50, name
    found = told(script("explain", captioning_run, picture, "--target", "red", "--method", "saliency", "--json"))
    assert "log-probability of 'red'" in found["what"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("of", ["image", "audio"])
def test_every_method_of_pictures_and_of_sounds(script, runs, scene, tmp_path: Path, method: str, of: str) -> None:
    given = ("--image", scene["image"]) if of == "image" else ("--audio", scene["audio"])
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
    given = (runs["retrieval"], scene["image"], "--target", "a red circle", "--method", "grad_cam")
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
    answer = script("explain", runs["retrieval"], scene["image"], "--target", "a red zzqqx", "--method", "saliency")
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
        ("retrieval", ("IMAGE", "--question", "what?", "--target", "red"), "takes no question"),
        ("vqa", ("IMAGE",), "answers questions: give one"),
        ("vqa", ("IMAGE", "--question", "zzz?"), "the model knows no word"),
        ("localisation", ("IMAGE",), "a picture and its sound: got image"),
        ("localisation", ("IMAGE", "--audio", "AUDIO", "--target", "left"), "two shares of width and height"),
        ("teacher", ("IMAGE", "--target", "dog"), "unknown class 'dog'"),
        ("retrieval", ("IMAGE", "--target", "red", "--method", "grad_cam", "--layer", "layr3"), "no layer 'layr3'"),
        ("retrieval", ("IMAGE", "--target", "red", "--layer", "encoder.net.layer3"), "a layer is for"),
        ("retrieval", ("missing.png", "--target", "red"), "missing.png"),
        ("retrieval", ("AUDIO", "--target", "red"), "scene.wav"),
        ("retrieval", ("IMAGE", "--target", "zzz red", "--target", "zzz"), "a word that the encoder knows: got 'zzz'"),
        ("retrieval", ("--method", "activations", "--of", "audio"), "give a file of audio"),
    ],
)
def test_what_cannot_be_explained_is_said(script, runs, scene, name: str, given: tuple, said: str) -> None:
    files = {"IMAGE": scene["image"], "AUDIO": scene["audio"]}
    assert_clean(script("explain", runs[name], *(files.get(one, one) for one in given)), said)


def test_wrong_commands_are_said(script, runs, scene) -> None:
    run, picture = runs["retrieval"], scene["image"]
    for given, said in (
        ((picture, "--image", picture), "given once"),
        ((picture, "--unit", 3), "--unit is of --method patches"),
        ((picture, "--method", "patches", "--unit", 3), "takes no file"),
        (("--method", "patches"), "--unit is of --method patches"),
        ((picture, "--method", "filters", "--box"), "are of a heat map"),
        ((picture, "--target", "red", "--grid", "out.jpg"), "written as .png"),
        ((picture, "--target", "red", "--method", "activations"), "takes no target"),
        ((picture, "--method", "gradcam"), "invalid choice: 'gradcam'"),
    ):
        answer = script("explain", run, *given)
        assert answer.code == 2
        assert said in answer.err
    assert_clean(script("explain", "no/such/run", picture), "no/such/run")


def test_explanations_are_scored_on_scenes(script, runs) -> None:
    for name in ("retrieval", "vqa"):
        methods = ("--methods", "saliency", "grad_cam")
        found = told(script("evaluate_explanations", runs[name], *methods, "--cases", 6, "--json"))
        assert set(found["methods"]) == {"saliency", "grad_cam"}
        assert 0.03 < found["controls"]["any place"] < 0.2
        table = script("evaluate_explanations", runs[name], *methods, "--cases", 6).out
        assert "6 cases" in table
        assert "a box in the middle" in table
    heard = script("evaluate_explanations", runs["retrieval"], "--of", "audio", "--methods", "saliency", "--cases", 6)
    assert "6 cases" in heard.out
    one_thing = script("evaluate_explanations", runs["teacher"], "--methods", "saliency", "cam", "--cases", 6, "--json")
    assert told(one_thing)["methods"]["cam"]["other"] is None
    assert_clean(script("evaluate_explanations", runs["localisation"]), "objects of an image are known", "localisation")
    assert_clean(script("evaluate_explanations", runs["vqa"], "--of", "audio"), "to runs of retrieval: got vqa")
    assert_clean(script("evaluate_explanations", runs["vqa"], "--cases", 0), "number of cases must be at least 1")
