"""The script of word vectors as a user meets it: what a run leaves, what starts from it, a message for mistakes."""

import json
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from mm import data, encoders
from mm.config import load as read_config
from mm.data import DataConfig
from mm.engine.log import read_csv
from mm.tasks import retrieval, words
from mm.tasks.words import Words
from tests.shared import ROOT, assert_clean, assert_same_run, by_one_and_by_two, started, weights

TINY = ["--config", str(ROOT / "configs/words/tiny.yaml"), "loop.tensorboard=false"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of one's own: who does what where."""
    generator = np.random.default_rng(0)
    parts = ("man woman boy girl", "runs jumps walks plays", "beach street park snow")
    drawn = [[str(generator.choice(part.split())) for part in parts] for _ in range(400)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(f"A {who} {does} in the {where}." for who, does, where in drawn))
    return path


@pytest.fixture(scope="module")
def tiny_words(text: Path) -> list[str]:
    return [*TINY, "data.name=text", f"data.file={text}", "data.batch_size=256", "loop.checkpoint_every=10"]


@pytest.fixture(scope="module")
def words_run(trained, tiny_words: list[str]) -> Path:
    return trained("words", *tiny_words)


def test_a_run_leaves_what_the_design_names(words_run: Path) -> None:
    document = json.loads((words_run / "metrics.json").read_text())
    assert [document[key] for key in ("task", "split", "seed", "data")] == ["words", "test", 0, "text"]
    sections = ["accuracy", "accuracy/female"]
    assert list(document["metrics"]) == ["vocabulary", "words_loss", "same_kind", *sections]
    assert list(document["controls"]) == ["chance", "word_frequency", "random_vectors", "nearest_to_third"]
    assert document["metrics"]["vocabulary"] == 15
    assert list(document["controls"]["nearest_to_third"]) == sections
    assert document["controls"]["chance"]["accuracy"] == 1 / 12
    assert document["metrics"]["words_loss"] < document["controls"]["chance"]["words_loss"]
    (skipped,) = document["not_computed"]
    assert skipped.startswith("accuracy on ") and skipped.endswith(" analogies")
    said = (words_run / "stdout.log").read_text()
    assert "15 words, read " in said and " a: " in said and "nearest to third" in said
    assert f"encoder.text.word_vectors={words_run / 'vectors.txt'} encoder.text.word_dim=16" in said
    logged = {row[2] for row in read_csv(words_run / "metrics.csv")}
    assert {"train/loss", "train/words/skip_gram_loss", "val/words_loss", "time/items_per_s"} <= logged
    assert read_config(Words, ["--config", str(words_run)]).window == Words.window
    assert {path.name for path in words_run.iterdir()} == {
        *("config.yaml", "git.txt", "metrics.csv", "metrics.json", "stdout.log", "vectors.txt", "checkpoints", ".lock")
    }


def test_the_file_and_the_library_have_the_best_vectors(words_run: Path) -> None:
    found = words.load(words_run)
    lines = (words_run / "vectors.txt").read_text().splitlines()
    assert lines[0] == "15 16"
    assert [line.split()[0] for line in lines[1:]] == found.words
    numbers = np.array([line.split()[1:] for line in lines[1:]], dtype=np.float32)
    assert torch.equal(torch.from_numpy(numbers), found.vectors)
    assert torch.equal(found.vectors, weights(words_run, "best")["centre.weight"])
    with pytest.raises(ValueError, match=r"got 'womn'\. Words like it: woman"):
        found.nearest("womn")


def test_a_killed_run_goes_on_and_ends_the_same(script, tiny_words: list[str], words_run: Path, tmp_path: Path) -> None:
    process = started("train_words", tiny_words, tmp_path / "run")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    answer = script("train_words", *tiny_words, f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    assert "goes on from step" in answer.out
    assert_same_run(tmp_path / "run", words_run)
    assert (tmp_path / "run" / "vectors.txt").read_bytes() == (words_run / "vectors.txt").read_bytes()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in words_run.iterdir()}
    again = script("train_words", *tiny_words, f"out={tmp_path / 'run'}")
    assert again.code == 0 and "is finished at step 60, nothing to train" in again.out


def test_two_processes_learn_the_same(tiny_words: list[str], tmp_path: Path) -> None:
    losses = by_one_and_by_two("train_words", [*tiny_words, "loop.steps=8"], tmp_path, "loss")
    assert len(losses[0]) == 8
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.allclose(one[name], two[name], atol=1e-4) for name in one)


