"""What all tests share: no network, one thread, and the real data sets where they are laid out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub

import torch

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """real_data("flickr8k") is the folder of that set below $MM_DATA or ./data; the test is skipped without it."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("MM_DATA", "") or ROOT / "data") / name
        if not folder.is_dir():
            pytest.skip(f"the real data set {name} is not in {folder.parent} (MM_DATA names another folder)")
        return folder

    return find
