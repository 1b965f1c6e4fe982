"""The captioning model: an encoder of any modality and the captioner over its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from mm import encoders
from mm.data import Cache, Entry, Inputs, prepared
from mm.data.item import Source
from mm.features import Features
from mm.heads import Caption, Captioner
from mm.heads.captioner import BEAM, LENGTH_RULE, MAX_LENGTH
from mm.heads.decoding import NEVER, padded, sample
from mm.losses import sentence_sums
from mm.modes import in_eval_mode

BASELINE_DECAY = 0.9  # of hard attention (Xu et al. 2015, section 4.1)


@dataclass
class DecodingConfig:
    """How sentences are written."""

    beam: int = BEAM  # sentences under way; 1 = greedy
    length: str = LENGTH_RULE  # rule by which sentences are compared: none, avg or wu:<a>
    min_length: int = 1  # words at least
    max_length: int = MAX_LENGTH  # tokens at most, <end> among them; of training sentences too
    no_repeat: int = 0  # no run of so many words twice; 0 = no such rule


class Told(NamedTuple):
    """What the model says of the M words of C sentences.

    Attributes:
        logits: (M, V) of the words.
        targets: (M,) int64 the words.
        log_prob: (M,) of the words, where it is needed: of sentences that the model wrote, and with hard attention.
        sentence: (M,) int64, in 0..C - 1.
        mask: (C, N) bool, the real places of each sentence's input.
        attention: (M, N), or None.
        place_log_prob: (M,) of hard attention in training, or None.
        baseline: () of hard attention.
        tokens: (B, K, L) int64, the sentences.
    """

    logits: Tensor
    targets: Tensor
    log_prob: Tensor | None
    sentence: Tensor
    mask: Tensor
    attention: Tensor | None
    place_log_prob: Tensor | None
    baseline: Tensor
    tokens: Tensor


class CaptionModel(nn.Module):
    """An encoder and the captioner over its features.

    Args:
        modality: of what is described.
        encoder: of it.
        head: takes its features.
        cached: batches hold trunk outputs from a cache, so that only the encoder's tail runs.
    """

    def __init__(self, modality: str, encoder: encoders.Encoder, head: Captioner, cached: bool = False):
        super().__init__()
        self.modality = modality
        self.encoders = nn.ModuleDict({modality: encoder})
        self.head = head
        self.cached = cached

    @property
    def encoder(self) -> encoders.Encoder:
        """The one encoder."""
        return cast(encoders.Encoder, self.encoders[self.modality])

    def features(self, inputs: Inputs) -> Features:
        """Features of what a batch holds."""
        return self.encoder(inputs.values, inputs.lengths, from_trunk=self.cached)

    def forward(
        self,
        batch: Mapping[str, Inputs],
        sampling: float = 0.0,
        samples: int = 0,
        length: int = 0,
        temperature: float = 1.0,
    ) -> Told:
        """What the model says of the sentences of a batch, or of `samples` sentences that it writes itself.

        Args:
            batch: the modality's inputs; "text" with several rows for each of them, unless `samples` are written.
            sampling: see `Captioner.forward`.
            samples: sentences to write for each input; 0 = read those of the batch.
            length: most tokens of a sentence that is written.
            temperature: at which it is written; `log_prob` is then that of this very way of writing, in which <unk> and
                the like have no share. Else learning from such sentences would drift towards them.
        """
        features = self.features(batch[self.modality])
        if samples:
            training = self.head.training
            self.head.eval()  # the sentences and their probabilities are of one model, without dropout
            tokens, lengths = self.written(features, samples, length, temperature)
            forced = self.head(features, tokens, lengths)
            self.head.train(training)
        else:
            tokens, lengths = grouped(batch["text"], len(features.map))
            forced = self.head(features, tokens, lengths, sampling)
        targets = tokens[:, :, 1:].flatten(0, 1)[forced.sentence, forced.position]  # (M,)
        log_prob: Tensor | None = None
        if samples or forced.place_log_prob is not None:
            logits = forced.logits.float()  # (M, V)
            if samples:
                logits = logits.index_fill(1, torch.tensor(NEVER, device=logits.device), float("-inf")) / temperature
            log_prob = logits.gather(-1, targets[:, None]).squeeze(-1) - logits.logsumexp(-1)  # (M,)
        mask = features.mask.repeat_interleave(tokens.shape[1], dim=0)  # (C, N)
        baseline = self.head.baseline.clone()
        if self.training and forced.place_log_prob is not None and log_prob is not None:
            sums = sentence_sums(log_prob.detach(), forced.sentence, len(mask))  # (C,)
            now = sums[torch.bincount(forced.sentence, minlength=len(mask)) > 0].mean()
            self.head.baseline.lerp_(now, 1 - BASELINE_DECAY)
        return Told(
            forced.logits,
            targets,
            log_prob,
            forced.sentence,
            mask,
            forced.attention,
            forced.place_log_prob,
            baseline,
            tokens,
        )

    @torch.no_grad()
    def written(self, features: Features, count: int, length: int, temperature: float) -> tuple[Tensor, Tensor]:
        """Tokens (B, count, L) and their number (B, count) of sentences drawn from the model."""
        memory = self.head.memory(features)
        start = self.head.decoder.start(memory)
        drawn = sample(self.head.decoder.step, start, memory, count=count, max_length=length, temperature=temperature)
        return padded(drawn)

    @torch.no_grad()
    def describe(
        self,
        sources: Sequence[Source],
        decoding: DecodingConfig,
        *,
        cache: Cache | None = None,
        batch_size: int = 64,
        workers: int = 2,
    ) -> list[Caption]:
        """A sentence for each of some raw items, in eval mode.

        Args:
            sources: files or arrays.
            decoding: how.
            cache: trunk outputs of these sources; they are not decoded then.
            batch_size: items at once.
            workers: threads that read files ahead.

        Raises:
            ValueError: no source, or a setting of decoding out of its range.
            UnreadableError: a damaged file, named.
        """
        if not len(sources):
            raise ValueError(f"there must be at least one {self.modality} to describe: got none.")
        encoder = self.encoder.folded()
        device = self.encoder.device
        entries = [Entry(f"{self.modality} {i}", "", source, {}) for i, source in enumerate(sources)]
        captions: list[Caption] = []
        with in_eval_mode(self):
            for batch in prepared(entries, encoder.prepare if cache is None else cache.row, batch_size, workers):
                lengths = None if batch.lengths is None else batch.lengths.to(device)
                features = encoder(batch.values.to(device), lengths, from_trunk=cache is not None)
                captions += self.head.caption(features, **vars(decoding))
        return captions

    @torch.no_grad()
    def view(
        self, of: str, sources: Mapping[str, Source], target: str = "", decoding: DecodingConfig | None = None
    ) -> encoders.View:
        """What of a picture or a sound makes the model say a word: its log-probability, to be explained.

        Args:
            of: the modality of the model.
            sources: {it: a file or array}.
            target: a word of the vocabulary: where the model's own sentence has it, or could have it most probably;
                "" = the whole sentence, the mean of its words and its end.
            decoding: how that sentence is found; None = as by default.

        Raises:
            ValueError: another modality, or a word that the model does not know.
        """
        encoders.check_sources(of, sources, [self.modality])
        (caption,) = self.describe([sources[of]], decoding or DecodingConfig())
        words = [word for word in caption.words if word != "<end>"]
        if not words:
            raise ValueError(f"the model must say something to be explained: its caption of {sources[of]} is empty.")
        vocabulary = self.head.vocabulary
        if target and target not in vocabulary.words:
            near = ", ".join(vocabulary.nearest(target)) or "none is near"
            raise ValueError(f"a target must be a word that the model knows: got {target!r}. Nearest: {near}.")
        tokens = self.head.encode(" ".join(words), len(words) + 2).to(self.encoder.device)  # (L,)
        number = vocabulary.encode(target)[0] if target else 0
        own = torch.tensor([word == target for word in words])  # (L - 2,)

        def log_probs(features: Features) -> Tensor:
            count = len(features.map)
            lengths = torch.full((count, 1), len(tokens), device=tokens.device)
            forced = self.head(features, tokens.expand(count, 1, -1), lengths)
            each = forced.logits.float().log_softmax(dim=-1)  # (M, V)
            order = torch.argsort(forced.sentence * len(tokens) + forced.position)  # (M,)
            return each[order].unflatten(0, (count, len(tokens) - 1))  # (B, L - 1, V), its end the last

        def wanted(log_prob: Tensor) -> Tensor:
            if not target:
                length = len(caption.words)  # with its end, unless it was cut off
                return log_prob[:, range(length), tokens[1 : 1 + length]].mean(dim=1)  # (B,)
            of_word = log_prob[:, : len(words), number]  # (B, L - 2)
            if bool(own.any()):
                return of_word[:, own].sum(dim=1)  # (B,)
            return of_word[:, best]  # (B,)

        net = encoders.EndToEnd(self.encoder, self.head, log_probs)
        seen = encoders.seen_of(self.encoder, sources[of])
        with in_eval_mode(self):
            best = int(net(seen)[0, : len(words), number].argmax())
        said = f"mean log-probability a word of {caption.text!r}"
        if target:
            place = "in" if bool(own.any()) else f"instead of {words[best]!r} in"
            said = f"log-probability of {target!r} {place} {caption.text!r}"
        return encoders.View(net, seen, wanted, said)


def grouped(text: Inputs, inputs: int) -> tuple[Tensor, Tensor]:
    """Sentences in rows -> sentences by input: tokens (B, K, L) and lengths (B, K), K = the most that an input has.

    Args:
        text: values (b, L), lengths (b,), rows (b,) ascending.
        inputs: B.
    """
    assert text.lengths is not None
    counts = torch.bincount(text.rows, minlength=inputs)  # (B,)
    first = counts.cumsum(0) - counts  # (B,)
    slot = torch.arange(len(text.rows), device=text.rows.device) - first[text.rows]  # (b,)
    tokens = text.values.new_zeros(inputs, int(counts.max()), text.values.shape[1])  # (B, K, L)
    lengths = text.lengths.new_zeros(tokens.shape[:2])  # (B, K)
    tokens[text.rows, slot], lengths[text.rows, slot] = text.values, text.lengths
    return tokens, lengths
