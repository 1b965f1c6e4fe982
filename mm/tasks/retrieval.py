"""Retrieval: images, text and sounds in one space, by metric learning.

The settings and the training step; the model is in `mm.tasks.retrieval_model`, what it reads in
`mm.tasks.retrieval_data`, how it is evaluated in `mm.tasks.retrieval_scores`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from mm import data, encoders
from mm.checks import check_changes, check_idle
from mm.config import ConfigError, DataConfig, EncodersConfig, LoopConfig, OptimConfig
from mm.config import load as read_config
from mm.distributed import init
from mm.heads import JointEmbedding
from mm.heads.embedding import Form
from mm.losses import JointLoss, LossConfig, Memory
from mm.losses.settings import check as check_loss
from mm.losses.settings import idle as idle_in_loss
from mm.media import VIEWS
from mm.tasks.retrieval_model import Embedded, JointModel

TASK = "retrieval"
STATE_FILE = "state.json"  # in a checkpoint: what was trained, among others
CLASSES_FILE = "classes.json"  # in a checkpoint: the classes that its head tells, if it tells any
FORMS: dict[str, Form] = {"n_pair": "free", "order": "positive"}  # of the vectors that a loss asks for, else unit
SIGLIP_BIAS = -10.0  # Zhai et al. 2023, section 3.2
MAX_LOGIT_SCALE = 100.0  # Radford et al. 2021, section 2.5
CHANGEABLE = ("data.*", "encoder.*.cache", "loop.device")  # settings that a finished run may be given anew
FOR_FILES = ("data.eval_views", "loop.device")  # those of them that matter where files of one's own are embedded

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


def build_model(cfg: Retrieval, sentences: Iterable[str], classes: Sequence[str] = ()) -> JointModel:
    """The model of a run.

    Args:
        cfg: its settings.
        sentences: of the training split, of which alone the vocabulary is made.
        classes: of the training split, see `mm.tasks.retrieval_data.classes_of`.

    Raises:
        ConfigError: a setting of the loss out of its range or without effect, a loss of classes where there are none,
            or a cache of an encoder that trains.
        ValueError: an unknown modality or encoder, fewer than two modalities, crops that there are not, or a sample
            rate that the embedded world does not have.
    """
    check(cfg)
    unknown = [m for m in cfg.modalities if m not in data.MODALITIES]
    if unknown or len(set(cfg.modalities)) < 2:
        raise ValueError(f"modalities must be two or more of {', '.join(data.MODALITIES)}: got {cfg.modalities}.")
    if not (1 <= cfg.data.views <= len(VIEWS) and 1 <= cfg.data.eval_views <= len(VIEWS)):
        raise ValueError(
            f"data.views and data.eval_views must lie in 1..{len(VIEWS)}: got {cfg.data.views}, {cfg.data.eval_views}."
        )
    if "audio" in cfg.modalities:
        data.check_sample_rate(cfg.data.name, cfg.encoder.audio.sample_rate)
    if cfg.loss.name == "cosine_semantic" and not classes:
        raise ConfigError(
            'loss.name=cosine_semantic learns classes beside pairs: no training item has one, as meta["class"]. Name a '
            "data set that has them, such as recipe1m or a table with a column `class`, or choose another loss."
        )
    towers = {modality: encoders.by_settings(modality, cfg.encoder, sentences) for modality in cfg.modalities}
    return joint_model(towers, cfg, classes)


def joint_model(towers: Mapping[str, encoders.Encoder], cfg: Retrieval, classes: Sequence[str] = ()) -> JointModel:
    """Encoders under the head that the settings ask for.

    Raises:
        ConfigError: a cache of an encoder of which nothing is frozen.
    """
    classes = classes if cfg.loss.name == "cosine_semantic" else ()
    head = JointEmbedding(
        {modality: (encoder.dim, encoder.vector_dim) for modality, encoder in towers.items()},
        embed_dim=cfg.head.embed_dim,
        pool=vars(cfg.head.pool),
        heads=cfg.head.heads,
        head_dim=cfg.head.head_dim,
        dropout=cfg.head.dropout,
        temperature=cfg.head.temperature,
        bias=SIGLIP_BIAS if cfg.loss.name == "siglip" else None,
        form=FORMS.get(cfg.loss.name, "unit"),
        classes=len(classes),
    )
    cached = encoders.cached_modalities(cfg.encoder, towers)
    return JointModel(towers, head, cached, cfg.data.eval_views, classes, cfg.loss.chunk, cfg.loss.memory)


def check(cfg: Retrieval) -> None:
    """Reject settings of the loss that are out of their range, that this one does not read, or that do not fit.

    Raises:
        ConfigError: there is one.
    """
    check_loss(cfg.loss)
    check_idle(cfg, idle(cfg))
    if cfg.loss.chunk and cfg.loop.compile:
        raise ConfigError(
            f"loss.chunk={cfg.loss.chunk} computes each chunk twice, which a compiled model would do with other random "
            "numbers: loop.compile does not go with it. Leave out one of them."
        )
    if cfg.loss.memory and cfg.loss.memory_from >= cfg.loop.steps:
        raise ConfigError(
            f"loss.memory={cfg.loss.memory} is filled from step loss.memory_from={cfg.loss.memory_from} on, which must "
            f"come before the end, loop.steps={cfg.loop.steps}. Lower it."
        )


def idle(cfg: Retrieval) -> list[str]:
    """The settings that the chosen loss does not read."""
    return [f"loss.{name}" for name in idle_in_loss(cfg.loss)]


def idle_for_files(settings: Sequence[str]) -> list[str]:
    """Those of some `key=value` that say nothing about how files of one's own are embedded."""
    return [setting for setting in settings if setting.partition("=")[0] not in FOR_FILES]


