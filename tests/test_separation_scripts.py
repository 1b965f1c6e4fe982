"""The scripts of separation as a user meets them: one WAV for each face, and a message for what is wrong."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mm.media import read_audio
from mm.tasks import separation
from mm.tasks.separation_windows import Windows
from mm.video import detect_tracks, read_tracks, read_video
from tests.shared import assert_clean
from tests.talking import untrained_run
from tests.videos import flat, video

ROUNDING = 1.01 / 2**15  # of 16 bits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("runs") / "seeing")


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("runs") / "hearing", "faces=false")


def heard(out: Path, *names: str) -> torch.Tensor:
    """(S, T) what is in the files of these names, which are all that is in the folder."""
    assert {path.name for path in out.iterdir()} == {f"{name}.wav" for name in names}
    assert all(soundfile.info(out / f"{name}.wav").subtype == "PCM_16" for name in names)
    return torch.stack([read_audio(out / f"{name}.wav", 8000) for name in names])


# What is written ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "windows"),
    [
        ([], Windows()),
        (["--window", 0.8], Windows(0.8, 0.2)),
        (["--window", 0.7, "--overlap", 0.3], Windows(0.7, 0.3)),
    ],
)
def test_a_file_for_each_face(script, run: Path, talk: Path, tmp_path: Path, flags: list, windows: Windows) -> None:
    faces = [talk / "a.mp4", talk / "b.mp4"]
    out = tmp_path / "new" / "voices"
    answer = script("separate", run, "--audio", talk / "mix.wav", "--faces", *faces, "--out", out, *flags)
    assert answer.code == 0, answer.err
    model, _ = separation.load(run)
    expected = model.separate(talk / "mix.wav", faces, windows)
    torch.testing.assert_close(heard(out, "a", "b"), expected, rtol=0, atol=ROUNDING)
    shares = expected.square().sum(1) / read_audio(talk / "mix.wav", 8000).square().sum()
    lines = answer.out.splitlines()
    assert lines[:2] == [
        f"{out / name}.wav: 2.00 s, {share:.1%} of the mixture's energy"
        for name, share in zip("ab", shares.tolist(), strict=True)
    ]
    took, factor = re.fullmatch(r"took (\d+\.\d) s, (\d+\.\d\d) of the time that the sound lasts", lines[2]).groups()
    assert float(factor) == pytest.approx(float(took) / 2, abs=0.031)
    assert (len(lines), answer.err) == (3, "")


def test_faces_in_another_order_are_the_same_files(script, run: Path, talk: Path, tmp_path: Path) -> None:
    found = []
    for order in ("ab", "ba"):
        out = tmp_path / order
        faces = [talk / f"{name}.mp4" for name in order]
        answer = script("separate", run, "--audio", talk / "mix.wav", "--faces", *faces, "--out", out, "--window", 1)
        assert answer.code == 0, answer.err
        assert [Path(line.split(":")[0]).stem for line in answer.out.splitlines()[:2]] == list(order)
        found.append(heard(out, "a", "b"))
    torch.testing.assert_close(*found, rtol=0, atol=ROUNDING)
    assert (found[0][0] - found[0][1]).abs().max() > 100 * ROUNDING


def test_the_faces_of_a_video_by_their_boxes(script, run: Path, talk: Path, tmp_path: Path) -> None:
    movie, boxes = talk / "talk.mp4", talk / "boxes.json"
    windows = ["--window", 1, "--overlap", 0.5]
    answer = script("separate", run, movie, "--boxes", boxes, "--out", tmp_path / "own", *windows)
    assert answer.code == 0, answer.err
    model, _ = separation.load(run)
    faces = [(movie, track) for track in read_tracks(boxes).values()]
    expected = model.separate(movie, faces, Windows(1.0, 0.5))
    torch.testing.assert_close(heard(tmp_path / "own", "left", "right"), expected, rtol=0, atol=ROUNDING + 1e-4)
    answer = script("separate", run, "--audio", talk / "mix.wav", "--boxes", boxes, "--out", tmp_path / "other", movie)
    assert answer.code == 0, answer.err
    expected = model.separate(talk / "mix.wav", faces)
    torch.testing.assert_close(heard(tmp_path / "other", "left", "right"), expected, rtol=0, atol=ROUNDING)


def test_the_faces_of_a_video_as_they_are_found(script, run: Path, tmp_path: Path, real_data) -> None:
    pytest.importorskip("cv2")
    grid = real_data("grid_av") / "clips"
    names = ["s1_bbaf2n", "s1_bbaf3s"]
    both = np.concatenate([read_video(grid / f"{name}.mp4").pictures for name in names], axis=2)  # (N, H, 2 W, 3)
    wave = sum(read_audio(grid / f"{name}.ogg", 16000) for name in names) / 2  # (T,)
    movie = video(tmp_path / "two.mp4", list(both), sound=wave.numpy())
    answer = script("separate", run, movie, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    tracks = detect_tracks(movie)
    model, _ = separation.load(run)
    expected = model.separate(movie, [(movie, track) for track in tracks.values()])
    assert list(tracks) == ["0", "1"]
    torch.testing.assert_close(heard(tmp_path / "out", "0", "1"), expected, rtol=0, atol=1e-3)


def test_a_run_that_only_hears_is_told_how_many_talk(script, hearing: Path, talk: Path, tmp_path: Path) -> None:
    model, _ = separation.load(hearing)
    for number, given in enumerate(
        (["--audio", talk / "mix.wav"], [talk / "talk.mp4"], ["--audio", talk / "talk.mp4"])
    ):
        answer = script("separate", hearing, *given, "--voices", 3, "--out", tmp_path / str(number))
        assert answer.code == 0, answer.err
        found = heard(tmp_path / str(number), "voice-1", "voice-2", "voice-3")
        torch.testing.assert_close(found, model.separate(given[-1], 3), rtol=0, atol=1e-3)


def test_a_run_that_goes_by_embeddings(script, talk: Path, tmp_path: Path) -> None:
    vectors = ("data.name=talks", "encoder.video.name=embeddings", "encoder.video.size=6")
    run = untrained_run(tmp_path / "run", *vectors)
    np.save(tmp_path / "a.npy", np.random.default_rng(0).standard_normal((50, 6)))
    given = ["separate", run, "--audio", talk / "mix.wav", "--out", tmp_path / "out"]
    answer = script(*given, "--faces", tmp_path / "a.npy")
    assert answer.code == 0, answer.err
    expected = separation.load(run)[0].separate(talk / "mix.wav", [tmp_path / "a.npy"])
    torch.testing.assert_close(heard(tmp_path / "out", "a"), expected, rtol=0, atol=ROUNDING)
    assert_clean(script(*given, "--faces", talk / "a.mp4"), "this run goes by embeddings", "a.mp4")
    np.save(tmp_path / "a.npy", np.zeros((50, 7)))
    assert_clean(script(*given, "--faces", tmp_path / "a.npy"), "a.npy", "(50, 7)")


def test_more_faces_than_voices_and_files_of_one_name(script, run: Path, talk: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    shutil.copy(talk / "b.mp4", tmp_path / "more" / "a.mp4")
    wall = video(tmp_path / "wall.mp4", flat(50))
    faces = [talk / "a.mp4", tmp_path / "more" / "a.mp4", wall, talk / "b.mp4"]
    answer = script("separate", run, "--audio", talk / "mix.wav", "--faces", *faces, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    expected = separation.load(run)[0].separate(talk / "mix.wav", faces)
    found = heard(tmp_path / "out", "a", "a-2", "wall", "b")
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(found[1], found[3], rtol=0, atol=ROUNDING)


def test_what_lasts_longer_is_said(script, run: Path, talk: Path, tmp_path: Path) -> None:
    short, long = video(tmp_path / "short.mp4", flat(20)), video(tmp_path / "long.mp4", (flat(40) * 2)[:75])
    given = ["--audio", talk / "mix.wav", "--faces", short, talk / "a.mp4", long, "--out", tmp_path / "out"]
    answer = script("separate", run, *given)
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[3:5] == [
        f"{short} ends at 0.80 s and the sound at 2.00 s: the last frame stays meanwhile.",
        f"{long} ends at 3.00 s and the sound at 2.00 s: the rest of the video is not read.",
    ]
    assert str(talk / "a.mp4") not in answer.out


def test_what_would_be_clipped_is_scaled_and_said(script, talk: Path, tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", loud=20.0)
    faces = [talk / "a.mp4", talk / "b.mp4"]
    answer = script("separate", run, "--audio", talk / "mix.wav", "--faces", *faces, "--out", tmp_path / "out")
    assert answer.code == 0, answer.err
    expected = separation.load(run)[0].separate(talk / "mix.wav", faces)
    peak = float(expected.abs().max())
    found = heard(tmp_path / "out", "a", "b")
    torch.testing.assert_close(found, expected / peak, rtol=0, atol=2 * ROUNDING)
    assert found.abs().max() > 0.999
    assert len(answer.err.splitlines()) == 1 and f"scaled by {1 / peak:.3f}" in answer.err


@pytest.mark.parametrize(("subtype", "channels", "rate"), [("PCM_U8", 2, 44100), ("PCM_24", 1, 48000)])
def test_any_sound_and_any_frame_rate_will_do(
    script, run: Path, talk: Path, tmp_path: Path, subtype: str, channels: int, rate: int
) -> None:
    wave = read_audio(talk / "mix.wav", rate).numpy()  # (T,)
    soundfile.write(tmp_path / "mix.wav", np.stack([wave] * channels, axis=1), rate, subtype=subtype)
    frames = read_video(talk / "a.mp4").pictures  # (N, H, W, 3)
    kept = [k for k in range(50) if k % 7 not in (2, 3, 5)]
    faces = [
        video(tmp_path / "thirty.mp4", list(frames[np.arange(60) * 25 // 30]), fps=30),
        video(tmp_path / "variable.mp4", list(frames[kept]), np.array(kept) / 25),
    ]
    given = ["--audio", tmp_path / "mix.wav", "--faces", *faces, "--out", tmp_path / "out", "--window", 1.5]
    answer = script("separate", run, *given, "--overlap", 0.5)
    assert answer.code == 0, answer.err
    expected = separation.load(run)[0].separate(tmp_path / "mix.wav", faces, Windows(1.5, 0.5))
    torch.testing.assert_close(heard(tmp_path / "out", "thirty", "variable"), expected, rtol=0, atol=1e-3)


def test_a_sound_shorter_than_a_window(script, run: Path, talk: Path, tmp_path: Path) -> None:
    wave = read_audio(talk / "mix.wav", 8000)[5000:5100]
    soundfile.write(tmp_path / "mix.wav", wave.numpy(), 8000)
    given = ["--audio", tmp_path / "mix.wav", "--faces", talk / "a.mp4", "--out", tmp_path / "out"]
    answer = script("separate", run, *given)
    assert answer.code == 0, answer.err
    expected = separation.load(run)[0].separate(tmp_path / "mix.wav", [talk / "a.mp4"])
    torch.testing.assert_close(heard(tmp_path / "out", "a"), expected, rtol=0, atol=ROUNDING)


# What is wrong ------------------------------------------------------------------------------------------------------


@pytest.fixture
def fails(script, run: Path, tmp_path: Path):
    """fails("--audio", ..., said=[...]): one message that says so, exit code 2, and the files of before."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.wav").write_text("before")

    def check(*given: object, said: list[str], of: Path = run) -> None:
        assert_clean(script("separate", of, *given, "--out", tmp_path / "out"), *said)
        assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [("a.wav", "before")]

    return check


