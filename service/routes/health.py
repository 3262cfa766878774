"""Is it alive, is it ready, how is it doing?"""

from __future__ import annotations

import time

import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from index.errors import CollectionNotFound, EncoderMismatch, EncoderSwitched
from service import problems
from service.answers import LiveAnswer, ReadyAnswer
from service.state import Service, ServiceState

router = APIRouter(tags=["health"], responses=problems.documented())


@router.get("/livez", summary="Is the process alive?")
async def livez() -> LiveAnswer:
    """Answers as long as the process does; looks at nothing else."""
    return LiveAnswer(status="alive")


@router.get(
    "/readyz",
    summary="Can it encode and search?",
    responses=problems.documented(problems.NOT_READY),
)
async def readyz(service: ServiceState) -> ReadyAnswer:
    """Runs a real inference and reads every collection; 503 if either fails."""
    try:
        return await anyio.to_thread.run_sync(_prove, service, limiter=service.probing)
    except Exception as error:  # whatever it is, the service is not ready
        raise problems.ProblemError(
            problems.NOT_READY, f"{type(error).__name__}: {error}"
        ) from error


def _prove(service: Service) -> ReadyAnswer:
    size = service.encoder.fit.size
    started = time.perf_counter()
    # `encode` itself checks what comes out: finite, and of unit length.
    service.encoder.encode(np.full((1, size, size, 3), 128, np.uint8))
    inference_ms = round(1000 * (time.perf_counter() - started), 2)
    collections = 0
    for name in service.collections.names():
        try:
            # Catches up with what other processes wrote, to the last commit.
            service.collections.get(name).refresh()
        except (EncoderMismatch, CollectionNotFound, EncoderSwitched):
            continue  # listed as such, or has just been removed or let go over to another encoder
        collections += 1
    return ReadyAnswer(
        status="ready",
        encoder=service.encoder.sha256,
        provider=service.encoder.provider,
        inference_ms=inference_ms,
        collections=collections,
    )


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus text format.",
            "content": {
                "text/plain": {
                    "schema": {"type": "string"},
                    "example": 'kindred_images{collection="demo"} 198.0\n',
                }
            },
        }
    },
)
async def metrics(service: ServiceState) -> Response:
    """Requests by route and status, latencies, the encoder's queue, images per collection."""
    text = await anyio.to_thread.run_sync(service.metrics.text)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
