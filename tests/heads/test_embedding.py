import pytest
import torch

from mm.features import Features, mask_from_lengths
from mm.heads import AttentionPool, JointEmbedding


def features(lengths: list[int], columns: int, dim: int = 8, vector_dim: int = 6) -> Features:
    mask = mask_from_lengths(torch.tensor(lengths), columns)
    generator = torch.Generator().manual_seed(0)
    map = torch.randn(len(lengths), columns, dim, generator=generator)
    return Features(map, mask, torch.randn(len(lengths), vector_dim, generator=generator), (columns,))


def head(pool: str = "attention", **options) -> JointEmbedding:
    torch.manual_seed(0)
    inputs = {"image": (8, 6), "text": (8, 6)}
    pools = dict.fromkeys(inputs, pool)
    options = {"embed_dim": 16, "heads": 4, "head_dim": 3, "dropout": 0.5, "temperature": 0.07, **options}
    return JointEmbedding(inputs, pool=pools, **options).eval()


def test_attention_pool_equals_a_loop_over_inputs_heads_and_places() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(8, heads=4, width=3)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 0]], dtype=torch.bool)  # two rows of three, or of two
    given = Features(torch.randn(2, 6, 8), mask, torch.randn(2, 6), (2, 3))
    expected = torch.zeros(2, 12)
    for b, columns in enumerate([3, 2]):
        real = [(r, c) for r in range(2) for c in range(columns)]
        content = [pool.norm(given.map[b, 3 * r + c]) for r, c in real]
        for h in range(4):
            distances = [
                ((r + 0.5) / 2 - pool.row[h]) ** 2 + ((c + 0.5) / columns - pool.column[h]) ** 2 for r, c in real
            ]
            scores = [
                pool.score(x)[h] - d / (2 * pool.log_spread[h].exp() ** 2)
                for x, d in zip(content, distances, strict=True)
            ]
            weights = torch.stack(scores).softmax(0)
            values = torch.stack([pool.value(x).relu() for x in content])
            expected[b, 3 * h : 3 * h + 3] = (weights[:, None] * values).sum(0)
    torch.testing.assert_close(pool(given), expected, rtol=1e-5, atol=1e-6)


def test_vectors_are_unit_and_padding_changes_nothing() -> None:
    model = head()
    given = features([5, 3], columns=5)
    longer = Features(
        torch.cat([given.map, torch.full((2, 4, 8), 1e3)], dim=1),
        torch.cat([given.mask, torch.zeros(2, 4, dtype=torch.bool)], dim=1),
        given.vector,
        (9,),
    )
    short = model({"text": given})["text"]
    torch.testing.assert_close(short.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(model({"text": longer})["text"], short)


def test_a_batch_equals_its_rows_one_by_one() -> None:
    model, given = head(), features([4, 4, 4], columns=4)
    whole = model.embed("image", given)
    for b in range(3):
        row = Features(given.map[b : b + 1], given.mask[b : b + 1], given.vector[b : b + 1], given.grid)
        torch.testing.assert_close(model.embed("image", row)[0], whole[b])


def test_attention_tells_a_mirrored_map_apart_and_the_vector_pool_does_not() -> None:
    given = features([6], columns=6)
    mirrored = Features(given.map.flip(1), given.mask, given.vector, given.grid)
    attention, vector = head("attention"), head("vector")
    assert (attention.embed("image", given) - attention.embed("image", mirrored)).norm() > 0.01
    torch.testing.assert_close(vector.embed("image", given), vector.embed("image", mirrored))


def test_windows_start_on_a_grid() -> None:
    pool = AttentionPool(8, heads=4, width=3)
    middles = list(zip(pool.row.tolist(), pool.column.tolist(), strict=True))
    assert middles == [(0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)]


def test_any_subset_of_modalities_and_a_positive_temperature() -> None:
    model = head()
    given = features([3, 2], columns=3)
    assert list(model({"text": given})) == ["text"]
    torch.testing.assert_close(model({"image": given, "text": given})["text"], model({"text": given})["text"])
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)


def test_vectors_are_unit_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        vectors = head().embed("image", features([4, 3], columns=4))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2), rtol=1e-5, atol=1e-5)


def test_the_forms_of_a_vector() -> None:
    given = features([4, 3], columns=4)
    unit, positive, free = (head(form=form).embed("image", given) for form in ("unit", "positive", "free"))
    torch.testing.assert_close(positive, unit.abs())
    assert (unit < 0).any()
    torch.testing.assert_close(free / free.norm(dim=1, keepdim=True), unit)
    assert ((free.norm(dim=1) - 1).abs() > 0.1).all()


def test_one_linear_map_tells_the_classes_from_every_modality() -> None:
    model, given = head(classes=3), features([4, 3], columns=4)
    vectors = model({"image": given, "text": given})
    logits = model.class_logits(vectors)
    for modality, own in vectors.items():
        torch.testing.assert_close(logits[modality], own @ model.classify.weight.T + model.classify.bias)
    assert head().class_logits(vectors) == {} and head().classify is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"pool": {"image": "mean"}}, "pool must be 'vector' or 'attention'"),
        ({"heads": 3}, "heads must be a square number"),
        ({"form": "round"}, "the form of vectors must be one of unit, positive, free: got 'round'"),
    ],
)
def test_rejected_settings(change: dict, message: str) -> None:
    settings = {
        "embed_dim": 4,
        "head_dim": 2,
        "pool": {"image": "attention"},
        "heads": 4,
        "dropout": 0.0,
        "temperature": 0.1,
    }
    with pytest.raises(ValueError, match=message):
        JointEmbedding({"image": (8, 6)}, **{**settings, **change})
