"""Pictures and sounds as text that stands in the page itself: drawn anew and small, so that no file is ever served."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from mm.data.gallery import SUFFIXES
from mm.explain.heatmap import shrunk
from mm.explain.pictures import spectrogram
from mm.index.grid import SAMPLE_RATE, STFT, data_uri, heard
from mm.media import SOUND_FILES, VIDEO_FILES, MediaError, opened_video, packets, read_image, sound_parts
from mm.signal import log_mel
from mm.sound_files import sound_blocks

SIDE_PX = 240  # longer side of a picture among answers
SOUND_PX = (240, 110)  # width and height of a spectrogram among them
HEARD_S = 10.0  # seconds of a sound that are played among answers
LONGEST_S = 300.0  # of a sound or a video that is taken: explanations of a longer one take 4 GB and more


def kind_of(file: str | Path) -> str:
    """Whether a file is an "image" or "audio", by its name; a video counts as the picture in its middle.

    Raises:
        ValueError: it is neither.
    """
    suffix = Path(file).suffix.lower()
    if suffix in SUFFIXES["image"] | VIDEO_FILES:
        return "image"
    if suffix in SOUND_FILES:
        return "audio"
    known = ", ".join(sorted(SUFFIXES["image"] | SUFFIXES["audio"] | VIDEO_FILES))
    raise ValueError(f"a file must be a picture, a sound or a video: got {Path(file).name!r}. Known are: {known}.")


def check_upload(file: str | Path) -> None:
    """Refuse a sound or a video that goes on for hours, as a few kilobytes of silence can; lengths in heads may lie.

    Raises:
        FileNotFoundError: it was removed since.
        ValueError: it is longer than `LONGEST_S`; what cannot be read is told by whoever reads it.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"{Path(file).name} is not kept any longer. Upload it again.")
    for seconds in _seconds(file):
        if seconds > LONGEST_S:
            raise ValueError(
                f"a sound or a video must be of {LONGEST_S / 60:.0f} minutes at most: {Path(file).name} is longer. Cut "
                "it, or use the scripts."
            )


def _seconds(file: str | Path) -> Iterator[float]:
    """How long the sound and the pictures of a file have lasted so far, up to where it is damaged or ends."""
    heard = 0.0
    with contextlib.suppress(MediaError):
        for part, rate in sound_parts(file):
            heard += len(part) / rate
            yield heard
    if Path(file).suffix.lower() in SUFFIXES["image"]:  # which are read as pictures, one alone of a moving one
        return
    with contextlib.suppress(MediaError), opened_video(file) as container:
        track = container.streams.video[0]
        first = math.inf
        for packet in packets(container, track):
            if packet.pts is not None:
                first = min(first, packet.pts)
                yield float((packet.pts - first) * track.time_base)


def picture_uri(source: Any) -> str:
    """A picture as a small JPEG within a data: URI.

    Raises:
        MediaError, FileNotFoundError: as of `read_image`.
    """
    return pixels_uri(shrunk(read_image(source, at_least=SIDE_PX), SIDE_PX), "jpeg")


def sound_uris(source: Any) -> tuple[str, str]:
    """The beginning of a sound as a WAV, and its spectrogram as a PNG, within data: URIs.

    Args:
        source: a file, or an array at 16 kHz.

    Raises:
        MediaError, FileNotFoundError: as of `read_audio`.
    """
    if isinstance(source, str | Path):
        wave = next(sound_blocks(source, SAMPLE_RATE, HEARD_S))  # (T,)
    else:
        wave = heard(source)[: round(HEARD_S * SAMPLE_RATE)]  # (T,)
    file = io.BytesIO()
    soundfile.write(file, wave.numpy().clip(-1, 1), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    drawn = Image.fromarray(spectrogram(log_mel(wave, STFT)[None])).resize(SOUND_PX)
    return data_uri(file.getvalue(), "audio/wav"), pixels_uri(np.asarray(drawn), "png")


def pixels_uri(pixels: np.ndarray, kind: str) -> str:
    """Pixels (h, w, 3) uint8 within a data: URI; kind is "jpeg" or "png"."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=85)
    return data_uri(file.getvalue(), f"image/{kind}")


def drawn(draw: Callable[[Path], Any]) -> np.ndarray:
    """What a function draws into the PNG that it is given: (h, w, 3) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.png"
        draw(path)
        return read_image(path)
