"""The scripts as a user meets them: their answers, and one clean message with exit code 2 for whatever is wrong."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mm.index import Index
from mm.tasks import retrieval
from tests.shared import assert_clean

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))


@pytest.fixture(scope="module")
def index(script, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of the tiny run's test split, with the words of its sentences."""
    out = tmp_path_factory.mktemp("index") / "index"
    answer = script("build_index", tiny_run, "--out", out, "--vocabulary", "--min-count", "1")
    assert answer.code == 0, answer.err
    assert "41 items (8 image, 16 text, 8 audio, 9 word), 32 numbers each" in answer.out
    return out


def copy(folder: Path, to: Path) -> Path:
    return Path(shutil.copytree(folder, to))


def picture(own_table: Path, colour: str = "red") -> Path:
    return own_table.parent / f"{colour}-circle.jpg"


# Help and usage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_help(script, name: str) -> None:
    answer = script(name, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert "usage:" in answer.out
    if name.startswith("train_"):
        assert "loop.steps=" in answer.out


@pytest.mark.parametrize("name", [name for name in SCRIPTS if not name.startswith(("train_", "benchmark"))])
def test_without_arguments_they_say_what_they_need(script, name: str) -> None:
    answer = script(name)
    assert answer.code == 2
    assert "usage:" in answer.err
    assert "required" in answer.err


# Training -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("optim.learning_rate=1", "Did you mean 'optim.lr'?"),
        ("loop.steps=many", "loop.steps must be int: got 'many'"),
        ("loop.steps=0", "loop.steps must be at least 1: got 0"),
        ("loss.name=infonce", "Did you mean 'info_nce'?"),
        ("--steps=3", "settings are written key=value, without dashes"),
        ("--config", "--config must be followed by a file"),
        ("--config=configs/retrieval/flickr.yaml", "no configuration file"),
        ("modalities=[image]", "modalities must be two or more of image, text, audio"),
        ("modalities=image", "Write [a, b]"),
        ("encoder.image.name=resnet5", "Did you mean 'resnet50'?"),
        ("encoder.audio.name=vgg16", "unknown audio encoder 'vgg16'"),
        ("encoder.text.name=grue", "unknown text encoder 'grue'"),
        ("encoder.text.name=mean", "would have no effect with kind='mean'"),
        ("encoder.image.weights=nothing.pth", "'nothing.pth' not found"),
        ("encoder.image.init=runs/nothing", "runs/nothing must be a run folder"),
        ("encoder.image.cache=true", "nothing of image is frozen"),
        ("encoder.image.size=-1", "size must be"),
        ("head.heads=5", "heads must be a square number, such as 4, 9 or 16: got 5"),
        ("head.temperature=-1", "the temperature must be positive"),
        ("data.batch_size=0", "batch_size must be"),
        ("data.views=0", "must lie in 1..10: got 0, 1"),
        ("data.views=11", "view"),
        ("seed=-1", "the seed must be at least 0: got -1"),
        ("loop.device=gpu", "device"),
        ("data.name=flikr8k", "Did you mean 'flickr8k'?"),
        ("data.file=nothing.csv", "nothing.csv must be a CSV or JSONL file"),
        ("data.file=", "data.name=table needs data.file"),
    ],
)
def test_training_with_wrong_settings(script, tiny: list[str], tmp_path: Path, wrong: str, said: str) -> None:
    assert_clean(script("train_retrieval", *tiny, f"out={tmp_path / 'run'}", wrong), "train_retrieval.py: ", said)
    assert not list((tmp_path / "run").glob("checkpoints/*-best"))
    last = tmp_path / "run" / "checkpoints" / "last"
    assert not last.exists() or last.read_text() == "step-00000000\n"  # nothing was trained


@pytest.mark.parametrize("name", ["flickr8k", "flickr8k_spoken", "flickr30k", "coco", "esc10", "esc50", "audiocaps"])
def test_a_missing_data_set(script, tmp_path: Path, name: str) -> None:
    answer = script("train_retrieval", f"data.name={name}", f"data.root={tmp_path}", f"out={tmp_path / 'run'}")
    assert_clean(answer, str(tmp_path), "must hold", "docs/data.md", "data.root")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_picture_while_training(
    script, tiny: list[str], own_table: Path, tmp_path: Path, workers: int
) -> None:
    folder = copy(own_table.parent, tmp_path / "own")
    (folder / "red-circle.jpg").write_bytes((folder / "red-circle.jpg").read_bytes()[:300])
    arguments = [
        *tiny,
        f"data.file={folder / 'own.csv'}",
        f"out={tmp_path / 'run'}",
        "loop.steps=1",
        f"data.workers={workers}",
    ]
    assert_clean(script("train_retrieval", *arguments), "red-circle.jpg")
    # Training may skip it, the test split must not.
    arguments += ["data.skip_bad=true", f"out={tmp_path / 'other'}"]
    assert_clean(script("train_retrieval", *arguments), "red-circle.jpg", "Truncated")


