"""The model that localises sounds: an image encoder, an audio encoder, and the head that compares their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from mm import encoders
from mm.data import Inputs
from mm.data.item import Source
from mm.features import Features
from mm.heads.localiser import Compared, SoundLocaliser
from mm.modes import in_eval_mode

MODALITIES = ("image", "audio")
SILENT_SAMPLES = 16_000  # of a silent clip, where the lengths of the others are not known: a second at 16 kHz
LOUDEST, QUIETEST = (
    0.3,
    -8.0,
)  # deviation of the noise among the silent clips at most; at least, as a power of ten of it


class Located(NamedTuple):
    """Where a sound comes from.

    Attributes:
        heat: (H, W) cosines of each cell with the sound, on the CPU.
        peak_xy: column and row of the highest cell's centre, as shares of the picture's width and height.
        score: its cosine.
        silence: the highest cosine of the same picture with silence: no more than that says nothing.
    """

    heat: Tensor
    peak_xy: tuple[float, float]
    score: float
    silence: float


class LocalisationModel(nn.Module):
    """An image encoder and an audio encoder under the localiser.

    Args:
        towers: {"image": whose map has rows and columns, "audio"}.
        head: compares their features.
        cached: modalities whose batches hold trunk outputs from a cache, so that only the encoder's tail runs.
    """

    def __init__(self, towers: Mapping[str, encoders.Encoder], head: SoundLocaliser, cached: Sequence[str] = ()):
        super().__init__()
        self.encoders = nn.ModuleDict(towers)
        self.head = head
        self.cached = frozenset(cached)

    def encoder(self, modality: str) -> encoders.Encoder:
        """The encoder of a modality."""
        return cast(encoders.Encoder, self.encoders[modality])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.log_scale.device

    def forward(self, batch: Mapping[str, Inputs], silent: Tensor | None = None) -> Compared:
        """The pictures of a batch, their sounds, and behind these the silent clips (k, T) that are given.

        Raises:
            ValueError: a picture without its sound, or a sound without its picture.
        """
        image, audio = batch["image"], batch["audio"]
        if not torch.equal(image.rows, audio.rows):
            raise ValueError(
                f"every item must have a picture and a sound: got {len(image.rows)} and {len(audio.rows)} in a batch."
            )
        pictures = self.encoder("image")(image.values, image.lengths, from_trunk="image" in self.cached)
        return self.head.compared(pictures, self.sounds(audio, silent))

    def sounds(self, audio: Inputs, silent: Tensor | None = None) -> Features:
        """Features of the sounds of a batch and of silent clips; together, for BatchNorm must see both alike."""
        encoder = self.encoder("audio")
        values, lengths = audio.values, audio.lengths
        if "audio" not in self.cached:
            values, lengths = encoder.trunk(values, lengths)
        if silent is not None and len(silent):
            more, more_lengths = encoder.trunk(silent)
            values, lengths = joined(values, lengths, more.to(values.dtype), more_lengths)
        return encoder(values, lengths, from_trunk=True)

    @torch.no_grad()
    def localise(self, images: Sequence[Source], sounds: Sequence[Source], batch_size: int = 32) -> list[Located]:
        """Where in picture k sound k comes from, in eval mode.

        Args:
            images: files or arrays.
            sounds: as many files or arrays.
            batch_size: pairs at once.

        Raises:
            ValueError: numbers of pictures and sounds differ, or there is none.
            MediaError, FileNotFoundError: a file cannot be read; the message names it.
        """
        if len(images) != len(sounds) or not len(images):
            raise ValueError(f"each picture must have its sound: got {len(images)} pictures, {len(sounds)} sounds.")
        pictures, heard = (
            self.encoder("image").encode(images, batch_size),
            self.encoder("audio").encode(sounds, batch_size),
        )
        heat = self.head.heatmap(pictures, heard).cpu()  # (B, H, W)
        nothing = self.encoder("audio").encode([torch.zeros(SILENT_SAMPLES)])
        nothing = nothing._replace(vector=nothing.vector.expand(len(images), -1))
        silence = self.head.heatmap(pictures, nothing).flatten(1).amax(dim=1).tolist()  # B
        rows, columns = heat.shape[1:]
        located = []
        for one, quiet in zip(heat, silence, strict=True):
            row, column = divmod(int(one.argmax()), columns)
            located.append(Located(one, ((column + 0.5) / columns, (row + 0.5) / rows), float(one.max()), quiet))
        return located

    @torch.no_grad()
    def view(self, of: str, sources: Mapping[str, Source], target: str = "") -> encoders.View:
        """What of a picture or of its sound lights up a place: the cosine of the two there, to be explained.

        Args:
            of: "image" or "audio".
            sources: {"image", "audio"}: files or arrays.
            target: "x,y" of the place, as shares of the picture's width and height; "" = the highest one.

        Raises:
            ValueError: a source is missing, or the place is none.
        """
        encoders.check_sources(of, sources, MODALITIES)
        if len(sources) != len(MODALITIES):
            raise ValueError(f"a place is explained of a picture and its sound: got {', '.join(sources)}. Give both.")
        (located,) = self.localise([sources["image"]], [sources["audio"]])
        x, y = place_of(target) if target else located.peak_xy
        rows, columns = located.heat.shape
        row, column = min(int(y * rows), rows - 1), min(int(x * columns), columns - 1)
        other = next(modality for modality in MODALITIES if modality != of)
        with in_eval_mode(self):
            known = self.encoder(other).from_seen(encoders.seen_of(self.encoder(other), sources[other]))

        def scores(features: Features) -> Tensor:
            again = encoders.repeated(known, len(features.map))
            image, audio = (features, again) if of == "image" else (again, features)
            return self.head(image, audio)  # (B, N)

        net = encoders.EndToEnd(self.encoder(of), self.head, scores)
        seen = encoders.seen_of(self.encoder(of), sources[of])
        said = f"cosine with the sound {100 * x:.0f} % from the left, {100 * y:.0f} % from the top"
        return encoders.View(net, seen, row * columns + column, said)


def place_of(target: str) -> tuple[float, float]:
    """ "0.25,0.5" -> (0.25, 0.5).

    Raises:
        ValueError: anything but two shares.
    """
    try:
        x, y = (float(part) for part in target.split(","))
    except ValueError:
        x = y = -1.0
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(f"a place must be two shares of width and height, such as 0.25,0.5: got {target!r}.")
    return x, y


def silent_like(audio: Inputs, count: int) -> Tensor:
    """Clips in which nothing sounds, drawn anew: white noise from next to nothing up to a loud one, (count, T).

    As long as the clips of a batch, where it holds their waves, so that length does not give silence away.
    """
    samples = audio.values.shape[1] if audio.values.dim() == 2 else SILENT_SAMPLES
    device = audio.values.device
    level = LOUDEST * 10 ** (QUIETEST * torch.rand(count, 1, device=device))  # (count, 1)
    return torch.randn(count, samples, device=device) * level  # (count, T)


def joined(
    values: Tensor, lengths: Tensor | None, more: Tensor, more_lengths: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Two batches of waves (b, T) or of places (b, N, D) as one, the shorter padded with zeros behind."""
    longest = max(values.shape[1], more.shape[1])
    if lengths is None and more_lengths is None and values.shape[1] == more.shape[1]:
        return torch.cat([values, more]), None

    def padded(x: Tensor) -> Tensor:
        return functional.pad(x, (0, 0) * (x.dim() - 2) + (0, longest - x.shape[1]))

    def known(x: Tensor, own: Tensor | None) -> Tensor:
        return own if own is not None else torch.full((len(x),), x.shape[1], device=x.device)

    all_lengths = torch.cat([known(values, lengths), known(more, more_lengths)])  # (b + k,)
    return torch.cat([padded(values), padded(more)]), all_lengths