def test_videos_that_cannot_be_used(fails, talk: Path, tmp_path: Path) -> None:
    wall = video(tmp_path / "wall.mp4", flat(10), sound=np.zeros(8000), rate=8000)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((talk / "talk.mp4").read_bytes()[:-3000])
    mix, boxes = ["--audio", talk / "mix.wav"], ["--boxes", talk / "boxes.json"]
    fails(talk / "a.mp4", said=["a.mp4 has no sound track. Give the sound that belongs to it as --audio."])
    fails(talk / "mix.wav", said=["mix.wav is a sound and shows no face: give it as --audio, and a video of each"])
    fails(talk / "none.mp4", said=["there is no video file", "none.mp4"])
    fails(*mix, "--faces", talk / "a.mp4", talk / "mix.wav", said=["mix.wav", "no picture track"])
    fails(*mix, "--faces", talk / "a.mp4", cut, said=["cut.mp4"])
    fails(cut, *boxes, said=["cut.mp4"])
    fails("--audio", cut, "--faces", talk / "a.mp4", said=["cut.mp4"])
    fails("--audio", talk / "b.mp4", "--faces", talk / "a.mp4", said=["b.mp4", "no sound track"])
    fails("--audio", talk / "none.wav", "--faces", talk / "a.mp4", said=["there is no audio file", "none.wav"])
    pytest.importorskip("cv2")
    fails(wall, said=["wall.mp4 must show a face from the front: none was found", "boxes"])


