"""Maps of vectors: what is near stays near, equal seeds give equal maps, and what has no map is refused."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from mm.index import projection
from mm.index.analysis import neighbours, purity


def clouds(each=60, dim=24, seed=0):
    """Three clouds of unit vectors at right angles, and which one each vector is of."""
    chance = np.random.default_rng(seed)
    which = np.repeat([0, 1, 2], each)
    vectors = (np.eye(3, dim)[which] + 0.06 * chance.standard_normal((3 * each, dim))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), which


def unmixed(points, which):
    """Share of the five nearest points on a map that are of the same cloud."""
    lifted = np.concatenate([points - points.mean(axis=0), np.full((len(points), 1), 1.0)], axis=1)
    distances = ((lifted[:, None] - lifted) ** 2).sum(axis=2)  # (n, n)
    np.fill_diagonal(distances, np.inf)
    return (which[np.argsort(distances, axis=1)[:, :5]] == which[:, None]).mean()


def test_pca_is_the_two_directions_of_most_variance():
    vectors, which = clouds()
    points = projection.pca(vectors)
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centred.T @ centred)
    right = centred @ directions[:, ::-1][:, :2]  # (n, 2)
    right *= np.sign((right * points).sum(axis=0))  # a direction has no sign
    np.testing.assert_allclose(points, right, atol=1e-4)
    assert projection.variance_share(vectors, points) == pytest.approx(values[-2:].sum() / values.sum(), abs=1e-5)
    assert unmixed(points, which) > 0.99


def test_tsne_and_umap_keep_clouds_apart_and_repeat_themselves():
    vectors, which = clouds()
    graph = neighbours(vectors, 10)
    assert purity(graph, which.tolist())[0].mean() > 0.99
    for name, draw in (
        ("t-SNE", lambda seed: projection.tsne(vectors, seed, perplexity=15)),
        ("UMAP", lambda seed: projection.umap(vectors, graph, seed)),
    ):
        points = draw(0)
        assert points.dtype == np.float32 and points.shape == (180, 2) and np.isfinite(points).all(), name
        assert unmixed(points, which) > 0.97, name
        np.testing.assert_array_equal(draw(0), points)


def test_umap_draws_the_graph_that_it_is_given():
    vectors, which = clouds()
    shuffled = np.random.default_rng(1).permutation(180)
    other = neighbours(vectors[shuffled], 10)  # neighbours that the vectors do not have
    assert unmixed(projection.umap(vectors, other), which) < 0.7
    assert unmixed(projection.umap(vectors, other), which[shuffled]) > 0.9


@pytest.mark.parametrize("n", [3, 4, 7])
def test_few_points(n):
    vectors = clouds(each=3)[0][:n]
    graph = neighbours(vectors, n - 1)
    maps = [projection.pca(vectors), projection.tsne(vectors, perplexity=projection.widest_perplexity(n))]
    for points in (*maps, projection.umap(vectors, graph)):
        assert points.shape == (n, 2) and np.isfinite(points).all()


def test_equal_vectors_among_others():
    vectors = np.concatenate([np.repeat(clouds()[0][:1], 30, axis=0), clouds()[0][100:130]])
    for points in (projection.tsne(vectors, perplexity=8), projection.umap(vectors, neighbours(vectors, 5))):
        assert np.isfinite(points).all()


def test_what_has_no_map():
    vectors = clouds()[0]
    graph = neighbours(vectors, 5)
    for draw in (projection.pca, projection.tsne, lambda some: projection.umap(some, graph)):
        with pytest.raises(ValueError, match="a map takes vectors that differ: all are equal"):
            draw(np.repeat(vectors[:1], 180, axis=0))
        with pytest.raises(ValueError, match=r"3 vectors of two numbers at least: got the shape \(2, 24\)"):
            draw(vectors[:2])
    with pytest.raises(ValueError, match=r"perplexity must lie between 0 and 9, .* got 30. Take 2 or less"):
        projection.tsne(vectors[:9])
    with pytest.raises(ValueError, match="that of the vectors: got 180 items and 90 vectors"):
        projection.umap(vectors[:90], graph)


def test_umap_is_imported_when_it_is_asked_for_and_its_lack_is_said(monkeypatch):
    code = "import sys, mm.index.report; print('umap' in sys.modules, 'numba' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]
    monkeypatch.setitem(sys.modules, "umap", None)  # what an import finds where there is no such package
    vectors = clouds()[0]
    with pytest.raises(ValueError, match=r'pip install "mm\[explain\]"'):
        projection.umap(vectors, neighbours(vectors, 5))


def test_umap_leaves_torch_its_threads():
    """With more of them, sums come out in another order, and a training that goes on ends with other weights."""
    vectors = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    before = torch.get_num_threads()
    projection.umap(vectors, neighbours(vectors, 5))
    assert torch.get_num_threads() == before == 1
