import json
import operator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mm.encoders.encoder import Encoder, concatenate, load_weights
from mm.features import Features, mask_from_lengths, masked_mean
from tests.shared import in_a_spawned_process


class Letters(Encoder):
    """A sentence -> one vector per letter; small enough to check by hand."""

    modality = "text"

    def __init__(self, width: int = 4, freeze: bool = False, names: list[str] | None = None) -> None:
        super().__init__()
        self.dim = self.vector_dim = width
        self.names = names
        self.embedding = nn.Embedding(128, width)
        self.norm = nn.BatchNorm1d(width)
        self.linear = nn.Linear(width, width)
        self.register_buffer("scale", torch.tensor(1.5, dtype=torch.float64))
        if freeze:
            self.freeze_modules([self.embedding, self.norm])

    def prepare(self, source: str, view: int = 0) -> Tensor:
        return torch.tensor([ord(c) for c in source])

    def trunk(self, values: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if not self.frozen:
            return values, lengths
        with torch.no_grad():
            return self.first(values), lengths

    def first(self, values: Tensor) -> Tensor:
        return self.norm(self.embedding(values).transpose(1, 2)).transpose(1, 2)

    def tail(self, values: Tensor, lengths: Tensor | None = None) -> Features:
        hidden = self.linear(values if self.frozen else self.first(values)) * self.scale.float()
        assert lengths is not None
        mask = mask_from_lengths(lengths, hidden.shape[1])
        return Features(hidden, mask, masked_mean(hidden, mask), (hidden.shape[1],))


class Forgetful(Encoder):
    modality = "text"

    def __init__(self, path: Path) -> None:
        super().__init__()


class Loose(Encoder):
    modality = "text"

    def __init__(self, width: int = 3, **options: int) -> None:
        super().__init__()


@pytest.fixture
def encoder() -> Letters:
    torch.manual_seed(0)
    encoder = Letters(width=5, freeze=True, names=["a", "b"])
    encoder.norm.running_mean.normal_()
    return encoder


WORDS = ["a", "abcde", "ab", "abcdefgh", "abc"]


def test_encode_equals_one_by_one_in_any_batch_size(encoder):
    single = [encoder.encode([word]) for word in WORDS]
    for batch_size in (1, 2, 3, 32):
        many = encoder.encode(WORDS, batch_size=batch_size)
        assert many.grid == (8,) and many.map.shape == (5, 8, 5)
        for b, (word, one) in enumerate(zip(WORDS, single, strict=True)):
            assert many.mask[b].tolist() == [True] * len(word) + [False] * (8 - len(word))
            torch.testing.assert_close(many.map[b, : len(word)], one.map[0], rtol=0, atol=1e-6)
            torch.testing.assert_close(many.vector[b], one.vector[0], rtol=0, atol=1e-6)


def test_encode_is_without_gradient_in_eval_mode_and_puts_flags_back(encoder):
    encoder.train()
    encoder.linear.eval()
    before = encoder.norm.running_mean.clone()
    features = encoder.encode(WORDS)
    assert not features.map.requires_grad
    assert encoder.training and not encoder.linear.training and not encoder.norm.training
    assert torch.equal(encoder.norm.running_mean, before)


def test_flags_come_back_when_an_item_fails(encoder):
    encoder.train()
    with pytest.raises(TypeError):
        encoder.encode(["a", 3])
    assert encoder.training


@pytest.mark.parametrize("sources", ["a dog", Path("a.wav"), torch.zeros(3), np.zeros(3), (w for w in WORDS)])
def test_one_item_is_not_a_list(encoder, sources):
    with pytest.raises(TypeError, match="sources must be a list of items"):
        encoder.encode(sources)


@pytest.mark.parametrize(("sources", "batch_size"), [([], 32), (WORDS, 0)])
def test_nothing_to_encode(encoder, sources, batch_size):
    with pytest.raises(ValueError, match="at least one source and a batch_size of at least 1"):
        encoder.encode(sources, batch_size=batch_size)


def test_cached_trunk_outputs_give_the_same_features(encoder):
    values, lengths = torch.tensor([[97, 98, 99], [100, 0, 0]]), torch.tensor([3, 1])
    trunk, trunk_lengths = encoder.trunk(values, lengths)
    assert not trunk.requires_grad
    direct, cached = encoder(values, lengths), encoder(trunk, trunk_lengths, from_trunk=True)
    assert torch.equal(direct.map, cached.map) and torch.equal(direct.vector, cached.vector)


def test_frozen_modules_never_train(encoder):
    encoder.train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    optimiser = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    values, lengths = torch.randint(1, 128, (4, 6)), torch.full((4,), 6)
    encoder(values, lengths).vector.square().sum().backward()
    optimiser.step()
    changed = {k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"linear.weight", "linear.bias"}


def test_save_and_load_bit_for_bit(encoder, tmp_path, capsys):
    encoder.save_pretrained(tmp_path / "e")
    again = Letters.from_pretrained(tmp_path / "e")
    assert capsys.readouterr().out == ""
    assert again.config == encoder.config == {"width": 5, "freeze": True, "names": ["a", "b"]}
    assert len(again.frozen) == 2 and not again.training
    for (name, value), (name2, value2) in zip(encoder.state_dict().items(), again.state_dict().items(), strict=True):
        assert name == name2 and value.dtype == value2.dtype and torch.equal(value, value2)
    assert again.fingerprint() == encoder.fingerprint()
    one, two = encoder.encode(WORDS), again.encode(WORDS)
    assert torch.equal(one.map, two.map) and torch.equal(one.vector, two.vector)
    assert {p.name for p in (tmp_path / "e").iterdir()} == {"model.safetensors", "config.json", "README.md"}


def test_saving_again_replaces(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    other = Letters(width=3)
    other.save_pretrained(tmp_path)
    assert Letters.from_pretrained(tmp_path).fingerprint() == other.fingerprint()
    assert json.loads((tmp_path / "config.json").read_text())["class"] == "Letters"


def test_a_save_that_fails_leaves_the_old_files(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    other = Letters(width=3)
    with pytest.raises(TypeError):
        other.save_pretrained(tmp_path, config={"width": object()})
    assert Letters.from_pretrained(tmp_path).fingerprint() == encoder.fingerprint()
    assert not list(tmp_path.glob(".saving-*"))


def test_bad_folders(encoder, tmp_path):
    encoder.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"class": "Words"}))
    with pytest.raises(TypeError, match=r"holds a Words, not a Letters\. Use Words\.from_pretrained"):
        Letters.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-50])
    with pytest.raises(ValueError, match=r"model\.safetensors of .* is damaged"):
        Letters.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"must hold config.json and model.safetensors"):
        Letters.from_pretrained(tmp_path)


