"""Batches of stored pixels on the device, each ready before it is asked for.

Where the pixels fit into the GPU's memory they go there once, and a batch is gathered on the
device. Else a thread gathers the next batches while the device works on this one.

N images, B rows of a batch, H height, W width, 3 colours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

RESIDENT_SHARE: Final = 0.4
"""Of the GPU's free memory: what the pixels may take; the rest is for the network."""
BATCHES_AHEAD: Final = 2
_ROWS_AT_A_TIME: Final = 4096


class Batches:
    """Rows of ``pixels`` as batches on ``device``, in any order that is asked for.

    To be used as a context, which ends the thread.

    Args:
        pixels_NHW3: uint8, in memory or mapped from disk.
    """

    def __init__(self, pixels_NHW3: NDArray[np.uint8], device: torch.device) -> None:
        self._device = device
        self._pixels_NHW3 = torch.from_numpy(pixels_NHW3)
        self.resident = False
        if device.type == "cuda":
            # "cuda" alone means another device in a thread than in a process that chose its own.
            self._device = torch.empty(0, device=device).device  # with its number
            self._copies = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            free_bytes, _ = torch.cuda.mem_get_info(self._device)
            self.resident = pixels_NHW3.nbytes < RESIDENT_SHARE * free_bytes
        if self.resident:
            self._pixels_NHW3 = _on_device(self._pixels_NHW3, self._device)
        self._thread = ThreadPoolExecutor(1, "batches", self._enter_thread)

    def __enter__(self) -> Batches:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def of(self, rows: Iterable[NDArray[np.int64]]) -> Iterator[Tensor]:
        """One batch for each array of row numbers (B,): uint8 (B, 3, H, W), channels last.

        ``rows`` is asked for the next ``BATCHES_AHEAD`` arrays early. Its errors, and those of
        gathering, are raised here.
        """
        if self.resident:  # nothing to wait for: the device does it in its turn
            yield from map(self.get, rows)
            return
        waiting: deque[Future[tuple[Tensor, torch.cuda.Event | None]]] = deque()
        try:
            for rows_B in rows:
                waiting.append(self._thread.submit(self._gather, rows_B))
                if len(waiting) > BATCHES_AHEAD:
                    yield self._receive(*waiting.popleft().result())
            while waiting:
                yield self._receive(*waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()

    def get(self, rows_B: NDArray[np.int64]) -> Tensor:
        """The images of these rows, now: uint8 (B, 3, H, W), channels last.

        Raises:
            IndexError: a row is not there.
        """
        return self._receive(*self._gather(rows_B))

    def _enter_thread(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)

    def _gather(self, rows_B: NDArray[np.int64]) -> tuple[Tensor, torch.cuda.Event | None]:
        """A batch (B, H, W, 3), and when its copy to the device will be complete."""
        if len(rows_B) and not (rows_B.min() >= 0 and rows_B.max() < len(self._pixels_NHW3)):
            # On a GPU a bad index would end the process's use of the device.
            raise IndexError(
                f"rows {rows_B.min()} to {rows_B.max()}, expected 0 to {len(self._pixels_NHW3) - 1}"
            )
        if self.resident:
            rows = sent(torch.from_numpy(rows_B), self._device)
            return self._pixels_NHW3.index_select(0, rows), None
        # Read in the order of the file, since the pixels may lie on disk, then put in their places.
        order_B = rows_B.argsort()
        rows, places = torch.from_numpy(rows_B[order_B]), torch.from_numpy(order_B.argsort())
        if self._device.type != "cuda":
            sorted_BHW3 = self._pixels_NHW3.index_select(0, rows)
            return sorted_BHW3.index_select(0, places).to(self._device), None
        # Pinned memory and a stream of its own: the copy waits for nothing, and nothing for it
        # but whoever uses the batch.
        shape = (len(rows), *self._pixels_NHW3.shape[1:])
        pinned_BHW3 = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        torch.index_select(self._pixels_NHW3, 0, rows, out=pinned_BHW3)
        with torch.cuda.stream(self._copies):
            sorted_BHW3 = pinned_BHW3.to(self._device, non_blocking=True)
            batch_BHW3 = sorted_BHW3.index_select(0, sent(places, self._device))
            return batch_BHW3, self._copies.record_event()

    def _receive(self, batch_BHW3: Tensor, copied: torch.cuda.Event | None) -> Tensor:
        if copied is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(copied)
            batch_BHW3.record_stream(current)  # else its memory is reused while it is in use
        return batch_BHW3.permute(0, 3, 1, 2)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """On the device, which nothing waits for: a copy of memory that is not pinned would."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def _on_device(pixels_NHW3: Tensor, device: torch.device) -> Tensor:
    """All pixels on the device; in parts, so that those of the disk need not fit into memory."""
    resident = torch.empty(pixels_NHW3.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(pixels_NHW3), _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        resident[part].copy_(pixels_NHW3[part])
    return resident
