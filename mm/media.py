"""Files and arrays -> pictures and sounds in one form each: uint8 RGB (H, W, 3), float32 mono (T,) at a stated rate.

What cannot be read raises `MediaError`, which names it; a path that does not exist raises `FileNotFoundError`.
"""

from __future__ import annotations

import io
import itertools
import math
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

from mm.files import Member, in_memory

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
PILLOW_ERRORS = (SyntaxError, Image.DecompressionBombError)
DECODER_ERRORS = (OSError, ValueError, RuntimeError, LookupError, EOFError, struct.error, *PILLOW_ERRORS)
AT_ONCE = 1 << 16  # samples of a sound file that are decoded, or written, together
MOST_PIXELS = 100_000_000  # of a video's frame: 300 MB once it is decoded
PIXEL_LIMIT = {"max_pixels": str(MOST_PIXELS)}  # as FFmpeg takes it
LOST_S = 0.1  # seconds, and one frame, by which a whole file may end before the length that its head states


class MediaError(ValueError):
    """A picture, sound or video that cannot be read; the message names it."""


# Pictures -----------------------------------------------------------------------------------------------------------


def read_image(
    source: str | Path | Member | bytes | Image.Image | np.ndarray | Tensor, at_least: int | None = None
) -> np.ndarray:
    """Decode a picture: EXIF rotation applied, transparency on white, first frame of an animation, middle of a video.

    Args:
        source: a path, a file in a tar, the bytes of one, a PIL image, an array or a tensor. Of a path with a suffix of
            `VIDEO_FILES` it is the frame on show at half the video's length (PyAV, `pip install mm[video]`). Arrays are
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
        with decoding("the PIL image"):
            return _rgb_of_pil(source)
    with decoding(_name(source)), Image.open(in_memory(source)) as image:
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
    source: str | Path | Member | bytes | np.ndarray | Tensor, sample_rate: int, source_rate: int | None = None
) -> Tensor:
    """Decode a sound: the mean of its channels, resampled (soxr, high quality).

    soundfile reads wav, flac, ogg, mp3 and its other formats; PyAV the sound track of anything else (mp4, m4a, webm).

    Args:
        source: a path, a file in a tar, the bytes of one, or samples: (T,) or (C, T) of at most 8 channels; float in
            [-1, 1], or int16, int32, int8 or uint8, which are scaled.
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
        mono, rate = _mono(_samples(source), _name(source)), int(source_rate or 0)  # (T,)
    else:
        parts, rates = zip(*sound_parts(source), strict=True)
        mono, rate = np.concatenate(parts), rates[0]  # (T,)
    if rate < 1 or sample_rate < 1:
        raise ValueError(f"rates must be positive, in Hz: got {rate} -> {sample_rate} for {_name(source)}.")
    if rate != sample_rate:
        length = max(round(len(mono) * sample_rate / rate), 1)
        resampled = soxr.resample(mono, rate, sample_rate)[:length]  # (T,); a few samples may vanish altogether
        mono = np.pad(resampled, (0, length - len(resampled)), mode="edge") if len(resampled) else mono[:1]
    return torch.from_numpy(mono.astype(np.float32))


def sound_parts(source: str | Path | Member | bytes) -> Iterator[tuple[np.ndarray, int]]:
    """What `read_audio` takes, part after part: the mean of its channels (t,) float32, t >= 1, and its rate in Hz.

    Raises:
        MediaError, FileNotFoundError: as of `read_audio`; damage further on is told once it is reached.
    """
    name, count = _name(source), 0
    with decoding(name):
        for wave, rate in _decoded(source):
            yield _mono(wave, name, count), rate
            count += wave.shape[1]
    if not count:
        raise MediaError(f"{name} must hold at least one sample: it is empty. Leave it out.")


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
    if source.shape[1] == 0:
        raise MediaError("the given samples must hold at least one sample: it is empty. Leave it out.")
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


def _mono(wave: np.ndarray, name: str, first: int = 0) -> np.ndarray:
    """(C, t) of which the first sample is number `first` -> (t,) float32."""
    if not np.isfinite(wave).all():
        where = first + int(np.flatnonzero(~np.isfinite(wave).all(axis=0))[0])
        raise MediaError(f"samples must be finite: {name} has NaN or infinity at sample {where}. Repair or drop it.")
    return np.ascontiguousarray(wave.mean(axis=0), dtype=np.float32)  # (t,)


