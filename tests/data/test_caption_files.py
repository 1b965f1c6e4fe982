"""COCO's caption files: what is written is read, what is wrong is named, and results and references pair up."""

import json

import pytest

from mm.data.caption_files import matched, read_references, read_results, write_results

COCO = {
    "images": [{"id": 7}, {"id": 9}],
    "annotations": [
        {"image_id": 9, "id": 1, "caption": "Ein Hund läuft."},
        {"image_id": 7, "id": 2, "caption": "a cat"},
        {"image_id": 9, "id": 3, "caption": "一只狗 🐕\n"},
    ],
}
KARPATHY = {
    "dataset": "tiny",
    "images": [
        {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "one"}, {"raw": "two"}]},
        {"filename": "b.jpg", "split": "train", "sentences": [{"raw": "three"}]},
        {"filename": "c.jpg", "split": "restval", "sentences": [{"raw": "four"}]},
        {"filename": "d.jpg", "split": "test", "cocoid": 42, "sentences": [{"raw": "five"}]},
        {"filename": "e.jpg", "split": "val", "sentences": [{"raw": "six"}]},
    ],
}


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_results_round_trip(tmp_path):
    said = {7: "", "übung.jpg": "«naïve» 猫 🐈", 3: 'a "quoted" \\ line\nbreak'}
    write_results(tmp_path / "new" / "results.json", said)
    assert list(read_results(tmp_path / "new" / "results.json").items()) == list(said.items())
    rows = json.loads((tmp_path / "new" / "results.json").read_text(encoding="utf-8"))
    assert rows[0] == {"image_id": 7, "caption": ""}
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["results.json"]


