"""analyse_index.py as a user meets it: a report of a run's index with its pictures and sounds, and what is refused."""

import json
from pathlib import Path

import pytest

from mm.index import Index
from tests.shared import assert_clean, unit


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bare")
    Index.build(unit(30, 8), range(30), [{"class": row % 2, "kind": "x"} for row in range(30)]).save(folder)
    return folder


def test_a_report_of_pictures_sentences_and_sounds(script, index_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    answer = script("analyse_index", index_folder, "--out", out, "--label", "colour", "-k", "3", "--sample", "20")
    assert answer.code == 0, answer.err
    report = json.loads((out / "report.json").read_text(), parse_constant=pytest.fail)
    assert next(iter(report["spaces"].values()))["counts"] == {"image": 8, "text": 16, "audio": 8}
    assert report["missing_media"]["count"] == 0 and report["k"] == 3 and report["label"] == "colour"
    assert {"image_to_text", "text_to_audio", "audio_to_image"} <= {*next(iter(report["ranks"].values()))}
    page = (out / "report.html").read_text()
    for key in ("neighbours", "worst", "purity", "hubness", "modality_gap", "alignment", "duplicates", "clusters"):
        assert f'id="{key}"' in page, key
    assert {"figures/neighbours_audio.png", "figures/map_modality.png", "figures/map_colour.png"} <= {
        *report["figures"]
    }
    lines = answer.out.splitlines()
    assert "8 image, 16 text, 8 audio" in lines[0] and lines[-1] == f"Report: {out / 'report.html'}"
    assert any(line.split()[:3] == ["purity", "by", "colour"] for line in lines)


def test_json_is_all_that_is_printed(script, bare: Path, tmp_path: Path) -> None:
    answer = script("analyse_index", bare, "--out", tmp_path, "--json", "--sample", "0")
    assert answer.code == 0, answer.err
    printed = json.loads(answer.out)
    assert printed == json.loads((tmp_path / "report.json").read_text()) and printed["label"] == "class"
    assert set(printed) >= {
        *("modality_gap", "hubness", "alignment", "uniformity", "purity", "intrinsic_dimension", "duplicates"),
        *("clusters", "overlap", "cka", "projection", "missing_media", "k", "seed", "spaces", "versions", "notes"),
    }


def test_two_runs_are_compared_and_one_modality_is_enough(
    script, index_folder: Path, bare: Path, tmp_path: Path
) -> None:
    vectors = Index.load(index_folder)
    ids = [one for one in vectors.ids if one.startswith("image:")]
    Index.build(vectors.vectors(ids), ids, vectors.metadata(ids)).save(tmp_path / "copy")
    pictures = ("--modality", "image", "--out", tmp_path / "r", "--sample", "0")
    answer = script("analyse_index", index_folder, tmp_path / "copy", *pictures)
    assert answer.code == 0, answer.err
    assert "8 items: overlap 1.000" in answer.out and "CKA -" in answer.out
    assert "CKA of image of index and copy: not measured, for 8 items are fewer than 30." in answer.out
    answer = script("analyse_index", index_folder, bare, "--out", tmp_path / "s")
    assert_clean(answer, "compared by the ids of their items")


def test_a_constant_modality(script, tmp_path: Path) -> None:
    vectors = unit(20, 8)
    items = [{"item": str(row)} for row in range(20)]
    index = Index.build(vectors, [f"image:{row}" for row in range(20)], items, modality="image")
    index.add(vectors[[0] * 40], [f"text:{row}" for row in range(40)], items * 2, modality="text")
    index.save(tmp_path / "index")
    answer = script("analyse_index", tmp_path / "index", "--out", tmp_path / "report", "--sample", "0")
    assert answer.code == 0, answer.err
    assert "image_to_text: R@1 0.050, with the gap closed 0.050; hubness: skewness -" in answer.out  # 2 of 40
    assert "note: text: all 40 vectors are equal." in answer.out


def test_the_run_must_be_that_of_the_index(script, tiny_run: Path, index_folder: Path, tmp_path: Path) -> None:
    found = Index.load(index_folder)
    ids = [one for one in found.ids if one.startswith("image:")]
    meta = [
        {"item": one["item"], "split": one.get("split", "test"), "modality": "image"} for one in found.metadata(ids)
    ]
    for name, fingerprint, run in (
        ("same", found.fingerprint, found.run),
        ("other", "f00", found.run),
        ("gone", "f00", "gone"),
    ):
        Index.build(found.vectors(ids), ids, meta, fingerprint=fingerprint, run=run).save(tmp_path / name)
    options = ("--sample", "0", "--out", tmp_path / "report")
    said = "queries must be embedded by the encoders that made the index: it has fingerprint 'f00'"
    assert_clean(script("analyse_index", tmp_path / "other", *options), said)  # its pictures are in the run's data set
    assert_clean(script("analyse_index", tmp_path / "gone", "--run", tiny_run, *options), said)
    assert not (tmp_path / "report").exists()
    answer = script("analyse_index", tmp_path / "gone", *options)
    assert answer.code == 0 and "items are shown by their ids: the run gone is not there" in answer.out
    answer = script("analyse_index", tmp_path / "same", "--json", *options)
    assert answer.code == 0 and json.loads(answer.out)["missing_media"]["count"] == 0
    assert (tmp_path / "report" / "figures" / "neighbours_image.png").stat().st_size > 20_000  # pictures, not ids


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--label", "clas"), "no item has the key 'clas'. Keys are: class, kind. Did you mean 'class'?"),
        (("--modality", "image"), "the modalities of"),
        (("-k", "0"), "--k must be at least 1"),
        (("--sample", "-1"), "--sample at least 0"),
        (("--run", "nowhere"), "nowhere"),
    ],
)
def test_what_is_refused(script, bare: Path, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    assert_clean(script("analyse_index", bare, "--out", tmp_path / "report", *options), said)
    assert not (tmp_path / "report").exists()


def test_an_empty_index_and_none(script, tmp_path: Path) -> None:
    Index(8).save(tmp_path / "empty")
    assert_clean(script("analyse_index", tmp_path / "empty", "--out", tmp_path / "report"), "must hold items")
    assert_clean(script("analyse_index", tmp_path / "none", "--out", tmp_path / "report"), "must hold an index")
