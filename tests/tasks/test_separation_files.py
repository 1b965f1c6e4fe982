"""Files through a separator: what is written is what the model gives, whatever the files are, and how long."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mm.media import MediaError, read_audio
from mm.tasks import separation
from mm.tasks.separation_files import (
    Face,
    Separated,
    check_kind,
    check_sound,
    different,
    faces_alone,
    faces_in,
    frames_of,
    remarks,
    separate_files,
)
from mm.tasks.separation_model import SpeechSeparator
from mm.tasks.separation_windows import Windows
from mm.video import read_tracks
from tests.talking import untrained_run
from tests.videos import flat, video

ROUNDING = 1.01 / 2**15  # of 16 bits


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SpeechSeparator:
    return separation.load(untrained_run(tmp_path_factory.mktemp("runs") / "seeing"))[0]


@pytest.fixture(scope="module")
def deaf(tmp_path_factory: pytest.TempPathFactory) -> SpeechSeparator:
    return separation.load(untrained_run(tmp_path_factory.mktemp("runs") / "hearing", "faces=false"))[0]


def written(done: Separated) -> torch.Tensor:
    """(S, T) what the files hold."""
    return torch.stack([read_audio(path, soundfile.info(path).samplerate) for path in done.paths])


@pytest.mark.parametrize("windows", [None, Windows(0.5, 0.2), Windows(1.9, 0.9), Windows(60, 30)])
def test_files_hold_what_the_model_separates(model, talk: Path, tmp_path: Path, windows: Windows | None) -> None:
    faces = [talk / "a.mp4", talk / "b.mp4"]
    done = separate_files(model, talk / "mix.wav", faces_alone(faces), tmp_path / "out", windows)
    assert done.paths == [tmp_path / "out" / "a.wav", tmp_path / "out" / "b.wav"]
    expected = model.separate(talk / "mix.wav", faces, windows)
    found = written(done)
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)
    assert (found[0] - found[1]).abs().max() > 100 * ROUNDING
    mixture = read_audio(talk / "mix.wav", 8000)
    np.testing.assert_allclose(done.shares, expected.square().sum(1) / mixture.square().sum(), rtol=1e-4)
    assert (done.seconds, done.factor, done.ends) == (2.0, 1.0, dict.fromkeys(faces, 2.0))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.wav", "b.wav"}


def test_the_order_of_the_faces_is_the_order_of_the_voices(model, talk: Path, tmp_path: Path) -> None:
    names, found = ["a", "b", "c"], []
    video(talk / "c.mp4", flat(50))
    for number, order in enumerate(itertools.permutations(names)):
        faces = faces_alone([talk / f"{name}.mp4" for name in order])
        done = separate_files(model, talk / "mix.wav", faces, tmp_path / str(number), Windows(1.0, 0.25))
        assert [path.stem for path in done.paths] == list(order)
        found.append([soundfile.read(tmp_path / str(number) / f"{name}.wav", dtype="int16")[0] for name in names])
    for voices in found[1:]:
        for one, other in zip(found[0], voices, strict=True):
            assert np.abs(one.astype(int) - other).max() <= 1


def test_faces_in_a_video_are_cut_out_as_the_encoder_does_it(model, talk: Path, tmp_path: Path) -> None:
    tracks = read_tracks(talk / "boxes.json")
    faces = faces_in(talk / "talk.mp4", talk / "boxes.json")
    assert [face.name for face in faces] == ["left", "right"]
    shown, ends = frames_of(model.video, faces)
    prepared = [model.video.prepare((talk / "talk.mp4", track)) for track in tracks.values()]
    for frames, expected in zip(shown, prepared, strict=True):
        assert torch.equal(torch.stack(list(frames)), expected)
    assert not torch.equal(*prepared) and ends == {talk / "talk.mp4": pytest.approx(2.0)}
    windows = Windows(0.6, 0.2)
    done = separate_files(model, talk / "talk.mp4", faces, tmp_path, windows)
    sources = [(talk / "talk.mp4", track) for track in tracks.values()]
    torch.testing.assert_close(
        written(done), model.separate(talk / "talk.mp4", sources, windows), rtol=0, atol=ROUNDING + 1e-4
    )


@pytest.mark.parametrize("fps", [10, 24, 25, 30, 50])
def test_videos_of_any_rate_are_brought_to_that_of_the_model(model, talk: Path, tmp_path: Path, fps: int) -> None:
    path = video(tmp_path / "face.mp4", (flat(40) * 3)[: 2 * fps], fps=fps)
    ((shown,), _) = frames_of(model.video, [Face("face", path)])
    assert torch.equal(torch.stack(list(shown)), model.video.prepare(path))
    done = separate_files(model, talk / "mix.wav", [Face("face", path)], tmp_path, Windows(0.5, 0.2))
    expected = model.separate(talk / "mix.wav", [path], Windows(0.5, 0.2))
    torch.testing.assert_close(written(done), expected, rtol=0, atol=ROUNDING)


def test_a_variable_rate_is_read_by_its_times(model, tmp_path: Path) -> None:
    times = [0.0, 0.05, 0.31, 0.33, 0.9, 0.94, 1.5]
    path = video(tmp_path / "face.mp4", flat(7), times)
    ((shown,), ends) = frames_of(model.video, [Face("face", path)])
    frames = torch.stack(list(shown))
    on_show = [np.searchsorted(times, k / 25 + 1e-6, side="right") - 1 for k in range(len(frames))]
    assert np.rint(frames.float().mean(dim=(1, 2, 3)).numpy() / 5).astype(int).tolist() == on_show
    assert len(frames) == pytest.approx(25 * ends[path], abs=1) and ends[path] > 1.5


@pytest.mark.parametrize(
    ("subtype", "channels", "rate"), [("PCM_U8", 1, 8000), ("PCM_24", 2, 44100), ("FLOAT", 2, 16000)]
)
def test_sounds_of_any_form_are_brought_to_that_of_the_model(
    model, talk: Path, tmp_path: Path, subtype: str, channels: int, rate: int
) -> None:
    wave = read_audio(talk / "mix.wav", rate).numpy()  # (T,)
    soundfile.write(tmp_path / "mix.wav", np.stack([wave] * channels, axis=1), rate, subtype=subtype)
    faces = [talk / "a.mp4", talk / "b.mp4"]
    done = separate_files(model, tmp_path / "mix.wav", faces_alone(faces), tmp_path / "out")
    found = written(done)
    assert soundfile.info(done.paths[0]).samplerate == 8000 and found.shape == (2, 16000)
    expected = model.separate(tmp_path / "mix.wav", faces)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("seconds", [0.01, 0.3, 1.0])
def test_a_sound_shorter_than_a_window_is_one(model, talk: Path, tmp_path: Path, seconds: float) -> None:
    wave = read_audio(talk / "mix.wav", 8000)[4000 : 4000 + round(8000 * seconds)]
    soundfile.write(tmp_path / "mix.wav", wave.numpy(), 8000, subtype="FLOAT")
    done = separate_files(model, tmp_path / "mix.wav", faces_alone([talk / "a.mp4"]), tmp_path / "out")
    expected = model.separate(tmp_path / "mix.wav", [talk / "a.mp4"])
    assert expected.shape == (1, len(wave))
    torch.testing.assert_close(written(done), expected, rtol=0, atol=ROUNDING)


def test_a_face_that_ends_keeps_its_last_frame(model, talk: Path, tmp_path: Path) -> None:
    short, held, long = flat(20), flat(20) + 30 * [flat(20)[-1]], flat(20) + 90 * [flat(20)[-1]]
    found = []
    for name, pictures in (("short", short), ("held", held), ("long", long)):
        path = video(tmp_path / f"{name}.mkv", pictures, codec="ffv1", pixels="bgr0")
        done = separate_files(model, talk / "mix.wav", [Face(name, path)], tmp_path, Windows(0.8, 0.3))
        found.append(written(done))
        said = remarks(done, 25)
        ends = len(pictures) / 25
        assert (
            said
            == {
                "short": [f"{path} ends at 0.80 s and the sound at 2.00 s: the last frame stays meanwhile."],
                "held": [],
                "long": [f"{path} ends at {ends:.2f} s and the sound at 2.00 s: the rest of the video is not read."],
            }[name]
        )
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_difference_of_a_frame_is_not_worth_a_word() -> None:
    for end_s, lines in ((2.0, 0), (1.97, 0), (2.03, 0), (1.95, 1), (2.05, 1)):
        done = Separated([], [], 2.0, {Path("a.mp4"): end_s}, 1.0)
        assert len(remarks(done, 25.0)) == lines


def test_what_would_be_clipped_is_scaled_down_together(talk: Path, tmp_path: Path, caplog) -> None:
    loud = separation.load(untrained_run(tmp_path / "run", loud=20.0))[0]
    faces = [talk / "a.mp4", talk / "b.mp4"]
    done = separate_files(loud, talk / "mix.wav", faces_alone(faces), tmp_path / "out")
    expected = loud.separate(talk / "mix.wav", faces)
    peak = float(expected.abs().max())
    assert peak > 1.5 and done.factor == pytest.approx(1 / peak)
    torch.testing.assert_close(written(done), expected / peak, rtol=0, atol=2 * ROUNDING)
    assert f"scaled by {1 / peak:.3f}" in caplog.text


def test_a_model_that_only_hears_writes_numbered_voices(deaf, talk: Path, tmp_path: Path) -> None:
    for voices in (1, 3):
        done = separate_files(deaf, talk / "mix.wav", voices, tmp_path / str(voices), Windows(1.0, 0.4))
        assert [path.name for path in done.paths] == [f"voice-{k + 1}.wav" for k in range(voices)]
        expected = deaf.separate(talk / "mix.wav", voices, Windows(1.0, 0.4))
        torch.testing.assert_close(written(done), expected, rtol=0, atol=ROUNDING)
        assert not done.ends


def test_embeddings_are_faces_where_a_run_goes_by_them(talk: Path, tmp_path: Path) -> None:
    changes = ("data.name=talks", "encoder.video.name=embeddings", "encoder.video.size=6")
    model = separation.load(untrained_run(tmp_path / "run", *changes))[0]
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(ord(name)).standard_normal((40, 6)))
    files = [tmp_path / "a.npy", tmp_path / "b.npy"]
    done = separate_files(model, talk / "mix.wav", faces_alone(files), tmp_path / "out", Windows(0.5, 0.2))
    expected = model.separate(talk / "mix.wav", files, Windows(0.5, 0.2))
    torch.testing.assert_close(written(done), expected, rtol=0, atol=ROUNDING)
    assert done.ends == dict.fromkeys(files, 1.6)
    for faces in (faces_alone([files[0], talk / "a.mp4"]), faces_in(talk / "talk.mp4", talk / "boxes.json")):
        with pytest.raises(ValueError, match=r"this run goes by embeddings: .* got .*\.mp4"):
            separate_files(model, talk / "mix.wav", faces, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# Names --------------------------------------------------------------------------------------------------------------


def test_no_two_names_are_of_one_file() -> None:
    assert different([]) == [] and different(["a", "b"]) == ["a", "b"]
    assert different(["a", "a", "A", "b", "a"]) == ["a", "a-2", "A-3", "b", "a-4"]
    assert different(["a-2", "a", "a", "a-2"]) == ["a-2", "a", "a-3", "a-2-2"]
    faces = faces_alone([Path("x/clip.mp4"), Path("y/clip.mkv"), Path("y/other.clip.mp4")])
    assert [face.name for face in faces] == ["clip", "clip-2", "other.clip"]


# What is at fault ---------------------------------------------------------------------------------------------------


def test_one_face_twice_is_two_equal_voices(model, talk: Path, tmp_path: Path) -> None:
    done = separate_files(model, talk / "mix.wav", faces_alone([talk / "a.mp4"] * 2), tmp_path)
    assert [path.name for path in done.paths] == ["a.wav", "a-2.wav"]
    assert torch.equal(*written(done))


def test_nothing_is_written_over_what_is_read(model, talk: Path, tmp_path: Path) -> None:
    mix = tmp_path / "a.wav"
    mix.write_bytes((talk / "mix.wav").read_bytes())
    with pytest.raises(ValueError, match=r"a\.wav would be written over what is to be separated. Choose another --out"):
        separate_files(model, mix, faces_alone([talk / "a.mp4"]), tmp_path / "new" / "..")
    assert mix.read_bytes() == (talk / "mix.wav").read_bytes()


def test_a_model_is_given_what_it_goes_by(model, deaf, talk: Path, tmp_path: Path) -> None:
    check_kind(model, False)
    check_kind(deaf, True)
    with pytest.raises(ValueError, match=r"this run goes by faces: give VIDEO, or --audio and --faces"):
        separate_files(model, talk / "mix.wav", 2, tmp_path / "out")
    with pytest.raises(ValueError, match=r"this run only hears: give --voices"):
        separate_files(deaf, talk / "mix.wav", faces_alone([talk / "a.mp4"]), tmp_path / "out")
    for other, none in ((model, []), (deaf, 0)):
        with pytest.raises(ValueError, match="separation needs a face at least, or of a run that only hears a voice"):
            separate_files(other, talk / "mix.wav", none, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_damaged_further_on_leaves_the_files_of_before(model, talk: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 80000)
    soundfile.write(tmp_path / "mix.flac", noise, 8000)
    whole = (tmp_path / "mix.flac").read_bytes()
    (tmp_path / "mix.flac").write_bytes(whole[: 4 * len(whole) // 5])
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.wav").write_text("before")
    with pytest.raises(MediaError, match=r"mix\.flac"):
        separate_files(model, tmp_path / "mix.flac", faces_alone([talk / "a.mp4", talk / "b.mp4"]), out)
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("a.wav", "before")]


def test_a_talk_must_be_seen_and_heard(talk: Path, tmp_path: Path) -> None:
    check_sound(talk / "talk.mp4")
    with pytest.raises(MediaError, match=r"a\.mp4 has no sound track. Give the sound that belongs to it as --audio"):
        check_sound(talk / "a.mp4")
    with pytest.raises(MediaError, match=r"mix\.wav is a sound and shows no face: give it as --audio"):
        check_sound(talk / "mix.wav")
    with pytest.raises(FileNotFoundError, match=r"none\.wav"):
        check_sound(tmp_path / "none.wav")
