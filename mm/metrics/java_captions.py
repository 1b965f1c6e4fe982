"""METEOR and SPICE: caption metrics that exist in Java only, run from the package pycocoevalcap (extra `metrics`).

What cannot be computed raises `NotComputed` with the reason, never a 0. A child process gets a time limit, numbers with
a decimal point whatever the user's locale, and a temporary folder: nothing is written into the installed package and
nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from mm.metrics.captions import tokenized

LIMIT = 3600.0  # seconds; METEOR of 5,000 images takes about one minute
OPTIONS = ("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8")
SPICE_MODELS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


class NotComputed(RuntimeError):
    """A metric that this machine cannot compute; the message is the reason."""


class JavaScore(NamedTuple):
    """A metric of a set of captions.

    Attributes:
        corpus: of the whole set.
        each: (n,) float64 of each caption, in their order.
    """

    corpus: float
    each: np.ndarray


def meteor(captions: Mapping[Any, str], references: Mapping[Any, Sequence[str]], limit: float = LIMIT) -> JavaScore:
    """METEOR 1.5 with COCO's settings, in 0..1 (Denkowski and Lavie 2014); that of the set is of its summed counts.

    Args:
        captions: {image: its caption}.
        references: {image: its references}, of the same images.
        limit: seconds after which Java is stopped.

    Raises:
        NotComputed: no Java, no pycocoevalcap, or Java failed or took too long.
        ValueError: as `captions.evaluate`.
    """
    java, folder = _java("METEOR"), _package("METEOR")
    if " " in str(folder):
        raise NotComputed(
            f"METEOR: its program finds no tables in a path with a space: {folder}. Install it elsewhere."
        )
    hypotheses, targets = tokenized(captions, references)
    command = [java, *OPTIONS, "-Xmx2G", "-jar", str(folder / "meteor" / "meteor-1.5.jar")]
    command += ["-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        process = _start(command, complaints)
        stop = threading.Timer(limit, process.kill)  # what waits for a line then gets an end of file
        begun = time.monotonic()
        stop.start()
        try:
            statistics = []
            for image, words in hypotheses.items():
                sentences = [" ".join(sentence) for sentence in (*targets[image], words)]
                statistics.append(_ask(process, " ||| ".join(["SCORE", *sentences])))
            each = [float(_ask(process, " ||| ".join(["EVAL", *statistics])))]
            each += [float(_read(process)) for _ in statistics[1:]]
            return JavaScore(float(_read(process)), np.array(each))
        except (OSError, ValueError) as error:
            process.kill()
            if time.monotonic() - begun >= limit:
                raise NotComputed(f"METEOR: Java was stopped after {limit:g} s. Give it a longer limit.") from error
            code = process.wait()
            complaints.seek(0)
            raise NotComputed(f"METEOR: {error}; Java ended with code {code}. {complaints.read(300)}") from error
        finally:
            stop.cancel()
            process.kill()
            process.wait()
            _close(process)


def spice(captions: Mapping[Any, str], references: Mapping[Any, Sequence[str]], limit: float = LIMIT) -> JavaScore:
    """SPICE 1.0, the F1 of scene graphs, in 0..1 (Anderson et al. 2016); that of the set is the mean.

    Args:
        captions: {image: its caption}.
        references: {image: its references}, of the same images.
        limit: seconds after which Java is stopped.

    Raises:
        NotComputed: no Java, no pycocoevalcap, no models of CoreNLP, or Java failed or took too long.
        ValueError: as `captions.evaluate`.
    """
    java, folder = _java("SPICE"), _package("SPICE") / "spice"
    missing = [name for name in SPICE_MODELS if not (folder / "lib" / name).is_file()]
    if missing:
        raise NotComputed(
            f"SPICE: CoreNLP's models are missing: {', '.join(missing)} in {folder / 'lib'}. They are in "
            "stanford-corenlp-full-2015-12-09.zip (384 MB) at nlp.stanford.edu/software."
        )
    hypotheses, targets = tokenized(captions, references)
    items = [
        {"image_id": number, "test": " ".join(words), "refs": [" ".join(reference) for reference in targets[image]]}
        for number, (image, words) in enumerate(hypotheses.items())
    ]
    with tempfile.TemporaryDirectory() as scratch:
        source, result = Path(scratch, "captions.json"), Path(scratch, "scores.json")
        source.write_text(json.dumps(items), encoding="utf-8")
        command = [java, *OPTIONS, "-Xmx8G", "-jar", str(folder / "spice-1.0.jar"), str(source), "-out", str(result)]
        command += ["-cache", scratch, "-subset", "-silent"]
        try:
            subprocess.run(command, cwd=scratch, env=_environment(), capture_output=True, timeout=limit, check=True)
        except subprocess.TimeoutExpired as error:
            raise NotComputed(f"SPICE: Java was stopped after {limit:g} s. Give it a longer limit.") from error
        except subprocess.CalledProcessError as error:
            complaint = error.stderr.decode("utf-8", "replace")[:300]
            raise NotComputed(f"SPICE: Java ended with code {error.returncode}. {complaint}") from error
        except OSError as error:
            raise NotComputed(f"SPICE: Java does not start: {error}") from error
        if not result.is_file():
            raise NotComputed("SPICE: Java ended without an error and without a result. Try another version of Java.")
        scores = {item["image_id"]: item["scores"] for item in json.loads(result.read_text(encoding="utf-8"))}
    each = np.array([scores[number]["All"]["f"] for number in range(len(items))], np.float64)  # (n,)
    return JavaScore(float(each.mean()), each)


def _java(metric: str) -> str:
    """The path of Java."""
    java = shutil.which("java")
    if java is None:
        raise NotComputed(
            f"{metric}: no Java: there is no program `java` on the PATH. Install a Java runtime, 8 or newer."
        )
    return java


def _package(metric: str) -> Path:
    """The folder of pycocoevalcap, which need not be imported."""
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise NotComputed(f"{metric}: pycocoevalcap is not installed: pip install mm[metrics].")
    return Path(found.submodule_search_locations[0])


def _environment() -> dict[str, str]:
    """That of this process, with the plain locale: others write a decimal comma."""
    return os.environ | {"LC_ALL": "C"}


def _start(command: list[str], complaints: IO[str]) -> subprocess.Popen[str]:
    """METEOR with pipes for a conversation line by line."""
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=complaints, env=_environment(), encoding="utf-8", errors="replace"
        )
    except OSError as error:
        raise NotComputed(f"METEOR: Java does not start: {error}") from error


def _ask(process: subprocess.Popen[str], line: str) -> str:
    """Java's answer to a line."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    return _read(process)


def _read(process: subprocess.Popen[str]) -> str:
    """The next line that Java writes."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise OSError("no answer")
    return line.strip()


def _close(process: subprocess.Popen[str]) -> None:
    """Close both pipes of a process that has ended; what it never read is dropped."""
    for pipe in (process.stdout, process.stdin):
        try:
            if pipe is not None:
                pipe.close()
        except BrokenPipeError:
            continue
