"""Any vision model or text encoder of transformers as an `Encoder`.

A model's own settings and its tokenizer go into the encoder's config as JSON, so that a saved folder is enough to
rebuild it.
"""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import torch
from torch import Tensor, nn

from mm.config import ImageConfig, TextConfig
from mm.encoders.adapters import WholeEncoder
from mm.encoders.encoder import load_weights
from mm.encoders.image import features_of, normalised, picture, probe, register_normalisation
from mm.encoders.image_networks import IMAGENET_MEAN, IMAGENET_STD
from mm.encoders.text import POOLS, full_lengths, pooled
from mm.features import Features, mask_from_lengths
from mm.naming import known
from mm.vocabulary import tokenize

logger = logging.getLogger(__name__)

# Where a config came from, not what it says
HISTORY = ("_name_or_path", "architectures", "dtype", "transformers_version")


class TransformersImageEncoder(WholeEncoder):
    """A picture -> `Features` by any vision model of transformers.

    Args:
        architecture: the model's settings, its config as a dict.
        size: pixels a side; 0 = the model's own.
        mean: of pixels in [0, 1], one number a channel.
        std: deviation, likewise.
        freeze: nothing trains, the whole network is the trunk.

    The map is the last hidden state on its grid. The vector is the class token, or the mean of the map for a network
    without one.
    """

    modality = "image"

    def __init__(
        self,
        architecture: dict[str, Any],
        size: int = ImageConfig.size,
        mean: list[float] = list(IMAGENET_MEAN),  # noqa: B006 (nobody writes to it)
        std: list[float] = list(IMAGENET_STD),  # noqa: B006
        freeze: bool = ImageConfig.freeze,
    ) -> None:
        super().__init__()
        own_size = architecture.get("image_size")
        self.size = size or (own_size if isinstance(own_size, int) else 224)
        self.patch = architecture.get("patch_size")
        register_normalisation(self, tuple(mean), tuple(std))
        self.net = network_of(architecture)
        features = probe(self, self.size)
        self.dim, self.vector_dim = features.map.shape[-1], features.vector.shape[-1]
        self.finish(torch.zeros(1, 3, self.size, self.size), freeze)

    def prepare(self, source: Any, view: int = 0) -> Tensor:
        """A picture -> (3, size, size) uint8, see `ImageEncoder.prepare`."""
        return picture(source, self.size, view)

    def run(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """(B, 3, H, W) -> the last hidden state, (B, C, H', W') or (B, extra + N, D)."""
        return self.net(pixel_values=normalised(self, values)).last_hidden_state

    def tail(self, values: Tensor, lengths: Tensor | None = None) -> Features:
        """The last hidden state as a map, and the class token or the mean."""
        return self.features_of(self.rest_of(values, lengths))

    def seen(self, values: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) -> float32 of the network's mean and deviation."""
        return normalised(self, values)

    def from_seen(self, x: Tensor) -> Features:
        """Features of normalised pictures."""
        return self.features_of(self.run(x, None))

    def features_of(self, x: Tensor) -> Features:
        """(B, C, H', W') or (B, extra + N, D) -> map, mask, vector."""
        if x.dim() == 4:
            return features_of(x)
        side = self.size // self.patch if isinstance(self.patch, int) else math.isqrt(x.shape[1])
        if side * side > x.shape[1]:  # a network that merges its patches as it goes
            side = math.isqrt(x.shape[1])
        extra = x.shape[1] - side * side  # class token, registers
        map = x[:, extra:]  # (B, N, D)
        vector = x[:, 0] if extra else map.mean(dim=1)  # (B, D)
        return Features(map, torch.ones(map.shape[:2], dtype=torch.bool, device=map.device), vector, (side, side))


class TransformersTextEncoder(WholeEncoder):
    """A sentence -> `Features` by any encoder of transformers with its own tokenizer.

    Args:
        architecture: the model's settings, its config as a dict.
        tokenizer: the tokenizer's JSON, as the `tokenizers` library writes it.
        pool: the vector: "mean" or "max" over the tokens, the "last" token, or the first, "class".
        max_tokens: longer sentences are cut, special tokens included.
        freeze: nothing trains, the whole network is the trunk.

    Raises:
        ValueError: an unknown pool, or more tokens than the model has positions for.
    """

    modality = "text"

    def __init__(
        self,
        architecture: dict[str, Any],
        tokenizer: dict[str, Any],
        pool: str = TextConfig.pool,
        max_tokens: int = TextConfig.max_tokens,
        freeze: bool = TextConfig.freeze,
    ) -> None:
        super().__init__()
        from tokenizers import Tokenizer

        self.pool = known(pool, (*POOLS, "class"), "pool")
        positions = architecture.get("max_position_embeddings") or max_tokens
        if not 3 <= max_tokens <= positions:
            raise ValueError(f"max_tokens must lie in 3..{positions}, the model's positions: got {max_tokens}.")
        self.tokenizer = Tokenizer.from_str(json.dumps(tokenizer))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)
        self.net = network_of(architecture)
        example = torch.zeros(1, 3, dtype=torch.int64)
        with torch.no_grad():
            self.dim = self.vector_dim = self.run(example, None).shape[-1]
        self.finish(example, freeze)

    def prepare(self, source: str, view: int = 0) -> Tensor:
        """A sentence -> (L,) int64 token numbers, the tokenizer's special ones included.

        Raises:
            ValueError: the sentence is empty.
        """
        if not isinstance(source, str) or not source.strip():
            raise ValueError(f"a sentence must be a text that is not empty: got {source!r}.")
        return torch.tensor(self.tokenizer.encode(source).ids)  # (L,)

    def unknown_words(self, text: str) -> list[str]:
        """The words of a sentence in which the tokenizer finds a piece that it does not know."""
        unknown = getattr(self.tokenizer.model, "unk_token", None)
        return [word for word in dict.fromkeys(tokenize(text)) if unknown in self.tokenizer.encode(word).tokens]

    def run(self, values: Tensor, lengths: Tensor | None) -> Tensor:
        """Tokens (B, L) -> the last hidden state (B, L, D)."""
        lengths = full_lengths(values, lengths)
        mask = mask_from_lengths(lengths, values.shape[1])  # (B, L)
        return self.net(input_ids=values, attention_mask=mask.long()).last_hidden_state

    def tail(self, values: Tensor, lengths: Tensor | None = None) -> Features:
        """The last hidden state, zero behind the sentence, and the pooled vector."""
        x = self.rest_of(values, lengths)  # (B, L, D)
        lengths = full_lengths(values, lengths)
        mask = mask_from_lengths(lengths, x.shape[1])  # (B, L)
        x = x.masked_fill(~mask[..., None], 0.0)
        vector = pooled(x, mask, self.pool)  # (B, D)
        return Features(x, mask, vector, (x.shape[1],))


