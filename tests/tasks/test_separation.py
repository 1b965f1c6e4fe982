"""The model that separates, what it learns from, what it reads, and its scores beside their controls."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mm import encoders
from mm.config import ConfigError, to_yaml
from mm.config import load as read_config
from mm.data import Talk, Talkers, Talks, UnreadableError
from mm.data.mixtures import Mixture
from mm.encoders import audio_encoder, image_encoder, text_encoder
from mm.losses import compressed_loss, si_sdr_loss, snr_loss
from mm.media import MediaError
from mm.metrics.separation import EXTRAS, available
from mm.signal import Stft, si_sdr
from mm.tasks import separation, separation_data, separation_scores
from mm.tasks.separation import Objective, Separation
from mm.tasks.separation_data import Heard, Seen, delayed, frozen
from mm.tasks.separation_model import SpeechSeparator
from mm.tasks.separation_scores import Voices
from mm.tasks.separation_windows import Windows
from mm.video import FaceTrack, Frames
from tests.videos import video

ROOT = Path(__file__).parents[2]
TINY = ["--config", str(ROOT / "configs/separation/tiny.yaml")]
RATE, FPS = 8000, 25
TRUNKS = ["head.trunk=recurrent", "head.trunk=convolutional"]

Config = Callable[..., Separation]


@pytest.fixture
def config() -> Config:
    return lambda *changes: read_config(Separation, [*TINY, *changes])


@pytest.fixture(scope="module")
def talkers() -> Talks:
    """Eight talks of two seconds, two by each speaker."""
    return Talks(Talkers("train", 8))


def model_of(cfg: Separation, strength: float = 10.0) -> SpeechSeparator:
    """A model whose masks differ much from frame to frame and from face to face, though it has learned nothing."""
    torch.manual_seed(cfg.seed)
    model = separation.build_model(cfg).eval()
    with torch.no_grad():
        model.head.out.weight.mul_(strength)
        if cfg.faces and strength > 1:
            model.video.into.weight.mul_(strength)
            model.video.out.weight.mul_(strength)
    return model


def together(talks: Sequence[Talk], model: SpeechSeparator) -> tuple[Tensor, Tensor, Tensor]:
    """Some talks at once: the mixture (1, T), the targets (1, S, T) and the faces (1, S, N, 1, H, W)."""
    targets = torch.stack([torch.from_numpy(talk.voice) for talk in talks])[None]  # (1, S, T)
    faces = torch.stack([model.video.prepare(talk.face) for talk in talks])[None]  # (1, S, N, 1, H, W)
    return targets.sum(1), targets, faces


def decibel(kept: Tensor, lost: Tensor) -> float:
    energies = [float(wave.double().square().sum()) for wave in (kept, lost)]
    return 10 * math.log10(energies[0] / max(energies[1], 1e-30))


# The model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_batch_gives_what_each_mixture_gives_alone(config: Config, talkers: Talks, trunk: str) -> None:
    model = model_of(config(trunk))
    lengths, shown = torch.tensor([16000, 9613, 12800]), torch.tensor([[50, 50], [31, 20], [40, 40]])
    mixtures, faces = torch.zeros(3, 16000), torch.zeros(3, 2, 50, 1, 32, 32, dtype=torch.uint8)
    for b, pair in enumerate((talkers[:2], talkers[2:4], talkers[5:7])):
        mixture, _, seen = together(pair, model)
        mixtures[b, : lengths[b]] = mixture[0, : lengths[b]]
        for s in range(2):
            faces[b, s, : shown[b, s]] = seen[0, s, : shown[b, s]]
    with torch.no_grad():
        found = model(mixtures, faces, 2, lengths, shown)
        for b in range(3):
            count, most = int(lengths[b]), int(shown[b].max())
            known = None if b == 0 else shown[b : b + 1]
            alone = model(mixtures[b : b + 1, :count], faces[b : b + 1, :, :most], 2, None, known)
            assert decibel(alone, found[b : b + 1, :, :count] - alone) > 60
            assert not found[b, :, count:].any()


@pytest.mark.parametrize("voices", [1, 2, 3, 4])
@pytest.mark.parametrize("trunk", TRUNKS)
def test_outputs_follow_the_order_of_the_faces(config: Config, talkers: Talks, trunk: str, voices: int) -> None:
    model = model_of(config(trunk))  # the same weights for any number of faces
    mixture, _, faces = together(talkers[:voices], model)
    with torch.no_grad():
        outputs = model(mixture, faces, voices)
        for order in list(itertools.permutations(range(voices)))[1:6]:
            permuted = model(mixture, faces[:, list(order)], voices)
            torch.testing.assert_close(permuted, outputs[:, list(order)], rtol=1e-4, atol=1e-5)
        same = model(mixture, faces[:, :1].expand_as(faces), voices)
    torch.testing.assert_close(same, same[:, :1].expand_as(same), rtol=1e-5, atol=1e-6)
    for one, other in itertools.combinations(range(voices), 2):
        assert decibel(outputs[:, one], outputs[:, one] - outputs[:, other]) < 40  # faces are not ignored


@pytest.mark.parametrize(("mask", "bias"), [("complex", 0.5), ("phase_sensitive", 0.5), ("magnitude", 30.0)])
def test_masks_of_one_give_the_mixture_back_at_its_level(
    config: Config, talkers: Talks, mask: str, bias: float
) -> None:
    model = model_of(config(f"head.mask={mask}"), strength=0)
    bins = model.audio.stft.bins
    with torch.no_grad():
        model.head.out.bias.zero_()[:bins] = bias
        mixture, _, faces = together(talkers[:2], model)
        for samples in (16000, 15999, 7000):
            outputs = model(3 * mixture[:, :samples], faces, 2)
            for output in outputs[0]:
                assert decibel(mixture[0, :samples], output / 3 - mixture[0, :samples]) > 60
    long = torch.cat([mixture[0], 0.3 * mixture[0].flip(0), mixture[0, :9001]])
    for output in model.separate(long, [talk.face for talk in talkers[:2]], Windows(2.0, 0.5)):
        assert decibel(long, output - long) > 60


def test_masks_are_those_of_the_outputs(config: Config, talkers: Talks) -> None:
    model = model_of(config())
    mixture, _, faces = together(talkers[:2], model)
    with torch.no_grad():
        outputs = model(mixture, faces, 2)
        masked = model.audio.stft.inverse(model.masks(mixture, faces, 2) * model.audio.stft(mixture)[:, None], 16000)
        torch.testing.assert_close(outputs[..., :-256], masked[..., :-256])
        torch.testing.assert_close(model.behind(model.masks(mixture, faces, 2), mixture), outputs)


@pytest.mark.parametrize("window", ["encoder.audio.window_s=0.032", "encoder.audio.hop_s=0.010"])
def test_the_end_of_a_sound_is_as_loud_as_the_rest(config: Config, talkers: Talks, window: str) -> None:
    """Wherever it ends, and whatever the masks: the last samples lie under the rim of a window."""
    model = model_of(config(window), strength=30)
    mixture, _, faces = together(talkers[2:4], model)
    mixture = mixture + 0.1 * torch.randn(mixture.shape, generator=torch.Generator().manual_seed(0))
    for samples in range(12000, 12000 + model.audio.stft.hop, 9):
        with torch.no_grad():
            outputs = model(mixture[:, :samples], faces, 2)
        ends, rest = outputs[..., -16:].abs().max(), outputs[..., 2000:-200].abs().max()
        assert ends < 1.2 * rest


# Sounds of any length ----------------------------------------------------------------------------------------------


def test_a_short_sound_is_separated_in_one_piece(config: Config, talkers: Talks) -> None:
    model = model_of(config()).train()
    mixture, _, faces = together(talkers[:2], model)
    separated = model.separate(mixture[0], [talk.face for talk in talkers[:2]])
    assert model.training
    with torch.no_grad():
        torch.testing.assert_close(separated, model.eval()(mixture, faces, 2)[0])
    blind = model_of(config("faces=false"))
    with torch.no_grad():
        torch.testing.assert_close(blind.separate(mixture[0].numpy(), 3), blind(mixture, None, 3)[0])


def test_windows_give_what_the_whole_sound_gives_away_from_where_they_meet(config: Config, talkers: Talks) -> None:
    """With convolutions alone a frame sees little of what is around it; the level of a window is not that of all."""
    model = model_of(config("head.trunk=convolutional", "head.blocks=2"))
    parts = [together(talkers[k : k + 2], model) for k in (0, 2, 4, 6)]
    mixture = torch.cat([part[0] for part in parts], dim=1)  # (1, T), 8 s
    faces = torch.cat([part[2] for part in parts], dim=2)  # (1, 2, 200, 1, 32, 32)
    shown = [Frames(face[:, 0].numpy(), np.arange(200) / FPS, 8.0) for face in faces[0]]
    windows = Windows(2.0, 0.48)  # of 50 frames, each 38 behind the one before: as many frames of the spectrum
    with torch.no_grad():
        whole = model(mixture, faces, 2)[0]
    windowed = model.separate(mixture[0], shown, windows)
    starts = [*range(0, 150, 38), 150]
    near = torch.zeros(len(mixture[0]), dtype=torch.bool)
    for edge in sorted({*starts, *(start + 50 for start in starts)})[1:-1]:
        near[max(edge - 8, 0) * 320 : (edge + 8) * 320] = True
    assert 0.1 < float((~near).float().mean()) < 0.9
    assert decibel(whole[:, ~near], (windowed - whole)[:, ~near]) > 20
    assert decibel(windowed, windowed - 0.5 * mixture[0]) < 10  # the masks say something


def test_windows_change_nothing_where_the_mask_does_not_depend_on_them(config: Config, talkers: Talks) -> None:
    model = model_of(config(), strength=0)
    with torch.no_grad():
        model.head.out.bias.normal_()  # another number for each frequency
    mixture = torch.cat([together(talkers[k : k + 2], model)[0] for k in (0, 2, 4)], dim=1)  # (1, T), 6 s
    faces = [talk.face for talk in talkers[:2]]
    with torch.no_grad():
        whole = model(mixture, together(talkers[:2], model)[2], 2)[0]
    windowed = model.separate(mixture[0], faces, Windows(2.0, 0.48))
    inner = slice(1600, -1600)
    assert decibel(whole[:, inner], (windowed - whole)[:, inner]) > 20
    torch.testing.assert_close(windowed[:, :9000], whole[:, :9000], rtol=1e-4, atol=1e-5)  # of the first window alone


def test_files_are_separated_as_what_is_in_them(config: Config, talkers: Talks, tmp_path: Path) -> None:
    model = model_of(config())
    mixture = together(talkers[:2], model)[0][0]
    soundfile.write(tmp_path / "mixture.wav", mixture.numpy(), RATE, subtype="FLOAT")
    faces = []
    for talk in talkers[:2]:
        assert isinstance(talk.face, Frames)
        pictures = [np.repeat(picture[..., None], 3, axis=2) for picture in talk.face.pictures]
        faces.append(video(tmp_path / f"{talk.id}.mp4", pictures, fps=FPS))
    separated = model.separate(str(tmp_path / "mixture.wav"), faces)
    seen = torch.stack([model.video.prepare(face) for face in faces])[None]
    with torch.no_grad():
        torch.testing.assert_close(separated, model(mixture[None], seen, 2)[0], rtol=1e-4, atol=1e-5)
    with pytest.raises(FileNotFoundError, match=r"none\.wav"):
        model.separate(tmp_path / "none.wav", faces)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(MediaError, match=r"bad\.mp4"):
        model.separate(mixture, [faces[0], tmp_path / "bad.mp4"])


def test_what_a_model_does_not_take_is_said(config: Config, talkers: Talks) -> None:
    seeing, blind = model_of(config()), model_of(config("faces=false"))
    wave = torch.from_numpy(talkers[0].voice)
    with pytest.raises(ValueError, match="needs a face for each voice: got none"):
        seeing.separate(wave, [])
    with pytest.raises(ValueError, match="goes by faces: it takes one for each voice, and got none"):
        seeing.separate(wave, 2)
    with pytest.raises(ValueError, match="only hears: it takes the number of voices, and no face"):
        blind.separate(wave, [talkers[0].face])
    with pytest.raises(ValueError, match="separates 1 to 4 voices: got 5"):
        blind.separate(wave, 5)
    with pytest.raises(ValueError, match="at least one sample"):
        blind.separate(wave[:0], 2)


# What is learned ---------------------------------------------------------------------------------------------------


def batch_of(talks: Talks, model: SpeechSeparator, cfg: Separation, voices: int = 2) -> dict[str, Tensor]:
    return next(separation_data.training_batches(model, talks, cfg)[voices](0))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["loss.name=snr"], {"snr_loss": 1.0}),
        (["loss.name=si_sdr"], {"si_sdr_loss": 1.0}),
        (["loss.name=compressed"], {"compressed_loss": 1.0}),
        (["loss.name=snr", "loss.compressed=0.25"], {"snr_loss": 1.0, "compressed_loss": 0.25}),
        (["loss.name=si_sdr", "loss.compressed=2"], {"si_sdr_loss": 1.0, "compressed_loss": 2.0}),
    ],
)
def test_the_parts_of_the_loss(config: Config, talkers: Talks, given: list[str], expected: dict[str, float]) -> None:
    cfg = config(*given)
    model = model_of(cfg)
    batch = batch_of(talkers, model, cfg)
    with torch.no_grad():
        parts = Objective(cfg)(model, batch, 0)
        estimates, stft = model(batch["mixture"], batch["faces"], 2), Stft(RATE, 0.032, 0.016)
    losses = {
        "snr_loss": lambda e, t: snr_loss(e, t),
        "si_sdr_loss": lambda e, t: si_sdr_loss(e, t),
        "compressed_loss": lambda e, t: compressed_loss(e, t, stft, 0.3),
    }
    assert parts.keys() == expected.keys()
    for name, weight in expected.items():
        assert float(parts[name]) == pytest.approx(weight * float(losses[name](estimates, batch["targets"])), rel=1e-5)
        assert float(losses[name](estimates.flip(1), batch["targets"])) != pytest.approx(float(parts[name]), rel=1e-3)


@pytest.mark.parametrize("voices", [2, 3, 4])
def test_without_faces_the_order_that_fits_best_is_learned(config: Config, talkers: Talks, voices: int) -> None:
    cfg = config("faces=false", "loss.name=si_sdr", f"mix.voices=[{voices}]")
    model = model_of(cfg)
    batch = batch_of(talkers, model, cfg, voices)
    assert batch["faces"].numel() == 0
    with torch.no_grad():
        estimates = model(batch["mixture"], None, voices)  # (B, S, T)
        orders = list(itertools.permutations(range(voices)))
        scores = [si_sdr(estimates[:, list(order)], batch["targets"]).mean(1) for order in orders]  # (B,) each
        best = torch.stack(scores).amax(0)  # (B,)
        found = float(Objective(cfg)(model, batch, 0)["si_sdr_loss"])
        assert found == pytest.approx(-float(best.mean()), abs=1e-3)
        for order in orders[1:]:
            other = batch | {"targets": batch["targets"][:, list(order)]}
            assert float(Objective(cfg)(model, other, 0)["si_sdr_loss"]) == pytest.approx(found, abs=1e-3)


@pytest.mark.parametrize("faces", ["faces=true", "faces=false"])
@pytest.mark.parametrize("loss", ["loss.name=snr", "loss.name=si_sdr", "loss.name=compressed"])
def test_the_gradient_reaches_every_weight(config: Config, talkers: Talks, faces: str, loss: str) -> None:
    cfg = config(faces, loss, "data.batch_size=2", "mix.seconds=0.5")
    model = model_of(cfg, strength=1).train()
    sum(Objective(cfg)(model, batch_of(talkers, model, cfg), 0).values()).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert bool(torch.isfinite(weight.grad).all()), name
        assert bool(weight.grad.any()), name


def test_a_silent_target_does_not_count(config: Config, talkers: Talks) -> None:
    cfg = config("loss.compressed=1")
    model = model_of(cfg)
    batch = batch_of(talkers, model, cfg)
    silent = batch["targets"].clone()
    silent[:2, 1] = 0
    parts = Objective(cfg)(model, batch | {"targets": silent}, 0)
    sum(parts.values()).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    with torch.no_grad():
        estimates = model(batch["mixture"], batch["faces"], 2)
        kept = torch.ones(len(silent), 2, dtype=torch.bool)
        kept[:2, 1] = False
        expected = float(snr_loss(estimates[kept], silent[kept]))
    assert parts["snr_loss"].item() == pytest.approx(expected, rel=1e-5)


def test_faces_tell_who_said_what_and_swapping_them_swaps_the_voices(config: Config) -> None:
    """One mixture of two talks of one voice, learned by heart: nothing but the faces says which is which."""
    cfg = config("mix.seconds=1.0", "mix.evaluated=1", "mix.same_speaker=1")
    talks = Talks(Talkers("train", 2, seconds=1.0))
    model = model_of(cfg, strength=1)
    drawn = separation_scores.evaluated(model, talks, cfg).mixture(0, 0)
    batch = {"mixture": drawn.mixture[None], "targets": drawn.targets[None], "faces": drawn.faces[None]}
    model.train()
    optimiser, objective = torch.optim.Adam(model.parameters(), 3e-3), Objective(cfg)
    for step in range(60):
        optimiser.zero_grad()
        sum(objective(model, batch, step).values()).backward()
        optimiser.step()
    with torch.no_grad():
        own, swapped = (model(batch["mixture"], faces, 2)[0] for faces in (batch["faces"], batch["faces"].flip(1)))
    untouched = si_sdr(drawn.mixture.expand_as(drawn.targets), drawn.targets)
    assert bool((si_sdr(own, drawn.targets) - untouched > 3).all())
    assert bool((si_sdr(swapped, drawn.targets.flip(0)) - untouched.flip(0) > 3).all())


# Runs --------------------------------------------------------------------------------------------------------------


def keep(model: nn.Module, files: dict[str, object], folder: Path, cfg: Separation | None = None) -> Path:
    """A checkpoint."""
    folder.mkdir()
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    if cfg:
        (folder / "config.yaml").write_text(to_yaml(cfg))
    return folder


def equal(one: nn.Module, other: nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    "changes",
    [
        ["encoder.video.part=[0.1,0.4,0.9,1.0]", "head.mask=magnitude", "head.trunk=convolutional", "head.blocks=3"],
        ["faces=false", "encoder.audio.power=0.5", "mix.voices=[2,3]"],
    ],
)
def test_a_run_is_read_back_as_it_was(config: Config, talkers: Talks, changes: list[str], tmp_path: Path) -> None:
    cfg = config(*changes)
    model = model_of(cfg)
    run = keep(model, separation.description(model), tmp_path / "run", cfg)
    again, settings = separation.load(run)
    assert settings == cfg
    assert not again.training
    assert equal(again, model)
    wave = torch.from_numpy(talkers[0].voice + talkers[1].voice)
    faces = [talk.face for talk in talkers[:2]] if cfg.faces else 2
    assert torch.equal(again.separate(wave, faces), model.separate(wave, faces))
    for modality in model.encoders:
        assert encoders.load(run, modality).fingerprint() == model.encoder(modality).fingerprint()
    _, changed = separation.load(
        run, ["data.batch_size=3", "mix.evaluated=7", "mix.noise=1", "encoder.video.cache=true"]
    )
    assert (changed.data.batch_size, changed.mix.evaluated, changed.encoder.video.cache) == (3, 7, True)


def test_runs_that_are_none_or_of_another_task_and_changes_are_refused(config: Config, tmp_path: Path) -> None:
    cfg = config()
    model = model_of(cfg)
    files = separation.description(model)
    run = keep(model, files, tmp_path / "run", cfg)
    with pytest.raises(
        ConfigError,
        match=r"of a finished run, data.\*, mix.evaluated, .* and loop.device can be changed: got head.width=8",
    ):
        separation.load(run, ["head.width=8"])
    with pytest.raises(ConfigError, match=r"can be changed: got faces=false"):
        separation.load(run, ["faces=false"])
    with pytest.raises(ConfigError, match=r"Did you mean 'data\.scenes'"):
        separation.load(run, ["data.scene=3"])
    with pytest.raises(FileNotFoundError, match="must be a run folder"):
        separation.load(tmp_path / "nothing")
    other = keep(model, {"encoders.json": files["encoders.json"], "localiser.json": {}}, tmp_path / "other", cfg)
    with pytest.raises(
        ValueError, match=r"must be a checkpoint of speech separation: there is no separator.json. Name another"
    ):
        separation.load(other)


def test_encoders_start_from_other_runs(config: Config, tmp_path: Path) -> None:
    torch.manual_seed(7)
    towers = {"image": image_encoder("lips_cnn", 32), "text": text_encoder("mean", words=["a", "dog"], word_dim=4)}
    holder = nn.ModuleDict({"encoders": nn.ModuleDict(towers)})
    pictures = keep(holder, {"encoders.json": encoders.describe(towers)}, tmp_path / "pictures")
    model = separation.build_model(config(f"encoder.video.init={pictures}"))
    assert model.video.image is not None and equal(model.video.image, towers["image"])

    source = model_of(config("seed=3"))
    run = keep(source, separation.description(source), tmp_path / "run", config("seed=3"))
    model = separation.build_model(config(f"encoder.video.init={run}", f"encoder.audio.init={run}"))
    assert equal(model.video, source.video) and equal(model.audio, source.audio)
    assert not equal(model.head, source.head)

    with pytest.raises(ValueError, match=r"must have an encoder of audio: it has image, text\. Name another run"):
        separation.build_model(config(f"encoder.audio.init={pictures}"))
    blind = model_of(config("faces=false"))
    deaf = keep(blind, separation.description(blind), tmp_path / "blind", config("faces=false"))
    with pytest.raises(ValueError, match=r"must have an encoder of video: it has audio\. Name another run"):
        separation.build_model(config(f"encoder.video.init={deaf}"))
    with pytest.raises(ValueError, match="pictures must be those of ImageEncoder: missing"):
        separation.build_model(config(f"encoder.video.init={pictures}", "encoder.video.name=small_cnn"))
    sounds = {"audio": audio_encoder("vgg", width=4)}
    heard = keep(
        nn.ModuleDict({"encoders": nn.ModuleDict(sounds)}),
        {"encoders.json": encoders.describe(sounds)},
        tmp_path / "sounds",
    )
    with pytest.raises(ValueError, match="sounds must be those of SpectrogramEncoder: missing"):
        separation.build_model(config(f"encoder.audio.init={heard}"))
    with pytest.raises(FileNotFoundError, match="nothing must be a run folder"):
        separation.build_model(config("encoder.audio.init=nothing"))


# What is read ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory, talkers: Talks) -> Talks:
    """Four talks as videos and sounds, the third with a track of its face."""
    folder = tmp_path_factory.mktemp("filmed")
    talks = Talks()
    for number, talk in enumerate(talkers[:4]):
        assert isinstance(talk.face, Frames)
        pictures = [np.repeat(picture[..., None], 3, axis=2) for picture in talk.face.pictures[: 50 - 3 * number]]
        soundfile.write(folder / f"{number}.wav", talk.voice, RATE)
        track = FaceTrack("face", np.array([0.0, 1.9]), np.array([[2.0, 2, 26, 26], [6, 6, 30, 30]]))
        file = video(folder / f"{number}.mp4", pictures, fps=FPS)
        talks.append(Talk(talk.id, talk.speaker, folder / f"{number}.wav", file, track if number == 2 else None))
    return talks


def test_cached_frames_are_those_that_are_cut_out_now(config: Config, filmed: Talks, tmp_path: Path) -> None:
    cfg = config("encoder.video.cache=true", f"data.cache={tmp_path}", "encoder.video.size=24")
    model = model_of(cfg)
    hear, see = separation_data.senses(model, filmed, cfg)
    assert isinstance(see, Seen) and see.cache is not None
    now = Seen(model.video)
    for talk in filmed:
        assert torch.equal(see(talk), now(talk))
        assert see(talk).dtype == torch.uint8
    assert torch.equal(hear(filmed[0]), Heard(model.audio)(filmed[0]))
    cached, plain = (
        separation_scores.evaluated(model, filmed, read) for read in (cfg, config("encoder.video.size=24"))
    )
    for index in range(3):
        one, other = cached.mixture(0, index), plain.mixture(0, index)
        assert torch.equal(one.faces, other.faces) and torch.equal(one.mixture, other.mixture)


def test_another_way_to_cut_is_another_cache_and_the_same_way_is_read_again(
    config: Config, filmed: Talks, tmp_path: Path
) -> None:
    def caches(talks: Talks, *changes: str) -> set[str]:
        cfg = config("encoder.video.cache=true", f"data.cache={tmp_path}", *changes)
        separation_data.senses(model_of(cfg), talks, cfg)
        return {folder.name for folder in tmp_path.iterdir() if folder.is_dir()}

    found = [caches(filmed)]
    (kept,) = (tmp_path / name for name in found[0])
    written = kept.stat().st_mtime_ns
    assert caches(filmed, "seed=4", "encoder.video.width=8", "head.width=16") == found[0]
    assert kept.stat().st_mtime_ns == written
    for changes in (["encoder.video.part=[0.0,0.5,1.0,1.0]"], ["encoder.video.size=24"]):
        found.append(caches(filmed, *changes))
    moved = FaceTrack("face", np.array([0.0, 1.9]), np.array([[2.0, 2, 26, 26], [6, 6, 31, 31]]))
    found.append(caches(Talks([*filmed[:2], filmed[2]._replace(track=moved), filmed[3]])))
    assert [len(names) for names in found] == [1, 2, 3, 4]


def test_faces_that_are_drawn_cannot_be_cached(config: Config, talkers: Talks, tmp_path: Path) -> None:
    cfg = config("encoder.video.cache=true", f"data.cache={tmp_path}")
    with pytest.raises(ConfigError, match="keeps what is cut out of files: 'synthetic' draws its faces"):
        separation_data.senses(model_of(cfg), talkers, cfg)
    assert separation_data.senses(model_of(config("faces=false")), talkers, config("faces=false"))[1] is None


@pytest.mark.parametrize("shape", [(2, 9, 1, 4, 4), (3, 2, 9, 1, 4, 4)])
def test_frozen_and_delayed_frames(shape: tuple[int, ...]) -> None:
    frames = torch.arange(9, dtype=torch.uint8).reshape(9, 1, 1, 1).expand(shape)
    numbers = frames[..., 0, 0, 0]
    assert torch.equal(frozen(frames)[..., 0, 0, 0], torch.full_like(numbers, 4))
    assert frozen(frames).shape == shape
    for delay, by in ((0.08, 2), (0.2, 5), (0.48, 12), (0.0, 0)):
        late = delayed(frames, delay, 25.0)
        assert torch.equal(late[..., 0, 0, 0], (numbers.int() - by).clamp_min(0).to(torch.uint8))
        assert late.shape == shape


def test_frozen_and_delayed_embeddings() -> None:
    vectors = torch.randn(2, 9, 5)
    assert torch.equal(frozen(vectors), vectors[:, 4:5].expand(-1, 9, -1))
    assert torch.equal(delayed(vectors, 0.08, 25.0), torch.cat([vectors[:, :1], vectors[:, :1], vectors[:, :-2]], 1))


def test_streams_of_batches_by_the_number_of_voices(config: Config, talkers: Talks) -> None:
    cfg = config("mix.voices=[2,1,4]", "mix.noise=0.5", "data.batch_size=2")
    model = model_of(cfg)
    streams = separation_data.training_batches(model, talkers, cfg)
    assert list(streams) == [2, 1, 4]
    for voices, batches in streams.items():
        batch = next(batches(0))
        assert batch["targets"].shape == (2, voices, 8000)
        assert batch["faces"].shape == (2, voices, 25, 1, 32, 32)
        assert all(bool(torch.isfinite(part)) for part in Objective(cfg)(model, batch, 0).values())
    assert separation_scores.evaluated(model, talkers, cfg).voices == 1
    assert separation_scores.evaluated(model, talkers, config("mix.voices=[4,3]")).voices == 3


def test_splits_need_as_many_talks_as_a_mixture_has_voices(config: Config) -> None:
    train, val = separation_data.load(config("data.scenes=2"), ("train", "val"))
    assert (len(train), len(train.speakers)) == (2, 2)
    assert len(val) >= 100
    with pytest.raises(ConfigError, match="mixtures of 3 voices need as many talks: the train split has 2"):
        separation_data.load(config("data.scenes=2", "mix.voices=[2,3]"))
    heard = {one.id for split in separation_data.load(config()) for one in (split[0], split[1])}
    assert len(heard) == 6


# Scores ------------------------------------------------------------------------------------------------------------


class Knowing(SpeechSeparator):
    """Knows the mixtures, and finds whose face it is shown: gives each face the voice of the talk it is most like."""

    def __init__(self, model: SpeechSeparator, known: Sequence[Mixture], looks: bool = True):
        super().__init__(dict(model.encoders.items()), model.head)
        self.known, self.looks = known, looks

    def forward(self, mixture, faces, sources, lengths=None, face_lengths=None) -> Tensor:
        outputs = []
        for row, wave in enumerate(mixture):
            one = next(one for one in self.known if torch.equal(one.mixture, wave) and len(one.targets) >= sources)
            if faces is None or not self.looks:
                outputs.append(one.targets.flip(0)[:sources])  # an order of its own
                continue
            far = (faces[row].float()[:, None] - one.faces.float()[None]).abs().mean((2, 3, 4, 5))  # (S, S)
            outputs.append(one.targets[far.argmin(1)])
        return torch.stack(outputs)


def knowing(cfg: Separation, talks: Talks, looks: bool = True) -> Knowing:
    model = model_of(cfg)
    made = [separation_scores.evaluated(model, talks, cfg, voices) for voices in (2, 3)]
    return Knowing(model, [one.mixture(0, index) for one in made for index in range(len(one))], looks)


CONTROLS = {
    *("mixture", "ideal_mask", "swapped_faces", "frozen_face", "three_faces", "one_face"),
    *("delayed_face_80ms", "delayed_face_200ms", "delayed_face_480ms"),
}


def test_a_model_that_knows_its_faces_scores_all_there_is(config: Config, talkers: Talks) -> None:
    cfg, blind = config(), config("faces=false")
    other = knowing(blind, talkers)
    metrics, controls, missing = separation_scores.score(knowing(cfg, talkers), talkers, cfg, (other, blind))
    assert set(metrics) == {
        *("SI-SDR", "SI-SDRi", "SI-SDRi/same_speaker", "SI-SDRi/other_speaker", "SNR", "SDR", "SDRi"),
        *("follows_face", "identical_faces", *available(RATE)),
    }
    assert set(missing) == set(EXTRAS) - set(available(RATE))
    assert min(metrics[name] for name in metrics if name.startswith(("SI-SDR", "SNR", "SDR"))) > 60
    assert metrics["follows_face"] == metrics["identical_faces"] == 1
    assert set(controls) == CONTROLS | {"audio_only_pit"}
    assert controls["mixture"]["SI-SDRi"] == controls["mixture"]["SDRi"] == 0
    assert abs(controls["mixture"]["SI-SDR"]) < 3
    assert 6 < controls["ideal_mask"]["SI-SDRi"] < 30
    assert controls["audio_only_pit"]["SI-SDRi"] > 60  # the order that fits best is given
    assert controls["three_faces"]["SI-SDRi"] > 60
    assert controls["swapped_faces"]["follows_face"] == 1  # the voice goes with the face
    assert controls["swapped_faces"]["SI-SDRi"] < -20
    for name in ("frozen_face", "delayed_face_80ms", "delayed_face_200ms", "delayed_face_480ms"):
        assert controls[name]["SI-SDRi"] > 60  # it goes by who it is, not by how lips move


def test_a_model_that_ignores_the_faces_is_found_out(config: Config, talkers: Talks) -> None:
    cfg = config()
    metrics, controls, _ = separation_scores.score(knowing(cfg, talkers, looks=False), talkers, cfg)
    assert set(controls) == CONTROLS
    assert metrics["follows_face"] == 0  # in an order of its own, which here is always wrong
    assert controls["swapped_faces"]["follows_face"] == 1
    assert metrics["identical_faces"] == 0
    assert metrics["SI-SDRi"] < -20
    blind = config("faces=false")
    metrics, controls, _ = separation_scores.score(knowing(blind, talkers), talkers, blind)
    assert metrics["SI-SDRi"] > 60
    assert "follows_face" not in metrics
    assert set(controls) == {"mixture", "ideal_mask"}


def test_every_number_of_voices_that_was_trained_on_is_scored(config: Config, talkers: Talks) -> None:
    cfg = config("mix.voices=[4,2,3]", "mix.evaluated=1")
    model = model_of(cfg)
    assert {"three_faces", "four_faces"} <= set(separation_scores.score(model, talkers, cfg)[1])
    alone = config("mix.voices=[1]", "mix.noise=1", "mix.evaluated=2")
    metrics, controls, _ = separation_scores.score(model, talkers, alone)
    assert set(controls) == {"mixture", "ideal_mask"}  # one face cannot be swapped
    assert metrics["SI-SDR"] < 60
    two = Talks(talkers[:2])  # of which no mixture of three can be made
    assert "three_faces" not in separation_scores.score(model, two, config("mix.evaluated=1"))[1]


def spoken(targets: Tensor, same_speaker: bool = False) -> Mixture:
    return Mixture(targets.sum(0), targets, torch.zeros(2, 0), same_speaker, ("one", "other"))


def test_silent_targets_are_skipped_and_told(config: Config, talkers: Talks) -> None:
    cfg = config()
    targets = torch.stack([torch.from_numpy(talk.voice) for talk in talkers[:4]]).unflatten(0, (2, 2))  # (2, 2, T)
    targets[1, 1] = 0
    noisy = targets + 0.01 * torch.randn(targets.shape, generator=torch.Generator().manual_seed(0))
    outputs = [Voices(spoken(one, bool(k)), made) for k, (one, made) in enumerate(zip(targets, noisy, strict=True))]
    metrics, controls, missing = separation_scores.whole(outputs, cfg)
    assert {name: text for name, text in missing.items() if name in ("SI-SDR", "SI-SDRi", "SDR", "SDRi", "SNR")} == (
        dict.fromkeys(("SI-SDR", "SI-SDRi", "SDR", "SDRi", "SNR"), "1 of 4 skipped: silent, or without speech")
    )
    found = separation_scores.improvements(outputs)
    exact, made = targets.double(), noisy.double()
    speaking = [
        float(si_sdr(made[b, s], exact[b, s]) - si_sdr(exact[b].sum(0), exact[b, s]))
        for b, s in ((0, 0), (0, 1), (1, 0))
    ]
    expected = {
        "SI-SDRi": np.mean(speaking),
        "SI-SDRi/same_speaker": speaking[2],
        "SI-SDRi/other_speaker": np.mean(speaking[:2]),
    }
    for numbers in (metrics, found):
        for name, number in expected.items():
            assert numbers[name] == pytest.approx(number, abs=1e-3), name
    assert math.isfinite(controls["ideal_mask"]["SI-SDRi"])


def uneven(talkers: Talks, faces: bool) -> Talks:
    """Talks of different lengths; or of one, with faces that end before it."""
    talks = Talks()
    for number, talk in enumerate(talkers):
        assert isinstance(talk.face, Frames) and isinstance(talk.voice, np.ndarray)
        frames = 50 - 3 * number
        face = Frames(talk.face.pictures[:frames], talk.face.times[:frames], frames / FPS)
        talks.append(talk._replace(voice=talk.voice if faces else talk.voice[: 320 * frames - number], face=face))
    return talks


@pytest.mark.parametrize("faces", [False, True])
def test_mixtures_of_uneven_lengths_are_separated_as_one_by_one(config: Config, talkers: Talks, faces: bool) -> None:
    cfg = config("mix.evaluated=6")
    model = model_of(cfg)
    drawn = separation_scores.evaluated(model, uneven(talkers, faces), cfg)
    found = list(separation_scores.separate_all(model, drawn, cfg))
    lengths = {(len(one.drawn.mixture), one.drawn.faces.shape[1]) for one in found}
    assert len(lengths) > 3
    for index, (one, outputs) in enumerate(found):
        assert torch.equal(one.mixture, drawn.mixture(0, index).mixture)
        with torch.no_grad():
            alone = model(one.mixture[None], one.faces[None], 2)[0]
        assert decibel(alone, outputs - alone) > 60
        masks = separation_scores.masks_of(model, one, cfg)
        with torch.no_grad():
            torch.testing.assert_close(masks, model.masks(one.mixture[None], one.faces[None], 2)[0])


def test_faces_may_be_vectors(config: Config, talkers: Talks, tmp_path: Path) -> None:
    """A vector for each frame, such as another network's: read, trained on and scored."""
    cfg = config(
        "data.name=talks",
        "encoder.video.name=embeddings",
        "encoder.video.size=6",
        "data.batch_size=2",
        "mix.evaluated=3",
    )
    talks = Talks()
    for number, talk in enumerate(uneven(talkers, faces=False)):
        assert isinstance(talk.face, Frames)
        vectors = np.random.default_rng(number).normal(size=(len(talk.face.pictures), 6)).astype(np.float32)
        np.save(tmp_path / f"{number}.npy", vectors)
        talks.append(talk._replace(face=tmp_path / f"{number}.npy"))
    model = model_of(cfg)
    assert math.isfinite(Objective(cfg)(model, batch_of(talks, model, cfg), 0)["snr_loss"].item())
    metrics, controls, _ = separation_scores.score(model, talks, cfg)
    assert set(controls) == CONTROLS
    assert 0 <= metrics["follows_face"] <= 1
    assert metrics["identical_faces"] == 1
    drawn = separation_scores.evaluated(model, talks, cfg)
    for one, outputs in separation_scores.separate_all(model, drawn, cfg):
        with torch.no_grad():
            alone = model(one.mixture[None], one.faces[None], 2)[0]
        assert decibel(alone, outputs - alone) > 60


