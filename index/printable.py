"""Texts that come from anywhere, such as ids and paths, for a terminal or a page."""

from __future__ import annotations

import unicodedata
from typing import Final

_DIRECTIONS: Final = frozenset("LRE RLE LRO RLO PDF LRI RLI FSI PDI".split())


def printable(text: str) -> str:
    """The text on one line, with a sign for every character that does not show."""
    return "".join("\ufffd" if _is_hidden(character) else character for character in text)


def _is_hidden(character: str) -> bool:
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(character) in _DIRECTIONS
    )