def check_indexable(cfg: Retrieval) -> None:
    """Reject an index of vectors that are not compared by the cosine.

    Raises:
        ConfigError: the run ranks by the score of order embeddings.
    """
    if cfg.loss.name == "order":
        raise ConfigError(
            "an index finds by the cosine: a run of loss.name=order ranks by how far one vector is from being below "
            "another (mm.losses.order_scores), which no index here searches. Train with another loss for an index."
        )


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
    told = folder / CLASSES_FILE
    classes = encoders.read_json(told)["classes"] if told.is_file() else ()
    model = joint_model({modality: towers[modality] for modality in cfg.modalities}, cfg, classes)
    encoders.fill(model, folder)
    model.memory.clear()  # of training alone
    return model.to(init(cfg.loop.device)).eval(), cfg


def description(model: JointModel) -> dict[str, Any]:
    """What every checkpoint holds beside the weights: how to build the encoders, and the classes that it tells."""
    towers = {modality: model.encoder(modality) for modality in model.encoders}
    classes = {CLASSES_FILE: {"classes": model.classes}} if model.classes else {}
    return {encoders.DESCRIPTION_FILE: encoders.describe(towers), **classes}


class Objective:
    """The training step of a run: the loss of every pair of modalities that a batch has.

    Args:
        loss: which.
        memory: of the model, if the loss has one.
    """

    def __init__(self, loss: LossConfig, memory: Mapping[str, Memory] | None = None):
        self.loss = JointLoss(loss, memory)

    def __call__(self, model: nn.Module, batch: dict, step: int) -> dict[str, Tensor]:
        """{"image_text_loss": (), ...}, which the loop adds up."""
        embedded: Embedded = model(batch)
        none = batch["owner"].new_zeros(0)
        rows = {modality: batch[modality].rows if modality in batch else none for modality in embedded.vectors}
        free = embedded.logit_scale.exp()
        scale = free + (free.clamp(max=MAX_LOGIT_SCALE) - free).detach()  # a bound that lets the gradient back through
        told = embedded.class_logits, batch.get("target")
        return self.loss(embedded.vectors, rows, batch["owner"], scale, embedded.logit_bias, step, *told)
