import json
from collections import Counter

import numpy as np
import pytest

from mm.data.gallery import stable_id
from mm.data.item import UnreadableError
from mm.data.talking_faces import avspeech, grid, grid_av, lrs, talk_folder, voxceleb
from mm.data.talks import part_of
from mm.media import read_audio
from mm.video import read_tracks, read_video

SPLITS = ("train", "val", "test")


def made(path, content=b"x"):
    """An empty file would be damaged; these are only not what they say they are, for no reader opens a clip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def divided(read, count):
    """The splits of a reader: no clip in two of them, each id once, trainval = train and val; {split: talks}."""
    splits = {split: read(split) for split in SPLITS}
    ids = Counter(talk.id for talks in splits.values() for talk in talks)
    assert set(ids.values()) == {1} and len(ids) == count
    faces = Counter(talk.face for talks in splits.values() for talk in talks)
    assert set(faces.values()) == {1}
    both = read("trainval")
    assert {talk.id for talk in both} == {talk.id for talk in [*splits["train"], *splits["val"]]}
    for talks in splits.values():
        assert talks.speakers == tuple(talk.speaker for talk in talks)
    return splits


def assert_that_val_and_test_never_skip(read, files):
    """Without a file of each split, training may go on and val and test never do."""
    for split in SPLITS:
        file = files(read(split)[0])
        content = file.read_bytes()
        file.unlink()
        with pytest.raises(UnreadableError, match=rf"{file.name}.*is not there.*skip_bad=true"):
            read(split)
        if split == "train":
            kept = read(split, skip_bad=True)
            assert len(kept.skipped) == 1 and file.name in kept.skipped[0]
        else:
            with pytest.raises(UnreadableError, match=rf"{file.name}.*is not there"):
                read(split, skip_bad=True)
        made(file, content)


# grid_av ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_grid_av(tmp_path):
    """Six clips of s1 and two of others, as data/grid_av has them."""
    rows = []
    for number, split in enumerate(("train", "train", "train", "val", "test", "test")):
        words = [["sil", 0.0, 0.9], ["bin", 0.9, 1.1]]
        rows.append({"id": f"s1_bbaf{number}n", "speaker": "s1", "split": split, "sentence": "bin", "words": words})
    for speaker in ("s2", "spkA"):
        row = {"id": f"{speaker}_swiz3n", "speaker": speaker, "split": "unseen_speaker_test", "sentence": "set white"}
        rows.append(row)
    for row in rows:
        for suffix in ("mp4", "ogg"):
            made(tmp_path / "grid_av" / "clips" / f"{row['id']}.{suffix}")
    made(tmp_path / "grid_av" / "index.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_grid_av(small_grid_av):
    splits = divided(lambda split: grid_av(small_grid_av, split), 6)
    assert {split: len(talks) for split, talks in splits.items()} == {"train": 3, "val": 1, "test": 2}
    talk = splits["val"][0]
    clips = small_grid_av / "grid_av" / "clips"
    assert (talk.id, talk.speaker, talk.track) == ("s1_bbaf3n", "s1", None)
    assert (talk.voice, talk.face) == (clips / "s1_bbaf3n.ogg", clips / "s1_bbaf3n.mp4")
    assert talk.meta == {"sentence": "bin", "words": [["sil", 0.0, 0.9], ["bin", 0.9, 1.1]]}


def test_grid_av_of_unseen_speakers(small_grid_av):
    test = grid_av(small_grid_av, "test", "unseen")
    assert test.speakers == ("s2", "spkA") and test[0].meta == {"sentence": "set white"}
    for split in ("train", "val", "trainval"):
        assert grid_av(small_grid_av, split, "unseen") == grid_av(small_grid_av, split)
    with pytest.raises(ValueError, match=r"unknown speaker of grid_av 'unsen'.*Did you mean 'unseen'\?"):
        grid_av(small_grid_av, "train", "unsen")


@pytest.mark.parametrize("suffix", ["mp4", "ogg"])
def test_grid_av_without_a_file(small_grid_av, suffix):
    def read(split, skip_bad=False):
        return grid_av(small_grid_av, split, skip_bad=skip_bad)

    assert_that_val_and_test_never_skip(read, lambda talk: talk.face if suffix == "mp4" else talk.voice)
    (small_grid_av / "grid_av" / "clips" / f"spkA_swiz3n.{suffix}").unlink()
    with pytest.raises(UnreadableError, match=r"index\.jsonl:8: .*spkA"):
        grid_av(small_grid_av, "test", "unseen", skip_bad=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"index\.jsonl:9: a line must be one JSON object: "),
        ("[]", r"index\.jsonl:9: a line must have id, speaker and split: got '\[\]'"),
        ('{"id": 7, "speaker": "s1", "split": "train"}', "a line must have id, speaker and split"),
        ('{"id": "a", "speaker": "s1"}', "a line must have id, speaker and split"),
        ('{"id": "a", "speaker": "s1", "split": "tests"}', r"got 'tests'\. Did you mean 'test'\?"),
        (
            '{"id": "s1_bbaf2n", "speaker": "s1", "split": "val"}',
            r"jsonl:9: a clip must be listed once: line 3 has s1_bbaf2n",
        ),
    ],
)
def test_lines_that_are_not_of_grid_avs_form(small_grid_av, line, message):
    with open(small_grid_av / "grid_av" / "index.jsonl", "a") as file:
        file.write(line + "\n")
    for split in SPLITS:
        with pytest.raises(ValueError, match=message):
            grid_av(small_grid_av, split, skip_bad=True)


def test_grid_av_that_is_not_there(tmp_path, small_grid_av):
    with pytest.raises(FileNotFoundError, match=r"nowhere.grid_av must hold index\.jsonl, clips"):
        grid_av(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match=r"unknown split 'tests'"):
        grid_av(small_grid_av, "tests")
    index = small_grid_av / "grid_av" / "index.jsonl"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(ValueError, match=r"index\.jsonl must hold clips of the split 'val': there is none"):
        grid_av(small_grid_av, "val")


def test_real_grid_av(real_data):
    root = real_data("grid_av").parent
    splits = divided(lambda split: grid_av(root, split), 1000)
    assert [len(splits[split]) for split in SPLITS] == [900, 50, 50]
    assert {speaker for talks in splits.values() for speaker in talks.speakers} == {"s1"}
    unseen = grid_av(root, "test", "unseen")
    assert len(unseen) == 10 and len(set(unseen.speakers)) == 9 and "s1" not in unseen.speakers
    for talk in splits["val"]:
        said, starts, ends = zip(*talk.meta["words"], strict=True)
        assert starts == (0.0, *ends[:-1]) and list(ends) == sorted(ends) and ends[-1] <= 3
        assert [word for word in said if word not in ("sil", "sp")] == talk.meta["sentence"].split()


# GRID ---------------------------------------------------------------------------------------------------------------

GRID_CLIPS = 3 * 40


def grid_folder(root, videos, sounds=None, words=None, suffix="mpg"):
    """Forty clips of s1, s2 and s20 each, in a layout of GRID."""
    for speaker in ("s1", "s2", "s20"):
        for number in range(40):
            clip = f"bb{number:02}ap"
            made(root / "grid" / videos / speaker / f"{clip}.{suffix}")
            if sounds:
                made(root / "grid" / sounds / speaker / f"{clip}.wav")
            if words:
                lines = "0 12250 sil\n12250 19250 set\n19250 27250 white\n27250 30500 sp\n30500 74500 sil\n"
                made(root / "grid" / words / speaker / f"{clip}.align", lines)
    (root / "grid" / "jasagrid.pdf").touch()
    return root


@pytest.mark.parametrize(
    ("videos", "words"), [("", "alignments"), ("", "align"), ("video", "align"), ("video", None), ("", None)]
)
def test_grid_whose_videos_are_heard(tmp_path, videos, words):
    root = grid_folder(tmp_path, videos, None, words)
    splits = divided(lambda split: grid(root, split), GRID_CLIPS)
    for split, talks in splits.items():
        assert {part_of(talk.id, talk.speaker) for talk in talks} == {split}
        for talk in talks:
            assert talk.voice == talk.face == root / "grid" / videos / f"{talk.id}.mpg"
            assert talk.id.startswith(f"{talk.speaker}/") and talk.track is None
            spoken = [["sil", 0.0, 0.49], ["set", 0.49, 0.77], ["white", 0.77, 1.09], ["sp", 1.09, 1.22]]
            spoken += [["sil", 1.22, 2.98]]
            assert talk.meta == ({"sentence": "set white", "words": spoken} if words else {})
    assert [*dict.fromkeys(splits["train"].speakers)] == ["s1", "s2", "s20"]


def test_grid_with_sounds_beside_the_videos(tmp_path):
    root = grid_folder(tmp_path, "video", "audio", suffix="mp4")

    def read(split, skip_bad=False):
        return grid(root, split, skip_bad=skip_bad)

    for talk in read("train"):
        assert talk.face == root / "grid" / "video" / f"{talk.id}.mp4"
        assert talk.voice == root / "grid" / "audio" / f"{talk.id}.wav"
    assert_that_val_and_test_never_skip(read, lambda talk: talk.voice)


def test_the_voice_of_an_mpg_is_its_own_sound_track(tmp_path):
    av = pytest.importorskip("av")
    made(tmp_path / "grid" / "s1" / "bbaf2n.mpg")
    with av.open(str(tmp_path / "grid" / "s1" / "bbaf2n.mpg"), "w") as container:
        track, heard = container.add_stream("mpeg1video", rate=25), container.add_stream("mp2", rate=44100)
        track.width, track.height, track.pix_fmt = 32, 32, "yuv420p"
        for _ in range(25):
            picture = np.full((32, 32, 3), 120, np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(track.encode())
        wave = np.sin(2 * np.pi * 440 * np.arange(44100) / 44100) * 2**14
        frame = av.AudioFrame.from_ndarray(wave.astype(np.int16)[None], format="s16", layout="mono")
        frame.rate = 44100
        container.mux([*heard.encode(frame), *heard.encode()])
    (talk,) = grid(tmp_path, "test" if part_of("s1/bbaf2n", "s1") == "test" else "trainval")
    wave = read_audio(talk.voice, 16000)[4000:12000]
    assert np.abs(np.fft.rfft(wave.numpy())).argmax() == 440 // 2
    frames = read_video(talk.face, grey=True)
    assert frames.pictures.shape == (25, 32, 32) and abs(frames.pictures.mean() - 120) < 8


def test_sounds_beside_zenodos_videos_are_not_read(tmp_path):
    root = grid_folder(tmp_path, "", "audio_25k", "alignments")
    assert all(talk.voice == talk.face for talk in grid(root, "trainval"))


@pytest.mark.parametrize(("speaker", "tested"), [("s20", {"s20"}), ("s1,s20", {"s1", "s20"})])
def test_unseen_speakers_of_grid(tmp_path, speaker, tested):
    root = grid_folder(tmp_path, "")
    splits = divided(lambda split: grid(root, split, speaker), GRID_CLIPS)
    assert set(splits["test"].speakers) == tested and len(splits["test"]) == 40 * len(tested)
    for split in ("train", "val"):
        assert set(splits[split].speakers) == {"s1", "s2", "s20"} - tested
    with pytest.raises(ValueError, match=r"unknown speaker 's21'\. Choose from: s1, s2, s20\. Did you mean 's2"):
        grid(root, "test", "s21")


def test_no_unseen_speaker_of_grid_but_the_one_that_is_left(tmp_path):
    root = grid_folder(tmp_path, "")
    with pytest.raises(ValueError, match="must hold clips of the split 'train': there is none"):
        grid(root, "train", "s1,s2,s20")


@pytest.mark.parametrize("line", ["12250 set", "a b set", "19250 12250 set", "0.0 0.49 set", "-5 10 set", ""])
def test_damaged_alignments(tmp_path, line):
    root = grid_folder(tmp_path, "", words="align")
    for split in SPLITS:
        file = root / "grid" / "align" / f"{grid(root, split)[0].id}.align"
        whole = file.read_text()
        file.write_text(f"0 12250 sil\n{line}\n12250 74500 sil\n")
        for skip_bad in (False, True)[: 1 if split == "train" else 2]:
            with pytest.raises(
                UnreadableError, match=rf"{file.name}:2: a line must be begin, end \(in 1/25000 s\) and"
            ):
                grid(root, split, skip_bad=skip_bad)
        if split == "train":
            before = len(grid(root, "val"))
            assert len(grid(root, "train", skip_bad=True).skipped) == 1 and len(grid(root, "val")) == before
        file.write_text(whole)


def test_a_track_beside_a_video_of_grid(tmp_path):
    root = grid_folder(tmp_path, "video", "audio", "align")
    first, second = grid(root, "test")[:2]
    boxes = made(first.face.with_suffix(".json"))
    assert grid(root, "test")[:2] == [first._replace(track=boxes), second]


def test_a_clip_of_grid_in_two_formats(tmp_path):
    root = grid_folder(tmp_path, "")
    talk = grid(root, "test")[0]
    made(talk.face.with_suffix(".mp4"))
    with pytest.raises(UnreadableError, match=rf"{talk.id}.mpg: the clip {talk.id} must be one video: .*\.mp4 is"):
        grid(root, "test", skip_bad=True)


def test_grid_that_is_not_there(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"grid must hold a folder of videos per speaker, s1 to s34 or video/s1"
    ):
        grid(tmp_path, "train")
    made(tmp_path / "grid" / "s1" / "bbaf2n.jpg")
    with pytest.raises(ValueError, match="must hold clips of the split 'train': there is none"):
        grid(tmp_path, "train")


# LRS2 and LRS3 ------------------------------------------------------------------------------------------------------


@pytest.fixture
def lip_reading(tmp_path):
    """LRS2 with its lists and LRS3 with its folders: two clips of each video, one with a transcript."""

    def clip(place, number):
        made(place.with_name(f"{place.name}.mp4"))
        if number == 0:
            marks = "Conf:  4\n\nWORD START END ASDSCORE\nWE'RE 0.08 0.23 2.1\n"
            made(place.with_name(f"{place.name}.txt"), f"Text:  WE'RE {place.parent.name}\n{marks}")

    two = tmp_path / "lrs2"
    videos = {"train": range(100, 120), "val": range(120, 122), "test": range(122, 125), "pretrain": range(110, 124)}
    for part, numbers in videos.items():
        names = [f"{6330311066473698000 + video}/{clip:05}" for video in numbers for clip in (0, 50)]
        made(two / f"{part}.txt", "".join(f"{name}{' NF' if part == 'test' else ''}\n" for name in names))
        for k, name in enumerate(names):
            clip(two / "mvlrs_v1" / ("pretrain" if part == "pretrain" else "main") / name, k % 2)
    for part, numbers in {"trainval": range(40), "test": range(60, 63), "pretrain": range(62)}.items():
        for video in numbers:
            for k in range(2):
                clip(tmp_path / "lrs3" / part / f"0Fi83BHQs{video:02}" / f"{k + 50001}", k)
    return tmp_path


def test_lrs2(lip_reading):
    splits = divided(lambda split: lrs(lip_reading, split), 2 * 25)
    assert [len(splits[split]) for split in SPLITS] == [40, 4, 6]
    talk = splits["test"][0]
    assert (talk.id, talk.speaker) == ("main/6330311066473698122/00000", "6330311066473698122")
    assert talk.voice == talk.face == lip_reading / "lrs2" / "mvlrs_v1" / f"{talk.id}.mp4" and talk.track is None
    assert talk.meta == {"text": "WE'RE 6330311066473698122"} and splits["test"][1].meta == {}


def test_lrs3_val_is_cut_out_by_its_videos(lip_reading):
    splits = divided(lambda split: lrs(lip_reading, split, "lrs3"), 2 * 43)
    assert [len(splits[split]) for split in SPLITS] == [76, 4, 6]
    owners = {split: set(talks.speakers) for split, talks in splits.items()}
    assert not owners["train"] & owners["val"] and not owners["test"] & (owners["train"] | owners["val"])
    assert owners["val"] == set(sorted(owners["train"] | owners["val"], key=stable_id)[:2])
    talk = splits["test"][0]
    assert (talk.id, talk.speaker) == ("test/0Fi83BHQs60/50001", "0Fi83BHQs60")
    assert talk.voice == talk.face == lip_reading / "lrs3" / f"{talk.id}.mp4"
    assert talk.meta == {"text": "WE'RE 0Fi83BHQs60"}


@pytest.mark.parametrize("name", ["lrs2", "lrs3"])
def test_pretraining_clips_of_videos_that_are_tested_on_are_left_out(lip_reading, name, caplog):
    splits = divided(lambda split: lrs(lip_reading, split, name, pretrain=True), {"lrs2": 70, "lrs3": 202}[name])
    plain = {split: lrs(lip_reading, split, name) for split in SPLITS}
    assert splits["val"] == plain["val"] and splits["test"] == plain["test"]
    more = splits["train"][len(plain["train"]) :]
    assert splits["train"][: len(plain["train"])] == plain["train"]
    assert {talk.id.split("/")[0] for talk in more} == {"pretrain"}
    tested = {*plain["val"].speakers, *plain["test"].speakers}
    held = {talk.parent.name for talk in (lip_reading / name).rglob("pretrain/*/*.mp4")}
    assert {talk.speaker for talk in more} == held - tested and held & tested
    assert f"{2 * len(held & tested)} pretraining clips of videos in val or test are left out" in caplog.text


def test_lrs_clips_that_are_not_there(lip_reading):
    def read(split, skip_bad=False):
        return lrs(lip_reading, split, skip_bad=skip_bad)

    assert_that_val_and_test_never_skip(read, lambda talk: talk.face)
    lrs(lip_reading, "val")[1].face.unlink()
    with pytest.raises(UnreadableError, match=r"val\.txt:2: .*main.6330311066473698120.00050\.mp4 is not there"):
        read("val")


def test_clips_that_are_listed_twice(lip_reading):
    lists = lip_reading / "lrs2"
    for part in ("train", "test"):
        (lists / f"{part}.txt").write_text((lists / f"{part}.txt").read_text() * 2)
    with pytest.raises(UnreadableError, match=r"test\.txt:7: the clip main/6330311066473698122/00000 is listed twice"):
        lrs(lip_reading, "test", skip_bad=True)
    kept = lrs(lip_reading, "train", skip_bad=True)
    assert len(kept) == 40 and len(kept.skipped) == 40


@pytest.mark.parametrize("line", ["00001", "", "a/b/c", "/00001", "6330311066473698100/", " 6330311066473698100/00000"])
def test_lists_of_another_form(lip_reading, line):
    with open(lip_reading / "lrs2" / "val.txt", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=rf"val\.txt:5: a line must begin with VIDEO/CLIP: got '{line}'"):
        lrs(lip_reading, "val")


@pytest.mark.parametrize("name", ["lrs2", "lrs3"])
def test_damaged_transcripts(lip_reading, name):
    for split in SPLITS:
        file = lrs(lip_reading, split, name)[0].face.with_suffix(".txt")
        file.write_text("Conf:  4\n")
        with pytest.raises(
            UnreadableError, match=rf"{file.name}:1: a transcript must begin with 'Text:': got 'Conf:  4"
        ):
            lrs(lip_reading, split, name, skip_bad=split != "train")
        if split == "train":
            assert len(lrs(lip_reading, split, name, skip_bad=True).skipped) == 1


def test_lrs_that_is_not_there(tmp_path, lip_reading):
    with pytest.raises(
        FileNotFoundError, match=r"lrs2 must hold train\.txt, mvlrs_v1/main: train\.txt, mvlrs_v1/main not"
    ):
        lrs(tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match=r"lrs3 must hold trainval, test, pretrain: "):
        lrs(tmp_path / "nowhere", "train", "lrs3", pretrain=True)
    with pytest.raises(FileNotFoundError, match=r"lrs3 must hold test: test not found"):
        lrs(tmp_path / "nowhere", "test", "lrs3", pretrain=True)
    with pytest.raises(ValueError, match=r"unknown set of lip-reading sentences 'lrs4'.*Did you mean 'lrs"):
        lrs(lip_reading, "train", "lrs4")
    (lip_reading / "lrs2" / "val.txt").write_text("")
    with pytest.raises(ValueError, match="must hold clips of the split 'val': there is none"):
        lrs(lip_reading, "val")


# AVSpeech -----------------------------------------------------------------------------------------------------------

NAMINGS = {
    "plain": "{id}_{start:.3f}.mp4",
    "both ends": "{id}_{start:.6f}_{end:.6f}.mp4",
    "three digits": "{id}_{start:.3f}_{end:.3f}.mp4",
    "padded": "{id}_{start:010.6f}-{end:010.6f}.mp4",
    "folder per video": "{id}/{id}_{start:.6f}_{end:.6f}_video.mp4",
    "of another kind": "{id}_{start:.6f}_{end:.6f}.webm",
}


def speech_folder(root, naming):
    """avspeech_train.csv with two clips of each of 40 videos, and avspeech_test.csv with one of each of 3."""
    for part, videos, takes in (("train", 40, 2), ("test", 3, 1)):
        rows = []
        for video in range(videos):
            for take in range(takes):
                start, end, name = 90.123456 + 30 * take, 95 + 30 * take, f"_-{part[:2]}_90_{video:03}"
                rows.append(f"{name},{start:.6f},{end:.6f},0.780469,0.670139\n")
                made(root / "avspeech" / part / naming.format(id=name, start=start, end=end))
        made(root / "avspeech" / f"avspeech_{part}.csv", "".join(rows))
    return root


@pytest.mark.parametrize("naming", NAMINGS.values(), ids=NAMINGS)
def test_avspeech_finds_clips_as_downloaders_name_them(tmp_path, naming):
    root = speech_folder(tmp_path, naming)
    talk = avspeech(root, "test").talks[1]
    start, end = 90.123456, 95.0
    assert talk.voice == talk.face == root / "avspeech" / "test" / naming.format(id="_-te_90_001", start=start, end=end)
    assert (talk.id, talk.speaker) == ("_-te_90_001_90.123", "_-te_90_001")
    assert talk.meta == {"start_s": start, "end_s": end, "centre": [0.780469, 0.670139]} and talk.track is None


def test_avspeech_splits_keep_the_clips_of_a_video_together(tmp_path):
    root = speech_folder(tmp_path, NAMINGS["both ends"])
    splits = divided(lambda split: avspeech(root, split).talks, 83)
    assert [len(splits[split]) for split in SPLITS] == [76, 4, 3]
    owners = {split: set(talks.speakers) for split, talks in splits.items()}
    assert not owners["train"] & owners["val"] and not owners["test"] & (owners["train"] | owners["val"])
    assert owners["val"] == set(sorted(owners["train"] | owners["val"], key=stable_id)[:2])
    talks = avspeech(root, "train")
    assert len(talks) == 76 and talks.speakers == splits["train"].speakers and talks.skipped == ()


def test_avspeech_clips_that_are_gone(tmp_path):
    root = speech_folder(tmp_path, NAMINGS["plain"])

    def read(split, skip_bad=False):
        return avspeech(root, split, skip_bad).talks

    assert_that_val_and_test_never_skip(read, lambda talk: talk.face)
    face = read("test")[2].face
    face.rename(face.with_name("_-te_90_002_91.123.mp4"))  # another second of the video
    with pytest.raises(
        UnreadableError, match=r"avspeech_test\.csv:3: the clip .*_-te_90_002_90\.123\.mp4 is not there"
    ):
        read("test", skip_bad=True)


def test_a_track_of_ones_own_beside_a_clip(tmp_path):
    root = speech_folder(tmp_path, NAMINGS["plain"])
    boxes = avspeech(root, "test").talks[0].face.with_suffix(".json")
    made(boxes, '{"faces": [{"name": "one", "box": [1, 2, 3, 4]}]}')
    assert avspeech(root, "test")[0].track == boxes  # the clip itself is no video and is not opened
    assert read_tracks(boxes)["one"].boxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    "row",
    [
        "youtube_id,start,end,x,y",
        "_-te_90_003,90.0,95.0,0.5",
        "_-te_90_003,90.0,95.0,0.5,0.5,0.5",
        "_-te_90_03,90.0,95.0,0.5,0.5",
        "_-te_90_003,90.0,90.0,0.5,0.5",
        "_-te_90_003,-1.0,90.0,0.5,0.5",
        "_-te_90_003,90.0,95.0,nan,0.5",
        "_-te_90_003,90.0,95.0,0.5,",
    ],
)
def test_rows_that_are_not_of_avspeechs_form(tmp_path, row):
    root = speech_folder(tmp_path, NAMINGS["plain"])
    with open(root / "avspeech" / "avspeech_train.csv", "a") as file:
        file.write(f"\n{row}\n")
    with pytest.raises(ValueError, match=rf"avspeech_train\.csv:82: a row must be: YouTube id, .*Got '{row}'"):
        avspeech(root, "train", skip_bad=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{video},90.123456,95.0,0.5,0.5", "the clip {video}_90.123 is listed twice"),
        ("{video},99.5,103.5,1.01,0.5", r"a face's centre must lie in the frame, which is 0 to 1: got 1\.01, 0\.5"),
    ],
)
def test_rows_of_avspeech_that_are_at_fault(tmp_path, row, message):
    root = speech_folder(tmp_path, NAMINGS["plain"])
    for split in SPLITS:
        video = avspeech(root, split).speakers[0]
        table = root / "avspeech" / f"avspeech_{'test' if split == 'test' else 'train'}.csv"
        whole = table.read_text()
        table.write_text(whole + row.format(video=video) + "\n")
        line = len(whole.splitlines()) + 1
        with pytest.raises(UnreadableError, match=rf"{table.name}:{line}: {message.format(video=video)}"):
            avspeech(root, split, skip_bad=split != "train")
        if split == "train":
            kept = avspeech(root, split, skip_bad=True)
            assert len(kept) == 76 and len(kept.skipped) == 1
        table.write_text(whole)


def test_avspeech_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"avspeech must hold avspeech_train\.csv, train: "):
        avspeech(tmp_path, "val")
    with pytest.raises(FileNotFoundError, match=r"avspeech must hold avspeech_test\.csv, test: "):
        avspeech(tmp_path, "test")
    made(tmp_path / "avspeech" / "avspeech_test.csv", "")
    (tmp_path / "avspeech" / "test").mkdir()
    with pytest.raises(ValueError, match="must hold clips of the split 'test': there is none"):
        avspeech(tmp_path, "test")


# VoxCeleb2 ----------------------------------------------------------------------------------------------------------


def celebrities(root, sounds):
    """Three clips of each of 40 speakers in dev and of 3 in test."""
    for part, numbers in (("dev", range(12, 52)), ("test", range(17, 5000, 2000))):
        for number in numbers:
            for clip in ("21Uxsk56VDQ/00001", "21Uxsk56VDQ/00002", "_lmvY4AiroM/00121"):
                place = f"id{number if part == 'dev' else number + 100:05}/{clip}"
                made(root / "voxceleb2" / part / "mp4" / f"{place}.mp4")
                if sounds:
                    made(root / "voxceleb2" / part / "aac" / f"{place}.m4a")
    return root


@pytest.mark.parametrize("sounds", [True, False])
def test_voxceleb(tmp_path, sounds):
    root = celebrities(tmp_path, sounds)
    splits = divided(lambda split: voxceleb(root, split), 3 * 43)
    assert [len(splits[split]) for split in SPLITS] == [3 * 38, 3 * 2, 3 * 3]
    who = {split: set(talks.speakers) for split, talks in splits.items()}
    assert not who["train"] & who["val"] and not who["test"] & (who["train"] | who["val"])
    assert who["val"] == set(sorted(who["train"] | who["val"], key=stable_id)[:2])
    talk = splits["test"][0]
    assert (talk.id, talk.speaker) == ("id00117/21Uxsk56VDQ/00001", "id00117")
    assert talk.meta == {"video": "21Uxsk56VDQ"} and talk.track is None
    folder = root / "voxceleb2" / "test"
    assert talk.face == folder / "mp4" / f"{talk.id}.mp4"
    assert talk.voice == (folder / "aac" / f"{talk.id}.m4a" if sounds else talk.face)


def test_voxceleb_videos_without_their_sound(tmp_path):
    root = celebrities(tmp_path, True)
    assert_that_val_and_test_never_skip(
        lambda split, skip_bad=False: voxceleb(root, split, skip_bad), lambda talk: talk.voice
    )


def test_voxceleb_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"voxceleb2 must hold dev/mp4: dev/mp4 not found"):
        voxceleb(tmp_path, "val")
    (tmp_path / "voxceleb2" / "test" / "mp4").mkdir(parents=True)
    with pytest.raises(ValueError, match="must hold clips of the split 'test': there is none"):
        voxceleb(tmp_path, "test")


# A folder of your own -----------------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path):
    """A hundred clips of two speakers each, some in a folder below theirs, and a hundred of people seen once."""
    for number in range(100):
        made(tmp_path / "own" / "anna" / f"{number}.mp4")
        made(tmp_path / "own" / "ben" / f"day {number % 2}" / f"{number}.{('mpg', 'MOV', 'webm')[number % 3]}")
        made(tmp_path / "own" / f"guest {number}.mp4")
    made(tmp_path / "own" / "notes.txt")
    return tmp_path / "own"


def test_a_folder_of_talks(own):
    splits = divided(lambda split: talk_folder(own, split), 300)
    for split, talks in splits.items():
        assert {part_of(talk.id, talk.speaker) for talk in talks} == {split}
        for talk in talks:
            assert talk.voice == talk.face == own / talk.id and talk.track is None and talk.meta == {}
            assert talk.speaker == talk.id.split("/")[0]
    counts = Counter(speaker for talks in splits.values() for speaker in talks.speakers)
    assert counts.pop("anna") == counts.pop("ben") == 100 and set(counts.values()) == {1} and len(counts) == 100


def test_unseen_speakers_of_a_folder(own):
    splits = divided(lambda split: talk_folder(own, split, "ben,guest 7.mp4"), 300)
    assert Counter(splits["test"].speakers) == {"ben": 100, "guest 7.mp4": 1}
    with pytest.raises(ValueError, match=r"unknown speaker 'bem'.*Did you mean 'ben'\?"):
        talk_folder(own, "train", "bem")


def test_sounds_and_tracks_beside_videos(own):
    face = talk_folder(own, "train")[0].face
    for suffix in (".ogg", ".flac", ".wav"):  # each in turn goes before those that are there
        sound = made(face.with_suffix(suffix))
        talk = talk_folder(own, "train")[0]
        assert (talk.face, talk.voice, talk.track) == (face, sound, None)
    boxes = made(face.with_suffix(".json"))
    assert talk_folder(own, "train")[0].track == boxes


def test_vectors_in_the_place_of_videos(tmp_path):
    folder = tmp_path / "vectors"
    for number in range(60):
        made(folder / "anna" / f"{number}.npy")
        made(folder / "anna" / f"{number}.flac")
    for split, talks in divided(lambda split: talk_folder(folder, split), 60).items():
        assert all(talk.voice == talk.face.with_suffix(".flac") for talk in talks), split

    talk = talk_folder(folder, "test")[0]
    video = made(talk.face.with_suffix(".mp4"))  # is the face where both are there
    faces = {talk.face for split in SPLITS for talk in talk_folder(folder, split)}
    assert video in faces and talk.face not in faces
    video.unlink()
    talk.voice.unlink()
    with pytest.raises(
        UnreadableError, match=rf"{talk.face.name} must have a sound beside it, {talk.face.stem}\.wav, for"
    ):
        talk_folder(folder, "test", skip_bad=True)
    talk_folder(folder, "train")[0].voice.unlink()
    assert len(talk_folder(folder, "train", skip_bad=True).skipped) == 1


def test_empty_files_of_a_folder(own):
    for split in SPLITS:
        face = talk_folder(own, split)[1].face
        for file in (made(face.with_suffix(".wav")), face):
            file.write_bytes(b"")
            with pytest.raises(UnreadableError, match=rf"{file.name} must not be empty\."):
                talk_folder(own, split, skip_bad=split != "train")
            if split == "train":
                assert len(talk_folder(own, split, skip_bad=True).skipped) == 1
            file.write_bytes(b"x")


def test_folders_without_talks(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere must be a folder of videos: there is none of this name"):
        talk_folder(tmp_path / "nowhere", "train")
    made(tmp_path / "a.wav")
    with pytest.raises(FileNotFoundError, match=r"holds no video: looked for \.avi, \.mkv, \.mov, \.mp4, \.mpg, \.npy"):
        talk_folder(tmp_path, "train")
    made(tmp_path / "a.mp4")
    empty = next(split for split in SPLITS if part_of("a.mp4", "a.mp4") != split)
    with pytest.raises(ValueError, match=f"must hold clips of the split '{empty}': there is none"):
        talk_folder(tmp_path, empty)
    with pytest.raises(ValueError, match="unknown split"):
        talk_folder(tmp_path, "validation")
