import csv
import math
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from torch import nn

from mm.config import AudioConfig
from mm.encoders.audio import AUDIO_ENCODERS, AudioEncoder, audio_encoder, spec_augment
from mm.encoders.audio_networks import MaskedNorm, ResidualBlock, YamNet, htk_filters
from mm.features import masked_max, masked_mean, pad
from mm.media import MediaError

RATE = AudioConfig.sample_rate
SPECTRAL = ("vgg", "resnet")
KINDS = [
    {"name": "vgg"},
    {"name": "vgg", "front_end": "linear"},
    {"name": "vgg", "front_end": "mfcc", "bands": 20},
    {"name": "resnet"},
    {"name": "resnet", "bands": 37},
    {"name": "soundnet"},
    {"name": "yamnet"},
]


def built(kind, **options):
    """An encoder whose statistics are not those of a fresh one, so that a forgotten mask shows."""
    torch.manual_seed(0)
    encoder = AudioEncoder(**{"width": 8, **kind, **options} if kind["name"] != "yamnet" else {**kind, **options})
    for module in encoder.modules():
        if isinstance(module, MaskedNorm):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.normal_(module.bias)
    return encoder


def waves(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, generator=generator) * 0.1 for n in lengths]


# Features -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_batch_equals_its_clips_one_by_one(kind):
    encoder = built(kind).eval()
    clips = waves(1, 399, 2000, 8191, 16000, 24001)
    values, lengths = pad(clips)
    values = values + 0.3 * (torch.arange(values.shape[1]) >= lengths[:, None])  # padding need not even be silent
    with torch.no_grad():
        many = encoder(values, lengths)
    assert math.prod(many.grid) == many.map.shape[1] == many.mask.shape[1]
    assert many.map.shape[2] == encoder.dim and many.vector.shape == (6, encoder.vector_dim)
    for b, clip in enumerate(clips):
        with torch.no_grad():
            one = encoder(clip[None])
        assert one.mask.all() and int(many.mask[b].sum()) == one.map.shape[1]
        frames = one.grid[-1]
        cells = many.map[b].unflatten(0, many.grid)[..., :frames, :].reshape(1, -1, encoder.dim)
        torch.testing.assert_close(cells, one.map, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(many.vector[b], one.vector[0], rtol=1e-5, atol=1e-5)
    assert (many.vector.std(dim=0) > 1e-4).float().mean() > 0.25  # clips are told apart


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_vector_pools_the_real_places(kind):
    encoder = built(kind).eval()
    features = encoder(*pad(waves(9000, 30000)))
    mean, highest = masked_mean(features.map, features.mask), masked_max(features.map, features.mask)
    want = mean if kind["name"] == "yamnet" else torch.cat([mean, highest], dim=1)
    assert torch.equal(features.vector, want)
    assert len(features.grid) == (2 if kind["name"] in SPECTRAL else 1)


@pytest.mark.parametrize(("front_end", "rows"), [("log_mel", 8), ("linear", 33), ("mfcc", 8)])
def test_cells_are_eight_bands_by_eight_hops(front_end, rows):
    for name in SPECTRAL:
        features = AudioEncoder(name, front_end, width=4)(torch.randn(1, RATE))
        assert features.grid == (rows, math.ceil(101 / 8))


@pytest.mark.parametrize("name", [*SPECTRAL, "soundnet"])
def test_training_ignores_padding(name):
    clips = waves(3000, 9000, 5555)
    values, lengths = pad(clips)
    results = []
    for extra in (0, 7777):
        encoder = built({"name": name}).train()
        features = encoder(F.pad(values, (0, extra)), lengths)
        features.vector.square().sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in encoder.parameters()])
        statistics = torch.cat([b.flatten().float() for b in encoder.buffers()])
        results.append((features.vector.detach(), gradients, statistics))
    (vector, gradient, statistics), loose = results
    torch.testing.assert_close(loose[0], vector, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loose[2], statistics, rtol=1e-4, atol=1e-4)
    # Rounding may carry one cell over the kink of its ReLU, which moves a gradient by a per cent.
    assert F.cosine_similarity(loose[1], gradient, dim=0) > 0.999


