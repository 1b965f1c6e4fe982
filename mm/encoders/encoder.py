"""`Encoder`: what every encoder is, whatever its modality; and how a state-dict file is read without silence."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from torch import Tensor, nn

from mm.features import Features, pad
from mm.media import VERSION
from mm.modes import in_eval_mode

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"  # huggingface_hub's names


class Encoder(nn.Module, PyTorchModelHubMixin, library_name="mm"):
    """One raw item after another -> `Features`.

    A subclass gives `prepare` and `tail`, and `trunk` where it can be frozen; its `__init__` calls `super().__init__()`
    first, sets `dim` and `vector_dim`, and ends with `self.freeze_modules(...)` for what must not train. Its
    constructor arguments are JSON values and each has a name of its own (no `*args`, no `**kwargs`): they are its
    `config`, which with the weights rebuilds it bit for bit. Weights are never read in `__init__`.

    Attributes:
        modality: "image", "text" or "audio".
        dim: D of the map.
        vector_dim: D_v of the vector.
        frozen: the modules that never train and always stay in eval mode.
    """

    modality: str
    dim: int
    vector_dim: int

    def __init__(self) -> None:
        super().__init__()
        self.frozen: list[nn.Module] = []
        lost = sorted(set(self._hub_mixin_init_parameters) - {"self"} - set(self.config))
        if lost:
            raise TypeError(
                f"constructor arguments of {type(self).__name__} must be JSON values with a name each: {lost} cannot "
                "be kept in its config. Pass numbers, strings, lists or dicts."
            )

    @property
    def config(self) -> dict[str, Any]:
        """The constructor arguments, defaults included: JSON values."""
        config = self._hub_mixin_config
        return dict(config) if isinstance(config, dict) else {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    # What a subclass gives ------------------------------------------------------------------------------------------

    def prepare(self, source: Any, view: int = 0) -> Tensor:
        """One raw item -> one tensor on the CPU, deterministic, without weights: it runs in loading processes.

        Args:
            source: image: path, PIL image or array; text: a sentence; audio: path, float array or tensor.
            view: image only: which of the fixed crops `mm.media.VIEWS`.
        """
        raise NotImplementedError

    def trunk(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The frozen first part, without gradient; its outputs may be cached. The identity when nothing is frozen."""
        return values, lengths

    def tail(self, values: Tensor, lengths: Tensor | None = None) -> Features:
        """What follows the trunk."""
        raise NotImplementedError

    def seen(self, values: Tensor) -> Tensor:
        """What the network sees of a batch without padding, as floats: (B, C, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} sees nothing that could be explained place by place.")

    def from_seen(self, x: Tensor) -> Features:
        """Features of what the network sees, with a gradient to it, through frozen layers too: for explanations."""
        raise NotImplementedError(f"{type(self).__name__} sees nothing that could be explained place by place.")

    # What all share -------------------------------------------------------------------------------------------------

    def forward(self, values: Tensor, lengths: Tensor | None = None, from_trunk: bool = False) -> Features:
        """Features of a batch.

        Args:
            values: (B, 3, H, W) pictures, (B, L) tokens or (B, T) waves; with `from_trunk`, what `trunk` gave.
            lengths: (B,) int64, the real part of each row; None = all of it.
            from_trunk: `values` and `lengths` are outputs of `trunk`.
        """
        if not from_trunk:
            values, lengths = self.trunk(values, lengths)
        return self.tail(values, lengths)

    @torch.no_grad()
    def encode(self, sources: Sequence[Any], batch_size: int = 32) -> Features:
        """Features of a list of raw items, on the CPU, in eval mode; training flags are put back afterwards.

        Raises:
            TypeError: `sources` is one item instead of a list.
            ValueError: `sources` is empty or `batch_size` is below 1.
        """
        if isinstance(sources, (str, bytes, os.PathLike, np.ndarray, Tensor)) or not hasattr(sources, "__len__"):
            raise TypeError(f"sources must be a list of items: got one {type(sources).__name__}. Write [item].")
        if len(sources) == 0 or batch_size < 1:
            raise ValueError(
                f"encode needs at least one source and a batch_size of at least 1: got {len(sources)} and {batch_size}."
            )
        with in_eval_mode(self):
            parts = []
            for start in range(0, len(sources), batch_size):
                values, lengths = pad([self.prepare(source) for source in sources[start : start + batch_size]])
                lengths = lengths if lengths is None else lengths.to(self.device)
                parts.append(self(values.to(self.device), lengths).to("cpu"))
        return concatenate(parts)

    def folded(self) -> Self:
        """The same function, faster where it can be and for inference alone; the encoder itself where it cannot."""
        return self

    def freeze_modules(self, modules: Iterable[nn.Module]) -> None:
        """These modules never train: no gradient, and eval mode for good (BatchNorm statistics stay)."""
        for module in modules:
            self.frozen.append(module.requires_grad_(False).eval())

    def train(self, mode: bool = True) -> Self:
        """Set training or eval mode; frozen modules stay in eval mode."""
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def fingerprint(self, part: Literal["all", "trunk"] = "all") -> str:
        """16 hex digits that change with the class, the config, a weight (buffers included) or how files are read.

        Args:
            part: "all", or "trunk" for the weights of the frozen modules alone.
        """
        if part not in ("all", "trunk"):
            raise ValueError(f"part must be 'all' or 'trunk': got {part!r}.")
        digest = hashlib.sha256(json.dumps([VERSION, type(self).__name__, self.config], sort_keys=True).encode())
        names = {id(module): name for name, module in self.named_modules()}
        prefixes = ("",) if part == "all" else tuple(f"{names[id(m)]}.".lstrip(".") for m in self.frozen)
        for name, value in sorted(self.state_dict().items()):
            if name.startswith(prefixes):
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def save_pretrained(self, save_directory: str | Path, *, config: Any = None, **options: Any) -> str | None:
        """Write weights (safetensors) and config.json into a folder; each file appears whole or not at all.

        Args:
            save_directory: made if missing; earlier files of the same names are replaced.
            config: written instead of the encoder's own; the class name is added to it.
            options: `repo_id`, `push_to_hub` and so on of `PyTorchModelHubMixin.save_pretrained`.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        options.setdefault("repo_id", folder.name)
        config = {"class": type(self).__name__, **(self.config if config is None else config)}
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
            url = super().save_pretrained(temporary, config=config, **options)
            for path in Path(temporary).iterdir():
                if path.name != "README.md" or not (folder / path.name).exists():
                    os.replace(path, folder / path.name)
        return url

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        map_location: str = "cpu",
        strict: bool = True,  # the mixin's False would leave missing weights random without a word
        **model_kwargs: Any,
    ) -> Self:
        if os.path.isdir(model_id):
            missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not os.path.exists(os.path.join(model_id, name))]
            if missing:
                raise FileNotFoundError(
                    f"{model_id} must hold {CONFIG_FILE} and {WEIGHTS_FILE}: {missing} not found. "
                    "Write the folder with save_pretrained."
                )
            written = json.loads(Path(model_id, CONFIG_FILE).read_text(encoding="utf-8")).get("class", cls.__name__)
            if written != cls.__name__:
                raise TypeError(f"{model_id} holds a {written}, not a {cls.__name__}. Use {written}.from_pretrained.")
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # the mixin prints
                return super()._from_pretrained(
                    model_id=model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                    map_location=map_location,
                    strict=strict,
                    **model_kwargs,
                )
        except SafetensorError as error:
            raise ValueError(f"{WEIGHTS_FILE} of {model_id} is damaged: {error}. Save or download it again.") from error


