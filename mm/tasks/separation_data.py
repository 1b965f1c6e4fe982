"""What a run of separation reads: people who talk, each alone, and the mixtures that are made of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mm import data
from mm.config import ConfigError
from mm.data import Batches, Cache, cached
from mm.data.frozen import CacheProgress
from mm.data.item import UnreadableError
from mm.data.mixtures import Hear, Mixtures, See, mixed_batch, read, speaks
from mm.data.talks import Talk, gathered
from mm.distributed import rank, world_size
from mm.encoders.spectrogram import SpectrogramEncoder
from mm.encoders.video import VideoEncoder
from mm.features import pad
from mm.media import VERSION
from mm.tasks.separation import Separation
from mm.tasks.separation_model import SpeechSeparator

EVALUATION_SEED = 0  # of the mixtures of a split, which are the same for every run of one set


class Talks(Protocol):
    """The talks of a split, and who talks in each."""

    @property
    def speakers(self) -> tuple[str, ...]:
        """Who talks in each, in order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Talk: ...


class Heard:
    """A talk -> (T,) its voice, as an audio encoder takes it."""

    def __init__(self, encoder: SpectrogramEncoder):
        self.prepare = encoder.prepare

    def __call__(self, talk: Talk) -> Tensor:
        """(T,) float32."""
        return self.prepare(talk.voice)


class Seen:
    """A talk -> its frames as a video encoder takes them, (N, 1, H, W) uint8 or (N, E); cut out now, or cached.

    Args:
        encoder: of the faces.
        cache: the frames of all faces that are files.
    """

    def __init__(self, encoder: VideoEncoder, cache: Cache | None = None):
        self.prepare, self.cache = encoder.prepare, cache

    def __call__(self, talk: Talk) -> Tensor:
        """(N, ...)."""
        if self.cache is not None and isinstance(talk.face, Path):
            return self.cache.row(talk.face)
        return self.prepare((talk.face, talk.track))


def load(cfg: Separation, splits: Sequence[str] = ("train", "val", "test")) -> list[Talks]:
    """The talks of some splits.

    Raises:
        ConfigError: a split has fewer talks than a mixture has voices.
        FileNotFoundError, UnreadableError: see `mm.data.load_talks`.
    """
    found = []
    for split in splits:
        talks = cast(Talks, data.load_talks(cfg.data, split, cfg.seed))
        most = max(cfg.mix.voices)
        if len(talks) < most:
            raise ConfigError(f"mixtures of {most} voices need as many talks: the {split} split has {len(talks)}.")
        found.append(talks)
    return found


def training_batches(model: SpeechSeparator, talks: Talks, cfg: Separation) -> dict[int, Batches]:
    """{number of voices: batches of such mixtures}; each batch is a pure function of the seed and the step.

    Raises:
        UnreadableError: (with data.skip_bad not at all) a talk that cannot be read or is silent, when it is its turn.
    """
    if cfg.data.skip_bad and cfg.data.name not in data.DRAWN_TALKS:
        talks = readable(talks, Heard(model.audio), Seen(model.video) if cfg.faces else None)
    hear, see = senses(model, talks, cfg)
    return {
        voices: Batches(
            mixtures(talks, hear, see, cfg, voices, whole=False),
            cfg.data.batch_size,
            cfg.seed,
            cfg.data.workers,
            rank(),
            world_size(),
            mixed_batch,
        )
        for voices in cfg.mix.voices
    }


def readable(talks: Talks, hear: Hear, see: See | None) -> data.Talks:
    """The talks that can be heard and seen: every file is read once; the others are named and counted."""
    faults = data.Faults("training talks", skip=True)
    kept = []
    for number in range(len(talks)):
        try:
            talk = talks[number]
            speaking = speaks(read(hear, talk))
            if see is not None:
                read(see, talk)
        except UnreadableError as error:
            faults.add(str(error))
        else:
            if speaking:
                kept.append(talk)
            else:
                faults.add(f"{talk.id} is silent.")
    return gathered(kept, faults, Path("the data set"), "train")


def mixtures(
    talks: Talks, hear: Hear, see: See | None, cfg: Separation, voices: int = 2, whole: bool = True
) -> Mixtures:
    """Mixtures of some talks: of whole ones to evaluate on, of parts to train on."""
    audio, video = cfg.encoder.audio, cfg.encoder.video
    sequence = cast(Sequence[Talk], talks)
    seed = EVALUATION_SEED if whole else cfg.seed
    return Mixtures(sequence, hear, see, cfg.mix, audio.sample_rate, video.fps, voices, seed, whole)


def senses(model: SpeechSeparator, talks: Talks, cfg: Separation) -> tuple[Heard, Seen | None]:
    """How the talks of a split are heard and seen."""
    if not cfg.faces:
        return Heard(model.audio), None
    cache = face_cache(model.video, talks, cfg) if cfg.encoder.video.cache else None
    return Heard(model.audio), Seen(model.video, cache)


def face_cache(encoder: VideoEncoder, talks: Talks, cfg: Separation) -> Cache | None:
    """The frames of all faces that are files, read from disk or cut out now; None where there are none."""
    every = (talks[k] for k in range(len(talks)))
    filed = [(talk.face, talk.track) for talk in every if isinstance(talk.face, Path)]
    tracks = dict(filed)
    if not tracks:
        raise ConfigError(f"encoder.video.cache keeps what is cut out of files: {cfg.data.name!r} draws its faces.")
    if len(tracks) < len(filed):
        raise ConfigError("encoder.video.cache keeps one face of each video: here two talks share one. Turn it off.")

    def compute(sources: list, view: int) -> tuple[Tensor, Tensor | None]:
        return pad([encoder.prepare((source, tracks[source])) for source in sources])

    with tqdm(desc="face cache", unit="clip", disable=None) as bar:
        return cached(
            compute,
            list(tracks),
            fingerprint(encoder, tracks),
            cfg.data.cache,
            dtype="uint8",
            batch_size=8,
            progress=CacheProgress("face cache", bar),
        )


def fingerprint(encoder: VideoEncoder, tracks: dict) -> str:
    """16 hex digits that change with how frames are cut out, and with where the faces are."""
    digest = hashlib.sha256(json.dumps([VERSION, encoder.fps, encoder.part, encoder.size]).encode())
    for face, track in tracks.items():
        if isinstance(track, Path):
            digest.update(track.read_bytes())
        elif track is not None:
            digest.update(np.ascontiguousarray(track.times).tobytes() + np.ascontiguousarray(track.boxes).tobytes())
        digest.update(face.name.encode())
    return digest.hexdigest()[:16]


def frozen(faces: Tensor) -> Tensor:
    """Faces that do not move: the middle frame in place of all, (..., N, C, H, W) or (N, E) -> the same."""
    axis = frame_axis(faces)
    return faces.narrow(axis, faces.shape[axis] // 2, 1).expand_as(faces)


def delayed(faces: Tensor, seconds: float, fps: float) -> Tensor:
    """Faces that are late by the nearest number of frames: before their beginning the first frame stands."""
    axis = frame_axis(faces)
    shown = (torch.arange(faces.shape[axis]) - round(seconds * fps)).clamp_min(0)  # (N,)
    return faces.index_select(axis, shown.to(faces.device))


def frame_axis(faces: Tensor) -> int:
    """Of (..., N, 1, H, W) frames or (..., N, E) embeddings."""
    return faces.dim() - (4 if faces.dtype == torch.uint8 else 2)
