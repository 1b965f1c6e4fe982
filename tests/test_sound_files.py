import itertools
import logging

import numpy as np
import pytest
import soundfile
import torch

from mm.media import MediaError, read_audio
from mm.sound_files import SoundFiles, sound_blocks, write_audio
from tests.videos import flat, video

RATE = 16000


def tone(seconds=0.5, rate=RATE, hz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def speechlike(seconds, rate, seed=0):
    """Noise of every pitch that swells and fades."""
    count = round(seconds * rate)
    swell = 0.5 + 0.5 * np.sin(np.arange(count) / rate * 9)
    return 0.2 * swell * np.random.default_rng(seed).normal(size=count).clip(-4, 4)


# Reading ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rate", "options"),
    [
        ("a.wav", 16000, {"subtype": "PCM_U8"}),
        ("a.wav", 44100, {"subtype": "PCM_24"}),
        ("a.wav", 8000, {"subtype": "FLOAT"}),
        ("a.flac", 48000, {}),
        ("a.ogg", 22050, {}),
        ("a.mp3", 44100, {}),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_joined_are_the_sound(tmp_path, name, rate, options, channels):
    left = speechlike(4.3, rate)
    wave = left if channels == 1 else np.stack([left, speechlike(4.3, rate, 1)], axis=1)
    soundfile.write(tmp_path / name, wave, rate, **options)
    for sample_rate, seconds in itertools.product((RATE, 8000, 44100), (0.01, 1.0, 60.0)):
        whole = read_audio(tmp_path / name, sample_rate)
        blocks = list(sound_blocks(tmp_path / name, sample_rate, seconds))
        assert {len(block) for block in blocks[:-1]} <= {round(seconds * sample_rate)}
        assert 0 < len(blocks[-1]) <= round(seconds * sample_rate)
        assert all(block.dtype == torch.float32 for block in blocks)
        torch.testing.assert_close(torch.cat(blocks), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 37, 100, 1000, 65535, 65536, 65537, 131072])
def test_sounds_of_any_length_keep_it(tmp_path, count):
    wave = speechlike(10, RATE)[:count]
    for rate, sample_rate in [(RATE, RATE), (44100, RATE), (8000, RATE), (RATE, 8000), (48000, 11025), (8000, 48000)]:
        soundfile.write(tmp_path / "a.wav", wave, rate, subtype="FLOAT")
        joined = torch.cat(list(sound_blocks(tmp_path / "a.wav", sample_rate, 0.5)))
        torch.testing.assert_close(joined, read_audio(tmp_path / "a.wav", sample_rate), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.m4a"])
def test_the_sound_of_a_video_in_blocks(tmp_path, name):
    path = video(tmp_path / "v.mp4", flat(50), sound=speechlike(2.0, RATE))
    if name == "a.m4a":
        path = path.rename(tmp_path / name)
    else:
        path = video(tmp_path / name, flat(50), sound=speechlike(2.0, RATE))
    for sample_rate in (RATE, 22050):
        joined = torch.cat(list(sound_blocks(path, sample_rate, 0.1)))
        torch.testing.assert_close(joined, read_audio(path, sample_rate), rtol=0, atol=1e-4)


def test_blocks_come_before_the_rest_is_read(tmp_path):
    """An hour with a fault at its end: what is before it comes first, then the fault is told."""
    path = tmp_path / "hour.wav"
    hour = 3600 * 800
    with soundfile.SoundFile(path, "w", 800, 1, "FLOAT") as file:
        for _ in range(100):
            file.write(tone(36, 800, hz=3))
        file.write(np.array([0.1, np.nan], np.float32))
    count = 0
    with pytest.raises(MediaError, match=rf"hour\.wav has NaN or infinity at sample {hour + 1}"):
        for block in sound_blocks(path, 800, 30.0):
            assert np.abs(block.numpy() - tone(30, 800, hz=3)).max() < 1e-3  # whole periods
            count += 1
    assert count == hour // 65536 * 65536 // 24000


def test_what_cannot_be_read_in_blocks(tmp_path):
    def read(name, sample_rate=RATE, seconds=0.1):
        return list(sound_blocks(tmp_path / name, sample_rate, seconds))

    with pytest.raises(FileNotFoundError, match=r"no audio file .*none\.wav"):
        read("none.wav")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(MediaError, match=r"empty\.wav must hold at least one sample"):
        read("empty.wav")
    soundfile.write(tmp_path / "a.wav", tone(9.0), RATE)
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=r"cannot read .*a\.wav: it is cut off"):
        read("a.wav")
    video(tmp_path / "mute.mp4", flat(5))
    with pytest.raises(MediaError, match=r"cannot read .*mute\.mp4: it has no sound track"):
        read("mute.mp4")
    video(tmp_path / "cut.mp4", flat(50), sound=tone(2.0), head={"movflags": "faststart"})
    whole = (tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: int(len(whole) * 0.8)])
    with pytest.raises(MediaError, match=r"cannot read .*cut\.mp4: it is cut off"):
        read("cut.mp4")
    for sample_rate, seconds in ((0, 1.0), (RATE, 0.0), (RATE, 1e-5), (RATE, -1.0)):
        with pytest.raises(ValueError, match="a block needs a sample at least"):
            read("a.wav", sample_rate, seconds)


