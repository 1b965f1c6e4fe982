"""The joint model: encoders of several modalities under one head, whole batches at once or a part at a time."""

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from mm import encoders
from mm.data import Cache, Entry, Inputs, prepared
from mm.data.item import Source
from mm.features import Features
from mm.heads import JointEmbedding
from mm.losses import Memory
from mm.modes import in_eval_mode
from mm.vocabulary import tokenize


class Embedded(NamedTuple):
    """A batch in the joint space."""

    vectors: dict[str, Tensor]  # {modality: (b, E)} of the rows that have it, of the form that the head gives them
    logit_scale: Tensor
    logit_bias: Tensor | None
    class_logits: dict[str, Tensor]  # {modality: (b, K)} where the head tells classes


class JointModel(nn.Module):
    """Encoders of several modalities and the head that puts them into one space.

    Args:
        encoders: {modality: encoder}.
        head: takes the features of each.
        cached: modalities whose batches hold trunk outputs from a cache, so that only the tail runs.
        eval_views: fixed crops of a picture whose vectors `embed` averages.
        classes: those that the head tells.
        chunk: rows that `forward` encodes at a time, see there; 0 = all.
        memory: vectors of earlier batches to keep of each modality, see `mm.losses.JointLoss`; 0 = none.

    Attributes:
        memory: {modality: its memory}, empty where none is asked for. It is in the checkpoints and in no fingerprint.
    """

    def __init__(
        self,
        encoders: Mapping[str, encoders.Encoder],
        head: JointEmbedding,
        cached: Iterable[str] = (),
        eval_views: int = 1,
        classes: Sequence[str] = (),
        chunk: int = 0,
        memory: int = 0,
    ):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.head = head
        self.cached = frozenset(cached)
        self.eval_views = eval_views
        self.classes = list(classes)
        self.chunk = chunk
        self.memory = nn.ModuleDict({m: Memory(memory, head.embed_dim) for m in encoders} if memory else {})

    def forward(self, batch: Mapping[str, Inputs]) -> Embedded:
        """Everything in a batch -> vectors of one space.

        With `chunk`, of each modality so many rows at a time: their vectors alone are kept, and all that led to them is
        computed once more, with the same random numbers, when the gradient comes back. So there is one loss over the
        whole batch, and its exact gradient, in the memory of one chunk (Gao et al. 2021). Two things are those of a
        chunk, not of the batch: the random numbers of dropout, and the statistics of BatchNorm in training.
        """
        vectors = {m: self.in_chunks(m, *batch[m][:2]) for m in self.encoders if m in batch}
        # Another process may have what this batch lacks, and waits for this one to take part in the gathering.
        none = next(iter(vectors.values())).new_zeros(0, self.head.embed_dim)  # (0, E), of the dtype of the others
        vectors = {modality: vectors.get(modality, none) for modality in self.encoders}
        return Embedded(vectors, self.head.logit_scale, self.head.logit_bias, self.head.class_logits(vectors))

    def in_chunks(self, modality: str, values: Tensor, lengths: Tensor | None) -> Tensor:
        """What a batch holds of one modality -> (b, E), `chunk` rows at a time."""
        parts = math.ceil(len(values) / self.chunk) if self.chunk else 1
        if parts == 1:
            return self.vectors(modality, values, lengths)
        weights = [weight for part in (self.encoders[modality], self.head) for weight in part.parameters()]
        trained = [weight for weight in weights if weight.requires_grad]
        return _InChunks.apply(self, modality, parts, values, lengths, *trained)  # (b, E)

    def vectors(self, modality: str, values: Tensor, lengths: Tensor | None) -> Tensor:
        """Some rows of one modality -> (b, E)."""
        features = self.encoders[modality](values, lengths, from_trunk=modality in self.cached)
        return self.head.embed(modality, features)

    @torch.no_grad()
    def embed(
        self,
        modality: str,
        sources: Sequence[Source],
        *,
        cache: Cache | None = None,
        batch_size: int = 64,
        workers: int = 2,
        bad: Callable[[int, str], None] | None = None,
    ) -> Tensor:
        """A list of raw items of one modality -> (n, E) float32 unit vectors on the CPU, in eval mode.

        Args:
            sources: files, arrays, or sentences.
            cache: trunk outputs of these sources; they are not decoded then.
            batch_size: items computed at once.
            workers: threads that read files ahead.
            bad: None = a damaged file is an error; else its row is left out, and this is told its place and why.

        Raises:
            ValueError: a modality that this model was not trained on, or no source.
            UnreadableError: a damaged file, named.
        """
        if not len(sources):
            raise ValueError(f"there must be at least one {modality} to embed: got none.")
        device = self.head.logit_scale.device
        encoder = self.encoder(modality).folded()
        entries = [Entry(f"{modality} {i}", "", source, {"row": i}) for i, source in enumerate(sources)]
        total = torch.zeros(len(entries), self.head.embed_dim)  # (n, E)
        damaged = set[int]()

        def leave_out(entry: Entry, reason: str) -> None:
            if bad and (row := entry.meta["row"]) not in damaged:  # the first view tells
                damaged.add(row)
                bad(row, reason.removeprefix(f"{entry.id}: "))

        with in_eval_mode(self):
            for view in range(self.eval_views if modality == "image" else 1):
                prepare = encoder.prepare if cache is None else cache.row
                for batch in prepared(entries, prepare, batch_size, workers, view, leave_out if bad else None):
                    lengths = None if batch.lengths is None else batch.lengths.to(device)
                    features = encoder(batch.values.to(device), lengths, from_trunk=cache is not None)
                    rows = [entry.meta["row"] for entry in batch.entries]
                    total[rows] += self.head.embed(modality, features).float().cpu()  # (b, E)
        whole = [row for row in range(len(entries)) if row not in damaged]
        return functional.normalize(total[whole], dim=-1)  # (n, E)

    def encoder(self, modality: str) -> encoders.Encoder:
        """The encoder of a modality.

        Raises:
            ValueError: a modality that this model was not trained on.
        """
        if modality not in self.encoders:
            raise ValueError(f"this model embeds {', '.join(self.encoders)}: got {modality!r}. Train one that has it.")
        return cast(encoders.Encoder, self.encoders[modality])

    def view(self, of: str, sources: Mapping[str, Source], target: str = "") -> encoders.View:
        """Why a picture or a sound is near a sentence, or near the other thing given: their cosine, to be explained.

        Args:
            of: "image" or "audio", what is explained.
            sources: {modality: a file or array}: it, and what it is compared with unless that is a sentence.
            target: the sentence; "" = the other source.

        Raises:
            ValueError: not exactly one thing to compare with, a modality that this model was not trained on, or a
                sentence of unknown words.
        """
        encoders.check_sources(of, sources, [modality for modality in self.encoders if modality != "text"])
        others = {modality: source for modality, source in sources.items() if modality != of}
        others |= {"text": target} if target else {}
        if len(others) != 1:
            raise ValueError(
                f"what the {of} is compared with must be one sentence or one other source: got "
                f"{' and '.join(others) or 'neither'}. Give a target, or another source."
            )
        ((modality, other),) = others.items()
        if modality == "text" and set(tokenize(target)) <= set(self.unknown_words(target)):
            near = [word for one in tokenize(target) for word in self.nearest_words(one)]
            hint = f" Words like them: {', '.join(dict.fromkeys(near))}." if near else ""
            raise ValueError(f"a target must have a word that the encoder knows: got {target!r}.{hint}")
        wanted = self.embed(modality, [other]).to(self.head.logit_scale.device)  # (1, E)

        def cosine(features: Features) -> Tensor:
            return functional.normalize(self.head.embed(of, features), dim=-1) @ wanted.T  # (B, 1)

        said = f"cosine with {target!r}" if modality == "text" else f"cosine with the {modality}"
        encoder = self.encoder(of)
        net = encoders.EndToEnd(encoder, self.head, cosine)
        return encoders.View(net, encoders.seen_of(encoder, sources[of]), 0, said)

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


