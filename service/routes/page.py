"""The web page and the API's reference: plain files, nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

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
async def page() -> FileResponse:
    """The web page."""
    return FileResponse(_FOLDER / "index.html", headers=_HEADERS)


@router.get("/docs")
async def reference() -> FileResponse:
    """The API's reference, read from `/openapi.json`."""
    return FileResponse(_FOLDER / "docs.html", headers=_HEADERS)


@router.get("/page/{name}")
async def file(name: str) -> FileResponse:
    """A file that the page or the reference is made of."""
    if name not in FILES:
        raise HTTPException(404)
    return FileResponse(_FOLDER / name, headers=_HEADERS)
