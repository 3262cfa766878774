"""Batches on the device: the rows that were asked for, in their order, whatever the path."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from trainer import loader
from trainer.loader import BATCHES_AHEAD, Batches

CPU = torch.device("cpu")
_NO_GPU = not torch.cuda.is_available()


@pytest.fixture
def pixels(tmp_path: Path) -> NDArray[np.uint8]:
    """40 images of 6 x 6, mapped from disk as decoded ones are."""
    values = np.random.default_rng(0).integers(0, 256, (40, 6, 6, 3), np.uint8)
    values.tofile(tmp_path / "pixels.u8")
    return np.memmap(tmp_path / "pixels.u8", np.uint8, "c", shape=values.shape)


def orders(batches: int) -> Iterator[NDArray[np.int64]]:
    """Row numbers of batches of different lengths, with repeats."""
    random = np.random.default_rng(1)
    for _ in range(batches):
        yield random.integers(0, 40, random.integers(1, 9))


def expected(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    return pixels[rows].transpose(0, 3, 1, 2)


def waiting_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("batches")]


@pytest.mark.parametrize("number", [0, 1, BATCHES_AHEAD, BATCHES_AHEAD + 1, 30])
def test_every_batch_is_of_the_rows_asked_for_in_their_order(
    pixels: NDArray[np.uint8], number: int
) -> None:
    with Batches(pixels, CPU) as batches:
        given = list(batches.of(orders(number)))
    assert len(given) == number
    for batch, rows in zip(given, orders(number), strict=True):
        assert batch.dtype == torch.uint8
        assert batch.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_array_equal(batch.numpy(), expected(pixels, rows))


def test_a_batch_that_was_given_stays_as_it_is(pixels: NDArray[np.uint8]) -> None:
    """Later ones do not share its memory; neither do the pixels."""
    before = pixels.copy()
    with Batches(pixels, CPU) as batches:
        for batch, rows in zip(batches.of(orders(10)), orders(10), strict=True):
            np.testing.assert_array_equal(batch.numpy(), expected(before, rows))
            batch.zero_()
    np.testing.assert_array_equal(pixels, before)


def test_the_next_batches_are_gathered_while_this_one_is_in_use(
    pixels: NDArray[np.uint8],
) -> None:
    asked: list[int] = []

    def rows() -> Iterator[NDArray[np.int64]]:
        for number in range(10):
            asked.append(number)
            yield np.array([number])

    with Batches(pixels, CPU) as batches:
        given = batches.of(rows())
        assert asked == []
        next(given)
        assert len(asked) == 1 + BATCHES_AHEAD
        next(given)
        assert len(asked) == 2 + BATCHES_AHEAD, "and not the whole source"


def test_one_batch_can_be_had_at_once(pixels: NDArray[np.uint8]) -> None:
    with Batches(pixels, CPU) as batches:
        rows = np.array([39, 0, 0])
        np.testing.assert_array_equal(batches.get(rows).numpy(), expected(pixels, rows))
        assert batches.get(np.empty(0, np.int64)).shape == (0, 3, 6, 6)


@pytest.mark.parametrize("wrong", [40, -1])
def test_an_error_of_the_thread_reaches_the_caller_at_its_batch(
    pixels: NDArray[np.uint8], wrong: int
) -> None:
    with Batches(pixels, CPU) as batches:
        given = batches.of(iter([np.array([1]), np.array([2]), np.array([3, wrong])]))
        assert [len(next(given)), len(next(given))] == [1, 1]
        with pytest.raises(IndexError, match=f"rows .*{wrong}.*expected 0 to 39"):
            next(given)
    assert waiting_threads() == []


def test_an_error_of_the_order_reaches_the_caller(pixels: NDArray[np.uint8]) -> None:
    def rows() -> Iterator[NDArray[np.int64]]:
        yield np.array([0])
        raise ZeroDivisionError

    with Batches(pixels, CPU) as batches, pytest.raises(ZeroDivisionError):
        list(batches.of(rows()))
    assert waiting_threads() == []


def test_leaving_early_ends_the_thread(pixels: NDArray[np.uint8]) -> None:
    with Batches(pixels, CPU) as batches:
        next(batches.of(orders(1000)))
        assert waiting_threads() != []
    assert waiting_threads() == []


@pytest.mark.skipif(_NO_GPU, reason="needs a CUDA GPU")
@pytest.mark.parametrize("share", [0.4, 0.0])
def test_on_a_gpu_batches_are_the_same_resident_or_not(
    pixels: NDArray[np.uint8], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "RESIDENT_SHARE", share)
    with Batches(pixels, torch.device("cuda")) as batches:
        assert batches.resident == (share > 0)
        for batch, rows in zip(batches.of(orders(50)), orders(50), strict=True):
            assert batch.device.type == "cuda"
            # Work that is still queued when the next batches arrive must not see their memory.
            busy = torch.randn(2000, 2000, device="cuda")
            for _ in range(20):
                busy = (busy @ busy).tanh()
            total = batch.float().mul(busy[0, 0] * 0 + 1).cpu()
            np.testing.assert_array_equal(total.numpy(), expected(pixels, rows))


@pytest.mark.skipif(_NO_GPU, reason="needs a CUDA GPU")
@pytest.mark.parametrize("share", [0.4, 0.0])
def test_on_a_gpu_the_host_never_waits_for_the_device(
    pixels: NDArray[np.uint8], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "RESIDENT_SHARE", share)
    with Batches(pixels, torch.device("cuda")) as batches:
        given = batches.of(orders(20))
        next(given)
        torch.cuda.set_sync_debug_mode("error")
        try:
            list(given)
        finally:
            torch.cuda.set_sync_debug_mode("default")
