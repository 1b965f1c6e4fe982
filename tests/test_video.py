import itertools
import json
import logging
import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from mm.media import MediaError, read_audio
from mm.video import (
    FaceTrack,
    Frames,
    at_rate,
    box_at,
    boxes_at,
    crop,
    crops,
    detect_tracks,
    end_of,
    frames_until,
    read_tracks,
    read_video,
    resampled,
    stream,
    write_tracks,
)
from tests.videos import flat, numbers, video

WHOLE = (0.0, 0.0, 1.0, 1.0)
VARIABLE = [0.0, 0.04, 0.05, 0.2, 0.21, 0.6, 0.64, 0.68, 1.5, 1.52, 1.54, 1.6]


def hum(seconds, rate=16000):
    return 0.3 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * rate)) / rate)


# Frames -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v.mp4", "v.mov", "v.mkv", "v.ts"])
@pytest.mark.parametrize("sound", [None, hum(2.0)], ids=["silent", "sound"])
def test_frames_come_with_their_times(tmp_path, name, sound):
    path = video(tmp_path / name, flat(50), sound=sound)
    grey, colour = read_video(path, grey=True), read_video(path)
    assert numbers(grey.pictures) == numbers(colour.pictures) == list(range(50))
    assert grey.pictures.shape == (50, 48, 64) and colour.pictures.shape == (50, 48, 64, 3)
    late = grey.times[0]  # where players hear 64 ms of silence that the encoder puts before a sound
    assert late == 0 if sound is None else 0 <= late <= 0.064 + 1e-6
    np.testing.assert_allclose(grey.times, np.arange(50) / 25 + late, atol=1e-6)
    assert grey.end_s == pytest.approx(2.0 + late, abs=1e-6) and end_of(path) == grey.end_s
    one_by_one = list(stream(path, grey=True))
    assert np.array_equal(np.stack([picture for picture, _ in one_by_one]), grey.pictures)
    assert [time_s for _, time_s in one_by_one] == grey.times.tolist()


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_variable_rates_keep_their_times(tmp_path, name):
    path = video(tmp_path / name, flat(len(VARIABLE)), VARIABLE)
    frames = read_video(path, grey=True)
    np.testing.assert_allclose(frames.times, VARIABLE, atol=1e-6)
    assert numbers(frames.pictures) == list(range(len(VARIABLE)))
    assert frames.end_s > VARIABLE[-1] and end_of(path) == frames.end_s


