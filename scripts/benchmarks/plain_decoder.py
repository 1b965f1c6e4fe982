"""An attention LSTM as one would write it down first: everything anew at every step, one sentence search at a time.

The same function as `LSTMDecoder` with soft attention, a scalar gate and deep output (Xu et al. 2015), in the shape in
which tutorials give it: keys are projected at every step, logits fill a (B, T, V) tensor that is packed for the loss,
and beam search takes one picture after the other.
"""

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence

from mm.heads import LSTMDecoder
from mm.heads.decoding import NEVER
from mm.vocabulary import END, START

SHARED = ("places", "embedding", "keys", "score", "start_hidden", "start_cell")  # layers that both decoders have
SPOKEN = ("deep_word", "deep_hidden", "deep_seen", "output")


def renamed(values: Mapping[str, Tensor], parts: Sequence[int]) -> dict[str, Tensor]:
    """What belongs to the parameters of an `LSTMDecoder`, weights or gradients, by their names in a `PlainDecoder`."""
    values = dict(values)
    for kind in ("weight", "bias"):
        recurrent, query, gate = values.pop(f"from_state.{kind}").split(list(parts))  # (4 H, .), (H, .), (1, .)
        values |= {f"query.{kind}": query, f"gate.{kind}": gate, f"cell.{kind}_hh": recurrent}
    columns = [values.pop(f"{name}.weight") for name in ("from_word", "seen_gates")]
    values |= {"cell.weight_ih": torch.cat(columns, dim=1), "cell.bias_ih": values.pop("from_word.bias")}
    return values


class PlainDecoder(nn.Module):
    """The plain decoder with the weights of another one.

    Args:
        decoder: with soft attention, a scalar gate and deep output; it is copied.
    """

    def __init__(self, decoder: LSTMDecoder):
        super().__init__()
        for name in (*SHARED, *SPOKEN):
            self.add_module(name, copy.deepcopy(getattr(decoder, name)))
        self.query = nn.Linear(decoder.hidden, decoder.hidden)
        self.gate = nn.Linear(decoder.hidden, 1)
        seen_dim = decoder.seen_gates.in_features
        self.cell = nn.LSTMCell(decoder.embedding.embedding_dim + seen_dim, decoder.hidden)
        self.load_state_dict(renamed(decoder.state_dict(), decoder.parts))

    def start(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden and cell state (B, H) from the places (B, N, D)."""
        mean = values.mean(dim=1)  # (B, D)
        return self.start_hidden(mean).tanh(), self.start_cell(mean).tanh()  # (B, H) each

    def step(
        self, word: Tensor, state: tuple[Tensor, Tensor], values: Tensor, keys: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Logits (B, V) and state (B, H) after words (B, W).

        Args:
            word: (B, W).
            state: (B, H) each.
            values: (B, N, D).
            keys: (B, N, H), if they are known.
        """
        keys = self.keys(values) if keys is None else keys  # (B, N, H)
        scores = self.score(torch.tanh(keys + self.query(state[0]).unsqueeze(1))).squeeze(2)  # (B, N)
        alpha = scores.softmax(dim=1)  # (B, N)
        seen = (values * alpha.unsqueeze(2)).sum(dim=1)  # (B, D)
        seen = torch.sigmoid(self.gate(state[0])) * seen  # (B, D)
        hidden, cell = self.cell(torch.cat([word, seen], dim=1), state)  # (B, H) each
        spoken = torch.tanh(self.deep_word(word) + self.deep_hidden(hidden) + self.deep_seen(seen))  # (B, H)
        return self.output(spoken), (hidden, cell)

    def loss(self, map: Tensor, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Mean cross-entropy of the words.

        Args:
            map: (B, N, D), all of it real places.
            tokens: (B, L) int64, from <start> to <end>.
            lengths: (B,) int64.
        """
        order = lengths.argsort(descending=True, stable=True)  # (B,)
        tokens, steps = tokens[order], (lengths[order] - 1).tolist()  # (B, L), B
        values, words = self.places(map)[order], self.embedding(tokens)  # (B, N, D), (B, L, W)
        state = self.start(values)
        logits = map.new_zeros(len(map), steps[0], self.output.out_features)  # (B, T, V)
        for t in range(steps[0]):
            b = sum(length > t for length in steps)
            state = state[0][:b], state[1][:b]  # (b, H) each
            logits[:b, t], state = self.step(words[:b, t], state, values[:b])
        said = pack_padded_sequence(logits, steps, batch_first=True).data  # (M, V)
        wanted = pack_padded_sequence(tokens[:, 1:], steps, batch_first=True).data  # (M,)
        return functional.cross_entropy(said, wanted)

    @torch.no_grad()
    def write(self, map: Tensor, beam: int, max_length: int, keys_once: bool = False) -> list[int]:
        """The likeliest sentence that beam search finds about one input; each one that ends narrows the beam.

        Args:
            map: (N, D).
            beam: sentences under way at first.
            max_length: most tokens, <end> among them.
            keys_once: keep the keys, instead of projecting the places of all sentences at every step.
        """
        values = self.places(map[None]).expand(beam, -1, -1)  # (k, N, D)
        keys = self.keys(values[:1]).expand(beam, -1, -1) if keys_once else None  # (k, N, H)
        state = self.start(values)
        sums = values.new_zeros(beam, 1)  # (k, 1)
        sentences = torch.full((beam, 1), START)  # (k, t)
        complete: list[tuple[float, list[int]]] = []
        for t in range(max_length):
            logits, state = self.step(self.embedding(sentences[:, -1]), state, values, keys)
            log_probs = functional.log_softmax(logits, dim=1)  # (k, V)
            log_probs[:, list(NEVER)] = float("-inf")
            total = sums + log_probs  # (k, V)
            total = total[:1] if t == 0 else total  # all sentences are the same one
            best, place = total.flatten().topk(len(sums))  # (k,)
            parent, word = place // total.shape[1], place % total.shape[1]  # (k,) each
            sentences = torch.cat([sentences[parent], word[:, None]], dim=1)  # (k, t + 1)
            for row in (word == END).nonzero().flatten().tolist():
                complete.append((float(best[row]), sentences[row, 1:].tolist()))
            going = word != END  # (k,)
            if not going.any():
                break
            sentences, sums = sentences[going], best[going, None]  # (k', t + 1), (k', 1)
            state = state[0][parent[going]], state[1][parent[going]]  # (k', H) each
            values = values[parent[going]]  # (k', N, D)
            keys = None if keys is None else keys[parent[going]]  # (k', N, H)
        if not complete:
            return sentences[int(sums.argmax()), 1:].tolist()
        return max(complete, key=lambda found: found[0])[1]
