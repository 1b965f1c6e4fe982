"""Audio-visual speech separation: one clean voice for each face; or, without faces, for each voice that is heard.

The settings and the training step; the model is in `mm.tasks.separation_model`, how inputs of any length pass through
it in `mm.tasks.separation_windows`, what it reads in `mm.tasks.separation_data`, how it is evaluated in
`mm.tasks.separation_scores`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from mm import data, encoders
from mm.checks import check_idle
from mm.config import ConfigError, DataConfig, LoopConfig, OptimConfig
from mm.config import load as read_config
from mm.data.mixtures import MixConfig
from mm.data.mixtures import check as check_mix
from mm.distributed import init
from mm.encoders.settings import NOT_THE_ENCODERS
from mm.encoders.spectrogram import SpectrogramConfig, SpectrogramEncoder
from mm.encoders.video import EMBEDDINGS, VideoConfig, VideoEncoder
from mm.heads.separator import Separator, SeparatorConfig
from mm.losses import compressed_loss, si_sdr_loss, snr_loss
from mm.signal import Stft, pit
from mm.tasks.separation_model import SpeechSeparator

SEPARATOR_FILE = "separator.json"  # in a checkpoint: by which its task is known
AUDIO_ONLY = "audio_only_pit"  # in a run folder: the run of the control, which sees nothing
CHANGEABLE = (  # that a finished run may be given anew
    "data.*",
    "mix.evaluated",
    "mix.hidden",
    "mix.noise*",
    "mix.same_speaker",
    "mix.snr_db",
    "encoder.video.cache",
    "loop.device",
)
RESPLIT = ("grid", "spoken_digits", "talks")  # sets of which data.speaker draws all splits anew


@dataclass
class SeparationEncodersConfig:
    """The encoders of a run."""

    video: VideoConfig = field(default_factory=VideoConfig)
    audio: SpectrogramConfig = field(default_factory=SpectrogramConfig)


@dataclass
class SeparationLossConfig:
    """What a separator learns from."""

    name: Literal["snr", "si_sdr", "compressed"] = "snr"  # see mm.losses.separation
    compressed: float = 0.0  # weight of the distance of compressed spectra beside snr or si_sdr


@dataclass
class Separation:
    """Everything `scripts/train_separation.py` can be told."""

    seed: int = 0  # of the weights, the batches, the mixtures and the embedded world
    out: str = "runs/separation"  # the run folder
    faces: bool = True  # False: nothing is seen, and voices are matched to targets as fits best (PIT)
    encoder: SeparationEncodersConfig = field(default_factory=SeparationEncodersConfig)
    head: SeparatorConfig = field(default_factory=SeparatorConfig)
    loss: SeparationLossConfig = field(default_factory=SeparationLossConfig)
    mix: MixConfig = field(default_factory=MixConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)


def build_model(cfg: Separation) -> SpeechSeparator:
    """The model of a run.

    Raises:
        ConfigError: settings that do not fit together.
        ValueError: an unknown encoder.
    """
    check(cfg)
    towers: dict[str, encoders.Encoder] = {"audio": SpectrogramEncoder(**constructed(cfg.encoder.audio))}
    if cfg.faces:
        towers["video"] = VideoEncoder(**constructed(cfg.encoder.video))
    for modality, tower in towers.items():
        if run := getattr(cfg.encoder, modality).init:
            start(tower, run)
    return separator_over(towers, cfg)


def constructed(settings: Any) -> dict[str, Any]:
    """The arguments of an encoder's constructor among its settings."""
    return {key: value for key, value in vars(settings).items() if key not in NOT_THE_ENCODERS}


def start(tower: encoders.Encoder, run: str) -> None:
    """Fill an encoder from another run: frames from its image encoder, whatever its task, if it has no video encoder.

    Raises:
        FileNotFoundError, ValueError: there is no such run, or its encoder is another.
    """
    found = encoders.load(run)
    if isinstance(tower, VideoEncoder) and tower.image and "video" not in found and "image" in found:
        encoders.load_weights(tower.image, found["image"].state_dict(), run)
    elif tower.modality in found:
        encoders.load_weights(tower, found[tower.modality].state_dict(), run)
    else:
        raise ValueError(
            f"{run} must have an encoder of {tower.modality}: it has {', '.join(found)}. Name another run."
        )


def separator_over(towers: Mapping[str, encoders.Encoder], cfg: Separation) -> SpeechSeparator:
    """Encoders under the separator that the settings ask for."""
    audio = towers["audio"]
    assert isinstance(audio, SpectrogramEncoder)
    seen = cfg.encoder.video
    hop_s = audio.stft.hop / audio.sample_rate  # whole samples
    head = Separator(audio.dim, seen.width, audio.stft.bins, seen.fps, hop_s, cfg.head, not cfg.faces)
    return SpeechSeparator(towers, head)


