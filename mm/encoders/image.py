"""Image encoders: a picture -> `Features` on a grid of cells, by a network of the table below.

A network is a row of named layers, run one after the other. The map is the output of one of them, the network ends
there, and its first layers may be frozen. Names of layers are torchvision's own.
"""

from __future__ import annotations

import copy
import logging
import math
import re
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mm.config import ImageConfig
from mm.encoders.encoder import Encoder, load_weights
from mm.encoders.image_networks import IMAGE_ENCODERS, fold, layers_of, tree
from mm.encoders.state_files import read_state
from mm.features import Features
from mm.media import read_image, view_of
from mm.naming import known

logger = logging.getLogger(__name__)

HEADS = ("classifier", "fc", "heads", "aux1", "aux2")  # parts of torchvision's models that no encoder has
NEWER_KEYS = (  # a key in torchvision's published file -> the key here
    (re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)\."), r"\1\2."),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
    (re.compile(r"^(conv_proj\.|class_token$)"), r"tokens.\1"),
    (re.compile(r"^encoder\.pos_embedding$"), "tokens.positions"),
)


class ImageEncoder(Encoder):
    """A picture -> `Features` by a network of `IMAGE_ENCODERS`.

    Args:
        name: a key of `IMAGE_ENCODERS`.
        size: pixels a side of what `prepare` gives; 0 = the network's own. Of "vit_b_16" a multiple of 16.
        layer: whose output is the map; "" = the last that gives one. The network ends there.
        freeze: nothing trains and the whole network is the trunk.
        train_from: the first layer that trains, those before it are the trunk; "" = all train.

    The map has one vector per cell, grid (H, W), and the vector is its mean; of "vit_b_16" the class token. A frozen
    trunk gives (B, C, H, W), of "vit_b_16" (B, 1 + H*W, D) with the class token first.

    Raises:
        ValueError: an unknown name or layer (the nearest is told), a size that is too small, or `freeze` and
            `train_from` at once.
    """

    modality = "image"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str = ImageConfig.name,
        size: int = ImageConfig.size,
        layer: str = ImageConfig.layer,
        freeze: bool = ImageConfig.freeze,
        train_from: str = ImageConfig.train_from,
    ) -> None:
        super().__init__()
        row = IMAGE_ENCODERS[known(name, IMAGE_ENCODERS, "image encoder")]
        self.name, self.size = name, size or row.size
        self.strided_px = 0 if row.centred else self.size  # see mm.heads.localiser
        stages = layers_of(name, self.size)
        self.layers = list(stages)
        last = self.layers.index(known(layer or row.layer, self.layers, f"layer of {name}"))
        self.kept = self.layers[: last + 1]
        if freeze and train_from:
            raise ValueError(
                f"freeze=True leaves nothing to train: got train_from={train_from!r} too. Give one of them."
            )
        first = self.kept.index(known(train_from, self.kept, f"layer of {name} up to its map")) if train_from else 0
        self.cut = len(self.kept) if freeze else first
        self.net = tree({stage: stages[stage] for stage in self.kept})
        if train_from and isinstance(stages[train_from], nn.ReLU):
            stages[train_from].inplace = False  # type: ignore[assignment]  # it would write into the trunk's output
        register_normalisation(self, row.mean, row.std)
        features = probe(self, self.size if name.startswith("vit") else min(self.size, 64))
        self.dim, self.vector_dim = features.map.shape[-1], features.vector.shape[-1]
        self.freeze_modules(stages[stage] for stage in self.kept[: self.cut])

    def prepare(self, source: str | Path | Image.Image | np.ndarray | Tensor, view: int = 0) -> Tensor:
        """A picture -> (3, size, size) uint8; `view` is one of the crops `mm.media.VIEWS`.

        Raises:
            mm.media.MediaError, FileNotFoundError: it cannot be read.
        """
        return picture(source, self.size, view)

    def trunk(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The frozen layers: (B, 3, H, W) -> (B, C, H', W'), without gradient; the identity when none is frozen."""
        if not self.cut:
            return values, lengths
        with torch.no_grad():
            return self.run(normalised(self, values), 0, self.cut).contiguous(), lengths

    def tail(self, values: Tensor, lengths: Tensor | None = None) -> Features:
        """The layers that train, and the pooling."""
        x = values.to(self.mean.dtype) if self.cut else normalised(self, values)
        return features_of(self.run(x, self.cut, len(self.kept)))

    def seen(self, values: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> float32 of the network's mean and deviation."""
        return normalised(self, values)

    def from_seen(self, x: Tensor) -> Features:
        """Features of normalised pictures."""
        return features_of(self.run(x, 0, len(self.kept)))

    def run(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Layers `start` to `stop`: (B, C, H, W) or (B, 1 + N, D) -> the same of the last one."""
        if x.dim() == 4:  # up to twice as fast on a CPU, and never slower
            x = x.contiguous(memory_format=torch.channels_last)
        for stage in self.kept[start:stop]:
            x = self.net.get_submodule(stage)(x)
        return x

    def folded(self) -> Self:
        """A copy for inference whose convolutions have taken in the BatchNorm behind them: 1.5 times as fast."""
        encoder = copy.deepcopy(self).eval()
        fold(encoder.net, but=encoder.net.get_submodule(self.kept[self.cut]) if self.cut < len(self.kept) else None)
        return encoder


def image_encoder(
    name: str = ImageConfig.name,
    size: int = ImageConfig.size,
    layer: str = ImageConfig.layer,
    weights: str = ImageConfig.weights,
    freeze: bool = ImageConfig.freeze,
    train_from: str = ImageConfig.train_from,
) -> Encoder:
    """Build an image encoder, and fill it with weights.

    Args:
        name: a key of `IMAGE_ENCODERS`; "torchvision:<model>" or "transformers:<name or local folder>" for any other.
        size: see `ImageEncoder`.
        layer: see `ImageEncoder`; of a torchvision model any node of its graph.
        weights: "" = random; "DEFAULT" = the published ones (torchvision's download; what the transformers name or
            folder holds); else a local state-dict file of the whole torchvision model, of which the classifier may be
            missing, as .pth or .safetensors.
        freeze: see `ImageEncoder`.
        train_from: see `ImageEncoder`; not for torchvision: and transformers: models.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: keys are missing or unexpected, shapes differ, or see `ImageEncoder`.
    """
    family, _, model = name.partition(":")
    if family in ("torchvision", "transformers") and model:
        if train_from:
            raise ValueError(f"train_from works for {', '.join(IMAGE_ENCODERS)} only: got {name!r}. Freeze it whole.")
        if family == "torchvision":
            from mm.encoders.adapters import torchvision_encoder

            return torchvision_encoder(model, size, layer, weights, freeze)
        if layer:
            raise ValueError(f"layer must be empty for {name!r}, its map is the last hidden state: got {layer!r}.")
        from mm.encoders.transformers_models import transformers_image_encoder

        return transformers_image_encoder(model, size, weights, freeze)
    encoder = ImageEncoder(name, size=size, layer=layer, freeze=freeze, train_from=train_from)
    if weights:
        state = published_state(IMAGE_ENCODERS[name].registry or name) if weights == "DEFAULT" else read_state(weights)
        load_torchvision(encoder, state, weights)
    return encoder


# Weights ------------------------------------------------------------------------------------------------------------


def published_state(name: str) -> dict[str, Tensor]:
    """The state dict that torchvision downloads for its model of this name, or keeps in its cache.

    Raises:
        OSError: no network.
        ValueError: torchvision has none as floats.
    """
    from torchvision.models import get_model_weights, list_models

    if name not in list_models() or name.startswith("quantized_"):
        raise ValueError(f"torchvision must publish weights of {name!r} for 'DEFAULT', and does not. Give a file.")
    try:
        return dict(get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise OSError(f"the weights of {name} cannot be downloaded: {error}. Give a local file instead.") from error


def load_torchvision(encoder: ImageEncoder, state: dict[str, Tensor], source: str | Path) -> None:
    """Fill an encoder from the state dict of the whole torchvision model.

    What belongs to the classifier, or to layers behind the map, is left aside; anything else must match.
    """
    for pattern, newer in NEWER_KEYS:
        state = {pattern.sub(newer, key): value for key, value in state.items()}
    behind = tuple(f"{layer}." for layer in encoder.layers if layer not in encoder.kept)
    heads = tuple(f"{head}." for head in HEADS)
    left = sorted(key for key in state if key.startswith(heads))
    own = encoder.net.state_dict()
    for key in own:  # files older than this counter lack it, and BatchNorm with a momentum does not read it
        if key.endswith("num_batches_tracked"):
            state.setdefault(key, own[key])
    if encoder.name.startswith("vit") and "tokens.positions" in state:
        state["tokens.positions"] = resized(state["tokens.positions"], own["tokens.positions"].shape[1])
    load_weights(
        encoder.net,
        {k: v for k, v in state.items() if not k.startswith(heads + behind)},
        f"{source} for {encoder.name}",
    )
    logger.info("%s: filled from %s, left aside %s", encoder.name, source, ", ".join(left) or "nothing")


def resized(positions: Tensor, count: int) -> Tensor:
    """Position vectors of a class token and a square grid -> of another grid, bicubically: (1, 1 + n, D), 1 + n."""
    if positions.shape[1] == count:
        return positions
    old, new = math.isqrt(positions.shape[1] - 1), math.isqrt(count - 1)
    grid = positions[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)  # (1, D, old, old)
    grid = nn.functional.interpolate(grid, size=(new, new), mode="bicubic", align_corners=True)  # (1, D, new, new)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)  # (1, 1 + new * new, D)


# Parts --------------------------------------------------------------------------------------------------------------


def register_normalisation(encoder: Encoder, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Give an encoder `mean` and `std` of pixels in 0..255: they follow it between devices and do not train."""
    for name, values in (("mean", mean), ("std", std)):
        encoder.register_buffer(name, 255 * torch.tensor(values).view(1, 3, 1, 1), persistent=False)


def normalised(encoder: Any, values: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) -> float32 of the network's mean and deviation; floats are taken as normalised already.

    Raises:
        ValueError: another shape or type.
    """
    if values.dim() != 4 or values.shape[1] != 3 or not (values.dtype == torch.uint8 or values.is_floating_point()):
        raise ValueError(
            "pictures must be (B, 3, H, W), uint8 or normalised floats: "
            f"got {tuple(values.shape)} {values.dtype}. Use prepare."
        )
    if values.is_floating_point():
        return values.to(encoder.mean.dtype)
    values = values.contiguous(memory_format=torch.channels_last)
    return (values.to(encoder.mean.dtype) - encoder.mean) / encoder.std


def features_of(x: Tensor) -> Features:
    """A grid (B, C, H, W), or tokens (B, 1 + H*W, D) of a square with the class token first -> `Features`."""
    if x.dim() == 4:
        map, vector, grid = x.flatten(2).transpose(1, 2), x.mean(dim=(2, 3)), tuple(x.shape[2:])  # (B, H*W, C), (B, C)
    else:
        map, vector, side = x[:, 1:], x[:, 0], math.isqrt(x.shape[1] - 1)  # (B, H*W, D), (B, D)
        grid = (side, side)
    return Features(map, torch.ones(map.shape[:2], dtype=torch.bool, device=map.device), vector, grid)


def picture(source: Any, size: int, view: int) -> Tensor:
    """A picture -> (3, size, size) uint8. JPEG files are decoded at a half or less where that is large enough."""
    return view_of(read_image(source, at_least=math.ceil(size * 8 / 7)), size, view)


@torch.no_grad()
def probe(encoder: Encoder, size: int) -> Features:
    """What an encoder gives for one black picture of `size` pixels a side.

    Raises:
        ValueError: the picture is too small for the network.
    """
    training = encoder.training
    try:
        return encoder.eval()(torch.zeros(1, 3, size, size))
    except RuntimeError as error:
        raise ValueError(f"size must be large enough for the network: got {size}, and {error}") from error
    finally:
        encoder.train(training)
