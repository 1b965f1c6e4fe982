"""Networks that are taken as they come: what their encoders share, and any torchvision model."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from mm.config import ImageConfig
from mm.encoders.encoder import Encoder, load_weights
from mm.encoders.image import features_of, normalised, picture, published_state, register_normalisation
from mm.encoders.image_networks import IMAGENET_MEAN, IMAGENET_STD
from mm.encoders.state_files import read_state
from mm.features import Features
from mm.naming import known

TRANSFORMING = {"init_weights": False, "transform_input": True}  # published for pixels in [-1, 1], brought there inside


class WholeEncoder(Encoder):
    """An encoder around one network `net`, which trains or is frozen as a whole; `run` applies it.

    Attributes:
        idle: names of weights that the output does not depend on, such as a pooler's.
    """

    net: nn.Module
    idle: set[str]
    mean: Tensor
    std: Tensor

    def run(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """The network's output for what `prepare` gave, as a batch."""
        raise NotImplementedError

    def trunk(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The network's output, without gradient, when it is frozen; else the identity."""
        if not self.frozen:
            return values, lengths
        with torch.no_grad():
            return self.run(values, lengths).contiguous(), lengths

    def rest_of(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """The network's output, from what `trunk` gave."""
        return values.to(torch.float32) if self.frozen else self.run(values, lengths)

    def finish(self, example: Tensor, freeze: bool) -> None:
        """Freeze what must not train: all of it, or weights that the output does not depend on (DDP waits for them).

        Args:
            example: what `run` takes, one row.
            freeze: all of it.
        """
        self.net.eval()
        weights = dict(self.net.named_parameters())
        with torch.enable_grad():
            total = self.run(example, None).sum()
            gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
        self.net.train()
        self.idle = {name for name, gradient in zip(weights, gradients, strict=True) if gradient is None}
        for name in self.idle:
            weights[name].requires_grad_(False)
        if freeze:
            self.freeze_modules([self.net])


class TorchvisionEncoder(WholeEncoder):
    """A picture -> `Features` by any torchvision classifier.

    Args:
        model: torchvision's name of it.
        size: pixels a side; 0 = 224.
        layer: a node of the model's graph, or a module, that gives (B, C, H, W), or (B, 1 + N, D) with the class token
            first; "" = the last that gives one of the two.
        freeze: nothing trains, the whole network is the trunk.

    Pixels are normalised by ImageNet's mean and deviation.

    Raises:
        ValueError: an unknown model or layer, or a layer that gives no map.
    """

    modality = "image"

    def __init__(
        self,
        model: str,
        size: int = ImageConfig.size,
        layer: str = ImageConfig.layer,
        freeze: bool = ImageConfig.freeze,
    ) -> None:
        super().__init__()
        from torchvision import models
        from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

        names = models.list_models(module=models)
        options = TRANSFORMING if model in ("googlenet", "inception_v3") else {}
        whole = models.get_model(known(model, names, "torchvision model"), weights=None, **options)
        self.model, self.size = model, size or 224
        register_normalisation(self, IMAGENET_MEAN, IMAGENET_STD)
        training, evaluating = get_graph_node_names(whole, suppress_diff_warning=True)
        black = torch.zeros(1, 3, self.size, self.size)
        nodes = [node for node in evaluating[1:] if node in set(training)]  # 0 is the input
        if layer:
            modules = [name for name, _ in whole.named_modules() if name]
            known(layer, dict.fromkeys([*nodes, *modules]), f"layer of {model}")
        else:
            everything = create_feature_extractor(whole, nodes, suppress_diff_warning=True).eval()
            with torch.no_grad():
                outputs = everything(black)
            layer = next((node for node in reversed(nodes) if is_map(outputs[node])), nodes[-1])
        self.layer = layer
        self.net = create_feature_extractor(whole, {layer: "map"}, suppress_diff_warning=True)
        self.behind = set(whole.state_dict()) - set(self.net.state_dict())
        with torch.no_grad():
            output = self.net.eval()(black)["map"]
        if not is_map(output):
            raise ValueError(
                f"a layer must give (B, C, H, W), or (B, 1 + N, D) of a square: {layer!r} of {model} gives "
                f"{getattr(output, 'shape', type(output))} for {self.size} pixels. Choose from: {', '.join(nodes)}."
            )
        features = features_of(output)
        self.dim, self.vector_dim = features.map.shape[-1], features.vector.shape[-1]
        self.net.train()
        self.finish(black, freeze)

    def prepare(self, source: Any, view: int = 0) -> Tensor:
        """A picture -> (3, size, size) uint8, see `ImageEncoder.prepare`."""
        return picture(source, self.size, view)

    def __deepcopy__(self, memo: dict[int, Any]) -> TorchvisionEncoder:
        twin = type(self).__new__(type(self), **self.config)
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        twin.net.train(self.net.training)  # torchvision's graphs come out of a copy in train mode
        return twin

    def run(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, 3, H, W) -> the layer's output."""
        return self.net(normalised(self, values))["map"]

    def tail(self, values: Tensor, lengths: Tensor | None = None) -> Features:
        """The map of the layer, and its mean or class token."""
        return features_of(self.rest_of(values, lengths))

    def seen(self, values: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> float32 of the network's mean and deviation."""
        return normalised(self, values)

    def from_seen(self, x: Tensor) -> Features:
        """Features of normalised pictures."""
        return features_of(self.run(x, None))


def torchvision_encoder(model: str, size: int, layer: str, weights: str, freeze: bool) -> TorchvisionEncoder:
    """Build a `TorchvisionEncoder` and fill it, see `mm.encoders.image_encoder`."""
    encoder = TorchvisionEncoder(model, size=size, layer=layer, freeze=freeze)
    if weights:
        state = published_state(model) if weights == "DEFAULT" else read_state(weights)
        load_weights(encoder.net, {k: v for k, v in state.items() if k not in encoder.behind}, f"{weights} for {model}")
    return encoder


def is_map(output: Any) -> bool:
    """Whether an output is a grid (1, C, H, W) of several cells, or tokens (1, 1 + N, D) of a square and its class."""
    if not isinstance(output, Tensor):
        return False
    if output.dim() == 4:
        return min(output.shape[2:]) > 1
    return output.dim() == 3 and output.shape[1] > 1 and math.isqrt(output.shape[1] - 1) ** 2 == output.shape[1] - 1
