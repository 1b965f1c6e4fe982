import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from mm.data import (
    Item,
    Items,
    Pairs,
    Question,
    UnreadableError,
    cached,
    collate,
    readable,
    stable_id,
    text_key,
    unique,
)


@pytest.fixture
def items(tmp_path, jpeg, sound):
    """Six items with two pictures, three captions and a clip each; the last has no sound, the one before only sound."""
    made = []
    for k in range(6):
        images = tuple(jpeg(tmp_path / f"{k}-{n}.jpg", 20 * k + n) for n in range(2))
        text = tuple(f"caption {n} of {k}" for n in range(3))
        audio = (sound(tmp_path / f"{k}.wav", 0.1 * k),)
        made.append(Item(str(k), f"owner {k % 4}", images, text, audio))
    made[4] = made[4]._replace(image=(), text=())
    made[5] = made[5]._replace(audio=())
    return made


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[name], b[name]) if torch.is_tensor(a[name]) else a[name] == b[name] for name in a
    )


def test_an_example_is_a_function_of_seed_epoch_and_index(items, prepare):
    pairs, again, other = (Pairs(items, prepare, seed, views=10) for seed in (3, 3, 4))
    keys = [(epoch, index) for epoch in range(4) for index in range(6)]
    assert all(same(pairs[key], again[key]) for key in reversed(keys))
    assert not all(same(pairs[key], other[key]) for key in keys)


def test_a_missing_modality_is_missing(items, prepare):
    pairs = Pairs(items, prepare)
    assert set(pairs[0, 0]) == {"owner", "text_key", "image", "text", "audio"}
    assert set(pairs[0, 4]) == {"owner", "audio"} and set(pairs[0, 5]) == {"owner", "text_key", "image", "text"}
    assert set(Pairs(items, {"image": prepare["image"]})[0, 0]) == {"owner", "image"}
    assert collate([pairs[0, k] for k in range(6)])["audio"].rows.tolist() == [0, 1, 2, 3, 4]


def test_captions_take_turns(items, prepare):
    pairs = Pairs(items, prepare, seed=5)
    for index in (0, 1, 2, 3, 5):
        for start in (0, 3, 7):
            keys = {pairs[epoch, index]["text_key"] for epoch in range(start, start + 3)}
            assert keys == {text_key(text) for text in items[index].text}
    assert pairs[0, 0]["owner"] == pairs[0, 4]["owner"] == stable_id("owner 0")


@pytest.mark.parametrize(("texts", "count"), [(0, 3), (2, 2), (9, 3)])
def test_several_captions_of_an_example_take_turns(items, prepare, texts, count):
    pairs = Pairs(items, prepare, seed=5, texts=texts)
    said = {tuple(prepare["text"](text, 0).tolist()) for text in items[0].text}
    drawn = [[tuple(text.tolist()) for text in pairs[epoch, 0]["text"]] for epoch in range(3)]
    assert all(len(set(texts)) == count for texts in drawn)
    assert {text for texts in drawn for text in texts} == said
    assert Counter(text for texts in drawn for text in texts) == dict.fromkeys(said, count)
    assert "text_key" not in pairs[0, 0]


def test_pictures_and_crops_are_all_drawn(items, prepare):
    pairs = Pairs(items, prepare, views=3)
    seen = Counter(int(pairs[epoch, 0]["image"][0, 0, 0]) for epoch in range(300))
    expected = {int(prepare["image"](source, view)[0, 0, 0]) for source in items[0].image for view in range(3)}
    assert set(seen) == expected
    one = Pairs(items, prepare)
    assert {int(one[epoch, 0]["image"][0, 0, 0]) for epoch in range(40)} == {
        int(prepare["image"](source)[0, 0, 0]) for source in items[0].image
    }


