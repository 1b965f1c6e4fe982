"""The captioning model, its training steps, what it reads, and its scores beside their controls."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mm import data
from mm.config import ConfigError
from mm.config import load as read_config
from mm.data import Item, Scenes, collate
from mm.data.collate import Inputs
from mm.engine import Interrupted, Stream, fit
from mm.features import Features
from mm.heads import Caption, Captioner, CaptionerConfig
from mm.metrics import captions
from mm.tasks import captioning, captioning_data, captioning_scores
from mm.tasks.captioning import Captioning, SelfCritical, Words, build_model
from mm.tasks.captioning_data import training_batches
from mm.tasks.captioning_model import grouped
from mm.vocabulary import END, START


@pytest.fixture
def config(tiny_captioning: list[str]) -> Callable[..., Captioning]:
    """config("key=value", ...) is the tiny configuration with changes."""
    return lambda *changes: read_config(Captioning, [*tiny_captioning, *changes])


@pytest.fixture(scope="module")
def items(own_table: Path) -> data.Items:
    return data.load(read_config(Captioning, ["data.name=table", f"data.file={own_table}"]).data, "train")


def batch_of(items, model, cfg: Captioning, step: int = 0) -> dict:
    return next(training_batches(model, items, cfg)(step))


def test_sentences_in_rows_become_sentences_by_input() -> None:
    values = torch.tensor([[1, 5, 2, 0], [1, 6, 7, 2], [1, 2, 0, 0], [1, 8, 2, 0]])
    text = Inputs(values, torch.tensor([3, 4, 2, 3]), torch.tensor([0, 0, 2, 3]))
    tokens, lengths = grouped(text, 5)
    assert tokens.tolist() == [
        [[1, 5, 2, 0], [1, 6, 7, 2]],
        [[0] * 4] * 2,
        [[1, 2, 0, 0], [0] * 4],
        [[1, 8, 2, 0], [0] * 4],
        [[0] * 4] * 2,
    ]
    assert lengths.tolist() == [[3, 4], [0, 0], [2, 0], [3, 0], [0, 0]]


# What is learned ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_32_captions_are_learned_by_heart_and_said_again(decoder: str) -> None:
    torch.manual_seed(0)
    scenes = Scenes("train", 32)
    said = [scenes.captions(i)[0].text.replace(",", "") for i in range(32)]
    words = sorted({word for text in said for word in text.split()})
    settings = CaptionerConfig(decoder=decoder, word_dim=32, hidden=64, dropout=0.0, heads=4)
    head = Captioner(16, 16, words, settings)
    map = torch.randn(32, 4, 16)
    features = Features(map, torch.ones(32, 4, dtype=torch.bool), map.mean(1), (2, 2))
    encoded = [head.encode(text) for text in said]
    tokens = torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True)[:, None]
    lengths = torch.tensor([[len(row)] for row in encoded])
    optimiser = torch.optim.Adam(head.parameters(), lr=1e-2 if decoder == "lstm" else 4e-3)
    for _ in range(120):
        forced = head(features, tokens, lengths)
        targets = tokens[:, :, 1:].flatten(0, 1)[forced.sentence, forced.position]
        loss = torch.nn.functional.cross_entropy(forced.logits, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.05
    head.eval()
    for beam in (1, 3):
        assert [caption.text for caption in head.caption(features, beam=beam)] == said
    assert head.caption(features)[0].words == [*said[0].split(), "<end>"]


def test_a_run_learns_what_its_pictures_show(captioning_run: Path, items) -> None:
    document = json.loads((captioning_run / "metrics.json").read_text())
    assert document["metrics"]["CIDEr"] > 2 * document["controls"]["constant_caption"]["CIDEr"]
    assert document["metrics"]["BLEU-1"] > 0.9
    model, cfg = captioning.load(captioning_run)
    told = captioning_scores.describe_items(model, items, cfg)
    right = [caption.text in item.text for item, caption in zip(items, told.captions, strict=True)]
    assert sum(right) >= 7
    for caption in told.captions:
        assert caption.attention.shape == (len(caption.words), int(np.prod(caption.grid)))
        torch.testing.assert_close(caption.attention.sum(1), torch.ones(len(caption.words)))


def test_self_critical_training_raises_the_reward(captioning_run: Path, config, items) -> None:
    cfg = config(f"init={captioning_run}", "loss.name=self_critical", "loss.samples=8", "captions=1")
    torch.manual_seed(0)
    model = build_model(cfg, ()).train()
    step, batch = captioning_data.objective(model, items, cfg), batch_of(items, model, cfg)
    assert isinstance(step, SelfCritical)
    optimiser = torch.optim.Adam(model.head.parameters(), lr=1e-3)
    rewards = []
    for number in range(40):
        parts = step(model, batch, number)
        assert set(parts) == {"self_critical_loss", "reward"}
        optimiser.zero_grad()
        parts["self_critical_loss"].backward()
        optimiser.step()
        rewards.append(parts["reward"].item())
    assert np.mean(rewards[-10:]) > np.mean(rewards[:10]) + 0.2


def test_a_sentence_of_its_own_has_the_log_probability_it_was_drawn_with(config, items) -> None:
    """Had <unk> a share, which is never written, every unlucky sentence would move the model towards it."""
    cfg = config("loss.name=self_critical", "captions=1")
    torch.manual_seed(0)
    model = build_model(cfg, data.sentences(items)).eval()
    with torch.no_grad():
        model.head.decoder.output.bias[[0, 1, 3]] = 60.0
        told = model(batch_of(items, model, cfg), samples=3, length=8, temperature=0.5)
    assert told.log_prob.min() > -12
    seen = told.logits.clone()
    seen[:, [0, 1, 3]] = float("-inf")
    expected = (2 * seen).log_softmax(1).gather(1, told.targets[:, None]).squeeze(1)
    torch.testing.assert_close(told.log_prob, expected)


def test_the_reward_is_the_cider_of_what_was_written_with_its_ending(config, items) -> None:
    cfg = config("loss.name=self_critical", "loss.samples=2", "captions=1")
    torch.manual_seed(0)
    model = build_model(cfg, data.sentences(items)).train()
    step, batch = captioning_data.objective(model, items, cfg), batch_of(items, model, cfg)
    with torch.no_grad():  # from a start that ends at once, every sentence is <end>
        model.head.decoder.output.bias[END] = 60.0
        parts = step(model, batch, 0)
    references = [[[str(t) for t in model.head.encode(text)[1:].tolist()] for text in item.text] for item in items]
    lone = captions.Cider(references).score([[str(END)]] * len(items), range(len(items)))
    assert parts["reward"].item() == pytest.approx(float(lone.mean()), abs=1e-6)
    assert parts["self_critical_loss"].item() == pytest.approx(0, abs=1e-6)  # all samples are alike


def test_parts_of_the_loss_follow_the_settings(config, items) -> None:
    def parts(*changes: str) -> dict:
        cfg = config(*changes)
        torch.manual_seed(0)
        model = build_model(cfg, data.sentences(items)).train()
        return captioning_data.objective(model, items, cfg)(model, batch_of(items, model, cfg), 0)

    even = "loss.doubly_stochastic=1"
    assert set(parts()) == set(parts("head.attention=none")) == {"word_loss"}
    assert set(parts(even)) == {"word_loss", "doubly_stochastic_loss"}
    hard = parts("head.attention=hard", "head.hard_expected=0", even)
    assert set(hard) == {"word_loss", "doubly_stochastic_loss", "place_loss", "entropy_loss"}
    assert hard["entropy_loss"] < 0
    assert parts("loss.doubly_stochastic=2")["doubly_stochastic_loss"].item() == pytest.approx(
        2 * parts(even)["doubly_stochastic_loss"].item(), rel=1e-5
    )
    assert parts("loss.smoothing=0.3")["word_loss"] != parts()["word_loss"]


def test_the_baseline_follows_the_sentences(config, items) -> None:
    cfg = config("head.attention=hard")
    torch.manual_seed(0)
    model = build_model(cfg, data.sentences(items)).train()
    batch = batch_of(items, model, cfg)
    told = model(batch)
    sums = torch.zeros(len(told.mask)).index_add(0, told.sentence, told.log_prob.detach())
    assert told.baseline.item() == 0.0
    assert model.head.baseline.item() == pytest.approx(0.1 * sums.mean().item(), rel=1e-4)
    before = model.head.baseline.item()
    model.eval()(batch)
    assert model.head.baseline.item() == before


def test_scheduled_sampling_rises_with_the_steps(config, items, monkeypatch) -> None:
    cfg = config("loss.sampling=0.5")
    model = build_model(cfg, data.sentences(items)).train()
    seen = []
    forced = model.head.decoder.forced
    monkeypatch.setattr(
        model.head.decoder, "forced", lambda *given: seen.append(given[3]) or forced(*given), raising=True
    )
    step = Words(cfg.loss, 60)
    for number in (0, 30, 59):
        step(model, batch_of(items, model, cfg), number)
    assert seen == pytest.approx([0.0, 0.25, 0.5 * 59 / 60])


# What is read -------------------------------------------------------------------------------------------------------


def test_the_vocabulary_is_of_the_train_split_alone(
    script, tiny_captioning, no_java, own_table: Path, tmp_path: Path
) -> None:
    rows = own_table.read_text().splitlines()
    rows = [row.replace("a red circle", "a red zebra") if row.startswith("test-") else row for row in rows]
    table = own_table.with_name("zebra.csv")
    table.write_text("\n".join(rows))
    out = tmp_path / "run"
    answer = script("train_captioning", *tiny_captioning, f"data.file={table}", "loop.steps=2", f"out={out}")
    assert answer.code == 0, answer.err
    (words,) = {file.read_text() for file in out.glob("checkpoints/*/captioner.json")}
    assert "circle" in words and "zebra" not in words
    (item,) = [item for item in json.loads((out / "captions.json").read_text()) if "red-circle" in item["image_id"]]
    assert "zebra" not in item["caption"] and "<unk>" not in item["caption"]


def test_an_evaluation_never_sees_what_it_should_say(captioning_run: Path, items) -> None:
    model, cfg = captioning.load(captioning_run)
    wrong = [item._replace(text=("two dogs in the snow",)) for item in items]
    right, misled = (captioning_scores.describe_items(model, given, cfg) for given in (items, wrong))
    assert right.texts == misled.texts
    assert captioning_scores.evaluate(model, wrong, cfg)["BLEU-1"] < 0.3


@pytest.mark.parametrize(("captions_", "rows"), [(1, 1), (2, 2), (0, 2)])
def test_a_batch_has_as_many_sentences_as_asked(config, items, captions_: int, rows: int) -> None:
    cfg = config(f"captions={captions_}")
    model = build_model(cfg, data.sentences(items))
    batch = batch_of(items, model, cfg)
    assert batch["text"].rows.tolist() == [b for b in range(8) for _ in range(rows)]
    assert (batch["text"].values[:, 0] == START).all()
    ends = batch["text"].values.gather(1, batch["text"].lengths[:, None] - 1)
    assert (ends == END).all()


def test_only_items_with_something_to_describe_and_sentences_train(config, items, caplog) -> None:
    caplog.set_level("INFO", "mm")
    mixed = [*items, Item("mute", "mute", text=("no picture",)), items[0]._replace(id="untold", owner="u", text=())]
    assert len(captioning_data.described(mixed, "image", training=True)) == len(items)
    assert "8 training items of 10 have image and sentences" in caplog.text
    with pytest.raises(ValueError, match="8 of 10 have both, 'mute' lacks one"):  # a test says nothing without them
        captioning_data.described(mixed, "image")
    with pytest.raises(ValueError, match="items with audio and sentences: 0 of 1 have both"):
        captioning_data.described([Item("mute", "mute", text=("no sound",))], "audio", training=True)


def test_cached_training_is_training(config, items) -> None:
    losses = []
    for changes in ((), ("encoder.image.cache=true", "data.cache_dtype=float32")):
        cfg = config("encoder.image.freeze=true", *changes)
        torch.manual_seed(0)
        model = build_model(cfg, data.sentences(items)).train()
        step = captioning_data.objective(model, items, cfg)
        losses.append(step(model, batch_of(items, model, cfg), 0)["word_loss"].item())
        told = captioning_scores.describe_items(model, items, cfg)
        losses.append([caption.score for caption in told.captions])
    assert losses[2] == pytest.approx(losses[0], abs=1e-4)
    assert losses[3] == pytest.approx(losses[1], abs=1e-4)


def test_a_sound_is_described_by_the_same_code(
    script, tiny_captioning, no_java, tmp_path: Path, own_table: Path
) -> None:
    out = tmp_path / "sounds"
    answer = script("train_captioning", *tiny_captioning, "modality=audio", "encoder.image.size=0", f"out={out}")
    assert answer.code == 0, answer.err
    document = json.loads((out / "metrics.json").read_text())
    assert document["metrics"]["CIDEr"] > 1.5 * document["controls"]["constant_caption"]["CIDEr"]
    told = script("caption", out, "--audio", own_table.parent / "red-circle.wav", "--grid", tmp_path / "out.png")
    assert told.code == 0, told.err
    assert ": " in told.out and (tmp_path / "out.png").stat().st_size > 10_000


# Settings and files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["head.blocks=3"], "head.blocks=3 has no effect here: leave out, or give head.blocks=2"),
        (["head.hard_test=expected"], "head.hard_test=expected has no effect"),
        (["head.attention=none", "head.gate=vector"], "head.gate=vector has no effect"),
        (["head.decoder=transformer", "head.see_dim=8"], "head.see_dim=8, head.word_dim=16 have no effect"),
        (["data.eval_views=2"], "data.eval_views=2 has no effect here"),
        (["encoder.image.cache=true"], "nothing of image is frozen"),
        (["init=nowhere"], "nowhere must be a run folder"),
        (["init=nowhere", "min_count=3"], "min_count=3 has no effect"),
        (["loss.doubly_stochastic=1", "head.attention=none"], "loss.doubly_stochastic"),
        (["loss.sampling=0.5", "loss.name=self_critical", "captions=1"], "loss.sampling=0.5 has no effect"),
        (["loss.entropy=0.1"], "loss.entropy"),
        (["loss.samples=3"], "loss.samples"),
        (["loss.samples=1", "loss.name=self_critical", "captions=1"], "loss.samples must be at least 2"),
        (["loss.smoothing=1.5"], "loss.smoothing must be"),
        (["decoding.beam=0"], "beam and max_length must be at least 1"),
        (["decoding.length=mean"], "none, avg or wu:<a>"),
        (["captions=-1"], "captions must be at least 0: got -1"),
        (["encoder.audio.width=3"], "encoder.audio.width=3 has no effect"),
        (["head.attention=hard", "loss.name=self_critical", "captions=1"], "does not teach hard attention"),
        (
            ["head.decoder=transformer", "head.heads=4"],
            "head.word_dim=16 has no effect here: .* give head.word_dim=256",
        ),
    ],
)
def test_settings_that_cannot_be(script, tiny_captioning, tmp_path: Path, changes, said: str) -> None:
    answer = script("train_captioning", *tiny_captioning, *changes, f"out={tmp_path / 'run'}")
    assert answer.code == 2, answer
    assert "Traceback" not in answer.err
    assert re.search(said, answer.err), answer.err
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_finished_run_keeps_its_model_settings(captioning_run: Path) -> None:
    model, cfg = captioning.load(captioning_run, ["decoding.beam=1", "data.batch_size=4"])
    assert cfg.decoding.beam == 1 and not model.training
    with pytest.raises(ConfigError, match=r"can be changed: got head\.hidden=3"):
        captioning.load(captioning_run, ["head.hidden=3"])


def test_a_cache_of_an_encoder_that_trained_is_refused(captioning_run: Path) -> None:
    with pytest.raises(ConfigError, match="nothing of image is frozen"):
        captioning.load(captioning_run, ["encoder.image.cache=true"])


def test_the_embedded_world_sounds_at_its_own_rate() -> None:
    cfg = read_config(Captioning, ["modality=audio", "encoder.audio.sample_rate=8000"])
    with pytest.raises(ValueError, match=r"sounds at 16000 Hz: got encoder\.audio\.sample_rate=8000"):
        build_model(cfg, ())


def test_items_of_one_owner_share_their_references(config, items) -> None:
    cfg = config("loss.name=self_critical", "captions=1")
    same = [items[0]._replace(owner="same"), items[1]._replace(owner="same", id="other"), *items[2:]]
    model = build_model(cfg, data.sentences(items))
    step = captioning_data.objective(model, same, cfg)
    assert isinstance(step, SelfCritical)
    number = step.numbers[data.stable_id("same")]
    assert len(step.numbers) == len(items) - 1
    for item in items[:2]:
        said = [model.head.encode(text)[1:].tolist() for text in item.text]
        assert step.cider.score(said, [number] * len(said)).min() > 2


def test_a_run_of_another_task_is_refused(tiny_run: Path) -> None:
    with pytest.raises(ValueError, match=r"must be a checkpoint of captioning: there is no captioner.json"):
        captioning.load(tiny_run)


def test_a_vocabulary_of_another_run_is_refused(captioning_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(captioning_run, tmp_path / "run"))
    folder = run / "checkpoints" / (run / "checkpoints" / "best").read_text().strip()
    file = folder / "captioner.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"words": content["words"][::-1]}))
    with pytest.raises(ValueError, match=r"captioner.json is damaged or gone: its sha256"):
        captioning.load(run)
    file.unlink()
    with pytest.raises(ValueError, match=r"there is no captioner.json|damaged or gone"):
        captioning.load(run)


def test_a_second_stage_starts_from_the_first(captioning_run: Path, config, items) -> None:
    first, cfg = captioning.load(captioning_run)
    second = build_model(config(f"init={captioning_run}"), ["other words entirely"]).eval()
    told = [captioning_scores.describe_items(model, items, cfg) for model in (first, second)]
    assert told[0].texts == told[1].texts
    with pytest.raises(ValueError, match=r"must have the shape|must be those of"):
        build_model(config(f"init={captioning_run}", "head.hidden=64"), ())


@pytest.mark.parametrize(
    "changes", [["head.attention=hard", "loss.sampling=0.5"], ["loss.name=self_critical", "captions=1"]]
)
def test_what_is_random_resumes_bit_for_bit(config, items, tmp_path: Path, changes: list[str]) -> None:
    cfg = config(*changes, "head.dropout=0.3", "loop.steps=8", "loop.checkpoint_every=100")
    weights = []
    for name, stop_at in (("whole", None), ("parts", 4)):
        for part in range(1 if stop_at is None else 2):
            torch.manual_seed(0)
            model = build_model(cfg, data.sentences(items))
            step = captioning_data.objective(model, items, cfg)

            def stopping(model, batch, number, step=step, stop=stop_at if part == 0 else None):
                if number == stop:
                    os.kill(os.getpid(), signal.SIGTERM)
                return step(model, batch, number)

            stream = Stream("captioning", training_batches(model, items, cfg), stopping)
            try:
                fit(model, [stream], replace(cfg, out=str(tmp_path / name)))
            except Interrupted:
                assert (name, part) == ("parts", 0)
        weights.append({key: value.clone() for key, value in model.state_dict().items()})
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


# Scores -------------------------------------------------------------------------------------------------------------


def test_the_constant_caption_is_the_best_of_all_train_sentences(items) -> None:
    references = {item.id: item.text for item in items}
    sentences = list(data.sentences(items))
    found = captioning_scores.best_constant(references, sentences)
    by_hand = {
        text: captions.evaluate(dict.fromkeys(references, text), references).corpus["CIDEr"] for text in set(sentences)
    }
    assert by_hand[found] == pytest.approx(max(by_hand.values()))


def said(words: str, attention: torch.Tensor | None, grid=(8, 8)) -> Caption:
    return Caption(words, words.split(), torch.zeros(len(words.split())), attention, grid, 0.0)


def test_attention_is_in_the_object_that_the_word_names() -> None:
    box = {
        "shape": "circle",
        "colour": "red",
        "size": "small",
        "centre_px": [12.0, 20.0],
        "box_xyxy_px": [6, 14, 19, 27],
    }
    other = {
        "shape": "star",
        "colour": "blue",
        "size": "large",
        "centre_px": [50.0, 40.0],
        "box_xyxy_px": [40, 30, 61, 51],
    }
    item = Item("0", "0", (np.zeros((64, 64, 3), np.uint8),), meta={"objects": [box, other]})

    def looking(*cells: tuple[int, int]) -> torch.Tensor:
        attention = torch.full((len(cells), 8, 8), 0.001)
        for word, (row, column) in enumerate(cells):
            attention[word, row, column] = 1.0
        return attention.flatten(1)

    circle, star, away = (2, 1), (5, 6), (0, 7)  # centres (12, 20), (52, 44) and (60, 4) px
    caption = said("a red circle left of a star", looking(away, circle, circle, away, away, away, star))
    assert captioning_scores.attended(caption, item) == [True, True, True]
    caption = said("a red circle left of a star", looking(circle, star, away, circle, circle, star, circle))
    assert captioning_scores.attended(caption, item) == [False, False, False]
    caption = said("a green ring", looking(circle, circle, circle))  # names nothing that is there
    assert captioning_scores.attended(caption, item) == []


def test_scores_of_the_embedded_world(no_java) -> None:
    scenes = Scenes("test", 40)
    cfg = Captioning()
    torch.manual_seed(0)
    model = build_model(cfg, data.sentences(scenes)).eval()
    perfect = captioning_scores.Described(
        [scenes[i].id for i in range(40)],
        [said(scenes.captions(i)[0].text, None) for i in range(40)],
        {scenes[i].id: scenes[i].text for i in range(40)},
    )
    metrics, controls, missing = captioning_scores.score(model, perfect, scenes, scenes, cfg)
    assert metrics["true"] == metrics["attributes_exact"] == metrics["grammatical"] == metrics["copied"] == 1.0
    assert metrics["BLEU-4"] == pytest.approx(1.0)
    assert list(controls) == ["constant_caption", "mean_attention"]
    assert controls["constant_caption"]["true"] < 0.2
    assert "attention_in_object" not in metrics  # these captions have no attention
    assert missing == {
        "METEOR": "no Java: there is no program `java` on the PATH. Install a Java runtime, 8 or newer.",
        "SPICE": "no Java: there is no program `java` on the PATH. Install a Java runtime, 8 or newer.",
    }
    assert not {"METEOR", "SPICE"} & set(metrics)  # and never 0


def test_without_attention_there_is_no_control_of_it(config, items, no_java) -> None:
    cfg = config("head.attention=none")
    model = build_model(cfg, data.sentences(items)).eval()
    told = captioning_scores.describe_items(model, items, cfg)
    _, controls, _ = captioning_scores.score(model, told, items, items, cfg)
    assert list(controls) == ["constant_caption"]
    assert all(caption.attention is None for caption in told.captions)


def test_collated_batches_keep_their_order(config, items) -> None:
    cfg = config()
    model = build_model(cfg, data.sentences(items))
    pairs = training_batches(model, items, cfg).dataset
    batch = collate([pairs[0, index] for index in range(8)])
    texts = [model.head.vocabulary.decode(row.tolist()) for row in batch["text"].values]
    assert texts[::2] == [items[i].text[(2 * 0 + i) % 2] for i in range(8)]
