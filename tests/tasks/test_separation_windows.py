"""Windows over a sound of any length: nothing is lost, moved, swapped or kept, and each sees the frames of its time."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor

from mm.tasks.separation_windows import Windows, joined, separated

RATE, FPS = 800, 25.0  # 32 samples a frame
SHORT = Windows(0.48, 0.16)  # 12 frames, 4 of them of overlap
RATES = [(800, 25.0), (16000, 30.0), (44100, 30.0), (22050, 29.97), (8000, 12.5), (11025, 30.0), (735, 25.0)]

every_rate = pytest.mark.parametrize(("rate", "fps"), RATES)


def noise(samples: int, seed: int = 0) -> Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed))


def numbered(count: int) -> Iterator[Tensor]:
    return (torch.tensor([float(number)]) for number in range(count))


def same(wave: Tensor, faces: Tensor | None) -> Tensor:
    """The identity, twice."""
    return torch.stack([wave, -wave])


def windowed(wave: Tensor, faces: Tensor | None) -> Tensor:
    """Something that depends on where the window begins and ends."""
    return torch.stack([wave.cumsum(0) / (1 + len(wave)), wave.flip(0)])


def unseen() -> list[Iterator[Tensor]]:
    """Two faces that never end, for models that do not look at them."""
    return [itertools.repeat(torch.zeros(1)) for _ in range(2)]


def pieces(wave: Tensor, seed: int, most: int) -> Iterator[Tensor]:
    """A sound in blocks of random lengths, some of them empty."""
    chance = torch.Generator().manual_seed(seed)
    while len(wave):
        size = int(torch.randint(most + 1, (1,), generator=chance))
        yield wave[:size]
        wave = wave[size:]


class Calls:
    """A model that gives each face's own number, and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[Tensor, Tensor]] = []

    def __call__(self, wave: Tensor, faces: Tensor | None) -> Tensor:
        assert faces is not None
        self.given.append((wave, faces))
        return torch.arange(len(faces), dtype=wave.dtype)[:, None].expand(-1, len(wave))


class Counted:
    """An iterator that counts what has been taken from it, and says how much of that is still kept by anyone."""

    def __init__(self, values: Iterable[Tensor]):
        self.values, self.taken = iter(values), list[weakref.ref]()

    def __iter__(self) -> Counted:
        return self

    def __next__(self) -> Tensor:
        value = next(self.values)
        self.taken.append(weakref.ref(value))
        return value

    @property
    def kept(self) -> int:
        return sum(reference() is not None for reference in self.taken)


# What comes out ----------------------------------------------------------------------------------------------------


@every_rate
@pytest.mark.parametrize("windows", [SHORT, Windows(0.2, 0.1), Windows(0.6, 0.05), Windows(1.0, 0.36)])
def test_what_is_left_as_it_is_comes_back_whole(rate: int, fps: float, windows: Windows) -> None:
    window = windows.seconds * rate
    lengths = {1, 2, 3, round(rate / fps) - 1, round(rate / fps) + 1, round(0.5 * window), round(window) + 1}
    lengths |= {round(share * window) + extra for share in (1, 1.7, 2, 3.3, 7) for extra in (-1, 0, 1, 7)}
    for length in sorted(lengths):
        wave = noise(length)
        voices = joined(separated(same, pieces(wave, length, round(window)), None, rate, fps, windows))
        assert voices.shape == (2, length)
        lost = (voices - torch.stack([wave, -wave])).double().square().sum()
        assert 10 * math.log10(float(2 * wave.double().square().sum()) / max(float(lost), 1e-30)) > 100


def test_the_defaults_are_four_seconds_and_one(monkeypatch) -> None:
    calls = Calls()
    voices = joined(separated(calls, [noise(10 * RATE)], [numbered(250)], RATE, FPS))
    assert voices.shape == (1, 10 * RATE)
    assert [int(faces[0, 0]) for _, faces in calls.given] == [0, 75, 150]
    assert [len(wave) for wave, _ in calls.given] == [4 * RATE] * 3