def test_scoring_leaves_the_model_as_it_was_and_draws_nothing(config: Config, talkers: Talks) -> None:
    cfg = config("mix.evaluated=2")
    model = model_of(cfg).train()
    before, weights = torch.random.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    first = separation_scores.evaluate(model, talkers, cfg)
    assert first == separation_scores.evaluate(model, talkers, cfg)
    assert model.training
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


# Settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["mix.noise_db=[1,2]"], r"mix.noise_db=\[1.0, 2.0\] has no effect here"),
        (["head.blocks=3"], "head.blocks=3 has no effect here"),
        (["loss.name=compressed", "loss.compressed=0.5"], "loss.compressed=0.5 has no effect here"),
        (["loss.compressed=-1"], "loss.compressed is a weight, at least 0: got -1"),
        (["data.views=2"], "data.views=2 has no effect here"),
        (["data.fold=2"], "data.fold=2 has no effect here"),
        (["data.cache_dtype=float32"], "data.cache_dtype=float32 has no effect here"),
        (["encoder.audio.sample_rate=16000"], "'synthetic' talks at 8000 Hz and 25 frames a second"),
        (["encoder.video.fps=30"], "encoder.video.fps=30. Set them to these"),
        (["head.width=7"], "head.width must be even"),
        (["encoder.audio.power=0"], r"power must lie in \(0, 1\]"),
        (["encoder.video.name=lips_cn"], "lips_cnn"),
        (["mix.voices=[9]"], r"mix.voices must be different numbers from 1 to 4: got \[9\]"),
        (["mix.same_speaker=2"], "mix.same_speaker must lie in 0..1"),
        (["mix.same_start=-1"], "mix.same_start must lie in 0..1"),
        (
            ["data.name=talks", "encoder.video.name=embeddings", "encoder.video.size=6", "encoder.video.cache=true"],
            r"reads a \.npy for each clip of data.name=talks, as it is: got .* encoder.video.cache=True",
        ),
    ],
)
def test_settings_that_do_not_fit(config: Config, given: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        separation.build_model(config(*given))


def test_a_run_without_faces_may_describe_them(config: Config) -> None:
    model = separation.build_model(config("faces=false", "encoder.video.width=16", "encoder.video.augment=0.5"))
    assert set(model.encoders) == {"audio"}


def test_what_cannot_be_heard_or_seen_may_be_left_out_of_training_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, config: Config, talkers: Talks
) -> None:
    rows = list(talkers[:6])
    rows[1] = rows[1]._replace(voice=np.zeros(16000, np.float32))
    rows[3] = rows[3]._replace(face=tmp_path / "gone.mp4")
    rows[4] = rows[4]._replace(voice=tmp_path / "gone.wav")
    cfg = config("data.skip_bad=true", "data.name=talks", "data.batch_size=2")
    model = separation.build_model(cfg)
    (batches,) = separation_data.training_batches(model, Talks(rows), cfg).values()
    assert [talk.id for talk in batches.dataset.talks] == [rows[k].id for k in (0, 2, 5)]
    assert "left out 3 unreadable rows" in caplog.text
    with pytest.raises(UnreadableError, match=r"is silent|gone"):
        (batches,) = separation_data.training_batches(model, Talks(rows), config("data.batch_size=6")).values()
        next(batches(0))


