import io
import itertools
import json
import tarfile
from collections import Counter

import numpy as np
import pytest

from mm.config import ConfigError, DataConfig, to_yaml
from mm.config import load as read_config
from mm.data import READERS, Batches, Items, Pairs, load, load_asked, readable
from mm.engine.log import read_csv
from mm.tasks.retrieval import Retrieval
from tests.shared import assert_same_run, started

WORDS = ("red", "green", "blue", "grey", "black", "white", "pink")


def write_table(file, train, evaluated=2, sound=None):
    """A table with rows of a picture each that the conftest's `jpeg` has written, and a sound where one is given."""
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = ["id", "split", "image", "text", "text_1", *(["audio"] if sound else [])]
    lines = [",".join(columns)]
    for split, count in (("train", train), ("val", evaluated), ("test", evaluated)):
        for k in range(count):
            row = [f"{split}{k}", split, "../a.jpg", f"{WORDS[k % 7]} {file.stem} {split} {k}", f"another {k}"]
            lines.append(",".join(row + (["../a.wav"] if sound else [])))
    file.write_text("\n".join(lines) + "\n")
    return f"table:{file}"


@pytest.fixture
def two(tmp_path, jpeg, sound):
    """A table of 90 pictures with sentences, and one of 6 that have sounds too: settings that mix them one to one."""
    jpeg(tmp_path / "a.jpg"), sound(tmp_path / "a.wav")
    names = [
        write_table(tmp_path / "large" / "large.csv", 90),
        write_table(tmp_path / "small" / "small.csv", 6, 3, sound=True),
    ]
    return DataConfig(name="mixed", sets=dict.fromkeys(names, 1.0))


def weighted(cfg, large, small):
    return DataConfig(name="mixed", sets=dict(zip(cfg.sets, (large, small), strict=True)))


def batches(cfg, prepare, batch_size=12, modalities=("image", "text"), **options):
    pairs = Pairs(load(cfg, "train"), {name: prepare[name] for name in modalities}, seed=3)
    return Batches(pairs, batch_size, seed=5, **options)


def drawn(batches, steps):
    """The (pass, index) of all examples of some steps, (n, 2)."""
    return np.array([key for step in steps for key in batches.keys(step)])


def test_training_items_are_those_of_all_sets_with_its_name_before_ids_and_owners(two):
    items = load(two, "train")
    large, small = two.sets
    assert len(items) == 96
    assert (items[0].id, items[0].owner, items[0].meta["set"]) == (f"{large}/train0", f"{large}/train0", large)
    assert (items[90].id, items[90].owner, items[90].meta["set"]) == (f"{small}/train0", f"{small}/train0", small)
    assert len({item.id for item in items}) == len({item.owner for item in items}) == 96
    assert items[90].audio and not items[0].audio  # a set may lack what another has
    alone = load(DataConfig(name="table", file=small.partition(":")[2]), "train")
    plain = [
        item._replace(id=item.id.removeprefix(f"{small}/"), owner=item.id.removeprefix(f"{small}/")) for item in items
    ]
    assert [item._replace(meta={}, share=None) for item in plain[90:]] == [item._replace(meta={}) for item in alone]
    assert len(load(two, "trainval")) == 96 + 2 + 3


def test_val_and_test_are_those_of_the_first_set(two):
    large, small = two.sets
    assert [item.id for item in load(two, "val")] == [f"{large}/val0", f"{large}/val1"]
    turned = DataConfig(name="mixed", sets={small: 1.0, large: 1.0})
    assert [item.id for item in load(turned, "test")] == [f"{small}/test{k}" for k in range(3)]
    assert load(turned, "test")[0].share is None


def test_sets_are_read_with_the_settings_of_the_run(two, real_data):
    root = str(real_data("fsdd").parent)
    (name, _) = two.sets
    cfg = DataConfig(name="mixed", sets={"spoken_digits": 1.0, name: 1.0}, root=root, speaker="jackson")
    test = load(cfg, "test")
    assert [item.id for item in test] == [
        f"spoken_digits/{item.id}"
        for item in load(DataConfig(name="spoken_digits", root=root, speaker="jackson"), "test")
    ]


