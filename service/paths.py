"""Percent-encoded path segments: an id may hold slashes and any other character.

Servers decode a path before they route it, after which ``a%2Fb`` is two segments. Here the path
is routed as it was sent, and a parameter is decoded after it was cut out.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote, unquote

from starlette.convertors import Convertor, register_url_convertor
from starlette.types import ASGIApp, Receive, Scope, Send

from service.problems import BAD_REQUEST, ProblemError


class Segment(Convertor[str]):
    """One percent-encoded segment: ``{collection:segment}``."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        """What the parameter stands for."""
        try:
            return unquote(value, errors="strict")
        except UnicodeDecodeError:
            raise ProblemError(
                BAD_REQUEST, f"the path holds {value!r}, expected percent-encoded UTF-8"
            ) from None

    def to_string(self, value: str) -> str:
        """How it is written in a path."""
        return encoded(value)


class Segments(Segment):
    """As `Segment`, but slashes that were sent as they are belong to the text too."""

    regex = ".+"


register_url_convertor("segment", Segment())
register_url_convertor("segments", Segments())

COLLECTIONS: Final = "/v1/collections"
COLLECTION: Final = COLLECTIONS + "/{collection:segment}"
IMAGES: Final = COLLECTION + "/images"
IMAGE: Final = IMAGES + "/{id:segments}"


def encoded(text: str) -> str:
    """``text`` as one path segment."""
    return quote(text, safe="")


class RouteAsSent:
    """Middleware that puts the path as it was sent in place of the decoded one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on under the path that was sent."""
        if scope["type"] == "http" and (raw := scope.get("raw_path")):
            scope["path"] = raw.decode("ascii", errors="replace")
        await self.app(scope, receive, send)


def thumbnail_url(scope: Scope, collection: str, image_id: str) -> str:
    """Where an image's thumbnail is, from the root of the host."""
    root = scope.get("root_path", "")
    return f"{root}{COLLECTIONS}/{encoded(collection)}/images/{encoded(image_id)}/thumbnail"