# Writing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_written_sounds_come_back(tmp_path, name):
    wave = torch.from_numpy(tone(level=1.0))
    write_audio(tmp_path / name, wave, RATE)
    torch.testing.assert_close(read_audio(tmp_path / name, RATE), wave, rtol=0, atol=4e-5)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_float_files_keep_every_bit(tmp_path):
    wave = torch.randn(999) * 3
    write_audio(tmp_path / "a.wav", wave, RATE, float_samples=True)
    assert torch.equal(read_audio(tmp_path / "a.wav", RATE), wave)


@pytest.mark.parametrize(
    ("name", "wave", "options", "message"),
    [
        ("a.wav", np.array([0.5, -1.2]), {}, r"16-bit samples must lie in \[-1, 1\]: the peak is 1.2"),
        ("a.mp3", tone(), {}, r"written as \.wav or, in 16 bits, as \.flac: got 'a\.mp3'"),
        ("a.flac", tone(), {"float_samples": True}, "got 'a.flac'"),
        ("a.wav", np.zeros((2, 5)), {}, r"must be \(T,\) finite samples, T >= 1: got the shape \(2, 5\)"),
        ("a.wav", np.zeros(0), {}, "T >= 1"),
        ("a.wav", np.array([np.nan]), {}, "finite samples"),
    ],
)
def test_bad_writes_leave_the_old_file(tmp_path, name, wave, options, message):
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        write_audio(tmp_path / name, wave, RATE, **options)
    assert (tmp_path / name).read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", tone(), RATE)
    old = (tmp_path / "a.wav").read_bytes()

    def full_disk(file, *rest, **options):
        file.write_bytes(b"RIFF")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(soundfile, "write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_audio(tmp_path / "a.wav", tone(hz=200), RATE)
    assert (tmp_path / "a.wav").read_bytes() == old and len(list(tmp_path.iterdir())) == 1


def blocks_of(waves, size):
    return [waves[:, at : at + size] for at in range(0, waves.shape[1], size)]


@pytest.mark.parametrize("size", [1, 7, 160, 65536, 200000])
def test_files_are_written_block_by_block(tmp_path, size):
    waves = np.stack([speechlike(9.0, RATE), speechlike(9.0, RATE, 1)])[:, : max(size * 50, 2000)]
    names = [tmp_path / "new" / "left.wav", tmp_path / "new" / "right.WAV"]
    with SoundFiles(names, RATE) as files:
        for block in blocks_of(waves, size):
            files.write(torch.from_numpy(block) if size % 2 else block)
        assert not any(path.exists() for path in names)
    assert files.factor == 1
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["left.wav", "right.WAV"]
    for path, wave in zip(names, waves, strict=True):
        told = soundfile.info(path)
        assert (told.samplerate, told.channels, told.subtype, told.format) == (RATE, 1, "PCM_16", "WAV")
        assert np.abs(soundfile.read(path)[0] - wave).max() <= 4e-5


def test_a_loud_sample_scales_all_files_by_one_factor(tmp_path, caplog):
    waves = np.stack([tone(1.0, level=0.5), tone(1.0, hz=300, level=0.9), np.zeros(RATE)])
    waves[1, 12345] = -2.5
    names = [tmp_path / f"{k}.wav" for k in range(3)]
    with caplog.at_level(logging.WARNING), SoundFiles(names, RATE) as files:
        for block in blocks_of(waves, 1000):
            files.write(block)
    assert files.factor == pytest.approx(1 / 2.5, rel=1e-6)
    assert "the peak is 2.500" in caplog.text and "0.wav and 2 written with it are scaled by 0.400" in caplog.text
    for path, wave in zip(names, waves, strict=True):
        assert np.abs(soundfile.read(path)[0] - wave / 2.5).max() <= 4e-5
    assert soundfile.read(names[1], dtype="int16")[0].min() == -32768  # reached, not passed


def test_a_peak_of_one_is_kept(tmp_path):
    with SoundFiles([tmp_path / "a.wav"], RATE) as files:
        files.write(np.array([[1.0, -1.0, 0.5]]))
    assert files.factor == 1
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [32767, -32768, 16384]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (np.zeros((3, 10)), r"a block must be \(2, t\) finite samples: got the shape \(3, 10\)"),
        (np.zeros(10), r"got the shape \(10,\)"),
        (np.array([[0.0], [np.nan]]), r"got the shape \(2, 1\)"),
        (torch.tensor([[0.0], [float("inf")]]), r"got the shape \(2, 1\)"),
    ],
)
def test_a_bad_block_leaves_nothing_behind(tmp_path, block, message):
    (tmp_path / "a.wav").write_bytes(b"old")
    with (
        pytest.raises(ValueError, match=message),
        SoundFiles([tmp_path / "a.wav", tmp_path / "b.wav"], RATE) as files,
    ):
        files.write(np.zeros((2, 100)))
        files.write(block)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"] and (tmp_path / "a.wav").read_bytes() == b"old"


