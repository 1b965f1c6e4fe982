"""METEOR and SPICE: the official numbers where Java is; where it is not a reason, never a number or a hang."""

import importlib.util
import os
import shutil
import time

import pytest

from mm.metrics import java_captions
from mm.metrics.java_captions import NotComputed, meteor, spice

SAID = {1: "a man on a horse", 2: "Two dogs playing in the snow!"}
REFERENCES = {1: ["a man riding a horse", "a person on a horse"], 2: ["two dogs play in the snow"]}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder that stands for an installed pycocoevalcap."""
    folder = tmp_path / "pycocoevalcap"
    (folder / "spice" / "lib").mkdir(parents=True)
    monkeypatch.setattr(java_captions, "_package", lambda metric: folder)
    return folder


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Put a program `java` on the PATH, given as a shell script; None = no Java."""

    def install(script):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        if script is not None:
            (folder / "java").write_text(script)
            (folder / "java").chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin" if script else str(folder))

    return install


SCRIPT = "#!/bin/sh\n"
BOTH = pytest.mark.parametrize("metric", [meteor, spice])


@BOTH
def test_no_java_is_a_reason(metric, java, package):
    java(None)
    with pytest.raises(NotComputed, match="no Java"):
        metric(SAID, REFERENCES)


@BOTH
def test_no_package_is_a_reason(metric, java, monkeypatch):
    java(SCRIPT)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NotComputed, match=r"pip install mm\[metrics\]"):
        metric(SAID, REFERENCES)


def test_spice_without_models_is_a_reason_at_once_and_starts_nothing(java, package, tmp_path):
    java(f"{SCRIPT}touch {tmp_path}/started\n")
    with pytest.raises(NotComputed, match=r"models are missing: stanford-corenlp-3.6.0.jar, .*-models.jar"):
        spice(SAID, REFERENCES)
    assert not (tmp_path / "started").exists()


def with_models(package):
    for name in java_captions.SPICE_MODELS:
        (package / "spice" / "lib" / name).touch()


@BOTH
def test_a_broken_java_is_a_reason(metric, java, package):
    with_models(package)
    java(f"{SCRIPT}echo 'UnsupportedClassVersionError: 52.0' >&2\nexit 1\n")
    with pytest.raises(NotComputed, match=r"code 1. UnsupportedClassVersionError"):
        metric(SAID, REFERENCES)


@BOTH
def test_a_java_that_is_no_program_is_a_reason(metric, java, package):
    with_models(package)
    java("\0not a program")
    with pytest.raises(NotComputed, match="does not start"):
        metric(SAID, REFERENCES)


@BOTH
def test_a_java_that_hangs_is_stopped(metric, java, package):
    with_models(package)
    java(f"{SCRIPT}exec sleep 60\n")
    start = time.monotonic()
    with pytest.raises(NotComputed, match=r"stopped after 0\.3 s"):
        metric(SAID, REFERENCES, limit=0.3)
    assert time.monotonic() - start < 10


def test_an_answer_that_is_no_number_is_a_reason(java, package):
    java(f"{SCRIPT}while read line; do echo 0,5; echo 0,5; echo 0,5; done\n")
    with pytest.raises(NotComputed, match="0,5"):
        meteor(SAID, REFERENCES)


def test_meteor_speaks_the_protocol_in_the_plain_locale(java, package, tmp_path, monkeypatch):
    """One line of statistics per caption, then one line of all, answered by each score and the score of the whole."""
    java(
        f'{SCRIPT}echo "$LC_ALL $*" > {tmp_path}/options\n'
        f'while read line; do echo "$line" >> {tmp_path}/lines\n'
        "case $line in SCORE*) echo 1 2 3;; *) echo 0.1; echo 0.2; echo 0.15;; esac; done\n"
    )
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    score = meteor(SAID, REFERENCES)
    assert score.corpus == 0.15 and score.each.tolist() == [0.1, 0.2]
    assert (tmp_path / "lines").read_text().splitlines() == [
        "SCORE ||| a man riding a horse ||| a person on a horse ||| a man on a horse",
        "SCORE ||| two dogs play in the snow ||| two dogs playing in the snow",
        "EVAL ||| 1 2 3 ||| 1 2 3",
    ]
    options = (tmp_path / "options").read_text()
    assert options.startswith("C ") and "-stdio -l en -norm" in options and os.environ["LC_ALL"] == "de_DE.UTF-8"


def test_spice_is_the_mean_of_the_f1_of_all_captions_in_whatever_order_they_come(java, package):
    with_models(package)
    java(
        SCRIPT
        + 'for word in "$@"; do test "$before" = -out && out=$word; before=$word; done\n'
        + """echo '[{"image_id": 1, "scores": {"All": {"f": 0.25}}}, """
        + """{"image_id": 0, "scores": {"All": {"f": 0.5}}}]' > $out\n"""
    )
    score = spice(SAID, REFERENCES)
    assert score.corpus == 0.375 and score.each.tolist() == [0.5, 0.25]
    java(f"{SCRIPT}exit 0\n")
    with pytest.raises(NotComputed, match="without a result"):
        spice(SAID, REFERENCES)


def test_a_path_with_a_space_is_a_reason(java, monkeypatch, tmp_path):
    java(SCRIPT)
    monkeypatch.setattr(java_captions, "_package", lambda metric: tmp_path / "a b")
    with pytest.raises(NotComputed, match="a path with a space"):
        meteor(SAID, REFERENCES)


@BOTH
def test_input_is_checked_as_for_the_other_metrics(metric, java, package):
    with_models(package)
    java(SCRIPT)
    with pytest.raises(ValueError, match="the first is 2"):
        metric(SAID, {1: ["a"]})


def test_meteor_equals_the_official_numbers():
    """The expected numbers are those of pycocoevalcap's own `Meteor` on the same words."""
    pytest.importorskip("pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("no Java")
    said = {1: "A puppy runs in the snow.", 2: "Two kids at the caf\u00e9", 3: ""}
    references = {
        1: ["a dog is running through snow", "the hound ran"],
        2: ["two children in a caf\u00e9"],
        3: ["a cat"],
    }
    score = meteor(said, references)
    assert score.corpus == pytest.approx(0.20727778169898678, abs=1e-12)
    assert score.each == pytest.approx([0.17548387096774196, 0.31767840221224064, 0.0], abs=1e-12)