def test_grey_is_the_brightness_of_the_colours(tmp_path):
    rng = np.random.default_rng(0)
    pictures = [np.kron(rng.integers(40, 220, (3, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8) for _ in range(3)]
    path = video(tmp_path / "v.mp4", pictures)
    for grey, colour in zip(read_video(path, grey=True).pictures, read_video(path).pictures, strict=True):
        apart = np.abs(np.asarray(Image.fromarray(colour).convert("L")).astype(int) - grey)
        assert apart.mean() < 3 and np.percentile(apart, 95) <= 6


@pytest.mark.parametrize(
    ("name", "codec", "first", "sound_at", "want"),
    [
        ("a.mp4", "aac", 0.0, 0.5, -0.5),  # the sound begins half a second later
        ("a.mkv", "aac", 0.0, 0.5, -0.5),
        ("b.mp4", "aac", 1.0, 0.0, 1.0),  # the picture does
        ("b.mkv", "aac", 1.0, 0.0, 1.0),
        ("c.mkv", "libopus", 0.0, 0.0, 0.0),  # its head says that the sound begins at 0.013 s, but it does not
        ("d.mkv", "aac", 3.0, 3.0, 0.0),  # both do
        ("e.mp4", None, 2.0, 0.0, 0.0),  # no sound: the file begins with its first frame
    ],
)
def test_second_0_is_where_the_sound_begins(tmp_path, name, codec, first, sound_at, want):
    """A click in the sound while one frame is white: both are found at the same second."""
    rate, pictures = 48000, [np.full((48, 64, 3), 255 if k == 20 else 0, np.uint8) for k in range(50)]
    click = np.zeros(2 * rate)
    at = round((0.8 + first - sound_at) * rate)
    if codec:
        click[at : at + rate // 25] = hum(0.04, rate)
    times = first + np.arange(50) / 25
    path = video(
        tmp_path / name,
        pictures,
        times,
        sound=click if codec else None,
        sound_at=sound_at,
        rate=rate,
        sound_codec=codec or "aac",
    )
    frames = read_video(path, grey=True)
    assert frames.times[0] == pytest.approx(want, abs=0.065)  # AAC begins with up to 64 ms of its own
    assert end_of(path) == frames.end_s
    white = frames.times[frames.pictures.mean(axis=(1, 2)).argmax()]
    if codec:
        heard = read_audio(path, rate).numpy()
        assert abs(np.flatnonzero(np.abs(heard) > 0.1)[0] / rate - white) < 0.003
    else:
        assert white == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
@pytest.mark.parametrize("first", [0.0, 2.0])
def test_a_stream_begins_with_the_frame_on_show(tmp_path, name, first):
    path = video(tmp_path / name, flat(50), first + np.arange(50) / 10, key_every=8)
    whole = list(stream(path, grey=True))
    for start_s, frame in [
        (-1, 0),
        (0, 0),
        (0.09, 0),
        (0.1, 1),
        (1.55, 15),
        (2.3, 23),
        (3.999, 39),
        (4.95, 49),
        (9, 49),
    ]:
        part = list(stream(path, start_s, grey=True))
        assert [time_s for _, time_s in part] == [time_s for _, time_s in whole[frame:]], start_s
        assert numbers(np.stack([picture for picture, _ in part])) == list(range(frame, 50))


def test_a_stream_gives_frames_before_it_has_read_the_rest(tmp_path):
    path = video(tmp_path / "v.mov", flat(12), codec="png", pixels="rgb24")
    content = path.read_bytes()
    last = content.rfind(b"\x89PNG")
    path.write_bytes(content[:last] + b"...." + content[last + 4 :])
    frames = stream(path, grey=True)
    assert numbers(np.stack([picture for picture, _ in itertools.islice(frames, 10)])) == list(range(10))
    with pytest.raises(MediaError, match=r"cannot read .*v\.mov"):
        list(frames)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_phone_held_upright(tmp_path, degrees):
    """The matrix in the head of the track says how players turn it, clockwise."""
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:20, :30] = 255
    path = video(tmp_path / "v.mp4", [picture] * 3)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44
    turn = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    one = 1 << 16
    a, b, c, d = (value * one for value in turn)
    assert struct.unpack_from(">9i", content, at) == (one, 0, 0, 0, one, 0, 0, 0, one << 14)
    struct.pack_into(">9i", content, at, a, b, 0, c, d, 0, 0, 0, one << 14)
    path.write_bytes(content)
    want = np.rot90(picture[..., 0], -degrees // 90)
    for grey in (True, False):
        shown = read_video(path, grey).pictures[1]
        assert shown.shape[:2] == want.shape and shown.flags.c_contiguous
        assert np.abs(shown.reshape(*want.shape, -1).mean(axis=2) - want).mean() < 8


# Damage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "head"),
    [
        ("front.mp4", "libx264", {"movflags": "faststart"}),
        ("front.mp4", "mpeg4", {"movflags": "faststart"}),
        ("fragments.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("back.mp4", "libx264", {}),
        ("v.mkv", "libx264", {}),
        ("v.avi", "mpeg4", {}),
    ],
)
@pytest.mark.parametrize("sound", [None, hum(2.0)], ids=["silent", "sound"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_file_that_is_cut_off_is_named(tmp_path, name, codec, head, sound, share):
    noise = np.random.default_rng(0).integers(0, 256, (50, 48, 64, 3), np.uint8)
    path = video(
        tmp_path / name,
        list(noise),
        codec=codec,
        head=head,
        sound=sound,
        sound_codec="mp3" if ".avi" in name else "aac",
        clock=Fraction(1, 25),
    )
    assert len(read_video(path).times) == 50
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    reads = [read_video, end_of, lambda p: list(stream(p, 1.0))]
    for read in [*reads, lambda p: read_audio(p, 16000)] if sound is not None else reads:
        with pytest.raises(MediaError, match=rf"cannot read .*{name}: .*Replace it or leave it out"):
            read(path)


def test_a_file_that_is_cut_off_between_two_frames_says_where(tmp_path):
    av = pytest.importorskip("av")
    path = video(tmp_path / "v.mp4", flat(50), codec="mpeg4", head={"movflags": "faststart"})
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: places[30]])
    for read in (read_video, end_of):
        with pytest.raises(MediaError, match=r"v\.mp4: it is cut off after 1\.200 of 2\.000 s"):
            read(path)
    frames = stream(path, grey=True)
    assert len(list(itertools.islice(frames, 29))) == 29  # what is there is given before the end is found missing


def test_a_part_that_was_cut_out_without_encoding_is_whole(tmp_path):
    """Its head counts frames from the key frame before the part, which are never shown."""
    av = pytest.importorskip("av")
    path = video(tmp_path / "v.mp4", flat(50), key_every=10)
    with av.open(str(path)) as old, av.open(str(tmp_path / "part.mp4"), "w") as new:
        source = old.streams.video[0]
        target = new.add_stream_from_template(source)
        for packet in old.demux(source):
            if packet.dts is not None and packet.dts >= 20 * 512 - 1024:
                packet.pts, packet.dts, packet.stream = packet.pts - 25 * 512, packet.dts - 25 * 512, target
                new.mux(packet)
        assert source.frames == 50
    part = read_video(tmp_path / "part.mp4", grey=True)
    shown = numbers(part.pictures)
    assert shown == list(range(shown[0], shown[-1] + 1)) and 20 < shown[0] <= 25 and shown[-1] >= 48
    assert end_of(tmp_path / "part.mp4") == part.end_s


def test_videos_that_show_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no video file .*none\.mp4"):
        next(stream(tmp_path / "none.mp4"))
    path = video(tmp_path / "raw.h264", flat(5))
    for read in (read_video, end_of):
        with pytest.raises(MediaError, match=r"raw\.h264: it has .*frames without times"):
            read(path)
    path = video(tmp_path / "empty.mkv", [], codec="mpeg4", sound=hum(0.1))
    for read in (read_video, end_of):
        with pytest.raises(MediaError, match=r"empty\.mkv: it (is cut off after 0\.000|has no frames)"):
            read(path)
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(MediaError, match=r"cannot read .*text\.mp4"):
        read_video(tmp_path / "text.mp4")


# Rates --------------------------------------------------------------------------------------------------------------


def on_show(times, moment):
    """The frame on show, by looking at one after another."""
    shown = 0
    for k, time_s in enumerate(times):
        if time_s <= moment + 1e-6:
            shown = k
    return shown


@pytest.mark.parametrize("fps", [1, 10, 24, 25, 30, 30000 / 1001, 60])
@pytest.mark.parametrize("times", [np.arange(40) / 30, np.arange(40) / 24 - 0.3, np.array(VARIABLE) + 0.1, [0.7]])
def test_any_video_comes_at_the_rate_of_a_model(fps, times):
    times = np.asarray(times)
    frames = Frames(np.arange(len(times), dtype=np.uint8)[:, None, None], times, float(times[-1]) + 0.1)
    shown = resampled(frames, fps)
    moments = [k / fps for k in range(1000) if k / fps < frames.end_s - 1e-9]
    assert shown.ravel().tolist() == [on_show(times, moment) for moment in moments]
    pictures = zip(frames.pictures, times.tolist(), strict=True)
    assert np.array_equal(np.stack(list(at_rate(pictures, frames.end_s, fps))), shown)


@pytest.mark.parametrize("fps", [15, 24, 25, 29.97, 30, 50, 60])
def test_a_video_at_the_rate_of_the_model_is_itself(fps):
    for count in (1, 2, 75, 1000):
        frames = Frames(np.arange(count), np.arange(count) / fps, count / fps)
        assert np.array_equal(resampled(frames, fps), np.arange(count))
        rounded = frames._replace(times=np.round(frames.times, 3))  # as .mkv and .webm store them
        assert np.array_equal(resampled(rounded, fps), np.arange(count))


def test_the_last_frame_stays_and_the_first_is_there_before_its_time():
    pictures = [(np.array([k]), 0.5 + k) for k in range(3)]
    assert [int(p[0]) for p in at_rate(iter(pictures), 5.0, 1)] == [0, 0, 1, 2, 2]
    assert list(at_rate(pictures, 0.0, 25)) == list(at_rate(pictures, -1.0, 25)) == []


def test_only_one_frame_is_read_ahead():
    read = []

    def endless():
        for k in itertools.count():
            read.append(k)
            yield np.array([k]), k / 50

    shown = at_rate(endless(), 1e6, 25)
    assert [int(next(shown)[0]) for _ in range(4)] == [0, 2, 4, 6]
    assert read == list(range(8))


def test_rates_that_cannot_be():
    for end_s, fps in ((math.inf, 25), (math.nan, 25), (1.0, 0), (1.0, -25), (1.0, math.nan)):
        with pytest.raises(ValueError, match="fps be positive"):
            frames_until(end_s, fps)
    with pytest.raises(ValueError, match="must have a frame at least"):
        list(at_rate([], 1.0, 25))
    with pytest.raises(ValueError, match="must have a frame at least"):
        resampled(Frames(np.zeros((0, 4, 4), np.uint8), np.zeros(0), 1.0), 25)


def test_a_file_at_another_rate(tmp_path):
    path = video(tmp_path / "v.mp4", flat(30), fps=30, clock=Fraction(1, 30))
    shown = resampled(read_video(path, grey=True), 25)
    assert numbers(shown) == [int(k * 30 / 25 + 1e-9) for k in range(25)]
    assert np.array_equal(np.stack(list(at_rate(stream(path, grey=True), end_of(path), 25))), shown)


# Faces --------------------------------------------------------------------------------------------------------------


def test_boxes_move_on_straight_lines():
    times, boxes = np.array([1.0, 2.0, 4.0]), np.array([[0, 0, 10, 10], [10, 0, 30, 10], [10, 8, 30, 50]], float)
    track = FaceTrack("a", times, boxes)
    assert box_at(track, 1.5).tolist() == [5, 0, 20, 10]
    assert box_at(track, 3.5).tolist() == [10, 6, 30, 40]
    assert box_at(track, 0.0).tolist() == boxes[0].tolist() and box_at(track, 9.0).tolist() == boxes[-1].tolist()
    moments = np.linspace(0, 5, 23)
    assert np.array_equal(boxes_at(track, moments), np.stack([box_at(track, moment) for moment in moments]))
    still = FaceTrack("b", np.zeros(1), boxes[:1])
    assert box_at(still, 7.0).tolist() == boxes[0].tolist()


def written(tmp_path, content):
    path = tmp_path / "faces.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_tracks_are_read(tmp_path):
    points = [[10, 20], [14, 40], [20, 30]]
    faces = [
        {"name": "right", "boxes": [[0, 1, 2, 3, 4], [0.5, -2, 2.5, 3, 400]]},
        {"name": "left", "landmarks": [[1.0, points], [2.0, [[0, 0], [40, 10]]]]},
        {"name": "still", "box": [5, 6, 7, 8]},
    ]
    tracks = read_tracks(written(tmp_path, {"faces": faces}))
    assert list(tracks) == ["right", "left", "still"] and all(name == track.name for name, track in tracks.items())
    assert tracks["right"].times.tolist() == [0, 0.5] and tracks["right"].times.dtype == np.float64
    assert tracks["right"].boxes.tolist() == [[1, 2, 3, 4], [-2, 2.5, 3, 400]]
    assert tracks["left"].times.tolist() == [1, 2]
    assert tracks["left"].boxes.tolist() == [[0, 15, 30, 45], [-10, -25, 50, 35]]  # squares of 1.5 times 20 and 40
    assert box_at(tracks["still"], 123.0).tolist() == [5, 6, 7, 8]


def one(**face):
    return {"faces": [{"name": "a", **face}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"must be JSON in UTF-8"),
        ('{"faces": [], "faces": []}', "the key 'faces' comes twice"),
        ([], r'must be \{"faces": \[\.\.\.\]\} with one face at least'),
        ({"faces": []}, "with one face at least"),
        ({"face": [{"name": "a"}]}, "with one face at least"),
        ({"faces": [{"name": "a", "box": [0, 0, 1, 1]}], "fps": 25}, r"unknown key of .*faces\.json 'fps'"),
        ({"faces": ["a"]}, r'face 0 of .*faces\.json must be an object with a name and its boxes: got "a"'),
        (one(boxs=[]), r"unknown key of face 0 of .* 'boxs'\. .*Did you mean 'boxes'\?"),
        ({"faces": [{"box": [0, 0, 1, 1]}]}, r"must have a name that can name a file: got None"),
        (one(box=[0, 0, 1, 1]) | {"faces": [{"name": "../a", "box": [0, 0, 1, 1]}]}, r"got '\.\./a'"),
        ({"faces": [{"name": "a/b", "box": [0, 0, 1, 1]}]}, "got 'a/b'"),
        ({"faces": [{"name": " ", "box": [0, 0, 1, 1]}]}, "got ' '"),
        ({"faces": [{"name": 3, "box": [0, 0, 1, 1]}]}, "got 3"),
        (one(), "must have one of boxes, landmarks, box: got none"),
        (one(box=[0, 0, 1, 1], boxes=[]), "got box, boxes"),
        ({"faces": [one(box=[0, 0, 1, 1])["faces"][0]] * 2}, "name each face differently: 'a' comes twice"),
        (one(boxes=[]), "boxes of face 0 of .* must be rows of 5 finite numbers: got"),
        (one(boxes=[[0, 1, 2, 3]]), "must be rows of 5 finite numbers"),
        (one(boxes=[[0, 0, 0, 1, 1], [1, 0, 0, 1]]), "must be rows of 5 finite numbers"),
        (one(boxes=[["0", 0, 0, 1, 1]]), "must be rows of 5 finite numbers"),
        (one(boxes={"t": 0}), "must be rows of 5 finite numbers"),
        (one(boxes=[[0, 0, 0, 1, math.inf]]), "must be rows of 5 finite numbers"),
        (one(boxes=[[0, 0, 0, 1, None]]), "must be rows of 5 finite numbers"),
        (one(box=5), "box of face 0 of .* must be rows of 4 finite numbers"),
        (one(box=[0, 0, 1]), "must be rows of 4 finite numbers"),
        (one(box=[5, 0, 1, 1]), r"must have x0 < x1 and y0 < y1: got \[5\.0, 0\.0, 1\.0, 1\.0\]"),
        (one(boxes=[[0, 0, 0, 1, 1], [1, 0, 3, 1, 3]]), r"x0 < x1 and y0 < y1: got \[0\.0, 3\.0, 1\.0, 3\.0\]"),
        (one(boxes=[[1, 0, 0, 1, 1], [1, 0, 0, 1, 1]]), "must ascend in time: 1 s follows 1 s"),
        (one(boxes=[[1, 0, 0, 1, 1], [0.5, 0, 0, 1, 1]]), "0.5 s follows 1 s"),
        (one(landmarks=[]), r"landmarks of face 0 of .* must be \[\[t, \[\[x, y\], \.\.\.\]\], \.\.\.\]: got \[\]"),
        (one(landmarks=[[0, 1, 2]]), r"got \[\[0, 1, 2\]\]"),
        (one(landmarks=[[0, []]]), "must be rows of 2 finite numbers"),
        (one(landmarks=[[0, [[1, 2, 3]]]]), "must be rows of 2 finite numbers"),
        (one(landmarks=[["a", [[1, 2], [3, 4]]]]), "must be rows of 1 finite numbers"),
        (one(landmarks=[[0, [[1, 2], [1, 2]]]]), "x0 < x1"),
    ],
)
def test_bad_tracks_are_named(tmp_path, content, message):
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_tracks(path)
    assert "faces.json" in str(caught.value)


def test_a_file_of_tracks_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_tracks(tmp_path / "none.json")


def test_tracks_that_are_written_are_read(tmp_path):
    rng = np.random.default_rng(0)
    corners = rng.uniform(-50, 300, (7, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 90, (7, 2))], axis=1)
    tracks = {"b": FaceTrack("b", np.arange(7) / 30 - 0.1, boxes), "Zoë": FaceTrack("Zoë", np.zeros(1), boxes[:1])}
    path = tmp_path / "new" / "faces.json"
    write_tracks(tracks, path)
    read = read_tracks(path)
    assert list(read) == ["b", "Zoë"]
    for name, track in tracks.items():
        assert read[name].name == name
        assert np.array_equal(read[name].times, track.times.round(3))
        assert np.array_equal(read[name].boxes, track.boxes.round(1))
    again = tmp_path / "again.json"
    write_tracks(read, again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "times", "box", "message"),
    [
        ("a/b", [0.0], (0, 0, 1, 1), "must have a name that can name a file: got 'a/b'"),
        ("a", [0.0], (0, 0, 1, math.nan), "must be rows of 5 finite numbers"),
        ("a", [0.0], (1, 0, 1.04, 1), r"x0 < x1 and y0 < y1: got \[1\.0, 0\.0, 1\.0, 1\.0\]"),
        ("a", [0.5, 0.5004], (0, 0, 1, 1), "must ascend in time: 0.5 s follows 0.5 s"),
    ],
)
def test_what_could_not_be_read_is_not_written(tmp_path, name, times, box, message):
    path = tmp_path / "faces.json"
    with pytest.raises(ValueError, match=message):
        write_tracks({name: FaceTrack(name, np.array(times), np.tile(box, (len(times), 1)))}, path)
    with pytest.raises(ValueError, match="with one face at least"):
        write_tracks({}, path)
    assert not path.exists()


