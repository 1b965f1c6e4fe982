"""A face that moves -> `Features` of every frame: the shared image encoder on each, then convolutions over time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mm.encoders.audio_networks import MaskedNorm
from mm.encoders.encoder import Encoder
from mm.encoders.image import ImageEncoder, probe
from mm.features import Features, mask_from_lengths, masked_mean
from mm.video import FaceTrack, Frames, at_rate, box_at, crop, end_of, read_tracks, resampled, stream

EMBEDDINGS = "embeddings"  # in place of a network: faces come as one vector per frame
KERNEL = 5  # frames that a convolution over time sees
MOST_CELLS = 16  # of a map that is taken whole
DARKER, BRIGHTER = 0.8, 1.25  # brightness while training, at augment=1
WHOLE = (0.0, 0.0, 1.0, 1.0)

FaceSource = str | Path | Frames | np.ndarray | tuple[Any, FaceTrack | Path | None]


@dataclass
class VideoConfig:
    """Encoder of the frames of a face."""

    name: str = "lips_cnn"  # of mm.encoders.IMAGE_ENCODERS; "embeddings": faces come as vectors, see docs/data.md
    size: int = 0  # pixels a side of a frame, 0 = the network's own; of embeddings how many numbers
    layer: str = ""  # layer whose output is taken; "" = the network's last map
    freeze: bool = False  # the network of the frames does not train
    fps: float = 25.0  # frames per second; videos of other rates are brought to it by their times
    part: list[float] = field(default_factory=lambda: list(WHOLE))  # left, top, right, bottom: shares of the face
    width: int = 256  # numbers of a frame
    convs: int = 3  # convolutions over time
    augment: float = 0.0  # 0..1: clips are moved, mirrored, made brighter or darker while training
    rate: float = 1.0  # learning rate relative to optim.lr
    init: str = ""  # run folder whose video encoder to start from, or whose image encoder
    cache: bool = False  # keep the frames that are cut out of video files on disk, see mm.data.cache


class VideoEncoder(Encoder):
    """Frames of a face or mouth -> one vector per frame.

    Args:
        name: of `mm.encoders.IMAGE_ENCODERS`; "embeddings" where faces come as vectors that another network made.
        size: pixels a side of a frame, 0 = the network's own; of embeddings how many numbers a vector has.
        layer: of the network, whose output is taken; "" = its last map. A map of up to 16 cells is taken whole, of a
            larger one the vector.
        freeze: the network of the frames does not train; what follows does.
        fps: frames per second; videos of other rates give, for each such moment, the frame on show.
        part: (left, top, right, bottom) of the face that is looked at, as shares of its box: the mouth.
        width: D of the map.
        convs: residual convolutions over time, of 5 frames each.
        augment: 0..1; while training whole clips are moved by up to an eighth of a side, mirrored, and made brighter
            or darker, all in this measure.

    The map has one vector per frame, grid (frames,), frame k being on show at second k / fps; the vector is its mean.

    Raises:
        ValueError: a number out of its range, or see `mm.encoders.ImageEncoder`.
    """

    modality = "video"

    def __init__(
        self,
        name: str = VideoConfig.name,
        size: int = VideoConfig.size,
        layer: str = VideoConfig.layer,
        freeze: bool = VideoConfig.freeze,
        fps: float = VideoConfig.fps,
        part: Sequence[float] = WHOLE,
        width: int = VideoConfig.width,
        convs: int = VideoConfig.convs,
        augment: float = VideoConfig.augment,
    ) -> None:
        super().__init__()
        if fps <= 0 or width < 1 or convs < 0 or not 0 <= augment <= 1:
            raise ValueError(
                "fps must be positive, width at least 1, convs at least 0 and augment in 0..1: got "
                f"{fps}, {width}, {convs} and {augment}."
            )
        if len(part) != 4 or not (part[0] < part[2] and part[1] < part[3]):
            raise ValueError(f"part must be left, top, right, bottom as shares of the face: got {list(part)}.")
        self.fps, self.part, self.augment = fps, (part[0], part[1], part[2], part[3]), augment
        self.image: ImageEncoder | None = None
        if name == EMBEDDINGS:
            idle = {"layer": layer, "freeze": freeze, "augment": augment, "part": self.part != WHOLE}
            if size < 1 or any(idle.values()):
                raise ValueError(
                    "embeddings need their size and take no layer, freeze, augment or part: got "
                    f"size={size}, layer={layer!r}, freeze={freeze}, augment={augment}, part={list(part)}."
                )
            self.size = inputs = size
        else:
            self.image = ImageEncoder(name, size, layer, freeze)
            self.size = self.image.size
            cells = probe(self.image, self.size).map.shape[1]
            self.whole_map = cells <= MOST_CELLS
            inputs = cells * self.image.dim if self.whole_map else self.image.vector_dim
        self.dim = self.vector_dim = width
        self.into = nn.Linear(inputs, width)
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, bias=False) for _ in range(convs)
        )
        self.norms = nn.ModuleList(MaskedNorm(width) for _ in range(convs))
        self.relu = nn.ReLU()
        self.out = nn.Linear(width, width)
        if self.image and freeze:
            self.freeze_modules([self.image])

    def prepare(self, source: FaceSource, view: int = 0) -> Tensor:
        """A face -> (N, 1, size, size) uint8 grey at `fps`; embeddings: (N, size) float32.

        Args:
            source: a video file; frames with their times; frames (N, H, W) or (N, H, W, 3) uint8 that are at `fps`
                already; any of these with the track of the face in it, or the file of one. Of embeddings a .npy file
                of (N, size) at `fps`, or the array.
            view: 0, there are no fixed crops.

        Raises:
            mm.media.MediaError, FileNotFoundError: it cannot be read.
            ValueError: embeddings of another size.
        """
        if view:
            raise ValueError(f"videos have no fixed crops: view must be 0, got {view}.")
        frames, track = _tracked(source)
        if self.image is None:
            return self._embeddings(frames)
        if isinstance(track, (str, Path)):
            track = only(read_tracks(track), track)
        cut = [
            crop(picture, None if track is None else box_at(track, k / self.fps), self.part, self.size)
            for k, picture in enumerate(self._on_show(frames))
        ]  # N of (size, size)
        return torch.from_numpy(np.stack(cut))[:, None]  # (N, 1, size, size)

    def _on_show(self, frames: str | Path | Frames | np.ndarray) -> Iterable[np.ndarray]:
        """What is seen at every k / fps; a file is not kept in memory."""
        if isinstance(frames, (str, Path)):
            return at_rate(stream(frames, grey=True), end_of(frames), self.fps)
        return resampled(frames, self.fps) if isinstance(frames, Frames) else frames

    def _embeddings(self, source: Any) -> Tensor:
        values = np.load(source, allow_pickle=False) if isinstance(source, (str, Path)) else np.asarray(source)
        if values.ndim != 2 or values.shape[1] != self.size or not len(values):
            name = source if isinstance(source, (str, Path)) else "the given array"
            raise ValueError(
                f"face embeddings must be (N, {self.size}), a vector per frame: {name} is {values.shape}. Set "
                "encoder.video.size, or give other files."
            )
        return torch.from_numpy(values.astype(np.float32))  # (N, size)

    def tail(self, values: Tensor, lengths: Tensor | None = None) -> Features:
        """(B, N, 1, H, W) frames or (B, N, E) embeddings -> one vector per frame."""
        batch, places = values.shape[:2]
        if lengths is None:
            mask = torch.ones(batch, places, dtype=torch.bool, device=values.device)  # (B, N)
        else:
            mask = mask_from_lengths(lengths, places)  # (B, N)
        return self.over_time(values if self.image is None else self.each(values), mask, lengths is None)

    def seen(self, values: Tensor) -> Tensor:
        """Frames (B, N, 1, H, W) uint8 -> grey in 0..1, (B, N, H, W)."""
        if self.image is None:
            raise ValueError("face embeddings have no places that could be explained: give a run that sees frames.")
        return values[:, :, 0].float() / 255

    def from_seen(self, x: Tensor) -> Features:
        """Features of frames in 0..1, (B, N, H, W)."""
        assert self.image is not None
        pictures = 255 * x.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)  # (B N, 3, H, W)
        seen = self.image.from_seen((pictures - self.image.mean) / self.image.std)
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)  # (B, N)
        return self.over_time(self.in_one(seen, len(x)), mask, True)

    def over_time(self, each: Tensor, mask: Tensor, whole: bool) -> Features:
        """One vector per frame (B, N, D'), (B, N), `whole` = no padding -> the same, each with its neighbours'."""
        places = each.shape[1]
        real = None if whole else mask[:, None].float()  # (B, 1, N)
        x = self.into(each).transpose(1, 2)  # (B, D, N)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x if real is None else x * real
            x = x + self.relu(norm(conv(x), real))  # (B, D, N)
        map = self.out(x.transpose(1, 2)) * mask[..., None]  # (B, N, D)
        return Features(map, mask, masked_mean(map, mask), (places,))

    def each(self, frames: Tensor) -> Tensor:
        """What the image encoder says of every frame: (B, N, 1, H, W) -> (B, N, D')."""
        assert self.image is not None
        batch = len(frames)
        if self.training and self.augment:
            frames = varied(frames, self.augment)
        pictures = frames.flatten(0, 1).expand(-1, 3, -1, -1)  # (B N, 3, H, W)
        return self.in_one(self.image(pictures), batch)  # (B, N, D')

    def in_one(self, seen: Features, batch: int) -> Tensor:
        """Features of B N frames -> (B, N, D')."""
        each = seen.map.flatten(1) if self.whole_map else seen.vector  # (B N, D')
        return each.unflatten(0, (batch, -1))  # (B, N, D')


def _tracked(source: FaceSource) -> tuple[Any, FaceTrack | Path | None]:
    """Frames, and where the face is in them; `Frames` are a tuple too."""
    return source if isinstance(source, tuple) and not isinstance(source, Frames) else (source, None)


def varied(frames: Tensor, augment: float) -> Tensor:
    """Each clip moved, mirrored and made brighter or darker as a whole, with torch's random numbers.

    Args:
        frames: (B, N, 1, H, W) uint8.
        augment: 0..1, how strongly.
    """
    batch, _, _, height, width = frames.shape
    chance = torch.rand(batch, 4, device=frames.device)
    varied = torch.empty_like(frames)
    for clip, new, (down, right, mirror, light) in zip(frames, varied, chance.tolist(), strict=True):
        rows = torch.arange(height, device=frames.device) + round((2 * down - 1) * augment * height / 8)  # (H,)
        columns = torch.arange(width, device=frames.device) + round((2 * right - 1) * augment * width / 8)  # (W,)
        columns = columns.flip(0) if mirror < augment / 2 else columns
        moved = clip[..., rows.clamp(0, height - 1), :][..., columns.clamp(0, width - 1)]  # (N, 1, H, W)
        factor = 1 + augment * (DARKER * (BRIGHTER / DARKER) ** light - 1)
        new.copy_((moved.float() * factor).clamp_(0, 255))
    return varied


def only(tracks: dict[str, FaceTrack], path: str | Path) -> FaceTrack:
    """The one face of a file of tracks.

    Raises:
        ValueError: it has several.
    """
    if len(tracks) != 1:
        raise ValueError(f"{path} must hold the track of one face here: got {', '.join(tracks)}. Split it.")
    return next(iter(tracks.values()))
