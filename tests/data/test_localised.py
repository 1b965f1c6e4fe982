import json
import logging
import math
import shutil

import pytest

from mm.data.item import UnreadableError
from mm.data.localised import FAULTS, check_boxes, flickr_soundnet, vgg_ss

WHOLE = [0.0, 0.0, 1.0, 1.0]
SOUND = [0.25, 0.125, 0.75, 0.5]


# Boxes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boxes", "kinds"),
    [
        ([[SOUND]], set()),
        ([[WHOLE], [SOUND, [0, 0, 1, 1]], []], set()),
        ([[SOUND, [-0.1, 0.2, 0.5, 0.5]]], {"outside"}),
        ([[[0.1, 0.2, 0.5, 1.01]]], {"outside"}),
        ([[SOUND], [[0.5, 0.2, 0.4, 0.5]]], {"inverted"}),
        ([[SOUND, [0.1, 0.5, 0.4, 0.2]]], {"inverted"}),
        ([[SOUND, [0.1, 0.2, 0.1, 0.5]]], {"empty"}),
        ([[SOUND, [0.1, 0.2, 0.3, 0.2]]], {"empty"}),
        ([[[0.1, 0.2, 0.1, 0.5]]], {"empty", "none"}),
        ([[[0.5, 0.2, -3.0, 0.5]]], {"outside", "inverted", "none"}),
        ([[], []], {"none"}),
        ([], {"none"}),
    ],
)
def test_check_boxes_names_each_kind_of_fault(boxes, kinds):
    found = check_boxes(boxes, "a.jpg")
    assert set(found) == kinds <= set(FAULTS)
    assert all(message.startswith("a.jpg") and FAULTS[kind] in message for kind, message in found.items())


def test_the_message_tells_which_box_it_is():
    found = check_boxes([[SOUND], [SOUND, [0.5, 0.2, 1.5, 0.5], [0.5, 0.2, 2.5, 0.5]]], "a.jpg")
    assert found["outside"] == "a.jpg: box 2 of annotator 2 leaves the picture, which is 0 to 1: [0.5, 0.2, 1.5, 0.5]."


@pytest.mark.parametrize("box", [[0, 0, 1], [0, 0, 1, math.nan], [0, 0, 1, math.inf], "abcd", 3, [0, 0, 1, True], None])
def test_what_is_no_box_at_all(box):
    with pytest.raises(ValueError, match=r"a\.jpg: box 1 of annotator 1 must be four finite numbers, left, top, right"):
        check_boxes([[box]], "a.jpg")


# VGG-SS -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def vggss(tmp_path, jpeg, sound):
    """Three marked clips, and VGGSound with the first of them, another clip of its video, and 40 videos of train."""
    rows = [
        {"file": "a_b-c_d-e_f_000030", "class": "elk bugling", "bbox": [SOUND, [0.5, 0.5, 1.0, 1.0]]},
        {"file": "bbbbbbbbbbb_000000", "class": "rain", "bbox": [WHOLE]},
        {"file": "ccccccccccc_000110", "class": "rain", "bbox": [[0, 0.25, 1, 1.0]]},
    ]
    (tmp_path / "vggss").mkdir()
    (tmp_path / "vggss" / "vggss.json").write_text(json.dumps(rows))
    for row in rows:
        jpeg(tmp_path / "vggss" / "frames" / f"{row['file']}.jpg")
        sound(tmp_path / "vggss" / "audio" / f"{row['file']}.wav")
    folder = tmp_path / "vggsound"
    (folder / "video").mkdir(parents=True)
    clips = [("a_b-c_d-e_f", 30, "test"), ("a_b-c_d-e_f", 90, "train")]
    clips += [(f"train{k:06d}", 10, "train") for k in range(40)]
    (folder / "vggsound.csv").write_text("".join(f"{video},{start},rain,{split}\n" for video, start, split in clips))
    for video, start, _ in clips:
        (folder / "video" / f"{video}_{start:06d}.mp4").touch()
    return tmp_path


def rewrite(root, change):
    file = root / "vggss" / "vggss.json"
    rows = json.loads(file.read_text())
    change(rows)
    file.write_text(json.dumps(rows))


