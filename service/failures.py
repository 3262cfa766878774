"""From whatever went wrong to its answer: problem details (RFC 9457), always."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.routing import Match

from index.errors import KindredError
from service.problems import (
    BAD_REQUEST,
    INTERNAL,
    INVALID,
    KIND_OF_ERROR,
    MEDIA_TYPE,
    METHOD,
    NO_COLLECTION,
    NO_ROUTE,
    NO_SOURCE,
    NOT_READY,
    TOO_LARGE,
    UNREADABLE_SOURCE,
    Kind,
    ProblemError,
)
from service.requests import EMBED_TAGS

_log = logging.getLogger("kindred.service")


class FieldError(BaseModel):
    """What is wrong with one field of the request."""

    field: str = Field(description="Where it is, such as `body.top_k` or `query.limit`.")
    message: str = Field(description="What was expected there.")
    found: Any = Field(default=None, description="What was found; long values are cut off.")


class Problem(BaseModel):
    """Problem details (RFC 9457), the body of every error answer."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [
                {
                    "type": "/docs#collection-not-found",
                    "title": "Collection not found",
                    "status": 404,
                    "detail": "there is no collection 'holidays'",
                    "instance": "/v1/collections/holidays",
                    "request_id": "5f0c2d8e4b1a4c6f9d3e7a2b8c1d0e9f",
                }
            ]
        },
    )

    type: str = Field(description="The kind of problem; programs compare this.")
    title: str = Field(description="The kind of problem in a few words, always the same.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was found and what was expected, this time.")
    instance: str = Field(description="The path of the request.")
    request_id: str = Field(description="The request's id, as in `X-Request-ID` and in the log.")
    errors: list[FieldError] | None = Field(
        default=None, description="With `invalid-request`: each field at fault."
    )


def answer(
    request: Request,
    kind: Kind,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    fields: Mapping[str, Any] | None = None,
) -> JSONResponse:
    """The answer for a problem of ``kind``; ``fields`` are members beside the standard ones."""
    body = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
        "instance": request.scope["path"],
        "request_id": request.state.request_id,
        **(fields or {}),
    }
    return JSONResponse(
        body,
        status_code=kind.status,
        headers=dict(headers) if headers else None,
        media_type=MEDIA_TYPE,
    )


def install(app: FastAPI) -> None:
    """Answer every error of the application with problem details."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(KindredError, _on_kindred_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


def unexpected(request: Request, error: Exception) -> JSONResponse:
    """The answer to an error that nobody foresaw; the traceback goes to the log only."""
    _log.error("unexpected error", exc_info=error, extra={"request_id": request.state.request_id})
    return answer(
        request, INTERNAL, "the service failed; its log has the details under this request's id"
    )


def stopping(request: Request) -> JSONResponse:
    """The answer to a request that was not done when the service had to stop."""
    return answer(request, NOT_READY, "the service is stopping; ask again once it has started")


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)
    return answer(request, error.kind, error.detail, headers=error.headers, fields=error.fields)


async def _on_kindred_error(request: Request, error: Exception) -> JSONResponse:
    """In the error's own words, unless they tell where things lie on this machine."""
    kind = next(KIND_OF_ERROR[cls] for cls in type(error).__mro__ if cls in KIND_OF_ERROR)
    detail, extra = str(error), {"request_id": request.state.request_id}
    if kind.status >= 500:
        _log.error(detail, exc_info=error, extra=extra)
        detail = f"{kind.meaning} The service's log has the details under this request's id."
    elif kind in (NO_SOURCE, UNREADABLE_SOURCE):
        _log.info(detail, extra=extra)
        detail = kind.meaning
    elif kind is NO_COLLECTION:
        detail = f"there is no collection {request.path_params.get('collection')!r}"
    return answer(request, kind, detail)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [_field_error(each) for each in error.errors()]
    detail = "; ".join(f"{each['field']}: {each['message']}" for each in found)
    return answer(request, INVALID, detail, fields={"errors": found})


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = error.headers
    if error.status_code == 404:
        return answer(request, NO_ROUTE, f"nothing is served at {request.scope['path']}")
    if error.status_code == 405:
        allowed = ", ".join(_allowed_methods(request))
        detail = f"found {request.method}, expected {allowed}"
        return answer(request, METHOD, detail, headers={"Allow": allowed})
    if isinstance(error.__cause__, OSError):  # FastAPI takes whatever a body meets for its fault
        return unexpected(request, error.__cause__)
    if error.status_code == 413:
        return answer(request, TOO_LARGE, str(error.detail))
    return answer(request, BAD_REQUEST, str(error.detail), headers=headers)


def _allowed_methods(request: Request) -> list[str]:
    """The methods of every route at the request's path; Starlette tells those of the first only."""
    return [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(
            route.matches({**request.scope, "method": "GET" if method == "HEAD" else method})[0]
            is Match.FULL
            for route in request.app.routes
        )
    ]


def _field_error(error: Mapping[str, Any]) -> dict[str, Any]:
    """One error of pydantic's, in the words of a `FieldError`."""
    message = str(error["msg"]).removeprefix("Value error, ")
    location: Sequence[str | int] = error["loc"]
    if error["type"] == "json_invalid":
        at = f" at character {location[-1]}"
        return {"field": "body", "message": f"not JSON: {error['ctx']['error']}{at}", "found": None}
    return {
        "field": ".".join(str(part) for part in location if part not in EMBED_TAGS),
        "message": message,
        "found": _shortened(error.get("input")),
    }


def _shortened(value: Any) -> Any:
    """A value fit to be shown: an answer must not send a whole upload back."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return f"an object of {len(value)} members"
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, UploadFile):
        return f"a file, {_shortened(value.filename)}"
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= 80 else text[:77] + "..."
    return text.encode(errors="backslashreplace").decode()  # JSON can carry half a surrogate pair
