"""Files of any length -> one WAV for each face, in memory that does not grow with the length."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from mm.encoders.video import VideoEncoder
from mm.media import SOUND_FILES, MediaError, opened_video
from mm.sound_files import SoundFiles, sound_blocks
from mm.tasks.separation_model import SpeechSeparator
from mm.tasks.separation_windows import Windows
from mm.video import FaceTrack, at_rate, box_at, crop, detect_tracks, end_of, read_tracks, stream

BLOCK_S = 1.0  # seconds of sound that are read at once


class Face(NamedTuple):
    """Someone whose voice is wanted.

    Attributes:
        name: of the file that is written, without its ending.
        video: the file that shows the face; for a run that goes by embeddings the .npy of its vectors.
        track: where in the frames the face is; None = the whole frame is the face.
    """

    name: str
    video: Path
    track: FaceTrack | None = None


class Separated(NamedTuple):
    """What was written.

    Attributes:
        paths: S files, one for each face.
        shares: (S,) energy of each voice, relative to that of the mixture.
        seconds: of the sound.
        ends: {video: the second at which its last frame ends}.
        factor: by which all voices were scaled down, since one would have been clipped; 1 = none would.
    """

    paths: list[Path]
    shares: list[float]
    seconds: float
    ends: dict[Path, float]
    factor: float


def faces_in(video: Path, boxes: Path | None = None) -> list[Face]:
    """The faces of a video, as a file tells where they are (see `mm.video.read_tracks`), or else as they are found.

    Raises:
        MediaError: none is found, or the video cannot be read.
        FileNotFoundError, ValueError: as of `read_tracks`.
    """
    tracks = detect_tracks(video) if boxes is None else read_tracks(boxes)
    names = different(list(tracks))
    return [Face(name, video, track) for name, track in zip(names, tracks.values(), strict=True)]


def faces_alone(videos: Sequence[Path]) -> list[Face]:
    """Videos of one face each, of which the whole frame is the face."""
    names = different([video.stem for video in videos])
    return [Face(name, video) for name, video in zip(names, videos, strict=True)]


def different(names: Sequence[str]) -> list[str]:
    """The names, those that came before with a number, so that each names a file of its own: a, A -> a, A-2."""
    taken: dict[str, str] = {}
    for name in names:
        numbered = (f"{name}-{number}" for number in itertools.count(2))
        free = next(one for one in itertools.chain([name], numbered) if one.casefold() not in taken)
        taken[free.casefold()] = free
    return list(taken.values())


def check_sound(video: Path) -> None:
    """Reject a video that has no sound track, and a sound that is no video.

    Raises:
        MediaError: it is one of these, or cannot be read.
        FileNotFoundError: there is no such file.
    """
    if video.is_file() and video.suffix.lower() in SOUND_FILES:
        raise MediaError(f"{video} is a sound and shows no face: give it as --audio, and a video of each as --faces.")
    with opened_video(video) as container:
        if not container.streams.audio:
            raise MediaError(f"{video} has no sound track. Give the sound that belongs to it as --audio.")


def check_kind(model: SpeechSeparator, by_number: bool) -> None:
    """Reject a number of voices for a model that goes by faces, and faces for one that only hears.

    Raises:
        ValueError: it is the wrong one.
    """
    if by_number != model.head.heard_only:
        raise ValueError(
            "this run goes by faces: give VIDEO, or --audio and --faces, and no --voices."
            if by_number
            else "this run only hears: give --voices, how many there are, and --audio or VIDEO, but no face."
        )


def separate_files(
    model: SpeechSeparator,
    sound: Path,
    faces: Sequence[Face] | int,
    folder: Path,
    windows: Windows | None = None,
) -> Separated:
    """Write the voice of each face; the files appear together, when the last sample is there.

    Args:
        model: that separates.
        sound: the mixture, a sound or video file.
        faces: that talk; of a model that only hears, how many voices there are, which are called voice-1, voice-2, ...
        folder: of the files, made if missing; files of the same names are replaced.
        windows: how the mixture is cut; None = the defaults.

    Raises:
        ValueError: no face, faces for a model that only hears, or a file that would be written over what is read.
        MediaError, FileNotFoundError: a file cannot be read; the message names it.
    """
    check_kind(model, isinstance(faces, int))
    if isinstance(faces, int):
        names, shown, ends = [f"voice-{number + 1}" for number in range(faces)], None, dict[Path, float]()
    else:
        names = [face.name for face in faces]
        shown, ends = frames_of(model.video, faces)
    paths, rate = [folder / f"{name}.wav" for name in names], model.audio.sample_rate
    inputs = {file.resolve() for file in (sound, *ends)}
    if not paths:
        raise ValueError("separation needs a face at least, or of a run that only hears a voice: got none.")
    if over := [path for path in paths if path.resolve() in inputs]:
        raise ValueError(f"{over[0]} would be written over what is to be separated. Choose another --out.")
    heard = _Heard(sound_blocks(sound, rate, BLOCK_S))
    energies = torch.zeros(len(paths), dtype=torch.float64)  # (S,)
    with SoundFiles(paths, rate) as files:
        voices = model.windowed(heard, shown, len(paths), windows)
        for block in tqdm(voices, desc="separating", unit="window", disable=None):  # (S, t)
            files.write(block)
            energies += block.double().square().sum(dim=1)  # (S,)
    shares = (energies / max(heard.energy, 1e-30)).tolist()
    return Separated(paths, shares, heard.samples / rate, ends, files.factor)


def frames_of(encoder: VideoEncoder, faces: Sequence[Face]) -> tuple[list[Iterator[Tensor]], dict[Path, float]]:
    """The frames (1, H, W) uint8 of each face as the encoder takes them, and when each video ends.

    They are decoded as they are asked for. A video that shows several faces is decoded once: what has been cut out of
    it for one face waits until the others are asked for theirs, which is a window's worth when all are read alike.
    Embeddings are read whole.

    Raises:
        ValueError: a run that goes by embeddings is given anything else.
        MediaError, FileNotFoundError: a video cannot be read.
    """
    if encoder.image is None:
        if wrong := [face.video for face in faces if face.video.suffix != ".npy" or face.track]:
            raise ValueError(
                f"this run goes by embeddings: a face must be a .npy file of a vector per frame, got {wrong[0]}. Make "
                "them with the network that made those of the training."
            )
        vectors = [encoder.prepare(face.video) for face in faces]  # (N, E) each
        ends = {face.video: len(of) / encoder.fps for face, of in zip(faces, vectors, strict=True)}
        return [iter(of) for of in vectors], ends
    ends = {video: end_of(video) for video in dict.fromkeys(face.video for face in faces)}
    shown: dict[int, Iterator[Tensor]] = {}
    for video, end_s in ends.items():
        those = [number for number, face in enumerate(faces) if face.video == video]
        pictures = at_rate(stream(video, grey=True), end_s, encoder.fps)
        together = _cut(encoder, pictures, [faces[number].track for number in those])
        for place, (number, copy) in enumerate(zip(those, itertools.tee(together, len(those)), strict=True)):
            shown[number] = map(itemgetter(place), copy)
    return [shown[number] for number in range(len(faces))], ends


def _cut(encoder: VideoEncoder, pictures: Iterable, tracks: Sequence[FaceTrack | None]) -> Iterator[list[Tensor]]:
    """What the encoder looks at in each picture of a video at its rate: for each track (1, H, W) uint8."""
    for number, picture in enumerate(pictures):
        boxes = [None if track is None else box_at(track, number / encoder.fps) for track in tracks]
        cut = [crop(picture, box, encoder.part, encoder.size) for box in boxes]
        yield [torch.from_numpy(face)[None] for face in cut]


def remarks(separated: Separated, fps: float) -> list[str]:
    """What is to be said of videos that end more than a frame before the sound, or behind it."""
    said = []
    for video, end_s in separated.ends.items():
        both = f"{video} ends at {end_s:.2f} s and the sound at {separated.seconds:.2f} s"
        if end_s < separated.seconds - 1 / fps:
            said.append(f"{both}: the last frame stays meanwhile.")
        elif end_s > separated.seconds + 1 / fps:
            said.append(f"{both}: the rest of the video is not read.")
    return said


class _Heard:
    """The blocks of a sound, which adds them up as they pass."""

    def __init__(self, blocks: Iterable[Tensor]):
        self.blocks, self.samples, self.energy = blocks, 0, 0.0

    def __iter__(self) -> Iterator[Tensor]:
        for block in self.blocks:
            self.samples += len(block)
            self.energy += float(block.double().square().sum())
            yield block
