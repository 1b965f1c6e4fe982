"""Who says what: the frames of a mixture and of each face -> one mask of the spectrogram per face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.features import Features

MOST_FACES = 4  # without faces there are that many voices to ask for
KERNEL = 3  # frames that a convolution of the trunk sees, dilated by 1, 2, 4, 8 and again
BEFORE, AFTER = 3, 2  # convolutions around the recurrent layer

Mask = Literal["complex", "magnitude", "phase_sensitive"]


@dataclass
class SeparatorConfig:
    """Speech-separation head."""

    mask: Mask = "complex"  # of a frequency in a frame: any complex number, 0..1, or any real number
    trunk: Literal["recurrent", "convolutional"] = "recurrent"  # one BLSTM between convolutions, or convolutions alone
    blocks: int = 8  # convolutions over time of trunk=convolutional
    width: int = 384  # numbers of a frame of a face
    dropout: float = 0.0  # share of the numbers hidden while training


class Separator(nn.Module):
    """Features of a mixture and of the faces that talk in it -> a mask for each face.

    After Ephrat et al. 2018, figure 3: a face's frames are brought to the times of the spectrum's frames and put beside
    them; a trunk follows; a linear layer gives the mask. Here the trunk is run for every face with the same weights,
    and what it sees of the other faces is their mean: any number of faces will do, and their order is the order of
    the masks. Without faces (`heard_only`) learned vectors stand in their place, one for each voice: the masks then
    come in an order of the model's own.

    Args:
        audio_dim: D of the audio encoder's map.
        face_dim: D of the video encoder's map.
        bins: F of the spectrogram.
        fps: video frames per second.
        hop_s: seconds from one frame of the spectrogram to the next.
        cfg: sizes.
        heard_only: there are no faces.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        audio_dim: int,
        face_dim: int,
        bins: int,
        fps: float,
        hop_s: float,
        cfg: SeparatorConfig,
        heard_only: bool = False,
    ):
        super().__init__()
        if cfg.width < 2 or cfg.width % 2 or cfg.blocks < 1 or not 0 <= cfg.dropout < 1:
            raise ValueError(
                "head.width must be even, head.blocks at least 1 and head.dropout in [0, 1): got "
                f"{cfg.width}, {cfg.blocks} and {cfg.dropout}."
            )
        self.mask, self.fps, self.hop_s, self.heard_only = cfg.mask, fps, hop_s, heard_only
        width = cfg.width
        self.queries = nn.Parameter(0.5 * torch.randn(MOST_FACES, face_dim)) if heard_only else None
        self.fuse = nn.Linear(audio_dim + 2 * face_dim, width)
        if cfg.trunk == "recurrent":
            before, after = [2**k for k in range(BEFORE)], [2**k for k in range(AFTER)]
            self.recurrent: nn.LSTM | None = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)
        else:
            before, after = [2 ** (k % 4) for k in range(cfg.blocks)], []
            self.recurrent = None
        self.before = nn.ModuleList(Exchange(width, dilation, cfg.dropout) for dilation in before)
        self.after = nn.ModuleList(Exchange(width, dilation, cfg.dropout) for dilation in after)
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, 2 * bins if cfg.mask == "complex" else bins)

    def forward(self, audio: Features, faces: Features | None, sources: int) -> Tensor:
        """Masks: (B, S, F, N), complex64 for mask="complex", else float32.

        Args:
            audio: of B mixtures, grid (N,).
            faces: of B S faces, the first S of the first mixture, frame k at second k / fps; None = there are none.
            sources: S.

        Raises:
            ValueError: numbers of mixtures and faces differ.
        """
        batch, frames, _ = audio.map.shape
        each = self.queried(batch, sources, frames) if faces is None else self.timed(faces, sources, audio)
        own = each.to(audio.map.dtype)  # (B, S, N, D)
        x = torch.cat([audio.map[:, None].expand(-1, sources, -1, -1), own, others(own)], dim=-1)
        real = audio.mask[:, None, :, None]  # (B, 1, N, 1)
        x = self.fuse(x) * real  # (B, S, N, width)
        for block in self.before:
            x = block(x, real)
        if self.recurrent is not None:
            x = x + self.remembered(x, audio.mask) * real
        for block in self.after:
            x = block(x, real)
        numbers = self.out(self.norm(x)).float().transpose(2, 3)  # (B, S, F or 2 F, N)
        if self.mask == "complex":
            real_part, imaginary = numbers.chunk(2, dim=2)
            return torch.complex(real_part + 0.5, imaginary)  # (B, S, F, N)
        return numbers.sigmoid() if self.mask == "magnitude" else numbers + 0.5  # (B, S, F, N)

    def timed(self, faces: Features, sources: int, audio: Features) -> Tensor:
        """The vectors of the faces at the times of the sound's frames, between frames in proportion: (B, S, N, D).

        Before the first and behind the last real frame of a face stands that frame.
        """
        batch, frames, _ = audio.map.shape
        if faces.map.shape[0] != batch * sources or sources < 1:
            raise ValueError(f"{batch} mixtures of {sources} must have as many faces: got {faces.map.shape[0]}.")
        at = torch.arange(frames, device=faces.map.device) * (self.hop_s * self.fps)  # (N,) in video frames
        last = faces.mask.sum(dim=1, keepdim=True) - 1  # (B S, 1)
        at = torch.minimum(at[None], last.to(at.dtype))  # (B S, N)
        before = at.floor().long()  # (B S, N)
        after = torch.minimum(before + 1, last)  # (B S, N)
        share = (at - before)[..., None].to(faces.map.dtype)  # (B S, N, 1)
        dim = faces.map.shape[-1]
        first, second = (faces.map.gather(1, i[..., None].expand(-1, -1, dim)) for i in (before, after))
        return torch.lerp(first, second, share).unflatten(0, (batch, sources))  # (B, S, N, D)

    def queried(self, batch: int, sources: int, frames: int) -> Tensor:
        """What stands for the faces where there are none: (B, S, N, D)."""
        if self.queries is None or not 1 <= sources <= MOST_FACES:
            raise ValueError(
                f"a model with faces needs them, one without separates 1 to {MOST_FACES} voices: got {sources} and no "
                "face."
            )
        return self.queries[None, :sources, None].expand(batch, -1, frames, -1)  # (B, S, N, D)

    def remembered(self, x: Tensor, mask: Tensor) -> Tensor:
        """What the recurrent layer says of each frame, of real frames alone: (B, S, N, width) -> the same."""
        assert self.recurrent is not None
        batch, sources, frames, _ = x.shape
        flat = x.flatten(0, 1)  # (B S, N, width)
        if bool(mask.all()):
            return self.recurrent(flat)[0].unflatten(0, (batch, sources))  # (B, S, N, width)
        lengths = mask.sum(dim=1).repeat_interleave(sources).cpu()  # (B S,)
        packed = nn.utils.rnn.pack_padded_sequence(flat, lengths, batch_first=True, enforce_sorted=False)
        padded, _ = nn.utils.rnn.pad_packed_sequence(self.recurrent(packed)[0], batch_first=True, total_length=frames)
        return padded.unflatten(0, (batch, sources))  # (B, S, N, width)


