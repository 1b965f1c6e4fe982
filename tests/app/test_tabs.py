"""The tabs of the tasks as functions: they give what the library gives, and what is wrong is said."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mm.app.ask import ask
from mm.app.caption import describe
from mm.app.classify import classify
from mm.app.events import UPLOADS, message, named, told
from mm.app.examples import value_of
from mm.app.explain import explained, explains
from mm.app.explained import items_of
from mm.app.localise import Heat, blended, localise
from mm.app.runs import Run, open_run
from mm.app.separate import PLAYERS, hear, see
from mm.data import Item
from mm.explain.heatmap import overlay
from mm.explain.methods import METHODS
from mm.media import MediaError
from mm.tasks.separation_files import faces_alone, faces_in, separate_files
from tests.app.conftest import Hostile, Scene
from tests.shared import ROOT
from tests.talking import untrained_run


@pytest.fixture(scope="module")
def opened(
    captioning_run: Path, vqa_run: Path, localisation_run: Path, separation_run: Path, distillation_run: Path
) -> dict[str, Run]:
    runs = map(open_run, map(str, (captioning_run, vqa_run, localisation_run, separation_run, distillation_run)))
    return {run.task: run for run in runs}


# Caption ------------------------------------------------------------------------------------------------------------


def test_a_sentence_and_its_words_in_a_frame(opened: dict[str, Run], own_table: Path) -> None:
    run, file = opened["captioning"], own_table.parent / "red-circle.jpg"
    sentence, frame = describe(run, str(file), run.cfg.decoding.beam)
    (caption,) = run.model.describe([file], run.cfg.decoding)
    assert sentence == f"{caption.text}   ({float(caption.log_probs.mean()):.2f} a word)"
    assert '<iframe class="said" sandbox="allow-scripts"' in frame
    page = html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1])
    said = re.findall(r'<span tabindex="0">([^<]*)</span>', page)
    assert said == [word for word in caption.words if word != "<end>"]
    assert "http" not in page and "red-circle.jpg" in page


def test_a_caption_needs_a_picture(opened: dict[str, Run], own_table: Path, hostile: Hostile) -> None:
    run = opened["captioning"]
    with pytest.raises(ValueError, match="a picture is needed: got none"):
        describe(run, None, 2)
    for file in (hostile.no_picture, hostile.empty, hostile.notes):
        with pytest.raises(ValueError, match=file.name):
            describe(run, str(file), 2)
    with pytest.raises(ValueError, match="beam"):
        describe(run, str(own_table.parent / "red-circle.jpg"), 0)


# Ask ----------------------------------------------------------------------------------------------------------------


def test_answers_and_where_the_question_looked(opened: dict[str, Run], scene: Scene) -> None:
    run, question = opened["vqa"], "what colour is the square?"
    files = {"image": str(scene.image), "audio": str(scene.audio)}
    answers, places = ask(run, question, "", 4, files)
    (expected,) = run.model.answer([scene.image], [question], sounds=[scene.audio], top=4)
    assert answers == pytest.approx(dict(expected.top)) and len(answers) == 4
    assert places is not None and places.shape[2] == 3 and len(np.unique(places.reshape(-1, 3), axis=0)) > 300
    alone, fewer = ask(run, question, "", 4, {"image": str(scene.image), "audio": None})
    assert alone != answers and fewer is not None and fewer.shape[0] < places.shape[0]
    chosen, _ = ask(run, question, "red, blue,, green ", 5, files)
    assert set(chosen) == {"red", "blue", "green"} and sum(chosen.values()) == pytest.approx(1)


def test_what_a_question_needs(opened: dict[str, Run], scene: Scene, hostile: Hostile) -> None:
    run, files = opened["vqa"], {"image": str(scene.image), "audio": None}
    for question, said in (("", "must have words"), ("zorgl blorp", "the model knows no word of 'zorgl blorp'")):
        with pytest.raises(ValueError, match=said):
            ask(run, question, "", 5, files)
    with pytest.raises(ValueError, match="got neither"):
        ask(run, "what colour is it?", "", 5, {"image": None, "audio": None})
    with pytest.raises(ValueError, match=r"of the choices zorgl the model knows none"):
        ask(run, "what colour is it?", "zorgl", 5, files)
    with pytest.raises(ValueError, match=r"song\.wav"):
        ask(run, "what colour is it?", "", 5, {"image": None, "audio": str(hostile.no_sound)})


# Localise -----------------------------------------------------------------------------------------------------------


def test_a_heat_map_and_what_the_sliders_do_to_it(opened: dict[str, Run], scene: Scene) -> None:
    run = opened["localisation"]
    heat, said = localise(run, str(scene.image), str(scene.audio))
    (located,) = run.model.localise([scene.image], [scene.audio])
    np.testing.assert_array_equal(heat.scores, located.heat.numpy())
    assert f"score {located.score:.2f}, of silence {located.silence:.2f}" in said
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    scores = np.array([[0.1, 0.5], [0.2, 0.0]], np.float32)
    made = Heat(picture, scores)
    np.testing.assert_array_equal(blended(made, 0, 0), picture)
    np.testing.assert_array_equal(blended(made, 1, 0), overlay(picture, scores, 0.5))
    half = (picture.astype(float) + overlay(picture, scores, 0.5)) / 2
    assert np.abs(blended(made, 0.5, 0) - half).max() <= 1
    cut = np.array([[0, 0.5], [0, 0]], np.float32)  # 0.2 is below half of the highest
    np.testing.assert_array_equal(blended(made, 1, 0.5), overlay(picture, cut, 0.5))


def test_a_place_needs_a_picture_and_a_sound(opened: dict[str, Run], scene: Scene, hostile: Hostile) -> None:
    run, image, audio = opened["localisation"], str(scene.image), str(scene.audio)
    for given, said in (
        ((None, audio), "a picture is needed"),
        ((image, None), "a sound is needed"),
        ((image, str(hostile.no_sound)), r"song\.wav"),
        ((str(hostile.empty), audio), r"empty\.png"),
        ((audio, audio), r"scene\.wav"),
    ):
        with pytest.raises(ValueError, match=said):
            localise(run, *given)


# Separate -----------------------------------------------------------------------------------------------------------


def test_a_voice_for_each_face(opened: dict[str, Run], talk: Path, tmp_path: Path) -> None:
    run = opened["separation"]
    files = [talk / "a.mp4", talk / "b.mp4"]
    said, voices = see(run, None, None, str(talk / "mix.wav"), [str(file) for file in files])
    done = separate_files(run.model, talk / "mix.wav", faces_alone(files), tmp_path / "own")
    assert said.splitlines()[0] == f"Voices: 2, of {done.seconds:.2f} s each."
    for (label, (rate, wave)), path, share in zip(voices, done.paths, done.shares, strict=True):
        expected, own = soundfile.read(path, dtype="int16")
        assert (label, rate) == (f"{path.stem}: {share:.0%} of the mixture's energy", own)
        np.testing.assert_array_equal(wave, expected)
    _, voices = see(run, str(talk / "talk.mp4"), str(talk / "boxes.json"), None, None)
    done = separate_files(run.model, talk / "talk.mp4", faces_in(talk / "talk.mp4", talk / "boxes.json"), tmp_path)
    assert [label.split(":")[0] for label, _ in voices] == ["left", "right"]
    np.testing.assert_array_equal(voices[1][1][1], soundfile.read(done.paths[1], dtype="int16")[0])


def test_a_run_that_only_hears(talk: Path, tmp_path: Path) -> None:
    run = open_run(str(untrained_run(tmp_path / "hearing", "faces=false")))
    said, voices = hear(run, str(talk / "mix.wav"), 3)
    assert said.startswith("Voices: 3,") and [label.split(":")[0] for label, _ in voices] == [
        "voice-1",
        "voice-2",
        "voice-3",
    ]
    with pytest.raises(ValueError, match="a sound is needed"):
        hear(run, None, 2)


def test_what_separation_needs(opened: dict[str, Run], talk: Path, hostile: Hostile, tmp_path: Path) -> None:
    run = opened["separation"]
    movie, mix, face = str(talk / "talk.mp4"), str(talk / "mix.wav"), str(talk / "a.mp4")
    evil = tmp_path / "evil.json"
    evil.write_text('{"faces": [{"name": "../../evil", "box": [0, 0, 9, 9]}]}')
    for given, said in (
        ((None, None, mix, None), "got both or none"),
        ((movie, None, None, [face]), "got both or none"),
        ((None, str(evil), mix, [face]), "boxes are for the faces in a video"),
        ((None, None, None, [face]), "the sound of all is needed"),
        ((face, None, None, None), "has no sound track"),
        ((movie, str(evil), None, None), "must have a name that can name a file: got '../../evil'"),
        ((movie, str(hostile.notes), None, None), "must be JSON"),
        ((str(hostile.notes), None, mix, None), r"notes\.txt"),
        ((None, None, str(hostile.no_sound), [face]), r"song\.wav"),
        ((None, None, mix, [face] * (PLAYERS + 1)), f"plays {PLAYERS} voices at most: got {PLAYERS + 1}"),
    ):
        with pytest.raises(ValueError, match=said):
            see(run, *given)


# Classify and explain -------------------------------------------------------------------------------------------------


def test_the_classes_of_a_sound(opened: dict[str, Run], scene: Scene, hostile: Hostile) -> None:
    run = opened["distillation"]
    assert classify(run, str(scene.audio)) == dict(run.model.classify([scene.audio])[0])
    with pytest.raises(ValueError, match="a sound is needed"):
        classify(run, None)
    with pytest.raises(ValueError, match=r"song\.wav"):
        classify(run, str(hostile.no_sound))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_draws_or_says_why_not(opened: dict[str, Run], scene: Scene, method: str) -> None:
    run, files = opened["vqa"], {"image": str(scene.image), "audio": None}
    try:
        said, picture = explained(run, files, "image", "yes", "is there a square?", method, "")
    except ValueError as error:
        assert len(str(error)) > 30  # of a network that the method is wrong for
    else:
        assert said.startswith("logit of 'yes' as the answer to 'is there a square?'")
        assert picture.ndim == 3 and len(np.unique(picture)) > 20


def test_what_is_explained(opened: dict[str, Run], scene: Scene, tiny_run: Path) -> None:
    run = open_run(str(tiny_run))
    both = {"image": str(scene.image), "audio": str(scene.audio)}
    said, _ = explained(run, {"image": str(scene.image), "audio": None}, "image", "a red circle", "", "saliency", "")
    assert said.startswith("cosine with 'a red circle'") and "% from the left" in said
    said, _ = explained(run, both, "audio", "", "", "saliency", "")
    assert said.startswith("cosine with the image") and "% of the time" in said
    for given, wrong in (
        (({}, "image", "", "", "saliency", ""), "must be given"),
        ((both, "image", "a red circle", "", "saliency", ""), "must be one sentence or one other source"),
        (({"image": str(scene.image)}, "image", "zorgl", "", "saliency", ""), "must have a word"),
        (({"image": str(scene.image)}, "image", "red", "", "salience", ""), "Did you mean 'saliency'"),
        (({"image": str(scene.image)}, "image", "red", "", "grad_cam", "net.layer9"), "net.layer"),
    ):
        with pytest.raises(ValueError, match=wrong):
            explained(run, *given)


def test_a_face_is_explained(opened: dict[str, Run], talk: Path, tmp_path: Path) -> None:
    run, files = opened["separation"], {"video": [talk / "a.mp4", talk / "b.mp4"], "audio": talk / "mix.wav"}
    said, picture = explained(run, files, "video", "2", "", "saliency", "")
    assert "strongest" in said and picture.ndim == 3
    with pytest.raises(ValueError, match=r"number of a face, in 1\.\.2: got '3'"):
        explained(run, files, "video", "3", "", "saliency", "")
    hearing = open_run(str(untrained_run(tmp_path / "hearing", "faces=false")))
    assert [explains(one) for one in (run, hearing, opened["vqa"])] == [True, False, True]


# What all tabs share --------------------------------------------------------------------------------------------------


def test_an_example_is_an_item_of_the_test_data(opened: dict[str, Run], own_table: Path) -> None:
    item = items_of(opened["captioning"])[0]
    pixels = np.asarray(Image.open(own_table.parent / f"{item.id.removeprefix('test-')}.jpg"))
    np.testing.assert_array_equal(value_of(item, "image"), pixels)
    assert value_of(item, "text") == item.text[0]
    assert value_of(item, "question") is None and value_of(Item("a", "a"), "image") is None
    rate, wave = value_of(Item("a", "a", audio=(np.array([0, 0.5, -1], np.float32),)), "audio")
    assert (rate, wave.tolist()) == (16000, [0, 16384, -32767])
    asked = next(item for item in items_of(opened["vqa"]) if item.questions)
    assert value_of(asked, "question") == asked.questions[0].text


def test_errors_become_messages_without_markup_and_without_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UPLOADS, "/tmp/kept")
    kept = f"/tmp/kept/{'ab' * 32}/photo <b>.png"
    assert message(MediaError(f"cannot read {kept}: it is empty.")) == "cannot read photo &lt;b&gt;.png: it is empty."
    assert message(KeyError("no such id")) == "no such id"
    assert named(f"{kept} and /etc/hosts") == "photo <b>.png and /etc/hosts"
    monkeypatch.delenv(UPLOADS)
    assert named(kept) == kept


@pytest.mark.filterwarnings("ignore")  # of Gradio's own imports
def test_only_errors_that_a_user_can_put_right_become_messages() -> None:
    import gradio

    def broken(error: Exception) -> None:
        raise error

    for error in (ValueError("a <b>"), FileNotFoundError("a <b>"), LookupError("a <b>"), MediaError("a <b>")):
        with pytest.raises(gradio.Error) as found:
            told(broken)(error)
        assert found.value.message == "a &lt;b&gt;"
    with pytest.raises(ZeroDivisionError):
        told(broken)(ZeroDivisionError())


def test_without_gradio_the_script_says_what_to_install(
    script, tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    answer = script("explore", tiny_run)
    assert answer.code == 2 and 'pip install "mm[app]"' in answer.err and ROOT.name not in answer.err
