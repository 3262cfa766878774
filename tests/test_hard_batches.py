"""Batches of images that are hard to tell apart."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from index.errors import RunError
from trainer import checkpoint
from trainer.hard_batches import grouped, nearest, read_neighbours
from trainer.pretrain import pretrain
from trainer.settings import PretrainSettings
from trainer.subject import Subject

PHOTOGRAPHS = Path(__file__).parent.parent / "demo" / "photographs"


@pytest.mark.parametrize("count", [5, 3000], ids=["some", "all"])
def test_nearest_are_those_of_the_largest_cosine_about_the_mean(count: int) -> None:
    """More rows than are compared at a time."""
    x_ND = np.random.default_rng(0).normal(size=(1500, 6)) + 3
    found = nearest(torch.from_numpy(x_ND), count)
    centred = x_ND - x_ND.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    cosine = centred @ centred.T
    np.fill_diagonal(cosine, -2)
    assert (found == np.argsort(-cosine, axis=1)[:, : min(count, 1499)]).all()


def scenes(count: int, each: int) -> np.ndarray:
    """Neighbours where rows r and r + ``count`` and so on are of one scene, and know no others."""
    rows = np.arange(count * each)
    others = [(rows + count * step) % len(rows) for step in range(1, each)]
    return np.stack(others, axis=1).astype(np.int32)


def test_a_batch_is_full_of_whole_groups_in_random_order() -> None:
    orders = [grouped(scenes(12, 4), 4, 8, np.random.default_rng(seed)) for seed in range(3)]
    for order in orders:
        assert sorted(order) == list(range(48))
        for batch in order.reshape(6, 8) % 12:
            assert (np.unique(batch, return_counts=True)[1] == 4).all()
    assert (orders[0] != orders[1]).any()
    firsts = np.concatenate(orders).reshape(-1, 8) % 12
    assert (firsts[:, :4] != firsts[:, :1]).any(), "within a batch groups do not lie together"


def test_a_group_is_no_larger_than_asked_for_and_the_rest_is_in_others() -> None:
    order = grouped(scenes(6, 4), 2, 2, np.random.default_rng(0))
    assert sorted(order) == list(range(24))
    assert (order.reshape(12, 2) % 6 == order.reshape(12, 2)[:, :1] % 6).all()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> PretrainSettings:
    """A run of copies, and the settings to go on from it in groups."""
    folder = tmp_path_factory.mktemp("start")
    pictures = folder / "pictures"
    pictures.mkdir()
    for path in sorted(PHOTOGRAPHS.glob("*.jpg"))[:40]:
        os.link(path, pictures / path.name)
    settings = PretrainSettings(
        data=str(pictures), out=str(folder / "first"), image_size=32, width=0.125, batch_size=8,
        option={"projection_width": 16}, copies=True, descriptor_width=16, epochs=1, device="cpu",
    )  # fmt: skip
    pretrain(settings)
    return replace(
        settings, from_=settings.out, out=str(folder / "run"), group_size=4, contrast_weight=0.0
    )


def test_an_interrupted_run_has_the_same_batches(start: PretrainSettings) -> None:
    pretrain(start)
    parts = replace(start, out=f"{start.out}-parts")
    pretrain(replace(parts, max_minutes=1e-6))
    assert checkpoint.load_checkpoint(Path(parts.out))["step"] == 1
    pretrain(parts)
    whole, resumed = (
        checkpoint.load_checkpoint(Path(run.out))["network"] for run in (start, parts)
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    pretrain(replace(start, out=f"{start.out}-random", group_size=1))
    random = checkpoint.load_checkpoint(Path(f"{start.out}-random"))["network"]
    assert not all(torch.equal(whole[name], random[name]) for name in whole)


def test_rows_of_a_run_are_in_groups_and_those_of_one_without_are_as_before() -> None:
    near_NK = scenes(10, 4)
    settings = PretrainSettings(
        data="here", out="there", copies=True, from_="earlier", batch_size=8, group_size=4
    )
    subject = Subject(40, None, None, False, near_NK)
    batches = list(subject.rows(settings, 0, 10))
    assert [len(set(rows % 10)) for rows in batches] == [2] * 10
    assert sorted(np.concatenate(batches[:5])) == list(range(40))
    later = list(subject.rows(settings, 7, 10))
    assert all((a == b).all() for a, b in zip(batches[7:], later, strict=True))
    random = list(replace(subject, near_NK=None).rows(settings, 0, 5))
    expected = np.random.default_rng([0, 0]).permutation(40).reshape(5, 8)
    assert (np.stack(random) == expected).all()


def test_a_run_whose_neighbours_are_gone_is_refused(start: PretrainSettings) -> None:
    lost = replace(start, out=f"{start.out}-lost")
    pretrain(replace(lost, max_minutes=1e-6))
    before = (Path(lost.out) / checkpoint.CHECKPOINT).read_bytes()
    for damaged in (b"\x93NUMPY", b"", b"PK\x03\x04"):
        (Path(lost.out) / "neighbours.npy").write_bytes(damaged)
        with pytest.raises(RunError, match=r"neighbours\.npy cannot be read"):
            pretrain(lost)
    (Path(lost.out) / "neighbours.npy").unlink()
    with pytest.raises(RunError, match=r"neighbours\.npy cannot be read: .*No such file"):
        read_neighbours(Path(lost.out))
    assert (Path(lost.out) / checkpoint.CHECKPOINT).read_bytes() == before


def test_groups_by_a_companion_that_knows_nothing_are_refused(start: PretrainSettings) -> None:
    new = replace(start, out=f"{start.out}-new", companion="resnet18 x0.125 at 32")
    with pytest.raises(RunError, match="group_size is 4, expected 1 with a new companion"):
        pretrain(new)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"group_size": 0}, "group_size is 0, expected 1 to batch_size, 8"),
        ({"group_size": 9}, "group_size is 9, expected 1 to batch_size, 8"),
        ({"from_": None}, "group_size is 4, expected 1 without --from"),
        ({"method": "supcon", "option": {}, "contrast_weight": 1.0}, "learns from labels"),
        ({"copies": False, "descriptor_width": 256}, "expected .* without --copies"),
    ],
)
def test_groups_that_cannot_be_made_are_refused(
    start: PretrainSettings, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(RunError, match=message):
        replace(start, **changes)  # type: ignore[arg-type]
