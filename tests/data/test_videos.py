import logging
from collections import Counter

import numpy as np
import pytest

from mm.data.gallery import stable_id
from mm.data.item import UnreadableError
from mm.data.videos import VAL_MOST, held_out, vggsound, video_folder
from mm.media import read_audio, read_image

SPLITS = ("train", "val", "test")
TRAIN_VIDEOS = 40


@pytest.fixture
def vgg(tmp_path):
    """vggsound.csv with two clips of each of 40 training videos and one of each of 3 test videos; empty files."""
    folder = tmp_path / "vggsound"
    (folder / "video").mkdir(parents=True)
    clips = [(f"tr_-{video:07d}", 30 * take, "train") for video in range(TRAIN_VIDEOS) for take in range(2)]
    clips += [(f"test{video:07d}", 150, "test") for video in range(3)]
    with open(folder / "vggsound.csv", "w") as file:
        for video, start, split in clips:
            file.write(f'{video},{start},"bird chirping, tweeting",{split}\n')
            (folder / "video" / f"{video}_{start:06d}.mp4").touch()
    return tmp_path


def test_vggsound(vgg):
    first = vggsound(vgg, "test")[0]
    clip = vgg / "vggsound" / "video" / "test0000000_000150.mp4"
    assert first.id == "test0000000_000150" and first.owner == "test0000000"
    assert first.image == first.audio == (clip,) and not first.text
    assert first.meta == {"category": "bird chirping, tweeting", "start_s": 150}


def test_vggsound_splits_keep_the_clips_of_a_video_together(vgg):
    train, val, test, trainval = (vggsound(vgg, split) for split in (*SPLITS, "trainval"))
    assert (len(train), len(val), len(test)) == (2 * 38, 2 * 2, 3)  # 5 % of 40 videos
    owners = [{item.owner for item in items} for items in (train, val, test)]
    assert not owners[0] & owners[1] and not owners[2] & (owners[0] | owners[1])
    assert {item.id for item in trainval} == {item.id for item in [*train, *val]}
    assert owners[1] == set(sorted(owners[0] | owners[1], key=stable_id)[:2])


def test_val_does_not_follow_the_order_of_rows(vgg):
    before = {item.id for item in vggsound(vgg, "val")}
    table = vgg / "vggsound" / "vggsound.csv"
    table.write_text("\n".join([*reversed(table.read_text().splitlines()), "", ""]))
    assert {item.id for item in vggsound(vgg, "val")} == before


def test_val_is_a_share_that_is_capped():
    assert len(held_out(map(str, range(100)))) == 5 and len(held_out(map(str, range(101)))) == 6
    assert len(held_out(map(str, range(50 * VAL_MOST)))) == VAL_MOST and held_out([]) == set()


def test_videos_that_another_set_tests_on_are_left_out(vgg, caplog):
    with caplog.at_level(logging.WARNING):
        kept = vggsound(vgg, "trainval", without={"tr_-0000003", "test0000000"})
    assert "2 clips of videos that are tested on are left out" in caplog.text
    assert len(kept) == 2 * 39 and "tr_-0000003" not in {item.owner for item in kept}
    assert len(vggsound(vgg, "test", without={"test0000000"})) == 3


def test_frames_and_sounds_instead_of_videos(vgg, jpeg, sound):
    folder = vgg / "vggsound"
    for video in range(3):
        clip = f"test{video:07d}_000150"
        (folder / "video" / f"{clip}.mp4").unlink()
        jpeg(folder / "frames" / f"{clip}.jpg")
        sound(folder / "audio" / f"{clip}.wav")
    item = vggsound(vgg, "test")[2]
    assert item.image == (folder / "frames" / f"{item.id}.jpg",)
    assert item.audio == (folder / "audio" / f"{item.id}.wav",)


def test_a_clip_that_is_gone(vgg, jpeg):
    folder = vgg / "vggsound"
    gone = vggsound(vgg, "train")[4]
    gone.image[0].unlink()
    with pytest.raises(
        UnreadableError, match=rf"vggsound\.csv:\d+: .*frames.{gone.id}\.jpg and .*audio.{gone.id}\.wav"
    ):
        vggsound(vgg, "train")
    kept = vggsound(vgg, "train", skip_bad=True)
    assert len(kept) == 75 and len(kept.skipped) == 1 and gone.id in kept.skipped[0]
    jpeg(folder / "frames" / f"{gone.id}.jpg")  # an image without its sound is none the better
    assert gone.id not in {item.id for item in vggsound(vgg, "train", skip_bad=True)}
    for split in ("val", "test"):
        vggsound(vgg, split)[0].image[0].unlink()
        with pytest.raises(UnreadableError, match=r"not there; docs/data\.md says"):
            vggsound(vgg, split, skip_bad=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "abc,30,rain",
            r"vggsound\.csv:84: a row must be: YouTube id, start in whole seconds, label.*Got 'abc,30,rain'",
        ),
        ("abc,30.5,rain,train", "start in whole seconds"),
        ("abc,-3,rain,train", "start in whole seconds"),
        (",30,rain,train", "YouTube id"),
        ("youtube_id,start,label,split", "no header"),
        ("abc,30,rain,tests", r"the split must be train or test: got 'tests'\. Did you mean 'test'\?"),
    ],
)
def test_rows_that_are_not_of_the_published_form(vgg, row, message):
    with open(vgg / "vggsound" / "vggsound.csv", "a") as file:
        file.write(row + "\n")
    with pytest.raises(ValueError, match=message):
        vggsound(vgg, "train")