def test_whatever_is_raised_leaves_nothing_behind(tmp_path):
    for error in (KeyboardInterrupt, MediaError):
        with pytest.raises(error), SoundFiles([tmp_path / "new" / "a.wav"], RATE) as files:
            files.write(np.zeros((1, 100)))
            raise error
        assert list((tmp_path / "new").iterdir()) == []
    with (
        pytest.raises(ValueError, match=r"one sample at least: got none for .*a\.wav"),
        SoundFiles([tmp_path / "a.wav"], 8),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_full_disk_leaves_the_old_files(tmp_path, monkeypatch):
    (tmp_path / "b.wav").write_bytes(b"old")
    count = 0
    write = soundfile.SoundFile.write

    def full_disk(self, data):
        nonlocal count
        count += 1
        if count == 2:
            raise OSError(28, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(soundfile.SoundFile, "write", full_disk)
    with (
        pytest.raises(OSError, match="No space left"),
        SoundFiles([tmp_path / "a.wav", tmp_path / "b.wav"], RATE) as files,
    ):
        files.write(np.zeros((2, 100)))
    assert [path.name for path in tmp_path.iterdir()] == ["b.wav"] and (tmp_path / "b.wav").read_bytes() == b"old"


@pytest.mark.parametrize("names", [[], ["a.flac"], ["a.wav", "a.wav"], ["a.wav", "new/../a.wav"], ["a"]])
def test_names_that_sounds_cannot_have(tmp_path, names):
    with pytest.raises(ValueError, match=r"different \.wav files, one at least: got .*Rename them"):
        SoundFiles([tmp_path / name for name in names], RATE)


def test_more_than_a_wav_can_hold(tmp_path, monkeypatch):
    monkeypatch.setattr("mm.sound_files.WAV_SAMPLES", 150)
    with pytest.raises(ValueError, match=r"holds 150 samples at most"), SoundFiles([tmp_path / "a.wav"], RATE) as files:
        files.write(np.zeros((1, 100)))
        files.write(np.zeros((1, 51)))
    assert list(tmp_path.iterdir()) == []
