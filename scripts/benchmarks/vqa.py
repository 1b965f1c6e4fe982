"""Answers: the official accuracy, and an epoch over features that are larger than memory."""

import functools
import hashlib
import itertools
import json
import random
import re
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.result import STATUS, Result, alternate, in_own_process, status_kb
from mm.data import Batches, Cache, Item, Pairs, Question
from mm.data.cache import FORMAT, ROW
from mm.data.gallery import stable_id
from mm.features import Features
from mm.heads.answerer import Answerer, AnswererConfig
from mm.losses import answer_bce
from mm.metrics import answers as metrics

MARKS = ";/[]\"{}()=+\\_-><@`,?!"


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
    checks = {"most that a question differs": (float(np.abs(found - expected).max()), 1e-15)}
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


def epoch(images: int, asked: int, places: int, dim: int, steps: int, trained: int) -> str:
    """Read `steps` batches of an epoch, train on the first `trained` of them; numbers as JSON."""
    torch.set_num_threads(1)
    answers = [f"answer {k}" for k in range(3129)]
    one = torch.zeros(len(answers)).index_fill_(0, torch.tensor([5]), 1.0)  # (K,)
    with tempfile.TemporaryDirectory() as folder:
        sources = [f"picture {i}" for i in range(images)]
        cache = sparse_cache(Path(folder), sources, places, dim)
        before = status_kb("VmRSS")
        items = [
            Item(name, name, image=(name,), questions=tuple(Question(f"{i}-{k}", "what is it", ("a",)) for k in range(asked)))
            for i, name in enumerate(sources)
        ]
        tokens = functools.partial(lambda text, view: torch.tensor([5, 6, 7, 8, 9, 10]))
        pairs = Pairs(items, {"text": tokens}, texts=0, cache={"image": cache}, answer=lambda question: one)
        batches = iter(Batches(pairs, 512 // asked, workers=0)(0))
        head = Answerer({"image": (dim, dim)}, (512, 512), answers, AnswererConfig(dim=512, hidden=1024))
        waited = worked = 0.0
        for step in range(steps):
            begun = time.perf_counter()
            batch = next(batches)
            waited += (time.perf_counter() - begun) * (step < trained)
            if step < trained:
                begun = time.perf_counter()
                image, text = batch["image"], batch["text"]
                map = image.values  # (b, N, D)
                seen = Features(map, torch.ones(map.shape[:2], dtype=torch.bool), map.mean(1), (places,))
                words = torch.randn(len(text.rows), 6, 512)
                question = Features(words, torch.ones(words.shape[:2], dtype=torch.bool), words.mean(1), (6,))
                scored = head(question, {"image": seen}, {"image": text.rows})
                answer_bce(scored.logits, batch["answer"]).backward()
                worked += time.perf_counter() - begun
        known = {"file_gb": images * places * dim * 2 / 1e9, "items_mb": before / 1024, "peak_mb": status_kb("VmHWM") / 1024}
        return json.dumps(known | {"wait": waited / (waited + worked)})


__all__ = ["STATUS", "Result", "bench_official", "epoch", "in_own_process", "stable_id"]
