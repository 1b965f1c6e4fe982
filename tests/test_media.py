import re
import struct
import sys
import zlib

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mm.media import PIXEL_LIMIT, VIEWS, MediaError, read_audio, read_image, view_of
from mm.sound_files import write_audio
from mm.video import read_video

RATE = 16000


@pytest.fixture
def pixels():
    """(48, 64, 3) uint8: smooth, so that JPEG keeps it, and different in every corner."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 4, y * 5, (x + y) * 2], axis=-1).astype(np.uint8)


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


# Pictures -----------------------------------------------------------------------------------------------------------


def test_a_path_a_pil_image_bytes_and_arrays_agree(tmp_path, pixels):
    path = saved(tmp_path, Image.fromarray(pixels), "a.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    sources = [path, str(path), path.read_bytes(), Image.open(path), pixels, tensor, tensor.double() / 255]
    for source in [*sources, pixels.astype(np.float32) / 255, pixels.astype(np.uint16) * 257]:
        read = read_image(source)
        assert read.dtype == np.uint8 and read.flags.writeable and np.array_equal(read, pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, pixels, orientation):
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]  # how a camera held that way stores the scene
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turn(pixels)))
    path = saved(tmp_path, stored, "a.png", exif=exif)
    assert np.array_equal(read_image(path), pixels)


def test_modes_become_rgb(tmp_path, pixels):
    rgb = Image.fromarray(pixels)
    grey = np.asarray(rgb.convert("L"))
    assert np.array_equal(read_image(saved(tmp_path, rgb.convert("L"), "l.png")), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(read_image(grey), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(read_image(grey[..., None]), np.repeat(grey[..., None], 3, 2))
    palette = rgb.quantize(64)
    assert np.array_equal(read_image(saved(tmp_path, palette, "p.png")), np.asarray(palette.convert("RGB")))
    bits = read_image(saved(tmp_path, rgb.convert("1"), "1.png"))
    assert set(np.unique(bits)) == {0, 255}
    cmyk = read_image(saved(tmp_path, rgb.convert("CMYK"), "c.jpg", quality=95))
    assert np.abs(cmyk.astype(int) - pixels).mean() < 4  # not its negative


def test_transparency_lies_on_white(tmp_path, pixels):
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, 32:] = 255
    alpha[:, 16:32] = 51  # a fifth
    rgba = np.dstack([pixels, alpha])
    want = pixels.astype(float) * alpha[..., None] / 255 + 255 - alpha[..., None].astype(float)
    for source in (saved(tmp_path, Image.fromarray(rgba), "a.png"), rgba):
        assert np.abs(read_image(source) - want).max() <= 1
    grey = Image.merge("LA", [Image.fromarray(pixels[..., 0]), Image.fromarray(alpha)])
    assert np.abs(read_image(saved(tmp_path, grey, "la.png"))[..., 0] - want[..., 0]).max() <= 1
    palette = Image.fromarray(np.tile(np.arange(4, dtype=np.uint8), (4, 1)), "L").convert("P")
    read = read_image(saved(tmp_path, palette, "t.png", transparency=0))
    assert (read[:, 0] == 255).all() and (read[:, 1:] < 10).all()


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
    path = saved(tmp_path, Image.fromarray(values), "a.png")
    want = np.round(values / 257).astype(np.uint8)
    for source in (path, values, saved(tmp_path, Image.fromarray(values), "a.tiff")):
        assert np.array_equal(read_image(source)[..., 0], want)
    assert want.max() == 255 and want[0, 4] == 128


def test_16_bit_colour_is_within_one_level(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(">u2")

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 7, 5, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.abs(read_image(png).astype(float) - values / 257).max() <= 1


def test_first_frame_of_an_animation(tmp_path, pixels):
    frames = [Image.fromarray(p).quantize(128) for p in (pixels, 255 - pixels)]
    for name in ("a.gif", "a.png", "a.webp"):
        first, second = (f.convert("RGB") for f in frames)
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert np.abs(read_image(tmp_path / name).astype(int) - np.asarray(first)).mean() < 3


def test_float_tiff(tmp_path):
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    read = read_image(saved(tmp_path, Image.fromarray(values), "f.tiff"))
    assert np.array_equal(read[..., 0], np.round(values * 255))
    with pytest.raises(MediaError, match=r"float pixels must lie in \[0, 1\]: got 0.0 to 255.0"):
        read_image(saved(tmp_path, Image.fromarray(values * 255), "g.tiff"))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.webp"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.6])
def test_damaged_pictures_are_named(tmp_path, pixels, name, share):
    path = saved(tmp_path, Image.fromarray(pixels), name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(MediaError, match=rf"cannot read .*{name}: .*Replace it or leave it out"):
        read_image(path)
    with pytest.raises(MediaError, match="cannot read the given bytes"):
        read_image(path.read_bytes())


def test_other_unreadable_pictures(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_image(tmp_path / "none.png")
    with pytest.raises(MediaError, match=r"cannot read .*integer grey must lie in 0\.\.65535"):
        read_image(Image.fromarray(np.full((2, 2), 70000, np.int32)))
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(MediaError, match=r"text\.jpg"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(MediaError, match="cannot read"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 48, 64), np.uint8), r"channels-first: got the shape \(3, 48, 64\)"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (np.zeros(5, np.uint8), r"shape \(5,\)"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"shape \(2, 4, 4, 3\)"),
        (np.zeros((4, 4), np.int64), "uint8, uint16 or float in .* got int64"),
        (np.zeros((4, 4), bool), "got bool"),
        (np.full((4, 4), 1.01), r"float pixels must lie in \[0, 1\]: got 1.01 to 1.01"),
        (np.full((4, 4), -0.5), "Divide by the largest value"),
        (np.full((4, 4), np.nan), "got nan to nan"),
        (torch.zeros(48, 64, 3, dtype=torch.uint8), r"shape \(64, 3, 48\) with channels last"),
    ],
)
def test_bad_arrays(array, message):
    with pytest.raises(MediaError, match=message):
        read_image(array)


def test_at_least_decodes_large_jpegs_small(tmp_path):
    y, x = np.mgrid[0:900, 0:1400]
    image = Image.fromarray((np.stack([x / 1400, y / 900, (x + y) / 2300], -1) * 255).astype(np.uint8))
    path = saved(tmp_path, image, "a.jpg", quality=95)
    assert read_image(path).shape == (900, 1400, 3)
    small = read_image(path, at_least=224)
    assert small.shape == (225, 350, 3)
    apart = view_of(small, 224).float() - view_of(read_image(path), 224).float()
    assert apart.abs().mean() < 1.5
    assert read_image(path, at_least=901).shape == (900, 1400, 3)
    assert read_image(saved(tmp_path, image, "a.png"), at_least=64).shape == (900, 1400, 3)
    cmyk = read_image(saved(tmp_path, image.convert("CMYK"), "c.jpg", quality=95), at_least=224)
    assert cmyk.shape == (225, 350, 3) and np.abs(cmyk.astype(int) - small).mean() < 4


def test_views_are_the_crops_they_are_named_after(pixels):
    size, side = 56, 64
    whole = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    large = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))
    want = {
        "whole": whole,
        "top left": large[:size, :size],
        "top right": large[:size, -size:],
        "bottom left": large[-size:, :size],
        "bottom right": large[-size:, -size:],
    }
    assert len(VIEWS) == len(set(VIEWS)) == 10
    for view, name in enumerate(VIEWS):
        crop = view_of(pixels, size, view)
        assert crop.dtype == torch.uint8 and crop.shape == (3, size, size) and crop.is_contiguous()
        picture = want[name.removesuffix(" mirrored")]
        picture = picture[:, ::-1] if name.endswith("mirrored") else picture
        apart = np.abs(crop.permute(1, 2, 0).numpy().astype(int) - picture)
        assert apart.max() <= 2 and apart.mean() < 0.2, name  # PIL rounds between its two passes
    assert view_of(pixels[:1, :1], 8, 9).shape == (3, 8, 8)
    for view in (-1, 10):
        with pytest.raises(ValueError, match=f"view must be 0 to 9 and size at least 1: got view {view}"):
            view_of(pixels, 8, view)


# Sounds -------------------------------------------------------------------------------------------------------------


def tone(seconds=0.5, rate=RATE, hz=440.0, level=0.5):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "subtype", "tolerance"),
    [
        ("a.wav", "PCM_16", 4e-5),
        ("a.wav", "FLOAT", 0),
        ("a.wav", "PCM_24", 2e-7),
        ("a.wav", "PCM_U8", 1e-2),
        ("a.flac", "PCM_16", 4e-5),
        ("a.ogg", "VORBIS", 2e-2),
        ("a.mp3", "MPEG_LAYER_III", 5e-2),
    ],
)
def test_files_are_read(tmp_path, name, subtype, tolerance):
    soundfile.write(tmp_path / name, tone(), RATE, subtype=subtype)
    for source in (tmp_path / name, str(tmp_path / name), (tmp_path / name).read_bytes()):
        wave = read_audio(source, RATE)
        assert wave.dtype == torch.float32 and wave.shape == (8000,)
        assert np.abs(wave.numpy() - tone())[500:-500].max() <= tolerance


def test_stereo_is_the_mean(tmp_path):
    left, right = tone(hz=300), tone(hz=500)
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    for wave in (read_audio(tmp_path / "s.wav", RATE), read_audio(np.stack([left, right]), RATE, RATE)):
        np.testing.assert_allclose(wave.numpy(), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_other_rates_are_resampled(tmp_path, rate):
    soundfile.write(tmp_path / "r.wav", tone(1.0, rate), rate, subtype="FLOAT")
    wave = read_audio(tmp_path / "r.wav", RATE)
    assert wave.shape == (16000,)
    assert np.abs(wave.numpy() - tone(1.0))[500:-500].max() < 1e-3


def test_integers_are_scaled():
    full = np.array([-(2**15), -1, 0, 2**14, 2**15 - 1], np.int16)
    want = full.astype(np.float64) / 2**15
    for array in (full, full.astype(np.int32) * 2**16, torch.from_numpy(full)):
        np.testing.assert_allclose(read_audio(array, RATE, RATE).numpy(), want, atol=1e-7)
    assert read_audio(np.array([-128, 64], np.int8), RATE, RATE).tolist() == [-1, 0.5]
    assert read_audio(np.array([0, 128, 192], np.uint8), RATE, RATE).tolist() == [-1, 0, 0.5]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert read_audio(torch.tensor([0.5, -1.0], dtype=dtype), RATE, RATE).tolist() == [0.5, -1]


def test_one_sample_is_a_clip(tmp_path):
    soundfile.write(tmp_path / "one.wav", np.array([0.25]), 44100, subtype="FLOAT")
    assert read_audio(tmp_path / "one.wav", RATE).tolist() == [0.25]
    for rate in (8000, 16000, 48000):
        assert read_audio(np.array([0.25]), RATE, rate).shape == (max(16000 // rate, 1),)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(0, np.float32), "must hold at least one sample: it is empty"),
        (np.zeros((100, 2), np.float32), r"at most 8 channels: got the shape \(100, 2\)\. Transpose"),
        (np.zeros((0, 100), np.float32), r"got the shape \(0, 100\)"),
        (np.zeros((1, 2, 3)), r"got the shape \(1, 2, 3\)"),
        (np.zeros(5, np.int64), "samples must be float, int16, int32, int8 or uint8: got int64"),
        (np.zeros(5, bool), "got bool"),
        (np.zeros(5, np.complex64), "got complex64"),
        (np.array([0.0, 20000.0]), r"float samples must lie in \[-1, 1\]: the peak is 2e\+04"),
        (np.array([0.0, 0.1, np.nan]), "the given ndarray has NaN or infinity at sample 2"),
        (np.array([np.inf, 0.1]), "has NaN or infinity at sample 0"),
    ],
)
def test_bad_samples(array, message):
    with pytest.raises(MediaError, match=message):
        read_audio(array, RATE, RATE)


def test_bad_rates(tmp_path):
    with pytest.raises(ValueError, match="samples must come with source_rate"):
        read_audio(np.zeros(5), RATE)
    soundfile.write(tmp_path / "a.wav", tone(), RATE)
    with pytest.raises(ValueError, match=r"a file knows its own: got 8000 with .*a\.wav"):
        read_audio(tmp_path / "a.wav", RATE, 8000)
    for rates in ((0, RATE), (RATE, -1)):
        with pytest.raises(ValueError, match="rates must be positive, in Hz"):
            read_audio(np.zeros(5), *rates)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no audio file .*none\.wav"):
        read_audio(tmp_path / "none.wav", RATE)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    with pytest.raises(MediaError, match=r"empty\.wav must hold at least one sample"):
        read_audio(tmp_path / "empty.wav", RATE)
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan], np.float32), RATE, subtype="FLOAT")
    with pytest.raises(MediaError, match=r"nan\.wav has NaN or infinity at sample 1"):
        read_audio(tmp_path / "nan.wav", RATE)
    (tmp_path / "text.wav").write_text("not a sound")
    with pytest.raises(MediaError, match=r"cannot read .*text\.wav"):
        read_audio(tmp_path / "text.wav", RATE)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.9])
def test_damaged_sounds_are_named(tmp_path, name, share):
    path = tmp_path / name
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 48000), RATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(MediaError, match=rf"{name}.*(cannot|leave it out|Leave it out)|cannot read .*{name}"):
        read_audio(path, RATE)


def test_a_wav_written_to_a_pipe_is_whole(tmp_path):
    path = tmp_path / "pipe.wav"
    soundfile.write(path, tone(), RATE)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert read_audio(path, RATE).shape == (8000,)


# Video --------------------------------------------------------------------------------------------------------------


def clip(path, sound=None, frames=12, rate=25, codec="mpeg4", key_every=12, pixels="yuv420p", **options):
    """A video that gets brighter by 20 levels a frame, with a sound track if one is given."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", options=options) as container:
        steady = {"sc_threshold": "1000000000"}  # no key frames of MPEG-4 but those asked for
        video = container.add_stream(codec, rate=rate, options=steady if codec == "mpeg4" else {})
        video.width, video.height, video.pix_fmt, video.gop_size = 64, 48, pixels, key_every
        track = container.add_stream("aac", rate=RATE) if sound is not None else None
        for i in range(frames):
            picture = np.full((48, 64, 3), 20 * i, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if track is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            frame.rate = RATE
            container.mux([*track.encode(frame), *track.encode()])
    return path


def test_video_frames_and_times(tmp_path):
    frames, times, end_s = read_video(clip(tmp_path / "v.mp4"))
    assert abs(end_s - 12 / 25) < 1e-6
    assert frames.shape == (12, 48, 64, 3) and frames.dtype == np.uint8
    np.testing.assert_allclose(times, np.arange(12) / 25, atol=1e-6)
    assert np.abs(frames.mean(axis=(1, 2, 3)) - 20 * np.arange(12)).max() < 4


@pytest.mark.parametrize("name", ["v.mp4", "v.MOV", "v.mkv", "v.avi"])
@pytest.mark.parametrize(("frames", "middle"), [(1, 0), (2, 1), (11, 5), (12, 6)])
def test_the_picture_of_a_video_is_its_middle_frame(tmp_path, name, frames, middle):
    path = clip(tmp_path / name, frames=frames, key_every=4)
    for source in (path, str(path)):
        picture = read_image(source)
        assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8 and picture.flags.writeable
        assert abs(picture.mean() - 20 * middle) < 4


@pytest.mark.parametrize(("name", "options"), [("v.webm", {}), ("recording.webm", {"live": "1"})])
def test_the_middle_of_a_video_without_a_length_in_its_head(tmp_path, name, options):
    picture = read_image(clip(tmp_path / name, codec="libvpx", key_every=4, **options))
    assert 20 * 5 - 4 < picture.mean() < 20 * 6 + 4  # a recording has the time of its last frame, not its end


@pytest.mark.parametrize("name", ["late.mkv", "late.mp4"])
def test_the_middle_of_a_video_with_sound_and_of_one_that_starts_late(tmp_path, name):
    path = clip(tmp_path / "v.mp4", sound=tone(0.48))
    assert abs(read_image(path).mean() - 20 * 6) < 4
    av = pytest.importorskip("av")
    with av.open(str(path)) as old, av.open(str(tmp_path / name), "w") as new:
        track = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts + 12800, packet.dts + 12800, track  # by a second
                new.mux(packet)
    assert abs(read_image(tmp_path / name).mean() - 20 * 6) < 4


def test_only_what_is_needed_of_a_video_is_decoded(tmp_path):
    whole = clip(tmp_path / "v.mov", codec="png", pixels="rgb24")
    content = whole.read_bytes()
    assert content.count(b"\x89PNG") == 12  # each a key frame
    (tmp_path / "damaged.mov").write_bytes(content.replace(b"\x89PNG", b"....", 1))
    with pytest.raises(MediaError, match=r"damaged\.mov"):
        read_video(tmp_path / "damaged.mov")
    assert np.array_equal(read_image(tmp_path / "damaged.mov"), read_image(whole))


@pytest.mark.parametrize(("name", "options"), [("v.mp4", {"movflags": "faststart"}), ("v.mkv", {})])
def test_a_video_that_is_cut_off_before_its_middle_is_named(tmp_path, name, options):
    path = clip(tmp_path / name, key_every=4, **options)
    content = path.read_bytes()
    pictures = [found.start() for found in re.finditer(rb"\x00\x00\x01\xb6", content)]  # of MPEG-4 visual, twelve
    path.write_bytes(content[: pictures[8]])
    assert abs(read_image(path).mean() - 20 * 6) < 4
    path.write_bytes(content[: pictures[5]])
    with pytest.raises(MediaError, match=rf"cannot read .*{name}: its picture track ends before half its length"):
        read_image(path)


def test_a_video_of_enormous_pictures_is_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = clip(tmp_path / "v.mov", codec="png", pixels="rgb24")
    content = path.read_bytes()
    height, width = read_image(path).shape[:2]
    monkeypatch.setitem(PIXEL_LIMIT, "max_pixels", str(height * width))
    read_image(path)
    monkeypatch.setitem(PIXEL_LIMIT, "max_pixels", str(height * width - 1))
    head = struct.pack(">HH", width, height)
    assert content.count(head)
    path.with_name("lie.mov").write_bytes(content.replace(head, struct.pack(">HH", 8, 8)))  # its PNGs know better
    for name in ("v.mov", "lie.mov"):
        with pytest.raises(MediaError, match=rf"{name}: its pictures are damaged or have more than"):
            read_image(path.with_name(name))


def test_a_sound_track_that_nobody_can_decode_is_named(tmp_path):
    path = clip(tmp_path / "v.mkv", sound=tone(0.48))
    content = path.read_bytes()
    codec = re.search(rb"A_[A-Z0-9_/]+", content)[0]
    path.write_bytes(content.replace(codec, b"A_" + b"X" * (len(codec) - 2)))
    assert read_image(path).shape[2] == 3
    with pytest.raises(MediaError, match=r"cannot read .*v\.mkv"):
        read_audio(path, RATE)


def test_the_sound_of_a_video(tmp_path):
    wave = read_audio(clip(tmp_path / "v.mp4", sound=tone(1.0)), RATE)
    assert abs(len(wave) - RATE) <= 2048
    spectrum = np.abs(np.fft.rfft(wave[2000:12000].numpy()))
    assert abs(spectrum.argmax() * RATE / 10000 - 440) < 2


def test_bad_videos_are_named(tmp_path):
    path = clip(tmp_path / "v.mp4")
    with pytest.raises(MediaError, match=r"cannot read .*v\.mp4: it has no sound track"):
        read_audio(path, RATE)
    write_audio(tmp_path / "a.wav", tone(), RATE)
    with pytest.raises(MediaError, match=r"cannot read .*a\.wav: it has no picture track"):
        read_video(tmp_path / "a.wav")
    path.write_bytes(path.read_bytes()[:300])
    for read in (read_video, read_image, lambda p: read_audio(p, RATE)):
        with pytest.raises(MediaError, match=r"cannot read .*v\.mp4"):
            read(path)
    for read in (read_video, read_image):
        with pytest.raises(FileNotFoundError, match=r"no video file .*none\.mp4"):
            read(tmp_path / "none.mp4")
    write_audio(tmp_path / "b.wav", tone(), RATE)
    (tmp_path / "b.wav").rename(tmp_path / "sound.avi")
    with pytest.raises(MediaError, match=r"cannot read .*sound\.avi: it has no picture track"):
        read_image(tmp_path / "sound.avi")


def test_without_pyav_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.m4a").write_bytes(b"x")
    for read in (read_video, lambda p: read_audio(p, RATE)):
        with pytest.raises(
            MediaError, match=r"a\.m4a needs PyAV, which is not installed. Run: pip install 'mm\[video\]'"
        ):
            read(tmp_path / "a.m4a")
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(MediaError, match=r"a\.mp4 needs PyAV"):
        read_image(tmp_path / "a.mp4")
    soundfile.write(tmp_path / "a.ogg", tone(), RATE)
    assert len(read_audio(tmp_path / "a.ogg", RATE)) == 8000