class _InChunks(torch.autograd.Function):
    """The vectors of a batch, computed chunk by chunk without a trace, and chunk by chunk anew for their gradient."""

    @staticmethod
    def forward(
        ctx: Any, model: JointModel, modality: str, parts: int, values: Tensor, lengths: Tensor | None, *weights: Tensor
    ) -> Tensor:
        """(b, E) vectors of the values (b, ...), a batch as the encoder of the modality takes it, in so many parts."""
        device = values.device.type
        half, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        # A cache of rounded weights would keep what has no gradient here for whoever needs it next.
        ctx.autocast = partial(torch.autocast, device, half, enabled, cache_enabled=False)
        ctx.model, ctx.modality, ctx.parts, ctx.weights, ctx.random = model, modality, parts, weights, []
        ctx.save_for_backward(values, lengths)
        found = []
        with ctx.autocast():
            for chunk in _chunks(values, lengths, parts):
                ctx.random.append(_random_state(values.device))
                found.append(model.vectors(modality, *chunk))
        return torch.cat(found)  # (b, E)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        """The gradient by each of the weights; the other arguments have none."""
        values, lengths = ctx.saved_tensors
        totals: list[Tensor | None] = [None] * len(ctx.weights)
        chunks = zip(_chunks(values, lengths, ctx.parts), gradient.tensor_split(ctx.parts), ctx.random, strict=True)
        with torch.random.fork_rng([values.device] if values.is_cuda else []), _counted_already(ctx.model):
            for chunk, own, random in chunks:
                _set_random_state(random, values.device)
                with torch.enable_grad(), ctx.autocast():
                    vectors = ctx.model.vectors(ctx.modality, *chunk)  # (r, E)
                more = torch.autograd.grad(vectors, ctx.weights, own, allow_unused=True)
                totals = [_sum(total, part) for total, part in zip(totals, more, strict=True)]
        return None, None, None, None, None, *totals


def _chunks(values: Tensor, lengths: Tensor | None, parts: int) -> Iterator[tuple[Tensor, Tensor | None]]:
    """So many parts of about one size."""
    own = [None] * parts if lengths is None else lengths.tensor_split(parts)
    return zip(values.tensor_split(parts), own, strict=True)


def _sum(total: Tensor | None, more: Tensor | None) -> Tensor | None:
    """The sum of two gradients, in place of the first; None = there is none."""
    return more if total is None else total if more is None else total.add_(more)


def _random_state(device: torch.device) -> list[Tensor]:
    """Where the generators stand that a chunk on a device draws from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)


@contextlib.contextmanager
def _counted_already(model: nn.Module) -> Iterator[None]:
    """Within it, BatchNorm in training leaves its running statistics as they are."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, batches in kept:
            norm.momentum, norm.num_batches_tracked = momentum, batches
