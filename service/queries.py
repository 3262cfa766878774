"""From the image that a request asks about to its vectors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NoReturn

import anyio.to_thread
import numpy as np
from fastapi import UploadFile

from index.collection import Collection, CopyQuery
from index.encoder import Encoder, Encoding
from index.errors import ImageError
from index.fingerprint import perceptual_hash
from index.image import Picture
from index.orientations import oriented
from service.problems import UNAVAILABLE_OPTION, UNREADABLE_SOURCE, ProblemError, invalid
from service.requests import ImageQuery
from service.state import Service
from service.uploads import base64_bytes, file_bytes


async def ask_file(
    service: Service,
    collection: Collection,
    file: UploadFile,
    *,
    orientations: bool = False,
    verify: bool = False,
) -> CopyQuery:
    """Decode and encode an uploaded file."""
    async with service.intake.places():
        data = await file_bytes(file, service.settings.max_upload_bytes)
        return await _look(service, collection, data, orientations=orientations, verify=verify)


async def ask(
    service: Service,
    collection: Collection,
    query: ImageQuery,
    *,
    orientations: bool = False,
    verify: bool = False,
) -> CopyQuery:
    """The vectors of a query by id, which are stored, or by base64, which are made."""
    if query.url is not None:
        refuse_url()
    if query.base64 is not None:
        async with service.intake.places():
            data = await base64_bytes(
                query.base64, "body.query.base64", service.settings.max_upload_bytes
            )
            return await _look(service, collection, data, orientations=orientations, verify=verify)
    if query.id is None:
        invalid("body.query", "expected an image as id or base64, found a vector")
    image_id = query.id
    item = await anyio.to_thread.run_sync(collection.get, image_id)
    if not orientations and not verify:
        stored = await anyio.to_thread.run_sync(collection.vectors, image_id)
        hashes = (item.perceptual_hash,)
        return CopyQuery(stored, hashes, item.sha256, item.pixel_sha256, exclude=image_id)
    async with service.intake.places():
        data = await anyio.to_thread.run_sync(collection.read, image_id)
        with of_original():
            asked = await _look(service, collection, data, orientations=orientations, verify=verify)
        return replace(asked, exclude=image_id)


@contextmanager
def of_original() -> Iterator[None]:
    """What is wrong with an image that the collection has is no fault of the request."""
    try:
        yield
    except ImageError as error:
        raise ProblemError(UNREADABLE_SOURCE, str(error)) from error


async def encoder_of(service: Service, collection: Collection) -> Encoder:
    """The encoder of a collection; a service may run several."""
    return await anyio.to_thread.run_sync(service.encoders.of, collection)


async def encode(service: Service, encoder: Encoder, data: bytes) -> tuple[Picture, Encoding]:
    """One image's picture and its one row of vectors."""
    picture = await service.intake.picture(data, encoder)
    return picture, await service.intake.encode(picture.pixels[np.newaxis], encoder)


def refuse_url() -> NoReturn:
    """Answer a query by address."""
    raise ProblemError(
        UNAVAILABLE_OPTION,
        "fetching images by url is not enabled here; send the image as base64, or as a file to "
        "the /file route",
    )


async def _look(
    service: Service, collection: Collection, data: bytes, *, orientations: bool, verify: bool
) -> CopyQuery:
    """Decode and encode; the hashes are taken of each orientation."""
    encoder = await encoder_of(service, collection)
    sha256 = await anyio.to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest())
    picture = await service.intake.picture(data, encoder)
    pixels, small = picture.pixels[np.newaxis], picture.fingerprint.small[np.newaxis]
    if orientations:
        pixels, small = oriented(pixels[0]), oriented(small[0])
    return CopyQuery(
        await service.intake.encode(pixels, encoder),
        [perceptual_hash(each) for each in small],
        sha256,
        picture.fingerprint.pixel_sha256,
        features=await service.intake.features(data) if verify else None,
    )
