"""What made a run: recorded beside its settings, and compared when it is repeated."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

import index
from trainer import checkpoint

PACKAGES = ("torch", "timm", "numpy", "Pillow")
"""Those whose version can change the numbers of a run."""


def versions() -> dict[str, str]:
    """Versions of Python and of what the numbers depend on, by name."""
    return {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}


def code_digest() -> str:
    """SHA-256 over the source of the trainer and of the index that it reads images with."""
    digest = hashlib.sha256()
    for package in (Path(index.__file__).parent, Path(__file__).parent):
        for path in sorted(package.rglob("*.py")):
            digest.update(f"{path.relative_to(package.parent)}\0".encode())
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def start_digest(path: str | None) -> str | None:
    """SHA-256 of the file of weights that a run started from, in hex."""
    if path is None:
        return None
    file = Path(path, checkpoint.CHECKPOINT) if Path(path).is_dir() else Path(path)
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