# What is cut out ----------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures():
    """(6, 90, 120, 3) uint8: noise that is coarse enough to survive a resize."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 15, 20, 3), np.uint8)
    return coarse.repeat(6, axis=1).repeat(6, axis=2)


def slow_crop(picture, box, part, size):
    """The same from the definition: a triangle as wide as a step, at least two pixels, about each pixel's centre."""
    weights = np.array([0.299, 0.587, 0.114])
    grey = np.round(picture @ weights) if picture.ndim == 3 else picture.astype(float)  # (H, W)
    left, top, right, bottom = box
    start = (top + part[1] * (bottom - top), left + part[0] * (right - left))
    step = ((part[3] - part[1]) * (bottom - top) / size, (part[2] - part[0]) * (right - left) / size)
    sums = np.zeros((size, size))
    for row, column in np.ndindex(size, size):
        centres = (start[0] + (row + 0.5) * step[0], start[1] + (column + 0.5) * step[1])
        tents, places = [], []
        for centre, reach, side in zip(centres, (max(step[0], 1), max(step[1], 1)), grey.shape, strict=True):
            near = np.arange(math.floor(centre - reach) - 1, math.ceil(centre + reach) + 1)
            tent = np.maximum(1 - np.abs(near + 0.5 - centre) / reach, 0)
            tents.append(tent / tent.sum())
            places.append(near.clip(0, side - 1))
        sums[row, column] = tents[0] @ grey[np.ix_(*places)] @ tents[1]
    return sums