def test_a_cache_gives_what_would_have_been_computed(items, prepare, tmp_path):
    def compute(sources, view):
        return torch.stack([prepare["image"](source, view).float() for source in sources]), None

    sources = [entry.source for entry in unique(items, "image")]
    cache = cached(compute, sources, "f", tmp_path / "cache", views=3)
    for views in (1, 2, 3):  # whatever else the cache holds
        stored = Pairs(items, {"text": prepare["text"]}, 1, views, cache={"image": cache})
        plain = Pairs(items, {"text": prepare["text"], "image": prepare["image"]}, 1, views)
        for key in [(epoch, index) for epoch in range(5) for index in (0, 1, 5)]:
            assert torch.equal(stored[key]["image"], plain[key]["image"].float())
            assert stored[key]["text_key"] == plain[key]["text_key"]
    with pytest.raises(ValueError, match="must hold 4 crops of a picture: it holds 3"):
        Pairs(items, {}, 1, 4, cache={"image": cache})
    with pytest.raises(KeyError, match=r"new\.jpg is not in the cache"):
        Pairs([Item("n", "n", (Path("new.jpg"),))], {}, cache={"image": cache})[0, 0]


def test_a_damaged_file_is_named(items, prepare):
    items[1].image[0].write_bytes(b"not a picture")
    items[2].audio[0].write_bytes(items[2].audio[0].read_bytes()[:10])
    pairs = Pairs(items, prepare)
    with pytest.raises(UnreadableError, match=r"^1: .*1-0\.jpg"):
        [pairs[epoch, 1] for epoch in range(20)]
    with pytest.raises(UnreadableError, match=r"^2: .*2\.wav"):
        pairs[0, 2]


def test_skip_bad_leaves_out_what_is_damaged_and_counts_it(items, prepare, caplog):
    items[1].image[0].write_bytes(b"not a picture")  # another picture is left
    for image in items[2].image:
        image.write_bytes(b"")  # text and sound are left
    items[4].audio[0].write_bytes(b"")  # nothing is left
    for image in items[5].image:
        image.unlink()  # a sentence alone is left
    with caplog.at_level(logging.WARNING):
        good = readable(Items(items, ["an earlier line"]), prepare)
    pairs = Pairs(good, prepare)
    assert [item.id for item in pairs.items] == ["0", "1", "2", "3"] and len(pairs) == 4
    assert pairs.items[1].image == items[1].image[1:] and pairs.items[2].image == () and pairs.items[3] == items[3]
    assert len(good.skipped) == 7 and good.skipped[0] == "an earlier line" and "1-0.jpg" in " ".join(good.skipped)
    assert "left out 6 damaged files and with them 2 items" in caplog.text
    examples = [pairs[epoch, index] for epoch in range(3) for index in range(len(pairs))]
    assert all("text" in example for example in examples)


def test_reading_in_threads_finds_the_same(items, prepare):
    items[1].image[0].write_bytes(b"x")
    assert readable(items, prepare, workers=0) == readable(items, prepare, workers=3)


def test_nothing_damaged_changes_nothing(items, prepare):
    assert readable(items, prepare) is items


def test_arrays_are_sources_too(prepare):
    pictures = tuple(np.full((8, 8, 3), k, dtype=np.uint8) for k in range(2))
    pairs = Pairs([Item("a", "a", pictures, ("x",), (np.zeros(5, np.float32),))], prepare)
    assert pairs[0, 0]["image"].shape == (3, 8, 8) and pairs[0, 0]["audio"].tolist() == [0.0] * 5


def test_rejected(items, prepare):
    with pytest.raises(ValueError, match="at least one item"):
        Pairs([], prepare)
    with pytest.raises(ValueError, match=r"unknown modality 'images'. Choose from: .* Did you mean 'image'\?"):
        Pairs(items, {"images": prepare["image"]})
    with pytest.raises(ValueError, match="views must be at least 1, texts and the seed at least 0: got 0, 1 and 0"):
        Pairs(items, prepare, views=0)
    with pytest.raises(ValueError, match="got 1, 1 and -1"):
        Pairs(items, prepare, seed=-1)


def length_of(question):
    """Stands for what the answers of a question earn: numbers that tell the question."""
    return torch.tensor([float(len(question.text)), float(question.answers[0])])


