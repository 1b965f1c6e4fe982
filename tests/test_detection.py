import sys

import numpy as np
import pytest

from mm.detection import face_finder, link, overlap
from mm.media import MediaError


def box(x, y, side):
    return np.array([x, y, x + side, y + side], float)


def test_overlaps():
    assert overlap(box(0, 0, 10), box(0, 0, 10)) == 1
    assert overlap(box(0, 0, 10), box(5, 0, 10)) == pytest.approx(50 / 150)
    assert overlap(box(0, 0, 10), box(2, 3, 5)) == pytest.approx(25 / 100)
    for far in (box(10, 0, 10), box(0, 30, 10), box(20, 20, 10)):
        assert overlap(box(0, 0, 10), far) == 0


def test_faces_are_linked_by_what_overlaps_most():
    faces = []
    link(faces, 0.0, np.stack([box(0, 0, 100), box(60, 0, 100)]))
    link(faces, 0.2, np.stack([box(45, 0, 100), box(5, 0, 100)]))  # the first could be either: the nearer one gets it
    link(faces, 0.4, np.zeros((0, 4)))
    link(faces, 0.6, np.stack([box(500, 0, 50), box(10, 0, 100)]))  # one is new, one is away
    link(faces, 0.8, np.stack([box(40, 0, 100)]))  # it is back
    assert [[time_s for time_s, _ in face] for face in faces] == [[0.0, 0.2, 0.6], [0.0, 0.2, 0.8], [0.6]]
    assert [[float(found[0]) for _, found in face] for face in faces] == [[0, 5, 10], [60, 45, 40], [500]]


def test_a_face_takes_one_box_at_most():
    faces = []
    link(faces, 0.0, box(0, 0, 100)[None])
    link(faces, 0.2, np.stack([box(20, 0, 100), box(2, 0, 100)]))
    assert [[float(found[0]) for _, found in face] for face in faces] == [[0, 2], [20]]


def test_a_wall_has_no_face():
    pytest.importorskip("cv2")
    find = face_finder("a.mp4")
    for shape in ((48, 64), (1080, 1920), (1, 1), (2000, 3)):
        assert find(np.full(shape, 128, np.uint8)).shape == (0, 4)


def test_large_pictures_are_searched_as_small_ones(real_data):
    pytest.importorskip("cv2")
    pytest.importorskip("av")
    from mm.video import read_video

    face = read_video(min((real_data("grid_av") / "clips").glob("*.mp4")), grey=True).pictures[0]
    scene = np.full((360, 640), 110, np.uint8)
    scene[100:228, 200:328] = face
    found, larger = face_finder("a")(scene), face_finder("a")(scene.repeat(3, axis=0).repeat(3, axis=1))
    assert np.abs(found - box(200, 100, 128)).max() < 16
    assert np.abs(larger - 3 * found).max() < 3


def test_without_opencv_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MediaError, match=r"of a\.mp4 needs OpenCV, .*Run: pip install 'mm\[faces\]'"):
        face_finder("a.mp4")
