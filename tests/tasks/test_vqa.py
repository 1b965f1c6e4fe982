"""The model that answers, its training, what it reads, and its scores beside their controls."""

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mm import data
from mm.config import ConfigError
from mm.config import load as read_config
from mm.data import AskedScenes, Item, Items, Question
from mm.engine.stream import to_device
from mm.features import Features
from mm.heads.answerer import Answerer, AnswererConfig, Scored
from mm.heads.fusions import FUSIONS
from mm.losses import answer_softmax
from mm.tasks import vqa, vqa_data, vqa_scores
from mm.tasks.vqa import VQA
from mm.tasks.vqa_model import AnswerModel, inputs_of

ROOT = Path(__file__).parents[2]
TINY = ["--config", str(ROOT / "configs/vqa/tiny.yaml"), "encoder.image.size=32", "data.batch_size=8"]
ATTENTIONS = ("none", "san:2", "topdown", "mcan:1")


@pytest.fixture
def config() -> Callable[..., VQA]:
    return lambda *changes: read_config(VQA, [*TINY, *changes])


def model_of(cfg: VQA, items) -> AnswerModel:
    torch.manual_seed(cfg.seed)
    return vqa.build_model(cfg, list(data.questions_of(items)))


def learn(model: AnswerModel, items, cfg: VQA, steps: int, lr: float = 3e-3) -> list[float]:
    """The losses of so many steps."""
    batches, objective = vqa_data.training_batches(model, items, cfg)(0), vqa.Objective(cfg.loss)
    optimiser = torch.optim.Adam(model.train().parameters(), lr)
    losses = []
    for step in range(steps):
        loss = objective(model, to_device(next(batches), "cpu"), step)["answer_loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


# What is learned ----------------------------------------------------------------------------------------------------


def test_64_questions_are_learned_by_heart_and_are_lost_with_other_pictures(config) -> None:
    cfg = config("modalities=[image]", "head.attention=topdown", "data.batch_size=24", "head.dropout=0")
    items = Items(AskedScenes("train", 24, heard=False))
    assert sum(len(item.questions) for item in items) >= 64
    model = model_of(cfg, items)
    learn(model, items, cfg, 120)
    told = vqa_scores.answer_items(model, items, cfg)
    assert vqa_scores.metrics_of(told)["accuracy"] == 1
    generator = np.random.default_rng(0)
    other = vqa_scores.answer_items(model, items, cfg, swap=lambda s: vqa_scores.swapped(s, generator))
    assert vqa_scores.metrics_of(other)["accuracy"] < 0.7
    reworded = vqa_scores.answer_items(model, items, cfg, reword=lambda text: vqa_scores.shuffled(text, generator))
    assert vqa_scores.metrics_of(reworded)["accuracy"] < 0.9


@pytest.mark.parametrize(("attention", "fusion"), list(itertools.product(ATTENTIONS, FUSIONS)))
def test_every_fusion_with_every_attention_trains(config, attention: str, fusion: str) -> None:
    cfg = config(f"head.attention={attention}", f"head.fusion={fusion}")
    items = AskedScenes("train", 8)
    losses = learn(model_of(cfg, items), items, cfg, 20)
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


class PlainProduct(torch.nn.Module):
    """The classic head as torch initialises it, without normalisation (Antol et al. 2015)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.asked = torch.nn.Linear(64, 64), torch.nn.Linear(32, 64)
        self.classify = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 7))

    def forward(self, question: Features, contents: dict[str, Features]) -> Scored:
        product = self.seen(contents["image"].vector).tanh() * self.asked(question.vector).tanh()
        return Scored(self.classify(product), None, {})


@pytest.mark.parametrize("seed", range(5))
def test_the_product_leaves_what_the_question_alone_says(seed: int) -> None:
    """A picture shows one of 4 colours and one of 3 shapes; asked for one of them, the other says nothing.

    An image vector that starts small, as a network from scratch gives it, keeps the plain product there for as long.
    """
    torch.manual_seed(seed)
    shown = torch.cartesian_prod(torch.arange(4), torch.arange(3)).repeat(8, 1)  # (96, 2)
    seen = torch.cat([torch.eye(4)[shown[:, 0]], torch.eye(3)[shown[:, 1]]], dim=1) @ torch.randn(7, 64) * 0.01
    asked = torch.arange(96).div(12, rounding_mode="floor") % 2
    words = torch.eye(2)[asked] @ torch.randn(2, 32)
    targets = torch.eye(7)[torch.where(asked == 0, shown[:, 0], 4 + shown[:, 1])]
    real = torch.ones(96, 1, dtype=torch.bool)
    question, image = (Features(x[:, None], real, x, (1,)) for x in (words, seen))
    settings = AnswererConfig(attention="none", dim=64, hidden=64)
    right = []
    for head in (Answerer({"image": (64, 64)}, (32, 32), list("abcdefg"), settings), PlainProduct()):
        optimiser = torch.optim.Adam(head.parameters(), 1e-3)
        for _ in range(60):
            loss = answer_softmax(head(question, {"image": image}).logits, targets)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        best = head.eval()(question, {"image": image}).logits.argmax(1)
        right.append(float((best == targets.argmax(1)).float().mean()))
    assert right[0] > 0.95
    assert right[1] < 0.35  # the question alone: 29 per cent


# What is read -------------------------------------------------------------------------------------------------------


def test_targets_are_what_people_give_to_answers_that_the_model_knows() -> None:
    question = Question("1", "what?", ("red",) * 2 + ("two",) * 3 + ("Red!",) + ("a boat",) * 4)
    scores = vqa_data.Targets(["2", "red", "blue"])(question)
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.9, 0.0]))


def test_answers_are_the_most_frequent_of_the_train_split() -> None:
    questions = [Question(str(k), "what?", (answer,)) for k, answer in enumerate("bacbabd")]
    assert vqa.frequent_answers(questions, 2, 1) == ["b", "a"]
    assert vqa.frequent_answers(questions, 9, 2) == ["b", "a"]
    with pytest.raises(ValueError, match=r"no answer is given 4 times: lower min_count \(most frequent: 'b'\)"):
        vqa.frequent_answers(questions, 9, 4)
    with pytest.raises(ValueError, match="training needs questions with answers: got 1 without"):
        vqa.frequent_answers([Question("1", "what?")], 9, 1)


def test_every_question_of_a_batch_is_about_its_own_picture() -> None:
    rows, inputs = torch.tensor([0, 0, 1, 2, 2, 3]), torch.tensor([0, 2, 3])
    assert inputs_of(rows, inputs).tolist() == [0, 0, -1, 1, 1, 2]


def test_a_batch_gives_what_the_questions_give_one_by_one(config) -> None:
    cfg = config()
    items = Items(AskedScenes("train", 8))
    model = model_of(cfg, items).eval()
    batches = vqa_data.training_batches(model, items, cfg)
    batch = next(batches(0))
    together = model(batch).logits.detach()
    order = {data.stable_id(item.owner): item for item in items}
    row = 0
    for owner in batch["owner"][:, 0].tolist():
        item = order[owner]
        for question in batches.dataset.turns(item.questions, 0, items.index(item)):
            (alone,) = model.told([question.text], {m: [(getattr(item, m) or (None,))[0]] for m in cfg.modalities})
            assert alone.text == model.head.answers[int(together[row].argmax())]
            torch.testing.assert_close(alone.top[0][1], float(together[row].softmax(-1).max()), atol=1e-4, rtol=1e-3)
            row += 1
    assert row == len(together)


def test_changing_priors_turn_the_frequencies_round_and_keep_pictures_apart(config) -> None:
    cfg = config("changing_prior=true", "modalities=[]", "data.scenes=1500")
    train, test = vqa_data.load(cfg, ("train", "test"))
    plain = {q.id for q in data.questions_of(data.load_asked(cfg.data, "test", 0, []))}
    assert {q.id for q in data.questions_of(test)} < plain
    counts = [Counter(q.answers[0] for q in data.questions_of(part) if q.type == "exists") for part in (train, test)]
    shares = [count["yes"] / sum(count.values()) for count in counts]
    assert sorted(share > 0.5 for share in shares) == [False, True]
    assert all(min(share, 1 - share) < 0.2 for share in shares)
    for kind in ("colour", "shape", "count"):
        parts = [Counter(q.answers[0] for q in data.questions_of(part) if q.type == kind) for part in (train, test)]
        assert set(parts[0]) == set(parts[1])
        common = [max(part, key=part.__getitem__) for part in parts]
        assert parts[1][common[0]] < parts[1][common[1]] / 2
        ranks = [np.argsort(np.argsort([part[answer] for answer in sorted(parts[0])])) for part in parts]
        assert np.corrcoef(ranks)[0, 1] < -0.9
    prior = vqa_scores.most_frequent(list(data.questions_of(test)), list(data.questions_of(train)))
    chance = vqa_scores.accuracies(list(data.questions_of(test)), prior)[0]
    assert chance["accuracy"] < 0.2  # who answers by habit is worse than who guesses


def test_questions_that_nobody_answered_have_no_prior_to_change() -> None:
    asked = tuple(Question(str(k), "why?", ("yes", "no")[k % 2 : k % 2 + 1], "is") for k in range(40))
    items = Items([Item("a", "a", questions=(*asked, Question("x", "why?", (), "is")))])
    shares = vqa_data.train_shares(items)
    assert shares == {
        ("is", "yes"): pytest.approx(shares["is", "yes"]),
        ("is", "no"): pytest.approx(shares["is", "no"]),
    }
    assert sorted(shares.values()) == pytest.approx([0.1, 0.9])
    kept = [list(data.questions_of(data.kept(items, vqa_data.Mostly(shares, test)))) for test in (False, True)]
    assert sorted(q.id for part in kept for q in part) == sorted(q.id for q in asked)


# Scores and controls ------------------------------------------------------------------------------------------------


def test_swapped_items_have_the_sources_of_others() -> None:
    sources = {"image": [f"i{k}" for k in range(9)], "audio": ["a0", None, "a2", None, "a4", None, None, None, None]}
    found = vqa_scores.swapped(sources, np.random.default_rng(0))
    for modality, all_ in sources.items():
        assert sorted(map(str, found[modality])) == sorted(map(str, all_))
        assert all(
            (new is None) == (old is None) and (new is None or new != old)
            for new, old in zip(found[modality], all_, strict=True)
        )


def test_items_that_share_a_picture_get_another_and_one_alone_gets_none() -> None:
    shared = {"image": ["a", "a", "b", "b", None], "audio": ["x", None, "x", None, None]}
    found = vqa_scores.swapped(shared, np.random.default_rng(0))
    assert found == {"image": ["b", "b", "a", "a", None], "audio": [None] * 5}


def test_shuffled_questions_have_the_same_words() -> None:
    generator = np.random.default_rng(0)
    text = "is the red star left of the blue circle?"
    found = [vqa_scores.shuffled(text, generator) for _ in range(20)]
    assert {tuple(sorted(one.split())) for one in found} == {tuple(sorted(text.split()))}
    assert len(set(found)) == 20 and text not in found


def test_the_most_frequent_answers() -> None:
    train = [
        Question("1", "", ("yes",), "is"), Question("2", "", ("no",), "is"), Question("3", "", ("no",), "is"),
        Question("4", "", ("2",), "count"), Question("5", "", ("2",), "count"), Question("6", "", ("2",), "count"),
    ]  # fmt: skip
    test = [Question("a", "", ("x",), "is"), Question("b", "", ("x",), "count"), Question("c", "", ("x",), "new")]
    assert vqa_scores.most_frequent(test, train, by_type=False) == {"a": "2", "b": "2", "c": "2"}
    assert vqa_scores.most_frequent(test, train) == {"a": "no", "b": "2", "c": "2"}


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_probabilities_are_what_was_trained(config, loss: str) -> None:
    cfg = config("modalities=[image]", f"loss.name={loss}")
    items = Items(AskedScenes("train", 40, heard=False))
    model = model_of(cfg, items).eval()
    told = vqa_scores.answer_items(model, items, cfg)
    logits = model(next(vqa_data.training_batches(model, items, cfg)(0))).logits.detach()  # a batch, in another order
    each = logits.sigmoid() if loss == "bce" else logits.softmax(dim=1)
    expected = {round(float(row.max()), 4) for row in each}
    found = {round(answer.top[0][1], 4) for answer in told.answers}
    assert all(min(abs(one - other) for other in found) < 2e-4 for one in expected)
    total = sum(share for _, share in told.answers[0].top)
    assert total <= 1.0001 if loss == "softmax" else total > 1.5  # five answers of about a half each


def test_looks_at_words_are_there_for_who_asks(config) -> None:
    cfg = config("head.attention=topdown:2")
    items = Items(AskedScenes("train", 8))
    model = model_of(cfg, items).eval()
    inner: dict = {}
    batch = next(vqa_data.training_batches(model, items, cfg)(0))
    scored = model(batch, inner)
    (share,) = inner["looks_to_words"]  # (Q, 2, L)
    assert len(share) == len(scored.logits)
    torch.testing.assert_close(share.sum(dim=2), torch.ones(len(share), 2))


def test_multiple_choice_answers_with_a_choice(config) -> None:
    cfg = config("modalities=[image]")
    items = Items(AskedScenes("train", 40, heard=False))
    model = model_of(cfg, items)
    choices = [("Two", "Green!"), (), ("blue", "no such answer"), ("x", "y")]
    pictures = [items[0].image[0]] * 4
    told = model.told(["how many?"] * 4, {"image": pictures}, choices)
    assert {text for text, _ in told[0].top} == {"Two", "Green!"}  # as they are written
    assert sum(share for _, share in told[0].top) == pytest.approx(1)
    assert len(told[1].top) == 5
    assert told[2].top == [("blue", pytest.approx(1))]
    assert told[3].top == [("x", 0.0)]  # a test set goes on
    with pytest.raises(ValueError, match="of the choices x, y the model knows none"):
        model.answer(pictures, ["how many?"] * 4, choices=choices)
    with pytest.raises(ValueError, match="each question needs its choices: got 1 of 2"):
        model.answer(pictures[:2], ["how many?"] * 2, choices=[("2",)])


def test_questions_whose_answers_are_not_known_are_answered_and_not_scored(config) -> None:
    cfg = config("modalities=[image]")
    items = Items(AskedScenes("train", 8, heard=False))
    hidden = Items(item._replace(questions=tuple(q._replace(answers=()) for q in item.questions)) for item in items)
    model = model_of(cfg, items)
    some = Items([*hidden[:4], *items[4:]])
    told = vqa_scores.answer_items(model, some, cfg)
    assert len(told.texts) == sum(len(item.questions) for item in items)
    alone = vqa_scores.answer_items(model, Items(items[4:]), cfg)
    assert vqa_scores.metrics_of(told) == pytest.approx(vqa_scores.metrics_of(alone))
    assert vqa_scores.metrics_of(vqa_scores.answer_items(model, hidden, cfg)) == {}
    assert len(vqa_data.training_batches(model, some, cfg).dataset) == 4  # nobody's answers teach nothing
    with pytest.raises(ValueError, match="training needs questions with answers"):
        vqa.build_model(cfg, list(data.questions_of(hidden)))


@pytest.mark.parametrize(
    ("attention", "fusion"), [("none", "mul"), ("none", "ban"), ("san:2", "mul"), ("mcan:1", "ban")]
)
def test_a_batch_that_is_about_nothing(config, attention: str, fusion: str) -> None:
    cfg = config(f"head.attention={attention}", f"head.fusion={fusion}")
    items = Items(AskedScenes("train", 8))
    model = model_of(cfg, items)
    (answer,) = model.told(["is there a red star?"], {"image": [None], "audio": [None]})
    assert answer.attention == {}
    beside = model.told(["is there a red star?"] * 2, {"image": [None, items[0].image[0]], "audio": [None, None]})
    assert dict(beside[0].top) == pytest.approx(dict(answer.top), abs=1e-4)


def test_where_a_sound_was_looked_at_without_the_padding_of_its_batch(config) -> None:
    items = Items(AskedScenes("train", 8, seen=False))
    model = model_of(config("modalities=[audio]", "head.attention=san:2"), items)
    short = items[0].audio[0][:9000]
    asked = ["which object do you hear?"]
    alone = model.answer(None, asked, sounds=[short])[0]
    beside = model.answer(None, asked * 2, sounds=[short, items[1].audio[0]])[0]
    assert beside.grids == alone.grids
    torch.testing.assert_close(beside.attention["audio"], alone.attention["audio"], atol=1e-4, rtol=1e-3)


# What is rejected ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["modalities=[text]"], "unknown modality 'text'"),
        (["modalities=[image, image]"], "modalities must differ"),
        (["answers=0"], "answers and min_count must be at least 1"),
        (["head.attention=sam:2"], r"unknown attention 'sam'.*Did you mean 'san'"),
        (["data.eval_views=2"], "data.eval_views=2 has no effect here"),
        (["modalities=[image]", "encoder.image.cache=true"], "nothing of image is frozen. Set encoder.image.freeze or"),
        (["head.attention=none", "head.positions=false"], "head.positions=False has no effect here"),
        (["encoder.text.cache=true"], "encoder.text.cache=True has no effect here"),
        (["head.dim=0"], r"head.dim must be at least 1, head.hidden at least 0, .*: got 0, 32 and 0.1"),
        (["head.hidden=-1"], "got 32, -1 and 0.1"),
        (["head.dropout=1"], "got 32, 32 and 1.0"),
    ],
)
def test_wrong_settings(config, changes: list[str], message: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=message):
        model_of(config(*changes), Items(AskedScenes("train", 4)))


def test_modalities_that_no_item_has(config) -> None:
    seen = Items(item._replace(audio=()) for item in AskedScenes("train", 8))
    vqa_data.check_modalities(seen, config("modalities=[image]"))
    vqa_data.check_modalities(seen, config("modalities=[]"))
    with pytest.raises(ConfigError, match=r"'synthetic' have: none has audio. Set modalities=\[image\]"):
        vqa_data.check_modalities(seen, config())


def test_wrong_questions(config) -> None:
    items = Items(AskedScenes("train", 40, heard=False))
    model = model_of(config("modalities=[image]"), items)
    image = items[0].image[0]
    for images, questions, sounds, message in [
        ([image], [], None, "at least one question"),
        ([image], ["how many?", "how?"], None, "each question needs its image, or None: got 1 of 2"),
        ([image], ["?!"], None, r"a question must have words: got '\?!'"),
        ([image], ["wieviele kreuz"], None, "knows no word of 'wieviele kreuz': it never met wieviele, kreuz"),
        ([None], ["how many?"], None, "'how many\\?', needs image: got neither"),
        ([image], ["how many?"], ["a.wav"], "trained on image: got audio"),
        (["gone.png"], ["how many?"], None, "gone.png"),
    ]:
        with pytest.raises((ValueError, OSError), match=message):
            model.answer(images, questions, sounds=sounds)
    with pytest.raises(ValueError, match="top must be at least 1: got 0"):
        model.answer([image], ["how many?"], top=0)


def test_an_item_without_a_picture_of_a_set_of_pictures_is_answered_unseen(config) -> None:
    items = Items(AskedScenes("train", 4, heard=False))
    model = model_of(config("modalities=[image]"), items)
    bare = Item("x", "x", questions=(Question("x#0", "how many crosses are there?", ("2",), "count", "number"),))
    told = vqa_scores.answer_items(model, Items([items[0], bare]), config("modalities=[image]"))
    assert len(told.answers) == len(items[0].questions) + 1