def check(cfg: Separation) -> None:
    """Reject settings that are out of their range, or do not fit together.

    Raises:
        ConfigError, ValueError: there is one.
    """
    check_mix(cfg.mix)
    check_idle(cfg, idle(cfg))
    if cfg.loss.compressed < 0:
        raise ConfigError(f"loss.compressed is a weight, at least 0: got {cfg.loss.compressed}.")
    video = cfg.encoder.video
    if video.name == EMBEDDINGS and (video.cache or cfg.data.name != "talks"):
        raise ConfigError(
            "encoder.video.name=embeddings reads a .npy for each clip of data.name=talks, as it is: got "
            f"data.name={cfg.data.name}, encoder.video.cache={video.cache}. See docs/data.md."
        )
    data.check_talk_rate(cfg.data.name, cfg.encoder.audio.sample_rate, cfg.encoder.video.fps)


def idle(cfg: Separation) -> list[str]:
    """The settings that separation does not read, or does not with these others.

    The video encoder of a run without faces may be described: leaving the faces out is one word then.
    """
    names = ("complete", "eval_folds", "eval_subset", "eval_views", "views", "sources", "fold")
    keys = [f"data.{name}" for name in names]
    keys.append("data.cache_dtype")
    if cfg.data.name in ("lrs2", "lrs2_pretrain", "lrs3", "lrs3_pretrain", "avspeech", "voxceleb"):
        keys.append("data.speaker")
    if cfg.loss.name == "compressed":
        keys.append("loss.compressed")
    if not cfg.mix.noise:
        keys.append("mix.noise_db")
    if cfg.head.trunk == "recurrent":
        keys.append("head.blocks")
    return keys


def load(run: str | Path, changes: Sequence[str] = ()) -> tuple[SpeechSeparator, Separation]:
    """The best weights of a run, in eval mode on the GPU if there is one, and its settings.

    Args:
        run: run folder.
        changes: `key=value` of `CHANGEABLE` that differ from the run's own.

    Raises:
        FileNotFoundError: there is no such run.
        ConfigError: an unknown setting, or one of the model or of training, which are done.
        ValueError: a damaged file, or a run of another task.
    """
    folder, _, settings = encoders.opened(run, changes, CHANGEABLE, SEPARATOR_FILE, "speech separation")
    towers = encoders.load(folder)
    cfg, own = (read_config(Separation, given) for given in (settings, settings[: len(settings) - len(changes)]))
    check(cfg)
    if own.data.name == cfg.data.name in RESPLIT and own.data.speaker != cfg.data.speaker:
        raise ConfigError(
            f"data.speaker draws the splits of {cfg.data.name} anew: with {cfg.data.speaker!r}, not the run's own "
            f"{own.data.speaker!r}, it would be tested on training talks. Leave it out."
        )
    model = separator_over(towers, cfg)
    encoders.fill(model, folder)
    return model.to(init(cfg.loop.device)).eval(), cfg


def description(model: SpeechSeparator) -> dict[str, Any]:
    """What every checkpoint holds beside the weights: how to build the encoders, and whose run it is."""
    towers = {modality: model.encoder(modality) for modality in model.encoders}
    return {encoders.DESCRIPTION_FILE: encoders.describe(towers), SEPARATOR_FILE: {"task": "separation"}}


class Objective:
    """The training step: each output against the voice of its face; without faces, against the one that fits best."""

    def __init__(self, cfg: Separation):
        self.loss, self.faces = cfg.loss, cfg.faces
        audio = cfg.encoder.audio
        self.stft, self.power = Stft(audio.sample_rate, audio.window_s, audio.hop_s), audio.power

    def __call__(self, model: nn.Module, batch: dict, step: int) -> dict[str, Tensor]:
        """{"snr_loss": ()} or {"si_sdr_loss": ()}, and {"compressed_loss": ()}, as far as they are asked for."""
        targets = batch["targets"]  # (B, S, T)
        estimates: Tensor = model(batch["mixture"], batch["faces"] if self.faces else None, targets.shape[1])
        if not self.faces:
            _, order = pit(estimates.detach(), targets)  # (B, S)
            estimates = estimates.gather(1, order[..., None].expand_as(estimates))  # (B, S, T)
        parts = {}
        if self.loss.name == "snr":
            parts["snr_loss"] = snr_loss(estimates, targets)
        elif self.loss.name == "si_sdr":
            parts["si_sdr_loss"] = si_sdr_loss(estimates, targets)
        weight = 1.0 if self.loss.name == "compressed" else self.loss.compressed
        if weight:
            parts["compressed_loss"] = weight * compressed_loss(estimates, targets, self.stft, self.power)
        return parts
