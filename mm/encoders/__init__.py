"""Encoders: a picture, a sentence or a sound -> `Features`.

>>> encoder = text_encoder("mean", words=["a", "red", "dog"])
>>> encoder.encode(["A red dog.", "a dog"]).vector.shape
torch.Size([2, 300])
"""

from mm.encoders.adapters import TorchvisionEncoder
from mm.encoders.audio import AUDIO_ENCODERS, AudioEncoder, audio_encoder
from mm.encoders.encoder import WEIGHTS_FILE, Encoder, load_weights
from mm.encoders.end_to_end import EndToEnd, View, check_sources, repeated, seen_of
from mm.encoders.folders import DESCRIPTION_FILE, build, describe, fill, find, load, opened, read_json, verify
from mm.encoders.image import IMAGE_ENCODERS, ImageEncoder, image_encoder
from mm.encoders.settings import by_settings, cached_modalities, rates
from mm.encoders.text import TEXT_ENCODERS, TextEncoder, text_encoder
from mm.encoders.transformers_models import TransformersImageEncoder, TransformersTextEncoder

__all__ = [
    "AUDIO_ENCODERS",
    "DESCRIPTION_FILE",
    "IMAGE_ENCODERS",
    "TEXT_ENCODERS",
    "WEIGHTS_FILE",
    "AudioEncoder",
    "Encoder",
    "EndToEnd",
    "ImageEncoder",
    "TextEncoder",
    "TorchvisionEncoder",
    "TransformersImageEncoder",
    "TransformersTextEncoder",
    "View",
    "audio_encoder",
    "build",
    "by_settings",
    "cached_modalities",
    "check_sources",
    "describe",
    "fill",
    "find",
    "image_encoder",
    "load",
    "load_weights",
    "opened",
    "rates",
    "read_json",
    "repeated",
    "seen_of",
    "text_encoder",
    "verify",
]
