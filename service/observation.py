"""Every request gets an id, one line in the log, and its place in the metrics."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import re
import sys
import time
import uuid
from typing import Any, Final

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import failures
from service.metrics import Metrics

_HEADER: Final = "X-Request-ID"
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_log = logging.getLogger("kindred.request")


class Observe:
    """Middleware around everything else; the last to see an error that nobody handled."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens within."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        given = Headers(scope=scope).get(_HEADER, "")
        # A caller's id goes into the log, so only one that cannot forge a line is taken over.
        request_id = given if _PLAIN_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[_HEADER] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            await self.app(scope, receive, observed)
        except Exception as error:
            answer = failures.unexpected(Request(scope), error)
            if status:  # the answer had begun; all that is left is to break it off
                raise
            await answer(scope, receive, observed)
        except asyncio.CancelledError:  # the server stops, and waits no longer
            if status:
                raise
            await failures.stopping(Request(scope))(scope, receive, observed)
        finally:
            _record(scope, request_id, status, time.perf_counter() - started)


def _record(scope: Scope, request_id: str, status: int, seconds: float) -> None:
    method = scope["method"] if scope["method"] in _METHODS else "other"
    route = _template(scope)
    metrics: Metrics = scope["state"]["service"].metrics
    metrics.requests.labels(method, route, str(status)).inc()
    metrics.request_seconds.labels(method, route).observe(seconds)
    client = scope.get("client")
    _log.info(
        "request",
        extra={
            "request_id": request_id,
            "method": scope["method"],
            "path": scope["path"],
            "route": route,
            "status": status,
            "duration_ms": round(1000 * seconds, 1),
            "client": client[0] if client else None,
        },
    )


_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_CONVERTOR: Final = re.compile(r":\w+}")


def _template(scope: Scope) -> str:
    """The route as the API's documentation writes it; metrics by path would never end."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return _CONVERTOR.sub("}", path) if path else "unmatched"


class JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The record's standard parts, and whatever was given as ``extra``."""
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(
                timespec="milliseconds"
            ),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, value) for name, value in vars(record).items() if name not in _STANDARD)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "color_message",
}


def log_to_standard_error(level: str) -> None:
    """Write the process's log as JSON lines; for the command, not for those who embed the app."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
