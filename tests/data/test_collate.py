import pytest
import torch

from mm.data import collate, stable_id, text_key


def examples():
    picture, sentence, clip = torch.ones(3, 4, 4, dtype=torch.uint8), torch.tensor([5, 6, 7]), torch.rand(9)
    return [
        {"owner": 1, "text_key": 10, "image": picture, "text": sentence},
        {"owner": 2, "audio": clip},
        {"owner": 1, "text_key": 11, "text": sentence[:1], "audio": clip[:4]},
    ]


def test_a_batch_against_a_loop_over_the_examples():
    made = examples()
    batch = collate(made)
    assert batch["owner"].tolist() == [[1, 10], [2, 2], [1, 11]]
    for modality in ("image", "text", "audio"):
        values, lengths, rows = batch[modality]
        assert rows.tolist() == [row for row, example in enumerate(made) if modality in example]
        for k, row in enumerate(rows.tolist()):
            expected = made[row][modality]
            size = len(expected) if lengths is None else int(lengths[k])
            assert size == len(expected) and torch.equal(values[k, :size], expected)
            assert not values[k, size:].any()
        assert (lengths is None) == (modality == "image")


def test_several_texts_of_an_example_are_rows_of_one_item():
    texts = [torch.tensor([5, 6, 7]), torch.tensor([8])]
    batch = collate([{"owner": 1, "text": texts}, {"owner": 2}, {"owner": 3, "text": texts[:1]}])
    values, lengths, rows = batch["text"]
    assert (rows.tolist(), lengths.tolist()) == ([0, 0, 2], [3, 1, 3])
    assert values.tolist() == [[5, 6, 7], [8, 0, 0], [5, 6, 7]]
    assert batch["owner"].tolist() == [[1, 1], [2, 2], [3, 3]]


def test_answers_are_rows_beside_those_of_the_questions():
    texts, picture = [torch.tensor([5, 6, 7]), torch.tensor([8]), torch.tensor([9, 9])], torch.zeros(3, 2, 2)
    answers = [torch.tensor([float(k), 1.0 - k]) for k in range(3)]
    examples = [
        {"owner": 1, "image": picture, "text": texts[:2], "answer": answers[:2]},
        {"owner": 2, "image": picture, "text": [], "answer": []},  # nothing is asked about it
        {"owner": 3, "image": picture, "text": texts[2:], "answer": answers[2:]},
    ]
    batch = collate(examples)
    assert batch["answer"].tolist() == [[0.0, 1.0], [1.0, 0.0], [2.0, -1.0]]
    assert batch["text"].rows.tolist() == [0, 0, 2] and batch["image"].rows.tolist() == [0, 1, 2]
    beside = zip(batch["text"].rows.tolist(), batch["text"].values, batch["answer"], strict=True)
    told = [(row, tokens.tolist(), int(answer[0])) for row, tokens, answer in beside]
    assert told == [(0, [5, 6, 7], 0), (0, [8, 0, 0], 1), (2, [9, 9, 0], 2)]
    assert "answer" not in collate(examples[1:2]) and "text" not in collate(examples[1:2])


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
def test_targets_are_of_the_items_whatever_these_hold(shape):
    made = [{**example, "target": torch.full(shape, 10.0 + k)} for k, example in enumerate(examples())]
    batch, plain = collate(made), collate(examples())
    assert torch.equal(batch["target"], torch.stack([torch.full(shape, 10.0 + k) for k in range(3)]))
    assert "target" not in plain and batch.keys() - plain.keys() == {"target"}
    assert torch.equal(collate(made[1:2])["target"], torch.full((1, *shape), 11.0))


def test_the_places_of_a_frozen_picture_have_no_lengths():
    batch = collate([{"owner": k, "image": torch.rand(49, 8)} for k in range(2)])
    assert batch["image"].lengths is None and batch["image"].values.shape == (2, 49, 8)


def test_a_modality_that_no_example_has_is_absent():
    assert set(collate(examples()[1:2])) == {"owner", "audio"}


def test_inputs_move_together():
    inputs = collate(examples())["audio"].to("meta")
    assert [part.device.type for part in inputs] == ["meta"] * 3


def test_nothing_and_pictures_of_two_sizes():
    with pytest.raises(ValueError, match="at least one example"):
        collate([])
    with pytest.raises(ValueError, match="pictures of a batch must have one size"):
        collate([{"owner": 0, "image": torch.zeros(3, 4, 4)}, {"owner": 1, "image": torch.zeros(3, 5, 5)}])


def test_keys_are_equal_for_equal_words_only():
    assert text_key("A dog, running .") == text_key("a  Dog running") != text_key("a dog runs")
    assert text_key("...") != text_key("!")
    ids = {stable_id(str(k)) for k in range(10_000)}
    assert len(ids) == 10_000 and min(ids) >= 0 and max(ids) < 2**63
    assert stable_id("a.jpg") == 2904125369912386013  # the same in every process: owners meet across ranks
