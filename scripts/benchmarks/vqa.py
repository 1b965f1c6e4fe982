"""Answers: the official accuracy, and an epoch over features that are larger than memory."""

import hashlib
import itertools
import json
import random
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.result import STATUS, Result, alternate, in_own_process, status_kb
from mm.data import Batches, Cache, Item, Pairs, Question
from mm.data.cache_writer import FORMAT, ROW
from mm.encoders import TextEncoder
from mm.engine import keep_freed_memory
from mm.features import Features
from mm.heads.answerer import Answerer, AnswererConfig
from mm.losses import answer_bce
from mm.metrics import answers as metrics
from mm.tasks.vqa_data import Targets

WORDS = 15_000  # of the questions
ANSWERS = 3129  # of VQA v2, as all since Teney et al. 2018
BATCH = 512  # questions
MOST_WAIT = 0.05  # share of a step
MARKS = ';/[]"{}()=+\\_-><@`,?!'


class OfficialLoop:
    """The official tool's algorithm, question by question, as published; tables are ours, for they are equal."""

    def __init__(self) -> None:
        self.numbers = metrics.NUMBERS | {"none": "0"}
        self.period, self.comma = re.compile(r"(\.)(?!\d)"), re.compile(r"(\d)(\,)(\d)")

    def punctuation(self, text: str) -> str:
        """Marks go, or become spaces."""
        out = text
        for mark in MARKS:
            if mark + " " in text or " " + mark in text or re.search(self.comma, text) is not None:
                out = out.replace(mark, "")
            else:
                out = out.replace(mark, " ")
        return self.period.sub("", out, 32)

    def words(self, text: str) -> str:
        """Numbers as digits, no articles, apostrophes restored."""
        words = (self.numbers.setdefault(word, word) for word in text.lower().split())
        return " ".join(metrics.RESTORED.get(word, word) for word in words if word not in metrics.ARTICLES)

    def accuracy(self, given: str, said: Sequence[str]) -> float:
        """Of one question."""
        answers = [{"answer": a.replace("\n", " ").replace("\t", " ").strip(), "id": k} for k, a in enumerate(said)]
        given = given.replace("\n", " ").replace("\t", " ").strip()
        if len({answer["answer"] for answer in answers}) > 1:
            for answer in answers:
                answer["answer"] = self.words(self.punctuation(str(answer["answer"])))
            given = self.words(self.punctuation(given))
        shares = []
        for answer in answers:
            others = [other for other in answers if other != answer]
            shares.append(min(1, float(len([other for other in others if other["answer"] == given])) / 3))
        return sum(shares) / len(shares)


