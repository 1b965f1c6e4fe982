"""Sound-source localisation: where in a picture a sound comes from, with boxes, without any, or with a few.

The settings and the training step; the model is in `mm.tasks.localisation_model`, what it reads in
`mm.tasks.localisation_data`, how it is evaluated in `mm.tasks.localisation_scores`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm import data, encoders
from mm.checks import check_idle
from mm.config import ConfigError, DataConfig, EncodersConfig, LoopConfig, OptimConfig
from mm.config import load as read_config
from mm.distributed import gather_with_gradient, init, rank
from mm.heads.localiser import Compared, LocaliserConfig, SoundLocaliser, attended, score_map
from mm.losses import hard_way, labelled_mean, map_cross_entropy, pooled_scores, scores_info_nce, two_way
from mm.tasks.localisation_model import MODALITIES, LocalisationModel, silent_like

LOCALISER_FILE = "localiser.json"  # in a checkpoint: by which its task is known
CHANGEABLE = (
    "data.*",
    "encoder.*.cache",
    "loop.device",
    "protocol",
    "rule",
    "threshold",
)  # that a finished run may be given anew
FEW = 0.1  # share of the items that are labelled in mode=semi, unless told otherwise


@dataclass
class LocalisationLossConfig:
    """What a localiser learns from."""

    name: Literal["max", "mean", "two_way", "hard_way"] = "max"  # of what has no box, see mm.losses.localisation
    silence: float = 0.125  # clips of silence and noise beside those of a batch, relative to its size: from nowhere
    labelled: float = 1.0  # mode=semi: weight of the boxes beside the rest


@dataclass
class Localisation:
    """Everything `scripts/train_localisation.py` can be told."""

    seed: int = 0  # of the weights, the batches, the embedded world and what is labelled
    out: str = "runs/localisation"  # the run folder
    mode: Literal["supervised", "unsupervised", "semi"] = "unsupervised"  # learns from boxes, from pairs alone, or both
    labels: float = 0.0  # share of the training items whose boxes are known; 0 = all, a tenth in mode=semi
    protocol: Literal["hard_way", "ez_vsl", "slavc"] = "hard_way"  # official evaluator, see mm.metrics.localisation
    rule: Literal["half", "fixed", "per_image"] = "half"  # which pixels of a map are taken for the object
    threshold: float = 0.5  # of rule=fixed: what a pixel of the map, scaled to 0..1, must reach
    encoder: EncodersConfig = field(default_factory=EncodersConfig)
    head: LocaliserConfig = field(default_factory=LocaliserConfig)
    loss: LocalisationLossConfig = field(default_factory=LocalisationLossConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    @property
    def labelled(self) -> float:
        """Share of the training items whose boxes are known."""
        return 0.0 if self.mode == "unsupervised" else self.labels or (FEW if self.mode == "semi" else 1.0)


def build_model(cfg: Localisation) -> LocalisationModel:
    """The model of a run.

    Raises:
        ConfigError: settings that do not fit together.
        ValueError: an unknown encoder.
    """
    check(cfg)
    return localiser_over({name: encoders.by_settings(name, cfg.encoder, ()) for name in MODALITIES}, cfg)


def localiser_over(towers: Mapping[str, encoders.Encoder], cfg: Localisation) -> LocalisationModel:
    """Encoders under the localiser that the settings ask for.

    Raises:
        ConfigError: a cache of an encoder of which nothing is frozen.
    """
    strided_px = getattr(towers["image"], "strided_px", 0)  # of networks from elsewhere it is not known
    head = SoundLocaliser(towers["image"].dim, towers["audio"].vector_dim, cfg.head, strided_px)
    return LocalisationModel(towers, head, encoders.cached_modalities(cfg.encoder, towers))


def check(cfg: Localisation) -> None:
    """Reject settings that are out of their range, or do not fit together.

    Raises:
        ConfigError, ValueError: there is one.
    """
    check_idle(cfg, idle(cfg))
    if not (0 <= cfg.labels <= 1 and 0 <= cfg.loss.silence <= 1 and cfg.loss.labelled > 0):
        raise ConfigError(
            "labels and loss.silence must lie in 0..1, loss.labelled above 0: got "
            f"{cfg.labels}, {cfg.loss.silence} and {cfg.loss.labelled}."
        )
    data.check_sample_rate(cfg.data.name, cfg.encoder.audio.sample_rate)


def idle(cfg: Localisation) -> list[str]:
    """The settings that localisation does not read, or does not with these others."""
    keys = ["data.complete", "data.eval_folds", "data.eval_subset", "data.eval_views", "data.views"]
    keys += [f"encoder.text.{name}" for name in vars(cfg.encoder.text)]
    if cfg.mode == "unsupervised":
        keys.append("labels")
    if cfg.mode == "supervised":
        keys.append("loss.name")
    if cfg.mode != "semi":
        keys.append("loss.labelled")
    if cfg.rule != "fixed":
        keys.append("threshold")
    if cfg.mode == "unsupervised" and cfg.loss.name == "hard_way":
        keys.append("head.temperature")  # it has its own
    if cfg.data.name != "synthetic":
        keys.append("data.sources")
    return keys


def load(run: str | Path, changes: Sequence[str] = ()) -> tuple[LocalisationModel, Localisation]:
    """The best weights of a run, in eval mode on the GPU if there is one, and its settings.

    Args:
        run: run folder.
        changes: `key=value` of `CHANGEABLE` that differ from the run's own.

    Raises:
        FileNotFoundError: there is no such run.
        ConfigError: an unknown setting, or one of the model or of training, which are done.
        ValueError: a damaged file, or a run of another task.
    """
    folder, _, settings = encoders.opened(run, changes, CHANGEABLE, LOCALISER_FILE, "localisation")
    towers = encoders.load(folder)
    cfg = read_config(Localisation, settings)
    check(cfg)
    model = localiser_over({modality: towers[modality] for modality in MODALITIES}, cfg)
    encoders.fill(model, folder)
    return model.to(init(cfg.loop.device)).eval(), cfg


def description(model: LocalisationModel) -> dict[str, Any]:
    """What every checkpoint holds beside the weights: how to build the encoders, and whose run it is."""
    towers = {modality: model.encoder(modality) for modality in MODALITIES}
    return {encoders.DESCRIPTION_FILE: encoders.describe(towers), LOCALISER_FILE: {"task": "localisation"}}


class Objective:
    """The training step: what the pairs of a batch say, what its boxes say, and that silence comes from nowhere.

    Under several processes what has no box is compared with the sounds of all of them, see `mm.losses.JointLoss`.
    """

    def __init__(self, cfg: Localisation):
        self.mode, self.loss = cfg.mode, cfg.loss

    def __call__(self, model: nn.Module, batch: dict, step: int) -> dict[str, Tensor]:
        """{"pair_loss": (), "box_loss": (), "silence_loss": ()}, as far as the mode has them."""
        rows = len(batch["owner"])
        compared: Compared = model(batch, silent_like(batch["audio"], math.ceil(self.loss.silence * rows)))
        own, silence = compared._replace(sounds=compared.sounds[:rows]), compared.sounds[rows:]
        scores = score_map(own)  # (B, N)
        parts = {}
        if self.mode != "supervised":
            parts["pair_loss"] = self.of_pairs(own, silence, scores, batch["owner"])
        if self.mode != "unsupervised":
            weight = self.loss.labelled if self.mode == "semi" else 1.0
            losses = map_cross_entropy(scores, own.mask, batch["target"], own.temperature)  # (B,)
            parts["box_loss"] = weight * labelled_mean(losses, batch["target"])
            if len(silence):
                parts["silence_loss"] = weight * self.of_silence(own, silence)
        return parts

    def of_pairs(self, own: Compared, silence: Tensor, scores: Tensor, owner: Tensor) -> Tensor:
        """What clips say without a box: the sounds of other clips, and silence, do not belong to a picture."""
        sounds = gather_with_gradient(own.sounds)  # (B, E) of all processes
        with torch.no_grad():
            owners = gather_with_gradient(owner)  # (B, 2)
        if self.loss.name in ("max", "mean"):
            pooled = pooled_scores(own.places, own.mask, torch.cat([sounds, silence]), self.loss.name)  # (b, B + k)
            return scores_info_nce(gather_with_gradient(pooled), own.temperature, owners)
        first = rank() * len(owner)
        others = torch.cat([sounds.roll(-first, 0), silence])  # (B + k, E), this process's own first
        owners = owners.roll(-first, 0)
        if self.loss.name == "hard_way":
            return hard_way(own.places, own.mask, others, owners)
        _, seen = attended(own, scores)  # (b, E)
        return two_way(seen, others, owners)

    def of_silence(self, own: Compared, silence: Tensor) -> Tensor:
        """Silence comes from nowhere, whatever the picture."""
        with torch.autocast(own.places.device.type, enabled=False):
            cosines = torch.einsum("bne,ke->bkn", own.places, silence).flatten(0, 1)  # (b k, N)
        nowhere = functional.one_hot(torch.tensor(cosines.shape[1]), cosines.shape[1] + 1)  # (N + 1,)
        mask = own.mask.repeat_interleave(len(silence), dim=0)  # (b k, N)
        return map_cross_entropy(cosines, mask, nowhere.to(cosines), own.temperature).mean()
