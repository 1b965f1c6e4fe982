"""scripts/find_faces.py as a user meets it: a file of boxes beside each video, and a message for what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from mm.video import detect_tracks, read_tracks, read_video, write_tracks
from tests.shared import assert_clean
from tests.videos import flat, video


def test_a_file_beside_each_video(script, tmp_path: Path, real_data) -> None:
    pytest.importorskip("cv2")
    faces = [read_video(real_data("grid_av") / "clips" / f"{name}.mp4") for name in ("s1_bbaf2n", "s1_bbaf3s")]
    scene = np.full((25, 300, 480, 3), 110, np.uint8)
    scene[:, 80:208, 20:148] = faces[0].pictures[:25]
    scene[:, 20:276, 200:456] = faces[1].pictures[:25].repeat(2, axis=1).repeat(2, axis=2)
    folder = tmp_path / "talks"
    (folder / "anna").mkdir(parents=True)
    two = video(folder / "anna" / "two.mp4", list(scene))
    wall = video(folder / "wall.mp4", flat(10))
    video(folder / "done.MOV", flat(10))
    (folder / "damaged.mpg").write_bytes(b"no video")
    (folder / "notes.txt").write_text("no video either")
    mine = folder / "done.json"
    mine.write_text("mine")

    answer = script("find_faces", folder)
    assert (answer.code, answer.err) == (0, ""), answer.err
    lines = answer.out.splitlines()
    assert lines[0] == f"{two}: faces found: 2"
    assert lines[1].startswith(f"cannot read {folder / 'damaged.mpg'}: ")
    assert lines[2].startswith(f"{wall} must show a face from the front: none was found.")
    assert lines[3:] == [
        "written: 1, there before: 1, no face found: 2",
        f"  {folder / 'damaged.mpg'}",
        f"  {wall}",
    ]
    assert mine.read_text() == "mine"
    assert sorted(path.name for path in folder.rglob("*.json")) == ["done.json", "two.json"]
    tracks = detect_tracks(two)
    write_tracks(tracks, tmp_path / "all.json")
    both = two.with_suffix(".json").read_bytes()
    assert len(tracks) == 2 and both == (tmp_path / "all.json").read_bytes()

    answer = script("find_faces", two, "--only-one")
    assert answer.code == 0 and answer.out == "written: 0, there before: 1, no face found: 0\n"
    assert two.with_suffix(".json").read_bytes() == both
    answer = script("find_faces", "--only-one", two, two.parent, "--replace")  # the same video twice
    assert answer.out == f"{two}: faces found: 2\nwritten: 1, there before: 0, no face found: 0\n"
    (kept,) = read_tracks(two.with_suffix(".json")).values()
    assert np.abs(kept.boxes - [200, 20, 456, 276]).max() < 32


def test_what_cannot_be_looked_at(script, tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    assert_clean(script("find_faces", tmp_path / "none.mp4"), "none.mp4 must be a video or a folder of videos")
    (tmp_path / "empty").mkdir()
    assert_clean(
        script("find_faces", tmp_path / "empty"), "empty holds no video: looked for .avi, .mkv, .mov, .mp4, .mpg"
    )
    for name in ("a.mp4", "a.mkv"):
        video(tmp_path / name, flat(5))
    assert_clean(script("find_faces", tmp_path), "a.mkv and ", "a.mp4 would share one .json of their name. Rename one.")


def test_without_opencv_nothing_is_begun(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "cv2", None)
    assert_clean(script("find_faces", tmp_path / "a.mp4"), "needs OpenCV", "Run: pip install 'mm[faces]'")
