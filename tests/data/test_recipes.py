import json
import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mm.config import DataConfig
from mm.data import UnreadableError, load, recipe1m, recipes
from mm.data.recipes import rows
from mm.engine.log import read_csv

ROOT = Path(__file__).parents[2]
DISHES = {
    "tomato soup": (220, 40, 30),
    "green salad": (40, 160, 60),
    "blueberry pie": (50, 50, 200),
    "curry": (230, 200, 40),
}


def recipe(number, part, title, **more):
    return {
        "id": f"{number:010x}",
        "title": title,
        "ingredients": [{"text": f"{number} cups of water"}, {"text": "salt."}],
        "instructions": [{"text": f"Cook the {title.strip()}."}, {"text": "Serve."}],
        "partition": part,
        "url": f"http://recipes.example/{number}",
        **more,
    }


def photograph(number, k=0):
    return f"{16**9 * (number % 16) + 16 * number + k:010x}.jpg"


def write(folder, layer1, layer2):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "layer1.json").write_text(json.dumps(layer1))
    (folder / "layer2.json").write_text(json.dumps(layer2))


def place(folder, name):
    return folder.joinpath(*name[:4], name)


@pytest.fixture
def small(tmp_path, jpeg):
    """A Recipe1M of six recipes: 0 with seven photographs, 1 with one, 2 without, 3 of val, 4 and 5 of test."""
    folder, parts = tmp_path / "recipe1m", ["train", "train", "train", "val", "test", "test"]
    photographs = {
        number: [photograph(number, k) for k in range(count)] for number, count in enumerate([7, 1, 0, 2, 2, 1])
    }
    layer1 = [recipe(number, part, f" Dish {number} ") for number, part in enumerate(parts)]
    layer2 = [
        {"id": f"{number:010x}", "images": [{"id": name, "url": f"http://{name}"} for name in names]}
        for number, names in photographs.items()
        if number != 2
    ]
    for number, names in photographs.items():
        for name in names:
            jpeg(place(folder / "images" / parts[number], name))
    write(folder, layer1, layer2)
    return tmp_path


def test_an_item_is_a_recipe_with_its_photographs(small):
    first, second = recipe1m(small, "train")  # the third has no photograph
    assert first.id == first.owner == "0000000000" and second.id == "0000000001"
    assert first.text == ("Dish 0. 0 cups of water, salt. Cook the Dish 0. Serve.",)
    assert first.meta == {"title": "Dish 0", "url": "http://recipes.example/0"}
    assert [file.name for file in first.image] == [photograph(0, k) for k in range(5)]  # the first five train
    name = photograph(1)
    assert second.image == (small / "recipe1m" / "images" / "train" / name[0] / name[1] / name[2] / name[3] / name,)
    assert [[item.id for item in recipe1m(small, split)] for split in ("val", "test")] == [
        ["0000000003"],
        ["0000000004", "0000000005"],
    ]
    assert [len(item.image) for item in recipe1m(small, "test")] == [1, 1]  # the first shows it in val and test
    assert [item.id[-1] for item in recipe1m(small, "trainval")] == ["0", "1", "3"]
    assert load(DataConfig(name="recipe1m", root=str(small)), "val") == recipe1m(small, "val")


def test_photographs_of_recipe1m_plus_lie_in_no_partition(small):
    images = small / "recipe1m" / "images"
    for part in ("train", "val", "test"):
        for file in [*(images / part).rglob("*.jpg")]:
            target = images / file.relative_to(images / part)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
        for folder in sorted((images / part).rglob("*"), reverse=True):
            folder.rmdir()
        (images / part).rmdir()
    assert len(recipe1m(small, "train")) == 2
    assert recipe1m(small, "val")[0].image == (place(images, photograph(3)),)


def test_classes_are_names_and_the_background_is_none(small):
    file = small / "recipe1m" / "classes1M.json"
    file.write_text(json.dumps({"0000000000": "pie", "0000000001": "background", "0000000004": 12, "0000000005": 0}))
    assert [item.meta.get("class") for item in recipe1m(small, "train")] == ["pie", None]
    assert [item.meta.get("class") for item in recipe1m(small, "test")] == ["12", None]
    for wrong in (["pie"], {"0000000000": None}, {"0000000000": True}):
        file.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"classes1M\.json must hold \{recipe id: .*docs/data\.md"):
            recipe1m(small, "train")
    file.write_bytes(b"\x80\x04\x95")  # the pickle under another name
    with pytest.raises(ValueError, match=r"classes1M\.json must be JSON"):
        recipe1m(small, "train")


def test_a_list_of_recipes_leaves_the_others_out(small):
    file = small / "recipe1m" / "test_keys.json"
    file.write_text(json.dumps(["0000000005", "0000000001"]))
    assert [item.id for item in recipe1m(small, "test")] == ["0000000005"]
    assert len(recipe1m(small, "train")) == 2  # which has no list
    file.write_text(json.dumps({"0000000005": 1}))
    with pytest.raises(ValueError, match=r"test_keys\.json must hold a JSON list of recipe ids"):
        recipe1m(small, "test")
    file.write_text("[]")
    with pytest.raises(ValueError, match="must hold a recipe of the split 'test' with a photograph: there is none"):
        recipe1m(small, "test")


