"""Whitening against its definition."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from trainer.whitening import Whitening


def sample() -> torch.Tensor:
    """Unit rows that share one direction and vary much more along some axes than others."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, 6, generator=generator) * torch.tensor([1, 0.5, 0.3, 0.2, 0.1, 0.05])
    return functional.normalize(rows + torch.tensor([2.0, 0, 0, 0, 0, 0]), dim=1)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_variances_are_raised_to_what_the_power_leaves(power: float) -> None:
    x = sample()
    whitening = Whitening.fitted(x, power)
    before = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))
    after = torch.linalg.eigvalsh(
        torch.cov(((x - whitening.mean_D) @ whitening.matrix_DK).T, correction=0)
    )
    torch.testing.assert_close(
        after.sort().values, (before ** (1 - power)).sort().values, rtol=2e-3, atol=1e-5
    )


def test_rows_come_out_centred_and_of_unit_length() -> None:
    x = sample()
    got = Whitening.fitted(x, 0.5)(x)
    torch.testing.assert_close(got.norm(dim=1), torch.ones(len(x)))
    assert float(functional.normalize(x, dim=1).mean(0).norm()) > 0.8
    assert float(got.mean(0).norm()) < 0.25


def test_a_direction_without_variance_does_not_blow_up() -> None:
    x = sample()
    x[:, 5] = 0
    got = Whitening.fitted(x, 1.0)(x)
    assert bool(got.isfinite().all())


def test_fewer_dimensions_are_the_strongest_and_keep_the_likeness() -> None:
    x = sample()
    whole, short = Whitening.fitted(x, 0.0), Whitening.fitted(x, 0.0, width=3)
    got = short(x)
    assert got.shape == (4000, 3)
    cosines = torch.stack([(y[:500] @ y[:500].T).flatten() for y in (whole(x), got)])
    assert float(torch.corrcoef(cosines)[0, 1]) > 0.9
    assert Whitening.fitted(x, 0.0, width=9)(x).shape == (4000, 6)
