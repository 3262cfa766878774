"""The web page and the API's reference: plain files, nothing from elsewhere."""

from __future__ import annotations

import hashlib
import mimetypes
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from service.entity_tags import IfNoneMatch, is_known

_FOLDER: Final = Path(__file__).parent.parent / "page"

FILES: Final = frozenset(
    ("style.css", "app.js", "api.js", "pictures.js", "words.js", "docs.js", "icon.svg")
)

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # ask each time: after an upgrade the files belong together
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page(if_none_match: IfNoneMatch = None) -> Response:
    """The web page."""
    return _answer("index.html", if_none_match)


@router.get("/docs")
async def reference(if_none_match: IfNoneMatch = None) -> Response:
    """The API's reference, read from `/openapi.json`."""
    return _answer("docs.html", if_none_match)


@router.get("/page/{name}")
async def file(name: str, if_none_match: IfNoneMatch = None) -> Response:
    """A file that the page or the reference is made of."""
    if name not in FILES:
        raise HTTPException(404)
    return _answer(name, if_none_match)


def _answer(name: str, if_none_match: str | None) -> Response:
    """All of a file: they are a few kilobytes each, so there are no ranges."""
    content = (_FOLDER / name).read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()}"'
    headers = {**_HEADERS, "ETag": tag}
    if is_known(tag, if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=mimetypes.guess_type(name)[0], headers=headers)