def survey(questions: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """Answers of a model, and ten of people to each question, who mostly agree; some 3,000 different ones."""
    chance = random.Random(0)
    nouns = [f"{a} {b}" for a, b in itertools.product(("red", "the old", "wooden", "2", "a T-shirt"), range(600))]
    frequent = ["yes", "no", "2", "two", "white", "Black.", "none", "on the left", "dont know", "1,000", "blue"]
    people, given = [], []
    for _ in range(questions):
        likely = [chance.choice(frequent) if chance.random() < 0.7 else chance.choice(nouns) for _ in range(3)]
        people.append(tuple(chance.choices(likely, (6, 3, 1), k=10)))
        given.append(chance.choice(likely))
    return given, people


def bench_official(questions: int = 200_000, repeats: int = 1) -> Iterator[Result]:
    """The official accuracy of a whole validation set against the official loop."""
    given, people = survey(questions)
    plain = OfficialLoop()
    cpu, _, (found, expected) = alternate(
        repeats,
        lambda: metrics.accuracies(given, people),
        lambda: np.array([plain.accuracy(answer, said) for answer, said in zip(given, people, strict=True)]),
    )
    checks = {"most that a question differs": (float(np.abs(found - expected).max()), 0.0)}
    yield Result("vqa_accuracy", "CPU s", *cpu, 45.0, checks, f"{questions:,} questions of ten answers")


def sparse_cache(folder: Path, sources: Sequence[str], places: int, dim: int) -> Cache:
    """A finished cache of zeros that takes no room on disk: a hole in a file reads as zeros."""
    size = places * dim * 2  # bytes of a float16 row
    index = np.zeros(len(sources), dtype=ROW)
    index["first"], index["length"] = np.arange(len(sources)) * size, places
    index["crc"] = zlib.crc32(bytes(size))
    (folder / "index.bin").write_bytes(index.tobytes())
    with open(folder / "rows.bin", "wb") as file:
        file.truncate(len(sources) * size)
    manifest = {
        "format": FORMAT,
        "views": 1,
        "dtype": "float16",
        "tail": [dim],
        "bytes": len(sources) * size,
        "index_sha256": hashlib.sha256(index.tobytes()).hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Cache(folder, list(sources))


def asked_about(name: str, count: int, chance: random.Random) -> tuple[Question, ...]:
    """Questions of six words with ten answers each, most of them of the model's."""
    answers = ["yes", "no", *(f"answer {chance.randrange(2 * ANSWERS)}" for _ in range(2))]
    return tuple(
        Question(
            f"{name} {k}",
            " ".join(f"word{chance.randrange(WORDS)}" for _ in range(6)),
            tuple(sys.intern(answer) for answer in chance.choices(answers, k=10)),
            "what is",
        )
        for k in range(count)
    )


def read_epoch(folder: Path, images: int, asked: int, places: int, dim: int, workers: int = 0) -> Iterator[dict]:
    """Batches of some 512 questions, `asked` to each of so many pictures, whose maps lie in a file."""
    chance = random.Random(0)
    sources = [f"picture {number}" for number in range(images)]
    cache = sparse_cache(folder, sources, places, dim)
    items = [Item(name, name, image=(name,), questions=asked_about(name, asked, chance)) for name in sources]
    text = TextEncoder([f"word{number}" for number in range(WORDS)], "mean")
    targets = Targets(["yes", "no", *(f"answer {number}" for number in range(ANSWERS - 2))])
    pairs = Pairs(items, {"text": text.prepare}, texts=0, cache={"image": cache}, answer=targets)
    return Batches(pairs, max(BATCH // asked, 1), workers=workers)(0)


def epoch_memory_mb(images: int, asked: int, places: int, dim: int, steps: int) -> float:
    """Peak memory of a process that reads so many batches, everything counted."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in itertools.islice(read_epoch(Path(folder), images, asked, places, dim), steps):
            pass
    return status_kb("VmHWM") * 1.024e-3


def epoch_wait(images: int, asked: int, places: int, dim: int, steps: int) -> float:
    """Share of the time that training steps wait for their batches, with one loading process."""
    torch.set_num_threads(1)
    keep_freed_memory()
    answers = [f"answer {number}" for number in range(ANSWERS)]
    torch.manual_seed(0)
    head = Answerer({"image": (dim, dim)}, (512, 512), answers, AnswererConfig(dim=512, hidden=1024))
    text = TextEncoder([f"word{number}" for number in range(WORDS)], "gru", hidden=512)
    waited = worked = 0.0
    with tempfile.TemporaryDirectory() as folder:
        batches = read_epoch(Path(folder), images, asked, places, dim, workers=1)
        next(batches)  # the process starts
        for _ in range(steps):
            begun = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - begun
            begun = time.perf_counter()
            places_seen, asked_of = batch["image"], batch["text"]
            mask = torch.ones(places_seen.values.shape[:2], dtype=torch.bool)  # (b, N)
            seen = Features(places_seen.values, mask, places_seen.values.mean(1), (places,))
            scored = head(text(asked_of.values, asked_of.lengths), {"image": seen}, {"image": asked_of.rows})
            answer_bce(scored.logits, batch["answer"]).backward()
            worked += time.perf_counter() - begun
    return waited / (waited + worked)


def bench_epoch(
    images: int = 82_783, asked: int = 5, places: int = 49, dim: int = 2048, steps: int = 2000, trained: int = 20
) -> Iterator[Result]:
    """An epoch of VQA v2's size over maps of ResNet in a file that is larger than memory may be.

    Args:
        images: of train2014.
        asked: questions about each.
        places, dim: of a map.
        steps: batches that are read.
        trained: batches that are trained on, for the share of waiting.
    """
    size_mb = images * places * dim * 2e-6
    setting = f"{images * asked:,} questions, {images:,} maps of {places} x {dim} in a file of {size_mb / 1e3:.1f} GB"
    if STATUS.exists():
        peak = in_own_process(epoch_memory_mb, images, asked, places, dim, steps)
        yield Result(
            "vqa_epoch, memory", "MB", peak, size_mb, 8.0, {}, f"{setting}; {steps:,} batches; against the file"
        )
    wait = in_own_process(epoch_wait, images, asked, places, dim, trained)
    checks = {"a share outside 0..1": (float(not 0 <= wait <= 1), 0.0)}
    yield Result("vqa_epoch, waiting", "share", wait, MOST_WAIT, 1.0, checks, f"{setting}; {trained} training steps")