def test_vggss(vggss, caplog):
    with caplog.at_level(logging.WARNING):
        first, second, third = vgg_ss(vggss, "test")
    assert not caplog.text
    assert first.id == "a_b-c_d-e_f_000030" and first.owner == "a_b-c_d-e_f"
    assert first.image == (vggss / "vggss" / "frames" / "a_b-c_d-e_f_000030.jpg",)
    assert first.audio == (vggss / "vggss" / "audio" / "a_b-c_d-e_f_000030.wav",)
    assert first.meta == {"category": "elk bugling", "boxes": [[SOUND, [0.5, 0.5, 1.0, 1.0]]]}
    assert second.meta["boxes"] == [[WHOLE]] and third.meta["boxes"] == [[[0, 0.25, 1, 1.0]]]
    assert json.loads(json.dumps(first.meta)) == first.meta


def test_vggss_trains_on_videos_that_it_does_not_test_on(vggss, caplog):
    with caplog.at_level(logging.WARNING):
        train, val, test = (vgg_ss(vggss, split) for split in ("train", "val", "test"))
    assert "1 clips of videos that are tested on are left out" in caplog.text
    owners = [{item.owner for item in items} for items in (train, val, test)]
    assert [len(found) for found in owners] == [38, 2, 3]
    assert not owners[0] & owners[1] and not owners[2] & (owners[0] | owners[1])
    assert all("boxes" not in item.meta and item.meta["category"] == "rain" for item in [*train, *val])
    assert [item.id for item in vgg_ss(vggss, "val")] == [item.id for item in val]


def test_vggss_keeps_the_faulty_boxes_of_the_published_set_and_counts_them(vggss, caplog):
    def change(rows):
        rows[0]["bbox"][0][2] = -2.8823037615171176e16  # as in twelve published rows
        rows[1]["bbox"] = [[0.0, 0.5, 0.0, 1.0]]
        rows[2]["bbox"].append([0.5, 0.5, 0.5, 1.0])

    rewrite(vggss, change)
    with caplog.at_level(logging.WARNING):
        items = vgg_ss(vggss, "test")
    assert len(items) == 3 and items[0].meta["boxes"][0][0][2] == -2.8823037615171176e16
    lines = sorted(record.getMessage() for record in caplog.records)
    assert lines == [
        f"vggss test: 1 of 3 rows: has a box that {FAULTS['inverted']}; kept as published: a_b-c_d-e_f_000030",
        "vggss test: 1 of 3 rows: has a box that leaves the picture; kept as published: a_b-c_d-e_f_000030",
        "vggss test: 1 of 3 rows: has no box with an area; kept as published: bbbbbbbbbbb_000000",
        "vggss test: 2 of 3 rows: has a box that has no width or no height; kept as published: "
        "bbbbbbbbbbb_000000, ccccccccccc_000110",
    ]


@pytest.mark.parametrize(("kind", "suffix"), [("frames", "jpg"), ("audio", "wav")])
def test_a_missing_file_of_the_test_is_never_skipped(vggss, kind, suffix):
    (vggss / "vggss" / kind / f"bbbbbbbbbbb_000000.{suffix}").unlink()
    with pytest.raises(
        UnreadableError,
        match=rf"vggss\.json: bbbbbbbbbbb_000000: .*{kind}.bbbbbbbbbbb_000000\.{suffix} is not there; docs/data\.md",
    ):
        vgg_ss(vggss, "test", skip_bad=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.append(dict(rows[0])), r"entry 3: the clip a_b-c_d-e_f_000030 comes twice"),
        (lambda rows: rows[1].pop("bbox"), r'entry 1 must be \{"file": id_start'),
        (lambda rows: rows.append("x"), "entry 3 must be"),
        (lambda rows: rows[1].update({"class": 3}), "entry 1 must be"),
        (lambda rows: rows.clear(), "must be a list .* at least one"),
        (
            lambda rows: rows[2]["bbox"].append([0, 1]),
            r"ccccccccccc_000110: box 2 .* four finite numbers.*got \[0, 1\]",
        ),
        (lambda rows: rows[2].update(bbox=[0, 0, 1, 1]), "four finite numbers"),
    ],
)
def test_rows_that_are_not_of_the_published_form(vggss, change, message):
    rewrite(vggss, change)
    with pytest.raises(ValueError, match=message):
        vgg_ss(vggss, "test")


def test_vggss_that_is_not_there(vggss):
    shutil.rmtree(vggss / "vggsound")
    with pytest.raises(FileNotFoundError, match=r"vggsound must hold vggsound\.csv.*docs/data\.md"):
        vgg_ss(vggss, "train")
    assert len(vgg_ss(vggss, "test")) == 3
    shutil.rmtree(vggss / "vggss" / "audio")
    with pytest.raises(FileNotFoundError, match=r"must hold vggss\.json, frames, audio: audio not found"):
        vgg_ss(vggss, "test")
    with pytest.raises(FileNotFoundError, match=r"must hold vggss\.json: vggss\.json not found"):
        vgg_ss(vggss / "nowhere", "train")
    with pytest.raises(ValueError, match="unknown split"):
        vgg_ss(vggss, "validation")


