"""Files and arrays -> pictures and sounds in one form each: uint8 RGB (H, W, 3), float32 mono (T,) at a stated rate.

What cannot be read raises `MediaError`, which names it; a path that does not exist raises `FileNotFoundError`.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

VERSION = 2  # of these pixels and samples and of mm.signal's spectrograms: raise it when they change, for the caches
VIEWS = (
    "whole",  # squashed to a square
    "whole mirrored",
    "top left",  # squashed to 8/7 of the side, then cut
    "top right",
    "bottom left",
    "bottom right",
    "top left mirrored",
    "top right mirrored",
    "bottom left mirrored",
    "bottom right mirrored",
)
VIDEO_FILES = {".mp4", ".webm", ".mkv", ".mov", ".avi"}  # where a path may be a picture or a video, these are videos
SOUND_FILES = {f".{name.lower()}" for name in soundfile.available_formats()} | {".oga", ".aif", ".wave"}
MOST_CHANNELS = 8  # 7.1; an array of more rows is taken for (T, C) the wrong way round
HIGHEST_PEAK = 16.0  # a float array beyond it holds integers that nobody scaled
ALL_16_BITS = 65535


class MediaError(ValueError):
    """A picture, sound or video that cannot be read; the message names it."""


# Pictures -----------------------------------------------------------------------------------------------------------


def read_image(
    source: str | Path | bytes | Image.Image | np.ndarray | Tensor, at_least: int | None = None
) -> np.ndarray:
    """Decode a picture: EXIF rotation applied, transparency on white, first frame of an animation, middle of a video.

    Args:
        source: a path, the bytes of a file, a PIL image, an array or a tensor. Of a path with a suffix of `VIDEO_FILES`
            the picture is the frame on show at half the video's length (PyAV, `pip install mm[video]`). Arrays are
            channels-last, (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); tensors channels-first, (H, W), (1, H, W),
            (3, H, W) or (4, H, W). Both are uint8, uint16, or float in [0, 1].
        at_least: pixels; a JPEG file may be decoded at 1/2, 1/4 or 1/8 of its size as long as neither side gets
            shorter than this: several times faster, pixels slightly different. None = exact.

    Returns:
        (H, W, 3) uint8 RGB. 16-bit grey is divided by 257 and rounded; of 16-bit colour files PIL keeps the high byte.

    Raises:
        MediaError: it is damaged, empty, of an unknown kind, or an array of another shape, type or range.
        FileNotFoundError: there is no such file.
    """
    if isinstance(source, (str, Path)) and Path(source).suffix.lower() in VIDEO_FILES:
        return _middle_frame(source)
    if isinstance(source, Tensor):
        source = source.detach().cpu().numpy()
        source = np.moveaxis(source, 0, -1) if source.ndim == 3 else source  # (H, W, C)
    if isinstance(source, np.ndarray):
        return _rgb_of_array(source)
    if isinstance(source, Image.Image):
        with _naming("the PIL image"):
            return _rgb_of_pil(source)
    with _naming(_name(source)), Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        if at_least is not None:
            image.draft(None, (at_least, at_least))  # type: ignore[arg-type]  # None = leave the colours alone
        return _rgb_of_pil(image)


def view_of(image: np.ndarray, size: int, view: int = 0) -> Tensor:
    """One of the fixed square crops of a picture, resized bicubically.

    Args:
        image: (H, W, 3) uint8.
        size: pixels a side.
        view: position in `VIEWS`: 0 the whole picture squashed, 1 its mirror image, 2-5 corners of the picture squashed
            to a side of 8/7 size, 6-9 their mirror images.

    Returns:
        (3, size, size) uint8.
    """
    if not 0 <= view < len(VIEWS) or size < 1:
        raise ValueError(f"view must be 0 to {len(VIEWS) - 1} and size at least 1: got view {view} and size {size}.")
    side = size if view < 2 else round(size * 8 / 7)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None]  # (1, 3, H, W)
    square = functional.interpolate(pixels, (side, side), mode="bicubic", antialias=True)[0]  # (3, side, side)
    if view >= 2:
        low, right = divmod((view - 2) % 4, 2)
        top, left = low * (side - size), right * (side - size)
        square = square[:, top : top + size, left : left + size]  # (3, size, size)
    if view == 1 or view >= 6:
        square = square.flip(2)
    return square.contiguous()  # (3, size, size)


def _rgb_of_pil(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)  # (H, W)
        if values.min() < 0 or values.max() > ALL_16_BITS:
            raise ValueError(f"integer grey must lie in 0..65535, got {values.min()}..{values.max()}")
        return _rgb_of_array(values.astype(np.uint16))
    if image.mode == "F":
        return _rgb_of_array(np.asarray(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))  # (H, W, 3)


def _rgb_of_array(pixels: np.ndarray) -> np.ndarray:
    if pixels.ndim == 2:
        pixels = pixels[..., None]  # (H, W, 1)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or pixels.size == 0:
        raise MediaError(
            f"a picture array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), a tensor channels-first: got the "
            f"shape {pixels.shape} with channels last. Move its channels, or give a path."
        )
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif pixels.dtype.kind == "f":
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # also catches NaN
            raise MediaError(
                f"float pixels must lie in [0, 1]: got {pixels.min()} to {pixels.max()}. Divide by the largest value."
            )
        pixels = (pixels * 255).round().astype(np.uint8)
    elif pixels.dtype != np.uint8:
        raise MediaError(f"pixels must be uint8, uint16 or float in [0, 1]: got {pixels.dtype}. Convert them.")
    if pixels.shape[2] == 4:
        return _rgb_of_pil(Image.fromarray(pixels))
    return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.array(pixels)  # (H, W, 3)


# Sounds -------------------------------------------------------------------------------------------------------------


def read_audio(
    source: str | Path | bytes | np.ndarray | Tensor, sample_rate: int, source_rate: int | None = None
) -> Tensor:
    """Decode a sound: the mean of its channels, resampled (soxr, high quality).

    soundfile reads wav, flac, ogg, mp3 and its other formats; PyAV the sound track of anything else (mp4, m4a, webm).

    Args:
        source: a path, the bytes of a file, or samples: (T,) or (C, T) of at most 8 channels; float in [-1, 1], or
            int16, int32, int8 or uint8, which are scaled.
        sample_rate: Hz, of the result.
        source_rate: Hz, of an array or tensor; a file knows its own.

    Returns:
        (T,) float32, T >= 1. Decoders may overshoot [-1, 1] slightly; nothing is clipped.

    Raises:
        MediaError: it is damaged, truncated, empty or not finite, or an array of another shape, type or range.
        FileNotFoundError: there is no such file.
        ValueError: `source_rate` is missing for an array or given for a file, or a rate is not positive.
    """
    array = isinstance(source, (np.ndarray, Tensor))
    if array == (source_rate is None):
        raise ValueError(
            "samples must come with source_rate, in Hz: got none."
            if array
            else f"source_rate is for arrays, a file knows its own: got {source_rate} with {_name(source)}. Drop it."
        )
    if isinstance(source, (np.ndarray, Tensor)):
        name, rate, wave = _name(source), int(source_rate or 0), _samples(source)
    else:
        name = _name(source)
        with _naming(name):
            wave, rate = _decode(source)  # (C, T)
    if rate < 1 or sample_rate < 1:
        raise ValueError(f"rates must be positive, in Hz: got {rate} -> {sample_rate} for {name}.")
    if wave.shape[1] == 0:
        raise MediaError(f"{name} must hold at least one sample: it is empty. Leave it out.")
    if not np.isfinite(wave).all():
        where = int(np.flatnonzero(~np.isfinite(wave).all(axis=0))[0])
        raise MediaError(f"samples must be finite: {name} has NaN or infinity at sample {where}. Repair or drop it.")
    mono = np.ascontiguousarray(wave.mean(axis=0), dtype=np.float32)  # (T,)
    if rate != sample_rate:
        length = max(round(len(mono) * sample_rate / rate), 1)
        resampled = soxr.resample(mono, rate, sample_rate)[:length]  # (T,); a few samples may vanish altogether
        mono = np.pad(resampled, (0, length - len(resampled)), mode="edge") if len(resampled) else mono[:1]
    return torch.from_numpy(mono.astype(np.float32))


def write_audio(path: str | Path, wave: Tensor | np.ndarray, sample_rate: int, float_samples: bool = False) -> None:
    """Write a mono .wav or .flac; the file appears whole or not at all.

    Args:
        path: its ending decides the format.
        wave: (T,) float in [-1, 1].
        sample_rate: Hz.
        float_samples: 32-bit float samples of any range (.wav only) instead of 16 bits.

    Raises:
        ValueError: another shape, an empty or not finite wave, another ending, or a peak above 1 in 16 bits: it would
            be clipped.
    """
    path = Path(path)
    samples = np.asarray(wave.detach().cpu() if isinstance(wave, Tensor) else wave, dtype=np.float32)  # (T,)
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("wav", "flac") or (float_samples and kind == "flac"):
        raise ValueError(f"sounds are written as .wav or, in 16 bits, as .flac: got {path.name!r}. Rename it.")
    if samples.ndim != 1 or samples.size == 0 or not np.isfinite(samples).all():
        raise ValueError(f"a sound to write must be (T,) finite samples, T >= 1: got the shape {samples.shape}.")
    peak = float(np.abs(samples).max())
    if peak > 1 and not float_samples:
        raise ValueError(
            f"16-bit samples must lie in [-1, 1]: the peak is {peak:.4g}. Divide by it or set float_samples."
        )
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        soundfile.write(beside, samples, sample_rate, format=kind, subtype="FLOAT" if float_samples else "PCM_16")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _samples(source: np.ndarray | Tensor) -> np.ndarray:
    """(T,) or (C, T) of any accepted type -> (C, T) float."""
    if isinstance(source, Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
    if source.ndim == 1:
        source = source[None]  # (1, T)
    if source.ndim != 2 or not 1 <= source.shape[0] <= MOST_CHANNELS:
        raise MediaError(
            f"samples must be (T,) or (C, T) with at most {MOST_CHANNELS} channels: got the shape {source.shape}. "
            "Transpose (T, C)."
        )
    if source.dtype == np.uint8:
        return (source.astype(np.float32) - 128) / 128
    if source.dtype in (np.int8, np.int16, np.int32):
        return (source / -float(np.iinfo(source.dtype).min)).astype(np.float32)
    if source.dtype.kind != "f":
        raise MediaError(f"samples must be float, int16, int32, int8 or uint8: got {source.dtype}. Convert them.")
    peak = np.abs(source).max(initial=0.0)
    if np.isfinite(peak) and peak > HIGHEST_PEAK:
        raise MediaError(f"float samples must lie in [-1, 1]: the peak is {peak:.4g}. Divide by the full scale.")
    return source


def _decode(source: str | Path | bytes) -> tuple[np.ndarray, int]:
    """A file or its bytes -> (C, T) float32 and its rate in Hz."""
    if not isinstance(source, bytes):
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"there is no audio file {path}. Check the path and the data folder.")
        if path.suffix.lower() not in SOUND_FILES:
            return _decode_with_av(path)
    with (
        io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file,
        soundfile.SoundFile(_uncut(file)) as sound,
    ):
        wave = sound.read(dtype="float32", always_2d=True).T  # (C, T)
        if sound.frames - wave.shape[1] > (2304 if sound.format == "MP3" else 0):  # mp3 headers count whole packets
            raise ValueError(f"it is cut off after {wave.shape[1]} of {sound.frames} samples")
        return wave, sound.samplerate


def _uncut(file: io.BufferedIOBase) -> io.BufferedIOBase:
    """The same file, rewound; libsndfile reads a .wav or .ogg that was cut off as if it ended there, so look first."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    kind = file.read(4)
    if kind == b"RIFF":  # chunks: name, length in bytes, content
        at = 12
        while at + 8 <= size:
            file.seek(at)
            name, length = struct.unpack("<4sI", file.read(8))
            if name == b"data" and at + 8 + length > size and length != 0xFFFFFFFF:  # all ones: written to a pipe
                raise ValueError(f"it is cut off: {size - at - 8} of {length} bytes of sound are there")
            at += 8 + length + length % 2
    elif kind == b"OggS":  # pages: 27 bytes, the last of them the number of segments, their lengths, content
        file.seek(max(size - 2**17, 0))  # a page is shorter than 2^16 bytes
        end = file.read()
        page = end[end.rfind(b"OggS") :]
        if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
            raise ValueError("it is cut off within its last page")
    file.seek(0)
    return file


