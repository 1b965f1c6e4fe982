import logging
from collections import Counter
from pathlib import Path

import pytest

from mm.data.item import Faults, UnreadableError
from mm.data.talks import Talk, Talks, are_there, gathered, named_speakers, part_of, track_beside
from mm.data.videos import EVERY

NAMES = [f"s{number % 5}/{number}" for number in range(2000)]


def test_speakers_are_those_of_the_talks_in_order():
    who = ("anna", "ben", "anna")
    talks = Talks([Talk(str(k), name, Path("a.wav"), Path("a.mp4")) for k, name in enumerate(who)], ["one line"])
    assert talks.speakers == who and talks.skipped == ("one line",)
    assert talks[1] == ("1", "ben", Path("a.wav"), Path("a.mp4"), None, {})
    assert Talks().speakers == () and Talks().skipped == ()


def parts_of(names, tested=()):
    return {name: part_of(name, name.split("/")[0], tested) for name in names}


def test_one_clip_in_twenty_is_val_and_one_is_test():
    shares = Counter(parts_of(NAMES).values())
    for part in ("val", "test"):
        assert abs(shares[part] / len(NAMES) - 1 / EVERY) < 0.015
    assert shares.total() == len(NAMES) and set(shares) == {"train", "val", "test"}


def test_a_part_follows_the_name_alone():
    assert parts_of(NAMES[::-1]) == parts_of(NAMES)
    assert parts_of([*NAMES, "s0/new"]).items() >= parts_of(NAMES).items()


def test_who_is_tested_on_is_heard_nowhere_else():
    before, after = parts_of(NAMES), parts_of(NAMES, {"s1", "s3"})
    for name in NAMES:
        if name[:2] in ("s1", "s3"):
            assert after[name] == "test"
        else:
            assert after[name] == ("train" if before[name] == "test" else before[name])


def test_speakers_are_named_one_or_several():
    speakers = ["anna", "ben", "carla", "ben"]
    assert named_speakers("", speakers) == set()
    assert named_speakers("ben", speakers) == {"ben"}
    assert named_speakers("carla, anna", speakers) == {"anna", "carla"}
    with pytest.raises(
        ValueError, match=r"unknown speaker 'bem'\. Choose from: anna, ben, carla\. Did you mean 'ben'\?"
    ):
        named_speakers("anna,bem", speakers)
    with pytest.raises(ValueError, match="unknown speaker ''"):
        named_speakers("anna,", speakers)


def test_missing_files_are_an_error_or_a_line(tmp_path):
    here, gone, lost = (tmp_path / name for name in ("here", "gone", "lost"))
    here.touch()
    strict, lenient = Faults("set test", skip=False), Faults("set train", skip=True)
    assert are_there("list:1", strict, here) and are_there("list:1", lenient, here)
    with pytest.raises(UnreadableError, match=r"list:2: .*gone is not there; docs/data\.md says .*skip_bad=true"):
        are_there("list:2", strict, here, gone)
    assert not are_there("list:3", lenient, gone, lost)
    assert len(lenient.lines) == 1 and "gone and" in lenient.lines[0] and "lost are not there" in lenient.lines[0]
    tmp_path.joinpath("folder").mkdir()
    assert not are_there("list:4", lenient, tmp_path / "folder")


def test_a_track_has_the_name_of_its_video(tmp_path):
    face = tmp_path / "a.b.mp4"
    assert track_beside(face) is None
    (tmp_path / "a.json").touch()
    (tmp_path / "a.b.json").touch()
    assert track_beside(face) == tmp_path / "a.b.json"


def test_what_was_left_out_is_kept_and_said(caplog):
    faults = Faults("set train", skip=True)
    faults.add("list:2: lost.mp4 is not there.")
    talk = Talk("a", "anna", Path("a.wav"), Path("a.mp4"))
    with caplog.at_level(logging.WARNING):
        talks = gathered([talk], faults, Path("list"), "train")
    assert talks == [talk] and talks.skipped == ("list:2: lost.mp4 is not there.",)
    assert "set train: left out 1 unreadable rows, the first: list:2" in caplog.text
    with pytest.raises(
        ValueError, match=r"list must hold clips of the split 'train': there is none, 1 having been left"
    ):
        gathered([], faults, Path("list"), "train")
    with pytest.raises(ValueError, match=r"clips of the split 'val': there is none\. Add clips\."):
        gathered([], Faults("set val", skip=False), Path("list"), "val")
