"""Fixtures that tests of several modules share."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_encoder

from index.encoder import Encoder

_PHOTOGRAPHS = Path(__file__).parent.parent / "demo" / "photographs"


@pytest.fixture(scope="session")
def encoder_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder file: small, untrained, real."""
    return tiny_encoder.build(tmp_path_factory.mktemp("encoder") / "tiny.onnx")


@pytest.fixture(scope="session")
def next_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder file of other dimensions and another input size."""
    return tiny_encoder.build_another(tmp_path_factory.mktemp("next") / "next.onnx")


@pytest.fixture(scope="session")
def encoder(encoder_path: Path) -> Encoder:
    """The encoder of ``encoder_path``, on the CPU."""
    return Encoder(encoder_path, provider="cpu", threads=1)


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """Twelve of the demo's photographs, each of another scene."""
    first_of_scene: dict[str, Path] = {}
    for path in sorted(_PHOTOGRAPHS.glob("*.jpg")):
        first_of_scene.setdefault(path.stem.rstrip("0123456789"), path)
    return list(first_of_scene.values())[:12]
