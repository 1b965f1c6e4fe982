"""Retrieval: images, text and sounds in one space, by metric learning.

The settings, the model and its training step; what it reads is in `mm.tasks.retrieval_data`, how it is evaluated in
`mm.tasks.retrieval_scores`.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm import data, encoders
from mm.checks import check_changes
from mm.config import DataConfig, EncodersConfig, LoopConfig, OptimConfig
from mm.config import load as read_config
from mm.data import Cache, Entry, Inputs, prepared
from mm.data.item import Source
from mm.distributed import init
from mm.heads import JointEmbedding
from mm.losses import JointLoss
from mm.media import VIEWS
from mm.modes import in_eval_mode

TASK = "retrieval"
STATE_FILE = "state.json"  # in a checkpoint: what was trained, among others
SIGLIP_BIAS = -10.0  # Zhai et al. 2023, section 3.2
MAX_LOGIT_SCALE = 100.0  # Radford et al. 2021, section 2.5
CHANGEABLE = ("data.*", "encoder.*.cache", "loop.device")  # settings that a finished run may be given anew

Pool = Literal["vector", "attention"]


@dataclass
class PoolConfig:
    """What of an encoder's features the head reads: its vector, or that and attention over its map."""

    image: Pool = "attention"  # "attention": windows of the map beside the vector
    text: Pool = "vector"  # the same of a sentence
    audio: Pool = "attention"  # the same of a sound


@dataclass
class HeadConfig:
    """Joint embedding head."""

    embed_dim: int = 256  # numbers of an embedding
    pool: PoolConfig = field(default_factory=PoolConfig)
    heads: int = 16  # windows of the attention, a square number
    head_dim: int = 64  # what each keeps of what it sees
    dropout: float = 0.0  # share of the pooled numbers hidden while training
    temperature: float = 0.07  # where the learnable temperature starts


@dataclass
class LossConfig:
    """Metric-learning loss, summed over the pairs of modalities."""

    name: Literal["info_nce", "siglip", "hinge", "hardest", "triplet"] = "info_nce"  # see mm.losses
    margin: float = 0.2  # of hinge, hardest and triplet
    warmup_steps: int = 200  # hardest only: steps of the sum of hinges before


