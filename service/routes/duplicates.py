"""Which images are copies of this one, and which of each other?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, Form, Query, Request

from index.collection import Collection, CopyQuery
from index.orientations import ORIENTATIONS
from service import problems
from service.answers import CheckAnswer, GroupAnswer, GroupsAnswer, KeepAnswer, MatchAnswer
from service.paths import COLLECTION, thumbnail_url
from service.queries import ask, ask_file
from service.requests import (
    CheckForm,
    CheckOptions,
    CheckRequest,
    GroupsQuery,
    Strictness,
    VerdictRequest,
)
from service.routes.images import image_answer
from service.state import OpenCollection, Service, ServiceState
from service.uploads import expects_form, expects_json

router = APIRouter(tags=["duplicates"])

_CHECK_PROBLEMS = problems.documented(
    *problems.IMAGE_SENT,
    problems.NO_COLLECTION,
    problems.NO_IMAGE,
    problems.NO_SOURCE,
    problems.MISMATCH,
    problems.UNREADABLE_SOURCE,
    problems.UNAVAILABLE_OPTION,
)


@dataclass(frozen=True)
class Bar:
    """How high a copy score must be, and the false match rate that was measured there."""

    threshold: float
    false_match_rate: float


@router.post(
    COLLECTION + "/duplicates/check",
    summary="Look for copies of an image",
    responses=_CHECK_PROBLEMS,
    dependencies=[Depends(expects_json)],
)
async def check(
    request: Request, service: ServiceState, collection: OpenCollection, body: CheckRequest
) -> CheckAnswer:
    """The copies of the query in the collection: the surest first."""
    started = time.perf_counter()
    bar = _bar(collection, body, looks=_looks(body))
    asked = await ask(
        service, collection, body.query, orientations=body.orientations, verify=body.verify
    )
    return await _answer(request, service, collection, asked, body, bar, started)


@router.post(
    COLLECTION + "/duplicates/check/file",
    summary="Look for copies of an uploaded file",
    responses=_CHECK_PROBLEMS,
    dependencies=[Depends(expects_form)],
)
async def check_file(
    request: Request,
    service: ServiceState,
    collection: OpenCollection,
    form: Annotated[CheckForm, Form(media_type="multipart/form-data")],
) -> CheckAnswer:
    """As `duplicates/check`, with the image as a file and the options as form fields."""
    started = time.perf_counter()
    bar = _bar(collection, form, looks=_looks(form))
    asked = await ask_file(
        service, collection, form.file, orientations=form.orientations, verify=form.verify
    )
    return await _answer(request, service, collection, asked, form, bar, started)


@router.get(
    COLLECTION + "/duplicates",
    summary="List groups of duplicates",
    responses=problems.documented(
        problems.NO_COLLECTION, problems.MISMATCH, problems.INVALID, problems.OVERLOADED
    ),
)
async def groups(
    request: Request,
    service: ServiceState,
    collection: OpenCollection,
    query: Annotated[GroupsQuery, Query()],
) -> GroupsAnswer:
    """Images that are copies of each other, with a suggested one to keep and why."""
    bar = _bar(collection, query, looks=1)
    page = await service.groups.run(
        lambda: collection.duplicate_groups(
            threshold=bar.threshold,
            limit=query.limit,
            cursor=query.cursor,
            policy=query.keep,
            verify=query.verify,
        )
    )
    return GroupsAnswer(
        groups=[
            GroupAnswer(
                id=group.id,
                images=[image_answer(request, collection, item) for item in group.images],
                keep=KeepAnswer(id=group.keep.id, reason=group.keep.reason),
            )
            for group in page.groups
        ],
        next_cursor=page.next_cursor,
        threshold=bar.threshold,
        false_match_rate=bar.false_match_rate,
    )


@router.put(
    COLLECTION + "/verdicts",
    status_code=204,
    summary="Say that images are the same, or different",
    response_description="It is kept, and the next answers go by it.",
    responses=problems.documented(
        problems.NO_COLLECTION, problems.NO_IMAGE, problems.MISMATCH, problems.MEDIA
    ),
    dependencies=[Depends(expects_json)],
)
async def decide(collection: OpenCollection, body: VerdictRequest) -> None:
    """Decide for good: a verdict outlives new names, later indexing and other encoders."""
    await anyio.to_thread.run_sync(collection.decide, body.ids, body.verdict)


def _looks(options: CheckOptions) -> int:
    return len(ORIENTATIONS) if options.orientations else 1


def _bar(collection: Collection, strictness: Strictness, *, looks: int) -> Bar:
    """The threshold that keeps to the rate over so many looks at every image.

    The best of several looks is wrong at most as often as all of them added up (Bonferroni), so
    each gets its share of the rate.
    """
    calibration = collection.calibration
    threshold = strictness.threshold
    rate = strictness.max_false_match_rate
    if threshold is None and rate is None:
        threshold = calibration.default_threshold(looks)
    elif threshold is None:
        assert rate is not None
        try:
            threshold = calibration.threshold_for(rate / looks)
        except ValueError as error:
            share = f" for each of {looks} orientations" if looks > 1 else ""
            problems.invalid("max_false_match_rate", f"{error}{share}", found=rate)
    return Bar(threshold, min(1.0, looks * calibration.rate_at(threshold)))


async def _answer(
    request: Request,
    service: Service,
    collection: Collection,
    asked: CopyQuery,
    options: CheckOptions,
    bar: Bar,
    started: float,
) -> CheckAnswer:
    find = partial(collection.copies, asked, threshold=bar.threshold, limit=options.limit)
    looks = service.second_looks.run if options.verify else anyio.to_thread.run_sync
    matches = await looks(find)
    return CheckAnswer(
        matches=[
            MatchAnswer(
                id=match.id,
                tier=match.tier,
                score=match.score,
                false_match_rate=match.false_match_rate,
                evidence=match.evidence,
                thumbnail_url=thumbnail_url(request.scope, collection.name, match.id),
            )
            for match in matches
        ],
        threshold=bar.threshold,
        false_match_rate=bar.false_match_rate,
        took_ms=round(1000 * (time.perf_counter() - started), 2),
        generation=collection.generation,
        encoder=collection.encoder_sha256,
    )