def test_boxes_at_fault(fails, talk: Path, tmp_path: Path) -> None:
    file = tmp_path / "boxes.json"
    for content, said in (
        ({"faces": []}, "one face at least"),
        ({"face": [{"name": "a", "box": [0, 0, 9, 9]}]}, "faces"),
        ({"faces": [{"name": "a", "bbox": [0, 0, 9, 9]}]}, "'bbox'"),
        ({"faces": [{"name": "a", "box": [0, 0, 9, 9]}], "version": 1}, "'version'"),
        ({"faces": [{"name": "../a", "box": [0, 0, 9, 9]}]}, "../a"),
        ({"faces": [{"name": "a", "box": [9, 0, 0, 9]}]}, "x0 < x1"),
    ):
        file.write_text(json.dumps(content))
        fails(talk / "talk.mp4", "--boxes", file, said=[str(file), said])
    fails(talk / "talk.mp4", "--boxes", tmp_path / "none.json", said=["none.json"])


def test_runs_that_cannot_be_used(fails, hearing: Path, tiny_run: Path, talk: Path, tmp_path: Path) -> None:
    given = ["--audio", talk / "mix.wav", "--faces", talk / "a.mp4"]
    fails(*given, of=tmp_path, said=["must be a run folder"])
    fails(*given, of=tiny_run, said=["must be a checkpoint of speech separation: there is no separator.json"])
    fails(*given, of=hearing, said=["this run only hears: give --voices"])
    fails(talk / "talk.mp4", of=hearing, said=["this run only hears: give --voices"])
    fails(
        "--audio", talk / "mix.wav", "--voices", 2, said=["this run goes by faces: give VIDEO, or --audio and --faces"]
    )
    fails(*given, "--window", 1, "--overlap", 0.7, said=["by at most half: got 1.0 s with 0.7 s of overlap"])
    fails(*given, "--window", 0.05, "--overlap", 0.01, said=["a window must have two frames at least"])


