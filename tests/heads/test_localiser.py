"""The localiser against cosines taken one by one, at padding, at its temperatures and under autocast."""

import math

import pytest
import torch

from mm.features import Features
from mm.heads import LocaliserConfig, SoundLocaliser
from mm.heads.localiser import LEAST_TEMPERATURE, START_TEMPERATURE, attended, score_map

PLACE_DIM, SOUND_DIM = 8, 5


def pictures(rows: int = 3, grid: tuple[int, ...] = (2, 3), seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    map = torch.randn(rows, math.prod(grid), PLACE_DIM, generator=generator)
    return Features(map, torch.ones(map.shape[:2], dtype=torch.bool), torch.zeros(rows, 1), grid)


def sounds(rows: int = 3, seed: int = 1) -> Features:
    vector = torch.randn(rows, SOUND_DIM, generator=torch.Generator().manual_seed(seed))
    return Features(torch.zeros(rows, 2, 4), torch.ones(rows, 2, dtype=torch.bool), vector, (2,))


def padded(image: Features, columns: list[int], content: float) -> Features:
    """Of picture b only the first `columns[b]` columns are real; the others hold `content`."""
    real = torch.arange(image.grid[1]) < torch.tensor(columns)[:, None]  # (B, W)
    mask = real[:, None].expand(-1, image.grid[0], -1).flatten(1)  # (B, N)
    return image._replace(map=torch.where(mask[..., None], image.map, torch.tensor(content)), mask=mask)


def head(temperature: float = 0.0, embed_dim: int = 16) -> SoundLocaliser:
    torch.manual_seed(0)
    return SoundLocaliser(PLACE_DIM, SOUND_DIM, LocaliserConfig(embed_dim, temperature))


def plain(temperature: float = 0.0) -> SoundLocaliser:
    """A head that compares the first five numbers of a place and a sound as they are."""
    made = head(temperature, SOUND_DIM)
    with torch.no_grad():
        for layer in (made.place, made.sound):
            layer.weight.copy_(torch.eye(SOUND_DIM, layer.in_features))
            layer.bias.zero_()
    return made


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def slow_unit(layer: torch.nn.Linear, x: torch.Tensor) -> list[float]:
    weight, bias, given = layer.weight.tolist(), layer.bias.tolist(), x.tolist()
    projected = [dot(row, given) + shift for row, shift in zip(weight, bias, strict=True)]
    length = math.sqrt(dot(projected, projected))
    return [value / length for value in projected]


def slow_cosines(model: SoundLocaliser, image: Features, audio: Features) -> list[list[float]]:
    """Per picture the cosines of its real places, one by one."""
    rows = []
    for b in range(len(image.map)):
        heard = slow_unit(model.sound, audio.vector[b])
        real = [n for n in range(image.map.shape[1]) if image.mask[b, n]]
        rows.append([dot(slow_unit(model.place, image.map[b, n]), heard) for n in real])
    return rows


# Scores -------------------------------------------------------------------------------------------------------------


def test_scores_equal_cosines_taken_one_by_one() -> None:
    model, image, audio = head(), padded(pictures(), [3, 1, 2], 7.0), sounds()
    scores, slow = model(image, audio), slow_cosines(model, image, audio)
    for b, expected in enumerate(slow):
        assert scores[b][image.mask[b]].tolist() == pytest.approx(expected, abs=1e-5)
        assert all(score == -math.inf for score in scores[b][~image.mask[b]].tolist())


@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (1, 6), (5, 4)])
def test_a_heat_map_lies_as_the_picture_does(grid: tuple[int, int]) -> None:
    model = plain()
    for row in range(grid[0]):
        for column in range(grid[1]):
            map = torch.zeros(1, *grid, PLACE_DIM)
            map[..., 0] = 1.0  # at right angles to the sound
            map[0, row, column] = torch.eye(PLACE_DIM)[2] * 3.0
            image = pictures(1, grid)._replace(map=map.flatten(1, 2))
            audio = sounds(1)._replace(vector=torch.eye(SOUND_DIM)[2:3] * 0.5)
            expected = torch.zeros(1, *grid)
            expected[0, row, column] = 1.0
            torch.testing.assert_close(model.heatmap(image, audio), expected)


@pytest.mark.parametrize("grid", [(6,), (2, 3, 1)])
def test_a_heat_map_needs_rows_and_columns(grid: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"needs a grid of rows and columns: got \({grid[0]}, *.*Give an image's"):
        head().heatmap(pictures(1, grid), sounds(1))