@pytest.mark.parametrize(
    ("box", "part"),
    [
        ((0, 0, 120, 90), WHOLE),
        ((10.3, 5.2, 71.8, 60.9), WHOLE),
        ((10.3, 5.2, 71.8, 60.9), (0.2, 0.5, 0.8, 1.0)),
        ((50, 40, 58, 47), WHOLE),  # smaller than the result
        ((-30, -20, 60, 50), WHOLE),  # over the edge
        ((100, 60, 140, 130), (0.1, 0.1, 1.3, 1.2)),
        ((130, 100, 150, 120), WHOLE),  # outside: the pixel in the corner
    ],
)
def test_a_crop_is_its_definition(pictures, box, part):
    for picture in (pictures[0], pictures[0, ..., 0]):
        cut = crop(picture, box, part, 16)
        assert cut.dtype == np.uint8
        assert np.abs(cut - slow_crop(picture, box, part, 16)).max() <= 1.5  # PIL rounds between its two passes
    if min(box) >= 0 and box[2] <= 120 and box[3] <= 90 and part == WHOLE:
        whole = np.asarray(Image.fromarray(pictures[0]).convert("L").resize((16, 16), Image.Resampling.BILINEAR, box))
        inner = (slice(1, -1), slice(1, -1))  # at the edge of a picture PIL leaves out what is beyond
        assert np.array_equal(crop(pictures[0], box, WHOLE, 16)[inner], whole[inner])


