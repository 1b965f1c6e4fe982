"""Where in a picture a sound comes from: the inner product of every place of an image with the vector of a sound."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.features import Features, advanced, masked_softmax

START_TEMPERATURE, LEAST_TEMPERATURE = 0.07, 0.01  # of a learned one (Radford et al. 2021, section 2.5)


@dataclass
class LocaliserConfig:
    """Sound-localisation head."""

    embed_dim: int = 128  # numbers of a place and of a sound where they are compared
    temperature: float = (
        0.0  # cosines are divided by it: 0 = learned, from 0.07 on; 1 = attention of Senocak et al. 2018
    )


class Compared(NamedTuple):
    """Pictures and sounds in the space in which they are compared.

    Attributes:
        places: (B, N, E) unit vectors of the places of the pictures.
        mask: (B, N) bool, True = real place.
        sounds: (B', E) unit vectors.
        temperature: () of the attention; cosines are divided by it.
    """

    places: Tensor
    mask: Tensor
    sounds: Tensor
    temperature: Tensor


class SoundLocaliser(nn.Module):
    """An image's map x a sound's vector -> a score map, attention and the attended visual vector.

    Senocak et al. 2018, section 3.2: the attention is the softmax of the rectified cosines between each place and the
    sound. Over hundreds of places it is next to uniform, for cosines end at 1; a temperature below 1 makes it select.

    Args:
        image_dim: D of the image encoder's map.
        audio_dim: D_v of the audio encoder's vector.
        cfg: sizes and temperature.
        strided_px: side of the picture of an encoder whose cells look up and left of where they lie: a convolution of
            3x3 and stride s, padded by 1 on both sides, is centred on the first of the s pixels of its cell, not on
            their middle, (s - 1) / 2 pixels away. Maps are moved by as much. 0 = cells look where they lie.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(self, image_dim: int, audio_dim: int, cfg: LocaliserConfig, strided_px: int = 0):
        super().__init__()
        if cfg.embed_dim < 1 or not (cfg.temperature == 0 or LEAST_TEMPERATURE <= cfg.temperature < math.inf):
            raise ValueError(
                f"head.embed_dim must be at least 1, head.temperature 0 or at least {LEAST_TEMPERATURE}: got "
                f"{cfg.embed_dim} and {cfg.temperature}."
            )
        self.strided_px = strided_px
        self.place = nn.Linear(image_dim, cfg.embed_dim)
        self.sound = nn.Linear(audio_dim, cfg.embed_dim)
        start = torch.tensor(-math.log(cfg.temperature or START_TEMPERATURE))
        # The inverse is kept as a logarithm, so that it stays positive.
        self.log_scale = nn.Parameter(start, requires_grad=cfg.temperature == 0)

    @property
    def temperature(self) -> Tensor:
        """() of the attention; its bound lets the gradient back through."""
        free = (-self.log_scale).exp()
        return free + (free.clamp_min(LEAST_TEMPERATURE) - free).detach()

    def compared(self, image: Features, audio: Features) -> Compared:
        """Features of B pictures and of B' sounds as unit vectors of one space.

        In float32 whatever autocast computed with: in bfloat16 a unit vector is off by up to 0.4 %.
        """
        return Compared(self.places(image), image.mask, self.sounds(audio.vector), self.temperature)

    def places(self, image: Features) -> Tensor:
        """(B, N, E) unit vectors of the places of pictures."""
        if self.strided_px and not bool(image.mask.all()):
            raise ValueError("maps of a strided network are moved between their cells, so none may be padding.")
        return functional.normalize(self.moved(self.place(image.map).float(), image.grid), dim=-1)  # (B, N, E)

    def moved(self, map: Tensor, grid: tuple[int, ...]) -> Tensor:
        """A map of the image encoder with every cell looking where it lies: (B, N, ...) -> the same."""
        if not self.strided_px:
            return map
        rows, columns = grid
        stride = round(self.strided_px / rows)  # px; a side that is no multiple of it ends within a cell
        return advanced(map, (rows, columns), (stride - 1) / (2 * stride))  # (B, N, ...)

    def sounds(self, vectors: Tensor) -> Tensor:
        """(B', D_v) vectors of sounds -> (B', E) unit vectors."""
        return functional.normalize(self.sound(vectors).float(), dim=-1)  # (B', E)

    def forward(self, image: Features, audio: Features) -> Tensor:
        """Cosines between each place of picture b and sound b: (B, N); padded places have minus infinity.

        Raises:
            ValueError: numbers of pictures and of sounds differ.
        """
        return score_map(self.compared(image, audio))

    def heatmap(self, image: Features, audio: Features) -> Tensor:
        """The score map of picture b and sound b as it lies over the picture: (B, H, W) cosines.

        Raises:
            ValueError: numbers of pictures and of sounds differ, or the map has no rows and columns.
        """
        if len(image.grid) != 2:
            raise ValueError(
                f"a heat map needs a grid of rows and columns: got {image.grid}. Give an image's features."
            )
        device = self.log_scale.device  # encoders give features on the CPU
        return self(image.to(device), audio.to(device)).unflatten(1, image.grid)  # (B, H, W)

    def attend(self, image: Features, audio: Features) -> tuple[Tensor, Tensor]:
        """Where picture b is looked at for sound b, (B, N), and what is seen there: (B, E) unit vectors."""
        compared = self.compared(image, audio)
        return attended(compared, score_map(compared))


def score_map(compared: Compared) -> Tensor:
    """Cosines of picture b with sound b, see `SoundLocaliser.forward`: (B, N)."""
    if len(compared.places) != len(compared.sounds):
        raise ValueError(
            f"each picture must have its sound: got {len(compared.places)} pictures and {len(compared.sounds)} sounds."
        )
    with torch.autocast(compared.places.device.type, enabled=False):
        scores = torch.einsum("bne,be->bn", compared.places, compared.sounds)  # (B, N)
    return scores.masked_fill(~compared.mask, float("-inf"))  # (B, N)


def attended(compared: Compared, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the places, (B, N), exactly 0 at padding, and the unit vector of what is seen, (B, E).

    Args:
        compared: B pictures.
        scores: (B, N) cosines, see `score_map`.
    """
    weights = masked_softmax(scores.relu() / compared.temperature, compared.mask)  # (B, N)
    with torch.autocast(compared.places.device.type, enabled=False):
        seen = torch.einsum("bn,bne->be", weights, compared.places)  # (B, E)
    return weights, functional.normalize(seen, dim=-1)  # (B, E)
