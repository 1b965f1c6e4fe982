"""`EndToEnd`: what an encoder's network sees -> what a head says of it, as one plain network that can be explained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mm.encoders.encoder import Encoder
from mm.features import Features


class EndToEnd(nn.Module):
    """What a network sees (B, C, H, W) -> what a head says of each (B, ...), with a gradient through frozen layers too.

    Args:
        encoder: whose `from_seen` gives the features.
        head: the module that `read` uses, so that its layers are found among this network's.
        read: features of B inputs -> (B, ...).
    """

    def __init__(self, encoder: Encoder, head: nn.Module, read: Callable[[Features], Tensor]):
        super().__init__()
        self.encoder, self.head, self.read = encoder, head, read

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, ...)."""
        return self.read(self.encoder.from_seen(x))


class View(NamedTuple):
    """One thing that a model says of one input, ready to be explained.

    Attributes:
        net: gives it.
        seen: (1, C, H, W) the input as the network sees it.
        target: what of the output is meant: a column of (B, K), or (B, ...) -> (B,), the larger the more so.
        said: the same in words.
        head: dotted name of the linear layer that gives the output from the mean over the places of the last map, and
            of the norm between them: what a class activation map needs. Empty where there is more to it.
    """

    net: EndToEnd
    seen: Tensor
    target: int | Callable[[Tensor], Tensor]
    said: str
    head: tuple[str, ...] = ()


@torch.no_grad()
def seen_of(encoder: Encoder, source: Any) -> Tensor:
    """One raw item as the network sees it: (1, C, H, W)."""
    return encoder.seen(encoder.prepare(source)[None].to(encoder.device))


def repeated(features: Features, count: int) -> Features:
    """Features of one input, `count` times: (1, ...) -> (count, ...)."""
    map, mask, vector = (part.expand(count, *part.shape[1:]) for part in features[:3])
    return Features(map, mask, vector, features.grid)


def check_sources(of: str, sources: Mapping[str, Any], takes: Iterable[str]) -> None:
    """Reject sources that cannot be explained.

    Args:
        of: modality that is to be explained.
        sources: {modality: source}.
        takes: modalities that the model takes.

    Raises:
        ValueError: `of` is not given, or the model does not take what is.
    """
    takes = list(takes)
    for modality in (of, *sources):
        if modality not in takes:
            raise ValueError(f"this model takes {' and '.join(takes)}: got {modality!r}. Use a run that has it.")
    if of not in sources:
        raise ValueError(f"what is explained must be given: got {', '.join(sources) or 'nothing'}, and no {of}.")
