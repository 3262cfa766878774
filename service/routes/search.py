"""Which images look like this one?"""

from __future__ import annotations

import time
from typing import Annotated

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Depends, Form, Request
from numpy.typing import NDArray

from index.collection import Collection
from index.filters import EVERYTHING
from service import problems
from service.answers import ResultAnswer, SearchAnswer
from service.paths import COLLECTION, thumbnail_url
from service.queries import ask, ask_file
from service.requests import SearchForm, SearchOptions, SearchRequest
from service.state import OpenCollection, ServiceState
from service.uploads import expects_form, expects_json

_PROBLEMS = problems.documented(
    *problems.IMAGE_SENT,
    problems.NO_COLLECTION,
    problems.NO_IMAGE,
    problems.MISMATCH,
    problems.UNAVAILABLE_OPTION,
)
router = APIRouter(tags=["search"], responses=_PROBLEMS)


@router.post(
    COLLECTION + "/search",
    summary="Search by an id, an image or a vector",
    dependencies=[Depends(expects_json)],
)
async def search(
    request: Request, service: ServiceState, collection: OpenCollection, body: SearchRequest
) -> SearchAnswer:
    """The images of the collection that look most like the query, nearest first."""
    started = time.perf_counter()
    if body.query.vector is not None:
        vector, exclude = np.asarray(body.query.vector, np.float32), None
    else:
        asked = await ask(service, collection, body.query)
        vector, exclude = asked.encoding.embedding[0], asked.exclude
    return await _answer(request, collection, vector, body, exclude, started)


@router.post(
    COLLECTION + "/search/file",
    summary="Search by an uploaded file",
    dependencies=[Depends(expects_form)],
)
async def search_file(
    request: Request,
    service: ServiceState,
    collection: OpenCollection,
    form: Annotated[SearchForm, Form(media_type="multipart/form-data")],
) -> SearchAnswer:
    """As `search`, with the image as a file and the options as form fields."""
    started = time.perf_counter()
    asked = await ask_file(service, collection, form.file)
    return await _answer(request, collection, asked.encoding.embedding[0], form, None, started)


async def _answer(
    request: Request,
    collection: Collection,
    vector: NDArray[np.float32],
    options: SearchOptions,
    exclude: str | None,
    started: float,
) -> SearchAnswer:
    hits = await anyio.to_thread.run_sync(
        lambda: collection.search(
            vector,
            top_k=options.top_k,
            offset=options.offset,
            min_score=options.min_score,
            filter=options.filter or EVERYTHING,
            exclude=exclude,
            group_duplicates=options.group_duplicates,
        )
    )
    return SearchAnswer(
        results=[
            ResultAnswer(
                id=hit.id,
                score=hit.score,
                metadata=hit.metadata,
                thumbnail_url=thumbnail_url(request.scope, collection.name, hit.id),
            )
            for hit in hits
        ],
        took_ms=round(1000 * (time.perf_counter() - started), 2),
        generation=collection.generation,
        encoder=collection.encoder_sha256,
    )
