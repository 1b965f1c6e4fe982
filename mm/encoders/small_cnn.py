"""Small networks that train fast on a CPU: `small_cnn` for pictures of 32 to 64 pixels, `lips_cnn` for frames."""

from __future__ import annotations

from torch import Tensor, nn


class ConvNorm(nn.Sequential):
    """Convolution, BatchNorm, and ReLU unless `relu` is False; a stride of 2 halves the sides."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, relu: bool = True) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if relu else []))


class ResidualBlock(nn.Module):
    """Two convolutions of 3x3 around which the input is added (He et al. 2016, figure 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNorm(inputs, outputs, 3, stride), ConvNorm(outputs, outputs, 3, relu=False))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride, relu=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, outputs, H / stride, W / stride)."""
        return self.relu(self.convs(x) + self.shortcut(x))


def small_cnn() -> dict[str, nn.Module]:
    """The layers in the order they run; 350,000 weights.

    Most of the work lies at 8x8 cells, which see 39 to 71 pixels: where the picture is large, normalisation and memory
    traffic cost more than the convolutions.
    """
    return {
        "conv1": ConvNorm(3, 24, 3, stride=2),  # (B, 24, 32, 32) for 64 pixels
        "layer1": ResidualBlock(24, 48, stride=2),  # (B, 48, 16, 16)
        "layer2": ResidualBlock(48, 96, stride=2),  # (B, 96, 8, 8)
        "layer3": ResidualBlock(96, 96),  # (B, 96, 8, 8)
        "conv2": ConvNorm(96, 192, 1),  # (B, 192, 8, 8)
    }


def lips_cnn() -> dict[str, nn.Module]:
    """The layers in the order they run; 80,000 weights.

    A second of video is 25 pictures or more: every layer halves the sides, and each costs about the same, so that a
    frame costs a tenth of `small_cnn`. What a mouth does is told by where its edges lie: the map keeps 3x3 places.
    """
    return {
        "conv1": ConvNorm(3, 16, 5, stride=2),  # (B, 16, 24, 24) for 48 pixels
        "conv2": ConvNorm(16, 32, 3, stride=2),  # (B, 32, 12, 12)
        "conv3": ConvNorm(32, 64, 3, stride=2),  # (B, 64, 6, 6)
        "conv4": ConvNorm(64, 96, 3, stride=2),  # (B, 96, 3, 3)
    }
