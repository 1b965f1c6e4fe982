"""Small videos for tests: frames that tell their number by their level, shown at any times, silent or with sound."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CLOCK = Fraction(1, 12800)
STEP = 5  # levels by which a frame is brighter than the one before
HEIGHT, WIDTH = 48, 64


def flat(frames: int) -> list[np.ndarray]:
    """Pictures of which each is of one level: 0, 5, 10, ..."""
    return [np.full((HEIGHT, WIDTH, 3), STEP * k, np.uint8) for k in range(frames)]


def numbers(pictures: np.ndarray) -> list[int]:
    """Which frames these are, read from their levels."""
    return np.rint(pictures.reshape(len(pictures), -1).mean(axis=1) / STEP).astype(int).tolist()


def video(
    path: Path,
    pictures: Sequence[np.ndarray],
    times: Sequence[float] | None = None,
    fps: int = 25,
    codec: str = "libx264",
    sound: np.ndarray | None = None,
    sound_at: float = 0.0,
    rate: int = 16000,
    sound_codec: str = "aac",
    key_every: int = 12,
    pixels: str = "yuv420p",
    head: dict[str, str] | None = None,
    clock: Fraction = CLOCK,
) -> Path:
    """A file with these pictures at these seconds (None = `fps` a second), and a mono sound from `sound_at` on."""
    av: Any = pytest.importorskip("av")
    times = np.arange(len(pictures)) / fps if times is None else times
    with av.open(str(path), "w", options=head or {}) as container:
        track = container.add_stream(codec, rate=fps)
        height, width = pictures[0].shape[:2] if len(pictures) else (HEIGHT, WIDTH)
        track.width, track.height, track.pix_fmt, track.gop_size = width, height, pixels, key_every
        track.codec_context.time_base = clock
        heard = None if sound is None else container.add_stream(sound_codec, rate=rate)
        packets = []
        for picture, time_s in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(time_s / clock), clock
            packets += track.encode(frame)
        packets += track.encode() if len(pictures) else []
        if heard is not None and sound is not None:
            samples = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            samples.rate, samples.pts, samples.time_base = rate, round(sound_at * rate), Fraction(1, rate)
            packets += [*heard.encode(samples), *heard.encode()]
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return path
