"""Sound files of any length in the memory of a block: read as a stream, and several written side by side."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from mm.media import AT_ONCE, sound_parts

WAV_SAMPLES = (2**32 - 1024) // 2  # a .wav counts its bytes in 32 bits; these are 37 h at 16 kHz

logger = logging.getLogger(__name__)


def sound_blocks(path: str | Path, sample_rate: int, seconds: float) -> Iterator[Tensor]:
    """A sound file of any length, block after block: joined they are what `read_audio` gives, within 1e-4.

    Args:
        path: of a sound, or of a video with a sound track.
        sample_rate: Hz, of the result.
        seconds: of a block.

    Yields:
        (T,) float32 of round(seconds * sample_rate) samples each, the last one shorter.

    Raises:
        MediaError: it is damaged, truncated, empty, not finite or without sound. What is wrong further on is told once
            it is reached: keep nothing of a file before its last block is there.
        FileNotFoundError: there is no such file.
        ValueError: a rate below 1 Hz, or a block of no sample.
    """
    size = round(seconds * sample_rate)
    if sample_rate < 1 or size < 1:
        raise ValueError(
            f"a block needs a sample at least and a rate of 1 Hz: got {seconds} s at {sample_rate} Hz. Make it longer."
        )
    waiting: list[np.ndarray] = []
    count = 0  # samples that wait
    for part in _resampled(path, sample_rate):
        waiting.append(part)
        count += len(part)
        if count >= size:
            joined = np.concatenate(waiting)  # (count,)
            whole, count = count // size, count % size
            yield from torch.from_numpy(joined[: whole * size]).split(size)
            waiting = [joined[whole * size :]]
    if count:
        yield torch.from_numpy(np.concatenate(waiting))


def _resampled(path: str | Path, sample_rate: int) -> Iterator[np.ndarray]:
    """(t,) float32 parts at `sample_rate`, together as long as `read_audio` makes them."""
    resampler, heard, given = None, 0, 0  # samples in and out
    last = np.zeros(0, np.float32)
    for part, rate in sound_parts(path):
        if rate == sample_rate:
            yield part
            continue
        resampler = resampler or soxr.ResampleStream(rate, sample_rate, 1)
        heard += len(part)
        resampled = resampler.resample_chunk(part)  # (t,)
        given += len(resampled)
        last = resampled[-1:] if len(resampled) else last
        yield resampled
    if resampler is not None:
        length = max(round(heard * sample_rate / rate), 1)
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)[: length - given]  # (t,)
        edge = np.concatenate([part[:1], last, rest])[-1:]  # (1,) the resampler may keep a few samples for itself
        yield np.concatenate([rest, np.repeat(edge, length - given - len(rest))])


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


class SoundFiles:
    """Mono WAVs of 16 bits that are written together, block by block; they appear when the last block is there.

    with SoundFiles([folder / "left.wav", folder / "right.wav"], 16000) as files:
        for block in blocks:  # (S, t)
            files.write(block)

    Until then the samples wait in files beside them, as floats of any range. Were one of them beyond [-1, 1], all files
    would be scaled by one factor: nothing is clipped, and their levels relative to one another stay. When anything is
    raised, in the block of `with` or while the files are finished, none appears and those of before stay.

    Args:
        paths: of the files, each ending in .wav; their folder is made.
        sample_rate: Hz.

    Attributes:
        factor: by which all samples were multiplied, 1 unless the peak was above 1; known when the block has ended. A
            warning tells it too.

    Raises:
        ValueError: no path, one that comes twice, or another ending.
    """

    def __init__(self, paths: Sequence[str | Path], sample_rate: int) -> None:
        self.paths = [Path(path) for path in paths]
        self.sample_rate = sample_rate
        self.factor = 1.0
        names = [str(path) for path in paths]
        different = {path.resolve() for path in self.paths}
        if not names or len(different) < len(names) or any(path.suffix.lower() != ".wav" for path in different):
            raise ValueError(f"sounds are written to different .wav files, one at least: got {names}. Rename them.")
        self._floats = [path.with_name(f".{path.name}.{os.getpid()}.floats") for path in self.paths]
        self._waves = [path.with_name(f".{path.name}.{os.getpid()}") for path in self.paths]
        self._samples, self._peak = 0, 0.0

    def __enter__(self) -> SoundFiles:
        for path in self.paths:
            path.parent.mkdir(parents=True, exist_ok=True)
        for path in self._floats:
            path.unlink(missing_ok=True)  # of a process that was killed and had this number
        return self

    def write(self, block: Tensor | np.ndarray) -> None:
        """Append (S, t) float samples, a row per file.

        Raises:
            ValueError: another number of rows, a sample that is not finite, or more than a .wav can hold.
        """
        rows = np.asarray(block.detach().cpu() if isinstance(block, Tensor) else block, dtype=np.float32)  # (S, t)
        if rows.ndim != 2 or len(rows) != len(self.paths) or not np.isfinite(rows).all():
            raise ValueError(f"a block must be ({len(self.paths)}, t) finite samples: got the shape {rows.shape}.")
        self._samples += rows.shape[1]
        if self._samples > WAV_SAMPLES:
            raise ValueError(f"a .wav holds {WAV_SAMPLES} samples at most: got more. Write a file for each part of it.")
        self._peak = max(self._peak, float(np.abs(rows).max(initial=0.0)))
        for path, row in zip(self._floats, rows, strict=True):
            with path.open("ab") as file:
                file.write(row.tobytes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            for path in (*self._floats, *self._waves):
                path.unlink(missing_ok=True)

    def _finish(self) -> None:
        if not self._samples:
            raise ValueError(f"a sound to write must have one sample at least: got none for {self.paths[0]}.")
        if self._peak > 1:
            self.factor = 1 / self._peak
            first, others = self.paths[0], len(self.paths) - 1
            logger.warning(
                "the peak is %.3f: %s and %d written with it are scaled by %.3f", self._peak, first, others, self.factor
            )
        for source, wave in zip(self._floats, self._waves, strict=True):
            with (
                source.open("rb") as floats,
                soundfile.SoundFile(wave, "w", self.sample_rate, 1, "PCM_16", format="WAV") as sound,
            ):
                while part := floats.read(4 * AT_ONCE):
                    sound.write(np.frombuffer(part, np.float32) * np.float32(self.factor))  # (t,)
        for wave, path in zip(self._waves, self.paths, strict=True):
            os.replace(wave, path)