@pytest.fixture
def asked(items):
    """The first three items with three, one and no questions, each answered by its own number."""
    counts, made = (3, 1, 0), []
    for k, (item, count) in enumerate(zip(items, counts, strict=False)):
        questions = [Question(f"{k}#{n}", f"question {'!' * (5 * k + n)}", (str(10 * k + n),)) for n in range(count)]
        made.append(item._replace(questions=tuple(questions)))
    return made


def words(text):
    return "".join(chr(letter) for letter in text.tolist())


@pytest.mark.parametrize(("texts", "count"), [(1, 1), (2, 2), (0, 3), (7, 3)])
def test_questions_take_turns_and_keep_their_answers(asked, prepare, texts, count):
    pairs = Pairs(asked, prepare, seed=2, texts=texts, answer=length_of)
    expected = {question.text: length_of(question).tolist() for item in asked for question in item.questions}
    drawn = Counter()
    for epoch in range(3):
        example = pairs[epoch, 0]
        assert "text_key" not in example and len(example["text"]) == len(example["answer"]) == count
        for text, answer in zip(example["text"], example["answer"], strict=True):
            assert answer.tolist() == expected[words(text)]
            drawn[words(text)] += 1
    assert drawn == dict.fromkeys((question.text for question in asked[0].questions), count)
    assert [words(text) for text in pairs[5, 1]["text"]] == [asked[1].questions[0].text]
    captions = {text for item in asked for text in item.text}
    assert captions.isdisjoint(drawn)  # the texts are the questions alone


def test_an_item_without_questions_is_still_seen(asked, prepare):
    pairs = Pairs(asked, prepare, texts=0, answer=length_of)
    assert pairs[0, 2]["text"] == pairs[0, 2]["answer"] == [] and pairs[0, 2]["image"].shape == (3, 8, 8)
    batch = collate([pairs[0, k] for k in range(3)])
    assert batch["text"].rows.tolist() == [0, 0, 0, 1] and batch["image"].rows.tolist() == [0, 1, 2]
    for text, length, answer in zip(batch["text"].values, batch["text"].lengths, batch["answer"], strict=True):
        assert length == answer[0] and len(words(text[:length])) == length
    assert batch["answer"][:, 1].tolist() == [0, 1, 2, 10]


def test_pictures_do_not_depend_on_the_questions(asked, prepare):
    plain, asking = Pairs(asked, prepare, 3, views=4), Pairs(asked, prepare, 3, views=4, answer=length_of)
    for key in [(epoch, index) for epoch in range(5) for index in range(3)]:
        assert torch.equal(plain[key]["image"], asking[key]["image"])


def test_answers_need_questions(asked, prepare):
    with pytest.raises(ValueError, match="answers need questions, which are text: got image"):
        Pairs(asked, {"image": prepare["image"]}, answer=length_of)


def shares_of(item):
    """Stands for what is to be learned of an item as a whole: numbers that tell the item."""
    return torch.tensor([[float(item.id), 0.0], [float(len(item.image)), float(len(item.audio))]])


def test_a_target_is_the_items_own_in_every_epoch(items, prepare):
    pairs = Pairs(items, prepare, seed=3, views=4, target=shares_of)
    for epoch in range(3):
        for index, item in enumerate(items):
            assert torch.equal(pairs[epoch, index]["target"], shares_of(item))
    batch = collate([pairs[0, k] for k in (4, 0, 5)])
    assert batch["target"].tolist() == [[[4, 0], [0, 1]], [[0, 0], [2, 1]], [[5, 0], [2, 0]]]


def test_a_target_changes_nothing_else(items, asked, prepare):
    for given, answer in ((items, None), (asked, length_of)):
        plain = Pairs(given, prepare, 3, views=4, answer=answer)
        aiming = Pairs(given, prepare, 3, views=4, answer=answer, target=shares_of)
        for key in [(epoch, index) for epoch in range(5) for index in range(len(given))]:
            example = aiming[key]
            assert example.pop("target") is not None and "target" not in plain[key]
            for tensors in (example, other := plain[key]):
                for name in ("text", "answer") if answer else ():
                    tensors[name] = torch.cat(tensors[name]) if tensors[name] else torch.zeros(0)
            assert same(example, other)
    assert "target" not in collate([plain[0, 0]])
