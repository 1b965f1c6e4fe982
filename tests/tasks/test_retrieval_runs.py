"""Whole runs of `scripts/train_retrieval.py`: what they leave, repeated, killed, stopped, and on the embedded world."""

import json
import signal
from pathlib import Path
from typing import get_args

import pytest
import torch

from mm import data, encoders
from mm.config import load as read_config
from mm.engine.log import read_csv
from mm.index import Index, Searcher
from mm.losses.settings import Name
from mm.tasks import retrieval
from mm.tasks.retrieval import Retrieval
from tests.shared import assert_clean, assert_same_run, by_one_and_by_two, colours, started, weights

ROOT = Path(__file__).parents[2]
NAMES = [f"{a}_to_{b}" for a in data.MODALITIES for b in data.MODALITIES if a != b]
LARGE = ["loss.memory=60", "loss.memory_from=1", "loss.chunk=3", "head.dropout=0.2", "loop.ema=0.9"]
NUMBERS = ["R@1", "R@5", "R@10", "MedR", "MeanR", "mAP@10"]


def test_a_run_leaves_what_the_design_names(tiny_run: Path) -> None:
    document = json.loads((tiny_run / "metrics.json").read_text())
    assert list(document) == ["task", "split", "metrics", "controls", "seed", "data", "seconds", "versions"]
    assert [document[key] for key in ("task", "split", "seed", "data")] == ["retrieval", "test", 0, "table"]
    assert {f"{name}_{number}" for name in NAMES for number in NUMBERS} | {"rsum"} <= set(document["metrics"])
    assert list(document["controls"]) == ["chance", "shuffled_pairs", "constant_embeddings"]
    assert document["controls"]["constant_embeddings"] == pytest.approx(document["controls"]["chance"])
    assert all(0 <= v <= 1 for n, v in document["metrics"].items() if "R@" in n or "mAP" in n)
    assert document["metrics"]["rsum"] > document["controls"]["chance"]["rsum"]
    assert document["seconds"] > 0
    assert {"config.yaml", "git.txt", "stdout.log", "index"} <= {file.name for file in tiny_run.iterdir()}
    assert "image to text" in (tiny_run / "stdout.log").read_text()
    assert {"mm", "torch", "python"} <= set(document["versions"])
    rows = read_csv(tiny_run / "metrics.csv")
    assert {"train/loss", "train/retrieval/image_text_loss", "train/lr", "time/items_per_s", "val/rsum"} <= {
        row[2] for row in rows
    }
    losses = [float(row[3]) for row in rows if row[2] == "train/loss"]
    assert losses[-1] < 0.8 * losses[0]
    for pointer in ("last", "best"):
        folder = tiny_run / "checkpoints" / (tiny_run / "checkpoints" / pointer).read_text().strip()
        assert {"model.safetensors", "encoders.json", "config.yaml", "state.json", "manifest.json"} <= {
            file.name for file in folder.iterdir()
        }
    assert colours(tiny_run / "figures" / "neighbours.png") > 500
    assert read_config(Retrieval, ["--config", str(tiny_run)]).out == str(tiny_run)


def test_the_index_of_a_run_answers(tiny_run: Path) -> None:
    model, _ = retrieval.load(tiny_run)
    index = Index.load(tiny_run / "index")
    assert index.modalities == {"image": 8, "text": 16, "audio": 8}
    assert index.run == str(tiny_run)
    hit = Searcher(index, model).query(text="a red circle", k=1)[0]
    assert (hit.id, hit.metadata["text"]) == ("text:test-red-circle#0", "a red circle")
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert hit.metadata["colour"] == "red"  # columns of one's own go with it


def test_again_says_finished_and_gives_the_same(script, tiny: list[str], tiny_run: Path) -> None:
    before = (tiny_run / "metrics.json").read_text()
    found = weights(tiny_run)
    answer = script("train_retrieval", *tiny, f"out={tiny_run}")
    assert answer.code == 0, answer.err
    assert "is finished at step 24, nothing to train" in answer.out
    document, earlier = json.loads((tiny_run / "metrics.json").read_text()), json.loads(before)
    assert document == earlier
    assert all(torch.equal(value, found[name]) for name, value in weights(tiny_run).items())
    assert len(Index.load(tiny_run / "index")) == 32


def test_config_yaml_repeats_a_run_bit_for_bit(script, tiny_run: Path, tmp_path: Path) -> None:
    answer = script("train_retrieval", "--config", tiny_run / "config.yaml", f"out={tmp_path / 'again'}")
    assert answer.code == 0, answer.err
    assert_same_run(tmp_path / "again", tiny_run)


