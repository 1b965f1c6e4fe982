"""Networks that what explains them is tried on."""

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18

SIDE = 64  # px


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def seeded(build, *arguments, seed: int = 0, **options) -> nn.Module:
    """A network with random weights, that leaves the random numbers of others alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(*arguments, **options)


@functools.cache
def resnet() -> nn.Module:
    """ResNet-18 of ten classes, its BatchNorm settled by one batch; tests leave it as it is."""
    model = seeded(resnet18, num_classes=10)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(noise(16, 3, SIDE, SIDE, seed=9))
    return model.eval()


class Small(nn.Module):
    """Two convolutions and a linear layer of the mean; `relu` stands behind each convolution, one for both."""

    def __init__(self, channels: int = 3, relu=None, classes: int = 4, width: int = 8):
        super().__init__()
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1, stride=2)
        self.relu = nn.ReLU() if relu is None else relu
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.relu(self.second(self.relu(self.first(x)))).mean((2, 3)))


class Branches(nn.Module):
    """Two branches side by side that are rectified by one module, or by one each."""

    def __init__(self, shared: bool):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.relu = nn.ReLU()
        self.other = self.relu if shared else nn.ReLU()
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.one(x), self.two(x)
        return self.head((self.relu(one) - 2 * self.other(two)).mean((2, 3)))


class Tokens(nn.Module):
    """Patches of 4 px as tokens, perhaps behind a class token, with a layer that looks from each at all."""

    def __init__(self, side: int, class_token: bool):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.extra = nn.Parameter(noise(1, int(class_token), 8))
        self.embedded = nn.Identity()
        self.mixed = nn.Linear((side // 4) ** 2 + class_token, (side // 4) ** 2 + class_token)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.extra.expand(len(x), -1, -1), self.patches(x).flatten(2).transpose(1, 2)], dim=1)
        tokens = self.embedded(tokens)  # (B, N, 8)
        return self.head(torch.tanh(self.mixed(tokens.transpose(1, 2))).mean(2))


class Linear(nn.Module):
    """A weight of each pixel and class."""

    def __init__(self, channels: int, height: int, width: int, classes: int = 3):
        super().__init__()
        self.weight = nn.Parameter(noise(classes, channels, height, width, seed=5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", x, self.weight) + 0.5


FUNCTIONAL = {  # rectifications that are no nn.ReLU, and what an error must call them
    "F.relu": (functional.relu, "relu (ReluBackward0)"),
    "Tensor.relu": (Tensor.relu, "relu (ReluBackward0)"),
    "in place": (lambda x: torch.relu_(x.clone()), "relu (ReluBackward0)"),
    "clamp_min": (lambda x: x.clamp_min(0), "clamp_min (ClampMinBackward0)"),
    "clamp": (lambda x: x.clamp(min=0, max=6), "clamp (ClampBackward1)"),
    "threshold": (lambda x: functional.threshold(x, 0.1, 0), "threshold (ThresholdBackward0)"),
    "nn.ReLU6": (nn.ReLU6(), "relu6 (HardtanhBackward0)"),
    "nn.LeakyReLU": (nn.LeakyReLU(), "leaky_relu (LeakyReluBackward0)"),
    "nn.LeakyReLU in place": (nn.LeakyReLU(inplace=True), "leaky_relu_ (LeakyReluBackward1)"),
    "nn.PReLU": (nn.PReLU(), "prelu (PreluKernelBackward0)"),
    "nn.RReLU": (nn.RReLU(), "rrelu (RreluWithNoiseBackward0)"),
}
SMOOTH = {  # what rectifies nothing, so that the plain gradient is right
    "tanh": torch.tanh,
    "gelu": functional.gelu,
    "abs": torch.abs,
    "hardtanh": functional.hardtanh,
    "floor": lambda x: x.clamp_min(1e-6),
    "range": lambda x: x.clamp(-1, 1),
}
