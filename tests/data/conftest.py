"""Small files in the published formats, written by the tests themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mm.data.scenes import Thing

RATE = 8000


@pytest.fixture
def jpeg() -> Callable[..., Path]:
    """jpeg(path, grey) writes an even 16 x 12 picture of one grey level."""

    def write(path: Path, grey: int = 128) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((12, 16, 3), grey, dtype=np.uint8)).save(path, quality=95)
        return path

    return write


@pytest.fixture
def sound() -> Callable[..., Path]:
    """sound(path, level, samples) writes a constant wave in the format of the suffix."""

    def write(path: Path, level: float = 0.25, samples: int = 400) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(samples, level, dtype=np.float32), RATE)
        return path

    return write


class Prepare:
    """Plain preparations, picklable, for tests: a picture is (3, 8, 8), a sentence its letters, a clip its samples."""

    @staticmethod
    def image(source: object, view: int = 0) -> torch.Tensor:
        picture = Image.open(source) if isinstance(source, Path) else Image.fromarray(np.asarray(source))
        pixels = np.array(picture.convert("RGB").resize((8, 8)))  # (8, 8, 3)
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous() + view  # (3, 8, 8)

    @staticmethod
    def text(source: str, view: int = 0) -> torch.Tensor:
        return torch.tensor([ord(letter) for letter in source])  # (L,)

    @staticmethod
    def audio(source: object, view: int = 0) -> torch.Tensor:
        wave = soundfile.read(source, dtype="float32")[0] if isinstance(source, Path) else np.asarray(source)
        return torch.from_numpy(wave)  # (T,)


@pytest.fixture
def prepare() -> dict[str, Callable[..., torch.Tensor]]:
    return {"image": Prepare.image, "text": Prepare.text, "audio": Prepare.audio}


@pytest.fixture
def three() -> tuple[Thing, Thing, Thing]:
    """A large red circle, a small blue star and a small green ring of the embedded world."""
    return (
        Thing("circle", "red", "large", 15.0, 20.0),
        Thing("star", "blue", "small", 40.0, 50.0),
        Thing("ring", "green", "small", 55.0, 12.0),
    )
