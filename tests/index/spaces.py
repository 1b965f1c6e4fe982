"""Indexes of known vectors, and the report on them."""

import json

import numpy as np
import pytest

from mm.index import Index
from mm.index.media import shown
from mm.index.report import write_report
from mm.index.report.spaces import label_key, spaces_of

LABELS = ("cat", "dog", "fish")


def normal(values):
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def joint(n=60, dim=16, seed=0, shift=0.5):
    """Pictures (n, D), and two sentences of each that lie near it, all of them moved by a gap; labels by direction."""
    chance = np.random.default_rng(seed)
    which = np.arange(n) % 3
    images = normal(2 * np.eye(3, dim)[which] + 0.5 * chance.standard_normal((n, dim)))
    texts = normal(np.repeat(images, 2, axis=0) + 0.1 * chance.standard_normal((2 * n, dim)) + shift * np.eye(dim)[-1])
    return images, texts, which


def of_joint(folder, n=60, seed=0, fingerprint="", turn=None, kept=slice(None)):
    """An index of pictures and sentences."""
    images, texts, which = joint(n, seed=seed)
    names = [str(k) for k in range(n)]
    meta = [{"item": name, "label": LABELS[which[k]]} for k, name in enumerate(names)]
    both = [
        one | {"text": f"a {one['label']} number {name}"} for one, name in zip(meta, names, strict=True) for _ in "ab"
    ]
    if turn is not None:
        images, texts = normal(images @ turn), normal(texts @ turn)
    index = Index(images.shape[1], fingerprint)
    index.add(images[kept], [f"image:{name}" for name in names[kept]], meta[kept], modality="image")
    index.add(texts, [f"text:{name}#{k}" for name in names for k in (0, 1)], both, modality="text")
    index.save(folder)
    return str(folder)


def plain(folder, vectors, metadata=None, ids=None, **options):
    """An index of bare vectors."""
    Index.build(vectors, ids or range(len(vectors)), metadata, **options).save(folder)
    return str(folder)


def report_of(paths, out, label="guess", k=5, sample=0, show=None, **options):
    """The numbers, read back from the file; JSON has no NaN."""
    spaces = spaces_of([paths] if isinstance(paths, str) else paths, k, options.pop("modalities", ()))
    key = label_key(spaces, None) if label == "guess" else label
    show = show or (lambda space, item: shown(item))
    given = write_report(spaces, out, show, key, sample=sample, **options)
    read = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    assert read == json.loads(json.dumps(given))
    return read