def test_shards_are_named_by_their_pattern(two, tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f"train-{number}.tar", "w") as shard:
            for key, text in (("a", "a bird"), ("b", "the sea")):
                member = tarfile.TarInfo(f"{key}{number}.txt")
                member.size = len(text)
                shard.addfile(member, io.BytesIO(text.encode()))
    name = f"shards:{tmp_path}/{{split}}-{{0..1}}.tar"
    items = load(DataConfig(name="mixed", sets={**two.sets, name: 2.0}), "train")
    assert [(item.id, item.text) for item in items[96:98]] == [
        (f"{name}/a0", ("a bird",)),
        (f"{name}/b0", ("the sea",)),
    ]
    assert len(items) == 100 and items[99].share.weights[name] == 2


def test_a_column_of_ones_own_keeps_its_name(two):
    (name, _) = two.sets
    file = name.partition(":")[2]
    with open(file) as stream:
        lines = stream.read().splitlines()
    with open(file, "w") as stream:
        stream.write("\n".join([f"{lines[0]},set", *(f"{line},mine" for line in lines[1:])]))
    assert load(two, "train")[0].meta == {"set": "mine"}


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0), (1.0, 0.07), (2, 9)])
def test_a_sets_share_of_the_batches_is_its_weight_whatever_its_size(two, prepare, weights):
    loader = batches(weighted(two, *weights), prepare)
    steps = 25 * loader.per_epoch
    of_small = drawn(loader, range(steps))[:, 1] >= 90  # (n,)
    p, n = weights[1] / sum(weights), len(of_small)
    assert abs(of_small.sum() - n * p) <= 4 * (n * p * (1 - p)) ** 0.5
    in_batches = of_small.reshape(steps, 12).sum(axis=1)  # (steps,)
    assert in_batches.mean() == pytest.approx(12 * p, abs=25 / steps)  # an epoch is off by half an example at most
    assert len(set(in_batches.tolist())) > 1  # drawn, not dealt out


def test_every_item_comes_before_one_of_its_set_comes_again(two, prepare):
    """Across epochs and where a set fills an epoch many times: in pass p each item is looked up as (p, index) once."""
    loader = batches(weighted(two, 1, 3), prepare)
    keys = drawn(loader, range(10 * loader.per_epoch))  # (960, 2): 240 of the large set, 720 of the small one
    for members in (range(90), range(90, 96)):
        mine = [(turn, index) for turn, index in keys.tolist() if index in members]
        passes = [mine[at : at + len(members)] for at in range(0, len(mine), len(members))]
        for number, one in enumerate(passes):
            assert {turn for turn, _ in one} == {number}
            assert len({index for _, index in one}) == len(one)
        assert {index for _, index in passes[0]} == set(members)
        assert [index for _, index in passes[0]] != [index for _, index in passes[1]]  # in an order of its own
    assert len(set(map(tuple, keys.tolist()))) == len(keys)


def test_one_that_comes_again_in_an_epoch_is_not_drawn_alike(two, prepare):
    loader = batches(weighted(two, 1, 3), prepare)
    texts = Counter()
    for turn, index in drawn(loader, range(loader.per_epoch)).tolist():
        if index == 92:
            texts["".join(chr(letter) for letter in loader.dataset[turn, index]["text"].tolist())] += 1
    assert sorted(texts) == ["another 2", "blue small train 2"]
    assert max(texts.values()) - min(texts.values()) <= 1


def test_equal_weights_of_equal_sets_are_nearly_one_set(two, prepare, tmp_path):
    names = [write_table(tmp_path / name / f"{name}.csv", 20) for name in ("one", "other")]
    loader = batches(DataConfig(name="mixed", sets=dict.fromkeys(names, 0.1)), prepare, batch_size=8)
    for epoch in range(3):
        keys = drawn(loader, range(5 * epoch, 5 * epoch + 5))
        assert sorted(keys.tolist()) == [[epoch, index] for index in range(40)]


