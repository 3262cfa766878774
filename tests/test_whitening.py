"""Whitening against its definition."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from trainer.metrics import retrieval
from trainer.whitening import NEIGHBOURS, Whitening, mutual_neighbours


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


def alike() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unit rows of 600 images of 40 things, a view of each, and which thing each shows.

    What the things differ in are the first four of twelve axes. The next four differ more, from
    picture to picture and from view to view; the last four hardly.
    """
    generator = torch.Generator().manual_seed(0)
    things = torch.randn(40, 12, generator=generator) * torch.tensor([1.0] * 4 + [0.0] * 8)
    shown = torch.arange(600) % 40
    noise = torch.tensor([0.1] * 4 + [1.5] * 4 + [0.1] * 4)
    rows, views = (
        functional.normalize(things[shown] + noise * torch.randn(600, 12, generator=generator))
        for _ in range(2)
    )
    return rows, views, shown


def mean_average_precision(rows: torch.Tensor, shown: torch.Tensor) -> float:
    return retrieval(rows.float(), shown).mean_average_precision


def test_what_images_differ_in_that_look_alike_counts_less() -> None:
    rows, views, shown = alike()
    before = Whitening.fitted(rows, 0.5)
    after = before.for_likeness(rows, [views])
    found = [mean_average_precision(each(rows), shown) for each in (before, after)]
    assert found[1] > 1.5 * found[0]
    # Of no use are views that differ from their images as other images do.
    others = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    strangers = before.for_likeness(rows, [views[others]])
    assert mean_average_precision(strangers(rows), shown) < found[1] - 0.1


def test_all_kinds_of_pairs_weigh_the_same() -> None:
    """A view that differs ten times as much says no more than its direction."""
    rows, views, _ = alike()
    whitening = Whitening.fitted(rows, 0.0)
    flat = torch.zeros(12)
    flat[4:8] = 1
    little, much = (rows + scale * flat * (views - rows) for scale in (0.001, 0.01))
    one, other = (whitening.for_likeness(rows, [each]).matrix_DK for each in (little, much))
    torch.testing.assert_close(one / one.norm(), other / other.norm(), atol=2e-3, rtol=0)


def test_mutual_neighbours_are_among_the_nearest_of_each_other() -> None:
    rows = sample()[:300]
    ones, others = mutual_neighbours(rows, NEIGHBOURS)
    cosine = rows @ rows.T
    cosine.fill_diagonal_(-2)
    rank = cosine.argsort(dim=1, descending=True).argsort(dim=1)
    expected = ((rank < NEIGHBOURS) & (rank.T < NEIGHBOURS)).nonzero()
    torch.testing.assert_close(torch.stack([ones, others], dim=1), expected)
    assert len(ones) > 0
    assert [len(each) for each in mutual_neighbours(rows[:2], NEIGHBOURS)] == [2, 2]


def test_images_without_neighbours_or_differences_stay_finite() -> None:
    """Identical views and rows give no direction."""
    rows, _, _ = alike()
    same = rows[:1].repeat(20, 1)
    whitening = Whitening.fitted(rows, 0.5)
    for sample_ND, views in ((rows[:1], []), (same, [same]), (rows, [rows])):
        assert bool(whitening.for_likeness(sample_ND, views)(rows).isfinite().all())