def test_a_loss_that_is_not_finite(script, tiny: list[str], tmp_path: Path) -> None:
    wild = ["optim.lr=1e38", "optim.warmup_steps=0", "optim.clip_norm=0", "optim.name=sgd"]
    answer = script("train_retrieval", *tiny, *wild, f"out={tmp_path / 'run'}")
    assert_clean(answer, "the loss and its gradient must be finite: at step", "text_audio_loss = ", "Lower optim.lr")


def test_a_truncated_checkpoint(script, tiny: list[str], tiny_run: Path, tmp_path: Path) -> None:
    run = copy(tiny_run, tmp_path / "run")
    for pointer in ("last", "best"):
        file = run / "checkpoints" / (run / "checkpoints" / pointer).read_text().strip() / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1000])
    assert_clean(script("train_retrieval", *tiny, f"out={run}"), "model.safetensors is damaged", "another out=")
    assert_clean(script("evaluate", run), "model.safetensors is damaged")
    assert_clean(script("build_index", run, "--out", tmp_path / "index"), "model.safetensors is damaged")
    assert_clean(script("query_index", tiny_run / "index", "--text", "red", "--run", run), "model.safetensors")
    assert not (tmp_path / "index").exists()


def test_a_full_disk_while_training(script, tiny: list[str], tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        answer = script("train_retrieval", *tiny, f"out={tmp_path / 'run'}", "loop.steps=2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_clean(answer, "could not be written", "Free disk space")
    assert script("train_retrieval", *tiny, f"out={tmp_path / 'run'}", "loop.steps=2").code == 0


def test_a_process_of_its_own_shows_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/train_retrieval.py", "data.name=flickr8k", f"data.root={tmp_path}"]
    command.append(f"out={tmp_path / 'run'}")
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("train_retrieval.py: the data set in ")
    assert len(done.stderr.splitlines()) == 1


# Evaluation ---------------------------------------------------------------------------------------------------------


def test_evaluate_prints_what_training_did(script, tiny_run: Path, tmp_path: Path) -> None:
    run = copy(tiny_run, tmp_path / "run")
    document = json.loads((run / "metrics.json").read_text())
    shown = script("evaluate", run)
    assert shown.code == 0
    assert f"{100 * document['metrics']['image_to_text_R@1']:.1f}" in shown.out.splitlines()[1]
    assert "constant embeddings" in shown.out
    rewritten = json.loads((run / "metrics.json").read_text())
    for part in ("metrics", "controls", "seed", "data", "split", "task"):
        assert rewritten[part] == document[part]


def test_an_ensemble_averages_cosines(script, tiny_run: Path, tiny: list[str], tmp_path: Path) -> None:
    before = (tiny_run / "metrics.json").read_text()
    twice = script("evaluate", tiny_run, "--json", "--ensemble", tiny_run, tiny_run)
    alone = script("evaluate", tiny_run, "--json", "--split", "test")
    assert json.loads(twice.out)["metrics"] == pytest.approx(json.loads(alone.out)["metrics"], abs=1e-6)
    other = tmp_path / "other"
    assert script("train_retrieval", *tiny, "modalities=[image, text]", "loop.steps=1", f"out={other}").code == 0
    assert_clean(script("evaluate", tiny_run, "--ensemble", other), "same items in the same modalities")
    assert_clean(script("evaluate", tiny_run, "--ensemble", tmp_path / "no"), "no must be a run folder")
    assert json.loads((tiny_run / "metrics.json").read_text())["metrics"] == json.loads(before)["metrics"]


def test_evaluate_json_and_settings_in_any_order(script, tiny_run: Path, tmp_path: Path) -> None:
    run = copy(tiny_run, tmp_path / "run")
    before = (run / "metrics.json").read_text()
    for arguments in (
        ("--json", "--split", "val", "data.eval_views=2"),
        ("data.eval_views=2", "--split", "val", "--json"),
        ("--json", "data.eval_views=2", "--split", "val"),
    ):
        answer = script("evaluate", run, *arguments)
        assert answer.code == 0, answer.err
        assert list(json.loads(answer.out)) == ["split", "metrics", "controls"]
        assert json.loads(answer.out)["split"] == "val"
    assert (run / "metrics.json").read_text() == before  # not the run's own evaluation


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("data.eval_view=2",), "Did you mean 'data.eval_views'?"),
        (("data.eval_views=two",), "data.eval_views must be int"),
        (("data.eval_views=11",), "view"),
        (("head.embed_dim=8",), "loop.device can be changed: got head.embed_dim=8"),
        (("modalities=[image, text, video]",), "loop.device can be changed: got modalities="),
        (("data.file=nothing.csv",), "nothing.csv must be"),
        (("data.name=flickr8k", "data.root=nothing"), "must hold"),
        (("--split", "train"), "invalid choice: 'train'"),
        (("--jsn",), "unrecognized arguments: --jsn"),
    ],
)
def test_evaluate_with_wrong_arguments(script, tiny_run: Path, tmp_path: Path, arguments, said: str) -> None:
    before = (tiny_run / "metrics.json").read_text()
    answer = script("evaluate", tiny_run, *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert (tiny_run / "metrics.json").read_text() == before


@pytest.mark.parametrize("name", ["evaluate", "build_index"])
def test_a_missing_run(script, tmp_path: Path, name: str) -> None:
    more = ("--out", tmp_path / "index") if name == "build_index" else ()
    assert_clean(script(name, tmp_path / "nothing", *more), f"{name}.py: {tmp_path / 'nothing'} must be a run folder")
    (tmp_path / "empty").mkdir()
    assert_clean(script(name, tmp_path / "empty", *more), "none of these was found")
    assert not (tmp_path / "index").exists()


def test_a_damaged_description_or_configuration(script, tiny_run: Path, tmp_path: Path) -> None:
    for name, said in (("encoders.json", "encoders.json is damaged"), ("config.yaml", "config.yaml")):
        run = copy(tiny_run, tmp_path / name)
        folder = run / "checkpoints" / (run / "checkpoints/best").read_text().strip()
        (folder / name).write_text((folder / name).read_text()[:60] + "\n  {")
        assert_clean(script("evaluate", run), said)
        (folder / name).unlink()
        assert_clean(script("evaluate", run), name)


# Building an index --------------------------------------------------------------------------------------------------


def test_build_index_of_some_modalities_and_splits(script, tiny_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "index"
    answer = script("build_index", tiny_run, "--out", out, "--split", "val", "--modality", "image", "audio")
    assert answer.code == 0, answer.err
    built = Index.load(out)
    assert built.modalities == {"image": 8, "audio": 8}
    assert {meta["split"] for meta in built.metadata(built.ids)} == {"val"}
    assert built.fingerprint == retrieval.load(tiny_run)[0].fingerprint()


def test_an_index_equals_that_of_the_run(tiny_run: Path, index: Path) -> None:
    one, two = Index.load(tiny_run / "index"), Index.load(index)
    np.testing.assert_allclose(one.vectors(one.ids), two.vectors(one.ids), atol=2e-6)


def test_build_index_of_a_folder(script, tiny_run: Path, own_table: Path, tmp_path: Path) -> None:
    folder = copy(own_table.parent, tmp_path / "files")
    arguments = ("--out", tmp_path / "index", "--folder", folder)
    assert script("build_index", tiny_run, *arguments).code == 0
    built = Index.load(tmp_path / "index")
    assert built.modalities == {"image": 8}
    assert built.metadata(["image:red-circle.jpg"]) == [{"modality": "image", "path": f"{folder / 'red-circle.jpg'}"}]
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    assert_clean(script("build_index", tiny_run, *arguments), "broken.jpg")
    assert len(Index.load(tmp_path / "index")) == 8  # what was there stays
    answer = script("build_index", tiny_run, *arguments, "--modality", "image", "audio", "--skip-bad")
    assert answer.code == 0, answer.err
    assert "1 unreadable sources left out of the index: broken.jpg" in answer.out
    assert Index.load(tmp_path / "index").modalities == {"image": 8, "audio": 8}
    assert_clean(script("build_index", tiny_run, *arguments, "--modality", "text"), "files of 'image' or 'audio'")
    (tmp_path / "empty").mkdir()
    for name, said in (("nothing", "must be a folder"), ("empty", "no image file")):
        assert_clean(script("build_index", tiny_run, "--out", tmp_path / "x", "--folder", tmp_path / name), said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--modality", "video"), "invalid choice: 'video'"),
        (("--split", "all"), "invalid choice: 'all'"),
        (("--vocabulary", "--min-count", "1000"), "there must be at least one text to embed"),
        (("--min-count", "few"), "invalid int value"),
        (("data.file=nothing.csv",), "nothing.csv must be"),
    ],
)
def test_build_index_with_wrong_arguments(script, tiny_run: Path, tmp_path: Path, arguments, said: str) -> None:
    answer = script("build_index", tiny_run, "--out", tmp_path / "index", *arguments)
    assert answer.code == 2, answer
    assert said in answer.err
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize("size", [3_000, 8_000])  # too small for the vectors, for the metadata
def test_a_full_disk_leaves_the_earlier_index(script, tiny_run: Path, index: Path, tmp_path: Path, size: int) -> None:
    out = copy(index, tmp_path / "index")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        answer = script("build_index", tiny_run, "--out", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_clean(answer, "build_index.py: the index cannot be written to", str(out))
    assert len(Index.load(out)) == 41


def test_an_index_where_a_file_stands(script, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_clean(script("build_index", tiny_run, "--out", tmp_path / "file"), str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


# Asking an index ----------------------------------------------------------------------------------------------------


def lines(answer) -> list[list[str]]:
    assert answer.code == 0, answer.err
    return [line.split() for line in answer.out.splitlines()]


def test_a_sentence_is_answered_with_a_table(script, index: Path) -> None:
    rows = lines(script("query_index", index, "--text", "a red circle", "-k", "3", "--modality", "text"))
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert rows[0] == ["1", "1.000", "text", "text:test-red-circle#0", "a", "red", "circle"]
    assert sorted((float(row[1]) for row in rows), reverse=True) == [float(row[1]) for row in rows]


def test_json_is_json_whatever_is_said_beside_it(script, index: Path, tmp_path: Path) -> None:
    options = ("-k", "2", "--json", "--grid", tmp_path / "grid.png")
    answer = script("query_index", index, "--text", "a red giraffe", *options)
    assert answer.code == 0
    hits = json.loads(answer.out)
    assert [list(hit) for hit in hits] == [["id", "score", "metadata"]] * 2
    assert "words that the encoder does not know have no part in the query: giraffe" in answer.err
    assert "Picture: " in answer.err


def test_pictures_and_sounds_are_answered(script, index: Path, own_table: Path) -> None:
    for kind, suffix in (("image", "jpg"), ("audio", "wav")):
        file = own_table.parent / f"blue-square.{suffix}"
        answer = script("query_index", index, f"--{kind}", file, "-k", "1", "--modality", kind, "--json")
        (hit,) = json.loads(answer.out)
        assert hit["id"] == f"{kind}:test-blue-square"
        assert hit["score"] == pytest.approx(1, abs=1e-5)
        assert hit["metadata"]["path"] == str(file)


def test_tags_of_a_picture(script, index: Path, own_table: Path) -> None:
    rows = lines(script("query_index", index, "--image", picture(own_table), "--modality", "word", "-k", "9"))
    assert {row[4] for row in rows} == {"a", "one", "in", "circle", "square", "red", "green", "blue", "yellow"}
    assert all(row[3] == f"word:{row[4]}" for row in rows)


def test_where(script, index: Path) -> None:
    answer = script(
        "query_index", index, "--text", "a red circle", "--where", "colour=green,blue", "--where", "modality=image",
        "-k", "99", "--json",
    )  # fmt: skip
    assert {hit["metadata"]["colour"] for hit in json.loads(answer.out)} == {"green", "blue"}
    assert len(json.loads(answer.out)) == 4
    none = script("query_index", index, "--text", "a red circle", "--where", "colour=purple", "--json")
    assert (none.code, json.loads(none.out)) == (0, [])


def test_k_beyond_the_index(script, index: Path) -> None:
    assert len(lines(script("query_index", index, "--text", "a red circle", "-k", "1000"))) == 41


def test_query_algebra_equals_the_sum_of_vectors(script, index: Path, own_table: Path, tiny_run: Path) -> None:
    terms = ("--minus-text", "red", "--plus-text", "blue", "--plus-image", picture(own_table, "blue"))
    answer = script("query_index", index, "--image", picture(own_table), *terms, "-k", "41", "--json")
    model, _ = retrieval.load(tiny_run)
    own = model.embed("image", [picture(own_table), picture(own_table, "blue")]).numpy()
    words = model.embed("text", ["red", "blue"]).numpy()
    moved = own[0] + own[1] - words[0] + words[1]
    built = Index.load(index)
    expected = built.search(moved / np.linalg.norm(moved), 41).rows()
    hits = json.loads(answer.out)
    assert [hit["id"] for hit in hits] == [hit.id for hit in expected]
    np.testing.assert_allclose([hit["score"] for hit in hits], [hit.score for hit in expected], atol=1e-5)


def test_a_vector(script, index: Path, tmp_path: Path) -> None:
    vector = Index.load(index).vectors(["image:test-green-circle"])
    for name, array in (("flat", vector[0]), ("row", vector)):
        np.save(tmp_path / f"{name}.npy", array)
        rows = lines(script("query_index", index, "--vector", tmp_path / f"{name}.npy", "-k", "1"))
        assert rows[0][:4] == ["1", "1.000", "image", "image:test-green-circle"]
    options = ("--vector", tmp_path / "flat.npy", "--plus-text", "red", "--minus-text", "green", "-k", "2")
    assert len(lines(script("query_index", index, *options, "--grid", tmp_path / "grid.png"))) == 3


def test_a_vector_needs_no_run(script, index: Path, tmp_path: Path) -> None:
    built = Index.load(index)
    built.run = str(tmp_path / "gone")
    built.save(tmp_path / "index")
    np.save(tmp_path / "v.npy", built.vectors(["image:test-green-circle"])[0])
    assert script("query_index", tmp_path / "index", "--vector", tmp_path / "v.npy").code == 0
    assert_clean(script("query_index", tmp_path / "index", "--text", "red"), "gone must be a run folder")


def test_another_copy_of_the_run(script, index: Path, tiny_run: Path, tmp_path: Path) -> None:
    run = copy(tiny_run, tmp_path / "copy")
    assert script("query_index", index, "--text", "red", "--run", run).code == 0


def test_another_run_is_refused(script, tiny: list[str], index: Path, tmp_path: Path) -> None:
    assert script("train_retrieval", *tiny, "loop.steps=1", "seed=1", f"out={tmp_path / 'other'}").code == 0
    answer = script("query_index", index, "--text", "red", "--run", tmp_path / "other")
    assert_clean(answer, "queries must be embedded by the encoders that made the index")


@pytest.mark.parametrize("kind", ["image", "text", "audio"])
def test_grid(script, index: Path, own_table: Path, tmp_path: Path, kind: str) -> None:
    given = {"image": picture(own_table), "text": "a red circle", "audio": picture(own_table).with_suffix(".wav")}
    path = tmp_path / "new" / "g.png"
    rows = lines(
        script("query_index", index, f"--{kind}", given[kind], "--grid", path, "-k", "30")
    )  # more than there are sentences
    assert rows[-1] == ["Picture:", str(path)]
    assert {"image", "text", "audio"} >= {row[2] for row in rows[:-1]} - {"word"}
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 13 * 100
        assert len(image.convert("RGB").getcolors(2**24)) > 256  # more than the greys of text


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "CMYK", "L", "P", "LA"])
def test_pictures_of_every_kind_may_ask(script, index: Path, own_table: Path, tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("asked.tif" if mode in ("CMYK", "I;16") else "asked.png")
    with Image.open(picture(own_table)) as image:
        if mode == "I;16":
            Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(file)
        else:
            image.convert(mode).save(file)
    answer = script("query_index", index, "--image", file, "-k", "1", "--modality", "image", "--json")
    assert answer.code == 0, answer.err
    if mode in ("RGBA", "CMYK", "P"):
        assert json.loads(answer.out)[0]["id"] == "image:test-red-circle"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--text", "giraffe elephnt"), "a sentence must have a word that the encoder knows: got 'giraffe elephnt'"),
        (("--text", "grean"), "Nearest known words: grean: green"),
        (("--text", ""), "at least one word: got ''"),
        (("--text", "?!"), "at least one word: got '?!'"),
        (("--image", "nothing.jpg"), "nothing.jpg"),
        (("--audio", "nothing.wav"), "nothing.wav"),
        (("--image", "."), "."),
        (("--vector", "nothing.npy"), "nothing.npy"),
        (("--image", "README.md"), "README.md"),
        (("--audio", "README.md"), "README.md"),
        (("--vector", "README.md"), "README.md"),
        (("--text", "red", "-k", "0"), "k must be at least 1: got 0"),
        (("--text", "red", "--modality", "imge"), "Did you mean 'image'?"),
        (("--text", "red", "--modality", "video"), "--modality must be one of image, text, audio, word: got 'video'"),
        (("--text", "red", "--where", "color=red"), "Did you mean 'colour'?"),
        (("--text", "red", "--where", "colour"), "a condition must be key=value: got 'colour'"),
        (("--text", "red", "--where", "colour=red", "--where", "colour=blue"), "'colour' has two"),
        (("--text", "red", "--where", "modality=image", "--modality", "text"), "the modality was given twice"),
        (("--text", "red", "--minus-text", "red"), "must not vanish"),
        (("--text", "red", "--plus-text", "giraffe"), "a word that the encoder knows: got 'giraffe'"),
        (("--text", "red", "--plus-image", "nothing.jpg"), "nothing.jpg"),
        (("--text", "red", "--run", "nothing"), "nothing must be a run folder"),
    ],
)  # fmt: skip
def test_queries_that_are_wrong(script, index: Path, arguments, said: str) -> None:
    assert_clean(script("query_index", index, *arguments), "query_index.py: ", said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "one of the arguments --image --text --audio --vector --interactive is required"),
        (("--text", "red", "--image", "x.jpg"), "not allowed with"),
        (("--text", "red", "-k", "few"), "invalid int value: 'few'"),
    ],
)
def test_queries_of_the_wrong_form(script, index: Path, arguments, said: str) -> None:
    answer = script("query_index", index, *arguments)
    assert answer.code == 2
    assert said in answer.err


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        np.float32(3),
        np.ones(7, np.float32),
        np.ones((2, 32), np.float32),
        np.zeros(32, np.float32),
        np.full(32, np.nan, np.float32),
        np.array(["a"] * 32),
        np.array([{}], dtype=object),
    ],
    ids=["empty", "text", "scalar", "width", "two", "zero", "nan", "strings", "objects"],
)
def test_files_that_hold_no_vector(script, index: Path, tmp_path: Path, content) -> None:
    file = tmp_path / "v.npy"
    file.write_bytes(content) if isinstance(content, bytes) else np.save(file, content)
    assert_clean(script("query_index", index, "--vector", file), "query_index.py: ")


