"""Takes of images that came in earlier what is taken of every image since: sharpness and details.

Vectors and hashes stay. It may be stopped and started again at any point.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from index import image
from index.collection import Collection
from index.errors import OF_ONE_IMAGE
from index.image import Picture
from index.records import Item


@dataclass(frozen=True)
class Described:
    """How many images were described, and how many cannot be read at present."""

    images: int
    left_alone: int
    interrupted: bool


def describe(
    collection: Collection,
    *,
    workers: int,
    at_a_time: int = 256,
    max_pixels: int = image.DEFAULT_MAX_PIXELS,
    progress: Callable[[], None] = lambda: None,
    warn: Callable[[str], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Described:
    """Read every present image whose sharpness is not known, on ``workers`` threads.

    ``at_a_time`` images are committed at once. ``progress`` is called after each image, and
    ``warn`` is told which one is left as it is, and why: its file is gone or has changed, or has
    more than ``max_pixels``. When ``stop`` is set, the images in flight are finished.
    """
    stop = stop or threading.Event()
    fit = collection.metadata.fit_rule  # which says at what scale a JPEG is decoded
    images = left_alone = last = 0

    def look(item: Item) -> Picture:
        return image.load(collection.read(item.id), fit, max_pixels=max_pixels)

    with ThreadPoolExecutor(workers, "describe") as pool:
        while not stop.is_set():
            with collection.store.read() as snapshot:
                items = snapshot.undescribed(last, at_a_time)
            if not items:
                break
            pictures: dict[int, Picture] = {}
            looks: dict[int, Future[Picture]] = {
                key: pool.submit(look, item) for key, item in items.items()
            }
            for key, future in looks.items():
                try:
                    pictures[key] = future.result()
                except OF_ONE_IMAGE as error:
                    warn(f"{items[key].id}: {error}")
                progress()
            with collection.store.write() as transaction:
                for key, picture in pictures.items():
                    transaction.describe(
                        key, items[key].sha256, picture.fingerprint.sharpness, picture.details
                    )
            images += len(pictures)
            left_alone += len(items) - len(pictures)
            last = max(items)
    return Described(images, left_alone, stop.is_set())
