"""Sentences from a decoder's `step`: greedy, sampled, and by batched beam search.

`step(token, state, memory)` makes one word of K sentences for each of B inputs and gives logits (B, K, V), the state
behind it (tensors (B, K, ...)) and where it looked, (B, K, N) or None. Nothing here knows what is behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mm.heads.decoder import Memory, State, draw
from mm.vocabulary import END, NEVER, PAD, START

Step = Callable[[Tensor, State, Memory], tuple[Tensor, State, Tensor | None]]


class Written(NamedTuple):
    """One sentence.

    Attributes:
        tokens: (L,) int64, <end> last if it is finished.
        log_probs: (L,) of each token.
        attention: (L, N) where the decoder looked, or None.
        score: what sentences are compared by: the sum of `log_probs` after the length rule.
        finished: whether it ends with <end>.
    """

    tokens: Tensor
    log_probs: Tensor
    attention: Tensor | None
    score: float
    finished: bool


def length_rule(rule: str) -> Callable[[float, int], float]:
    """score(sum of log-probabilities, tokens) by which sentences of different lengths are compared.

    Args:
        rule: "none": the sum; "avg": the mean; "wu:a": the sum / ((5 + L) / 6)^a (Wu et al. 2016, eq. 14), such as
            "wu:0.7".

    Raises:
        ValueError: another rule.

    >>> length_rule("avg")(-3.0, 6)
    -0.5
    """
    name, _, number = rule.partition(":")
    if rule == "none":
        return lambda total, tokens: total
    if rule == "avg":
        return lambda total, tokens: total / max(tokens, 1)
    try:
        if name == "wu" and float(number) >= 0:
            return lambda total, tokens: total / ((5 + tokens) / 6) ** float(number)
    except ValueError:
        pass
    raise ValueError(f"the length rule must be none, avg or wu:<a>, such as wu:0.7: got {rule!r}.")


def check_search(beam: int, max_length: int, min_length: int, no_repeat: int) -> None:
    """Reject numbers of `beam_search` that are out of their range.

    Raises:
        ValueError: one is.
    """
    if beam < 1 or max_length < 1 or not 0 <= min_length < max_length or no_repeat < 0:
        raise ValueError(
            "beam and max_length must be at least 1, min_length in 0..max_length - 1 and no_repeat at least 0: got "
            f"{beam}, {max_length}, {min_length} and {no_repeat}."
        )


@torch.no_grad()
def beam_search(
    step: Step,
    state: State,
    memory: Memory,
    *,
    beam: int,
    max_length: int,
    length: str = "none",
    min_length: int = 0,
    no_repeat: int = 0,
) -> list[Written]:
    """The best sentence of each input, all inputs searched at once.

    Each input has `beam` places for sentences under way. The likeliest continuations of all of them take these places;
    one that ends leaves its place for good. An input is done when its places are empty, or when no sentence under way
    can still overtake the best finished one: sums of log-probabilities only fall. What is kept of an input is there
    once, whatever the beam; the logits are touched by one logsumexp and one top-k a step.

    Args:
        step: see above.
        state: tensors (B, 1, ...), before the first word.
        memory: of B inputs.
        beam: sentences under way for each input; 1 is greedy decoding.
        max_length: most tokens, <end> among them. Where none has ended by then, the best unfinished one is given.
        length: rule by which finished sentences are compared, see `length_rule`.
        min_length: words before <end> may come.
        no_repeat: no run of so many tokens occurs twice in a sentence; 0 = no such rule.

    Returns:
        B sentences.

    Raises:
        ValueError: a number out of its range, or an unknown rule.
    """
    check_search(beam, max_length, min_length, no_repeat)
    score = length_rule(length)
    inputs, device = len(memory.mask), memory.mask.device
    row = torch.arange(inputs, device=device)  # (b,) the input of each row that is still searched
    token = torch.full((inputs, 1), START, device=device)  # (b, K)
    under_way = torch.zeros(inputs, 1, device=device)  # (b, K) sums of log-probabilities; -inf = an empty place
    places = torch.full((inputs,), beam, device=device)  # (b,) places that no finished sentence has left
    history = Histories(inputs, device)
    best: list[Written | None] = [None] * inputs
    for t in range(max_length):
        logits, state, alpha = step(token, state, memory)
        logits = logits.float()  # (b, K, V)
        total = logits.logsumexp(-1)  # (b, K)
        logits[..., list(NEVER)] = float("-inf")
        if t < min_length:
            logits[..., END] = float("-inf")
        if no_repeat:
            forbid_repeats(logits, history.tokens, no_repeat)
        values, words = logits.topk(min(beam, logits.shape[-1]), dim=-1)  # (b, K, k)
        continued = under_way[..., None] + (values - total[..., None])  # (b, K, k)
        width = min(int(places.max()), continued[0].numel())  # the most that any input still has places for
        sums, index = continued.flatten(1).topk(width, dim=-1)  # (b, width)
        sums = sums.masked_fill(torch.arange(width, device=device) >= places[:, None], float("-inf"))
        for r in (sums == float("-inf")).all(1).nonzero().flatten().tolist():  # every continuation is forbidden
            if best[i := int(row[r])] is None:
                k = int(under_way[r].argmax())
                best[i] = history.written(r, k, score(float(under_way[r, k]), t), False)
        parent = index // values.shape[-1]  # (b, width)
        token = words.flatten(1).gather(1, index)  # (b, width)
        gained = sums - under_way.gather(1, parent)  # (b, width)
        state = tuple(chosen(part, parent) for part in state)
        history.extend(parent, token, gained, alpha)

        ended = (token == END) & sums.isfinite()  # (b, width)
        for r, k in ended.nonzero().tolist():
            found, i = history.written(r, k, score(float(sums[r, k]), t + 1), True), int(row[r])
            if best[i] is None or found.score > best[i].score:  # type: ignore[union-attr]
                best[i] = found
        places = places - ended.sum(1)  # (b,)
        under_way = sums.masked_fill(ended, float("-inf"))  # (b, width)

        ahead = under_way.max(dim=1).values.tolist()  # b
        going = []
        for r, (i, most) in enumerate(zip(row.tolist(), ahead, strict=True)):
            rival = best[i]
            if rival is None and t + 1 == max_length:
                k = int(under_way[r].argmax())
                best[i] = history.written(r, k, score(most, t + 1), False)
            elif most > float("-inf") and (rival is None or score(most, max_length) > rival.score):
                going.append(r)
        if not going or t + 1 == max_length:
            break
        if len(going) <= 0.75 * len(row):  # drop what is done once that pays for the copies
            keep = torch.tensor(going, device=device)  # (b',)
            row, token, under_way, places = row[keep], token[keep], under_way[keep], places[keep]
            state, memory = tuple(part[keep] for part in state), memory.rows(keep)
            history.keep(keep)
    return [written for written in best if written is not None]


class Histories:
    """The tokens, log-probabilities and attention of the sentences under way, (b, K, t) and (b, K, t, N)."""

    def __init__(self, inputs: int, device: torch.device):
        self.tokens = torch.zeros(inputs, 1, 0, dtype=torch.int64, device=device)  # (b, K, t)
        self.log_probs = torch.zeros(inputs, 1, 0, device=device)  # (b, K, t)
        self.attention: Tensor | None = None  # (b, K, t, N)

    def extend(self, parent: Tensor, token: Tensor, log_prob: Tensor, alpha: Tensor | None) -> None:
        """Each sentence k continues sentence parent[k] by a token."""
        self.tokens = torch.cat([chosen(self.tokens, parent), token[..., None]], dim=-1)  # (b, K, t + 1)
        self.log_probs = torch.cat([chosen(self.log_probs, parent), log_prob[..., None]], dim=-1)  # (b, K, t + 1)
        if alpha is not None:
            now = chosen(alpha, parent)[:, :, None]  # (b, K, 1, N)
            before = now[:, :, :0] if self.attention is None else chosen(self.attention, parent)  # (b, K, t, N)
            self.attention = torch.cat([before, now], dim=2)  # (b, K, t + 1, N)

    def keep(self, rows: Tensor) -> None:
        """Forget the inputs that are done."""
        self.tokens, self.log_probs = self.tokens[rows], self.log_probs[rows]
        self.attention = None if self.attention is None else self.attention[rows]

    def written(self, row: int, place: int, score: float, finished: bool) -> Written:
        """One sentence as it stands."""
        attention = None if self.attention is None else self.attention[row, place].clone()  # (t, N)
        return Written(self.tokens[row, place].clone(), self.log_probs[row, place].clone(), attention, score, finished)


def chosen(part: Tensor, parent: Tensor) -> Tensor:
    """Rows `parent` (b, k) of the second axis of (b, K, ...): (b, k, ...)."""
    return part[torch.arange(len(part), device=part.device)[:, None], parent]


def forbid_repeats(logits: Tensor, tokens: Tensor, size: int) -> None:
    """Give -inf to every token that would make a run of `size` tokens occur twice.

    Args:
        logits: (b, K, V), changed in place.
        tokens: (b, K, t) so far.
        size: of the runs.
    """
    if tokens.shape[-1] < size:
        return
    runs = tokens.unfold(-1, size, 1)  # (b, K, t - size + 1, size)
    end = tokens[..., tokens.shape[-1] - size + 1 :]  # (b, K, size - 1)
    same = (runs[..., :-1] == end[:, :, None]).all(-1)  # (b, K, t - size + 1)
    b, k, run = same.nonzero(as_tuple=True)
    logits[b, k, runs[b, k, run, -1]] = float("-inf")


@torch.no_grad()
def sample(
    step: Step,
    state: State,
    memory: Memory,
    *,
    max_length: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    count: int = 1,
) -> list[list[Written]]:
    """Sentences drawn word by word; with temperature 0 the likeliest word each time (greedy decoding).

    Args:
        step: see above.
        state: tensors (B, 1, ...), before the first word.
        memory: of B inputs.
        max_length: most tokens, <end> among them.
        temperature: logits are divided by it.
        top_k: draw among the so many likeliest words; 0 = all.
        top_p: draw among the fewest words that together have this probability (Holtzman et al. 2020, section 3.1).
        count: sentences for each input.

    Returns:
        B lists of `count` sentences; `log_probs` are the model's own, before temperature and cuts.

    Raises:
        ValueError: a number out of its range.
    """
    if max_length < 1 or temperature < 0 or top_k < 0 or not 0 < top_p <= 1 or count < 1:
        raise ValueError(
            "max_length and count must be at least 1, temperature and top_k at least 0 and top_p in (0, 1]: got "
            f"{max_length}, {count}, {temperature}, {top_k} and {top_p}."
        )
    inputs, device = len(memory.mask), memory.mask.device
    state = tuple(part.expand(-1, count, *part.shape[2:]) for part in state)
    token = torch.full((inputs, count), START, device=device)  # (B, K)
    over = torch.zeros(inputs, count, dtype=torch.bool, device=device)  # (B, K)
    history, same = Histories(inputs, device), torch.arange(count, device=device).expand(inputs, count)
    history.tokens, history.log_probs = (h.expand(-1, count, -1) for h in (history.tokens, history.log_probs))
    for _ in range(max_length):
        logits, state, alpha = step(token, state, memory)
        logits = logits.float()  # (B, K, V)
        total = logits.logsumexp(-1, keepdim=True)  # (B, K, 1)
        logits[..., list(NEVER)] = float("-inf")
        if temperature == 0:
            token = logits.argmax(-1)  # (B, K)
        else:
            kept = cut(logits / temperature, top_k, top_p)  # (B, K, V)
            token = draw(kept.softmax(-1))  # (B, K)
        log_prob = (logits.gather(-1, token[..., None]) - total).squeeze(-1)  # (B, K)
        token = token.masked_fill(over, PAD)  # (B, K)
        history.extend(same, token, log_prob.masked_fill(over, 0.0), alpha)
        over = over | (token == END)
        if bool(over.all()):
            break
    return [[_cut_off(history.written(b, k, 0.0, bool(over[b, k]))) for k in range(count)] for b in range(inputs)]


def _cut_off(written: Written) -> Written:
    """The same sentence without the padding behind its end."""
    size = int((written.tokens != PAD).sum())
    attention = None if written.attention is None else written.attention[:size]
    log_probs = written.log_probs[:size]  # (L,)
    return Written(written.tokens[:size], log_probs, attention, float(log_probs.sum()), written.finished)


def cut(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits (..., V) with -inf at the words that may not be drawn, see `sample`."""
    if top_k and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]  # (..., 1)
        logits = logits.masked_fill(logits < least, float("-inf"))
    if top_p < 1:
        ordered, index = logits.sort(dim=-1, descending=True)  # (..., V)
        shares = ordered.softmax(-1)  # (..., V)
        before = shares.cumsum(-1) - shares  # (..., V) probability of the words ahead
        drop = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, index, before >= top_p)
        logits = logits.masked_fill(drop, float("-inf"))
    return logits


def padded(sentences: Sequence[Sequence[Written]]) -> tuple[Tensor, Tensor]:
    """Sentences (B of K) as a decoder's `forced` takes them: tokens (B, K, 1 + L) behind <start>, lengths (B, K)."""
    longest = max(len(written.tokens) for row in sentences for written in row)
    device = sentences[0][0].tokens.device
    tokens = torch.full((len(sentences), len(sentences[0]), 1 + longest), PAD, device=device)  # (B, K, 1 + L)
    tokens[..., 0] = START
    for b, row in enumerate(sentences):
        for k, written in enumerate(row):
            tokens[b, k, 1 : 1 + len(written.tokens)] = written.tokens
    return tokens, (tokens != PAD).sum(-1)