def test_an_archive_holds_no_vector(script, index: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", a=np.ones(32))
    assert_clean(script("query_index", index, "--vector", tmp_path / "v.npz"), "v.npz")


def test_a_missing_index(script, tmp_path: Path) -> None:
    assert_clean(script("query_index", tmp_path / "no", "--text", "red"), "must hold an index")


@pytest.mark.parametrize("name", ["vectors.faiss", "items.sqlite", "manifest.json", "current"])
def test_a_damaged_index_file(script, index: Path, tmp_path: Path, name: str) -> None:
    out = copy(index, tmp_path / "index")
    (file,) = out.rglob(name)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle] = ord("1" if content[middle] == ord("0") else "0")  # a digest stays a digest
    file.write_bytes(content)
    blamed = "manifest.json" if name == "current" else name  # the pointer holds the manifest's digest
    assert_clean(script("query_index", out, "--text", "red"), blamed, "Restore the folder from a copy, or build")
    if name != "current":
        file.unlink()
        assert_clean(script("query_index", out, "--text", "red"), name)


def test_a_grid_that_cannot_be_written(script, index: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert_clean(script("query_index", index, "--text", "red", "--grid", tmp_path / "file" / "g.png"), "file")


def test_a_grid_of_files_that_are_gone(script, tiny_run: Path, own_table: Path, tmp_path: Path) -> None:
    folder = copy(own_table.parent, tmp_path / "files")
    assert script("build_index", tiny_run, "--out", tmp_path / "index", "--folder", folder).code == 0
    shutil.rmtree(folder)
    options = ("--text", "red", "--grid", tmp_path / "g.png")
    assert_clean(script("query_index", tmp_path / "index", *options), ".jpg")
    assert not (tmp_path / "g.png").exists()
