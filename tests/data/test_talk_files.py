from pathlib import Path

import numpy as np
import pytest

from mm.data.item import Faults, UnreadableError
from mm.data.talk_files import Centred, alignment, avspeech_clips, transcript
from mm.data.talks import Talk, Talks
from mm.video import FaceTrack, box_at

STRICT = Faults("a set", skip=False)


def test_what_an_alignment_says(tmp_path):
    file = tmp_path / "swwp2s.align"
    assert alignment(file, STRICT) == {}
    file.write_text("0 12250 sil\r\n12250  19250\tset \n19250 27250 sp\n")
    words = [["sil", 0.0, 0.49], ["set", 0.49, 0.77], ["sp", 0.77, 1.09]]
    assert alignment(file, STRICT) == {"sentence": "set", "words": words}
    file.write_bytes(b"0 12250 \xff\xfe\n12250 x set\n")
    lenient = Faults("a set", skip=True)
    assert alignment(file, lenient) is None and "swwp2s.align:2" in lenient.lines[0]


def test_what_a_transcript_says(tmp_path):
    file = tmp_path / "00001.txt"
    assert transcript(file, STRICT) == {}
    file.write_text("Text:  WHEN YOU'RE COOKING {LG} CHIPS\nConf:  3\n")
    assert transcript(file, STRICT) == {"text": "WHEN YOU'RE COOKING {LG} CHIPS"}
    file.write_bytes(b"")
    with pytest.raises(UnreadableError, match=r"00001\.txt:1: a transcript must begin with 'Text:': got ''"):
        transcript(file, STRICT)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("CJoOwXcjhds_233.266.mp4", ("CJoOwXcjhds", 233.266)),
        ("CJoOwXcjhds_233.266000_239.367000.MKV", ("CJoOwXcjhds", 233.266)),
        ("CJoOwXcjhds_090.000000-093.566667.mp4", ("CJoOwXcjhds", 90.0)),
        ("_-x_12_34_5_90.000_93.567_video.mp4", ("_-x_12_34_5", 90.0)),
        ("_-x_12_34_5_90.mp4", ("_-x_12_34_5", 90.0)),
        ("CJoOwXcjhds.mp4", None),
        ("CJoOwXcjhds_233.266_239.367_audio.mp4", None),
        ("CJoOwXcjhds_233.266.wav", None),
    ],
)
def test_names_of_avspeechs_clips(tmp_path, name, found):
    file = tmp_path / "any" / name
    file.parent.mkdir()
    file.touch()
    assert avspeech_clips(tmp_path) == ({found[0]: [(found[1], file)]} if found else {})


@pytest.fixture
def film(tmp_path):
    """film(name, width, height): a video of three frames."""
    av = pytest.importorskip("av")

    def write(name, width, height):
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            track = container.add_stream("mpeg4", rate=25)
            track.width, track.height, track.pix_fmt = width, height, "yuv420p"
            for grey in (0, 120, 240):
                picture = np.full((height, width, 3), grey, np.uint8)
                container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(track.encode())
        return path

    return write


def centred(*faces, track=None):
    centres = ([0.5, 0.5], [0.75, 0.25], [0.0, 1.0])
    talks = [
        Talk(f"clip {k}", f"video {k % 2}", face, face, track, {"centre": centres[k]}) for k, face in enumerate(faces)
    ]
    return Centred(Talks(talks, ["a line"]))


def test_a_face_is_a_square_of_half_the_frames_height_around_its_centre(film):
    talks = centred(film("wide.mp4", 64, 32), film("high.mp4", 32, 64), film("edge.mp4", 64, 32))
    boxes = ((24, 8, 40, 24), (8, 0, 40, 32), (-8, 24, 8, 40))
    for talk, box in zip(talks, boxes, strict=True):
        left, top, right, bottom = box_at(talk.track, 7.5)
        np.testing.assert_allclose((left, top, right, bottom), box)
        assert talk.track.name == talk.id and talk.face == talk.voice
    assert len(talks) == 3 and talks.speakers == ("video 0", "video 1", "video 0") and talks.skipped == ("a line",)


def test_talks_that_have_a_track_keep_it(tmp_path):
    track = FaceTrack("given", np.zeros(1), np.array([[1.0, 2.0, 3.0, 4.0]]))
    for given in (track, tmp_path / "boxes.json"):
        assert centred(tmp_path / "not opened.mp4", track=given)[0].track is given


def test_videos_that_cannot_be_read_are_named(tmp_path):
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no video")
    talks = centred(damaged, Path("gone.mp4"))  # neither is opened before it is asked for
    with pytest.raises(UnreadableError, match=r"^clip 0: cannot read .*damaged\.mp4"):
        talks[0]
    with pytest.raises(UnreadableError, match=r"^clip 1: there is no video file gone\.mp4"):
        talks[1]
