"""Captioning: a sentence for a picture or a sound, with where the decoder looked for each word.

The settings and the training steps; the model is in `mm.tasks.captioning_model`, what it reads in
`mm.tasks.captioning_data`, how it is evaluated in `mm.tasks.captioning_scores`. Nothing here knows what is described.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from mm import encoders
from mm.checks import check_idle, values
from mm.config import AudioConfig, ConfigError, DataConfig, ImageConfig, LoopConfig, OptimConfig
from mm.config import load as read_config
from mm.data import check_sample_rate
from mm.distributed import init
from mm.heads import Captioner, CaptionerConfig
from mm.heads.decoding import check_search, length_rule
from mm.losses import doubly_stochastic, entropy, hard_attention, self_critical, sentence_sums, word_loss
from mm.metrics import Cider
from mm.tasks.captioning_model import CaptionModel, DecodingConfig, Told
from mm.vocabulary import END, Vocabulary

CAPTIONER_FILE = "captioner.json"  # in a checkpoint: what rebuilds the captioner, its words among it
CHANGEABLE = (
    "data.*",
    "decoding.*",
    "encoder.*.cache",
    "loop.device",
)  # settings that a finished run may be given anew


@dataclass
class CaptioningEncodersConfig:
    """The encoder of what is described."""

    image: ImageConfig = field(default_factory=ImageConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)


@dataclass
class CaptionLossConfig:
    """What a captioner learns from."""

    name: Literal["words", "self_critical"] = "words"  # each next word, or the CIDEr-D of sentences it writes itself
    smoothing: float = 0.0  # words: share of the target spread over all words
    sampling: float = 0.0  # words: chance, at the end of training, that a word it goes on from is its own; rises evenly
    doubly_stochastic: float = 0.0  # words: weight of looking at every place equally often (Xu et al. 2015, eq. 14)
    reinforce: float = 1.0  # words, hard attention: weight of what teaches it where to look
    entropy: float = 0.002  # words, hard attention: weight of the entropy of its places
    samples: int = 5  # self_critical: sentences written for each input
    temperature: float = 1.0  # self_critical: at which they are drawn; label smoothing leaves wild ones at 1


@dataclass
class Captioning:
    """Everything `scripts/train_captioning.py` can be told."""

    seed: int = 0  # of the weights, the batches and the embedded world
    out: str = "runs/captioning"  # the run folder
    modality: Literal["image", "audio"] = "image"  # what is described
    min_count: int = 1  # rarer training words become <unk>
    captions: int = 1  # sentences of an item in a batch, in turns; 0 = all it has
    init: str = ""  # captioning run to start from: encoder, decoder and words
    encoder: CaptioningEncodersConfig = field(default_factory=CaptioningEncodersConfig)
    head: CaptionerConfig = field(default_factory=CaptionerConfig)
    loss: CaptionLossConfig = field(default_factory=CaptionLossConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def build_model(cfg: Captioning, sentences: Iterable[str]) -> CaptionModel:
    """The model of a run; the vocabulary is made of the training sentences alone, or is that of the run it starts from.

    Raises:
        ConfigError: a setting that captioning does not read.
        ValueError: an unknown encoder, a cache of an encoder that trains, or choices that do not fit together.
    """
    check(cfg)
    encoder = encoders.by_settings(cfg.modality, cast(Any, cfg.encoder), ())
    if not cfg.init:
        words = Vocabulary.build(sentences, cfg.min_count).words
        return captioner_over(encoder, words, cfg)
    folder, head, _ = encoders.opened(cfg.init, (), (), CAPTIONER_FILE, "captioning")
    encoders.verify(folder)
    model = captioner_over(encoder, head["words"], cfg)
    encoders.fill(model, folder)
    return model


def captioner_over(encoder: encoders.Encoder, words: Sequence[str], cfg: Captioning) -> CaptionModel:
    """An encoder under the captioner that the settings ask for.

    Raises:
        ConfigError: a cache of an encoder of which nothing is frozen.
    """
    cached = bool(encoders.cached_modalities(cfg.encoder, {cfg.modality: encoder}))
    head = Captioner(encoder.dim, encoder.vector_dim, words, cfg.head)
    return CaptionModel(cfg.modality, encoder, head, cached)


def check(cfg: Captioning) -> None:
    """Reject settings that are out of their range, or that the others make meaningless.

    Raises:
        ConfigError, ValueError: there is one.
    """
    check_idle(cfg, idle(cfg))
    given = values(cfg)
    for key in (
        "captions",
        "loss.smoothing",
        "loss.sampling",
        "loss.doubly_stochastic",
        "loss.reinforce",
        "loss.entropy",
    ):
        most = 1 if key in ("loss.smoothing", "loss.sampling") else math.inf
        if not 0 <= given[key] <= most:
            raise ConfigError(f"{key} must be at least 0{' and at most 1' * (most == 1)}: got {given[key]}.")
    if cfg.loss.name == "self_critical" and cfg.head.attention == "hard":
        raise ConfigError("self-critical training does not teach hard attention where to look: use soft attention.")
    if cfg.modality == "audio":
        check_sample_rate(cfg.data.name, cfg.encoder.audio.sample_rate)
    if cfg.loss.samples < 2 or cfg.loss.temperature <= 0:
        raise ConfigError(
            "loss.samples must be at least 2, each is compared with the others, and loss.temperature positive: got "
            f"{cfg.loss.samples} and {cfg.loss.temperature}."
        )
    decoding = vars(cfg.decoding).copy()
    length_rule(decoding.pop("length"))
    check_search(**decoding)


def idle(cfg: Captioning) -> list[str]:
    """The settings that captioning does not read, or does not with these others."""
    other = "audio" if cfg.modality == "image" else "image"
    keys = ["data.eval_views", "data.eval_folds", "data.eval_subset", "data.complete"]
    keys += [key for key in values(cfg) if key.startswith(f"encoder.{other}.")]
    if cfg.modality != "image":
        keys.append("data.views")
    if cfg.init:  # brings its own
        keys += ["min_count", f"encoder.{cfg.modality}.weights", f"encoder.{cfg.modality}.init"]
    if cfg.head.decoder == "transformer":
        keys += [
            "head.ask",
            "head.gate",
            "head.deep_output",
            "head.see_dim",
            "head.positions",
            "head.word_dim",
            "loss.sampling",
        ]
    else:
        keys += ["head.blocks", "head.heads"]
    if cfg.head.attention != "hard":
        keys += ["head.hard_test", "head.hard_expected", "loss.reinforce", "loss.entropy"]
    if cfg.head.attention == "none":
        keys += ["head.ask", "head.gate", "head.see_dim", "head.positions", "loss.doubly_stochastic"]
    if cfg.loss.name == "words":
        return [*keys, "loss.samples", "loss.temperature"]
    return [
        *keys,
        "captions",
        *(f"loss.{n}" for n in ("smoothing", "sampling", "doubly_stochastic", "reinforce", "entropy")),
    ]


def load(run: str | Path, changes: Sequence[str] = ()) -> tuple[CaptionModel, Captioning]:
    """The best weights of a run, in eval mode on the GPU if there is one, and its settings.

    Args:
        run: run folder.
        changes: `key=value` of data.*, decoding.*, encoder.*.cache or loop.device that differ from the run's own.

    Raises:
        FileNotFoundError: there is no such run.
        ConfigError: an unknown setting, or one of the model or of training, which are done.
        ValueError: a damaged file, or a run of another task.
    """
    folder, head, settings = encoders.opened(run, changes, CHANGEABLE, CAPTIONER_FILE, "captioning")
    encoder = encoders.load(folder)
    cfg = read_config(Captioning, settings)
    check(cfg)
    model = captioner_over(encoder[cfg.modality], head["words"], cfg)
    encoders.fill(model, folder)
    return model.to(init(cfg.loop.device)).eval(), cfg


def description(model: CaptionModel) -> dict[str, Any]:
    """What every checkpoint holds beside the weights: how to build the encoder and the captioner."""
    return {
        encoders.DESCRIPTION_FILE: encoders.describe({model.modality: model.encoder}),
        CAPTIONER_FILE: {"words": model.head.vocabulary.words},
    }


class Words:
    """The training step on known sentences.

    Args:
        loss: its settings.
        steps: of the run, over which scheduled sampling rises.
    """

    def __init__(self, loss: CaptionLossConfig, steps: int):
        self.loss, self.steps = loss, steps

    def __call__(self, model: nn.Module, batch: dict, step: int) -> dict[str, Tensor]:
        """{"word_loss": (), ...}, which the loop adds up."""
        told: Told = model(batch, sampling=self.loss.sampling * step / self.steps)
        parts = {"word_loss": word_loss(told.logits, told.targets, self.loss.smoothing)}
        if told.attention is not None and self.loss.doubly_stochastic:
            term = doubly_stochastic(told.attention, told.sentence, told.mask)
            parts["doubly_stochastic_loss"] = self.loss.doubly_stochastic * term
        if told.place_log_prob is not None and told.log_prob is not None and told.attention is not None:
            places = hard_attention(told.log_prob, told.place_log_prob, told.sentence, told.baseline, len(told.mask))
            parts["place_loss"] = self.loss.reinforce * places
            parts["entropy_loss"] = -self.loss.entropy * entropy(told.attention)
        return parts


class SelfCritical:
    """The training step on sentences of the model's own, rewarded by their CIDEr-D against the item's sentences.

    Args:
        references: {owner number of a batch: its sentences, as token numbers with <end>: endings are rewarded too}.
        loss: its settings.
        length: tokens of a sentence at most.
    """

    def __init__(self, references: Mapping[int, list[list[int]]], loss: CaptionLossConfig, length: int):
        self.cider, self.loss, self.length = Cider(list(references.values())), loss, length
        self.numbers = {owner: number for number, owner in enumerate(references)}

    def __call__(self, model: nn.Module, batch: dict, step: int) -> dict[str, Tensor]:
        """{"self_critical_loss": (), "reward": ()}."""
        told: Told = model(batch, samples=self.loss.samples, length=self.length, temperature=self.loss.temperature)
        assert told.log_prob is not None
        inputs = len(told.tokens)
        items = [self.numbers[owner] for owner in batch["owner"][:, 0].tolist() for _ in range(self.loss.samples)]
        rewards = self.cider.score([ended(row) for row in told.tokens[:, :, 1:].flatten(0, 1).tolist()], items)
        reward = torch.from_numpy(rewards).to(told.log_prob).view(inputs, self.loss.samples)  # (B, K)
        sums = sentence_sums(told.log_prob, told.sentence, reward.numel()).view_as(reward)  # (B, K)
        loss = self_critical(sums, reward, len(told.sentence))
        return {"self_critical_loss": loss, "reward": reward.mean()}


def ended(tokens: list[int]) -> list[int]:
    """A sentence up to its <end>, which stays, and without padding."""
    return tokens[: tokens.index(END) + 1] if END in tokens else [token for token in tokens if token]
