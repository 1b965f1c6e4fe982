"""Audio encoders: a wave -> `Features` over time, and over frequency where the network keeps it.

"vgg" and "resnet" see a spectrogram, "soundnet" the wave, "yamnet" is pretrained. How a clip is normalised:

- A spectrogram is taken relative to its clip's loudest cell, and cut 80 dB below it. A recording's gain says how far
  the microphone stood, not what sounded, and digital silence behind a short clip would otherwise lie 20 nats below the
  faintest noise. Clips that are quiet throughout (peak power below 1e-6) are not lifted, so silence stays silence.
- Each band is then normalised over the training set (BatchNorm without scale), which makes the mean of a band zero:
  that is what SpecAugment fills with.
- "soundnet" divides a wave by its peak, for the first reason. "yamnet" takes it as it is: it was trained that way.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mm.config import AudioConfig
from mm.encoders.audio_networks import MaskedNorm, ResNet, SoundNet, Vgg, YamNet
from mm.encoders.encoder import Encoder, load_weights
from mm.encoders.state_files import read_state
from mm.features import Features, mask_from_lengths, masked_max, masked_mean
from mm.media import read_audio
from mm.naming import known
from mm.signal import Stft, cepstrum, clip_peak, log_mel, log_power

AUDIO_ENCODERS: dict[str, type[nn.Module]] = {"vgg": Vgg, "resnet": ResNet, "soundnet": SoundNet, "yamnet": YamNet}
FRONT_ENDS = ("log_mel", "linear", "mfcc")
RANGE = 80 * np.log(10) / 10  # nats kept below a clip's peak: 80 dB
QUIET = float(np.log(1e-6))  # peaks below this are not lifted
LEAST_WAVE = 1e-3  # nor are waves whose peak is below this
STRIPES = 2  # SpecAugment hides that many stripes of bands and as many of frames
MFCC_BANDS = 64  # mel bands that fewer cepstral coefficients are computed from


class AudioEncoder(Encoder):
    """Sound at `sample_rate` -> `Features`.

    Args:
        name: a key of `AUDIO_ENCODERS`.
        front_end: "log_mel", "linear" (log power of every bin) or "mfcc"; for "vgg" and "resnet".
        sample_rate: Hz.
        window_s: seconds, Hamming; for "vgg" and "resnet".
        hop_s: seconds; for "vgg" and "resnet".
        bands: mel bands or cepstral coefficients; not for "linear".
        width: a quarter of the channels of the widest convolution.
        spec_augment: share of the bands and of the frames hidden on average while training, in two stripes each, whose
            widths are uniform (Park et al. 2019); for "vgg" and "resnet".
        freeze: nothing trains and the whole network is the trunk, whose outputs may be cached.

    The map has one vector per cell: grid (F', frames) for "vgg" and "resnet", a cell being 8 bands x 8 hops; (frames,)
    for "soundnet", 2048 samples each, and for "yamnet", a patch of 0.96 s every 0.48 s. The vector is mean and maximum
    over the real cells, one behind the other (D_v = 2 D); of "yamnet" the mean alone (1024), as published.

    Raises:
        ValueError: an unknown name or front end, or a setting that this network does not have.
    """

    modality = "audio"
    rows: int  # F' of the map

    def __init__(
        self,
        name: str = AudioConfig.name,
        front_end: str = AudioConfig.front_end,
        sample_rate: int = AudioConfig.sample_rate,
        window_s: float = AudioConfig.window_s,
        hop_s: float = AudioConfig.hop_s,
        bands: int = AudioConfig.bands,
        width: int = AudioConfig.width,
        spec_augment: float = AudioConfig.spec_augment,
        freeze: bool = AudioConfig.freeze,
    ) -> None:
        super().__init__()
        self.name = known(name, AUDIO_ENCODERS, "audio encoder")
        self.front_end = known(front_end, FRONT_ENDS, "front end")
        self.sample_rate, self.spec_augment, self.frozen_whole = sample_rate, spec_augment, freeze
        self._reject_settings_without_effect()
        if not 0 <= spec_augment < 1 or width < 1 or bands < 1:
            raise ValueError(
                "spec_augment must lie in [0, 1), width and bands must be at least 1: "
                f"got {spec_augment}, {width} and {bands}."
            )
        self.bands = bands
        network: Any = YamNet() if name == "yamnet" else AUDIO_ENCODERS[name](width)
        self.network = network.to(memory_format=torch.channels_last)  # 1.3x faster on a CPU
        self.input_norm: MaskedNorm | None = None
        if self.takes_spectrogram:
            self.stft = Stft(sample_rate, window_s, hop_s)
            height = self.stft.bins if front_end == "linear" else bands
            self.input_norm = MaskedNorm(height, affine=False)
            self.rows = -(-height // 8)
        else:
            self.rows = 1
        self.dim = self.network.dim
        self.vector_dim = self.dim if name == "yamnet" else 2 * self.dim
        if freeze:
            self.freeze_modules([self.network] if self.input_norm is None else [self.input_norm, self.network])

    @property
    def takes_spectrogram(self) -> bool:
        """Whether the network sees a spectrogram made here, rather than the wave."""
        return self.name in ("vgg", "resnet")

    def prepare(self, source: str | Path | bytes | np.ndarray | Tensor, view: int = 0) -> Tensor:
        """A file, or samples at `sample_rate`, (T,) or (C, T) -> (T,) float32."""
        if view:
            raise ValueError(f"sounds have no fixed crops: view must be 0, got {view}.")
        array = isinstance(source, (np.ndarray, Tensor))
        return read_audio(source, self.sample_rate, self.sample_rate if array else None)

    def trunk(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Frozen: (B, T) -> (B, N, F' D) and the real frames (B,); else the identity."""
        if not self.frozen_whole:
            return values, lengths
        with torch.no_grad():
            return self.cells(values, lengths)

    def tail(self, values: Tensor, lengths: Tensor | None = None) -> Features:
        """(B, N, F' D) of a frozen trunk, or (B, T) waves -> `Features`."""
        if not self.frozen_whole:
            values, lengths = self.cells(values, lengths)
        return self._features(values, lengths)

    def seen(self, values: Tensor) -> Tensor:
        """(B, T) waves -> spectrograms (B, 1, F, N), low bands first; of "soundnet" the waves (B, 1, 1, T)."""
        return self._input(values.float(), None)[0]

    def from_seen(self, x: Tensor) -> Features:
        """Features of spectrograms (B, 1, F, N), or of waves (B, 1, 1, T)."""
        return self._features(_frames(self.network(x, None)[0]), None)

    def _features(self, values: Tensor, lengths: Tensor | None) -> Features:
        """(B, N, F' D) and (B,) real frames -> map, mask, vector."""
        batch, frames = values.shape[:2]
        cells = values.float() if values.dtype == torch.float16 else values
        map = cells.unflatten(2, (self.rows, self.dim)).transpose(1, 2).flatten(1, 2)  # (B, F' N, D)
        if lengths is None:
            mask = map.new_ones(batch, self.rows * frames, dtype=torch.bool)  # (B, F' N)
        else:
            mask = mask_from_lengths(lengths, frames).repeat(1, self.rows)  # (B, F' N)
        vector = masked_mean(map, mask)  # (B, D)
        if self.name != "yamnet":
            vector = torch.cat([vector, masked_max(map, mask)], dim=1)  # (B, 2 D)
        grid = (self.rows, frames) if self.takes_spectrogram else (frames,)
        return Features(map, mask, vector, grid)

    def cells(self, waves: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """(B, T) and (B,) samples -> (B, N, F' D) and (B,) frames, None = all real."""
        if waves.dim() != 2 or waves.shape[1] == 0 or not waves.is_floating_point():
            raise ValueError(f"waves must be (B, T) float with T >= 1: got {waves.dtype} {tuple(waves.shape)}.")
        if lengths is not None:
            if bool((lengths < 1).any()) or bool((lengths > waves.shape[1]).any()):
                raise ValueError(f"lengths must lie in 1..{waves.shape[1]}: got {lengths.tolist()}. Drop empty clips.")
            lengths = None if bool((lengths == waves.shape[1]).all()) else lengths
        with torch.autocast(waves.device.type, enabled=False):  # logarithms of 8 bits would be noise
            x, frames = self._input(waves.float(), lengths)
        x, frames = self.network(x, frames)  # (B, D, F', N)
        return _frames(x), frames  # (B, N, F' D)

    def _input(self, waves: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the network sees: (B, 1, F, N) or (B, 1, 1, T), and its real frames; of "yamnet" samples."""
        if lengths is not None:
            waves = waves * mask_from_lengths(lengths, waves.shape[1])  # (B, T)
        if self.input_norm is None:
            if isinstance(self.network, YamNet):
                return self.network.log_mel(waves), lengths
            waves = waves / waves.abs().amax(dim=1, keepdim=True).clamp_min(LEAST_WAVE)
            return waves[:, None, None], lengths
        frames = None if lengths is None else self.stft.frames_of(lengths)
        if self.front_end == "linear":
            spec = log_power(waves, self.stft)  # (B, F, N)
        else:
            bands = self.bands if self.front_end == "log_mel" else max(self.bands, MFCC_BANDS)
            spec = log_mel(waves, self.stft, bands)  # (B, F, N)
        spec = (spec - clip_peak(spec, frames).clamp_min(QUIET)).clamp_min(-RANGE)
        if self.front_end == "mfcc":
            spec = cepstrum(spec, self.bands)  # (B, F, N)
        mask = None if frames is None else mask_from_lengths(frames, spec.shape[2])[:, None].float()  # (B, 1, N)
        spec = self.input_norm(spec, mask)
        if mask is not None:
            spec = spec * mask
        if self.training and self.spec_augment:
            spec = spec_augment(spec, self.spec_augment, frames)
        return spec[:, None], frames  # (B, 1, F, N)

    def _reject_settings_without_effect(self) -> None:
        fixed = {
            "vgg": (),
            "resnet": (),
            "soundnet": ("front_end", "window_s", "hop_s", "bands", "spec_augment"),
            "yamnet": ("front_end", "sample_rate", "window_s", "hop_s", "bands", "width", "spec_augment"),
        }[self.name]
        idle = [key for key in fixed if self.config[key] != getattr(AudioConfig, key)]
        if self.takes_spectrogram and self.front_end == "linear" and self.config["bands"] != AudioConfig.bands:
            idle.append("bands")
        if self.frozen_whole and self.spec_augment and self.takes_spectrogram:
            idle.append("spec_augment")
        if idle:
            raise ValueError(
                f"{idle} would have no effect with name={self.name!r}, front_end={self.front_end!r} and "
                f"freeze={self.frozen_whole}: leave them at "
                f"{[getattr(AudioConfig, key) for key in idle]}."
            )


def _frames(x: Tensor) -> Tensor:
    """What a network gives, as frames: (B, D, F', N) -> (B, N, F' D)."""
    return x.permute(0, 3, 2, 1).flatten(2)  # (B, N, F' D)


def spec_augment(spec: Tensor, share: float, frames: Tensor | None = None) -> Tensor:
    """Hide stripes of bands and of frames behind zeros, with torch's random numbers (Park et al. 2019, no warping).

    Args:
        spec: (B, F, N), zero on average.
        share: widths are uniform in 0..share of the bands, and of each clip's real frames: two stripes of each hide
            `share` on average, less where they overlap.
        frames: (B,) real frames; None = N.
    """
    batch, bands, places = spec.shape
    real = spec.new_full((batch,), places) if frames is None else frames.to(spec.dtype)  # (B,)
    hidden = torch.zeros_like(spec, dtype=torch.bool)  # (B, F, N)
    for sizes, length, axis in ((spec.new_full((batch,), bands), bands, 1), (real, places, 2)):
        width, start = torch.rand(2, batch, STRIPES, device=spec.device).unbind()  # (B, STRIPES)
        width = width * share * sizes[:, None]
        start = start * (sizes[:, None] - width)
        at = torch.arange(length, device=spec.device) + 0.5  # (length,)
        inside = (at >= start[..., None]) & (at < (start + width)[..., None])  # (B, STRIPES, length)
        hidden |= inside.any(1).unsqueeze(3 - axis)  # (B, F, 1) or (B, 1, N)
    return spec.masked_fill(hidden, 0.0)


def audio_encoder(name: str = AudioConfig.name, weights: str = AudioConfig.weights, **options: Any) -> AudioEncoder:
    """Build an audio encoder, and fill it from a local state-dict file.

    Args:
        name: a key of `AUDIO_ENCODERS`.
        weights: "" = random; for "yamnet" the file of its layers (the classifier of 521 classes in it is left aside);
            for the others `AudioEncoder.state_dict()`, as .pth or .safetensors.
        options: the other arguments of `AudioEncoder`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: keys are missing or unexpected, or shapes differ.
    """
    encoder = AudioEncoder(name=name, **options)
    if weights:
        state = read_state(weights)
        if name == "yamnet":
            state = {key: value for key, value in state.items() if not key.startswith("classifier.")}
        load_weights(encoder.network if name == "yamnet" else encoder, state, weights)
    return encoder
