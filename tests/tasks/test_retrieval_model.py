"""Large batches: chunks that are computed twice, and the memory of earlier batches in a model's checkpoints."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mm import data, encoders
from mm.config import ConfigError
from mm.config import load as read_config
from mm.tasks import retrieval
from mm.tasks.retrieval import Objective, Retrieval, build_model, description
from mm.tasks.retrieval_data import training_batches
from mm.tasks.retrieval_model import JointModel

FROZEN = ("encoder.image.freeze=true", "encoder.audio.freeze=true")  # BatchNorm is what chunks do change
DROPOUT = ("head.dropout=0.4", "encoder.text.dropout=0.3", "encoder.text.word_dropout=0.3")


@pytest.fixture
def built(tiny: list[str], tmp_path: Path) -> Callable[..., tuple[JointModel, Objective, dict]]:
    """built("key=value", ...) is a model in training mode, its objective and a batch of eight items."""

    def build(*changes: str) -> tuple[JointModel, Objective, dict]:
        cfg = read_config(Retrieval, [*tiny, f"data.cache={tmp_path / 'cache'}", *changes])
        items = data.load(cfg.data, "train")
        torch.manual_seed(0)
        model = build_model(cfg, data.sentences(items)).train()
        batch = next(training_batches(model, items, cfg)(0))
        assert {len(batch[modality].rows) for modality in model.encoders} == {8}
        return model, Objective(cfg.loss, dict(model.memory)), batch

    return build


def step(model: nn.Module, objective: Objective, batch: dict, seed: int = 3) -> dict[str, Tensor]:
    """The gradients of one training step."""
    model.zero_grad()
    torch.manual_seed(seed)
    sum(objective(model, batch, 0).values()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float) -> None:
    assert one.keys() == other.keys() and len(one) > 10
    for name, gradient in one.items():
        if not name.endswith("score.bias"):  # the bias in a softmax has no gradient but rounding
            error = (gradient - other[name]).norm() / other[name].norm()
            assert float(error) < tolerance, (name, float(error))


class Plain(nn.Module):
    """The same chunks, all kept until the gradient comes back."""

    def __init__(self, model: JointModel, chunk: int):
        super().__init__()
        self.model, self.parts = model, -(-8 // chunk)

    def forward(self, batch: dict) -> retrieval.Embedded:
        vectors = {}
        for modality in self.model.encoders:
            values, lengths, _ = batch[modality]
            lengths = [None] * self.parts if lengths is None else lengths.tensor_split(self.parts)
            chunks = zip(values.tensor_split(self.parts), lengths, strict=True)
            vectors[modality] = torch.cat([self.model.vectors(modality, *some) for some in chunks])
        return retrieval.Embedded(vectors, self.model.head.logit_scale, self.model.head.logit_bias, {})


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
@pytest.mark.parametrize("loss", ["info_nce", "hinge", "multi_similarity"])
def test_chunks_have_the_gradient_of_one_big_batch(built, chunk: int, loss: str) -> None:
    gradients = []
    for rows in (0, chunk):
        model, objective, batch = built(*FROZEN, "modalities=[image,text]", f"loss.name={loss}", f"loss.chunk={rows}")
        gradients.append(step(model.double(), objective, batch))  # in float32, small gradients are rounded by 1e-5
    assert_same(*gradients, 1e-9)


@pytest.mark.parametrize(("amp", "tolerance"), [(False, 1e-5), (True, 2e-2)])
def test_the_second_time_hides_what_the_first_time_hid(built, amp: bool, tolerance: float) -> None:
    """Dropout, hidden words and stripes of the spectrogram: equal to the same chunks without a second computation.

    Under autocast these chunks' gradients are added up in bfloat16, ours in float32.
    """
    model, objective, batch = built("loss.chunk=3", *DROPOUT, "encoder.audio.spec_augment=0.3")
    plain = copy.deepcopy(model)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        found = step(model, objective, batch)
        state = torch.get_rng_state()
        expected = step(Plain(plain, 3), objective, batch)
    assert torch.equal(torch.get_rng_state(), state)
    expected = {name.removeprefix("model."): gradient for name, gradient in expected.items()}
    assert_same(found, expected, tolerance)
    for name, value in plain.state_dict().items():  # BatchNorm has counted every chunk once
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0, msg=name)
    assert any("running_mean" in name for name in plain.state_dict())
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        other = step(model, objective, batch, seed=4)
    assert any(not torch.allclose(other[name], found[name], rtol=1e-2) for name in found)  # it is hidden by chance


def test_batch_norm_is_as_before_and_goes_on_learning(built) -> None:
    model, objective, batch = built("loss.chunk=3")
    norms = {name: module for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name: (norm.momentum, norm.running_mean.clone()) for name, norm in norms.items()}
    step(model, objective, batch)
    for name, norm in norms.items():
        assert norm.momentum == before[name][0] and int(norm.num_batches_tracked) == 3
        assert not torch.equal(norm.running_mean, before[name][1])


def test_what_is_kept_between_forward_and_backward_does_not_grow_with_the_batch(built) -> None:
    """Tensors saved for the gradient of a whole batch and of the same in eight chunks; `make bench` takes megabytes."""
    sizes = {}
    for chunk in (0, 1):
        model, _, batch = built(f"loss.chunk={chunk}")
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t):
            model(batch)
        sizes[chunk] = sum(kept)
    assert sizes[1] < sizes[0] / 10


def test_a_memory_is_in_the_checkpoint_and_in_no_fingerprint(built) -> None:
    model, objective, batch = built("loss.memory=12", "loss.memory_from=0")
    first, trunk = model.fingerprint(), model.encoder("image").fingerprint()
    for _ in range(2):
        step(model, objective, batch)
    saved = model.state_dict()
    assert {f"memory.{m}.{k}" for m in data.MODALITIES for k in ("bits", "owners", "count")} <= set(saved)
    assert [int(saved[f"memory.{m}.count"]) for m in data.MODALITIES] == [12, 12, 12]
    model.eval()  # the steps above have moved BatchNorm's statistics; the memory alone is compared
    moved = model.fingerprint()
    model.memory.clear()
    assert model.fingerprint() == moved != first and model.encoder("image").fingerprint() != trunk
    assert list(description(model)) == [encoders.DESCRIPTION_FILE]
    assert set(description(model)[encoders.DESCRIPTION_FILE]) == set(data.MODALITIES)


def test_a_memory_that_would_never_be_filled_is_refused(built) -> None:
    with pytest.raises(
        ConfigError, match=r"from step loss\.memory_from=200 on, which must come before the end, .*=24\."
    ):
        built("loss.memory=12")


def test_without_a_memory_a_checkpoint_has_none(built) -> None:
    model, _, _ = built()
    assert not [name for name in model.state_dict() if "memory" in name]
    assert len(model.memory) == 0
