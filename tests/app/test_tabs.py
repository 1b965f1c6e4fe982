"""The tabs of the tasks as functions: they give what the library gives, and what is wrong is said."""

from __future__ import annotations

import dataclasses
import html
import math
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import av
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
from mm.app.explained import explain_view, facts, items_of, view_of
from mm.app.inputs import within
from mm.app.localise import Heat, blended, localise
from mm.app.media import check_upload
from mm.app.runs import Run, open_run
from mm.app.separate import PLAYERS, hear, see
from mm.data import Item
from mm.explain.heatmap import overlay
from mm.explain.methods import METHODS
from mm.media import MediaError
from mm.tasks.separation_files import faces_alone, faces_in, separate_files
from tests.app.conftest import Hostile
from tests.shared import ROOT, Scene
from tests.talking import untrained_run


@pytest.fixture(scope="module")
def opened(
    captioning_run: Path, vqa_run: Path, localisation_run: Path, separation_run: Path, distillation_run: Path
) -> dict[str, Run]:
    runs = map(open_run, map(str, (captioning_run, vqa_run, localisation_run, separation_run, distillation_run)))
    return {run.task: run for run in runs}


@pytest.fixture
def gradio() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        import gradio
    return gradio


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
    unknown, answers, places = ask(run, question, "", 4, files)
    (expected,) = run.model.answer([scene.image], [question], sounds=[scene.audio], top=4)
    assert answers == pytest.approx(dict(expected.top)) and len(answers) == 4 and unknown == ""
    assert places is not None and places.shape[2] == 3 and len(np.unique(places.reshape(-1, 3), axis=0)) > 300
    _, alone, fewer = ask(run, question, "", 4, {"image": str(scene.image), "audio": None})
    assert alone != answers and fewer is not None and fewer.shape[0] < places.shape[0]
    _, chosen, _ = ask(run, question, "red, blue,, green ", 5, files)
    assert set(chosen) == {"red", "blue", "green"} and sum(chosen.values()) == pytest.approx(1)


def test_what_is_not_known_of_a_question_is_said(opened: dict[str, Run], scene: Scene) -> None:
    files = {"image": str(scene.image), "audio": None}
    unknown, answers, _ = ask(opened["vqa"], "what <b> colour is the blorp square?", "red, mauve", 5, files)
    assert re.findall(r"part in (the \w+): ([^<]*)</p>", unknown) == [
        ("the question", "b, blorp"),
        ("the choice", "mauve"),
    ]
    assert set(answers) == {"red"}


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
    assert heat.picture.shape == (480, 480, 3)
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


def test_a_thin_picture_is_localised(opened: dict[str, Run], scene: Scene, tmp_path: Path) -> None:
    Image.new("RGB", (3000, 1), "red").save(tmp_path / "thin.png")
    heat, _ = localise(opened["localisation"], str(tmp_path / "thin.png"), str(scene.audio))
    np.testing.assert_array_equal(heat.picture, np.full((1, 480, 3), (255, 0, 0)))


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
    asked = (run, files, "image", "yes", "is there a square?", method, "")
    if method == "cam":
        with pytest.raises(ValueError, match="one linear layer"):  # there is no one linear layer behind the map
            explained(*asked)
        return
    _, said, picture = explained(*asked)
    of_encoder = {"filters": "filters of the encoder of the image", "activations": "activations of the encoder of the"}
    assert said.startswith(of_encoder.get(method, "logit of 'yes' as the answer to 'is there a square?'"))
    assert picture.ndim == 3 and len(np.unique(picture)) > 20


def test_methods_that_ask_for_no_answer_need_none(opened: dict[str, Run], scene: Scene) -> None:
    run, heard = opened["vqa"], {"image": None, "audio": str(scene.audio)}
    _, said, filters = explained(run, {}, "audio", "", "", "filters", "")
    assert said == "filters of the encoder of the audio" and len(np.unique(filters)) > 20
    _, said, _ = explained(run, heard, "image", "", "", "activations", "")  # of what is there
    assert said.startswith("activations of the encoder of the audio")
    with pytest.raises(ValueError, match=r"activations are those of an input: got none. Give a picture"):
        explained(run, {}, "image", "", "", "activations", "")


def test_what_is_explained(opened: dict[str, Run], scene: Scene, tiny_run: Path) -> None:
    run = open_run(str(tiny_run))
    both = {"image": str(scene.image), "audio": str(scene.audio)}
    seen = {"image": str(scene.image), "audio": None}
    unknown, said, _ = explained(run, seen, "image", "a red zorgl circle", "", "saliency", "")
    assert said.startswith("cosine with 'a red zorgl circle'") and "% from the left" in said and ": zorgl<" in unknown
    unknown, said, _ = explained(run, both, "audio", "", "", "saliency", "")
    assert unknown == ""
    assert said.startswith("cosine with the image") and "% of the time" in said
    for given, wrong in (
        (({}, "image", "", "", "saliency", ""), "must be given, a picture or a sound: got none"),
        ((both, "image", "a red circle", "", "saliency", ""), "must be one sentence or one other source"),
        (({"image": str(scene.image)}, "image", "zorgl", "", "saliency", ""), "must have a word"),
        (({"image": str(scene.image)}, "image", "red", "", "salience", ""), "Did you mean 'saliency'"),
        (({"image": str(scene.image)}, "image", "red", "", "grad_cam", "net.layer9"), "net.layer"),
    ):
        with pytest.raises(ValueError, match=wrong):
            explained(run, *given)


