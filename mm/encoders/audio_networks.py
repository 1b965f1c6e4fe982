"""Networks over sound: each maps padded inputs to cells (B, D, F', N') and how many of the N' frames are real.

Padding changes nothing: frames behind a clip's end are zero after every layer, just as the zeros that a convolution
pads with, and BatchNorm takes its training statistics from real frames alone. `frames` is (B,) int64; None = all real.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mm.features import mask_from_lengths
from mm.signal import Stft

Cells = tuple[Tensor, Tensor | None]


class MaskedNorm(_BatchNorm):
    """Batch normalisation over axis 1 of (B, C, ..., N) that leaves padded frames out of its statistics."""

    def _check_input_dim(self, input: Tensor) -> None:  # torch asks every normalisation for this check
        if input.dim() < 3:
            raise ValueError(f"what is normalised must be (B, C, ..., N): got {tuple(input.shape)}.")

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalise; `mask` broadcasts to (B, 1, ..., N), 1.0 = real, None = all real."""
        if mask is None or not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.dim())]
        x, shape = input.float(), [1, -1] + [1] * (input.dim() - 2)
        count = (mask.sum() * (x[:1, :1].numel() / x.shape[-1])).clamp_min(1.0)  # real places of a channel
        mean = (x * mask).sum(axes) / count  # (C,)
        variance = ((x - mean.view(shape)) * mask).square().sum(axes) / count  # (C,)
        with torch.no_grad():
            unbiased = variance * count / (count - 1).clamp_min(1.0)
            for average, now in ((self.running_mean, mean), (self.running_var, unbiased)):
                assert average is not None and self.momentum is not None  # MaskedNorm is never built without them
                average.lerp_(now, self.momentum)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        scale = (variance + self.eps).rsqrt()  # (C,)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        return x * scale.view(shape) + shift.view(shape)


