"""A sound -> `Features` of every frame of its spectrogram: what a head needs that masks the spectrogram itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mm.encoders.audio_networks import MaskedNorm
from mm.encoders.encoder import Encoder
from mm.features import Features, mask_from_lengths, masked_mean
from mm.media import read_audio
from mm.signal import Stft, compress

CHANNELS = (24, 48, 64)  # of the three convolutions
KERNELS = ((7, 3), (5, 3), (3, 3))  # bins x frames
STRIDES = (4, 2, 2)  # of the bins; frames stay
LEAST_LEVEL = 1e-4  # root mean square of a clip; what is more quiet is not lifted


@dataclass
class SpectrogramConfig:
    """Encoder of the frames of a spectrogram."""

    sample_rate: int = 16000  # Hz
    window_s: float = 0.025  # seconds of sound in a frame
    hop_s: float = 0.010  # seconds from one frame to the next
    power: float = 0.3  # magnitudes are raised to it
    width: int = 256  # numbers of a frame
    rate: float = 1.0  # learning rate relative to optim.lr
    init: str = ""  # run folder whose encoder to start from


class SpectrogramEncoder(Encoder):
    """A wave -> one vector for each frame of its short-time spectrum, by dilated convolutions over bins and frames.

    The network sees magnitude, real and imaginary part of the spectrum, compressed by a power (Ephrat et al. 2018,
    section 3), of a clip at a root mean square of 1: how loud a recording is does not matter. Frames keep their number,
    bins are thinned out; the convolutions are dilated over the frames by 1, 2 and 4.

    Args:
        sample_rate: Hz.
        window_s: seconds of a window, Hamming.
        hop_s: seconds from one frame to the next.
        power: magnitudes are raised to it, phases stay.
        width: D, numbers of a frame.

    The map has one vector per frame, grid (frames,), frame n being centred on second n `hop_s`; the vector is its mean.
    """

    modality = "audio"

    def __init__(
        self,
        sample_rate: int = SpectrogramConfig.sample_rate,
        window_s: float = SpectrogramConfig.window_s,
        hop_s: float = SpectrogramConfig.hop_s,
        power: float = SpectrogramConfig.power,
        width: int = SpectrogramConfig.width,
    ) -> None:
        super().__init__()
        if not 0 < power <= 1 or width < 1:
            raise ValueError(f"power must lie in (0, 1] and width be at least 1: got {power} and {width}.")
        self.sample_rate, self.power = sample_rate, power
        self.stft = Stft(sample_rate, window_s, hop_s)
        self.dim = self.vector_dim = width
        convs: list[Any] = []
        norms = []
        inputs, bins = 3, self.stft.bins
        for layer, (outputs, kernel, stride) in enumerate(zip(CHANNELS, KERNELS, STRIDES, strict=True)):
            dilation = 2**layer
            convs.append(
                nn.Conv2d(
                    inputs,
                    outputs,
                    kernel,
                    (stride, 1),
                    (kernel[0] // 2, dilation),
                    dilation=(1, dilation),
                    bias=False,
                )
            )
            norms.append(MaskedNorm(outputs))
            inputs, bins = outputs, (bins - 1) // stride + 1
        self.convs = nn.ModuleList(conv.to(memory_format=torch.channels_last) for conv in convs)
        self.norms = nn.ModuleList(norms)
        self.relu = nn.ReLU()
        self.out = nn.Linear(inputs * bins, width)

    def prepare(self, source: str | Path | bytes | np.ndarray | Tensor, view: int = 0) -> Tensor:
        """A file, or samples at `sample_rate`, (T,) or (C, T) -> (T,) float32."""
        if view:
            raise ValueError(f"sounds have no fixed crops: view must be 0, got {view}.")
        array = isinstance(source, (np.ndarray, Tensor))
        return read_audio(source, self.sample_rate, self.sample_rate if array else None)

    def tail(self, values: Tensor, lengths: Tensor | None = None) -> Features:
        """(B, T) waves -> one vector per frame."""
        batch, samples = values.shape
        frames = self.stft.frames_of(samples)
        if lengths is None:
            mask = values.new_ones(batch, frames, dtype=torch.bool)  # (B, N)
        else:
            values = values * mask_from_lengths(lengths, samples)  # (B, T)
            mask = mask_from_lengths(self.stft.frames_of(lengths), frames)  # (B, N)
        real = None if lengths is None else mask[:, None, None].float()  # (B, 1, 1, N)
        x = self.seen(values, lengths)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x if real is None else x * real
            x = self.relu(norm(conv(x), real))  # (B, C, F', N)
        map = self.out(x.permute(0, 3, 1, 2).flatten(2))  # (B, N, D)
        map = map * mask[..., None]  # (B, N, D)
        return Features(map, mask, masked_mean(map, mask), (frames,))

    def seen(self, waves: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What the network sees: (B, T) -> (B, 3, F, N) magnitude, real and imaginary part, compressed, about 1."""
        with torch.autocast(waves.device.type, enabled=False):  # phases of 8 bits would be noise
            waves = waves.float()
            spec = self.stft(waves / level(waves, lengths)[:, None])  # (B, F, N)
            spec = compress(spec / self.stft.window**0.5, self.power)  # a bin of noise has a magnitude about 1
            return torch.stack([spec.abs(), spec.real, spec.imag], dim=1)  # (B, 3, F, N)


def level(waves: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Root mean square of each clip, (B, T) -> (B,); zeros behind a clip do not count. At least 1e-4."""
    samples = waves.shape[-1] if lengths is None else lengths
    return (waves.square().sum(-1) / samples).sqrt().clamp_min(LEAST_LEVEL)  # (B,)
