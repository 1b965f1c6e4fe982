"""The table of image networks, and how each is taken apart into layers that run one after the other."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mm.encoders.small_cnn import lips_cnn, small_cnn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision.models, of pixels in [0, 1]
HALF = (0.5, 0.5, 0.5)


class Network(NamedTuple):
    """One row of the table: the layer that is the map unless another is asked for (the last), and its input."""

    layer: str
    size: int = 224  # pixels a side
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    options: dict[str, Any] = {}  # noqa: RUF012 (nobody writes to it) of torchvision's builder
    registry: str = ""  # torchvision's name, where it is not ours
    centred: bool = False  # cells look about where they lie; else (stride - 1) / 2 px up and left of that: all strides
    # are of odd kernels padded alike on both sides


IMAGE_ENCODERS: dict[str, Network] = {
    #                     the map, at the size given               other maps
    "small_cnn": Network("conv2", 64, HALF, HALF),  # 8x8x192       layer1: 16x16x48
    "lips_cnn": Network("conv4", 48, HALF, HALF),  # 3x3x96          conv3: 6x6x64
    "alexnet": Network("features.12", centred=True),  # pool5, 6x6x256            features.11: conv5, 13x13x256
    "vgg16": Network("features.30", centred=True),  # pool5, 7x7x512              features.29: conv5_3, 14x14x512
    "vgg19": Network("features.36", centred=True),  # pool5, 7x7x512              features.35: conv5_4, 14x14x512
    # torchvision's weights of googlenet were trained elsewhere, on pixels in [-1, 1]
    "googlenet": Network(
        "inception5b", mean=HALF, std=HALF, options={"aux_logits": False, "init_weights": False}, centred=True
    ),
    # 7x7x1024                                                      inception4e: 14x14x832
    "resnet18": Network("layer4"),  # 7x7x512                       layer3: 14x14x256
    "resnet34": Network("layer4"),  # 7x7x512                       layer3: 14x14x256
    "resnet50": Network("layer4"),  # 7x7x2048                      layer3: 14x14x1024
    "resnet101": Network("layer4"),  # 7x7x2048                     layer3: 14x14x1024
    "resnet152": Network("layer4"),  # 7x7x2048                     layer3: 14x14x1024
    "densenet121": Network("relu", centred=True),  # 7x7x1024                     features.denseblock3: 14x14x1024
    "squeezenet1_1": Network("features.12", centred=True),  # 13x13x512
    "mobilenet_v2": Network("features.18"),  # 7x7x1280             features.13: 14x14x96
    "mobilenet_v2_relu": Network(  # ReLU instead of ReLU6: the same layers
        "features.18", options={"quantize": False}, registry="quantized_mobilenet_v2"
    ),
    "mobilenet_v3_small": Network("features.12"),  # 7x7x576        features.8: 14x14x48
    "efficientnet_b0": Network("features.8"),  # 7x7x1280           features.5: 14x14x112
    "regnet_y_400mf": Network("trunk_output.block4"),  # 7x7x440    trunk_output.block3: 14x14x208
    "convnext_tiny": Network("features.7", centred=True),  # 7x7x768              features.5: 14x14x384
    "vit_b_16": Network("encoder.ln", centred=True),  # 14x14x768                 encoder.layers.encoder_layer_0 to _11
}


class Tokens(nn.Module):
    """What stands before a vision transformer's layers: patches, class token and positions."""

    def __init__(self, conv_proj: nn.Conv2d, class_token: nn.Parameter, positions: nn.Parameter) -> None:
        super().__init__()
        self.conv_proj, self.class_token, self.positions = conv_proj, class_token, positions

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> (B, 1 + N, D), the class token first."""
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)  # (B, N, D)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)  # (B, 1 + N, D)
        if x.shape[1] != self.positions.shape[1]:
            side = math.isqrt(self.positions.shape[1] - 1) * self.conv_proj.kernel_size[0]
            raise ValueError(
                f"pictures must be {side}x{side}: got {x.shape[1] - 1} patches. Give the encoder their size."
            )
        return x + self.positions


def layers_of(name: str, size: int) -> dict[str, nn.Module]:
    """The layers of a network in the order they run, by torchvision's names.

    Behind the last map of every network of convolutions stands "avgpool", a map of one cell: where a frozen encoder
    ends there, a cache keeps one vector per picture.
    """
    stages = maps_of(name, size)
    return stages if name.startswith("vit") else stages | {"avgpool": nn.AdaptiveAvgPool2d(1)}


def maps_of(name: str, size: int) -> dict[str, nn.Module]:
    """The layers of a network down to its last map."""
    if name in ("small_cnn", "lips_cnn"):
        return small_cnn() if name == "small_cnn" else lips_cnn()
    from torchvision.models import get_model, vgg

    row = IMAGE_ENCODERS[name]
    stages: dict[str, nn.Module] = {}
    if name in ("vgg16", "vgg19"):  # built without the classifier, nine tenths of its weights
        features = vgg.make_layers(vgg.cfgs["D" if name == "vgg16" else "E"], batch_norm=False)
        for module in features:
            if isinstance(module, nn.Conv2d):  # as torchvision starts them
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                module.bias.data.zero_()  # type: ignore[union-attr]
        return {f"features.{child}": module for child, module in features.named_children()}
    if name.startswith("vit"):
        if size % 16:
            raise ValueError(f"the size of {name} must be a multiple of 16: got {size}.")
        model = get_model(name, weights=None, image_size=size)
        stages["tokens"] = Tokens(model.conv_proj, model.class_token, model.encoder.pos_embedding)
        stages |= {f"encoder.layers.{child}": module for child, module in model.encoder.layers.named_children()}
        return stages | {"encoder.ln": model.encoder.ln}
    for child, module in get_model(row.registry or name, weights=None, **row.options).named_children():
        if child in ("avgpool", "classifier"):
            break
        if child in ("features", "trunk_output"):
            stages |= {f"{child}.{grandchild}": part for grandchild, part in module.named_children()}
        else:
            stages[child] = module
    if name.startswith("densenet"):
        stages["relu"] = nn.ReLU()  # a function in torchvision's forward
    return stages


def tree(modules: dict[str, nn.Module]) -> nn.Module:
    """Modules at dotted paths -> one module whose state dict has those paths."""
    root = nn.Module()
    for path, module in modules.items():
        *parents, leaf = path.split(".")
        node = root
        for parent in parents:
            if parent not in node._modules:
                node.add_module(parent, nn.Module())
            node = node.get_submodule(parent)
        node.add_module(leaf, module)
    return root


def fold(module: nn.Module, but: nn.Module | None = None) -> None:
    """Let every convolution take in the BatchNorm that stands right behind it; for a network in eval mode.

    Children of one module are taken to run in their order, as those of every network of the table do.

    Args:
        module: changed in place.
        but: a BatchNorm that stays, because what comes before it is run by itself.
    """
    before: tuple[str, nn.Module] = ("", nn.Identity())
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(before[1], nn.Conv2d) and child is not but:
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, nn.Identity())
        else:
            fold(child, but)
        before = name, child
