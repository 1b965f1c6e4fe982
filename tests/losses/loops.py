"""What the tests of losses of two matrices share: cases, and who belongs together, slow and obvious."""

import pytest
import torch
from torch.nn import functional


def unit(rows, dim=16, seed=0, dtype=torch.float64):
    values = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return functional.normalize(values, dim=-1)


def cases():
    """Pairs of matrices with no owners, repeated owners, two columns of them, and a bank behind b."""
    generator = torch.Generator().manual_seed(3)
    one = torch.randint(0, 6, (11,), generator=generator)
    two = torch.randint(-2, 7, (11, 2), generator=generator)
    bank = torch.randint(0, 9, (17,), generator=generator)
    return [
        pytest.param(unit(11, seed=1), unit(11, seed=2), None, id="no owner"),
        pytest.param(unit(11, seed=1), unit(11, seed=2), one, id="owners"),
        pytest.param(unit(11, seed=1), unit(11, seed=2), two, id="two columns, unknown ids"),
        pytest.param(unit(11, seed=1), unit(17, seed=2), bank, id="bank"),
        pytest.param(unit(11, seed=1), unit(17, seed=2), None, id="bank, no owner"),
    ]


every_case = pytest.mark.parametrize(("a", "b", "owner"), cases())
both_or_one = pytest.mark.parametrize("both_ways", [True, False])


def together(owner, i, j):
    """Do rows i and j belong together?"""
    if i == j:
        return True
    if owner is None:
        return False
    left, right = owner[i].reshape(-1).tolist(), owner[j].reshape(-1).tolist()
    return any(x == y and x >= 0 for x, y in zip(left, right, strict=True))


def negatives(owner, rows, i):
    """The places among `rows` of what row i does not belong together with."""
    return [j for j in range(rows) if not together(owner, i, j)]
