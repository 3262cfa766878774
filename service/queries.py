"""From the image that a request asks about to its vectors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, NoReturn

import anyio.to_thread
import numpy as np
from fastapi import UploadFile
from numpy.typing import NDArray

from index.collection import Collection
from index.encoder import Encoding
from index.image import Picture
from service.problems import UNAVAILABLE_OPTION, ProblemError, invalid
from service.requests import ImageQuery
from service.state import Service
from service.uploads import base64_bytes, file_bytes

Pixels = NDArray[np.uint8]

ORIENTATIONS: Final = tuple(
    name
    for turned in ("upright", "turned_90", "turned_180", "turned_270")
    for name in (turned, "mirrored" if turned == "upright" else f"{turned}_mirrored")
)
"""What was done to the query, in the order of `oriented`: turned to the left by so many degrees,
then mirrored left to right."""


@dataclass(frozen=True, eq=False)
class Asked:
    """The image asked about: its vectors, one row an orientation, the first of them upright.

    ``sha256`` is of the file, where there is one; ``exclude`` an id to leave out of the results.
    """

    encoding: Encoding
    sha256: str | None = None
    exclude: str | None = None


def oriented(pixels: Pixels) -> Pixels:
    """The eight flips and quarter turns of a square picture: uint8 (S, S, 3) to (8, S, S, 3)."""
    turned = [np.rot90(pixels, quarter) for quarter in range(4)]
    return np.stack([view for each in turned for view in (each, each[:, ::-1])])


async def ask_file(service: Service, file: UploadFile, *, orientations: bool = False) -> Asked:
    """Decode and encode an uploaded file."""
    async with service.intake.places():
        data = await file_bytes(file, service.settings.max_upload_bytes)
        return await _ask_bytes(service, data, orientations=orientations)


async def ask(
    service: Service, collection: Collection, query: ImageQuery, *, orientations: bool = False
) -> Asked:
    """The vectors of a query by id, which are stored, or by base64, which are made."""
    if query.url is not None:
        refuse_url()
    if query.base64 is not None:
        async with service.intake.places():
            data = await base64_bytes(
                query.base64, "body.query.base64", service.settings.max_upload_bytes
            )
            return await _ask_bytes(service, data, orientations=orientations)
    if query.id is None:
        invalid("body.query", "expected an image as id or base64, found a vector")
    image_id = query.id
    item = await anyio.to_thread.run_sync(collection.get, image_id)
    if not orientations:
        stored = await anyio.to_thread.run_sync(collection.vectors, image_id)
        return Asked(stored, item.sha256, exclude=image_id)
    async with service.intake.places():
        data = await anyio.to_thread.run_sync(collection.read, image_id)
        picture = await service.intake.picture(data)
        encoding = await service.intake.encode(oriented(picture.pixels))
    return Asked(encoding, item.sha256, exclude=image_id)


async def encode(service: Service, data: bytes) -> tuple[Picture, Encoding]:
    """One image's picture and its one row of vectors."""
    picture = await service.intake.picture(data)
    return picture, await service.intake.encode(picture.pixels[np.newaxis])


def refuse_url() -> NoReturn:
    """Answer a query by address."""
    raise ProblemError(
        UNAVAILABLE_OPTION,
        "fetching images by url is not enabled here; send the image as base64, or as a file to "
        "the /file route",
    )


async def _ask_bytes(service: Service, data: bytes, *, orientations: bool) -> Asked:
    sha256 = await anyio.to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest())
    picture = await service.intake.picture(data)
    views = oriented(picture.pixels) if orientations else picture.pixels[np.newaxis]
    return Asked(await service.intake.encode(views), sha256)