@pytest.mark.parametrize("name", SPECTRAL)
def test_a_wave_of_another_gain_gives_the_same_features(name):
    encoder = built({"name": name}).eval()
    x = waves(8000)[0][None]
    loud, quiet = encoder(x), encoder(x * 0.05)
    torch.testing.assert_close(loud.map, quiet.map, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_silence_and_one_sample_are_finite_and_unlike_a_sound(kind):
    encoder = built(kind).eval()
    x = torch.zeros(3, 4000)
    x[1] = waves(4000)[0]
    features = encoder(x, torch.tensor([4000, 4000, 1]))
    assert torch.isfinite(features.map).all() and torch.isfinite(features.vector).all()
    assert (features.vector[0] - features.vector[1]).abs().max() > 1e-3
    encoder.train()
    encoder(x).vector.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_faint_hiss_is_not_lifted_to_the_level_of_sound():
    encoder = built({"name": "vgg"}).eval()
    hiss, silence = waves(8000)[0][None] * 1e-5, torch.zeros(1, 8000)
    x = [encoder._input(wave, None)[0] for wave in (hiss, silence, hiss * 1e4)]
    assert (x[0] - x[1]).abs().mean() < 0.2 * (x[2] - x[1]).abs().mean()


@pytest.mark.parametrize(
    ("values", "lengths", "message"),
    [
        (torch.zeros(2, 0), None, r"must be \(B, T\) float with T >= 1: got torch.float32 \(2, 0\)"),
        (torch.zeros(100), None, r"got torch.float32 \(100,\)"),
        (torch.zeros(2, 100, dtype=torch.int16), None, "got torch.int16"),
        (torch.zeros(2, 100), torch.tensor([0, 100]), r"lengths must lie in 1\.\.100: got \[0, 100\]\. Drop empty"),
        (torch.zeros(2, 100), torch.tensor([5, 101]), r"lengths must lie in 1\.\.100"),
    ],
)
def test_bad_batches(values, lengths, message):
    with pytest.raises(ValueError, match=message):
        built({"name": "vgg"})(values, lengths)


def test_prepare_reads_files_and_arrays(tmp_path):
    encoder = built({"name": "vgg"})
    clip = waves(8000)[0]
    soundfile.write(tmp_path / "a.wav", clip.numpy(), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "b.wav", clip.numpy(), RATE // 2, subtype="FLOAT")
    for source in (tmp_path / "a.wav", clip.numpy(), clip, torch.stack([clip, clip])):
        assert torch.allclose(encoder.prepare(source), clip, atol=1e-7)
    assert encoder.prepare(tmp_path / "b.wav").shape == (16000,)
    features = encoder.encode([tmp_path / "a.wav", tmp_path / "b.wav", clip[:100]], batch_size=2)
    assert features.grid == (8, 13) and features.mask.sum(1).tolist() == [8 * 7, 8 * 13, 8]
    torch.testing.assert_close(features.vector[2], encoder.encode([clip[:100]]).vector[0], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="sounds have no fixed crops: view must be 0, got 1"):
        encoder.prepare(clip, view=1)
    with pytest.raises(MediaError, match="at least one sample"):
        encoder.encode([clip, clip[:0]])


# Parts --------------------------------------------------------------------------------------------------------------


def test_a_residual_block_is_that_of_a_strided_shortcut():
    """He et al. 2016: the shortcut is a strided convolution of 1x1, here without oneDNN's strided one."""
    torch.manual_seed(0)
    block = ResidualBlock(4, 6, stride=2).eval()
    x = torch.randn(3, 4, 9, 7)
    strided = F.conv2d(x, block.short.conv.weight, stride=2)  # (3, 6, 5, 4)
    plain = torch.relu(block.two(block.one(x, None)[0], None)[0] + block.short.norm(strided))
    assert torch.allclose(block(x, None)[0], plain, atol=1e-6)

    frames = torch.tensor([7, 4, 1])
    mask = (torch.arange(7) < frames[:, None])[:, None, None]  # (3, 1, 1, 7)
    y, left = block(x * mask, frames)
    alone, _ = block((x * mask)[1:2, :, :, :4], None)
    assert left.tolist() == [4, 2, 1]
    assert torch.allclose(y[1:2, :, :, :2], alone, atol=1e-6)


NARROW = """
import torch
from mm.encoders.audio_networks import ResNet
torch.set_num_threads(2)
network = ResNet(8).to(memory_format=torch.channels_last)
for batch in [3, 8, 5, 11] * 10:
    network(torch.randn(batch, 1, 64, 51), None)[0].mean().backward()
"""


def test_narrow_networks_train_on_two_threads():
    """A strided 1x1 convolution of fewer than 16 channels corrupts memory in oneDNN: see ResidualBlock."""
    run = subprocess.run([sys.executable, "-c", NARROW], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_what_has_no_frames_is_not_normalised():
    with pytest.raises(ValueError, match=r"must be \(B, C, ..., N\): got \(4, 3\)"):
        MaskedNorm(3)(torch.zeros(4, 3))


@pytest.mark.parametrize("affine", [True, False])
def test_masked_norm_has_the_statistics_of_real_places(affine):
    torch.manual_seed(0)
    masked, plain = MaskedNorm(3, affine=affine), nn.BatchNorm1d(3, affine=affine)
    if affine:
        for norm in (masked, plain):
            norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.0, -1.0])
    x, frames = torch.randn(4, 3, 5, 11) * 2 + 7, [11, 3, 1, 6]
    mask = (torch.arange(11) < torch.tensor(frames)[:, None])[:, None, None].float()
    real = torch.cat([x[b, :, :, :n].flatten(1) for b, n in enumerate(frames)], dim=1)[None]  # (1, 3, places)
    for _ in range(2):
        ours, theirs = masked(x * mask, mask), plain(real)
    got = torch.cat([ours[b, :, :, :n].flatten(1) for b, n in enumerate(frames)], dim=1)[None]
    torch.testing.assert_close(got, theirs, rtol=1e-5, atol=1e-5)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(masked.state_dict()[name], value, rtol=1e-5, atol=1e-5)
    masked.eval()
    plain.eval()
    torch.testing.assert_close(masked(real, torch.ones(1, 1, real.shape[2])), plain(real))


def test_spec_augment_hides_the_share_asked_for():
    torch.manual_seed(0)
    spec, frames = torch.ones(400, 40, 100), torch.tensor([100, 50] * 200)
    for share in (0.1, 0.4):
        hidden = spec_augment(spec, share, frames) == 0
        bands = hidden.all(dim=2).float().mean(dim=1)  # (B,) share of bands hidden throughout
        times = hidden.all(dim=1)  # (B, N)
        assert abs(float(bands.mean()) - share) < 0.25 * share and float(bands.max()) <= 2 * share + 2 / 40
        assert abs(float(times[::2].float().mean()) - share) < 0.25 * share
        assert abs(float(times[1::2, :50].float().mean()) - share) < 0.25 * share  # of the clip's own frames
        assert not times[1::2, 50:].any()
        one = hidden[0] & ~hidden[0].all(dim=1, keepdim=True) & ~hidden[0].all(dim=0)
        assert not one.any()  # nothing but whole bands and whole frames


def test_spec_augment_is_for_training_and_follows_the_seed():
    encoder, x = built({"name": "vgg"}, spec_augment=0.3), waves(16000)[0][None]
    plain = built({"name": "vgg"}).eval()
    torch.testing.assert_close(encoder.eval()(x).map, plain(x).map)
    encoder.train()
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(encoder(x).map)
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])