def test_a_face_is_explained(opened: dict[str, Run], talk: Path, tmp_path: Path) -> None:
    run, files = opened["separation"], {"video": [talk / "a.mp4", talk / "b.mp4"], "audio": talk / "mix.wav"}
    _, said, picture = explained(run, files, "video", "2", "", "saliency", "")
    which, view = view_of(run, files, "", "2")
    expected = facts(view, explain_view(which, view, files["video"], "saliency").heat, which)
    assert said.startswith(f"{view.said}: {expected['score']:.3f}; strongest")
    assert [float(number) for number in re.findall(r"(\d+) %", said)] == [
        round(100 * share) for share in expected["strongest"].values()
    ]
    assert len(np.unique(picture)) > 20
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


def test_the_caption_that_is_explained_is_the_one_that_is_shown(opened: dict[str, Run], own_table: Path) -> None:
    run, file = opened["captioning"], own_table.parent / "red-circle.jpg"
    cut = run._replace(cfg=dataclasses.replace(run.cfg, decoding=dataclasses.replace(run.cfg.decoding, max_length=2)))
    for one in (run, cut):
        shown, _ = describe(one, str(file), one.cfg.decoding.beam)
        _, said, _ = explained(one, {"image": str(file)}, "image", "", "", "saliency", "")
        sentence, score = re.fullmatch(r"(.*)   \((.*) a word\)", shown).groups()
        assert said.startswith(f"mean log-probability a word of {sentence!r}: ")
        assert float(said.split(": ")[1].split(";")[0]) == pytest.approx(float(score), abs=0.006)
    assert sentence not in ("", describe(run, str(file), run.cfg.decoding.beam)[0].split("   ")[0])


def test_a_number_of_a_slider_is_within_it() -> None:
    for given, expected in ((None, 5), (0, 1), (3.4, 3), (10**400, 20), (-math.inf, 1), (math.nan, 5), ("x", 5)):
        assert within(given, 1, 20, 5) == expected
    assert within(0.27, 0, 1, 0.5, 0.05) == pytest.approx(0.25) and within(7, 0, 1, 0.5, 0.05) == 1


def test_what_goes_on_for_too_long_is_refused(
    tmp_path: Path, talk: Path, scene: Scene, hostile: Hostile, gradio: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, short, hidden = tmp_path / "long.flac", tmp_path / "short.flac", tmp_path / "long.png"
    for copy in (long, hidden):  # whose name says something else
        shutil.copy(hostile.hours, copy)
    soundfile.write(short, np.zeros(8000 * 20, np.float32), 8000)
    asked: list[Any] = []
    monkeypatch.setenv(UPLOADS, str(tmp_path))
    for given in (str(long), {"text": "", "files": [str(short), str(long)]}, [str(long)], str(hidden)):
        with pytest.raises(gradio.Error, match=r"5 minutes at most: long\.(flac|png) is longer"):
            told(asked.append)(given)
    assert asked == []
    told(asked.append)({"text": str(long), "files": [str(short)]})  # a sentence is no file
    monkeypatch.setattr("mm.app.media.LONGEST_S", 0.5)
    cut = tmp_path / "cut.mkv"
    with av.open(str(talk / "a.mp4")) as old, av.open(str(cut), "w") as new:
        track = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = track
                new.mux(packet)
    content = cut.read_bytes()
    cut.write_bytes(content[: len(content) * 9 // 10])  # without the end that its head speaks of
    for file in (talk / "a.mp4", cut, scene.audio):
        with pytest.raises(ValueError, match=f"{file.name} is longer"):
            check_upload(file)
    check_upload(scene.image)
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in range(5)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:], duration=1000)
    check_upload(tmp_path / "moving.gif")  # of which one picture is read
    with pytest.raises(FileNotFoundError, match=r"gone\.png is not kept any longer. Upload it again"):
        check_upload(tmp_path / "gone.png")


def test_errors_become_messages_without_markup_and_without_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UPLOADS, "/tmp/kept")
    kept = f"/tmp/kept/{'ab' * 32}/photo <b>.png"
    assert message(MediaError(f"cannot read {kept}: it is empty.")) == "cannot read photo &lt;b&gt;.png: it is empty."
    assert message(KeyError("no such id")) == "no such id"
    long = message(ValueError(f"a sentence must be short: got {'x' * 5000}. Shorten it."))
    assert len(long) < 420 and long.startswith("a sentence must be") and long.endswith("Shorten it.")
    assert named(f"{kept} and /etc/hosts") == "photo <b>.png and /etc/hosts"
    monkeypatch.delenv(UPLOADS)
    assert named(kept) == kept


def test_only_errors_that_a_user_can_put_right_become_messages(gradio: Any) -> None:
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