def test_the_same_batches_for_any_workers_ranks_and_start(two, prepare):
    def values(batch):
        return [batch["owner"].tolist(), *(batch[name].values.tolist() for name in ("image", "text"))]

    whole = [values(batch) for batch in itertools.islice(batches(two, prepare)(), 20)]
    for workers, start in ((1, 0), (2, 3), (0, 7), (0, 8), (0, 13)):
        again = itertools.islice(batches(two, prepare, workers=workers)(start), 6)
        assert [values(batch) for batch in again] == whole[start : start + 6]
    for step in range(20):
        parts = [batches(two, prepare, rank=rank, world=3).keys(step) for rank in range(3)]
        assert list(itertools.chain(*parts)) == batches(two, prepare).keys(step)


def test_what_is_filtered_keeps_its_share(two, prepare, tmp_path):
    """What a run leaves out (damaged files, items in one modality) leaves the weights as they are."""
    items = load(weighted(two, 1, 1), "train")
    (tmp_path / "bad.jpg").write_bytes(b"no")
    items[90] = items[90]._replace(image=(tmp_path / "bad.jpg",), audio=())
    kept = readable(items, {"image": prepare["image"]})
    assert isinstance(kept, Items) and len(kept) == 95
    loader = Batches(Pairs([item for item in kept if item.id[-1] != "9"], {"text": prepare["text"]}), 8)
    assert (len(loader.dataset), loader.per_epoch) == (86, 10)
    keys = drawn(loader, range(loader.per_epoch))
    assert (keys[:, 1] >= 81).sum() == 40


def test_a_set_that_a_run_can_learn_nothing_from_is_an_error(two, prepare):
    items = [item for item in load(two, "train") if item.audio]
    with pytest.raises(ValueError, match=r"mixed sets must have items to train on: table:.*large\.csv has none"):
        Batches(Pairs(items, {"text": prepare["text"]}), 4)
    with pytest.raises(ValueError, match=r"one of the 96 examples of an epoch at least: table:.*small\.csv has none"):
        batches(weighted(two, 1, 0.005), prepare)


