"""Pictures and sounds as text that stands in the page itself: drawn anew and small, so that no file is ever served."""

from __future__ import annotations

import base64
import io
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from mm.data.gallery import SUFFIXES
from mm.explain.heatmap import shrunk
from mm.explain.pictures import spectrogram
from mm.index.grid import SAMPLE_RATE, STFT
from mm.media import SOUND_FILES, VIDEO_FILES, read_audio, read_image
from mm.signal import log_mel
from mm.sound_files import sound_blocks

SIDE_PX = 240  # longer side of a picture among answers
SOUND_PX = (240, 110)  # width and height of a spectrogram among them
HEARD_S = 10.0  # seconds of a sound that are played among answers
MOST_PIXELS = 100_000_000  # of a picture: 300 MB once it is decoded


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
        blocks = itertools.islice(sound_blocks(source, SAMPLE_RATE, 1.0), round(HEARD_S))
        wave = torch.cat(list(blocks))  # (T,)
    else:
        rate = SAMPLE_RATE if isinstance(source, np.ndarray | torch.Tensor) else None
        wave = read_audio(source, SAMPLE_RATE, rate)[: round(HEARD_S * SAMPLE_RATE)]  # (T,)
    file = io.BytesIO()
    soundfile.write(file, wave.numpy().clip(-1, 1), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    drawn = Image.fromarray(spectrogram(log_mel(wave, STFT)[None])).resize(SOUND_PX)
    return _uri(file.getvalue(), "audio/wav"), pixels_uri(np.asarray(drawn), "png")


def pixels_uri(pixels: np.ndarray, kind: str) -> str:
    """Pixels (h, w, 3) uint8 within a data: URI; kind is "jpeg" or "png"."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=85)
    return _uri(file.getvalue(), f"image/{kind}")


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def drawn(draw: Callable[[Path], Any]) -> np.ndarray:
    """What a function draws into the PNG that it is given: (h, w, 3) uint8."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.png"
        draw(path)
        return read_image(path)