def test_without_a_box_the_whole_frame_is_the_face(pictures):
    assert np.array_equal(crop(pictures[0], None, WHOLE, 24), crop(pictures[0], (0, 0, 120, 90), WHOLE, 24))
    lower = crop(pictures[0], None, (0, 0.5, 1, 1), 24)
    assert np.array_equal(lower, crop(pictures[0], (0, 45, 120, 90), WHOLE, 24))


def test_a_face_that_is_followed_stays_the_same():
    y, x = np.mgrid[0:100, 0:200]
    found = []
    for shift in np.linspace(0, 50, 21):  # by fractions of a pixel
        picture = (128 + 100 * np.sin((x - shift) / 9) * np.cos(y / 7)).astype(np.uint8)
        found.append(crop(picture, (40 + shift, 20, 100 + shift, 80), (0.2, 0.2, 0.9, 0.9), 32).astype(int))
    assert np.abs(np.stack(found) - found[0]).max() <= 3


def test_many_crops_are_as_one(pictures):
    rng = np.random.default_rng(1)
    corners = rng.uniform(-20, 60, (6, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 70, (6, 2))], axis=1)
    for some in (pictures, pictures[..., 1]):
        for given in (boxes, np.tile(boxes[0], (6, 1)), None):
            many = crops(some, given, (0.1, 0.3, 0.9, 1.1), 20)
            single = [
                crop(p, None if given is None else given[k], (0.1, 0.3, 0.9, 1.1), 20) for k, p in enumerate(some)
            ]
            assert np.array_equal(many, np.stack(single))
    assert crops(pictures[:0], None, WHOLE, 20).shape == (0, 20, 20)


