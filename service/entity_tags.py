"""Entity tags: whether the caller has already what would be sent (RFC 9110, section 13.1.2)."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

IfNoneMatch = Annotated[str | None, Header(description="`ETag` of what the caller has.")]


def is_known(tag: str, if_none_match: str | None) -> bool:
    """Whether the header names the tag of what is there; compared weakly, as it asks for."""
    if if_none_match is None:
        return False
    named = {each.strip().removeprefix("W/") for each in if_none_match.split(",")}
    return tag in named or "*" in named
