"""Sound of any length through a model, by overlapping windows, in memory that does not grow with the length."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mm.signal import pit

Separate = Callable[[Tensor, Tensor | None], Tensor]  # (T,), (S, N, ...) -> (S, T)


@dataclass(frozen=True)
class Windows:
    """How a long sound is cut.

    Raises:
        ValueError: a number out of its range.
    """

    seconds: float = 4.0  # of a window
    overlap: float = 1.0  # seconds in which one window is faded over into the next, at most half a window

    def __post_init__(self) -> None:
        if not 0 < self.overlap <= self.seconds / 2 < math.inf:
            raise ValueError(
                f"windows must overlap, by at most half: got {self.seconds} s with {self.overlap} s of overlap."
            )


def separated(
    separate: Separate,
    sound: Iterable[Tensor],
    faces: Sequence[Iterator[Tensor]] | None,
    sample_rate: int,
    fps: float,
    windows: Windows | None = None,
) -> Iterator[Tensor]:
    """What a model makes of a sound and its faces, block by block: (S, t), together as long as the sound.

    Windows begin with a frame of the faces. The last one ends with the sound and is as long as the others, so that it
    may overlap more. Where two overlap, one is faded linearly over into the next. Output k of every window is that of
    face k: voices cannot swap. Without faces the voices of a window are put in the order that fits best what the window
    before said where they overlap, which is a guess where not all of them sound there.

    Args:
        separate: window of the sound (T,), of the faces (S, N, ...) or None -> (S, T).
        sound: (t,) blocks of any length.
        faces: of each its frames, one after another; None for a model that only hears. Of a face that ends before the
            sound the last frame stays; what it shows behind the sound's end is not read.
        sample_rate: Hz.
        fps: frames per second.
        windows: how to cut; None = the defaults.

    Raises:
        ValueError: no sound, no face, a face without a frame, or windows of less than two frames.
    """
    windows = windows or Windows()
    length = round(windows.seconds * fps)  # frames
    overlap = min(max(round(windows.overlap * fps), 1), length // 2)  # frames
    if length < 2:
        raise ValueError(
            f"a window must have two frames at least, at {fps:g} a second: got {windows.seconds} s. Take longer ones."
        )
    if faces is not None and not faces:
        raise ValueError("separation needs a face for each voice: got none. Name a video of each.")
    heard = _Sound(sound)
    shown = None if faces is None else [_Face(frames, number) for number, frames in enumerate(faces)]

    def at(frame: int) -> int:
        """The first sample of a frame."""
        return math.floor(frame * sample_rate / fps + 0.5)

    def frames_of(samples: int) -> int:
        """How many frames begin within the first samples."""
        return math.ceil((samples - 0.5) * fps / sample_rate - 1e-9)

    start = 0  # frame with which the window begins
    behind: Tensor | None = None  # (S, t) what the window before has said of the beginning of this one
    while True:
        heard.read_until(at(start + 2 * length))
        samples, frames, end = at(start + length), length, heard.end
        last = end is not None and end <= samples
        if end is not None and last:
            samples, frames = end, frames_of(end) - start
        seen = None if shown is None else torch.stack([face.window(start, frames) for face in shown])  # (S, N, ...)
        voices = separate(heard.window(at(start), samples), seen)  # (S, T)
        if behind is not None:
            voices = faded(behind, voices if faces is not None else reordered(behind, voices))
        if last:
            yield voices
            return
        following = start + length - overlap
        if end is not None and end < at(following + length):
            following = frames_of(end) - length
        settled = at(following) - at(start)
        yield voices[:, :settled]
        behind, start = voices[:, settled:], following


def joined(blocks: Iterable[Tensor]) -> Tensor:
    """Blocks (S, t) one behind the other: (S, T)."""
    return torch.cat(list(blocks), dim=1)


def faded(before: Tensor, after: Tensor) -> Tensor:
    """The end of one window faded over into the beginning of the next: (S, t), (S, T) -> (S, T), t at most T."""
    overlap = before.shape[1]
    share = (torch.arange(overlap, dtype=before.dtype) + 0.5) / overlap  # (t,)
    return torch.cat([torch.lerp(before, after[:, :overlap], share), after[:, overlap:]], dim=1)  # (S, T)


def reordered(before: Tensor, after: Tensor) -> Tensor:
    """The voices of a window in the order of those of the window before: (S, t), (S, T) -> (S, T), t at most T."""
    _, order = pit(after[None, :, : before.shape[1]], before[None])  # (1, S)
    return after[order[0]]  # (S, T)


class _Sound:
    """The part of a sound that is still needed."""

    def __init__(self, blocks: Iterable[Tensor]):
        self.blocks, self.parts, self.first, self.read = iter(blocks), deque[Tensor](), 0, 0
        self.end: int | None = None  # samples in all, once it is known

    def read_until(self, sample: int) -> None:
        """Have everything before a sample at hand, as far as there is so much."""
        while self.end is None and self.read < sample:
            block = next(self.blocks, None)
            if block is None:
                self.end = self.read
                if not self.read:
                    raise ValueError("a sound to separate must have at least one sample: got none.")
            else:
                self.parts.append(block)
                self.read += len(block)

    def window(self, first: int, end: int) -> Tensor:
        """Samples `first` to `end`; what is before `first` is forgotten."""
        while len(self.parts[0]) <= first - self.first:
            self.first += len(self.parts.popleft())
        begin, needed = self.first, []
        for part in self.parts:  # a whole sound may be one part: only what is needed of it is copied
            needed.append(part[max(first - begin, 0) : max(end - begin, 0)])
            begin += len(part)
        return torch.cat(needed)  # (T,)


class _Face:
    """The frames of a face that are still needed."""

    def __init__(self, frames: Iterator[Tensor], number: int):
        self.frames, self.kept, self.first, self.number = frames, deque[Tensor](), 0, number

    def window(self, first: int, count: int) -> Tensor:
        """Frames `first` to `first + count`: (N, ...); what is before `first` is forgotten, the last frame stays."""
        while self.first + len(self.kept) < first + count:
            frame = next(self.frames, None)
            if frame is None and not self.kept:
                raise ValueError(f"face {self.number} must have at least one frame: got none. Name another video.")
            self.kept.append(self.kept[-1] if frame is None else frame)
        while self.first < first:
            self.kept.popleft()
            self.first += 1
        return torch.stack(list(self.kept)[:count])  # (N, ...)
