"""The model that separates voices: an audio encoder, a video encoder, and the head that masks the spectrogram."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mm import encoders
from mm.encoders.encoder import concatenate
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

    @torch.no_grad()
    def view(self, of: str, sources: Mapping[str, Any], target: str = "") -> encoders.View:
        """What of a face lets its voice through: the share of the mixture behind its mask, to be explained.

        Args:
            of: "video".
            sources: {"audio": a sound, "video": its faces}, see `separate`; of a long one the first window.
            target: which face, from 1 on; "" = the first.

        Raises:
            ValueError: a model that only hears, a source is missing, or there is no such face.
        """
        encoders.check_sources(of, sources, ["audio", "video"])
        if of != "video" or "video" not in self.encoders or "audio" not in sources:
            raise ValueError(
                "of a separation a face is explained, with the sound that it is seen to: give faces and a sound, to a "
                "run that goes by faces."
            )
        faces = sources["video"]
        if not (target or "1").isdigit() or not 1 <= int(target or 1) <= len(faces):
            raise ValueError(f"the target is the number of a face, in 1..{len(faces)}: got {target!r}.")
        number = int(target or 1) - 1
        wave = self.audio.prepare(sources["audio"])[: round(Windows.seconds * self.audio.sample_rate)]  # (T,)
        frames = round(Windows.seconds * self.head.fps)
        seen = [encoders.seen_of(self.video, face)[:, :frames] for face in faces]  # (1, N, H, W) each
        with in_eval_mode(self):
            heard = self.audio(wave[None].to(self.device))
            others = [self.video.from_seen(one) for one in seen]
            power = self.audio.stft(wave.to(self.device)).abs().square()  # (F, N)

        def share(features: Features) -> Tensor:
            """Features of the face, or of variants of it -> the share of its voice: (B, 1)."""
            count = len(features.map)
            each = [features if k == number else encoders.repeated(one, count) for k, one in enumerate(others)]
            together = concatenate(each)  # all copies of the first face, then of the second
            order = torch.arange(len(each) * count, device=self.device).view(len(each), count).T.flatten()  # (B S,)
            shown = Features(together.map[order], together.mask[order], together.vector[order], together.grid)
            masks = self.head(encoders.repeated(heard, count), shown, len(each))[:, number]  # (B, F, N)
            return ((masks.abs().square() * power).sum((1, 2)) / power.sum().clamp_min(1e-12))[:, None]  # (B, 1)

        net = encoders.EndToEnd(self.video, self.head, share)
        return encoders.View(net, seen[number], 0, f"share of the mixture behind the mask of face {number + 1}")

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