def test_the_front_end_stays_exact_under_autocast():
    encoder, x = built({"name": "vgg"}).eval(), waves(16000)[0][None]
    seen = []
    handle = encoder.network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = encoder(x)
    handle.remove()
    assert torch.equal(seen[0], encoder._input(x, None)[0])
    torch.testing.assert_close(features.vector.float(), encoder(x).vector, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("name", [*SPECTRAL, "soundnet"])
def test_learns_to_tell_tones_apart(name):
    torch.manual_seed(0)
    encoder = AudioEncoder(name, width=8)
    linear = nn.Linear(encoder.vector_dim, 4)
    optimiser = torch.optim.AdamW([*encoder.parameters(), *linear.parameters()], lr=3e-3)
    t = torch.arange(2000) / RATE

    def batch(size=16):
        owner = torch.arange(size) % 4
        hz = torch.tensor([300.0, 600.0, 1200.0, 2400.0])[owner] * torch.empty(size).uniform_(0.9, 1.1)
        phase = torch.rand(size, 1) * 6.28
        return 0.3 * torch.sin(2 * math.pi * hz[:, None] * t + phase) + 0.03 * torch.randn(size, 2000), owner

    for _ in range(60):
        x, owner = batch()
        F.cross_entropy(linear(encoder(x, torch.randint(1000, 2001, (16,))).vector), owner).backward()
        optimiser.step()
        optimiser.zero_grad()
    encoder.eval()
    x, owner = batch(64)
    assert (linear(encoder(x).vector).argmax(1) == owner).float().mean() >= 0.9


# Building, saving, freezing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_save_and_load_bit_for_bit(kind, tmp_path):
    encoder = built(kind).eval()
    encoder.save_pretrained(tmp_path)
    again = AudioEncoder.from_pretrained(tmp_path)
    assert again.config == encoder.config and again.fingerprint() == encoder.fingerprint()
    x = pad(waves(3000, 5000))
    assert torch.equal(again(*x).vector, encoder(*x).vector)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_frozen_encoder_is_all_trunk(kind):
    frozen = built(kind, freeze=True).train()
    values, lengths = pad(waves(3000, 30000, 9000))
    before = frozen.fingerprint()
    cached, frames = frozen.trunk(values, lengths)
    assert not cached.requires_grad and cached.dim() == 3
    direct, late = frozen(values, lengths), frozen(cached, frames, from_trunk=True)
    again = pad([row[:n] for row, n in zip(cached, frames, strict=True)])  # as a cache keeps them: padding cut off
    for other in (late, frozen(*again, from_trunk=True)):
        assert torch.equal(direct.map * direct.mask[..., None], other.map * other.mask[..., None])
        assert torch.equal(direct.vector, other.vector) and direct.grid == other.grid
    half = frozen(cached.half(), frames, from_trunk=True)
    assert half.map.dtype == torch.float32
    torch.testing.assert_close(half.vector, direct.vector, rtol=1e-2, atol=1e-2)
    assert frozen.fingerprint() == before and not any(p.requires_grad for p in frozen.parameters())
    free = built(kind)
    assert free.trunk(values, lengths)[0] is values and free.fingerprint("trunk") != frozen.fingerprint("trunk")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "vgk"},
            r"unknown audio encoder 'vgk'\. Choose from: vgg, .*yamnet\. Did you mean 'vgg'",
        ),
        ({"front_end": "logmel"}, r"unknown front end 'logmel'.*Did you mean 'log_mel'"),
        ({"spec_augment": 1.0}, r"spec_augment must lie in \[0, 1\)"),
        ({"width": 0}, "width and bands must be at least 1"),
        ({"bands": 0}, "width and bands must be at least 1"),
        ({"name": "yamnet", "sample_rate": 8000}, r"\['sample_rate'\] would have no effect with name='yamnet'"),
        ({"name": "yamnet", "width": 32, "spec_augment": 0.1}, r"\['width', 'spec_augment'\] would have no effect"),
        (
            {"name": "soundnet", "front_end": "mfcc"},
            r"\['front_end'\] would have no effect.*at \['log_mel'\]",
        ),
        ({"front_end": "linear", "bands": 40}, r"\['bands'\] would have no effect"),
        ({"freeze": True, "spec_augment": 0.1}, r"\['spec_augment'\] would have no effect.*freeze=True"),
        ({"hop_s": 0.02}, "at most half a window"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        audio_encoder(**options)


@pytest.mark.parametrize("name", list(AUDIO_ENCODERS))
def test_weights_are_read_from_files(name, tmp_path):
    from safetensors.torch import save_file

    options = {} if name == "yamnet" else {"width": 8}
    encoder = built({"name": name})
    state = (encoder.network if name == "yamnet" else encoder).state_dict()
    torch.save(state, tmp_path / "w.pth")
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "w.safetensors")
    for file in ("w.pth", "w.safetensors"):
        again = audio_encoder(name, weights=str(tmp_path / file), **options)
        assert all(torch.equal(v, encoder.state_dict()[k]) for k, v in again.state_dict().items())
    key = next(k for k in state if k.endswith("weight"))
    state[key.replace("weight", "wieght")] = state.pop(key)
    torch.save(state, tmp_path / "bad.pth")
    with pytest.raises(ValueError, match=rf"bad\.pth must be those of .*missing \['{key}'\].*wieght' -> '{key}'"):
        audio_encoder(name, weights=str(tmp_path / "bad.pth"), **options)
    with pytest.raises(FileNotFoundError, match="must be a state-dict file"):
        audio_encoder(name, weights=str(tmp_path / "none.pth"), **options)


