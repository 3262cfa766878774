"""Bytes of requests: limited while they arrive, and read as images."""

from __future__ import annotations

import binascii
import math
from collections import Counter
from collections.abc import Callable
from typing import Final, NoReturn

import anyio
import anyio.to_thread
from fastapi import Request, UploadFile
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.problems import MEDIA, TOO_LARGE, ProblemError, invalid

OVERHEAD_BYTES: Final = 1024 * 1024
"""Room beside the image itself: multipart boundaries, metadata, options, a vector."""

_LINGER_BYTES: Final = 256 * 1024 * 1024
_LINGER_SECONDS: Final = 10


class LimitBody:
    """Middleware that stops reading a body at its limit, and refuses a form that was cut off.

    A file arrives at ``max_upload_bytes`` and some room; in JSON it is base64, a third larger.
    """

    def __init__(self, app: ASGIApp, max_upload_bytes: int) -> None:
        self.app = app
        self._file_limit = max_upload_bytes + OVERHEAD_BYTES
        self._json_limit = math.ceil(max_upload_bytes / 3) * 4 + OVERHEAD_BYTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with a limited body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        is_json = _media_type(headers).endswith("json")
        limit = self._json_limit if is_json else self._file_limit
        announced = headers.get("content-length", "")
        received = 0
        is_whole = _whole_form(headers)

        async def limited() -> Message:
            nonlocal received
            if announced.isdecimal() and int(announced) > limit:
                await _refuse(headers, receive, limit)
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                await _refuse(headers, receive, limit)
            if message["type"] == "http.request" and not is_whole(message):
                raise HTTPException(400, "the multipart body ends without its last boundary")
            return message

        await self.app(scope, limited, send)


def _whole_form(headers: Headers) -> Callable[[Message], bool]:
    """A check of each message of a body: whether it is not the last one of a form cut off.

    The parser would take the fields that came for all there are.
    """
    kind, options = parse_options_header(headers.get("content-type"))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        return lambda _: True
    last, tail, ended = b"--" + options[b"boundary"] + b"--", b"", False

    def check(message: Message) -> bool:
        nonlocal tail, ended
        tail += message.get("body", b"")
        ended = ended or last in tail
        tail = tail[-len(last) :]
        return ended or message.get("more_body", False)

    return check


async def _refuse(headers: Headers, receive: Receive, limit: int) -> NoReturn:
    """Raise HTTPException 413, once a client that sends without waiting has come to its end.

    Many clients read no answer before they have sent all; if the connection closed on them, they
    would report a broken pipe instead. What they still send is dropped, and bounded.
    """
    if "expect" not in headers:  # `Expect: 100-continue`: nothing is sent before we ask for it
        dropped = 0
        with anyio.move_on_after(_LINGER_SECONDS):
            while dropped < _LINGER_BYTES:
                message = await receive()
                dropped += len(message.get("body", b""))
                if not message.get("more_body", False):
                    break
    # FastAPI wraps errors of any other class that are met while a body is read.
    raise HTTPException(413, f"the body is larger than the limit of {limit:,} bytes")


async def expects_files(request: Request) -> None:
    """Route dependency: the body is multipart/form-data, whose fields may come again."""
    _expects(request, "multipart/form-data")


async def expects_form(request: Request) -> None:
    """Route dependency: the body is multipart/form-data, each field once."""
    await expects_files(request)
    form = await request.form()
    for name, times in Counter(name for name, _ in form.multi_items()).items():
        if times > 1:
            invalid(f"body.{name}", "expected once", found=f"{times} times")


async def expects_json(request: Request) -> None:
    """Route dependency: the body is JSON."""
    _expects(request, "application/json")


def _expects(request: Request, media_type: str) -> None:
    found = _media_type(request.headers)
    if found != media_type:
        raise ProblemError(
            MEDIA, f"found a body of {found or 'no content type'}, expected {media_type}"
        )


def _media_type(headers: Headers) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def file_bytes(file: UploadFile, max_upload_bytes: int) -> bytes:
    """The bytes of an uploaded file, which waits on disk if it is large."""
    data = await file.read(max_upload_bytes + 1)
    _check_size(len(data), max_upload_bytes)
    return data


async def base64_bytes(text: str, field: str, max_upload_bytes: int) -> bytes:
    """The bytes of an image that came as base64, perhaps in a ``data:`` URL."""
    data = await anyio.to_thread.run_sync(_decode_base64, text, field)
    _check_size(len(data), max_upload_bytes)
    return data


def _check_size(size_bytes: int, max_upload_bytes: int) -> None:
    """Refuse an image file over the limit."""
    if size_bytes > max_upload_bytes:
        raise ProblemError(
            TOO_LARGE,
            f"the image file is larger than the limit of {max_upload_bytes:,} bytes",
            fields={"limit_bytes": max_upload_bytes},
        )


def _decode_base64(text: str, field: str) -> bytes:
    if text.startswith("data:"):
        header, _, text = text.partition(",")
        if not header.endswith(";base64"):
            invalid(field, "expected a data: URL in base64", found=header[:80])
    try:
        # Line breaks are common (the `base64` command wraps its output) and carry nothing.
        compact = text.encode("ascii").translate(None, b"\r\n\t ")
        return binascii.a2b_base64(compact, strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        invalid(field, f"expected base64 (RFC 4648, with padding): {error}")
