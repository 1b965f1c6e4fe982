"""Task heads: modules that take `Features`, whatever encoder or modality they come from."""

from mm.heads.answerer import Answer, Answerer, AnswererConfig
from mm.heads.captioner import Caption, Captioner, CaptionerConfig
from mm.heads.classifier import LinearClassifier
from mm.heads.decoding import beam_search, sample
from mm.heads.embedding import AttentionPool, JointEmbedding
from mm.heads.localiser import LocaliserConfig, SoundLocaliser
from mm.heads.lstm_decoder import LSTMDecoder
from mm.heads.separator import Separator, SeparatorConfig, ideal_mask
from mm.heads.transformer_decoder import TransformerDecoder

__all__ = [
    "Answer",
    "Answerer",
    "AnswererConfig",
    "AttentionPool",
    "Caption",
    "Captioner",
    "CaptionerConfig",
    "JointEmbedding",
    "LSTMDecoder",
    "LinearClassifier",
    "LocaliserConfig",
    "Separator",
    "SeparatorConfig",
    "SoundLocaliser",
    "TransformerDecoder",
    "beam_search",
    "ideal_mask",
    "sample",
]
