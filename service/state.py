"""What lives as long as the application does; made in its lifespan, handed to its routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

import anyio
import anyio.to_thread
from fastapi import Depends, Path, Request

from index.collection import Collection
from index.encoder import Encoder
from service.comparisons import Comparisons
from service.encoders import Encoders
from service.intake import Intake
from service.metrics import Metrics
from service.open_collections import OpenCollections
from service.settings import Settings
from service.thumbnails import ThumbnailCache


@dataclass(frozen=True)
class Service:
    """Everything that a route may need.

    ``second_looks`` and ``groups`` are apart, since a page of groups may take minutes; ``probing``
    is the thread that proves readiness, however busy all others are.
    """

    settings: Settings
    encoders: Encoders
    collections: OpenCollections
    intake: Intake
    second_looks: Comparisons
    groups: Comparisons
    metrics: Metrics
    thumbnails: ThumbnailCache
    probing: anyio.CapacityLimiter

    @property
    def encoder(self) -> Encoder:
        """The default one, of collections that are made here."""
        return self.encoders.default


async def _service(request: Request) -> Service:
    return cast(Service, request.state.service)


ServiceState = Annotated[Service, Depends(_service)]

CollectionName = Annotated[
    str,
    Path(
        description="Name of the collection: lower-case letters, digits, `-` and `_`, 63 at most.",
        examples=["demo"],
    ),
]


async def _collection(service: ServiceState, collection: CollectionName) -> Collection:
    return await anyio.to_thread.run_sync(service.collections.get, collection)


OpenCollection = Annotated[Collection, Depends(_collection)]

ImagePathId = Annotated[
    str,
    Path(
        description="The image's id: any text of 1 to 512 characters but `.` and `..`, "
        "percent-encoded as one path segment (`/` as `%2F`).",
        examples=["snow2.jpg"],
    ),
]
