"""Every benchmark on small sizes: ours and the plain reference agree; what `make bench` says and refuses. No times."""

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from mm.vocabulary import END

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_script", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def part(name: str) -> ModuleType:
    """One of the files in scripts/benchmarks, once the script has been loaded."""
    return importlib.import_module(f"benchmarks.{name}")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


TINY = {"side": 2, "dim": 8, "words": 30, "hidden": 8}  # of a captioner
SMALL = {
    "log_mel": {"clips": 2, "seconds": 0.5, "repeats": 1},
    "ranks": {"images": 20, "captions": 100, "dim": 8, "one_in": 1, "repeats": 1},
    "loop": {"batch_size": 4, "steps": 3},
    "losses": {"batch_size": 32, "dim": 8, "repeats": 1},
    "chunks": {"chunk": 4},
    "index_flat": {"queries": 5, "items": 200, "dim": 8, "k": 3},
    "index_auto": {"queries": 5, "items": 200, "dim": 16, "centres": 4, "k": 3, "repeats": 1},
    "index_filter": {"queries": 5, "items": 200, "dim": 16, "centres": 4, "k": 3, "repeats": 1},
    "report": {"items": 1500, "dim": 16, "k": 3, "sample": 0},
    "corpus": {"shards": 3, "samples": 400, "dim": 64, "repeats": 1},
    "embed_mobilenet_v2": {"count": 3, "batch_size": 2, "repeats": 1},
    "embed_resnet50": {"count": 2, "batch_size": 2, "repeats": 1},
    "caption_step": {**TINY, "batch_size": 5, "shortest": 2, "longest": 6, "repeats": 1},
    "caption_beam": {**TINY, "images": 6, "beam": 4, "steps": 6, "end": 3.0, "repeats": 1},
    "caption_scores": {"images": 30, "repeats": 1},
    "vqa_accuracy": {"questions": 300, "repeats": 1},
    "vqa_epoch": {"images": 200, "asked": 5, "places": 4, "dim": 8, "steps": 3, "trained": 2},
    "localisation_pairs": {"clips": 6, "side": 3, "dim": 8, "most_mb": 1, "repeats": 1},
    "localisation_vggss": {"images": 20, "repeats": 1},
    "separation_pit": {"batch": 2, "sources": 3, "seconds": 0.1, "repeats": 1},
    "separation_sdr": {"sources": 2, "seconds": 0.2, "repeats": 1},
    "separation_realtime": {"seconds": 6, "longer": 2, "width": 16},
    "grad_cam": {"images": 2, "size": 64, "repeats": 1},
}


@pytest.mark.parametrize("name", SMALL)
def test_ours_agrees_with_the_reference(benchmark: ModuleType, name: str) -> None:
    threads = torch.get_num_threads()
    options = dict(SMALL[name])
    if "count" in options:
        bench = benchmark.partial(benchmark.bench_embed, name.removeprefix("embed_"), 0.5)
    else:
        bench = benchmark.BENCHMARKS[name]
    results = list(bench(**options))
    assert results and all(result.checks for result in results if result.unit != "MB")
    for result in results:
        assert result.agrees, str(result)
        assert result.ours > 0 and result.reference > 0
        assert result.ratio == pytest.approx(result.reference / result.ours)
    assert torch.get_num_threads() == threads


def test_every_benchmark_has_a_small_size(benchmark: ModuleType) -> None:
    assert list(SMALL) == list(benchmark.BENCHMARKS)


def test_a_wrong_result_is_seen(benchmark: ModuleType) -> None:
    good = benchmark.Result("x", "CPU s", 1.0, 3.0, 2.0, {"difference": (0.1, 0.1)}, "of nothing")
    assert good.agrees and good.ratio == 3.0 and " met " in str(good) and "WRONG" not in str(good)
    assert "SHORT" in str(good._replace(reference=1.0))
    assert "NOT RUN" in str(good._replace(reference=math.nan))
    for value in (0.11, math.nan):
        wrong = good._replace(checks={"difference": (value, 0.1), "other": (0, 0)})
        assert not wrong.agrees and "WRONG" in str(wrong)


def test_the_jobs_take_turns_and_the_last_results_come_back(benchmark: ModuleType) -> None:
    calls: list[str] = []
    alternate = part("result").alternate
    cpu, wall, results = alternate(2, lambda: calls.append("a") or len(calls), lambda: calls.append("b"))
    assert calls == ["a", "b", "a", "b"] and results == [3, None]
    assert len(cpu) == len(wall) == 2


def test_pairs_are_unit_vectors_and_each_image_has_its_captions(benchmark: ModuleType) -> None:
    a, b, owner_a, owner_b = part("retrieval").pairs(4, 12, 3)
    assert sorted(owner_b.tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3] and owner_a.tolist() == [0, 1, 2, 3]
    assert np.allclose(np.linalg.norm(a, axis=1), 1) and np.allclose(np.linalg.norm(b, axis=1), 1)


def test_sentences_of_the_small_beam_search_end_at_different_lengths(benchmark: ModuleType) -> None:
    """So that the plain search must narrow its beam, and ours must drop what is done, for the two to agree."""
    captioning = part("captioning")
    _, plain = captioning.writers(8, 30, 8, 3.0)
    found = [plain.write(map, 4, 6) for map in captioning.features(6, 2, 8).map]
    assert {sentence[-1] == END for sentence in found} == {True, False} and len({*map(len, found)}) > 2


@pytest.mark.parametrize(
    ("missing", "said", "ratio"),
    [("java", "NO JAVA", True), ("pycocoevalcap", "pycocoevalcap IS NOT INSTALLED", False)],
)
def test_scoring_says_what_is_missing(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, missing: str, said: str, ratio: bool
) -> None:
    captioning = part("captioning")
    if missing == "java":
        pytest.importorskip("pycocoevalcap.bleu.bleu")
        monkeypatch.setattr(captioning.shutil, "which", lambda name: None)
    else:
        monkeypatch.setattr(captioning.importlib.util, "find_spec", lambda name: None)
    (result,) = captioning.bench_scores(images=10, repeats=1)
    assert said in str(result) and result.agrees
    assert ("NOT RUN" not in str(result)) == ratio == (not math.isnan(result.ratio)) == bool(result.checks)


def test_run_from_the_command_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(tmp_path / f"{number}.png")
    done = run("embed_mobilenet_v2", "--folder", tmp_path, "--json", tmp_path / "times.json")
    assert done.returncode == 0, done.stderr
    assert "embed_mobilenet_v2" in done.stdout and "3 files" in done.stdout
    rows = json.loads((tmp_path / "times.json").read_text())["results"]
    assert ["torchvision" in row["setting"] for row in rows] == [True, False]  # as it is, and with BatchNorm folded
    for row in rows:
        assert row["agrees"] and row["goal"] == 0.8 and row["ratio"] == pytest.approx(row["reference"] / row["ours"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("log_mle",), "no benchmark 'log_mle'. Choose from: .* Did you mean 'log_mel'?"),
        (("--folder", "no/such/folder"), "no/such/folder must be a folder"),
        (("--json", "no/such/folder/times.json"), "the folder of no/such/folder/times.json must exist"),
    ],
)
def test_a_wrong_argument_is_an_error_before_any_work(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert all(part in done.stderr for part in message.split(" .* ")), done.stderr
