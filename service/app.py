"""The application: what lives in its lifespan, what surrounds its routes, and the routes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, TypedDict

import anyio
import anyio.to_thread
from fastapi import Depends, FastAPI
from fastapi.openapi.utils import get_openapi

from index.catalog import Catalog
from index.encoder import DEFAULT_ENCODER, Encoder
from index.in_order import PROCESSORS
from index.indexes import Memory
from service import failures, problems
from service.comparisons import Comparisons
from service.encoders import Encoders
from service.head import HeadAsGet
from service.intake import Intake
from service.known_names import KnownNames, known_names
from service.metrics import Metrics
from service.observation import Observe
from service.open_collections import OpenCollections
from service.paths import RouteAsSent
from service.requests import known_query
from service.routes import collections, duplicates, embed, health, images, page, search
from service.settings import Settings
from service.state import Service
from service.thumbnails import ThumbnailCache
from service.uploads import LimitBody

_log = logging.getLogger("kindred.service")

_DESCRIPTION: Final = """\
Kindred answers two questions about pictures: which ones **look like** this one, and which are \
**copies** of it.

An image in a request is one of `{"id"}`, `{"base64"}` or `{"vector"}` in `query`; the \
`/file` twin of a route takes multipart `file`, with the options as form fields of the same names \
(objects as JSON text). Errors are `application/problem+json` (RFC 9457). Scores are cosines: \
higher is nearer. `HEAD` is answered wherever `GET` is.
"""
_TAGS: Final = [
    {"name": "search", "description": "Which images look like this one?"},
    {"name": "duplicates", "description": "Which images are copies, of this one or each other?"},
    {"name": "collections", "description": "Images that are searched together."},
    {"name": "images", "description": "What a collection holds."},
    {"name": "embed", "description": "Vectors, without a collection."},
    {"name": "health", "description": "For those who operate the service."},
]


_LISTS_AT_ONCE: Final = 2  # each keeps all processors busy by itself; one may be of few pictures


class _State(TypedDict):
    service: Service


def create_app(settings: Settings) -> FastAPI:
    """The application with these settings; encoder and collections open when it starts."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[_State]:
        service = await anyio.to_thread.run_sync(_open, settings)
        encoding = asyncio.create_task(service.intake.run())
        try:
            yield {"service": service}
        finally:
            encoding.cancel()
            with suppress(asyncio.CancelledError):
                await encoding
            await anyio.to_thread.run_sync(service.collections.close)

    app = FastAPI(
        title="Kindred",
        summary="Image search over your own pictures: what looks alike, and what is the same.",
        description=_DESCRIPTION,
        version=_version(),
        openapi_tags=_TAGS,
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's own page loads its scripts from the network; ours does not
        redoc_url=None,
    )
    for module in (search, duplicates, collections, images, embed):
        app.include_router(
            module.router,
            dependencies=[Depends(known_query)],
            responses=problems.documented(
                problems.BAD_REQUEST, problems.INVALID, problems.NOT_READY
            ),
        )
    for module in (health, page):
        app.include_router(module.router)
    failures.install(app)
    # The last one added is the outermost.
    app.add_middleware(LimitBody, max_upload_bytes=settings.max_upload_bytes)
    app.add_middleware(HeadAsGet)
    app.add_middleware(RouteAsSent)
    app.add_middleware(KnownNames, names=known_names(settings))
    app.add_middleware(Observe)
    app.openapi = lambda: _reference(app)  # type: ignore[method-assign]
    return app


def _open(settings: Settings) -> Service:
    encoders = Encoders(
        _load(settings.encoder or DEFAULT_ENCODER, settings), lambda path: _load(path, settings)
    )
    open_collections = OpenCollections(
        Catalog(settings.data, Memory(settings.index_memory_bytes)), encoders
    )
    open_collections.load_all()
    metrics = Metrics()
    intake = Intake(
        metrics,
        capacity=settings.max_queue,
        batch_size=settings.batch_size,
        max_pixels=settings.max_pixels,
    )
    metrics.observe_queue(lambda: intake.depth)
    metrics.observe_images(open_collections.counts)
    return Service(
        settings,
        encoders,
        open_collections,
        intake,
        Comparisons("second looks", at_once=PROCESSORS, capacity=settings.max_queue),
        Comparisons("lists of groups", at_once=_LISTS_AT_ONCE, capacity=settings.max_queue),
        metrics,
        ThumbnailCache(settings.thumbnail_cache_bytes),
        anyio.CapacityLimiter(1),
    )


def _load(path: Path, settings: Settings) -> Encoder:
    encoder = Encoder(
        path,
        provider=settings.provider,
        threads=settings.threads,
        batch_size=settings.batch_size,
    )
    _log.info("encoder ready", extra={"encoder": encoder.sha256, "provider": encoder.provider})
    return encoder


def _reference(app: FastAPI) -> dict[str, Any]:
    """OpenAPI, with the schema of the problems that routes refer to."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            tags=app.openapi_tags,
            routes=app.routes,
        )
        problem = failures.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schema["components"]["schemas"].update(problem.pop("$defs"), Problem=problem)
        schema["x-problems"] = [
            {"name": kind.name, "status": kind.status, "title": kind.title, "meaning": kind.meaning}
            for kind in problems.KINDS
        ]
        app.openapi_schema = schema
    return app.openapi_schema


def _version() -> str:
    try:
        return version("kindred")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+source"
