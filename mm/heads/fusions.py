"""Fusions: what was seen and what was asked, in one vector that the answer is read from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm.heads.looking import Inner, Looked, Normed
from mm.naming import known

MCB_WIDTH = 4  # numbers of the sketch for each of the result (Fukui et al. 2016 take 16,000 for 2,048)
MFB_FACTORS = 5  # k of Yu et al. 2017
MUTAN_RANK = 5  # R of Ben-younes et al. 2017
BAN_GLIMPSES = 2  # of Kim et al. 2018


class Multiply(nn.Module):
    """The point-wise product (Antol et al. 2015, "deeper LSTM Q + norm I").

    Both factors are normalised, and so is what `mm.heads.answerer` makes the first of. The gradient of each factor is
    scaled by the other; of small ones, as networks from scratch give them, it is so small that training stays at what
    the question alone says.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.of_seen, self.of_question = Normed(dim, dim), Normed(dim, dim)

    def forward(self, looked: Looked, inner: Inner | None = None) -> tuple[Tensor, None]:
        """-> (Q, D)."""
        return self.of_seen(looked.vector) * self.of_question(looked.asked.vector), None


class Concatenate(nn.Module):
    """Both vectors behind one another, and a linear layer with ReLU."""

    def __init__(self, dim: int):
        super().__init__()
        self.both = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU())

    def forward(self, looked: Looked, inner: Inner | None = None) -> tuple[Tensor, None]:
        """-> (Q, D)."""
        return self.both(torch.cat([looked.vector, looked.asked.vector], dim=-1)), None


class CompactBilinear(nn.Module):
    """Multimodal compact bilinear pooling (Fukui et al. 2016): the count sketch of the outer product, by FFT.

    Attributes:
        places, signs: (2, D) where each number of what was seen and asked goes in the sketch, and with which sign.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.width = MCB_WIDTH * dim
        self.register_buffer("places", torch.randint(self.width, (2, dim)))
        self.register_buffer("signs", torch.randint(2, (2, dim)).float() * 2 - 1)
        self.out = nn.Linear(self.width, dim)

    def forward(self, looked: Looked, inner: Inner | None = None) -> tuple[Tensor, None]:
        """-> (Q, D)."""
        return self.out(even(self.sketch(looked.vector, looked.asked.vector))), None

    def sketch(self, seen: Tensor, question: Tensor) -> Tensor:
        """(Q, D), (Q, D) -> (Q, width): the circular convolution of both count sketches, in float32."""
        spectrum = None
        for side, x in enumerate((seen, question)):
            counts = x.new_zeros(len(x), self.width, dtype=torch.float32)  # (Q, width)
            counts = counts.index_add(1, self.places[side], x.float() * self.signs[side])  # type: ignore[index]
            transformed = torch.fft.rfft(counts)  # (Q, width / 2 + 1)
            spectrum = transformed if spectrum is None else spectrum * transformed
        return torch.fft.irfft(spectrum, n=self.width)  # type: ignore[arg-type]


class FactorizedBilinear(nn.Module):
    """Multimodal factorized bilinear pooling (Yu et al. 2017, eq. 4): products, summed in groups of `MFB_FACTORS`."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.of_seen, self.of_question = (Normed(dim, MFB_FACTORS * dim) for _ in range(2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, looked: Looked, inner: Inner | None = None) -> tuple[Tensor, None]:
        """-> (Q, D)."""
        product = self.dropout(self.of_seen(looked.vector) * self.of_question(looked.asked.vector))  # (Q, k D)
        return even(product.unflatten(-1, (-1, MFB_FACTORS)).sum(dim=-1)), None


