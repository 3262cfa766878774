"""`kindred-serve`: the service as a command."""

from __future__ import annotations

import argparse
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

import uvicorn
from pydantic import ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from index.errors import KindredError
from index.second_look import looking
from service.app import create_app
from service.observation import log_to_standard_error
from service.settings import PREFIX, Settings, unknown_variables

_REFUSED = 2
_FLAGS = ("host", "port", "data", "encoder", "provider")
GRACE_SECONDS = 7  # for requests under way; Docker and others kill ten after they have asked
_log = logging.getLogger("kindred.service")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted; exit status 0, or 2 when the service cannot start."""
    try:
        settings = _settings(arguments)
    except ValidationError as error:
        for each in error.errors():
            setting = "_".join(str(part) for part in each["loc"])
            name = PREFIX + setting.upper()
            name = f"--{setting} or {name}" if setting in _FLAGS else name
            print(f"kindred-serve: {name}: {each['msg']}, found {each['input']!r}", file=sys.stderr)
        return _REFUSED
    log_to_standard_error(settings.log_level)
    for name in unknown_variables():
        _log.warning("%s is no setting of the service and does nothing", name)
    try:
        return _serve(settings)
    except (KindredError, OSError) as error:
        print(f"kindred-serve: {error}", file=sys.stderr)
        return _REFUSED


def _settings(arguments: Sequence[str] | None) -> Settings:
    """The environment's settings, with those given on the command line in their place."""
    parser = argparse.ArgumentParser(
        prog="kindred-serve",
        description="Serve collections over HTTP, with a web page at /.",
        epilog="All settings are environment variables too, and more: "
        + ", ".join(PREFIX + name.upper() for name in Settings.model_fields),
    )
    for name in _FLAGS:
        parser.add_argument(f"--{name}", help=Settings.model_fields[name].description)
    given: dict[str, Any] = {
        name: value for name, value in vars(parser.parse_args(arguments)).items() if value
    }
    return Settings(**given)


def _serve(settings: Settings) -> int:
    with _listen(settings.host, settings.port) as listening:
        host, port = listening.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        app = _Started(create_app(settings), f"Kindred at {address}")
        config = uvicorn.Config(
            app,
            log_config=None,  # ours is set up; requests are logged by the application
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        # uvicorn shuts down in order, then raises the signal again for whoever handled it before.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            _log.info("stopped, as asked")
        except SystemExit:  # uvicorn's way out when the application did not start
            if app.failure is None:
                raise
            raise app.failure from None
        finally:  # second looks that have not begun: nobody waits for them any more
            looking().shutdown(wait=False, cancel_futures=True)
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket, bound before the encoder is loaded: a port in use is said at once."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise OSError(f"cannot listen on {host} port {port}: {error.strerror}") from error
    return listening


class _Started:
    """The application, which says when it has started, and keeps why it has not."""

    def __init__(self, app: ASGIApp, announcement: str) -> None:
        self._app = app
        self._announcement = announcement
        self.failure: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def announced(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                message = {**message, "message": ""}  # a traceback; the sentence below will do
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                print(self._announcement, flush=True)

        try:
            await self._app(scope, receive, announced)
        except Exception as error:
            if not isinstance(error, (KindredError, OSError)):
                _log.exception("the service failed to start or stop")
            self.failure = error
            raise


if __name__ == "__main__":
    sys.exit(main())
