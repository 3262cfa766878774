"""The kinds of problems that the service answers with; only this file knows their statuses."""

from __future__ import annotations

import http
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from index import errors

MEDIA_TYPE: Final = "application/problem+json"


@dataclass(frozen=True)
class Kind:
    """A sort of problem: ``name`` identifies it for programs, ``meaning`` explains it to people."""

    name: str
    status: int
    title: str
    meaning: str

    @property
    def type(self) -> str:
        """The problem's ``type``: where `/docs` explains it."""
        return f"/docs#{self.name}"


BAD_REQUEST = Kind(
    "bad-request", 400, "Bad request", "The request is not well-formed HTTP, multipart or UTF-8."
)
NO_ROUTE = Kind("no-such-route", 404, "No such route", "Nothing is served at this path.")
NO_COLLECTION = Kind(
    "collection-not-found", 404, "Collection not found", "No collection of that name."
)
NO_IMAGE = Kind("image-not-found", 404, "Image not found", "No image of that id in the collection.")
NO_SOURCE = Kind(
    "original-not-found",
    404,
    "Original not found",
    "The image is in the collection, but the file that it was read from is gone.",
)
METHOD = Kind(
    "method-not-allowed",
    405,
    "Method not allowed",
    "The path exists, but not with this method; `Allow` lists those it has.",
)
EXISTS = Kind(
    "collection-exists",
    409,
    "Collection exists with other settings",
    "A collection of that name was made with other settings; it was left as it is.",
)
MISMATCH = Kind(
    "encoder-mismatch",
    409,
    "Made with another encoder",
    "The collection's vectors are of an encoder that the service does not have, or have just "
    "become so: then the same request succeeds.",
)
LOCKED = Kind(
    "collection-locked", 409, "Collection is in use", "Another process is writing to it; try later."
)
UNREADABLE_SOURCE = Kind(
    "original-unreadable",
    409,
    "Original cannot be read",
    "The image is in the collection, but the file that it was read from is damaged or refused.",
)
TOO_LARGE = Kind(
    "too-large", 413, "Too large", "The upload is over the limit in bytes or in pixels."
)
UNKNOWN_FORMAT = Kind(
    "unknown-format",
    415,
    "Unknown image format",
    "The bytes do not begin like any image format that is read here.",
)
MEDIA = Kind(
    "media-type", 415, "Unsupported media type", "The route takes a body of another content type."
)
UNKNOWN_NAME = Kind(
    "unknown-name",
    421,
    "Asked for by an unknown name",
    "`Host` is no name of this service, so that no website can pass for it; its setting "
    "`KINDRED_NAMES` adds names.",
)
INVALID = Kind(
    "invalid-request",
    422,
    "Invalid request",
    "A field is missing, unknown or out of range; `errors` lists each.",
)
UNREADABLE = Kind(
    "unreadable-image",
    422,
    "Unreadable image",
    "The format is known, but the bytes are damaged or cut off.",
)
UNAVAILABLE_OPTION = Kind(
    "not-available", 422, "Not available", "The option exists, but not in this version or set-up."
)
OVERLOADED = Kind(
    "overloaded",
    429,
    "Too many waiting",
    "The queue for the encoder, for second looks or for groups is full; `Retry-After` says in how "
    "many seconds to come back.",
)
INTERNAL = Kind(
    "internal-error",
    500,
    "Internal error",
    "A fault of the service; its log has the details under the request's id.",
)
CORRUPT = Kind(
    "collection-corrupt",
    500,
    "Collection is damaged",
    "What is stored contradicts itself, or was written by a newer version.",
)
NOT_READY = Kind(
    "not-ready",
    503,
    "Not ready",
    "The encoder or the store does not work at the moment, or the service is stopping.",
)

KINDS: Final = tuple(value for value in list(globals().values()) if isinstance(value, Kind))

# The most specific class that an error is an instance of decides.
KIND_OF_ERROR: Final[Mapping[type[errors.KindredError], Kind]] = {
    errors.UnknownFormat: UNKNOWN_FORMAT,
    errors.ImageTooLarge: TOO_LARGE,
    errors.ImageError: UNREADABLE,
    errors.EncoderMismatch: MISMATCH,
    errors.SourceNotFound: NO_SOURCE,
    errors.SourceError: UNREADABLE_SOURCE,
    errors.CollectionNotFound: NO_COLLECTION,
    errors.CollectionExists: EXISTS,
    errors.CollectionLocked: LOCKED,
    errors.EncoderSwitched: MISMATCH,
    errors.CollectionCorrupt: CORRUPT,
    errors.ImageNotFound: NO_IMAGE,
    errors.InvalidName: INVALID,
    errors.InvalidId: INVALID,
    errors.InvalidVector: INVALID,
    errors.InvalidMetadata: INVALID,
    errors.InvalidFilter: INVALID,
    errors.InvalidVerdict: INVALID,
    errors.KindredError: INTERNAL,
}


class ProblemError(Exception):
    """An error that the service itself raises; becomes an answer of its kind."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = headers
        self.fields = fields or {}


def invalid(field: str, message: str, *, found: Any = None) -> NoReturn:
    """Refuse one field of the request, as the validation of a schema would."""
    raise ProblemError(
        INVALID,
        f"{field}: {message}",
        fields={"errors": [{"field": field, "message": message, "found": found}]},
    )


IMAGE_SENT: Final = (
    BAD_REQUEST,
    TOO_LARGE,
    UNKNOWN_FORMAT,
    MEDIA,
    INVALID,
    UNREADABLE,
    OVERLOADED,
)
"""What can be wrong wherever an image is sent to be encoded."""


def documented(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these problems, for OpenAPI."""
    by_status: dict[int | str, dict[str, Any]] = {}
    stored = (CORRUPT,) if NO_COLLECTION in kinds else ()
    sent = (TOO_LARGE,) if MEDIA in kinds else ()
    for kind in (*kinds, *sent, INTERNAL, *stored):
        response = by_status.setdefault(
            kind.status,
            {
                "description": http.HTTPStatus(kind.status).phrase,
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": "#/components/schemas/Problem"},
                        "examples": {},
                    }
                },
            },
        )
        response["content"][MEDIA_TYPE]["examples"][kind.name] = {
            "summary": kind.title,
            "description": kind.meaning,
            "value": {
                "type": kind.type,
                "title": kind.title,
                "status": kind.status,
                "detail": kind.meaning,
                "instance": "/v1/...",
                "request_id": "5f0c2d8e4b1a4c6f9d3e7a2b8c1d0e9f",
            },
        }
        if kind is OVERLOADED:
            response["headers"] = {
                "Retry-After": {
                    "description": "Seconds after which there is likely room.",
                    "schema": {"type": "integer"},
                }
            }
    return by_status
