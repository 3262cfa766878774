"""Collections: list, make, look at, remove."""

from __future__ import annotations

from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Body, Response

from service import problems
from service.answers import CollectionAnswer, CollectionsAnswer
from service.paths import COLLECTION, COLLECTIONS
from service.requests import CollectionSettings
from service.state import CollectionName, ServiceState

router = APIRouter(tags=["collections"])


@router.get(COLLECTIONS, summary="List collections", responses=problems.documented())
async def list_collections(service: ServiceState) -> CollectionsAnswer:
    """All collections, those included that cannot be searched."""
    described = await anyio.to_thread.run_sync(service.collections.describe_all)
    return CollectionsAnswer(collections=described)


@router.put(
    COLLECTION,
    summary="Make a collection",
    response_description="It was there already, with the same settings.",
    responses={
        201: {"model": CollectionAnswer, "description": "It was made."},
        **problems.documented(
            problems.NO_COLLECTION, problems.MISMATCH, problems.EXISTS, problems.TOO_LARGE
        ),
    },
)
async def put_collection(
    service: ServiceState,
    collection: CollectionName,
    response: Response,
    settings: Annotated[CollectionSettings | None, Body(description="`{}` or none.")] = None,
) -> CollectionAnswer:
    """Make an empty collection for the service's encoder; 200 if it is there.

    A collection that has gone over to another encoder since then keeps it.
    """
    wanted = settings.encoder if settings else None
    created = await anyio.to_thread.run_sync(service.collections.create, collection, wanted)
    response.status_code = 201 if created else 200
    return await anyio.to_thread.run_sync(service.collections.describe, collection)


@router.get(
    COLLECTION,
    summary="Look at a collection",
    responses=problems.documented(problems.NO_COLLECTION, problems.INVALID),
)
async def get_collection(service: ServiceState, collection: CollectionName) -> CollectionAnswer:
    """Its size, its encoder, and whether it can be searched."""
    return await anyio.to_thread.run_sync(service.collections.describe, collection)


@router.delete(
    COLLECTION,
    status_code=204,
    summary="Remove a collection",
    response_description="It is gone, with all its images; files they were indexed from stay.",
    responses=problems.documented(problems.NO_COLLECTION, problems.LOCKED, problems.INVALID),
)
async def delete_collection(service: ServiceState, collection: CollectionName) -> None:
    """Remove the collection and all that was uploaded to it."""
    await anyio.to_thread.run_sync(service.collections.delete, collection)