def test_the_published_boxes(real_data, tmp_path, caplog):
    """All 5,158 rows, with empty files in the place of frames and sounds, which the reader does not open."""
    published = real_data("vggss") / "vggss.json"
    if not published.exists():
        pytest.skip(f"{published} is not there")
    rows = json.loads(published.read_text())
    for kind, suffix in (("frames", "jpg"), ("audio", "wav")):
        (tmp_path / "vggss" / kind).mkdir(parents=True)
        for row in rows:
            (tmp_path / "vggss" / kind / f"{row['file']}.{suffix}").touch()
    shutil.copy(published, tmp_path / "vggss")
    with caplog.at_level(logging.WARNING):
        items = vgg_ss(tmp_path, "test")
    assert len(items) == 5158 and len({item.id for item in items}) == 5158
    assert len({item.owner for item in items}) == 5017 and len({item.meta["category"] for item in items}) == 221
    assert [item.meta["boxes"] for item in items] == [[row["bbox"]] for row in rows]
    assert sum(len(item.meta["boxes"][0]) for item in items) == 5941
    assert sum(len(item.meta["boxes"][0]) > 1 for item in items) == 539
    counts = [int(record.getMessage().split()[2]) for record in caplog.records]
    assert sorted(counts) == [2, 6, 12, 12]  # without area at all, empty, outside, inverted


# Flickr-SoundNet ----------------------------------------------------------------------------------------------------


