import pytest

from mm.data import UnreadableError, audiocaps, clotho


@pytest.fixture
def caps(tmp_path, sound):
    folder = tmp_path / "audiocaps"
    head = "audiocap_id,youtube_id,start_time,caption\n"
    for split in ("train", "val", "test"):
        sound(folder / "audio" / split / "abc_30.wav")
        sound(folder / "audio" / split / "-x_y_0.flac")
        rows = '1,abc,30,"Rain falls, then thunder"\n2,-x_y,0,A man speaks\n'
        more = "3,abc,30,Thunder in the rain\n" if split != "train" else ""
        (folder / f"{split}.csv").write_text(head + rows + more)
    return tmp_path


def test_audiocaps_gathers_the_captions_of_a_clip(caps):
    first, second = audiocaps(caps, "test")
    assert first.id == first.owner == "abc_30" and first.text == ("Rain falls, then thunder", "Thunder in the rain")
    assert first.audio == (caps / "audiocaps" / "audio" / "test" / "abc_30.wav",)
    assert second.audio[0].name == "-x_y_0.flac" and second.meta == {"youtube_id": "-x_y", "start_time": "0"}
    assert [len(item.text) for item in audiocaps(caps, "train")] == [1, 1]


def test_a_clip_that_is_gone(caps):
    for split in ("train", "test"):
        (caps / "audiocaps" / "audio" / split / "abc_30.wav").unlink()
    with pytest.raises(UnreadableError, match=r"train\.csv:2: the clip .*abc_30\.\* is not there.*skip_bad"):
        audiocaps(caps, "train")
    kept = audiocaps(caps, "train", skip_bad=True)
    assert [item.id for item in kept] == ["-x_y_0"] and len(kept.skipped) == 1
    with pytest.raises(UnreadableError, match=r"test\.csv:2"):
        audiocaps(caps, "test", skip_bad=True)


def test_audiocaps_errors(caps):
    table = caps / "audiocaps" / "val.csv"
    table.write_text("audiocap_id,youtube_id,start_time,captions\n1,abc,30,x\n")
    with pytest.raises(ValueError, match=r"'caption' is missing. Did you mean 'captions'\?"):
        audiocaps(caps, "val")
    table.write_text("audiocap_id,youtube_id,start_time,caption\n1,abc,30,\n")
    with pytest.raises(UnreadableError, match=r"val\.csv:2: the caption of abc_30 is empty"):
        audiocaps(caps, "val")
    with pytest.raises(FileNotFoundError, match=r"audiocaps must hold train\.csv, audio/train"):
        audiocaps(caps / "nowhere", "train")


@pytest.fixture
def small_clotho(tmp_path, sound):
    for k, part in enumerate(("development", "validation", "evaluation")):
        folder = tmp_path / "clotho"
        sound(folder / part / f"Wind {k}, strong.wav")
        captions = ",".join(f"caption {n} of {part}" for n in range(1, 6))
        head = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5\n"
        (folder / f"clotho_captions_{part}.csv").write_text(f'{head}"Wind {k}, strong.wav",{captions}\n')
    return tmp_path


def test_clotho_parts_are_the_splits(small_clotho):
    for k, (split, part) in enumerate((("train", "development"), ("val", "validation"), ("test", "evaluation"))):
        (item,) = clotho(small_clotho, split)
        assert item.id == f"{part}/Wind {k}, strong.wav" and item.audio == (small_clotho / "clotho" / item.id,)
        assert item.text == tuple(f"caption {n} of {part}" for n in range(1, 6))
    assert len(clotho(small_clotho, "trainval")) == 2


def test_clotho_errors(small_clotho):
    table = small_clotho / "clotho" / "clotho_captions_evaluation.csv"
    good = table.read_text()
    table.write_text(good.replace("caption 4 of evaluation", " "))
    with pytest.raises(UnreadableError, match=r"caption_4 of Wind 2, strong\.wav is empty"):
        clotho(small_clotho, "test")
    table.write_text(good.replace("Wind 2", "Wind 9"))
    with pytest.raises(UnreadableError, match=r"Wind 9, strong\.wav is not there"):
        clotho(small_clotho, "test")
    with pytest.raises(FileNotFoundError, match=r"clotho_captions_development\.csv, development not found"):
        clotho(small_clotho / "nowhere", "train")