def test_no_results_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="at least one caption: got none"):
        write_results(tmp_path / "r.json", {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", r"r\.json must be JSON in UTF-8"),
        ("", r"r\.json must be JSON in UTF-8"),
        ([], "at least one: got an empty list"),
        ({}, "must hold a list .* got dict"),
        ("null", "must hold a list .* got NoneType"),
        ([{"image_id": 1, "caption": "x"}, "y"], "entry 1 must be an object with image_id and caption: got str"),
        ([{"image_id": 1, "text": "x"}], "entry 0 must be an object .* got the keys image_id, text"),
        ([{"caption": "x"}], "entry 0 must be an object .* got the keys caption"),
        ([{"image_id": 1, "caption": None}], "entry 0: the caption of image 1 must be text: got None"),
        ([{"image_id": 1, "caption": ["x"]}], "entry 0: the caption of image 1 must be text"),
        ([{"image_id": 1.5, "caption": "x"}], "entry 0: image_id must be a whole number or text: got 1.5"),
        ([{"image_id": True, "caption": "x"}], "entry 0: image_id must be a whole number or text: got True"),
        ([{"image_id": [1], "caption": "x"}], "entry 0: image_id must be a whole number or text"),
        ([{"image_id": 5, "caption": c} for c in "xyz"], "entry 1: .* image_id 5 comes 3 times"),
    ],
)
def test_rejected_results(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_results(write(tmp_path / "r.json", content))
    assert "r.json" in str(caught.value)


def test_files_that_are_not_text_or_not_there(tmp_path):
    (tmp_path / "r.json").write_bytes(b'[{"image_id": 1, "caption": "\xff"}]')
    with pytest.raises(ValueError, match=r"r\.json must be JSON in UTF-8"):
        read_results(tmp_path / "r.json")
    for read in (read_results, read_references):
        with pytest.raises(FileNotFoundError, match=r"none\.json"):
            read(tmp_path / "none.json")


def test_references_of_coco(tmp_path):
    expected = {7: ["a cat"], 9: ["Ein Hund läuft.", "一只狗 🐕\n"]}
    assert read_references(write(tmp_path / "c.json", COCO)) == expected
    unlisted = {"annotations": COCO["annotations"]}
    assert read_references(write(tmp_path / "c.json", unlisted)) == expected


def test_references_of_karpathy(tmp_path):
    path = write(tmp_path / "dataset.json", KARPATHY)
    assert read_references(path) == {"a.jpg": ["one", "two"], 42: ["five"]}
    assert read_references(path, split="train") == {"b.jpg": ["three"], "c.jpg": ["four"]}
    assert read_references(path, "val") == {"e.jpg": ["six"]}
    with pytest.raises(ValueError, match=r"unknown split 'tests'.*Did you mean 'test'"):
        read_references(path, split="tests")


def changed(rows, **change):
    return {"images": [{"filename": "x", "split": "test", "sentences": rows, **change}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "must be JSON"),
        ([], "COCO's captions .* or Karpathy's JSON .* got no object"),
        ({"info": 1, "licences": 2}, "got info, licences"),
        ({"images": [{"id": 1}]}, "must be COCO's captions"),
        ({"annotations": []}, "no image of the split"),
        (COCO | {"images": [{"id": 7}, {"id": 9}, {"id": 11}, {"id": 12}]}, "2 of 4 have none, the first is 11"),
        (COCO | {"images": [{"id": 9}]}, "annotation 1, id 2: its image 7 must be listed under 'images'"),
        (COCO | {"images": [{"name": 9}]}, "'images' must be a list of objects with an 'id'"),
        (COCO | {"images": {}}, "'images' must be a list of objects"),
        ({"annotations": [{"image_id": 1, "id": 5, "caption": " \n"}]}, "annotation 0, id 5, image 1: .* is empty"),
        ({"annotations": [{"image_id": 1}]}, "annotation 0 must be an object with image_id and caption"),
        ({"annotations": [3]}, "annotation 0 must be an object .* got int"),
        ({"annotations": [{"image_id": 1, "caption": 2}]}, "annotation 0: the caption of image 1 must be text"),
        (changed([]), "1 of 1 have none, the first is 'x'"),
        (changed([{"raw": "a"}, {"raw": ""}]), "sentence 1 of image 'x': .* is empty"),
        (changed([{"raw": "a"}, {"tokens": []}]), "sentence 1 of image 'x' must be an object with a text 'raw'"),
        (changed(["a"]), "sentence 0 of image 'x' must be an object with a text 'raw'"),
        (changed("a"), "a list 'sentences'"),
        (changed([{"raw": "a"}], filename=None), "needs a 'filename' or a 'cocoid'"),
        (changed([{"raw": "a"}], split="val"), "no image of the split 'test'"),
        ({"images": changed([{"raw": "a"}])["images"] * 2}, "'x' comes more than once"),
    ],
)
def test_rejected_references(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_references(write(tmp_path / "f.json", content))
    assert "f.json" in str(caught.value)


def test_matched():
    references = {2: ["b"], 1: ["a", "A"], "x": ["c"]}
    captions = {1: "one", "x": "", 2: "two"}
    said, known = matched(captions, references)
    assert list(said.items()) == [(2, "two"), (1, "one"), ("x", "")]
    assert list(known.items()) == list(references.items())
    said, known = matched({1: "one"}, references, partial=True)
    assert (said, known) == ({1: "one"}, {1: ["a", "A"]})


@pytest.mark.parametrize(
    ("captions", "references", "partial", "message"),
    [
        ({1: "a"}, {1: ["a"], 3: ["b"], 4: ["c"]}, False, r"2 of 3 have none, the first is 3\..*partial=True"),
        ({}, {1: ["a"]}, True, "1 of 1 have none"),
        ({1: "a", 5: "b", 6: "c"}, {1: ["a"]}, True, "2 of 3 are not, the first is of image 5"),
        ({"dgo.jpg": "a"}, {"dog.jpg": ["a"]}, False, "of image 'dgo.jpg'.*Did you mean 'dog.jpg'"),
        ({"17": "a"}, {17: ["a"]}, False, "'17': the references have 17, which differs just by its type"),
        ({17: "a"}, {"17": ["a"]}, True, "17: the references have '17', which differs just by its type"),
    ],
)
def test_what_does_not_match(captions, references, partial, message):
    with pytest.raises(ValueError, match=message):
        matched(captions, references, partial)