@pytest.mark.parametrize(
    ("picture", "box", "part", "size", "message"),
    [
        (np.zeros((4, 4)), None, WHOLE, 8, r"must be \(H, W\) or \(H, W, 3\) uint8 .*: got \(4, 4\) float64"),
        (np.zeros((4, 4, 4), np.uint8), None, WHOLE, 8, r"got \(4, 4, 4\) uint8"),
        (np.zeros((4, 4), np.uint8), None, WHOLE, 0, "size at least 1: .* size 0"),
        (np.zeros((4, 4), np.uint8), (2, 0, 2, 4), WHOLE, 8, r"x0 < x1 and y0 < y1: got \(2, 0, 2, 4\)"),
        (np.zeros((4, 4), np.uint8), (0, 0, 4, math.nan), WHOLE, 8, "x0 < x1"),
        (np.zeros((4, 4), np.uint8), None, (0, 1, 1, 0.5), 8, r"\[0, 1, 1, 0\.5\]"),
    ],
)
def test_bad_crops(picture, box, part, size, message):
    with pytest.raises(ValueError, match=message):
        crop(picture, box, part, size)


def test_boxes_of_other_frames(pictures):
    with pytest.raises(ValueError, match=r"a box for each of 6 frames: got the shape \(5, 4\)"):
        crops(pictures, np.ones((5, 4)), WHOLE, 8)


