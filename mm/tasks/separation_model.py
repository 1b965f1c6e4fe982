"""The model that separates voices: an audio encoder, a video encoder, and the head that masks the spectrogram."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mm import encoders
from mm.encoders.spectrogram import SpectrogramEncoder
from mm.encoders.video import FaceSource, VideoEncoder
from mm.features import Features
from mm.heads.separator import Separator, masked
from mm.modes import in_eval_mode
from mm.tasks.separation_windows import Windows, joined, separated
from mm.video import Frames


class SpeechSeparator(nn.Module):
    """Encoders of sound and of faces under the separator.

    Args:
        towers: {"audio": of the spectrogram, "video": of the faces; left out of a model that only hears}.
        head: masks the spectrogram.
    """

    def __init__(self, towers: Mapping[str, encoders.Encoder], head: Separator):
        super().__init__()
        self.encoders = nn.ModuleDict(towers)
        self.head = head

    def encoder(self, modality: str) -> encoders.Encoder:
        """The encoder of a modality."""
        return cast(encoders.Encoder, self.encoders[modality])

    @property
    def audio(self) -> SpectrogramEncoder:
        """The encoder of the mixture, whose spectrum is masked."""
        return cast(SpectrogramEncoder, self.encoders["audio"])

    @property
    def video(self) -> VideoEncoder:
        """The encoder of the faces."""
        return cast(VideoEncoder, self.encoders["video"])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.fuse.weight.device

    def forward(
        self,
        mixture: Tensor,
        faces: Tensor | None,
        sources: int,
        lengths: Tensor | None = None,
        face_lengths: Tensor | None = None,
    ) -> Tensor:
        """One voice for each face: (B, S, T), each at its level in the mixture.

        Args:
            mixture: (B, T).
            faces: (B, S, N, 1, H, W) frames, or (B, S, N, E) embeddings; None for a model that only hears.
            sources: S.
            lengths: (B,) real samples; None = all. What is behind them comes back as zeros.
            face_lengths: (B, S) real frames; None = all. The last one stays on show.
        """
        masks = self.masks(mixture, faces, sources, lengths, face_lengths)
        waves = self.behind(masks, mixture, lengths)  # (B, S, T)
        if lengths is None:
            return waves
        return waves * (torch.arange(mixture.shape[1], device=waves.device) < lengths[:, None])[:, None]  # (B, S, T)

    def masks(
        self,
        mixture: Tensor,
        faces: Tensor | None,
        sources: int,
        lengths: Tensor | None = None,
        face_lengths: Tensor | None = None,
    ) -> Tensor:
        """The masks of the mixture's spectrum: (B, S, F, N)."""
        heard = self.audio(mixture, lengths)
        seen: Features | None = None
        if faces is not None:
            flat = None if face_lengths is None else face_lengths.flatten()  # (B S,)
            seen = self.video(faces.flatten(0, 1), flat)
        return self.head(heard, seen, sources)  # (B, S, F, N)

    def behind(self, masks: Tensor, mixture: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What of a mixture is behind masks: (B, S, F, N), (B, T) -> (B, S, T).

        The last samples may lie under nothing but the rim of the last frame's window, and the inverse divides by it: a
        click. So the last mask stays for the frames behind the end, which reach back over it.
        """
        stft = self.audio.stft
        with torch.autocast(mixture.device.type, enabled=False):
            spec = stft(functional.pad(mixture.float(), (0, stft.window)))  # (B, F, N')
            at = torch.arange(spec.shape[-1], device=masks.device)[None]  # (1, N')
            last = masks.shape[-1] - 1 if lengths is None else stft.frames_of(lengths)[:, None] - 1  # () or (B, 1)
            at = at.clamp(max=last)[:, None, None].expand(len(masks), *masks.shape[1:3], -1)  # (B, S, F, N')
            return stft.inverse(masked(masks.gather(3, at), spec), mixture.shape[1])  # (B, S, T)

    def separate(
        self,
        mixture: str | Path | np.ndarray | Tensor,
        faces: Sequence[FaceSource] | int,
        windows: Windows | None = None,
    ) -> Tensor:
        """One voice for each face, of a mixture of any length, in eval mode, by overlapping windows.

        Args:
            mixture: a sound or video file, or samples (T,) at the rate of the audio encoder.
            faces: as many as there are voices, each a video file or what else `VideoEncoder.prepare` takes; of a
                model that only hears, how many voices there are. A face that is on show longer than the sound is cut;
                of one that ends before it the last frame stays.
            windows: how the mixture is cut; None = the defaults.

        Returns:
            (S, T) float32 on the CPU, voice k that of face k. Louder than 1 where voices cancel each other out.

        Raises:
            TypeError: one face instead of a list.
            ValueError: no face, or faces for a model that only hears.
            MediaError, FileNotFoundError: a file cannot be read; the message names it.
        """
        if isinstance(faces, (str, Path, np.ndarray, Tensor, Frames)):
            raise TypeError(f"faces must be a list of faces: got one {type(faces).__name__}. Write [face].")
        wave = self.audio.prepare(mixture)  # (T,)
        if isinstance(faces, int):
            return joined(self.windowed([wave], None, faces, windows))
        shown = [self.video.prepare(face) for face in faces] if "video" in self.encoders else []
        return joined(self.windowed([wave], [iter(face) for face in shown], len(faces), windows))

    def windowed(
        self,
        sound: Iterable[Tensor],
        faces: Sequence[Iterator[Tensor]] | None,
        voices: int,
        windows: Windows | None = None,
    ) -> Iterator[Tensor]:
        """The same of a sound and of faces that are still being read: blocks (S, t), see `separated`.

        Raises:
            ValueError: no face, faces for a model that only hears, or none for one that sees.
        """
        if (faces is None) != self.head.heard_only:
            raise ValueError(
                "this model only hears: it takes the number of voices, and no face."
                if faces is not None
                else "this model goes by faces: it takes one for each voice, and got none."
            )

        def one(mixture: Tensor, shown: Tensor | None) -> Tensor:
            seen = None if shown is None else shown[None].to(self.device)
            with in_eval_mode(self):
                return self(mixture[None].to(self.device), seen, voices)[0].cpu()  # (S, T)

        return separated(one, sound, faces, self.audio.sample_rate, self.head.fps, windows)
