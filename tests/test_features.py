import pytest
import torch

from mm.features import Features, mask_from_lengths, masked_max, masked_mean, masked_softmax, pad

LENGTHS = torch.tensor([3, 1, 0])


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    map = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0)) - 5.0  # below zero, where padding would win
    return map, mask_from_lengths(LENGTHS, 3)


def test_pooling_equals_loops_and_an_input_without_places_gives_zeros() -> None:
    map, mask = inputs()
    for b, length in enumerate(LENGTHS.tolist()):
        real = map[b, :length]
        mean, highest = (real.mean(0), real.amax(0)) if length else (torch.zeros(4), torch.zeros(4))
        torch.testing.assert_close(masked_mean(map, mask)[b], mean)
        torch.testing.assert_close(masked_max(map, mask)[b], highest)


def test_softmax_gives_padding_nothing() -> None:
    map, mask = inputs()
    weights = masked_softmax(map[..., 0], mask)
    torch.testing.assert_close(weights[0], map[0, :, 0].softmax(0))
    assert weights[1].tolist() == [1.0, 0.0, 0.0]
    assert weights[2].tolist() == [0.0, 0.0, 0.0]


def test_gradients_stay_finite_where_nothing_is_real() -> None:
    map, mask = inputs()
    map.requires_grad_()
    (masked_mean(map, mask).sum() + masked_max(map, mask).sum() + masked_softmax(map[..., 0], mask).sum()).backward()
    assert map.grad is not None and map.grad.isfinite().all()
    assert (map.grad[2] == 0).all()


def test_pad_puts_zeros_behind_and_keeps_pictures_as_they_are() -> None:
    values, lengths = pad([torch.tensor([1, 2, 3]), torch.tensor([4])])
    assert values.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert lengths is not None and lengths.tolist() == [3, 1]
    pictures, none = pad([torch.ones(3, 2, 2), torch.zeros(3, 2, 2)])
    assert none is None
    assert torch.equal(pictures[0], torch.ones(3, 2, 2))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [([], "at least one tensor"), ([torch.zeros(3, 2, 2), torch.zeros(3, 4, 2)], "must have one size")],
)
def test_pad_rejects(tensors: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pad(tensors)


def test_unit_vectors() -> None:
    map, mask = inputs()
    features = Features(map, mask, torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]), (3,))
    torch.testing.assert_close(features.unit(), torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]]))