class ConvNorm(nn.Module):
    """Convolution, masked normalisation and, unless `last`, ReLU; over (B, C, F, N)."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1), last: bool = False
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.norm = MaskedNorm(outputs)
        self.act = nn.Identity() if last else nn.ReLU()

    def forward(self, x: Tensor, frames: Tensor | None) -> Cells:
        """(B, C, F, N) -> (B, C', F', N') and the frames that are real in it."""
        kernel, stride = self.conv.kernel_size[1], self.conv.stride[1]
        x = self.conv(x)  # (B, C', F', N')
        if frames is None:
            return self.act(self.norm(x)), None
        frames = (frames + 2 * (kernel // 2) - kernel) // stride + 1
        mask = _real(frames, x)
        return self.act(self.norm(x, mask)) * mask, frames


class Vgg(nn.Module):
    """Stages of 1, 1, 2, 2 convolutions of 3x3, each stage twice as wide, halved between them (after VGGish,
    Hershey et al. 2017, with batch normalisation): F' = F / 8, N' = N / 8, both rounded up.
    """

    STAGES = (0, 1, 2, 2, 3, 3)  # of each convolution

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [max(width * 2**stage // 2, 1) for stage in self.STAGES]
        self.dim = widths[-1]
        self.layers = nn.ModuleList(ConvNorm(i, o, (3, 3)) for i, o in zip([1, *widths], widths, strict=False))

    def forward(self, x: Tensor, frames: Tensor | None) -> Cells:
        """(B, 1, F, N) -> (B, D, F/8, N/8)."""
        for i, layer in enumerate(self.layers):
            if i and self.STAGES[i] > self.STAGES[i - 1]:
                x, frames = _pool(x, frames, 2, 2)
            x, frames = layer(x, frames)
        return x, frames


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016, basic block).

    The shortcut takes every `stride`-th place before its convolution of 1x1, not within it, which is the same: oneDNN's
    strided one writes past its memory where there are fewer than 16 channels (github.com/uxlfoundation/oneDNN #6035).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.one = ConvNorm(inputs, outputs, (3, 3), (stride, stride))
        self.two = ConvNorm(outputs, outputs, (3, 3), last=True)
        same = stride == 1 and inputs == outputs
        self.short = None if same else ConvNorm(inputs, outputs, (1, 1), last=True)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, frames: Tensor | None) -> Cells:
        """(B, C, F, N) -> (B, C', F/stride, N/stride)."""
        short = x
        if self.short is not None:
            short = x[..., :: self.stride, :: self.stride]  # (B, C, F/stride, N/stride)
            short, _ = self.short(short, None if frames is None else (frames - 1) // self.stride + 1)
        x, frames = self.one(x, frames)
        x, frames = self.two(x, frames)
        return self.relu(x + short), frames


class ResNet(nn.Module):
    """A stem of stride 2, then four residual blocks, each twice as wide, two of them of stride 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [max(width * 2**i // 2, 1) for i in range(4)]
        self.dim = widths[-1]
        self.stem = ConvNorm(1, widths[0], (5, 5), (2, 2))
        self.blocks = nn.ModuleList(
            ResidualBlock(inputs, outputs, stride)
            for inputs, outputs, stride in zip([widths[0], *widths], widths, (1, 2, 2, 1), strict=False)
        )

    def forward(self, x: Tensor, frames: Tensor | None) -> Cells:
        """(B, 1, F, N) -> (B, D, F/8, N/8)."""
        x, frames = self.stem(x, frames)
        for block in self.blocks:
            x, frames = block(x, frames)
        return x, frames


class SoundNet(nn.Module):
    """Convolutions of the wave itself: conv1 to conv5 of SoundNet (Aytar et al. 2016, the 8-layer one), a frame every
    2048 samples; width=64 has their widths. Conv6 and later, which see several seconds at once, are left out.
    """

    LAYERS = ((64, 8), (32, 8), (16, 1), (8, 1), (4, 1))  # samples of a kernel of stride 2, maximum over so many

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [max(4 * width >> i, 1) for i in reversed(range(5))]
        self.dim = widths[-1]
        self.layers = nn.ModuleList(
            ConvNorm(inputs, outputs, (1, kernel), (1, 2))
            for inputs, outputs, (kernel, _) in zip([1, *widths], widths, self.LAYERS, strict=False)
        )

    def forward(self, x: Tensor, frames: Tensor | None) -> Cells:
        """(B, 1, 1, T) -> (B, D, 1, N)."""
        for layer, (_, pool) in zip(self.layers, self.LAYERS, strict=True):
            x, frames = layer(x, frames)
            if pool > 1:
                x, frames = _pool(x, frames, 1, pool)
        return x, frames


class YamNet(nn.Module):
    """YAMNet: MobileNet (Howard et al. 2017) over patches of 96 frames x 64 mel bands, batch norms folded into biases.

    A place of its map is one patch of 0.96 s, every 0.48 s; the last is completed with silence. Its own front end:
    16 kHz, 25 ms periodic Hann every 10 ms (not centred: frame n starts at sample 160 n), magnitudes, log(mel + 0.001).
    """

    STRIDES = (2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    WIDTHS = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    PATCH, STEP = 15_600, 7_680  # samples: 95 hops and a window; 48 hops
    mel_matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.dim = self.WIDTHS[-1]
        self.stft = Stft(16_000, 0.025, 0.010, "hann", n_fft=512)
        self.register_buffer("mel_matrix", htk_filters(16_000, 512, 64, 125.0, 7500.0))  # (257, 64)
        self.relu = nn.ReLU()
        self.layer1 = nn.Conv2d(1, self.WIDTHS[0], 3, stride=2)
        for i in range(1, len(self.WIDTHS)):
            inputs, outputs = self.WIDTHS[i - 1], self.WIDTHS[i]
            depthwise = nn.Conv2d(inputs, inputs, 3, stride=self.STRIDES[i], groups=inputs)
            pair = nn.ModuleDict({"depthwise": depthwise, "pointwise": nn.Conv2d(inputs, outputs, 1)})
            self.add_module(f"layer{i + 1}", pair)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # no normalisation left: only this start keeps fourteen layers alive
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def log_mel(self, waves: Tensor) -> Tensor:
        """What the network sees of waves (B, T): (B, 1, 64, 96 + 48 (patches - 1)), the last patch full of silence."""
        patches = 1 + max(math.ceil((waves.shape[-1] - self.PATCH) / self.STEP), 0)
        total = self.PATCH + (patches - 1) * self.STEP
        # Two frames on, a centred frame of a clip with 120 zeros before it starts where YAMNet's does.
        waves = F.pad(waves, (120, total - waves.shape[-1]))  # (B, 120 + total)
        spec = self.stft(waves.float())[..., 2 : 2 + 96 + 48 * (patches - 1)]  # (B, 257, frames)
        return torch.log(self.mel_matrix.T @ spec.abs() + 0.001)[:, None]  # (B, 1, 64, frames)

    def forward(self, x: Tensor, frames: Tensor | None) -> Cells:
        """(B, 1, 64, frames) -> (B, 1024, 1, patches); here `frames` are samples of the clips."""
        batch = x.shape[0]
        y = x[:, 0].unfold(2, 96, 48)  # (B, 64, patches, 96)
        patches = y.shape[2]
        y = y.permute(0, 2, 3, 1).flatten(0, 1)[:, None]  # (B * patches, 1, 96, 64)
        for i, stride in enumerate(self.STRIDES):
            layer = self.get_submodule(f"layer{i + 1}")
            first = layer["depthwise"] if isinstance(layer, nn.ModuleDict) else layer
            y = self.relu(first(_same(y, stride)))
            if isinstance(layer, nn.ModuleDict):
                y = self.relu(layer["pointwise"](y))
        y = y.mean(dim=(2, 3)).unflatten(0, (batch, patches)).transpose(1, 2)[:, :, None]  # (B, 1024, 1, patches)
        if frames is None:
            return y, None
        frames = 1 + (-((self.PATCH - frames) // self.STEP)).clamp_min(0)
        return y * _real(frames, y), frames


def htk_filters(sample_rate: int, n_fft: int, bands: int, low_hz: float, high_hz: float) -> Tensor:
    """Triangles of height one on the HTK mel scale, 1127 ln(1 + f / 700), straight in mel: (F, bands) float32."""

    def mel(hz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hz / 700)

    low, high = mel(torch.tensor([low_hz, high_hz], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, bands + 2, dtype=torch.float64)  # (bands + 2,)
    bins = mel(torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64))[:, None]  # (F, 1)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])  # (F, bands)
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])  # (F, bands)
    return torch.minimum(rising, falling).clamp_min(0).float()


def _real(frames: Tensor, x: Tensor) -> Tensor:
    """1.0 at real frames: (B, 1, 1, N)."""
    return mask_from_lengths(frames, x.shape[-1]).to(x.dtype)[:, None, None]


def _pool(x: Tensor, frames: Tensor | None, height: int, width: int) -> Cells:
    """Maximum over height x width; what is left over at the edges makes a place of its own."""
    x = F.max_pool2d(x, (height, width), ceil_mode=True)  # after a ReLU a padded zero never is the maximum
    return x, None if frames is None else (frames + width - 1) // width


def _same(x: Tensor, stride: int) -> Tensor:
    """TensorFlow's "SAME" padding of a 3x3 convolution: the odd row and column go below and right."""
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((math.ceil(size / stride) - 1) * stride + 3 - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)
