"""Small real image files for tests, and a short way to put them into a collection."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from index.collection import Collection
from index.encoder import Encoder


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """A picture of soft colour patches; another seed gives another one."""
    patches = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(seed: int, *, quality: int = 90, width: int = 64, height: int = 48) -> bytes:
    """That picture as a JPEG file; another quality or size gives a copy with other bytes."""
    buffer = io.BytesIO()
    picture(seed, width, height).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def put(
    collection: Collection,
    encoder: Encoder,
    id: str,
    data: bytes,
    metadata: Mapping[str, Any] | None = None,
) -> bool:
    """Do what the service does with an upload."""
    loaded = encoder.load(data)
    _, new = collection.put(id, data, loaded, encoder.encode(loaded.pixels[np.newaxis]), metadata)
    return new