def _decode_with_av(path: Path) -> tuple[np.ndarray, int]:
    av = _import_av(path)
    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise ValueError("it has no sound track")
        rate = container.streams.audio[0].rate
        planar = av.AudioResampler(format="fltp")
        parts = [p.to_ndarray() for frame in [*container.decode(audio=0), None] for p in planar.resample(frame)]
    return np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), np.float32), rate  # (C, T)


# Video --------------------------------------------------------------------------------------------------------------


def read_video(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Every frame of a video and when it is shown (PyAV, `pip install mm[video]`).

    Returns:
        frames: (N, H, W, 3) uint8 RGB, and timestamps: (N,) float64 seconds, ascending.

    Raises:
        MediaError: it is damaged, has no picture track, or PyAV is not installed.
        FileNotFoundError: there is no such file.
    """
    with _opened(path) as container:
        frames = list(container.decode(video=0))
        if not frames or any(frame.time is None for frame in frames):
            raise ValueError("it has no frames, or frames without times")
        return np.stack([f.to_ndarray(format="rgb24") for f in frames]), np.array([f.time for f in frames])


def _middle_frame(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8: what a video shows at half its length, decoded from the key frame before it."""
    with _opened(path) as container:
        track = container.streams.video[0]
        start = track.start_time or 0  # like all times here in ticks of the track's clock
        if track.duration:
            middle = start + track.duration // 2
        elif container.duration:  # .mkv and .webm give the end of the whole file alone, in microseconds
            middle = (start + int(Fraction(container.duration, 1_000_000) / track.time_base)) // 2
        else:  # a recording whose length was never written into its head
            middle = max((packet.pts for packet in container.demux(track) if packet.pts is not None), default=0) // 2
        container.seek(middle, stream=track)
        shown = None
        for frame in container.decode(track):
            if frame.pts is None:
                raise ValueError("it has frames without times")
            if shown is not None and frame.pts > middle:
                break
            shown = frame
        else:
            if shown is None or shown.pts + (shown.duration or 0) < middle:
                raise ValueError("its picture track ends before half its length")
        return shown.to_ndarray(format="rgb24")


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """The container of a video, which has a picture track."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no video file {path}. Check the path and the data folder.")
    av = _import_av(path)
    with _naming(str(path)), av.open(str(path)) as container:
        if not container.streams.video:
            raise ValueError("it has no picture track")
        yield container


def _import_av(path: str | Path):  # type: ignore[no-untyped-def]
    try:
        import av
    except ImportError as error:
        raise MediaError(f"reading {path} needs PyAV, which is not installed. Run: pip install 'mm[video]'") from error
    return av


def _name(source: object) -> str:
    """How a message calls a source."""
    return str(source) if isinstance(source, (str, Path)) else f"the given {type(source).__name__}"


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes a `MediaError` that names the source."""
    try:
        yield
    except (FileNotFoundError, MediaError):
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        RuntimeError,
        EOFError,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        raise MediaError(f"cannot read {name}: {error}. Replace it or leave it out.") from error