def concatenate(parts: Sequence[Features]) -> Features:
    """One `Features` of several batches; the last axis of the grid (tokens, frames) grows to the longest.

    Args:
        parts: maps (B_i, N_i, D) on grids that differ in their last axis at most.

    Returns:
        map (sum B_i, N, D) with zeros at the places added, mask False there.

    Raises:
        ValueError: the grids differ elsewhere.
    """
    grids = sorted({part.grid for part in parts})
    if len({grid[:-1] for grid in grids}) > 1:
        raise ValueError(f"grids to concatenate may differ in their last axis only: got {grids}.")
    grid = (*grids[0][:-1], max(g[-1] for g in grids))
    maps, masks = [], []
    for part in parts:
        behind = grid[-1] - part.grid[-1]
        cells = F.pad(part.map.unflatten(1, part.grid), (0, 0, 0, behind))  # (B_i, *grid, D)
        maps.append(cells.flatten(1, len(grid)))  # (B_i, N, D)
        masks.append(F.pad(part.mask.unflatten(1, part.grid), (0, behind)).flatten(1))  # (B_i, N)
    return Features(torch.cat(maps), torch.cat(masks), torch.cat([part.vector for part in parts]), grid)


def load_weights(module: nn.Module, state: dict[str, Tensor], source: str | Path) -> None:
    """Fill a module from a state dict; every key must match, and so must every shape.

    Args:
        module: filled in place, in its own dtype.
        state: name -> tensor.
        source: where `state` came from, for the message.

    Raises:
        ValueError: names missing and unexpected keys, with the nearest, or the first shape that differs.
    """
    own = module.state_dict()
    missing, unexpected = [k for k in own if k not in state], [k for k in state if k not in own]
    if missing or unexpected:
        nearest = [(k, *difflib.get_close_matches(k, missing, n=1)) for k in unexpected]
        hints = [f"{pair[0]!r} -> {pair[1]!r}" for pair in nearest if len(pair) == 2][:5]
        raise ValueError(
            f"the keys of {source} must be those of {type(module).__name__}: missing {missing[:5]} "
            f"({len(missing)} in all), unexpected {unexpected[:5]} ({len(unexpected)} in all)."
            + (f" Nearest: {', '.join(hints)}." if hints else " Is it the file of another network?")
        )
    for key, value in own.items():
        if state[key].shape != value.shape:
            raise ValueError(
                f"{key!r} in {source} must have the shape {tuple(value.shape)}: got {tuple(state[key].shape)}. "
                f"Build {type(module).__name__} with the settings the file was made with."
            )
    module.load_state_dict(state)