def test_missing_weights_are_an_error(encoder, tmp_path):
    from safetensors.torch import load_file, save_file

    encoder.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["linear.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"linear\.bias"):
        Letters.from_pretrained(tmp_path)


def test_arguments_must_be_json():
    with pytest.raises(TypeError, match=r"must be JSON values.*\['path'\]"):
        Forgetful(Path("x"))
    with pytest.raises(TypeError, match=r"must be JSON values.*\['options'\]"):
        Loose()


def test_fingerprint_follows_class_config_and_weights(encoder):
    whole, trunk = encoder.fingerprint(), encoder.fingerprint("trunk")
    assert len(whole) == 16 and int(whole, 16) >= 0 and whole != trunk
    assert deepcopy(encoder).fingerprint() == whole
    assert in_a_spawned_process(operator.methodcaller("fingerprint", "trunk"), encoder) == trunk
    with torch.no_grad():
        encoder.linear.bias[0] += 1e-3
    assert encoder.fingerprint() != whole and encoder.fingerprint("trunk") == trunk
    encoder.norm.running_var[0] += 1e-3
    assert encoder.fingerprint("trunk") != trunk
    renamed = Letters(width=5, freeze=True, names=["a", "c"])
    renamed.load_state_dict(encoder.state_dict())
    assert renamed.fingerprint("trunk") != encoder.fingerprint("trunk")
    with pytest.raises(ValueError, match="part must be 'all' or 'trunk'"):
        encoder.fingerprint("tail")


def test_concatenate_pads_the_last_axis_of_a_two_axis_grid():
    a = Features(torch.randn(2, 6, 4), torch.ones(2, 6, dtype=torch.bool), torch.randn(2, 3), (2, 3))
    b = Features(torch.randn(1, 10, 4), torch.ones(1, 10, dtype=torch.bool), torch.randn(1, 3), (2, 5))
    joined = concatenate([a, b])
    assert joined.grid == (2, 5)
    cells, mask = joined.map.view(3, 2, 5, 4), joined.mask.view(3, 2, 5)
    assert torch.equal(cells[:2, :, :3], a.map.view(2, 2, 3, 4)) and torch.equal(joined.map[2:], b.map)
    assert not cells[:2, :, 3:].any() and not mask[:2, :, 3:].any()
    assert mask[:2, :, :3].all() and mask[2].all() and torch.equal(joined.vector, torch.cat([a.vector, b.vector]))
    c = Features(torch.randn(1, 3, 4), torch.ones(1, 3, dtype=torch.bool), torch.randn(1, 3), (3, 1))
    with pytest.raises(ValueError, match="may differ in their last axis only"):
        concatenate([a, c])


def test_load_weights_names_what_does_not_fit():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).state_dict()
    load_weights(module, state, "w.pth")
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())
    renamed = {k.replace("0.weight", "0.wait"): v for k, v in state.items()}
    with pytest.raises(ValueError, match=r"keys of w\.pth.*missing \['0\.weight'\].*'0\.wait' -> '0\.weight'"):
        load_weights(module, renamed, "w.pth")
    with pytest.raises(ValueError, match=r"Is it the file of another network"):
        load_weights(module, state | {"zzzzzzzzzz": torch.zeros(1)}, "w.pth")
    with pytest.raises(ValueError, match=r"'0\.bias' in w\.pth must have the shape \(3,\): got \(4,\)"):
        load_weights(module, state | {"0.bias": torch.zeros(4)}, "w.pth")