# Builders -----------------------------------------------------------------------------------------------------------


def transformers_image_encoder(model: str, size: int, weights: str, freeze: bool) -> TransformersImageEncoder:
    """Build a `TransformersImageEncoder` and fill it, see `mm.encoders.image_encoder`."""
    from transformers.image_processing_base import ImageProcessingMixin

    architecture = architecture_of(model, "vision_config")
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(model)
    except OSError:
        settings = {}
        logger.warning("%s says nothing of its pixels: ImageNet's mean and deviation are taken.", model)
    mean, std = settings.get("image_mean") or IMAGENET_MEAN, settings.get("image_std") or IMAGENET_STD
    encoder = TransformersImageEncoder(architecture, size=size, mean=list(mean), std=list(std), freeze=freeze)
    if weights not in ("", "DEFAULT"):
        raise ValueError(f"weights of a transformers model must be '' or 'DEFAULT', its own: got {weights!r}.")
    if weights:
        fill_from_transformers(encoder, model)
    return encoder


def transformers_text_encoder(model: str, pool: str, max_tokens: int, freeze: bool) -> TransformersTextEncoder:
    """Build a `TransformersTextEncoder` with the published weights, see `mm.encoders.text_encoder`."""
    from transformers import AutoTokenizer

    architecture = architecture_of(model, "text_config")
    backend = getattr(AutoTokenizer.from_pretrained(model), "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"{model!r} must have a tokenizer of the tokenizers library: it has none. Choose another model."
        )
    encoder = TransformersTextEncoder(
        architecture, json.loads(backend.to_str()), pool=pool, max_tokens=max_tokens, freeze=freeze
    )
    fill_from_transformers(encoder, model)
    return encoder


def architecture_of(model: str, part: str) -> dict[str, Any]:
    """The settings of a transformers model as JSON values; of a model of two towers those of `part`."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model)
    config = getattr(config, part, config)
    if config.is_encoder_decoder:
        raise ValueError(f"{model!r} must be an encoder: it has a decoder too. Choose a model like BERT or ViT.")
    settings = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in settings.items() if key not in HISTORY}


def network_of(architecture: dict[str, Any]) -> nn.Module:
    """A transformers model with random weights, float32."""
    from transformers import AutoConfig, AutoModel

    settings = {key: value for key, value in architecture.items() if key != "model_type"}
    return AutoModel.from_config(AutoConfig.for_model(architecture["model_type"], **settings)).float()


def fill_from_transformers(encoder: WholeEncoder, model: str) -> None:
    """Fill an encoder from the weights of a transformers name or folder.

    Raises:
        ValueError: weights that the features depend on are missing there.
    """
    net: Any = encoder.net
    published, report = type(net).from_pretrained(model, config=net.config, output_loading_info=True)
    state = {
        key: value.float() if value.is_floating_point() else value for key, value in published.state_dict().items()
    }
    missing = sorted(set(report["missing_keys"]) - encoder.idle)
    if missing:
        raise ValueError(f"{model} must hold all weights of {type(net).__name__}: missing {missing[:5]}.")
    load_weights(net, state, model)
