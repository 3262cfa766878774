"""Bytes in, vectors out: decoding in threads, encoding in batches, and a bound on what waits."""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import anyio
import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from index.encoder import Encoder, Encoding
from index.geometry import Features
from index.image import Picture, thumbnail
from index.second_look import look_at
from service.metrics import Metrics
from service.room import Room


@dataclass(frozen=True, eq=False)
class _Waiting:
    """Pixels, uint8 (N, S, S, 3), which encoder is to have them, and who waits for that."""

    encoder: Encoder
    pixels: NDArray[np.uint8]
    encoding: asyncio.Future[Encoding]


class Intake:
    """The one way of images into the service.

    At most ``capacity`` images are inside at a time, from the reading of their bytes to their
    vectors. Those that are decoded while the encoder is busy go to it together.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        capacity: int,
        batch_size: int,
        max_pixels: int,
    ) -> None:
        self._metrics = metrics
        self._batch_size = batch_size
        self._max_pixels = max_pixels
        self._room = Room(capacity, "images", seconds_each=0.05)
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._decoders = anyio.CapacityLimiter(os.cpu_count() or 1)

    @property
    def depth(self) -> int:
        """Images inside."""
        return self._room.inside

    def places(self, images: int = 1) -> AbstractAsyncContextManager[None]:
        """Hold places for ``images`` while they are read, decoded and encoded.

        Raises:
            ProblemError: too many are inside; says when to come back.
        """
        return self._room.places(images)

    async def picture(self, data: bytes, encoder: Encoder) -> Picture:
        """Decode one image and fit it to an encoder; raises ImageError."""
        return await anyio.to_thread.run_sync(
            lambda: encoder.load(data, max_pixels=self._max_pixels), limiter=self._decoders
        )

    async def thumbnail(self, data: bytes, longest: int) -> bytes:
        """A JPEG of the image, its longest side ``longest`` pixels; raises ImageError."""
        return await anyio.to_thread.run_sync(
            lambda: thumbnail(data, longest=longest, max_pixels=self._max_pixels),
            limiter=self._decoders,
        )

    async def features(self, data: bytes) -> Features:
        """What a second look compares of the image; raises ImageError."""
        return await anyio.to_thread.run_sync(
            lambda: look_at(data, max_pixels=self._max_pixels), limiter=self._decoders
        )

    async def encode(self, pixels: NDArray[np.uint8], encoder: Encoder) -> Encoding:
        """Encode uint8 (N, S, S, 3) together with whatever else waits for the same encoder."""
        future: asyncio.Future[Encoding] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(_Waiting(encoder, pixels, future))
        return await future

    async def run(self) -> None:
        """Encode what comes, until cancelled."""
        following: list[_Waiting] = []  # one that waits for another encoder than the batch did
        while True:
            batch = following or [await self._queue.get()]
            images, following = len(batch[0].pixels), []
            while not following and not self._queue.empty() and images < self._batch_size:
                waiting = self._queue.get_nowait()
                if waiting.encoder is not batch[0].encoder:
                    following = [waiting]
                    continue
                batch.append(waiting)
                images += len(waiting.pixels)
            try:
                encoding = await anyio.to_thread.run_sync(self._encode_batch, batch)
            except Exception as error:  # must reach those who wait, whatever it is
                for waiting in batch:
                    if not waiting.encoding.done():
                        waiting.encoding.set_exception(error)
                continue
            start = 0
            for waiting in batch:
                stop = start + len(waiting.pixels)
                if not waiting.encoding.done():
                    waiting.encoding.set_result(encoding[start:stop])
                start = stop

    def _encode_batch(self, batch: list[_Waiting]) -> Encoding:
        pixels = np.concatenate([waiting.pixels for waiting in batch])
        self._metrics.encode_images.observe(len(pixels))
        with self._metrics.encode_seconds.time():
            return batch[0].encoder.encode(pixels)