def test_ordinary_sets_are_drawn_as_ever(two, prepare):
    (name, _) = two.sets
    pairs = Pairs(load(DataConfig(name="table", file=name.partition(":")[2]), "train"), {"text": prepare["text"]})
    loader = Batches(pairs, 8, seed=4)
    for step in (0, 10, 11, 25):
        order = np.random.default_rng((4, step // 11)).permutation(90)
        assert loader.keys(step) == [(step // 11, index) for index in order[step % 11 * 8 :][:8].tolist()]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"data\.name=mixed needs data\.sets=\{NAME: WEIGHT, \.\.\.\}, see docs/data\.md: got none"),
        ({"sets": {"flickr9k": 1.0}}, r"unknown data set to mix 'flickr9k'\. .* Did you mean 'flickr8k'\?"),
        ({"sets": {"esc10": 1.0, "mixed": 1.0}}, "unknown data set to mix 'mixed'"),
        ({"sets": {"synthetic": 1.0}}, "unknown data set to mix 'synthetic'"),
        ({"sets": {"table": 1.0}}, "table is named with its file, table:FILE: got 'table'"),
        ({"sets": {"table:": 1.0}}, "table is named with its file, table:FILE: got 'table:'"),
        ({"sets": {"tabel:a.csv": 1.0}}, r"unknown kind of data set with a file 'tabel'.* Did you mean 'table'\?"),
        ({"sets": {"esc10": 0.0}}, r"weight of 'esc10' must be a positive number: got 0\.0"),
        ({"sets": {"esc10": 1.0, "coco": -2.0}}, r"weight of 'coco' must be a positive number: got -2\.0"),
        ({"sets": {"esc10": float("nan")}}, "must be a positive number: got nan"),
        ({"sets": {"esc10": float("inf")}}, "must be a positive number: got inf"),
        ({"sets": {"esc10": 1.0}, "file": "a.csv"}, r"named in data\.sets, as table:FILE: got data\.file=a\.csv"),
        ({"name": "esc10", "sets": {"esc10": 1.0}}, r"data\.sets is for data\.name=mixed: got data\.name=esc10"),
    ],
)
def test_rejected(settings, message):
    with pytest.raises(ValueError, match=message):
        load(DataConfig(**{"name": "mixed", **settings}), "train")


def test_questions_are_not_mixed():
    with pytest.raises(ValueError, match="unknown data set with questions 'mixed'"):
        load_asked(DataConfig(name="mixed", sets={"clevr": 1.0}), "train")
    with pytest.raises(ValueError, match=r"data\.sets is for data\.name=mixed: got data\.name=clevr"):
        load_asked(DataConfig(name="clevr", sets={"clevr": 1.0}), "train")


def test_a_set_that_is_not_there_says_where_to_look(tmp_path):
    cfg = DataConfig(name="mixed", root=str(tmp_path), sets={"esc10": 1.0})
    with pytest.raises(FileNotFoundError, match=r"esc10 must hold .* not found\. docs/data\.md"):
        load(cfg, "train")


def test_every_reader_may_be_mixed_but_for_the_embedded_world():
    with pytest.raises(ValueError) as caught:
        load(DataConfig(name="mixed", sets={"nothing": 1.0}), "train")
    listed = str(caught.value).partition("Choose from: ")[2].rstrip(".").split(", ")
    assert {name.removesuffix(":FILE") for name in listed} == set(READERS) - {"mixed", "synthetic"}
    assert "table:FILE" in listed and "esc10" in listed


def test_the_mapping_is_read_written_and_replaced(tmp_path):
    given = read_config(Retrieval, ["data.name=mixed", 'data.sets={flickr8k: 1, "shards:a/{split}-{0..9}.tar": 0.5}'])
    assert list(given.data.sets.items()) == [("flickr8k", 1.0), ("shards:a/{split}-{0..9}.tar", 0.5)]
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(given))
    assert read_config(Retrieval, ["--config", str(file)]) == given
    file.write_text("data:\n  name: mixed\n  sets: {esc10: 2, coco: 1}\n")
    assert read_config(Retrieval, ["--config", str(file)]).data.sets == {"esc10": 2.0, "coco": 1.0}
    assert read_config(Retrieval, ["--config", str(file), "data.sets={coco: 3}"]).data.sets == {"coco": 3.0}
    assert read_config(Retrieval, ["--config", str(file), "data.sets={}"]).data.sets == {}
    for wrong in ("[esc10]", "esc10", "{esc10: much}", "{esc10: true}", "{esc10: }"):
        with pytest.raises(ConfigError, match=r"data\.sets must be dict\[str, float\]: got"):
            read_config(Retrieval, [f"data.sets={wrong}"])


@pytest.fixture
def a_run(own_table, tmp_path, tiny):
    """Arguments of a run over three modalities on two tables, of which the second lacks pictures."""
    other = tmp_path / "other" / "other.csv"
    other.parent.mkdir()
    sounds = sorted(own_table.parent.glob("*.wav"))
    rows = [f'{k},train,"something like {k}",{sound}' for k, sound in enumerate(sounds)]
    other.write_text("\n".join(["id,split,text,audio", *rows]))
    words = [word for word in tiny if not word.startswith(("data.name", "data.file"))]
    sets = json.dumps({f"table:{own_table}": 1.0, f"table:{other}": 0.5})
    return [*words, "data.name=mixed", f"data.sets={sets}"]


def test_a_mixed_run_trains_is_killed_goes_on_and_is_evaluated(script, a_run, own_table, tmp_path):
    answer = script("train_retrieval", *a_run, f"out={tmp_path / 'run'}")
    assert answer.code == 0, answer.err
    losses = [float(row[3]) for row in read_csv(tmp_path / "run" / "metrics.csv") if row[2] == "train/loss"]
    assert losses[-1] < 0.9 * losses[0]
    document = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert document["data"] == "mixed"
    assert document["metrics"]["rsum"] > document["controls"]["chance"]["rsum"]
    process = started("train_retrieval", a_run, tmp_path / "killed")
    process.kill()
    process.communicate(timeout=60)
    assert not (tmp_path / "killed" / "metrics.json").exists()
    answer = script("train_retrieval", *a_run, f"out={tmp_path / 'killed'}")
    assert answer.code == 0 and "goes on from step" in answer.out, answer.err
    assert_same_run(tmp_path / "killed", tmp_path / "run")
    one = ("data.name=table", f"data.file={own_table}", "data.sets={}")
    alone = script("evaluate", tmp_path / "run", "--json", *one)  # one of the sets, or another, by itself
    assert alone.code == 0, alone.err
    assert json.loads(alone.out)["metrics"] == pytest.approx(document["metrics"])
