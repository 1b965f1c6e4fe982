"""Captioning by two processes, with half of its encoder frozen, over padded sounds, and what its loaders are sent."""

import json
import operator
from pathlib import Path

import numpy as np
import pytest
import torch

from mm import data
from mm.config import load as read_config
from mm.data import collate
from mm.engine import loop
from mm.features import place_code
from mm.tasks import captioning
from mm.tasks.captioning import Captioning
from mm.tasks.captioning_data import training_batches
from tests.shared import by_one_and_by_two, in_a_spawned_process

ROOT = Path(__file__).parents[2]
PICTURES = "encoders.image.net."


# Two processes ------------------------------------------------------------------------------------------------------


def test_two_processes_train_what_one_trains(tiny_captioning: list[str], tmp_path: Path) -> None:
    """The loss is a mean over the words of each process, so that both must have equally many words to agree with one.

    They have: both sentences of every picture are in a batch, of three and of four words. Pictures are frozen, for
    BatchNorm takes its statistics from each process's part.
    """
    words = [*tiny_captioning, "encoder.image.freeze=true", "captions=2"]
    losses = by_one_and_by_two("train_captioning", words, tmp_path, "captioning/word_loss")
    assert len(losses[0]) == 60 and losses[1] == pytest.approx(losses[0], rel=1e-4)
    documents = [json.loads((run / "metrics.json").read_text()) for run in (tmp_path / "one", tmp_path / "two")]
    assert documents[1]["metrics"] == pytest.approx(documents[0]["metrics"], abs=0.05)
    for document in documents:
        assert document["metrics"]["CIDEr"] > 2 * document["controls"]["constant_caption"]["CIDEr"]


# Fine-tuning --------------------------------------------------------------------------------------------------------


def test_fine_tuning_moves_the_last_layers_and_the_decoder(
    script, tiny_captioning: list[str], no_java, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, made = loop.build_optimiser, []

    def recorded(model, *given):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        made.append((before, dict(model.named_parameters()), build(model, *given)))
        return made[0][2]

    monkeypatch.setattr(loop, "build_optimiser", recorded)
    changes = ("encoder.image.name=resnet18", "encoder.image.train_from=layer3", "encoder.image.rate=0.1")
    out = tmp_path / "run"
    answer = script("train_captioning", *tiny_captioning, *changes, "loop.steps=3", f"out={out}")
    assert answer.code == 0, answer.err
    ((before, parameters, optimiser),) = made
    after = captioning.load(out)[0].state_dict()
    layers = {name.removeprefix(PICTURES).split(".")[0] for name in before if name.startswith(PICTURES)}
    assert layers == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    frozen = tuple(f"{PICTURES}{layer}." for layer in ("conv1", "bn1", "layer1", "layer2"))
    still = {name for name in before if name.startswith(frozen)} | {"head.baseline"}  # of hard attention, not used here
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == before.keys() - still
    rates = {id(p): (group["rate"], group["lr"]) for group in optimiser.param_groups for p in group["params"]}
    assert {name for name, parameter in parameters.items() if id(parameter) in rates} == changed & parameters.keys()
    of_pictures, of_words = (
        {rates[id(p)] for name, p in parameters.items() if name.startswith(prefix) and id(p) in rates}
        for prefix in ("encoders.", "head.")
    )
    ((slow, slow_lr),), ((fast, fast_lr),) = of_pictures, of_words
    assert (slow, fast) == (0.1, 1.0) and slow_lr == pytest.approx(0.1 * fast_lr) and slow_lr > 0


# Padding ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["lstm", "transformer"])
def test_a_clip_among_longer_ones_is_described_as_it_is_alone(decoder: str) -> None:
    settings = ["modality=audio", "encoder.audio.name=resnet", "encoder.audio.width=4", f"head.decoder={decoder}"]
    settings += ["head.hidden=32", "head.heads=4"] if decoder == "transformer" else ["head.hidden=32"]
    cfg = read_config(Captioning, settings)
    torch.manual_seed(0)
    sentences = ["a low hum", "one bell rings twice", "rain on a tin roof"]
    model = captioning.build_model(cfg, sentences)
    rng = np.random.default_rng(0)
    clips = [rng.normal(0, 0.1, size).astype(np.float32) for size in (5000, 16000, 9600, 641)]
    prepared = [model.encoder.prepare(clip) for clip in clips]
    examples = [
        {"owner": number, "audio": wave, "text": model.head.encode(sentences[number % 3])}
        for number, wave in enumerate(prepared)
    ]
    with torch.no_grad():
        model.train().features(collate(examples)["audio"])  # normalisations take on statistics of these sounds
        for parameter in model.head.parameters():
            parameter.mul_(3.0)  # attention of fresh weights is even, and could be any clip's
    model.eval()
    batch = collate(examples)
    together = model.features(batch["audio"])
    bands, frames = together.grid
    assert bands == 8 and together.mask.view(4, bands, frames)[:, 0].sum(1).tolist() == [4, 13, 8, 1]
    told = model(batch)
    heard = model.describe(clips, cfg.decoding)
    assert len({caption.text for caption in heard}) > 1
    for number, example in enumerate(examples):
        alone = model.features(collate([example])["audio"])
        real = together.mask[number]
        assert alone.mask.all() and alone.grid == (bands, int(real.sum()) // bands)
        torch.testing.assert_close(together.map[number, real], alone.map[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(place_code(together)[number, real], place_code(alone)[0])
        forced = model(collate([example]))
        attention = told.attention[told.sentence == number]  # (L, N)
        assert not attention[:, ~real].any()
        torch.testing.assert_close(attention[:, real], forced.attention, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(told.logits[told.sentence == number], forced.logits, rtol=1e-3, atol=1e-3)
        (single,) = model.describe([clips[number]], cfg.decoding)
        caption = heard[number]
        assert (caption.words, caption.grid) == (single.words, single.grid) and caption.grid == alone.grid
        torch.testing.assert_close(caption.attention, single.attention, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(caption.log_probs, single.log_probs, rtol=1e-3, atol=1e-3)
        assert number == 3 or caption.attention.max() > 1.5 * caption.attention.mean()


# Loading processes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [[], ["encoder.image.freeze=true", "encoder.image.cache=true"]])
def test_the_data_of_the_batches_can_be_sent_to_a_spawned_process(tiny_captioning: list[str], changes) -> None:
    cfg = read_config(Captioning, [*tiny_captioning, *changes])
    items = data.load(cfg.data, "train")
    pairs = training_batches(captioning.build_model(cfg, data.sentences(items)), items, cfg).dataset
    for key in ((0, 0), (3, 7)):
        here, there = pairs[key], in_a_spawned_process(operator.getitem, pairs, key)
        assert here.keys() == there.keys() == {"owner", "text", "image"}
        assert torch.equal(here["image"], there["image"])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(here["text"], there["text"], strict=True))
