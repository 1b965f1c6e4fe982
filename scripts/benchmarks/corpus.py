"""Tar shards through the machinery of a corpus: what it costs beside reading them, and what it holds."""

import itertools
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.result import STATUS, Result, alternate, extra_memory_mb, in_own_process
from mm.data.corpora import of_shards
from mm.files import Member
from mm.index import corpus

BYTES = 2000  # of a sample's "picture"


def make_shards(folder: Path, shards: int, samples: int) -> str:
    """Shards of samples with random bytes in the place of a picture, and a little JSON; their pattern."""
    rng = np.random.default_rng(0)
    for number in range(shards):
        with tarfile.open(folder / f"s-{number:04}.tar", "w") as tar:
            for sample in range(samples):
                key = f"{number:04}{sample:05}"
                about = json.dumps({"url": f"https://example.org/{key}.jpg", "width": 640, "place": sample}).encode()
                for extension, content in (("jpg", rng.bytes(BYTES)), ("json", about)):
                    head = tarfile.TarInfo(f"{key}.{extension}")
                    head.size = len(content)
                    tar.addfile(head, BytesIO(content))
    return str(folder / "s-*.tar")


def unit(contents: list[bytes], dim: int) -> np.ndarray:
    """(n, dim) float32 unit vectors, made of the first bytes of each."""
    numbers = np.stack([np.frombuffer(content, np.uint8, dim) for content in contents]).astype(np.float32) - 127.5
    return numbers / np.linalg.norm(numbers, axis=1, keepdims=True)


def embed(folder: Path, pattern: str, dim: int, size: int = corpus.PART) -> None:
    """Shards into a folder in parts of `size` samples, with vectors that cost nothing."""

    def vectors(modality: str, sources: list[Member], *, bad: Callable[[int, str], None]) -> np.ndarray:
        found = [unit([source.read() for source in sources[i : i + 64]], dim) for i in range(0, len(sources), 64)]
        return np.concatenate(found)

    corpus.write(folder, of_shards(pattern), vectors, ["image"], dim=dim, fingerprint="bytes", size=size)


def embed_plainly(folder: Path, pattern: str, dim: int) -> None:
    """The same vectors and metadata by a loop over the tars, without a digest, a second look or a way to go on."""
    folder.mkdir()
    numbers = itertools.count()
    rows: list[dict[str, Any]] = []
    contents: list[bytes] = []

    def save() -> None:
        name = folder / f"image-{next(numbers):08d}"
        np.save(f"{name}.npy", np.concatenate([unit(contents[i : i + 64], dim) for i in range(0, len(contents), 64)]))
        name.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        rows.clear()
        contents.clear()

    for shard in sorted(Path(pattern).parent.glob(Path(pattern).name)):
        with tarfile.open(shard) as tar:
            for head in tar:
                file = tar.extractfile(head)
                assert file is not None
                key, _, extension = head.name.partition(".")
                if extension == "jpg":
                    contents.append(file.read())
                    continue
                place = {"item": key, "shard": str(shard), "member": f"{key}.jpg", "modality": "image"}
                rows.append({"id": f"image:{key}", "metadata": json.loads(file.read()) | place})
                if len(rows) == corpus.PART:
                    save()
    if rows:
        save()


def memory_mb(shards: int, samples: int, dim: int, size: int = corpus.PART) -> float:
    """What embedding shards in parts of `size` samples needs at its peak."""
    with tempfile.TemporaryDirectory() as folder:
        pattern = make_shards(Path(folder), shards, samples)
        embed(Path(folder, "warm"), pattern.replace("*", "0000"), dim, size=1 + samples // 10)
        return extra_memory_mb(lambda: embed(Path(folder, "out"), pattern, dim, size))


def bench_corpus(shards: int = 24, samples: int = 1000, dim: int = 256, repeats: int = 3) -> Iterator[Result]:
    """Shards into parts of vectors and metadata, by digest and with a way to go on, against a plain loop.

    Args:
        shards: tars; memory is taken at a third of them too, which must not be less.
        samples: of each.
        dim: of the vectors.
        repeats: runs of each.
    """
    setting = f"{shards * samples:,} samples of {BYTES:,} bytes in {shards} shards, D = {dim}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pattern = make_shards(folder, shards, samples)
        turns = itertools.count()
        ours, plain = (
            lambda job=job: job(folder / f"{job.__name__}-{next(turns)}", pattern, dim)
            for job in (embed, embed_plainly)
        )
        cpu, _, _ = alternate(repeats, ours, plain)
        found = sorted(folder.glob("embed-*"))[0]
        expected = sorted(folder.glob("embed_plainly-*"))[0]
        parts = sorted(path.name for path in expected.glob("*.npy"))
        wrong = sum(not np.array_equal(np.load(found / part), np.load(expected / part)) for part in parts)
        lines = "".join((found / part).with_suffix(".jsonl").read_text() for part in parts).splitlines()
        others = "".join((expected / part).with_suffix(".jsonl").read_text() for part in parts).splitlines()
        rows = sum(json.loads(line) != json.loads(other) for line, other in zip(lines, others, strict=True))
        checks = {f"parts that differ, of {len(parts)}": (float(wrong), 0.0), "rows that differ": (float(rows), 0.0)}
        yield Result("corpus", "CPU s", *cpu, 0.4, checks, f"{setting}; a loop over tarfile that only saves")
    if STATUS.exists():
        sizes = (samples, dim)
        small, peak = (in_own_process(memory_mb, number, *sizes) for number in (max(shards // 3, 1), shards))
        held = in_own_process(memory_mb, shards, *sizes, shards * samples)
        growth = {"MB more than for a third of the shards": (peak - small, 8.0)}
        yield Result("corpus, memory", "MB", peak, held, 2.0, growth, f"{setting}; against all of it in one part")
