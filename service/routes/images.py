"""Images of a collection: add, look at, change, remove, and their thumbnails."""

from __future__ import annotations

import hashlib
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, Form, Query, Request, Response

from index.collection import Collection, Item
from service import problems
from service.answers import ImageAnswer, ImagesAnswer
from service.entity_tags import IfNoneMatch, is_known
from service.paths import IMAGE, IMAGES, thumbnail_url
from service.queries import encode, encoder_of, of_original
from service.requests import ImageChange, ImageForm
from service.state import ImagePathId, OpenCollection, ServiceState
from service.uploads import expects_form, expects_json, file_bytes

router = APIRouter(tags=["images"])

_FOUND = (problems.NO_COLLECTION, problems.NO_IMAGE, problems.MISMATCH, problems.INVALID)


def image_answer(request: Request, collection: Collection, item: Item) -> ImageAnswer:
    """An image as the API shows it. Its source stays out: paths of the server are its own."""
    return ImageAnswer(
        id=item.id,
        state=item.state,
        width=item.width or None,
        height=item.height or None,
        format=item.format or None,
        size_bytes=item.size_bytes,
        sha256=item.sha256 or None,
        metadata=item.metadata,
        updated_at=item.updated_at,
        thumbnail_url=thumbnail_url(request.scope, collection.name, item.id),
    )


# The thumbnail comes first: an id takes every slash, and `/thumbnail` at the end with it.
@router.get(
    IMAGE + "/thumbnail",
    summary="An image's thumbnail",
    response_class=Response,
    responses={
        200: {
            "description": "A JPEG in the image's own proportions.",
            "content": {
                "image/jpeg": {
                    "schema": {"type": "string", "format": "binary"},
                    "example": "(bytes)",
                }
            },
        },
        304: {"description": "It is still the one that `If-None-Match` names."},
        **problems.documented(
            *_FOUND, problems.NO_SOURCE, problems.UNREADABLE_SOURCE, problems.OVERLOADED
        ),
    },
)
async def thumbnail(
    service: ServiceState,
    collection: OpenCollection,
    id: ImagePathId,
    longest: Annotated[
        int, Query(ge=16, le=1024, description="Longest side in pixels; never enlarged.")
    ] = 256,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """A small JPEG of the image. An id with a slash at its end needs that as `%2F`."""
    item = await anyio.to_thread.run_sync(collection.get, id)
    sha256 = item.sha256
    if is_known(_tag(sha256, longest), if_none_match):
        return Response(status_code=304, headers=_headers(sha256, longest))
    jpeg = service.thumbnails.get(sha256, longest)
    if jpeg is None:
        data = await anyio.to_thread.run_sync(collection.read, id)
        # By now it may be another image than the item tells of.
        sha256 = await anyio.to_thread.run_sync(lambda: hashlib.sha256(data).hexdigest())
        with of_original():
            jpeg = await service.intake.thumbnail(data, longest)
        service.thumbnails.put(sha256, longest, jpeg)
    return Response(jpeg, media_type="image/jpeg", headers=_headers(sha256, longest))


def _headers(sha256: str, longest: int) -> dict[str, str]:
    # The image under an id may be replaced at any time: keep, but ask before using again.
    return {"ETag": _tag(sha256, longest), "Cache-Control": "private, no-cache"}


def _tag(sha256: str, longest: int) -> str:
    return f'"{sha256}-{longest}"'


@router.put(
    IMAGE,
    summary="Add or replace an image",
    response_description="It replaced the image that had this id.",
    responses={
        201: {"model": ImageAnswer, "description": "It is new."},
        **problems.documented(
            *problems.IMAGE_SENT,
            problems.NO_COLLECTION,
            problems.MISMATCH,
        ),
    },
    dependencies=[Depends(expects_form)],
)
async def put_image(
    request: Request,
    response: Response,
    service: ServiceState,
    collection: OpenCollection,
    id: ImagePathId,
    form: Annotated[ImageForm, Form(media_type="multipart/form-data")],
) -> ImageAnswer:
    """Keep an image and its metadata; the answer comes when both are on disk."""
    async with service.intake.places():
        data = await file_bytes(form.file, service.settings.max_upload_bytes)
        encoder = await encoder_of(service, collection)
        picture, encoding = await encode(service, encoder, data)
        item, new = await anyio.to_thread.run_sync(
            collection.put, id, data, picture, encoding, form.metadata
        )
    response.status_code = 201 if new else 200
    return image_answer(request, collection, item)


@router.get(IMAGE, summary="Look at an image", responses=problems.documented(*_FOUND))
async def get_image(request: Request, collection: OpenCollection, id: ImagePathId) -> ImageAnswer:
    """What is known of an image."""
    item = await anyio.to_thread.run_sync(collection.get, id)
    return image_answer(request, collection, item)


@router.patch(
    IMAGE,
    summary="Change an image's metadata",
    responses=problems.documented(*_FOUND, problems.BAD_REQUEST, problems.MEDIA),
    dependencies=[Depends(expects_json)],
)
async def patch_image(
    request: Request, collection: OpenCollection, id: ImagePathId, change: ImageChange
) -> ImageAnswer:
    """Put other metadata in place of the present; the image and its vectors stay."""
    item = await anyio.to_thread.run_sync(collection.update_metadata, id, change.metadata)
    return image_answer(request, collection, item)


@router.delete(
    IMAGE,
    status_code=204,
    summary="Remove an image",
    response_description="It is gone from the next search on.",
    responses=problems.documented(*_FOUND),
)
async def delete_image(collection: OpenCollection, id: ImagePathId) -> None:
    """Remove an image; a file that it was indexed from stays."""
    await anyio.to_thread.run_sync(collection.delete, id)


@router.get(
    IMAGES,
    summary="List images",
    responses=problems.documented(problems.NO_COLLECTION, problems.MISMATCH, problems.INVALID),
)
async def list_images(
    request: Request,
    collection: OpenCollection,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many at most.")] = 100,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the page before; none for the first.")
    ] = None,
) -> ImagesAnswer:
    """The collection's images in the order of their ids, a page at a time."""
    items = await anyio.to_thread.run_sync(collection.items, cursor, limit + 1)
    return ImagesAnswer(
        images=[image_answer(request, collection, item) for item in items[:limit]],
        next_cursor=items[limit - 1].id if len(items) > limit else None,
    )