@every_rate
def test_outputs_are_those_of_a_plain_loop_over_the_whole_sound(rate: int, fps: float) -> None:
    for length in (round(0.3 * rate), round(0.8 * rate), round(1.93 * rate), round(3 * rate)):
        wave = noise(length)
        long, overlap = round(SHORT.seconds * fps), round(SHORT.overlap * fps)  # frames
        edges = [math.floor(k * rate / fps + 0.5) for k in range(math.ceil(fps * 4) + long)]
        frames = sum(edge < length for edge in edges)  # that begin within the sound
        starts = [*range(0, max(frames - long, 0), long - overlap), max(frames - long, 0)]
        expected, done = torch.zeros(2, length), 0
        for start in starts:
            begin, end = edges[start], min(edges[start + long], length)
            share = ((torch.arange(begin, end) - begin + 0.5) / max(done - begin, 1)).clamp(max=1)
            share[max(done - begin, 0) :] = 1  # what no window has said yet
            expected[:, begin:end] += share * (windowed(wave[begin:end], None) - expected[:, begin:end])
            done = end
        voices = joined(separated(windowed, [wave], unseen(), rate, fps, SHORT))
        torch.testing.assert_close(voices, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1, 31, 32, 383, 384, 385, 640, 641, 5000, 5001])
def test_how_the_sound_is_cut_into_blocks_does_not_matter(length: int) -> None:
    wave = noise(length)
    whole = joined(separated(windowed, [wave], unseen(), RATE, FPS, SHORT))
    for seed, most in enumerate((1, 3, 50, 400, 3000)):
        blocks = list(separated(windowed, pieces(wave, seed, most), unseen(), RATE, FPS, SHORT))
        assert torch.equal(joined(blocks), whole)
        assert all(block.shape[1] for block in blocks)


def test_a_face_keeps_its_place_in_every_window() -> None:
    for faces in (1, 2, 4):
        for seconds in (0.3, 3.0, 3.01):
            length = round(seconds * RATE)
            voices = joined(separated(Calls(), [noise(length)], [numbered(99)] * faces, RATE, FPS, SHORT))
            assert torch.equal(voices, torch.arange(faces).float()[:, None].expand(-1, length))


def test_the_first_face_given_is_the_first_voice_that_comes() -> None:
    def shown(wave: Tensor, faces: Tensor | None) -> Tensor:
        assert faces is not None
        return faces[:, :1, 0] * wave  # each voice as loud as its face says

    wave = noise(4000)
    for order in itertools.permutations((2.0, 3.0, 5.0)):
        faces = [itertools.repeat(torch.tensor([level])) for level in order]
        voices = joined(separated(shown, pieces(wave, 0, 99), faces, RATE, FPS, SHORT))
        torch.testing.assert_close(voices, torch.tensor(order)[:, None] * wave, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("voices", [1, 2, 3])
def test_without_faces_voices_keep_the_order_of_the_first_window(voices: int) -> None:
    """A model that knows the voices, and gives them in another order in every window."""
    truth = torch.stack([noise(5000, seed) for seed in range(voices)])  # (S, T)
    chance, begun = torch.Generator().manual_seed(1), []

    def model(wave: Tensor, faces: Tensor | None) -> Tensor:
        begin = int((truth.sum(0).unfold(0, len(wave), 1) - wave).abs().sum(1).argmin())
        begun.append(begin)
        order = torch.randperm(voices, generator=chance) if begin else torch.arange(voices)
        return truth[order, begin : begin + len(wave)]

    found = joined(separated(model, pieces(truth.sum(0), 0, 300), None, RATE, FPS, SHORT))
    assert len(set(begun)) > 10
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-5)


# What goes in ------------------------------------------------------------------------------------------------------