# Detection ----------------------------------------------------------------------------------------------------------


def test_faces_are_found_followed_and_named_from_left_to_right(tmp_path, real_data):
    pytest.importorskip("cv2")
    clips = sorted((real_data("grid_av") / "clips").glob("*.mp4"))
    faces = [read_video(clip).pictures[:50] for clip in (clips[0], clips[-1])]
    scene = np.full((50, 270, 480, 3), 110, np.uint8)
    lefts = [np.full(50, 300), 40 + np.arange(50)]  # the second one is on the left and moves to the right
    tops = [60, 100]
    for face, left, top in zip(faces, lefts, tops, strict=True):
        for k in range(50):
            scene[k, top : top + 128, left[k] : left[k] + 128] = face[k]
    path = video(tmp_path / "talk.mp4", list(scene))
    tracks = detect_tracks(path, every=0.2)
    assert list(tracks) == ["0", "1"]
    for track, left, top in zip(tracks.values(), reversed(lefts), reversed(tops), strict=True):
        assert track.times == pytest.approx(np.arange(0, 2, 0.2), abs=1e-6)
        want = np.stack([left, np.full(50, top), left + 128, np.full(50, top + 128)], axis=1)[::5]
        assert np.abs(track.boxes - want).max() < 16  # what the data set took for the face
    again = detect_tracks(path, every=0.2)
    assert all(np.array_equal(again[name].boxes, track.boxes) for name, track in tracks.items())


