"""The scripts of localisation as a user meets them: what a run leaves, heat maps, a message for what is wrong."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mm import data
from mm.data import SoundingScenes
from mm.engine.log import read_csv
from mm.tasks import localisation
from tests.shared import ROOT, assert_clean, assert_same_run, by_one_and_by_two, colours, started

EVALUATED = 24  # scenes of val and test


@pytest.fixture(scope="module", autouse=True)
def few_scenes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "EVALUATION_SCENES", EVALUATED)
        yield


@pytest.fixture(scope="module")
def boxed_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes of the embedded world as files, with the box of what sounds; the third train row has none."""
    folder = tmp_path_factory.mktemp("boxed")
    rows = []
    for split in ("train", "val", "test"):
        for number, item in enumerate(SoundingScenes(split, 12)):
            Image.fromarray(item.image[0]).save(folder / f"{item.id}.png")
            soundfile.write(folder / f"{item.id}.wav", item.audio[0], 16000)
            row = {"id": item.id, "split": split, "image": f"{item.id}.png", "audio": f"{item.id}.wav"}
            row["boxes"] = item.meta["boxes"] if (split, number) != ("train", 2) else None
            rows.append(json.dumps(row))
    (folder / "boxed.jsonl").write_text("\n".join(rows))
    return folder / "boxed.jsonl"


@pytest.fixture(scope="module")
def few(boxed_table: Path) -> list[str]:
    return [
        "--config",
        str(ROOT / "configs/localisation/tiny.yaml"),
        "data.name=table",
        f"data.file={boxed_table}",
        "data.batch_size=8",
        "mode=supervised",
        "optim.lr=3e-3",
        "loop.steps=60",
        "loop.checkpoint_every=10",
        "loop.tensorboard=false",
    ]


@pytest.fixture(scope="module")
def run(trained, few: list[str]) -> Path:
    return trained("localisation", *few)


def test_a_run_leaves_what_the_design_names(run: Path) -> None:
    document = json.loads((run / "metrics.json").read_text())
    assert [document[key] for key in ("task", "split", "seed", "data")] == ["localisation", "test", 0, "table"]
    named = {"cIoU@0.5", "AUC", "top1", "pointing", "upper_bound@0.5", "silence_AUROC", "off_screen_AUROC"}
    assert named <= set(document["metrics"])
    controls = ["whole_image", "centre_disc", "mean_prior", "random", "shuffled_audio", "mean_audio", "silence"]
    assert set(controls) <= set(document["controls"])
    for name in controls:
        assert {"cIoU@0.5", "AUC", "top1"} <= set(document["controls"][name])
    assert document["metrics"]["silence_AUROC"] > 0.9
    assert colours(run / "figures" / "heatmaps.png") > 1000
    log = (run / "stdout.log").read_text()
    assert "shuffled audio" in log and "upper_bound@0.5" in log
    assert {"train/loss", "train/localisation/box_loss", "val/top1"} <= {
        row[2] for row in read_csv(run / "metrics.csv")
    }