class Exchange(nn.Module):
    """A residual block: a dilated convolution over the frames of each face, which also hears the mean of the others."""

    def __init__(self, width: int, dilation: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, KERNEL, padding=dilation, dilation=dilation)
        self.other = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width)
        self.dropout = dropout

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(B, S, N, width), (B, 1, N, 1) bool -> (B, S, N, width); frames that are not real stay zero."""
        batch, sources = x.shape[:2]
        h = self.norm(x) * real  # (B, S, N, width)
        own = self.conv(h.flatten(0, 1).transpose(1, 2)).transpose(1, 2)  # (B S, N, width)
        y = own.unflatten(0, (batch, sources)) + self.other(others(h))  # (B, S, N, width)
        y = functional.gelu(functional.dropout(y, self.dropout, self.training))
        return x + self.out(y) * real  # (B, S, N, width)


def others(x: Tensor) -> Tensor:
    """The mean of the other faces, zeros where there is none: (B, S, ...) -> (B, S, ...)."""
    return (x.sum(dim=1, keepdim=True) - x) / max(x.shape[1] - 1, 1)


def masked(mask: Tensor, spec: Tensor) -> Tensor:
    """A spectrogram behind masks: (B, S, F, N), (B, F, N) complex -> (B, S, F, N) complex."""
    return mask * spec[:, None]


def ideal_mask(kind: Mask, target: Tensor, mixture: Tensor) -> Tensor:
    """The mask of a kind that gives the target back as well as that kind can, frequency by frequency.

    "complex": target / mixture. "magnitude": the ratio of the magnitudes, cut at 1. "phase_sensitive": the real part of
    target / mixture (Erdogan et al. 2015, eq. 14), which is the best real number.

    Args:
        kind: of mask.
        target: (..., F, N) complex.
        mixture: (..., F, N) complex.

    Returns:
        (..., F, N), 0 where the mixture is 0.
    """
    ratio = target / torch.where(mixture == 0, torch.ones_like(mixture), mixture)
    if kind == "complex":
        return ratio
    return ratio.abs().clamp_max(1) if kind == "magnitude" else ratio.real