def test_a_face_that_is_seldom_seen_is_left_out_and_told(tmp_path, real_data, caplog):
    pytest.importorskip("cv2")
    clips = sorted((real_data("grid_av") / "clips").glob("*.mp4"))
    scene = np.full((50, 200, 400, 3), 110, np.uint8)
    for clip, left, shown in ((clips[0], 20, 50), (clips[-1], 220, 10)):  # the right one in two looks of ten
        scene[:shown, 40:168, left : left + 128] = read_video(clip).pictures[:shown]
    path = video(tmp_path / "talk.mp4", list(scene))
    with caplog.at_level(logging.WARNING):
        (track,) = detect_tracks(path, every=0.2).values()
    assert track.boxes[:, 2].max() < 200
    said = "faces left out, seen in at most 20 % of the looks: 1. Boxes given by hand keep them."
    assert caplog.messages == [f"{path}: {said}"]
    caplog.clear()
    scene[:, :, 200:] = 110
    detect_tracks(video(tmp_path / "one.mp4", list(scene)))
    assert not caplog.messages


def test_a_video_without_a_face(tmp_path):
    pytest.importorskip("cv2")
    path = video(tmp_path / "wall.mp4", flat(10))
    with pytest.raises(MediaError, match=r"wall\.mp4 must show a face from the front: none was found\. Give its boxes"):
        detect_tracks(path)
    with pytest.raises(ValueError, match="some time between two looks: got 0 s"):
        detect_tracks(path, every=0)