def test_a_cache_of_faces_keeps_one_of_each_video(tmp_path: Path, config: Config) -> None:
    cfg = config("encoder.video.cache=true", "data.name=grid_av", "encoder.audio.sample_rate=16000")
    model = separation.build_model(cfg)
    one = Talk("a", "a", tmp_path / "a.wav", tmp_path / "a.mp4")
    with pytest.raises(ConfigError, match="two talks share one"):
        separation_data.face_cache(model.video, Talks([one, one._replace(id="b")]), cfg)


def test_a_run_is_not_tested_on_speakers_that_it_was_trained_on(config: Config, tmp_path: Path) -> None:
    cfg = config("data.name=talks")
    model = model_of(cfg)
    run = keep(model, separation.description(model), tmp_path / "run", cfg)
    with pytest.raises(ConfigError, match=r"data\.speaker draws the splits of talks anew: with 'ann'"):
        separation.load(run, ["data.speaker=ann"])
    drawn = keep(model, separation.description(model), tmp_path / "drawn", config())
    assert separation.load(drawn, ["data.speaker=unseen"])[1].data.speaker == "unseen"  # others than any it heard
    with pytest.raises(ConfigError, match=r"data\.speaker=ann has no effect here"):
        separation.check(config("data.name=lrs3", "data.speaker=ann"))


def test_mixtures_of_a_split_are_the_same_for_every_seed(config: Config, talkers: Talks) -> None:
    first, second = config("seed=0"), config("seed=3", "mix.same_start=0.5")
    one, other = (separation_scores.evaluated(model_of(cfg), talkers, cfg).mixture(0, 1) for cfg in (first, second))
    assert one.names == other.names
    assert torch.equal(one.mixture, other.mixture)