def test_missing_photographs_and_recipes_without_words(small, caplog):
    images = small / "recipe1m" / "images"
    place(images / "train", photograph(0, 1)).unlink(), place(images / "train", photograph(1)).unlink()
    with pytest.raises(UnreadableError, match=rf"{photograph(0, 1)}, of the recipe 0000000000, is not there.*skip_bad"):
        recipe1m(small, "train")
    with caplog.at_level(logging.WARNING):
        (item,) = items = recipe1m(small, "train", skip_bad=True)
    assert len(item.image) == 4 and len(items.skipped) == 2 and "left out 2 unreadable rows" in caplog.text
    place(images / "test", photograph(4)).unlink()
    with pytest.raises(UnreadableError, match=photograph(4)):  # a test set never skips
        recipe1m(small, "test", skip_bad=True)


def test_recipes_without_words(small):
    folder = small / "recipe1m"
    layer1 = [
        recipe(0, "train", " ", ingredients=[{"text": ""}], instructions=[]),
        recipe(1, "train", "Bread..", ingredients=[]),
        recipe(3, "val", "", ingredients=[{"text": ""}, {"text": "salt"}], instructions=[]),
    ]
    write(folder, layer1, json.loads((folder / "layer2.json").read_text()))
    assert recipe1m(small, "val")[0].text == ("salt.",)  # what there is
    with pytest.raises(UnreadableError, match=r"layer1\.json: row 0: the recipe 0000000000 has no words.*skip_bad"):
        recipe1m(small, "train")
    (item,) = items = recipe1m(small, "train", skip_bad=True)
    assert item.text == ("Bread. Cook the Bread... Serve.",) and len(items.skipped) == 1


def test_a_missing_set_names_the_folder_the_files_and_the_page(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"recipe1m must hold layer1\.json, layer2\.json, images: .*docs/data\.md"
    ):
        recipe1m(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"partition": "vall"}, r"layer1\.json: row 1 must be a recipe.*unknown partition 'vall'.*Did you mean 'val'"),
        ({"title": None}, r"layer1\.json: row 1 must be a recipe as published: AttributeError"),
        ({"ingredients": ["salt"]}, r"layer1\.json: row 1 must be a recipe as published: TypeError"),
        (
            {"instructions": [{"line": "Cook."}]},
            r"layer1\.json: row 1 must be a recipe as published: KeyError\('text'\)",
        ),
        ({"id": "0000000000"}, r"layer1\.json: row 1 must have an id of its own: '0000000000' was there before"),
    ],
)
def test_rows_that_are_no_recipes(small, change, message):
    folder = small / "recipe1m"
    write(
        folder,
        [recipe(0, "train", "a"), recipe(1, "train", "b") | change],
        json.loads((folder / "layer2.json").read_text()),
    )
    with pytest.raises(ValueError, match=message):
        recipe1m(small, "train")


@pytest.mark.parametrize(
    "images", [None, "a.jpg", [{"url": "x"}], [{"id": "../../../secret.jpg"}], [{"id": "ab/cdef.jpg"}], [{"id": "a.b"}]]
)
def test_lists_of_photographs_that_are_none(small, images):
    folder = small / "recipe1m"
    write(folder, [recipe(0, "train", "a")], [{"id": "0000000000", "images": images}])
    with pytest.raises(ValueError, match=r"layer2\.json: row 0 must list photographs as published"):
        recipe1m(small, "train")


# A list of JSON that is larger than memory ----------------------------------------------------------------------------

OBJECTS = [
    {"a": 'a "quoted" ]}, [{ text \\', "b": [{"c": []}, {}]},
    {},
    {"é": "\u2028 \U0001f35c \t", "n": [1.5e-3, -2, None, True]},
    {"long": "x" * 300, "deep": {"er": {"est": [[], [{}]]}}},
]


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 2**20])
@pytest.mark.parametrize("style", [{}, {"indent": 3}, {"ensure_ascii": False, "separators": (",", ":")}])
def test_rows_are_those_that_json_reads_at_once(tmp_path, monkeypatch, chunk, style):
    monkeypatch.setattr(recipes, "CHUNK", chunk)
    file = tmp_path / "rows.json"
    file.write_text(f"\n {json.dumps(OBJECTS, **style)} \n", encoding="utf-8")
    assert list(rows(file)) == OBJECTS == json.loads(file.read_text(encoding="utf-8"))