def test_a_clip_that_is_listed_twice(vgg):
    train = vggsound(vgg, "train")
    with open(vgg / "vggsound" / "vggsound.csv", "a") as file:
        file.write(f"{train[0].owner},{train[0].meta['start_s']},rain,train\n")
    with pytest.raises(UnreadableError, match=rf"vggsound\.csv:84: the clip {train[0].id} is listed twice"):
        vggsound(vgg, "train")
    kept = vggsound(vgg, "train", skip_bad=True)
    assert [item.id for item in kept] == [item.id for item in train] and len(kept.skipped) == 1


def test_vggsound_that_is_not_there(vgg):
    with pytest.raises(FileNotFoundError, match=r"vggsound must hold vggsound\.csv"):
        vggsound(vgg / "nowhere", "train")
    with pytest.raises(ValueError, match=r"unknown split 'tests'.*Did you mean 'test'\?"):
        vggsound(vgg, "tests")


# A folder of videos -------------------------------------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path):
    for i in range(200):
        file = tmp_path / "mine" / f"part {i % 3}" / f"{i}.{('mp4', 'WEBM', 'mkv', 'mov', 'avi')[i % 5]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    (tmp_path / "mine" / "notes.txt").touch()
    return tmp_path / "mine"


def test_every_video_of_a_folder_belongs_to_one_split(videos):
    train, val, test, trainval = (video_folder(videos, split) for split in (*SPLITS, "trainval"))
    names = Counter(item.id for item in [*train, *val, *test])
    assert (
        len(names) == 200
        and set(names.values()) == {1}
        and {i.id for i in trainval} | {i.id for i in test} == set(names)
    )
    assert 3 <= len(val) <= 20 and 3 <= len(test) <= 20
    item = train[0]
    assert item.image == item.audio == (videos / item.id,) and item.owner == item.id and item.meta == {}


def test_a_further_video_moves_no_other(videos):
    before = {split: [item.id for item in video_folder(videos, split)] for split in SPLITS}
    (videos / "a.mp4").write_bytes(b"x")
    for split in SPLITS:
        assert [item.id for item in video_folder(videos, split) if item.id != "a.mp4"] == before[split]


def test_empty_videos(videos):
    train, test = video_folder(videos, "train"), video_folder(videos, "test")
    train[1].image[0].write_bytes(b"")
    with pytest.raises(UnreadableError, match=rf"{train[1].image[0].name} is empty\. .*skip_bad"):
        video_folder(videos, "train")
    kept = video_folder(videos, "train", skip_bad=True)
    assert len(kept) == len(train) - 1 and len(kept.skipped) == 1
    test[0].image[0].write_bytes(b"")
    with pytest.raises(UnreadableError, match="is empty"):
        video_folder(videos, "test", skip_bad=True)


def test_folders_without_videos(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere must be a folder of videos"):
        video_folder(tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match=r"holds no video: looked for \.avi, \.mkv, \.mov, \.mp4, \.webm"):
        video_folder(tmp_path, "train")
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"videos of the split 'val': none of its 1 falls there"):
        video_folder(tmp_path, "val")
    with pytest.raises(ValueError, match="unknown split"):
        video_folder(tmp_path, "validation")


def test_a_video_gives_its_middle_picture_and_its_sound(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        track, heard = container.add_stream("mpeg4", rate=10), container.add_stream("aac", rate=16000)
        track.width, track.height, track.pix_fmt = 32, 32, "yuv420p"
        for grey in (0, 120, 240):
            picture = np.full((32, 32, 3), grey, np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(track.encode())
        frame = av.AudioFrame.from_ndarray(np.full((1, 4800), 0.25, np.float32), format="fltp", layout="mono")
        frame.rate = 16000
        container.mux([*heard.encode(frame), *heard.encode()])
    (item,) = video_folder(tmp_path, "train")
    assert abs(read_image(item.image[0]).mean() - 120) < 4
    wave = read_audio(item.audio[0], 16000)
    assert 4800 <= len(wave) <= 4800 + 2048 and wave[1500:3500].mean() > 0.1  # whole packets of a constant wave