def annotation(path, annotators):
    """An XML file of the published form: an element per annotator, boxes in pixels of 256 behind a name each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sides = ("xmin", "ymin", "xmax", "ymax")
    inner = ""
    for number, boxes in enumerate(annotators):
        inner += f"<w{number}>"
        for box in boxes:
            edges = "".join(f"<{side}>{edge}</{side}>" for side, edge in zip(sides, box, strict=True))
            inner += f"<bbox><label>object</label>{edges}</bbox>"
        inner += f"</w{number}>"
    path.write_text(f"<annotation><filename>{path.stem}.jpg</filename>{inner}</annotation>")


THREE = [[[64, 32, 192, 128]], [[0, 0, 256, 256]], [[10, 20, 30, 40], [0, 128, 256, 256]]]
SHARES = [[SOUND], [WHOLE], [[10 / 256, 20 / 256, 30 / 256, 40 / 256], [0.0, 0.5, 1.0, 1.0]]]


@pytest.fixture
def flickr(tmp_path, jpeg, sound):
    """Two test pairs, 40 others, of which 100 and 101 are marked too."""
    folder = tmp_path / "flickr_soundnet"
    for name in range(100, 142):
        jpeg(folder / "frames" / f"{name}.jpg")
        sound(folder / "audio" / f"{name}.wav")
    for name in (100, 101, 140, 141):
        annotation(folder / "Annotations" / f"{name}.xml", THREE)
    (folder / "test_list.txt").write_text("141.png\n140.png\n")
    return tmp_path


def test_flickr_soundnet(flickr):
    first, second = flickr_soundnet(flickr, "test")
    folder = flickr / "flickr_soundnet"
    assert first.id == first.owner == "141" and second.id == "140"
    assert first.image == (folder / "frames" / "141.jpg",) and first.audio == (folder / "audio" / "141.wav",)
    assert first.meta == {"boxes": SHARES}


@pytest.mark.parametrize("annotators", [[THREE[0]], [[], THREE[0], []]])
def test_an_annotator_who_marked_nothing_counts(flickr, annotators):
    annotation(flickr / "flickr_soundnet" / "Annotations" / "141.xml", annotators)
    assert flickr_soundnet(flickr, "test")[0].meta == {"boxes": [[SOUND], [], []]}


def test_flickr_soundnet_trains_on_all_other_pairs(flickr):
    train, val, test, trainval = (flickr_soundnet(flickr, split) for split in ("train", "val", "test", "trainval"))
    names = [{item.id for item in items} for items in (train, val, test)]
    assert [len(found) for found in names] == [38, 2, 2] and len(set.union(*names)) == 42
    assert {item.id for item in trainval} == names[0] | names[1]
    marked = {item.id: item.meta for item in trainval if item.meta}
    assert marked == {"100": {"boxes": SHARES}, "101": {"boxes": SHARES}}
    assert [item.id for item in flickr_soundnet(flickr, "val")] == [item.id for item in val]


@pytest.mark.parametrize("content", ["100\n120\n\n141\n", "120.wav\n100.wav\n141.wav", "100,202\r\n120,0\r\n141,5\r\n"])
def test_a_list_of_training_pairs_never_brings_in_the_test(flickr, caplog, content):
    (flickr / "flickr_soundnet" / "train_list.txt").write_text(content)
    with caplog.at_level(logging.WARNING):
        items = flickr_soundnet(flickr, "trainval")
    assert {item.id for item in items} == {"100", "120"}
    assert "train_list.txt: 1 pairs that are tested on are left out" in caplog.text


def test_an_image_without_its_sound(flickr):
    folder = flickr / "flickr_soundnet"
    train = [item.id for item in flickr_soundnet(flickr, "train")]
    (folder / "audio" / f"{train[0]}.wav").unlink()
    (folder / "frames" / f"{train[1]}.jpg").unlink()
    with pytest.raises(UnreadableError, match=rf"flickr_soundnet: {train[0]}: .*audio.{train[0]}\.wav is not there"):
        flickr_soundnet(flickr, "train")
    kept = flickr_soundnet(flickr, "train", skip_bad=True)
    assert [item.id for item in kept] == train[2:] and len(kept.skipped) == 2
    assert f"{train[1]}.jpg is not there" in kept.skipped[1]
    (folder / "audio" / "140.wav").unlink()
    with pytest.raises(UnreadableError, match=r"test_list\.txt: 140: .*140\.wav is not there; docs/data\.md"):
        flickr_soundnet(flickr, "test", skip_bad=True)


@pytest.mark.parametrize(
    ("annotators", "message"),
    [
        ([[[64, 32, 300, 128]]], r"\.xml: box 1 of annotator 1 leaves the picture"),
        ([THREE[0], [[64, 32, 63, 128]]], r"box 1 of annotator 2 has its right edge left of the left one"),
        ([THREE[0], [[64, 32, 64, 128]]], "has no width or no height"),
        ([[], [], []], r"\.xml has no box with an area"),
        ([[["a", 1, 2, 3]]], r"must be an annotation of Flickr-SoundNet: invalid literal .*'a'"),
    ],
)
def test_annotations_at_fault(flickr, annotators, message):
    folder = flickr / "flickr_soundnet" / "Annotations"
    trains = next(item.id for item in flickr_soundnet(flickr, "train") if item.meta)
    for name in (trains, "141"):
        annotation(folder / f"{name}.xml", annotators)
    for split, skip in (("train", False), ("test", True)):
        with pytest.raises(UnreadableError, match=message):
            flickr_soundnet(flickr, split, skip_bad=skip)
    kept = flickr_soundnet(flickr, "train", skip_bad=True)
    assert len(kept) == 37 and len(kept.skipped) == 1 and f"{trains}.xml" in kept.skipped[0]


def test_annotations_that_are_missing_or_damaged(flickr):
    file = flickr / "flickr_soundnet" / "Annotations" / "141.xml"
    file.write_text(file.read_text()[:60])
    with pytest.raises(UnreadableError, match=r"141\.xml must be an annotation of Flickr-SoundNet: "):
        flickr_soundnet(flickr, "test")
    file.write_text("<a><w><bbox><label>x</label><xmin>3</xmin></bbox></w></a>")
    with pytest.raises(UnreadableError, match=r"141\.xml.* must be four finite numbers"):
        flickr_soundnet(flickr, "test")
    file.unlink()
    with pytest.raises(UnreadableError, match=r"141\.xml is not there; docs/data\.md says"):
        flickr_soundnet(flickr, "test")


def test_flickr_soundnet_lists_and_folders(flickr):
    folder = flickr / "flickr_soundnet"
    (folder / "test_list.txt").write_text("141\n141\n")
    with pytest.raises(ValueError, match=r"test_list\.txt: the id 141 comes twice"):
        flickr_soundnet(flickr, "test")
    (folder / "test_list.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"test_list\.txt must hold an id per line"):
        flickr_soundnet(flickr, "train")
    (folder / "test_list.txt").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"must hold test_list\.txt, Annotations, frames, audio: test_list\.txt"
    ):
        flickr_soundnet(flickr, "train")
    with pytest.raises(ValueError, match="unknown split"):
        flickr_soundnet(flickr, "validation")
