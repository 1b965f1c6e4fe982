"""Settings: dataclasses shared by the tasks, each default in one place, and how a run's settings are read.

defaults of the dataclass < each `--config` file in turn < each `key=value` on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class ImageConfig:
    """Image encoder."""

    name: str = (
        "small_cnn"  # a key of mm.encoders.IMAGE_ENCODERS, or "torchvision:<model>" / "transformers:<name or folder>"
    )
    size: int = 0  # pixels a side of the square input; 0 = the network's own (224, small_cnn 64)
    layer: str = ""  # layer whose output is the map; "" = the network's last map
    weights: str = ""  # "" = random, "DEFAULT" = torchvision's download, else a local state-dict file
    freeze: bool = False  # nothing trains, BatchNorm statistics stay
    train_from: str = ""  # first layer that trains, all before it are frozen; "" = all train
    rate: float = 1.0  # learning rate relative to optim.lr
    init: str = ""  # run folder whose image encoder to start from
    cache: bool = False  # keep what the frozen part computes on disk, see mm.data.cache


@dataclass
class TextConfig:
    """Text encoder."""

    name: str = "gru"  # a key of mm.encoders.TEXT_ENCODERS, or "transformers:<name or folder>"
    word_dim: int = 300
    hidden: int = 512  # width of the map: 2 x hidden / 2 when both directions run
    layers: int = 1
    bidirectional: bool = True
    pool: Literal["last", "mean", "max"] = "max"
    word_vectors: str = ""  # GloVe or word2vec text file; its vectors must have word_dim numbers
    min_count: int = 1  # rarer training words become <unk>
    max_tokens: int = 64  # longer sentences are cut
    dropout: float = 0.0
    word_dropout: float = 0.0  # share of words replaced by <unk> while training
    freeze: bool = False
    rate: float = 1.0
    init: str = ""


@dataclass
class AudioConfig:
    """Audio encoder."""

    name: str = "vgg"  # a key of mm.encoders.AUDIO_ENCODERS
    front_end: Literal["log_mel", "linear", "mfcc"] = "log_mel"  # soundnet takes the wave itself, yamnet its own
    sample_rate: int = 16000  # Hz
    window_s: float = 0.025
    hop_s: float = 0.010
    bands: int = 64  # mel bands or cepstral coefficients
    width: int = 64  # channels of the widest convolution / 4
    spec_augment: float = 0.0  # share of the bands and of the frames hidden while training
    weights: str = ""  # "" = random, else a local state-dict file
    freeze: bool = False
    rate: float = 1.0
    init: str = ""
    cache: bool = False


@dataclass
class EncodersConfig:
    """The encoders of a run."""

    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)
    audio: AudioConfig = field(default_factory=AudioConfig)


@dataclass
class DataConfig:
    """What a run reads."""

    name: str = "synthetic"  # a key of mm.data.READERS
    root: str = ""  # folder of the data sets; "" = $MM_DATA, else ./data
    batch_size: int = 128
    workers: int = 0  # loading processes; the batches are the same for any number
    views: int = 1  # fixed crops of a picture that training draws from: 1 whole, 2 + mirrored, 10 + corners
    eval_views: int = 1  # of these crops, how many an evaluation averages over
    cache: str = "cache"  # folder of what frozen encoders computed, see mm.data.cache
    complete: bool = False  # evaluate on the items that are known in every modality of the run
    skip_bad: bool = False  # leave out unreadable training files and count them
    fold: int = 1  # test fold of ESC-10 / ESC-50
    speaker: str = ""  # FSDD: this speaker is the test set; "" = the official test takes
    scenes: int = 20000  # training scenes of the embedded world
    file: str = ""  # the CSV or JSONL of name=table


@dataclass
class OptimConfig:
    """Optimiser and learning-rate schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3  # peak
    weight_decay: float = 0.01  # on matrices only, never on biases, norms or the temperature
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 100
    clip_norm: float = 1.0  # 0 = no clipping


@dataclass
class LoopConfig:
    """The training loop."""

    steps: int = 2000  # optimiser steps
    accumulate: int = 1  # batches per optimiser step
    evaluate_every: int = 500  # steps; 0 = at the end only
    checkpoint_every: int = 500  # steps
    log_every: int = 20  # steps
    patience: int = 0  # evaluations without a better result before the run stops; 0 = never
    ema: float = 0.0  # decay of the averaged weights that are evaluated and kept as best; 0 = none
    amp: bool = False  # bfloat16 autocast
    compile: bool = False  # torch.compile the model
    device: str = ""  # "" = the GPU if there is one, else the CPU
    threads: int = 0  # CPU threads of this process; 0 = torch's choice
    tensorboard: bool = True  # write events if tensorboard is installed