def test_a_map_of_one_axis_is_scored_and_attended_too() -> None:
    image, audio = pictures(), sounds()
    flat = image._replace(grid=(6,))
    torch.testing.assert_close(head()(flat, audio), head()(image, audio))
    torch.testing.assert_close(head().attend(flat, audio), head().attend(image, audio))


def test_each_picture_has_its_sound() -> None:
    for method in ("forward", "heatmap", "attend"):
        with pytest.raises(ValueError, match="each picture must have its sound: got 3 pictures and 2 sounds"):
            getattr(head(), method)(pictures(3), sounds(2))


def test_sounds_without_a_picture_are_compared_all_the_same() -> None:
    model, image, audio = head(), pictures(2), sounds(4)
    compared = model.compared(image, audio)
    torch.testing.assert_close(compared.sounds[:2], model.compared(image, sounds(4)).sounds[:2])
    expected = [[dot(slow_unit(model.place, p), slow_unit(model.sound, s)) for p in image.map[1]] for s in audio.vector]
    torch.testing.assert_close(compared.sounds @ compared.places[1].T, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_a_batch_equals_its_rows_one_by_one() -> None:
    model, image, audio = head(), padded(pictures(), [3, 1, 2], 0.0), sounds()
    scores, (weights, seen) = model(image, audio), model.attend(image, audio)
    for b in range(3):
        one = Features(image.map[b : b + 1], image.mask[b : b + 1], image.vector[b : b + 1], image.grid)
        other = audio._replace(vector=audio.vector[b : b + 1])
        torch.testing.assert_close(model(one, other)[0], scores[b])
        alone, what = model.attend(one, other)
        torch.testing.assert_close((alone[0], what[0]), (weights[b], seen[b]))


# Attention ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 0.2, 1.0])
def test_attention_and_what_is_seen_equal_naive_sums(temperature: float) -> None:
    model, image, audio = head(temperature), padded(pictures(), [3, 1, 2], 7.0), sounds()
    weights, seen = model.attend(image, audio)
    for b, cosines in enumerate(slow_cosines(model, image, audio)):
        powers = [math.exp(max(0.0, cosine) / (temperature or START_TEMPERATURE)) for cosine in cosines]
        expected = [power / sum(powers) for power in powers]
        assert weights[b][image.mask[b]].tolist() == pytest.approx(expected, abs=1e-5)
        places = [slow_unit(model.place, place) for place in image.map[b][image.mask[b]]]
        total = [sum(share * place[e] for share, place in zip(expected, places, strict=True)) for e in range(16)]
        length = math.sqrt(dot(total, total))
        assert seen[b].tolist() == pytest.approx([value / length for value in total], abs=1e-4)
        assert seen[b].norm().item() == pytest.approx(1, abs=1e-6)


def test_padding_gets_exactly_no_attention_and_its_content_changes_nothing() -> None:
    found = []
    for content in (0.0, -3.0, 1e4):
        model, audio = head(), sounds()
        image = padded(pictures(), [3, 1, 2], content)
        image = image._replace(map=image.map.requires_grad_())
        scores, (weights, seen) = model(image, audio), model.attend(image, audio)
        assert torch.all(weights[~image.mask] == 0) and torch.all(weights[image.mask] > 0)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
        aims = torch.randn(3, 16, generator=torch.Generator().manual_seed(2))
        ((seen * aims).sum() + (weights[:, 0] ** 2).sum() + scores[image.mask].square().sum()).backward()
        assert torch.all(image.map.grad[~image.mask] == 0) and torch.any(image.map.grad[image.mask] != 0)
        gradients = [image.map.grad, *(parameter.grad for parameter in model.parameters())]
        found.append([scores, weights, seen, *gradients])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_a_picture_of_nothing_but_padding_has_finite_gradients() -> None:
    model, image = head(), padded(pictures(), [3, 0, 2], 1.0)
    weights, seen = model.attend(image, sounds())
    assert not weights[1].any() and not seen[1].any()
    (seen.square().sum() + weights[:, 0].sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


# Temperature --------------------------------------------------------------------------------------------------------


def one_right_place(places: int = 400) -> tuple[Features, Features]:
    """One place that is the sound, all others at right angles to it."""
    map = torch.eye(PLACE_DIM)[torch.ones(places, dtype=torch.long)]
    map[17] = torch.eye(PLACE_DIM)[2]
    image = pictures(1, (20, places // 20))._replace(map=map[None])
    return image, sounds(1)._replace(vector=torch.eye(SOUND_DIM)[2:3])


def test_at_one_it_is_the_softmax_of_the_rectified_cosines_and_next_to_uniform() -> None:
    image, audio = one_right_place()
    weights, _ = plain(1.0).attend(image, audio)
    assert weights[0, 17].item() == pytest.approx(math.e / (math.e + 399), rel=1e-5)
    assert weights[0, 18].item() == pytest.approx(1 / (math.e + 399), rel=1e-5)
    assert plain().attend(image, audio)[0][0, 17].item() > 0.99  # as learning starts, it selects


def test_cosines_below_zero_are_as_zero() -> None:
    image, audio = one_right_place(20)
    opposite = image._replace(map=torch.where(image.map[..., 1:2] > 0, -image.map[:, 17:18], image.map))
    for temperature in (0.0, 1.0):
        model = plain(temperature)
        assert model(opposite, audio)[0, 0].item() == pytest.approx(-1)
        torch.testing.assert_close(model.attend(opposite, audio)[0], model.attend(image, audio)[0])


def test_it_is_learned_unless_given() -> None:
    image, audio = pictures(), sounds()
    model, fixed = head(), head(0.5)
    assert model.temperature.item() == pytest.approx(START_TEMPERATURE)
    assert fixed.temperature.item() == pytest.approx(0.5)
    for one in (model, fixed):
        learned = [parameter for parameter in one.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(learned, lr=0.1, weight_decay=0.1)
        one.attend(image, audio)[0].square().sum().backward()
        optimiser.step()
    assert model.log_scale.grad.abs() > 0 and model.temperature.item() != pytest.approx(START_TEMPERATURE, rel=1e-3)
    assert fixed.log_scale.grad is None and fixed.temperature.item() == pytest.approx(0.5)


def test_a_sharper_attention_is_a_lower_temperature() -> None:
    """The sign of the gradient: more attention at the right place is had by dividing by less."""
    model, (image, audio) = plain(), one_right_place()
    before = model.temperature.item()
    model.attend(image, audio)[0][0, 17].backward()
    with torch.no_grad():
        model.log_scale += 0.1 * model.log_scale.grad.sign()
    assert model.temperature.item() < before


def test_the_bound_lets_the_gradient_back() -> None:
    model, (image, audio) = plain(), one_right_place()
    with torch.no_grad():
        model.log_scale.fill_(7.0)  # far beyond the bound
    assert model.temperature.item() == pytest.approx(LEAST_TEMPERATURE)
    optimiser = torch.optim.Adam([model.log_scale], lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        (-model.temperature).backward()
        optimiser.step()
    assert model.temperature.item() > 2 * LEAST_TEMPERATURE
    with torch.no_grad():
        model.log_scale.fill_(7.0)
    assert model.attend(image, audio)[0].isfinite().all()


# Precision and settings ---------------------------------------------------------------------------------------------


def test_autocast_costs_no_precision_after_the_projections() -> None:
    model, image, audio = head(), padded(pictures(), [3, 1, 2], 7.0), sounds()
    with torch.autocast("cpu", torch.bfloat16):
        compared = model.compared(image, audio)
        scores, heat, (weights, seen) = model(image, audio), model.heatmap(image, audio), model.attend(image, audio)
    expected = score_map(compared)
    torch.testing.assert_close(compared.places.norm(dim=-1), torch.ones(3, 6), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(compared.sounds.norm(dim=-1), torch.ones(3), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(heat, expected.unflatten(1, (2, 3)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close((weights, seen), attended(compared, expected), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen.norm(dim=-1), torch.ones(3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("embed_dim", "temperature", "message"),
    [
        (0, 0.0, "got 0 and 0.0"),
        (16, -0.1, "head.temperature 0 or at least 0.01: got 16 and -0.1"),
        (16, 0.001, "got 16 and 0.001"),  # the bound would hold it at 0.01
        (16, math.nan, "got 16 and nan"),
        (16, math.inf, "got 16 and inf"),
    ],
)
def test_rejected_settings(embed_dim: int, temperature: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SoundLocaliser(PLACE_DIM, SOUND_DIM, LocaliserConfig(embed_dim, temperature))
