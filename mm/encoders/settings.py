"""An encoder by the settings of a run: what every task builds its encoders with."""

from collections.abc import Iterable, Mapping
from typing import Any

from mm.config import ConfigError, EncodersConfig
from mm.encoders.audio import audio_encoder
from mm.encoders.encoder import Encoder, load_weights
from mm.encoders.folders import load
from mm.encoders.image import image_encoder
from mm.encoders.text import text_encoder
from mm.vocabulary import Vocabulary

NOT_THE_ENCODERS = ("rate", "init", "cache", "min_count")  # settings of an encoder that its constructor does not take


def by_settings(modality: str, cfg: EncodersConfig, sentences: Iterable[str]) -> Encoder:
    """One encoder; with `init` it starts from that run's weights, and from its vocabulary.

    Args:
        modality: "image", "text" or "audio".
        cfg: the settings of all three.
        sentences: of the train split, which a text encoder that starts anew makes its vocabulary of.
    """
    settings = vars(getattr(cfg, modality))
    options = {key: value for key, value in settings.items() if key not in NOT_THE_ENCODERS}
    start = load(settings["init"], modality) if settings["init"] else None
    if modality == "image":
        encoder = image_encoder(**options)
    elif modality == "audio":
        encoder = audio_encoder(**options)
    else:
        words = start.config.get("words", []) if start else Vocabulary.build(sentences, cfg.text.min_count).words
        encoder = text_encoder(words=words, **options)
    if start:
        load_weights(encoder, start.state_dict(), settings["init"])
    return encoder


def cached_modalities(cfg: Any, towers: Mapping[str, Encoder]) -> list[str]:
    """The modalities of which the frozen part is computed once and kept.

    Args:
        cfg: the settings of the encoders, one by modality.
        towers: {modality: encoder} of the run.

    Raises:
        ConfigError: nothing of such an encoder is frozen.
    """
    cached = [modality for modality in towers if getattr(cfg, modality).cache]
    for modality in cached:
        if not towers[modality].frozen:
            raise ConfigError(
                f"encoder.{modality}.cache keeps what the frozen part computes: nothing of {modality} is frozen. Set "
                f"encoder.{modality}.freeze{' or encoder.image.train_from' if modality == 'image' else ''}."
            )
    return cached


def rates(cfg: Any, modalities: Iterable[str]) -> dict[str, float]:
    """{prefix of parameter names: learning rate} of the encoders of a run, relative to that of everything else."""
    return {f"encoders.{modality}": getattr(cfg, modality).rate for modality in modalities}
