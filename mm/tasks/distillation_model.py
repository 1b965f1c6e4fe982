"""The model of teacher and student alike: an encoder of one modality under a linear classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from mm import encoders
from mm.data import Entry, Inputs, prepared
from mm.data.item import Source
from mm.heads import LinearClassifier
from mm.modes import in_eval_mode
from mm.naming import known

TOP = 5  # classes that are told


class Read(NamedTuple):
    """What a model makes of n sources, on the CPU.

    Attributes:
        vectors: (n, D_v) float32 of the encoder.
        logits: (n, K) float32 of the classes.
    """

    vectors: Tensor
    logits: Tensor


class ClassModel(nn.Module):
    """A picture, or a sound -> logits of classes.

    Args:
        modality: "image" for a teacher, "audio" for a student.
        tower: encoder of this modality.
        classes: K names.
    """

    def __init__(self, modality: str, tower: encoders.Encoder, classes: Sequence[str]):
        super().__init__()
        self.modality = modality
        self.classes = list(classes)
        self.encoders = nn.ModuleDict({modality: tower})
        self.head = LinearClassifier(tower.vector_dim, len(self.classes))

    @property
    def encoder(self) -> encoders.Encoder:
        """The only one."""
        return cast(encoders.Encoder, self.encoders[self.modality])

    def forward(self, batch: Mapping[str, Inputs]) -> Tensor:
        """Logits of the inputs of its modality in a batch: (b, K)."""
        values, lengths, _ = batch[self.modality]
        return self.head(self.encoder(values, lengths))

    @torch.no_grad()
    def read(self, sources: Sequence[Source], *, batch_size: int = 64, workers: int = 2) -> Read:
        """Vectors and logits of raw items, in eval mode.

        Args:
            sources: files or arrays.
            batch_size: items computed at once.
            workers: threads that read files ahead.

        Raises:
            ValueError: no source.
            UnreadableError: a damaged file, named.
        """
        if not len(sources):
            raise ValueError(f"there must be at least one {self.modality} to classify: got none.")
        encoder = self.encoder.folded()
        entries = [Entry(f"{self.modality} {number}", "", source, {}) for number, source in enumerate(sources)]
        vectors, logits = [], []
        with in_eval_mode(self):
            for _, values, lengths in prepared(entries, encoder.prepare, batch_size, workers):
                lengths = None if lengths is None or self.modality == "image" else lengths.to(encoder.device)
                features = encoder(values.to(encoder.device), lengths)
                vectors.append(features.vector.float().cpu())
                logits.append(self.head(features).float().cpu())
        return Read(torch.cat(vectors), torch.cat(logits))  # (n, D_v), (n, K)

    def view(self, of: str, sources: Mapping[str, Source], target: str = "") -> encoders.View:
        """What of a picture or a sound makes the model name a class: the class's logit, to be explained.

        Args:
            of: the modality of the model.
            sources: {it: a file or array}.
            target: a class; "" = the most probable one.

        Raises:
            ValueError: another modality, or an unknown class.
        """
        encoders.check_sources(of, sources, [self.modality])
        name = known(target or self.classify([sources[of]], 1)[0][0][0], self.classes, "class")
        number = self.classes.index(name)
        net = encoders.EndToEnd(self.encoder, self.head, self.head)
        seen = encoders.seen_of(self.encoder, sources[of])
        return encoders.View(net, seen, number, f"logit of {name!r}", ("head.classify", "head.norm"))

    def names(self, logits: Tensor) -> list[str]:
        """The most probable class of each of n inputs, by (n, K) logits."""
        return [self.classes[number] for number in logits.argmax(dim=1).tolist()]

    def classify(self, sources: Sequence[Source], top: int = TOP) -> list[list[tuple[str, float]]]:
        """The most probable classes of raw items with their probabilities, the best first.

        Args:
            sources: files or arrays.
            top: classes told of each, at least 1.

        Raises:
            ValueError, UnreadableError: see `read`; `top` below 1.
        """
        if top < 1:
            raise ValueError(f"top must be at least 1: got {top}.")
        shares, places = self.read(sources).logits.softmax(dim=-1).topk(min(top, len(self.classes)))  # (n, top) each
        return [
            [(self.classes[place], share) for place, share in zip(*row, strict=True)]
            for row in zip(places.tolist(), shares.tolist(), strict=True)
        ]