def test_evaluate_gives_what_training_gave(script, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    before = json.loads((copy / "metrics.json").read_text())
    (copy / "metrics.json").unlink()
    answer = script("evaluate", copy, "--json")
    assert answer.code == 0, answer.err
    for numbers in (json.loads(answer.out), json.loads((copy / "metrics.json").read_text())):
        assert (numbers["metrics"], numbers["controls"]) == (before["metrics"], before["controls"])
    fixed = script("evaluate", copy, "--json", "rule=fixed", "protocol=slavc")
    assert fixed.code == 0, fixed.err
    found = json.loads(fixed.out)
    assert found["metrics"]["upper_bound@0.5"] == 1  # half of all pixels is no longer asked for
    assert found["metrics"]["top1"] == before["metrics"]["top1"]
    assert json.loads((copy / "metrics.json").read_text())["metrics"] == before["metrics"]
    assert_clean(script("evaluate", copy, "--ensemble", copy), "this run localises")
    assert_clean(script("evaluate", copy, "mode=semi"), "of a finished run, data.*, encoder.*.cache")
    assert_clean(script("evaluate", copy, "rule=halve"), "rule", "half")


def test_a_killed_run_goes_on_and_ends_the_same(script, few, run: Path, tmp_path: Path) -> None:
    process = started("train_localisation", few, tmp_path / "run")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    answer = script("train_localisation", *few, f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    assert "goes on from step" in answer.out
    assert_same_run(tmp_path / "run", run)


@pytest.mark.parametrize(
    ("mode", "loss", "part"), [("unsupervised", "max", "pair"), ("semi", "hard_way", "pair"), ("semi", "max", "box")]
)
def test_two_processes_learn_what_one_does(few, tmp_path: Path, mode: str, loss: str, part: str) -> None:
    given = [word for word in few if not word.startswith(("mode=", "loop.steps"))]
    given += [f"mode={mode}", f"loss.name={loss}", *(["labels=0.4"] if mode == "semi" else [])]
    frozen = ["encoder.image.freeze=true", "encoder.audio.freeze=true", "loss.silence=0", "loop.steps=4"]
    one, two = by_one_and_by_two("train_localisation", [*given, *frozen], tmp_path, f"localisation/{part}_loss")
    np.testing.assert_allclose(one, two, rtol=1e-3)


def test_a_heat_map_of_files(script, run: Path, boxed_table: Path, tmp_path: Path) -> None:
    row = next(row for row in map(json.loads, boxed_table.read_text().splitlines()) if row["split"] == "test")
    picture, clip = (boxed_table.parent / row[kind] for kind in ("image", "audio"))
    model, _ = localisation.load(run)
    (located,) = model.localise([picture], [clip])
    grid = tmp_path / "out.png"
    answer = script("localise", run, "--image", picture, "--audio", clip, "--grid", grid, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert (found["x"], found["y"]) == pytest.approx(located.peak_xy)
    assert found["score"] == pytest.approx(located.score)
    np.testing.assert_allclose(found["heat"], located.heat.numpy(), atol=1e-4)
    assert colours(grid) > 500
    line = script("localise", run, "--image", picture, "--audio", clip).out
    where = f"{100 * found['x']:.1f} % from the left, {100 * found['y']:.1f} % from the top"
    assert line == f"{where}; score {found['score']:.2f}, of silence {found['silence']:.2f}\n"
    assert found["silence"] < found["score"]
    assert_clean(script("localise", run, "--image", picture, "--audio", clip, "--grid", tmp_path / "a.jpg"), ".png")


def test_what_is_wrong_is_said(script, run: Path, few, boxed_table: Path, tiny_run: Path, tmp_path: Path) -> None:
    picture, clip = boxed_table.parent / "test-00000.png", boxed_table.parent / "test-00000.wav"
    assert_clean(script("localise", run, "--image", "none.png", "--audio", clip), "none.png")
    assert_clean(script("localise", run, "--image", picture, "--audio", picture), str(picture))
    assert_clean(
        script("localise", tiny_run, "--image", picture, "--audio", clip),
        "must be a checkpoint of localisation: there is no localiser.json. Name another.",
    )
    assert_clean(script("localise", tmp_path, "--image", picture, "--audio", clip), "must be a run folder")
    missing = script("localise", run, "--image", picture)
    assert (missing.code, "--audio" in missing.err) == (2, True)
    alone = script("localise", run, "--image", picture, "--audio", clip, "--mode", "nearest")
    assert (alone.code, "--mode is for --grid" in alone.err) == (2, True)
    out = f"out={tmp_path / 'new'}"
    assert_clean(script("train_localisation", *few, out, "mode=supervized"), "mode", "supervised")
    assert_clean(script("train_localisation", *few, out, "data.name=vggs"), "data set", "vggss")
    assert_clean(script("train_localisation", *few, out, "data.name=vggss", f"data.root={tmp_path}"), "vggss.json")
    assert not (tmp_path / "new" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([[0.1, 0.1, 1.2, 0.5]], "leaves the picture"),
        ([[0.5, 0.1, 0.2, 0.5]], "right edge left of the left one"),
        ([[0.5, 0.1, 0.5, 0.5]], "no width or no height"),
        ([[0.5, 0.1, 0.5]], "four finite numbers"),
        ("left", "boxes must be"),
    ],
)
def test_boxes_at_fault_are_an_error_or_left_out(
    script, few, boxed_table: Path, tmp_path: Path, boxes: object, said: str
) -> None:
    rows = [json.loads(line) for line in boxed_table.read_text().splitlines()]
    rows[0]["boxes"] = boxes
    file = boxed_table.with_name(f"{tmp_path.name}.jsonl")
    file.write_text("\n".join(map(json.dumps, rows)))
    given = [*few, f"data.file={file}", "loop.steps=1", f"out={tmp_path / 'run'}"]
    assert_clean(script("train_localisation", *given), "train-00000", said)
    answer = script("train_localisation", *given, "data.skip_bad=true")
    assert answer.code == 0, answer.err
    assert "left out 1 unreadable rows" in answer.out


def test_pairs_that_lack_a_sound_are_an_error_or_left_out(script, few, boxed_table: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in boxed_table.read_text().splitlines()]
    del rows[0]["audio"]
    file = boxed_table.with_name("lacking.jsonl")
    file.write_text("\n".join(map(json.dumps, rows)))
    given = [*few, f"data.file={file}", "loop.steps=1", f"out={tmp_path / 'run'}"]
    assert_clean(script("train_localisation", *given), "train-00000 has no audio")
    answer = script("train_localisation", *given, "data.skip_bad=true")
    assert answer.code == 0, answer.err
    assert "left out 1 unreadable rows" in answer.out


def test_an_encoder_of_a_run_starts_another(script, few, run: Path, tmp_path: Path) -> None:
    given = [f"encoder.audio.init={run}", f"encoder.image.init={run}", "loop.steps=1", f"out={tmp_path / 'run'}"]
    answer = script("train_localisation", *few, *given, "optim.lr=1e-9")
    assert answer.code == 0, answer.err
    first, second = localisation.load(run)[0], localisation.load(tmp_path / "run")[0]
    for name, weight in first.encoders.state_dict().items():
        if "running" not in name and "batches" not in name:
            np.testing.assert_allclose(weight.numpy(), second.encoders.state_dict()[name].numpy(), atol=1e-6)


def test_vggsound_trains_what_vggss_tests(script, few, tmp_path: Path) -> None:
    """The published formats end to end: pairs without boxes for training and val, boxes for the test."""
    tables: dict[str, list] = {"vggsound": [], "vggss": []}
    for place, (name, split, number) in enumerate(
        [("vggsound", "train", k) for k in range(40)] + [("vggss", "test", k) for k in range(6)]
    ):
        item = SoundingScenes(split, 40)[number]
        video, start = f"video{place:06d}", 10 * (place % 3)
        clip = f"{video}_{start:06d}"
        for kind, ending in (("frames", "jpg"), ("audio", "wav")):
            (tmp_path / name / kind).mkdir(parents=True, exist_ok=True)
            if kind == "frames":
                Image.fromarray(item.image[0]).save(tmp_path / name / kind / f"{clip}.{ending}")
            else:
                soundfile.write(tmp_path / name / kind / f"{clip}.{ending}", item.audio[0], 16000)
        if name == "vggss":
            tables["vggss"].append({"file": clip, "class": "bell", "bbox": item.meta["boxes"][0]})
        tables["vggsound"].append(f'{video},{start},"bell, church",{split}')
    (tmp_path / "vggss" / "vggss.json").write_text(json.dumps(tables["vggss"]))
    (tmp_path / "vggsound" / "vggsound.csv").write_text("\n".join(tables["vggsound"]))
    given = [word for word in few if not word.startswith(("mode=", "data.", "loop.steps", "optim.lr"))]
    given += ["data.name=vggss", f"data.root={tmp_path}", "data.batch_size=8", "loop.steps=2", "protocol=ez_vsl"]
    answer = script("train_localisation", *given, f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    document = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert document["data"] == "vggss"
    assert document["controls"]["whole_image"]["AUC"] < document["metrics"]["upper_bound_AUC"]
    assert "off_screen_AUROC" in (tmp_path / "run" / "stdout.log").read_text()  # val has no boxes to go by
    slavc = script("evaluate", tmp_path / "run", "protocol=slavc", "--json")
    assert slavc.code == 0, slavc.err
    assert_clean(
        script("train_localisation", *given, "mode=supervised", f"out={tmp_path / 'boxes'}"), "none is labelled"
    )
