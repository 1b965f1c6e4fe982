"""Talkers in files of two seconds, and runs of separation that nobody trained, for tests of what is done with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
import torch

from mm.config import load, to_yaml
from mm.data.talkers import SAMPLE_RATE, Talkers
from mm.engine import checkpoint
from mm.tasks import separation
from tests.shared import ROOT
from tests.videos import video


def untrained_run(out: Path, *changes: str, loud: float = 1.0) -> Path:
    """A run folder of a tiny model with random weights, of which faces make much; masks are `loud` times as large."""
    cfg = load(separation.Separation, ["--config", str(ROOT / "configs/separation/tiny.yaml"), *changes, f"out={out}"])
    torch.manual_seed(0)
    model = separation.build_model(cfg)
    with torch.no_grad():
        if cfg.faces:
            model.video.out.weight *= 30
        else:
            model.head.queries *= 30
        model.head.out.weight *= loud
    documents = separation.description(model)
    weights = {"model": model.state_dict()}
    checkpoint.save(out, "best", 0, tensors=weights, documents=documents, config=to_yaml(cfg))
    return out


def coloured(pictures: np.ndarray) -> list[np.ndarray]:
    """(N, H, W) grey -> N of (H, W, 3)."""
    return list(np.repeat(pictures[..., None], 3, axis=3))


def clips(folder: Path) -> Path:
    """Two talkers: a.mp4, b.mp4 (faces, no sound), mix.wav (both), talk.mp4 (side by side, with sound), boxes.json."""
    first, second = Talkers("test", 4)[0], Talkers("test", 4)[2]
    mix = 1.5 * (first.voice + second.voice)  # (T,)
    for name, talk in (("a", first), ("b", second)):
        video(folder / f"{name}.mp4", coloured(talk.face.pictures))
    soundfile.write(folder / "mix.wav", mix, SAMPLE_RATE, subtype="PCM_16")
    both = np.concatenate([first.face.pictures, second.face.pictures], axis=2)  # (N, 32, 64)
    video(folder / "talk.mp4", coloured(both), sound=mix, rate=SAMPLE_RATE)
    moved = [[0.0, 32, 0, 64, 32], [1.0, 30, 2, 62, 34], [2.0, 32, 0, 64, 32]]
    faces = [{"name": "left", "box": [0, 0, 32, 32]}, {"name": "right", "boxes": moved}]
    (folder / "boxes.json").write_text(json.dumps({"faces": faces}))
    return folder