def _decoded(source: str | Path | Member | bytes) -> Iterator[tuple[np.ndarray, int]]:
    """A file or its bytes -> (C, t) float32 and its rate in Hz, part after part."""
    path = Path(source) if isinstance(source, str | Path) else None
    if path and not path.is_file():
        raise FileNotFoundError(f"there is no audio file {path}. Check the path and the data folder.")
    if path and path.suffix.lower() not in SOUND_FILES:
        yield from _decoded_with_av(path)
        return
    with open(path, "rb") if path else in_memory(source) as file, soundfile.SoundFile(_uncut(file)) as sound:
        count = 0
        while len(part := sound.read(AT_ONCE, dtype="float32", always_2d=True)):  # (t, C)
            yield part.T, sound.samplerate
            count += len(part)
        if sound.frames - count > (2304 if sound.format == "MP3" else 0):  # mp3 headers count whole packets
            raise ValueError(f"it is cut off after {count} of {sound.frames} samples")


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


def _decoded_with_av(path: Path) -> Iterator[tuple[np.ndarray, int]]:
    av = _import_av(path)
    with av.open(str(path), options=PIXEL_LIMIT) as container:
        if not container.streams.audio:
            raise ValueError("it has no sound track")
        track, planar = container.streams.audio[0], av.AudioResampler(format="fltp")
        frames = (frame for packet in packets(container, track) for frame in packet.decode())
        for frame in itertools.chain(frames, [None]):  # None asks for what is left
            yield from ((part.to_ndarray(), track.rate) for part in planar.resample(frame) if part.samples)


# Video --------------------------------------------------------------------------------------------------------------


def _middle_frame(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8: what a video shows at half its length, decoded from the key frame before it."""
    with opened_video(path) as container:
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
def opened_video(path: str | Path) -> Iterator[Any]:
    """The container of a video, which has a picture track."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no video file {path}. Check the path and the data folder.")
    av = _import_av(path)
    with decoding(str(path)), av.open(str(path), options=PIXEL_LIMIT) as container:
        if not container.streams.video:
            raise ValueError("it has no picture track")
        track = container.streams.video[0]
        if not track.width:  # what is beyond `PIXEL_LIMIT` was not even looked at
            raise ValueError(f"its pictures are damaged or have more than {MOST_PIXELS:,} pixels")
        track.codec_context.options = PIXEL_LIMIT  # of frames further on
        yield container


def packets(container: Any, track: Any) -> Iterator[Any]:
    """The packets of one track of an open file, and the empty one behind them that brings out a decoder's last frames.

    Raises:
        ValueError: the file is cut off: within a packet, or before the end that its head states.
    """
    ends, first, count = {track.index: 0.0}, math.inf, 0  # seconds
    for packet in container.demux():
        index = packet.stream.index
        if packet.is_corrupt:
            raise ValueError(f"it is cut off or damaged after {ends.get(index, 0.0):.3f} s")
        if packet.pts is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            ends[index] = max(end, ends.get(index, end))
        if index == track.index:
            if packet.pts is not None:
                first, count = min(first, float(packet.pts * packet.time_base)), count + 1
            yield packet
    reached, stated, kind = max(ends.values()), (container.duration or 0) / 1_000_000, container.format.name
    if track.duration:  # .mkv and .webm state the end of the whole file alone; of an .avi that is cut it is a guess
        ticks = max(track.duration, track.frames if kind == "avi" else 0)
        reached, stated = ends[track.index], float(((track.start_time or 0) + ticks) * track.time_base)
    slack = LOST_S + max(ends[track.index] - first, 0.0) / max(count, 1)
    if kind != "mpegts" and count != track.frames and reached + slack < stated:  # which states nothing
        raise ValueError(f"it is cut off after {reached:.3f} of {stated:.3f} s")


def _import_av(path: str | Path):  # type: ignore[no-untyped-def]
    try:
        import av
    except ImportError as error:
        raise MediaError(f"reading {path} needs PyAV, which is not installed. Run: pip install 'mm[video]'") from error
    return av


def _name(source: object) -> str:
    """How a message calls a source."""
    return str(source) if isinstance(source, (str, Path, Member)) else f"the given {type(source).__name__}"


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Whatever a decoder raises becomes a `MediaError` that names the source."""
    try:
        yield
    except (FileNotFoundError, MediaError):
        raise
    except DECODER_ERRORS as error:
        said = str(getattr(error, "error_string", "") or error).rstrip(".")  # soundfile's own, without its object
        raise MediaError(f"cannot read {name}: {said}. Replace it or leave it out.") from error