def test_other_settings_in_the_same_folder_are_refused(script, tiny: list[str], tiny_run: Path) -> None:
    answer = script("train_retrieval", *tiny, f"out={tiny_run}", "optim.lr=0.5")
    assert answer.code == 2
    assert "optim.lr: 0.001 there, 0.5 here" in answer.err


@pytest.mark.parametrize("large", [[], LARGE])
def test_a_killed_run_goes_on_bit_for_bit(script, tiny: list[str], tiny_run: Path, tmp_path: Path, large: list) -> None:
    """Also in mid-queue: batches bring eight rows, and the first checkpoint is of step 4."""
    whole = tiny_run
    if large:
        whole = tmp_path / "whole"
        assert script("train_retrieval", *tiny, *large, f"out={whole}").code == 0
        assert not any(name.startswith("memory") for name in retrieval.load(whole)[0].state_dict())
        assert int(weights(whole)["memory.image.count"]) == 60
        assert encoders.load(whole, "text").fingerprint() != encoders.load(tiny_run, "text").fingerprint()
    process = started("train_retrieval", [*tiny, *large], tmp_path / "run")
    process.kill()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, output + errors
    assert not (tmp_path / "run" / "metrics.json").exists()
    answer = script("train_retrieval", *tiny, *large, f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    assert "goes on from step" in answer.out
    assert_same_run(tmp_path / "run", whole)


def test_sigterm_saves_and_leaves_with_143(script, tiny: list[str], tiny_run: Path, tmp_path: Path) -> None:
    process = started("train_retrieval", tiny, tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (143, "")
    assert "Stopped at step" in output
    assert script("train_retrieval", *tiny, f"out={tmp_path / 'run'}").code == 0
    assert_same_run(tmp_path / "run", tiny_run)


def test_the_embedded_world_from_end_to_end(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "EVALUATION_SCENES", 100)  # the thousand of a real run take a minute of evaluation
    out = tmp_path / "world"
    answer = script(
        "train_retrieval",
        "--config",
        ROOT / "configs/retrieval/tiny.yaml",
        "loop.steps=6",
        "data.scenes=64",
        f"out={out}",
    )
    assert answer.code == 0, answer.err
    document = json.loads((out / "metrics.json").read_text())
    assert list(document["controls"]) == [
        "chance",
        "shuffled_pairs",
        "constant_embeddings",
        "perfect_decoder",
        "perfect_bag_of_words",
        "image_alone",
    ]
    assert {"analogy_R@1", "analogy_R@10", "image+text_to_audio_R@1"} <= set(document["metrics"])
    for line in ("perfect decoder", "perfect bag of words", "image alone", "shuffled pairs"):
        assert f"  {line} " in answer.out
    assert any(out.glob("events.out.tfevents.*"))
    again = script("evaluate", out, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["metrics"] == document["metrics"]
    for modality in ("image", "audio"):  # drawn again from the world, for there is no file
        grid = tmp_path / f"{modality}.png"
        options = ("--text", "a red circle", "--modality", modality, "--grid", grid, "-k", "4")
        shown = script("query_index", out / "index", *options)
        assert shown.code == 0, shown.err
        assert [line.split()[2] for line in shown.out.splitlines()[:4]] == [modality] * 4
        assert colours(grid) > 500


@pytest.fixture(scope="module")
def table_of_classes(own_table: Path) -> Path:
    """The same pictures, the colour as the class; that of one picture is not known."""
    rows = own_table.read_text().replace(",colour,", ",class,").splitlines()
    rows = [row.replace(",green,", ",,") if "train-green-square" in row else row for row in rows]
    file = own_table.with_name("classes.csv")
    file.write_text("\n".join(rows) + "\n")
    return file


@pytest.mark.parametrize("loss", get_args(Name))
def test_every_loss_trains(
    script, tiny: list[str], tiny_run: Path, table_of_classes: Path, tmp_path: Path, loss: str
) -> None:
    """From the command to the evaluation of the finished run, and to better than chance on what was learned."""
    out = tmp_path / loss
    words = [*tiny, f"data.file={table_of_classes}", "modalities=[image,text]", f"loss.name={loss}", "optim.lr=5e-3"]
    words += ["loss.warmup_steps=10"] if loss == "hardest" else []
    answer = script("train_retrieval", *words, f"out={out}")
    assert answer.code == 0, answer.err
    rows = [row for row in read_csv(out / "metrics.csv") if row[2].endswith("loss")]
    losses = [float(row[3]) for row in rows if row[2] == "train/loss"]
    assert losses[-1] < 0.95 * losses[0], losses
    document = json.loads((out / "metrics.json").read_text())
    chance, constant = (document["controls"][name] for name in ("chance", "constant_embeddings"))
    assert document["metrics"]["rsum"] > 1.2 * chance["rsum"]
    assert constant == pytest.approx(chance)
    again = script("evaluate", out, "--json")
    assert json.loads(again.out)["metrics"] == document["metrics"], again.err
    if loss == "order":
        assert_clean(script("evaluate", tiny_run, "--ensemble", out), "runs of loss.name=order go with their like")
        built = script("build_index", out, "--out", tmp_path / "index")
        assert_clean(built, "an index finds by the cosine: a run of loss.name=order")
    model, _ = retrieval.load(out)
    assert torch.allclose(model.embed("text", ["a red circle"]).norm(), torch.tensor(1.0))
    assert (out / "index").exists() == (loss != "order")
    assert model.classes == (["blue", "green", "red", "yellow"] if loss == "cosine_semantic" else [])
    told = {row[2].rpartition("/")[2] for row in rows}
    assert {"image_class_loss", "text_class_loss"} <= told or loss != "cosine_semantic"


def test_classes_that_there_are_not(script, tiny: list[str], tmp_path: Path) -> None:
    answer = script("train_retrieval", *tiny, "loss.name=cosine_semantic", f"out={tmp_path / 'run'}")
    assert_clean(answer, 'no training item has one, as meta["class"]', "a table with a column `class`")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("loss.margin=0.3", "loss.margin=0.3 has no effect here: leave out, or give loss.margin=0.0."),
        ("loss.name=hinge loss.warmup_steps=5", "loss.warmup_steps=5 has no effect here"),
        ("loss.name=hinge loss.miner=hard", "loss.miner=hard has no effect here"),
        ("loss.name=triplet loss.warmup_steps=5", "loss.warmup_steps=5 has no effect here"),
        ("loss.name=triplet loss.l2=0.1", "loss.l2=0.1 has no effect here"),
        ("loss.name=n_pair loss.beta=4 loss.base=0", "loss.base=0.0, loss.beta=4.0 have no effect here"),
        ("loss.name=order loss.mismatch=0.5", "loss.mismatch=0.5 has no effect here"),
        ("loss.memory_from=5", "loss.memory_from=5 has no effect here"),
        ("loss.name=hinge loss.margin=-1", "loss.margin must be at least 0: got -1.0."),
        ("loss.chunk=8 loop.compile=true", "loss.chunk=8 computes each chunk twice, which a compiled model would do"),
        ("loss.chunk=-1", "loss.chunk must be at least 0: got -1."),
        ("loss.memory=-8", "loss.memory must be at least 0: got -8."),
        ("loss.name=multi_similarity loss.alpha=0", "loss.alpha must be positive: got 0.0."),
        ("loss.name=cosine_semantic loss.mismatch=1.5", "loss.mismatch must lie in 0..1: got 1.5."),
        ("loss.name=cosine_semantic loss.class_weight=0.6", "loss.class_weight must lie in 0..0.5: got 0.6."),
        ("loss.name=contrastiv", "Did you mean 'contrastive'?"),
    ],
)
def test_settings_of_the_loss_that_cannot_be(script, tiny: list[str], tmp_path: Path, settings: str, message: str):
    assert_clean(script("train_retrieval", *tiny, *settings.split(), f"out={tmp_path / 'run'}"), message)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("large", [[], ["loss.name=hinge", "loss.chunk=3", "loss.memory=20", "loss.memory_from=1"]])
def test_two_processes_train_what_one_trains(tiny: list[str], tmp_path: Path, large: list[str]) -> None:
    """From the command to the index; frozen pictures, for BatchNorm takes its statistics from each process's part."""
    words = [*tiny, "modalities=[image,text]", "encoder.image.freeze=true", "head.pool.image=vector"]
    words += ["loop.steps=6", *large]
    losses = by_one_and_by_two("train_retrieval", words, tmp_path, "retrieval/image_text_loss")
    one, two = tmp_path / "one", tmp_path / "two"
    assert len(losses[0]) == 6 and losses[1] == pytest.approx(losses[0], rel=1e-4)
    models = [retrieval.load(run)[0].state_dict() for run in (one, two)]
    for name, value in models[0].items():
        torch.testing.assert_close(models[1][name], value, rtol=1e-3, atol=2e-4, msg=name)
    scores = [json.loads((run / "metrics.json").read_text())["metrics"] for run in (one, two)]
    assert scores[1] == pytest.approx(scores[0], abs=0.1) and len(Index.load(two / "index")) == 24
