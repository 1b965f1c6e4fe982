"""Pictures and sounds that stand in the page as text: what they hold, and that what cannot be read is said."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mm.app.cards import Sources, card, cards_of
from mm.app.media import HEARD_S, SIDE_PX, kind_of, picture_uri, sound_uris
from mm.index import Hit
from mm.media import MediaError
from tests.app.conftest import Hostile
from tests.shared import Scene, write_tar

EVIL = '<img src=x onerror="alert(1)">'


def content(uri: str, kind: str) -> io.BytesIO:
    head, _, text = uri.partition(",")
    assert head == f"data:{kind};base64"
    return io.BytesIO(base64.b64decode(text, validate=True))


def test_the_kind_of_a_file_is_told_by_its_name() -> None:
    names = {"a.JPG": "image", "b.mp4": "image", "c.wav": "audio", "../../etc/d.flac": "audio"}
    assert {name: kind_of(name) for name in names} == names
    for name in ("passwd", "notes.txt", "index.html", ".wav"):
        with pytest.raises(ValueError, match="must be a picture, a sound or a video"):
            kind_of(name)


def test_a_picture_is_drawn_anew_and_small(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 900).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (600, 1))] * 3, axis=2)  # (600, 900, 3)
    Image.fromarray(pixels).save(tmp_path / "ramp.png", pnginfo=None)
    for source in (tmp_path / "ramp.png", pixels):
        with Image.open(content(picture_uri(source), "image/jpeg")) as found:
            assert found.size == (SIDE_PX, SIDE_PX * 2 // 3)
            expected = Image.fromarray(pixels).resize(found.size)
            assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).mean() < 2


def test_a_sound_is_its_beginning(tmp_path: Path) -> None:
    time_s = np.arange(round(12.5 * 8000)) / 8000
    wave = 0.4 * np.sin(2 * np.pi * 440 * time_s)
    soundfile.write(tmp_path / "tone.wav", wave, 8000)
    uri, drawn = sound_uris(tmp_path / "tone.wav")
    heard, rate = soundfile.read(content(uri, "audio/wav"))
    assert (len(heard), rate) == (HEARD_S * 16000, 16000)
    expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(len(heard)) / 16000)
    assert np.abs(heard - expected)[100:-100].max() < 1e-3
    short, _ = soundfile.read(content(sound_uris(torch.full((800,), 0.25))[0], "audio/wav"))
    assert short == pytest.approx(np.full(800, 0.25), abs=1e-4)
    rows = np.asarray(Image.open(content(drawn, "image/png")).convert("L"), int).mean(axis=1)
    assert rows.argmax() > 0.6 * len(rows)  # 440 Hz is near the lower edge


@pytest.mark.parametrize("name", ["no_sound", "empty", "notes"])
def test_what_is_no_sound(hostile: Hostile, name: str) -> None:
    with pytest.raises(MediaError):
        sound_uris(getattr(hostile, name))


# Cards --------------------------------------------------------------------------------------------------------------


def test_cards_escape_what_they_show() -> None:
    hits = [Hit(EVIL, 0.5, {"modality": "text", "text": EVIL}), Hit(2, 0.25, {"modality": EVIL, "path": f"/{EVIL}"})]
    html = cards_of(hits, Sources()) + card("", EVIL)
    assert "<img src=x" not in html
    assert html.count("&lt;img src=x onerror=&quot;alert(1)&quot;&gt;") == 7


def test_a_missing_file_is_a_placeholder_and_counted(scene: Scene, hostile: Hostile, tmp_path: Path) -> None:
    hits = [
        Hit("there", 0.9, {"modality": "image", "path": str(scene.image)}),
        Hit("gone", 0.8, {"modality": "image", "path": str(tmp_path / "gone.png")}),
        Hit("words", 0.7, {"modality": "audio", "path": str(hostile.no_sound)}),
        Hit("secret", 0.6, {"modality": "image", "path": "/etc/passwd"}),
        Hit("tar", 0.5, {"modality": "image", "shard": str(tmp_path / "gone.tar"), "member": "a.png"}),
    ]
    html = cards_of(hits, Sources())
    assert html.count('class="card"') == 5 and html.count('class="placeholder"') == 4
    assert "4 of 5 could not be shown." in html
    assert "no image: gone.png is not there" in html and "no audio: song.wav cannot be read" in html
    assert "no image: passwd cannot be read" in html and "no image: gone.tar is not there" in html
    assert "root:" not in html and str(tmp_path) not in html
    assert "could not be shown" not in cards_of(hits[:1], Sources())


def test_files_in_tars_are_shown(scene: Scene, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", {"x.png": scene.image.read_bytes()})
    (expected, found) = (
        cards_of([Hit("x", 1.0, {"modality": "image", **where})], Sources())
        for where in ({"path": str(scene.image)}, {"shard": str(tar), "member": "x.png"})
    )
    assert found == expected and "placeholder" not in found