def test_nothing_is_written_over_what_is_read(script, run: Path, talk: Path, tmp_path: Path) -> None:
    mix = Path(shutil.copy(talk / "mix.wav", tmp_path / "a.wav"))
    answer = script("separate", run, "--audio", mix, "--faces", talk / "a.mp4", "--out", tmp_path)
    assert_clean(answer, "a.wav would be written over what is to be separated. Choose another --out.")
    assert mix.read_bytes() == (talk / "mix.wav").read_bytes()


def test_arguments_that_go_with_others(script, run: Path, tmp_path: Path) -> None:
    for given, said in (
        ([], "VIDEO is required, or --audio and --faces"),
        (["--faces", "a.mp4"], "VIDEO is required, or --audio and --faces"),
        (["--audio", "mix.wav"], "--audio needs --faces, a video of each who talks"),
        (["a.mp4", "--faces", "b.mp4", "--audio", "mix.wav"], "--faces takes neither VIDEO nor --voices"),
        (["--voices", "2", "--faces", "b.mp4", "--audio", "mix.wav"], "--faces takes neither VIDEO nor --voices"),
        (["--audio", "mix.wav", "--faces", "b.mp4", "--boxes", "f.json"], "--boxes is for the faces in VIDEO"),
        (["a.mp4", "--voices", "2", "--boxes", "f.json"], "--boxes is for the faces in VIDEO"),
        (["a.mp4", "--voices", "5"], "choose from 1, 2, 3, 4"),
    ):
        answer = script("separate", run, *given, "--out", tmp_path / "out")
        assert (answer.code, said in answer.err) == (2, True), (given, answer.err)
    assert script("separate", run, "a.mp4").code == 2  # no --out
    assert not (tmp_path / "out").exists()