@dataclass
class Retrieval:
    """Everything `scripts/train_retrieval.py` can be told."""

    seed: int = 0  # of the weights, the batches and the embedded world
    out: str = "runs/retrieval"  # the run folder
    modalities: list[str] = field(default_factory=lambda: ["image", "text", "audio"])  # two at least
    encoder: EncodersConfig = field(default_factory=EncodersConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


class Embedded(NamedTuple):
    """A batch in the joint space."""

    vectors: dict[str, Tensor]  # {modality: (b, E)} unit vectors of the rows that have it
    logit_scale: Tensor
    logit_bias: Tensor | None


class JointModel(nn.Module):
    """Encoders of several modalities and the head that puts them into one space.

    Args:
        encoders: {modality: encoder}.
        head: takes the features of each.
        cached: modalities whose batches hold trunk outputs from a cache, so that only the tail runs.
        eval_views: fixed crops of a picture whose vectors `embed` averages.
    """

    def __init__(
        self,
        encoders: Mapping[str, encoders.Encoder],
        head: JointEmbedding,
        cached: Iterable[str] = (),
        eval_views: int = 1,
    ):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.head = head
        self.cached = frozenset(cached)
        self.eval_views = eval_views

    def forward(self, batch: Mapping[str, Inputs]) -> Embedded:
        """Everything in a batch -> unit vectors of one space."""
        vectors = {}
        for modality, encoder in self.encoders.items():
            if modality in batch:
                values, lengths, _ = batch[modality]
                features = encoder(values, lengths, from_trunk=modality in self.cached)
                vectors[modality] = self.head.embed(modality, features)
        # Another process may have what this batch lacks, and waits for this one to take part in the gathering.
        none = next(iter(vectors.values())).new_zeros(0, self.head.embed_dim)  # (0, E), of the dtype of the others
        vectors = {modality: vectors.get(modality, none) for modality in self.encoders}
        return Embedded(vectors, self.head.logit_scale, self.head.logit_bias)

    @torch.no_grad()
    def embed(
        self,
        modality: str,
        sources: Sequence[Source],
        *,
        cache: Cache | None = None,
        batch_size: int = 64,
        workers: int = 2,
    ) -> Tensor:
        """A list of raw items of one modality -> (n, E) float32 unit vectors on the CPU, in eval mode.

        Args:
            sources: files, arrays, or sentences.
            cache: trunk outputs of these sources; they are not decoded then.
            batch_size: items computed at once.
            workers: threads that read files ahead.

        Raises:
            ValueError: a modality that this model was not trained on, or no source.
            UnreadableError: a damaged file, named.
        """
        if not len(sources):
            raise ValueError(f"there must be at least one {modality} to embed: got none.")
        device = self.head.logit_scale.device
        encoder = self.encoder(modality).folded()
        entries = [Entry(f"{modality} {i}", "", source, {}) for i, source in enumerate(sources)]
        total = torch.zeros(len(entries), self.head.embed_dim)  # (n, E)
        with in_eval_mode(self):
            for view in range(self.eval_views if modality == "image" else 1):
                parts = []
                prepare = encoder.prepare if cache is None else cache.row
                for batch in prepared(entries, prepare, batch_size, workers, view):
                    lengths = None if batch.lengths is None else batch.lengths.to(device)
                    features = encoder(batch.values.to(device), lengths, from_trunk=cache is not None)
                    parts.append(self.head.embed(modality, features).float().cpu())
                total += torch.cat(parts)
        return functional.normalize(total, dim=-1)  # (n, E)

    def encoder(self, modality: str) -> encoders.Encoder:
        """The encoder of a modality.

        Raises:
            ValueError: a modality that this model was not trained on.
        """
        if modality not in self.encoders:
            raise ValueError(f"this model embeds {', '.join(self.encoders)}: got {modality!r}. Train one that has it.")
        return cast(encoders.Encoder, self.encoders[modality])

    def fingerprint(self) -> str:
        """16 hex digits that change with any weight or setting of the encoders or the head."""
        digest = hashlib.sha256()
        for modality in self.encoders:
            digest.update(f"{modality} {self.encoder(modality).fingerprint()}".encode())
        for name, value in self.head.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def unknown_words(self, text: str) -> list[str]:
        """The words of a sentence that the text encoder has never seen."""
        return cast(Any, self.encoder("text")).unknown_words(text)

    def nearest_words(self, word: str) -> list[str]:
        """Words that the text encoder knows and that look like one that it does not."""
        vocabulary = getattr(self.encoder("text"), "vocabulary", None)  # a transformers tokenizer has word pieces
        return vocabulary.nearest(word) if vocabulary else []


def build_model(cfg: Retrieval, sentences: Iterable[str]) -> JointModel:
    """The model of a run; the vocabulary is made of the training sentences alone.

    Raises:
        ValueError: an unknown modality or encoder, fewer than two modalities, a cache of an encoder that trains, crops
            that there are not, or a sample rate that the embedded world does not have.
    """
    unknown = [m for m in cfg.modalities if m not in data.MODALITIES]
    if unknown or len(set(cfg.modalities)) < 2:
        raise ValueError(f"modalities must be two or more of {', '.join(data.MODALITIES)}: got {cfg.modalities}.")
    if not (1 <= cfg.data.views <= len(VIEWS) and 1 <= cfg.data.eval_views <= len(VIEWS)):
        raise ValueError(
            f"data.views and data.eval_views must lie in 1..{len(VIEWS)}: got {cfg.data.views}, {cfg.data.eval_views}."
        )
    if "audio" in cfg.modalities:
        data.check_sample_rate(cfg.data.name, cfg.encoder.audio.sample_rate)
    towers = {modality: encoders.by_settings(modality, cfg.encoder, sentences) for modality in cfg.modalities}
    return joint_model(towers, cfg)


def joint_model(towers: Mapping[str, encoders.Encoder], cfg: Retrieval) -> JointModel:
    """Encoders under the head that the settings ask for.

    Raises:
        ConfigError: a cache of an encoder of which nothing is frozen.
    """
    cached = encoders.cached_modalities(cfg.encoder, towers)
    head = JointEmbedding(
        {modality: (encoder.dim, encoder.vector_dim) for modality, encoder in towers.items()},
        embed_dim=cfg.head.embed_dim,
        pool=vars(cfg.head.pool),
        heads=cfg.head.heads,
        head_dim=cfg.head.head_dim,
        dropout=cfg.head.dropout,
        temperature=cfg.head.temperature,
        bias=SIGLIP_BIAS if cfg.loss.name == "siglip" else None,
    )
    return JointModel(towers, head, cached, cfg.data.eval_views)


def load(run: str | Path, settings: Sequence[str] = ()) -> tuple[JointModel, Retrieval]:
    """The best weights of a run, in eval mode on the GPU if there is one, and its settings.

    Args:
        run: run folder.
        settings: `key=value` of data.*, encoder.*.cache or loop.device that differ from the run's own.

    Raises:
        FileNotFoundError: there is no such run.
        ConfigError: an unknown setting, or one of the model or of training, which are done.
        ValueError: a damaged file, or a run of another task.
    """
    folder = encoders.find(Path(run))
    check_changes(settings, CHANGEABLE)
    towers = encoders.load(folder)
    if (state := folder / STATE_FILE).is_file() and TASK not in (
        trained := encoders.read_json(state).get("streams", [TASK])
    ):
        raise ValueError(
            f"{run} must be a run of {TASK}: it is one of {', '.join(trained)}. Name a run of scripts/train_{TASK}.py, "
            "or use the scripts of the other task."
        )
    cfg = read_config(Retrieval, ["--config", str(folder / "config.yaml"), *settings])
    model = joint_model({modality: towers[modality] for modality in cfg.modalities}, cfg)
    encoders.fill(model, folder)
    return model.to(init(cfg.loop.device)).eval(), cfg


def description(model: JointModel) -> dict:
    """What every checkpoint holds beside the weights, so that `mm.encoders.load` can read the encoders alone."""
    return {
        encoders.DESCRIPTION_FILE: encoders.describe({modality: model.encoder(modality) for modality in model.encoders})
    }


class Objective:
    """The training step of a run: the loss of every pair of modalities that a batch has."""

    def __init__(self, loss: LossConfig):
        self.loss = JointLoss(loss.name, loss.margin, loss.warmup_steps)

    def __call__(self, model: nn.Module, batch: dict, step: int) -> dict[str, Tensor]:
        """{"image_text_loss": (), ...}, which the loop adds up."""
        embedded: Embedded = model(batch)
        none = batch["owner"].new_zeros(0)
        rows = {modality: batch[modality].rows if modality in batch else none for modality in embedded.vectors}
        free = embedded.logit_scale.exp()
        scale = free + (free.clamp(max=MAX_LOGIT_SCALE) - free).detach()  # a bound that lets the gradient back through
        return self.loss(embedded.vectors, rows, batch["owner"], scale, embedded.logit_bias, step)
