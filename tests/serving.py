"""The service for tests: in this process through Starlette's client, or as a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings

_ROOT = Path(__file__).parent.parent


@contextlib.contextmanager
def client(data: Path, encoder_path: Path, **settings: Any) -> Iterator[TestClient]:
    """A client of an application that has started; it stops with the context."""
    app = create_app(
        Settings(data=data, encoder=encoder_path, provider="cpu", threads=1, **settings)
    )
    with TestClient(app, base_url="http://localhost") as started:
        yield started


def image_url(collection: str, image_id: str) -> str:
    """The path of an image; dots are encoded too, since clients resolve `.` and `..` segments."""
    return f"/v1/collections/{collection}/images/" + quote(image_id, safe="").replace(".", "%2E")


def upload(client: Any, collection: str, image_id: str, data: bytes, **fields: str) -> Any:
    """PUT an image; the answer."""
    return client.put(image_url(collection, image_id), files={"file": data}, data=fields)


class Process:
    """`kindred-serve` as a process; ``address`` is where it answers."""

    def __init__(self, data: Path, encoder_path: Path, **variables: str) -> None:
        self._log = data / "service.log"
        others = {name: value for name, value in os.environ.items() if "KINDRED_" not in name}
        with self._log.open("w") as log:  # a pipe that nobody reads would fill up
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "--port", "0", "--data", str(data)],
                cwd=_ROOT,
                env={
                    **others,
                    "KINDRED_ENCODER": str(encoder_path),
                    "KINDRED_PROVIDER": "cpu",
                    "KINDRED_THREADS": "1",
                    **variables,
                },
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        with self._process.stdout as announcement:
            line = announcement.readline()
        if "http://" not in line:
            self.kill()
            raise AssertionError(f"it did not start: {self._log.read_text()}")
        self.address = line.split()[-1]

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> tuple[int, str]:
        """Ask it to end; its exit status and what it logged."""
        self._process.terminate()
        return self._process.wait(timeout=60), self._log.read_text()


@contextlib.contextmanager
def process(data: Path, encoder_path: Path, **variables: str) -> Iterator[Process]:
    """A running service that is gone after the context, however that ends."""
    running = Process(data, encoder_path, **variables)
    try:
        yield running
    finally:
        running.kill()