def test_no_more_than_a_part_of_the_file_is_in_memory(tmp_path):
    file, row = tmp_path / "rows.json", json.dumps(recipe(1, "train", "a dish " * 40))
    count = 2**24 // len(row)
    file.write_text("[" + ",".join([row] * count) + "]")
    tracemalloc.start()
    assert sum(1 for _ in rows(file)) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < file.stat().st_size / 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"at row 0: '\[' must come: got the end"),
        ('{"a": 1}', r"at row 0: '\[' must come: got '\{'"),
        ("[]", r"at row 0: '\{' must come: got '\]'"),
        ("[1, 2]", r"at row 0: '\{' must come: got '1'"),
        ('[{"a": 1}, ]', r"at row 1: '\{' must come: got '\]'"),
        ('[{"a": 1} {"a": 2}]', r"at row 1: ',' or '\]' must come: got '\{'"),
        ('[{"a": 1}', r"at row 1: ',' or '\]' must come: got the end"),
        ('[{"a": 1}, {"a": "cut sh', "at row 1: Unterminated string"),
        ('[{"a": 1}, {"a" 2}]', "at row 1: Expecting ':' delimiter"),
        ('[{"a": 1}] [', r"at row 1: the end must come: got '\['"),
        ('[{"a": ' + "[" * 100_000, "at row 0: maximum recursion depth exceeded"),
    ],
)
@pytest.mark.parametrize("chunk", [3, 2**20])
def test_broken_lists_are_named(tmp_path, monkeypatch, text, message, chunk):
    monkeypatch.setattr(recipes, "CHUNK", chunk)
    (tmp_path / "rows.json").write_text(text)
    with pytest.raises(ValueError, match=rf"rows\.json must be a JSON list of objects: {message}"):
        list(rows(tmp_path / "rows.json"))


def test_a_broken_row_is_not_looked_for_in_all_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "CHUNK", 64)
    monkeypatch.setattr(recipes, "LARGEST_ROW", 256)
    file = tmp_path / "rows.json"
    file.write_bytes(b'[{"a": 1}, {"a": "' + b"x" * 100_000 + b'"}, \xff')  # nobody gets as far as the last byte
    with pytest.raises(ValueError, match="at row 1: Unterminated string"):
        list(rows(file))
    file.write_bytes(b'[{"a": 1}, {"a": "\xff"}]')
    with pytest.raises(ValueError, match="at row 0: 'utf-8' codec can't decode byte 0xff"):
        list(rows(file))


# From the configuration to the metrics --------------------------------------------------------------------------------


@pytest.fixture
def cooked(tmp_path):
    """A Recipe1M whose photographs have the colour of the dish; with classes."""
    folder, generator = tmp_path / "recipe1m", np.random.default_rng(0)
    layer1, layer2, classes = [], [], {}
    for part, count in (("train", 48), ("val", 8), ("test", 8)):
        for _ in range(count):
            number = len(layer1)
            title, colour = list(DISHES.items())[number % len(DISHES)]
            layer1.append(recipe(number, part, title))
            layer2.append({"id": layer1[-1]["id"], "images": [{"id": photograph(number, k)} for k in range(2)]})
            classes[layer1[-1]["id"]] = title
            for k in range(2):
                file = place(folder / "images" / part, photograph(number, k))
                file.parent.mkdir(parents=True, exist_ok=True)
                noise = generator.integers(-20, 20, (48, 40, 3))
                Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(file)
    write(folder, layer1, layer2)
    (folder / "classes1M.json").write_text(json.dumps(classes))
    return tmp_path


def test_the_configuration_trains_and_is_evaluated(script, cooked, tmp_path):
    out = tmp_path / "run"
    words = [
        "encoder.image.name=small_cnn",
        "encoder.image.weights=",
        "encoder.image.train_from=",
        "encoder.image.size=32",
    ]
    words += ["encoder.text.hidden=32", "encoder.text.word_dim=32", "encoder.text.min_count=1", "head.embed_dim=32"]
    words += [
        "data.batch_size=16",
        "data.workers=0",
        "data.eval_subset=4",
        "optim.warmup_steps=4",
        "loop.tensorboard=false",
    ]
    words += [
        "loop.steps=24",
        "loop.evaluate_every=12",
        "loop.checkpoint_every=12",
        "loop.amp=false",
        "encoder.image.rate=1",
    ]
    config = ROOT / "configs/retrieval/recipe1m.yaml"
    answer = script("train_retrieval", "--config", config, f"data.root={cooked}", *words, f"out={out}")
    assert answer.code == 0, answer.err
    document = json.loads((out / "metrics.json").read_text())
    assert document["data"] == "recipe1m"
    learned = {row[2] for row in read_csv(out / "metrics.csv")}
    assert {"train/retrieval/image_class_loss", "train/retrieval/text_class_loss"} <= learned  # of classes1M.json
    assert document["metrics"]["image_to_text_R@1"] > document["controls"]["chance"]["image_to_text_R@1"]
    again = script("evaluate", out, "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["metrics"] == pytest.approx(document["metrics"])
    found = script("query_index", out / "index", "--text", "tomato soup", "--modality", "image", "-k", "2", "--json")
    assert found.code == 0, found.err
    assert {hit["metadata"]["class"] for hit in json.loads(found.out)} <= set(DISHES)