# YAMNet -------------------------------------------------------------------------------------------------------------


def test_htk_filters_have_height_one_at_their_centres():
    filters = htk_filters(16000, 4096, 12, 125.0, 7500.0)
    centres = 700 * (np.exp(np.linspace(*1127 * np.log1p(np.array([125, 7500]) / 700), 14)[1:-1] / 1127) - 1)
    for band, hz in enumerate(centres):
        near = round(hz / 8000 * 2048)
        assert filters[near, band] > 0.97 and filters[:, band].argmax() in (near - 1, near, near + 1)
    assert (filters[: int(125 / 8000 * 2048)] == 0).all() and (filters[int(7500 / 8000 * 2048) + 1 :] == 0).all()


def plain_yamnet(network, wave):
    """(T,) -> (patches, 1024), patch by patch, pixel by pixel where TensorFlow's padding matters."""
    patches = max(math.ceil((len(wave) - 15600) / 7680), 0) + 1
    wave = np.pad(wave, (0, 15600 + (patches - 1) * 7680 - len(wave)))
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    rows = [
        np.log(np.abs(np.fft.rfft(wave[at : at + 400] * window, 512)) @ network.mel_matrix.double().numpy() + 0.001)
        for at in range(0, len(wave) - 399, 160)
    ]
    out = []
    for p in range(patches):
        x = torch.from_numpy(np.stack(rows[48 * p : 48 * p + 96]))[None, None]
        for i, stride in enumerate((2, 1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1), start=1):
            layer = getattr(network, f"layer{i}")
            conv = layer if i == 1 else layer["depthwise"]
            height, width = (math.ceil(n / stride) for n in x.shape[2:])
            below, right = (max((o - 1) * stride + 3 - n, 0) for o, n in zip((height, width), x.shape[2:], strict=True))
            x = F.pad(x, (right // 2, right - right // 2, below // 2, below - below // 2))
            x = F.conv2d(x, conv.weight.double(), conv.bias.double(), stride, groups=conv.groups).clamp_min(0)
            if i > 1:
                point = layer["pointwise"]
                x = torch.einsum("oi,bihw->bohw", point.weight.double()[:, :, 0, 0], x)
                x = (x + point.bias.double()[:, None, None]).clamp_min(0)
        out.append(x.mean(dim=(2, 3))[0])
    return torch.stack(out)


@pytest.mark.parametrize("length", [1, 15600, 15601, 23280, 24001])
def test_yamnet_equals_a_plain_one(length):
    torch.manual_seed(0)
    encoder = AudioEncoder("yamnet").eval()
    for p in encoder.parameters():  # large enough to survive fourteen layers
        p.data *= 2
    clip = waves(length)[0]
    with torch.no_grad():
        want = plain_yamnet(encoder.network, clip.double().numpy())
        features = encoder(clip[None])
    assert features.map.shape[1] == len(want) and isinstance(encoder.network, YamNet)
    torch.testing.assert_close(features.map[0].double(), want, rtol=1e-3, atol=1e-4 * float(want.abs().max()))


def test_yamnet_knows_real_sounds(real_data):
    """Thirty clips of fold 1 as examples, thirty of fold 2 to tell; all 400 in five folds give 97.5 % (linear)."""
    weights, esc10 = real_data("weights") / "yamnet_dequantized_fp16.pth", real_data("esc10")
    encoder = audio_encoder("yamnet", weights=str(weights), freeze=True)
    state = torch.load(weights, weights_only=True)
    torch.testing.assert_close(
        htk_filters(16000, 512, 64, 125.0, 7500.0), state["mel_matrix"].float(), rtol=0, atol=1e-3
    )
    with open(next((esc10 / "meta").glob("*.csv"))) as file:
        rows = list(csv.DictReader(file))
    chosen = {(fold, category): [] for fold in "12" for category in sorted({r["category"] for r in rows})}
    for row in rows:
        place = chosen.get((row["fold"], row["category"]))
        if place is not None and len(place) < 3:
            place.append(esc10 / "audio" / row["filename"])
    features = encoder.encode([path for paths in chosen.values() for path in paths])
    vectors = features.vector.view(2, 10, 3, -1)  # (fold, class, clip, 1024)
    vectors = F.normalize(vectors - vectors[0].mean(dim=(0, 1)), dim=-1)
    centroids = F.normalize(vectors[0].mean(dim=1), dim=-1)  # (10, 1024)
    found = (vectors[1] @ centroids.T).argmax(-1)  # (10, 3)
    assert (found == torch.arange(10)[:, None]).float().mean() >= 0.75
    with open(weights.with_name("yamnet_class_map.csv")) as file:
        names = [row["display_name"] for row in csv.DictReader(file)]
    logits = features.map @ state["classifier.weight"].float().T + state["classifier.bias"].float()
    scores = logits.sigmoid().amax(1).view(2, 10, 3, -1)  # the patch that is surest
    likely = {"baby_cry": "Crying, sobbing", "chainsaw": "Chainsaw", "rain": "Rain", "sea_waves": "Ocean"}
    likely |= {"rooster": "Crowing, cock-a-doodle-doo", "person_sneeze": "Sneeze", "clock_tick": "Tick-tock"}
    categories = sorted({category for _, category in chosen})
    for category, name in likely.items():
        top = scores[:, categories.index(category)].reshape(6, -1).topk(8).indices
        assert (top == names.index(name)).any(1).sum() >= 3, category
