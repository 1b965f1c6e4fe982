"""What is said while a cache is filled; that it holds what the encoder says is tested with the encoders and tasks."""

import pytest
from tqdm import tqdm

from mm.data import frozen


def test_progress_of_a_cache_is_said_once_a_minute_without_a_bar(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mm")
    clock = [0.0]
    monkeypatch.setattr(frozen.time, "perf_counter", lambda: clock[0])
    with tqdm(disable=True) as bar:
        progress = frozen.CacheProgress("image cache", bar)
        for clock[0], done in ((30.0, 64), (61.0, 128), (100.0, 192), (122.0, 256)):
            progress(done, 6000)
    assert caplog.messages == ["image cache: 128 of 6,000", "image cache: 256 of 6,000"]
