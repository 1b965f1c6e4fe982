"""State-dict files."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a state-dict file, .safetensors or what torch.save writes, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights must be a state-dict file: {str(path)!r} not found. See docs/data.md.")
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch.load raise one of many kinds
        raise ValueError(
            f"{path} must be a state-dict file: it is damaged or another kind of file ({error})."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        kinds = sorted({type(v).__name__ for v in state.values()}) if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{path} must hold a dict of tensors: got {kinds}. Save model.state_dict() alone.")
    return state