def test_the_embedded_world(script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "EVALUATION_SCENES", 24)
    answer = script("train_words", *TINY, "data.scenes=128", f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    document = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert document["data"] == "synthetic" and document["metrics"]["vocabulary"] > 40
    rows = read_csv(tmp_path / "run" / "metrics.csv")
    losses = [float(row[3]) for row in rows if row[2] == "train/loss"]
    assert losses[-1] < 0.8 * losses[0]


def test_a_text_encoder_starts_from_the_vectors(
    script, trained, own_table: Path, tiny: list[str], tmp_path: Path
) -> None:
    run = trained("words", *TINY, "data.name=table", f"data.file={own_table}", "loop.steps=20")
    learned = words.load(run)
    start = [f"encoder.text.word_vectors={run / 'vectors.txt'}", "encoder.text.word_dim=16"]
    start += ["encoder.text.freeze=true"]  # so that the end of the training shows what it started from
    answer = script("train_retrieval", *tiny, *start, "loop.steps=2", f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    assert f"{len(learned.words)} of {len(learned.words)} words found, 0 only with capitals" in answer.out
    encoder = encoders.load(tmp_path / "run", "text")
    assert isinstance(encoder, encoders.TextEncoder)
    assert sorted(encoder.vocabulary.words) == sorted(learned.words)
    for word in learned.words:
        (number,) = encoder.vocabulary.encode(word)
        assert torch.equal(encoder.embedding.weight[number], learned.vectors[learned.number(word)])


def test_words_of_a_run_that_is_none(words_run: Path, tiny_run: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a checkpoint of words: there is no words\.json"):
        words.load(tiny_run)
    with pytest.raises(FileNotFoundError, match="must be a run folder"):
        words.load(words_run / "none")
    with pytest.raises(ValueError, match="unknown modality"):
        encoders.load(words_run, "text")
    with pytest.raises(ValueError, match="of a finished run"):
        words.restore(words_run, ["window=3"])
    with pytest.raises(ValueError, match="must be a run of retrieval: it is one of words"):
        retrieval.load(words_run)


# Evaluation ---------------------------------------------------------------------------------------------------------


def test_evaluate_prints_what_training_did(script, words_run: Path, tiny_words: list[str], tmp_path: Path) -> None:
    subprocess.run(["cp", "-r", str(words_run), str(tmp_path / "run")], check=True)
    run = tmp_path / "run"
    document = json.loads((run / "metrics.json").read_text())
    shown = script("evaluate", run)
    assert shown.code == 0, shown.err
    assert "nearest to third" in shown.out and "word frequency" in shown.out
    rewritten = json.loads((run / "metrics.json").read_text())
    for part in ("task", "metrics", "controls", "not_computed", "seed", "data", "split"):
        assert rewritten[part] == document[part]
    val = json.loads(script("evaluate", run, "--json", "--split", "val").out)
    assert val["metrics"]["accuracy"] == document["metrics"]["accuracy"]
    assert val["metrics"]["words_loss"] != document["metrics"]["words_loss"]
    (tmp_path / "own.txt").write_text(": work\nman runs woman walks\nboy sings girl dances\n")
    own = script("evaluate", run, "--json", f"analogies={tmp_path / 'own.txt'}")
    assert own.code == 0, own.err
    answer = json.loads(own.out)
    assert "accuracy/work" in answer["metrics"] and "accuracy/female" not in answer["metrics"]
    assert "accuracy on 1 of 2 analogies" in answer["not_computed"]
    assert json.loads((run / "metrics.json").read_text()) == rewritten
    (tmp_path / "none.txt").write_text(": songs\nboy sings girl dances\n")
    none = json.loads(script("evaluate", run, "--json", f"analogies={tmp_path / 'none.txt'}").out)
    assert not [name for name in none["metrics"] if name.startswith("accuracy")]
    assert "nearest_to_third" not in none["controls"] and "accuracy on 1 of 1 analogies" in none["not_computed"]
    assert_clean(script("evaluate", run, "--ensemble", run), "this run has words")
    assert_clean(script("evaluate", run, f"data.file={tmp_path / 'gone.txt'}"), "gone.txt not found")


# Mistakes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("window=0", "window must be at least 1: got 0"),
        ("subsample=-1", "subsample must be a share of the text"),
        ("min_count=1000", "at least one word must occur 1000 times: the sentences have 15 different words"),
        ("subsample=1e-12", "the held-out sentences must have pairs of words"),
        ("data.batch_size=0", "data.batch_size must be a number of words, at least 1: got 0"),
        ("data.name=flikr8k", "unknown data set with sentences 'flikr8k'"),
        ("data.name=mixed", "unknown data set with sentences 'mixed'"),
        ("data.file=", "data.name=text needs data.file=FILE.txt"),
        ("data.file=none.txt", "none.txt not found"),
        ("data.workers=2", "data.workers=2 has no effect here"),
        ("analogies=none.txt", "none.txt not found"),
        ("windw=3", "Did you mean 'window'?"),
        ("loop.steps=0", "loop.steps must be at least 1"),
        ("seed=-1", "seed"),
    ],
)
def test_training_with_wrong_settings(script, tiny_words: list[str], tmp_path: Path, wrong: str, said: str) -> None:
    assert_clean(script("train_words", *tiny_words, f"out={tmp_path / 'run'}", wrong), "train_words.py: ", said)
    assert not (tmp_path / "run" / "vectors.txt").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "at least one word must occur 1 times: the sentences have 0 different words"),
        (b"...\n\n!\n", "at least one word must occur 1 times: the sentences have 0 different words"),
        (b"dog\ncat\n" * 30, "the text must have a sentence with two words of the vocabulary: there is none"),
        (b"a dog\n" * 15, "val of {path} must have a sentence with two words"),
        (b"a dog runs\n" * 30 + b"\xff\xfe", "line 31 of {path} must be text in UTF-8"),
    ],
)
def test_texts_to_learn_nothing_from(script, tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    answer = script("train_words", *TINY, "data.name=text", f"data.file={path}", f"out={tmp_path / 'run'}")
    assert_clean(answer, said.format(path=path))


def test_wrong_questions_are_said_before_the_training(script, tiny_words: list[str], tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_text(": family\nboy girl man\n")
    wrong = [f"analogies={tmp_path / 'questions.txt'}", f"out={tmp_path / 'run'}"]
    assert_clean(
        script("train_words", *tiny_words, *wrong), "line 2 of ", "must be four words below a line ': section'"
    )
    assert not (tmp_path / "run").exists()


def test_a_data_set_without_sentences_or_without_its_folder(script, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("id,split,owner,image\n1,train,1,a.jpg\n2,val,2,a.jpg\n3,test,3,a.jpg\n")
    (tmp_path / "a.jpg").write_bytes(b"not looked at")
    table = ["data.name=table", f"data.file={tmp_path / 'own.csv'}", f"out={tmp_path / 'run'}"]
    assert_clean(script("train_words", *TINY, *table), "the sentences have 0 different words")
    missing = ["data.name=flickr8k", f"data.root={tmp_path}", f"out={tmp_path / 'run'}"]
    assert_clean(script("train_words", *TINY, *missing), str(tmp_path), "docs/data.md")


def test_real_captions_give_sensible_words(real_data, trained) -> None:
    """Three epochs of Flickr8k are enough to be far above every control."""
    real_data("flickr8k")
    few = ["data.name=flickr8k", "dim=48", "min_count=5", "window=3", "subsample=1e-3", "data.batch_size=4096"]
    run = trained("words", *TINY, *few, "loop.steps=250")
    document = json.loads((run / "metrics.json").read_text())
    controls = document["controls"]
    assert document["metrics"]["accuracy"] > 1.5 * controls["nearest_to_third"]["accuracy"]
    assert document["metrics"]["same_kind"] > 3 * controls["random_vectors"]["same_kind"]
    assert read_config(Words, ["--config", str(run)]).data == DataConfig(name="flickr8k", batch_size=4096, scenes=256)
