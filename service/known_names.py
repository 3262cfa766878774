"""By which names the service may be asked for: its own, and no name of a stranger's.

A page of any website can make its own name lead to this machine (DNS rebinding); its scripts could
then read and delete all that the service holds, since no key is asked for. They cannot change the
`Host` that a browser sends.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.failures import answer
from service.problems import UNKNOWN_NAME
from service.settings import Settings

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def known_names(settings: Settings) -> frozenset[str] | None:
    """In small letters; None where any will do."""
    given = {_plain(name) for name in settings.names.split(",") if name.strip()}
    if "*" in given or (not given and not _is_loopback(settings.host)):
        return None
    return frozenset({*_LOOPBACK, settings.host.lower(), *given})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class KnownNames:
    """Middleware that refuses a request for another name with 421."""

    def __init__(self, app: ASGIApp, names: frozenset[str] | None) -> None:
        self.app, self._names = app, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on that is for one of the names, or for none."""
        host = Headers(scope=scope).get("host", "") if scope["type"] == "http" else ""
        name = _plain(host)
        if self._names is None or not name or name in self._names:
            await self.app(scope, receive, send)
            return
        detail = (
            f"found {host!r} in Host, expected {', '.join(sorted(self._names))}; the service's "
            "setting KINDRED_NAMES adds names"
        )
        await answer(Request(scope), UNKNOWN_NAME, detail)(scope, receive, send)


def _plain(host: str) -> str:
    """In small letters, without a port, the brackets of an IPv6 address or the root's dot."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")