class Mutan(nn.Module):
    """Tucker fusion of low rank (Ben-younes et al. 2017, eq. 7-9): the sum of R products."""

    def __init__(self, dim: int):
        super().__init__()
        self.of_seen, self.of_question = (Normed(dim, MUTAN_RANK * dim) for _ in range(2))

    def forward(self, looked: Looked, inner: Inner | None = None) -> tuple[Tensor, None]:
        """-> (Q, D)."""
        product = torch.tanh(self.of_seen(looked.vector)) * torch.tanh(
            self.of_question(looked.asked.vector)
        )  # (Q, R D)
        return torch.tanh(product.unflatten(-1, (MUTAN_RANK, -1)).sum(dim=1)), None


class BilinearAttention(nn.Module):
    """Bilinear attention (Kim et al. 2018, eq. 6-9): words look at places; each glimpse adds to the words."""

    def __init__(self, dim: int, dropout: float):
        super().__init__()
        self.key_places, self.key_words = Normed(dim, dim), Normed(dim, dim)
        self.score = nn.Linear(dim, BAN_GLIMPSES, bias=False)
        self.of_places = nn.ModuleList(Normed(dim, dim) for _ in range(BAN_GLIMPSES))
        self.of_words = nn.ModuleList(Normed(dim, dim) for _ in range(BAN_GLIMPSES))
        self.back = nn.ModuleList(nn.Linear(dim, dim) for _ in range(BAN_GLIMPSES))
        self.dropout = nn.Dropout(dropout)

    def forward(self, looked: Looked, inner: Inner | None = None) -> tuple[Tensor, Tensor]:
        """-> (Q, D), and where it looked, over all words: (Q, G, N'); of each word: "words_and_places" (Q, L, N')."""
        places, words = looked.places, looked.asked.words
        weighted = self.dropout(self.key_words(words))[:, :, None] * self.score.weight  # (Q, L, G, D)
        scores = torch.einsum("qlgd,qnd->qgln", weighted, self.key_places(places)) / places.shape[-1] ** 0.5
        allowed = looked.asked.mask[:, None, :, None] & looked.mask[:, None, None]  # (Q, 1, L, N')
        flat = scores.masked_fill(~allowed, float("-inf")).flatten(2).softmax(-1)  # (Q, G, L N')
        alpha = flat.unflatten(-1, scores.shape[2:]).masked_fill(~allowed, 0)  # (Q, G, L, N')
        if inner is not None:
            inner.setdefault("words_and_places", []).extend(alpha.unbind(dim=1))
        for glimpse in range(BAN_GLIMPSES):
            share = alpha[:, glimpse].to(places.dtype)  # (Q, L, N')
            seen = torch.einsum("qln,qnd->qld", share, self.of_places[glimpse](places))  # (Q, L, D)
            joint = (self.of_words[glimpse](words) * seen).sum(dim=1)  # (Q, D)
            words = words + self.back[glimpse](joint)[:, None]  # (Q, L, D)
        real = looked.asked.mask[..., None].to(words.dtype)  # (Q, L, 1)
        return (words * real).sum(dim=1), alpha.sum(dim=2)


def even(x: Tensor) -> Tensor:
    """Signed square roots, at a root mean square of 1: sums of products have tails too long for a linear layer."""
    roots = x.float().sign() * (x.float().abs() + 1e-6).sqrt()  # (Q, D)
    return functional.normalize(roots, dim=-1) * x.shape[-1] ** 0.5  # (Q, D)


FUSIONS = ("mul", "concat", "mcb", "mfb", "mutan", "ban")


def build_fusion(name: str, dim: int, dropout: float) -> nn.Module:
    """The fusion of that name; each gives (Q, D), and where it looked or None.

    Raises:
        ValueError: there is none.
    """
    makers = {
        "mul": lambda: Multiply(dim),
        "concat": lambda: Concatenate(dim),
        "mcb": lambda: CompactBilinear(dim),
        "mfb": lambda: FactorizedBilinear(dim, dropout),
        "mutan": lambda: Mutan(dim),
        "ban": lambda: BilinearAttention(dim, dropout),
    }
    return makers[known(name, FUSIONS, "fusion")]()
