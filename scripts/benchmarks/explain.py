"""Explanations: Grad-CAM against what it needs at least, a forward pass and the way back to the layer."""

from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.result import Result, alternate
from mm.explain.attribution import grad_cam


def network(images: int, size: int) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """ResNet-18, its BatchNorm settled by one batch, with pictures and a class of each."""
    from torchvision.models import resnet18

    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet18()
    pictures = torch.randn((images, 3, size, size), generator=generator)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(pictures)
    return model.eval(), pictures, torch.randint(0, 1000, (images,), generator=generator)


def by_hand(model: nn.Module, pictures: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Forward, back to layer4, and the sum over its channels: (B, H', W')."""
    kept: list[torch.Tensor] = []
    handle = model.layer4.register_forward_hook(lambda module, given, output: kept.append(output))
    scores = model(pictures).gather(1, classes[:, None])  # (B, 1)
    handle.remove()
    (slopes,) = torch.autograd.grad(scores.sum(), kept[0])
    return (kept[0] * slopes.mean((2, 3), keepdim=True)).sum(1).detach()


def bench_grad_cam(images: int = 16, size: int = 224, repeats: int = 5) -> Iterator[Result]:
    """Grad-CAM of a batch against the same by hand, which checks nothing and puts nothing back.

    Args:
        images: in the batch.
        size: of a side, in px.
        repeats: runs of each.
    """
    model, pictures, classes = network(images, size)
    jobs = (lambda: grad_cam(model, pictures, classes, "layer4"), lambda: by_hand(model, pictures, classes))
    cpu, _, (found, expected) = alternate(repeats, *jobs)
    checks = {"difference, of the largest": (float((found - expected).abs().max() / expected.abs().max()), 1e-5)}
    setting = f"{images} pictures of {size} px, ResNet-18, layer4; against forward and backward to it"
    yield Result("grad_cam", "CPU s", *cpu, 1 / 1.2, checks, setting)