@every_rate
@pytest.mark.parametrize("seconds", [0.001, 0.03, 0.3, 0.5, 0.7, 2.9, 3.0])
def test_every_window_has_the_frames_of_its_own_time(rate: int, fps: float, seconds: float) -> None:
    length = max(round(seconds * rate), 1)
    calls, shown = Calls(), Counted(numbered(200))
    joined(separated(calls, [torch.arange(length).float()], [shown], rate, fps, SHORT))
    for wave, faces in calls.given:
        begin, end = int(wave[0]), int(wave[-1]) + 1
        assert torch.equal(wave, torch.arange(begin, end).float())
        first, count = int(faces[0, 0, 0]), faces.shape[1]
        assert torch.equal(faces[0, :, 0], torch.arange(first, first + count).float())
        assert abs(first * rate / fps - begin) <= 0.5  # samples
        assert (first + count) * rate / fps >= end - 0.5  # each sample has its frame
        assert (first + count - 1) * rate / fps < end  # no frame is there for none
        if len(calls.given) > 1:
            assert count == round(SHORT.seconds * fps)
    assert len(shown.taken) == math.ceil((length - 0.5) * fps / rate)  # no more than the sound lasts


@pytest.mark.parametrize("there", [1, 2, 5, 30, 60])
def test_the_last_frame_of_a_face_that_ends_stays(there: int) -> None:
    calls = Calls()
    joined(separated(calls, [noise(70 * 32)], [numbered(there), numbered(70)], RATE, FPS, SHORT))
    for _, faces in calls.given:
        assert torch.equal(faces[0], faces[1].clamp_max(there - 1))


def test_a_model_that_only_hears_is_given_no_face() -> None:
    seen = []

    def model(wave: Tensor, faces: Tensor | None) -> Tensor:
        seen.append(faces)
        return wave[None]

    joined(separated(model, [noise(2000)], None, RATE, FPS, SHORT))
    assert len(seen) > 3 and all(faces is None for faces in seen)


def test_nothing_is_read_or_kept_that_is_not_needed_soon() -> None:
    """Endless sounds and faces: what has been taken beyond what came out, and what is alive, do not grow."""
    block, window = 100, round(SHORT.seconds * RATE)
    sound = Counted(noise(block, seed) for seed in itertools.count())
    faces = [Counted(numbered(10**9)) for _ in range(2)]
    voices, out = separated(same, sound, faces, RATE, FPS, SHORT), 0
    for _ in range(300):
        out += next(voices).shape[1]
        assert len(sound.taken) * block <= out + 2 * window + block
        assert sound.kept * block <= 2 * window + 2 * block
        for face in faces:
            assert len(face.taken) <= out * FPS / RATE + 2 * SHORT.seconds * FPS
            assert face.kept <= SHORT.seconds * FPS
    assert out > 50_000


def test_nothing_is_read_before_it_is_asked_for() -> None:
    sound, face = Counted([noise(100)]), Counted(numbered(9))
    separated(same, sound, [face], RATE, FPS)
    assert not sound.taken and not face.taken


# What is at fault --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "overlap"),
    [(4, 0), (4, -1), (4, 2.1), (0, 0), (-1, -1), (math.inf, 1), (math.nan, 1), (4, math.nan)],
)
def test_windows_that_do_not_overlap_or_too_much(seconds: float, overlap: float) -> None:
    with pytest.raises(ValueError, match=f"by at most half: got {seconds} s with {overlap} s"):
        Windows(seconds, overlap)


@pytest.mark.parametrize("windows", [Windows(1.08, 0.54), Windows(0.12, 0.06), Windows(0.08, 0.01)])
def test_windows_may_overlap_by_half_and_have_two_frames(windows: Windows) -> None:
    wave = noise(1500)
    assert torch.allclose(joined(separated(same, [wave], None, RATE, FPS, windows))[0], wave, atol=1e-6)


def test_what_cannot_be_separated_is_said() -> None:
    def error(sound: Iterable[Tensor], faces: list | None, windows: Windows = SHORT) -> str:
        with pytest.raises(ValueError) as raised:
            next(separated(same, sound, faces, RATE, FPS, windows))
        return str(raised.value)

    assert error([noise(9)], None, Windows(0.04, 0.01)) == (
        "a window must have two frames at least, at 25 a second: got 0.04 s. Take longer ones."
    )
    assert error([noise(9)], []) == "separation needs a face for each voice: got none. Name a video of each."
    for sound in ([], [noise(0)], [noise(0)] * 9):
        assert error(sound, None) == "a sound to separate must have at least one sample: got none."
    assert error([noise(9)], [numbered(3), numbered(0)]) == (
        "face 1 must have at least one frame: got none. Name another video."
    )
