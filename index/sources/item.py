"""One image of a source, and what is taken for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

from index.errors import SourceUnreadable
from index.image import DEFAULT_MAX_PIXELS, IMAGE_SUFFIXES

LARGEST_FILE_BYTES: Final = 4 * DEFAULT_MAX_PIXELS
"""Of an image file: the most pixels that are decoded, uncompressed, would not need more."""

_BEYOND: Final = 1 << 63  # the first number that a database does not hold


@dataclass(frozen=True)
class SourceItem:
    """One image of a source, not yet decoded.

    ``mtime_ns`` changes with the file: nanoseconds of its last change, at a URL mixed with its
    ETag, and 0 where only the bytes can tell: also of a time that 64 bits do not hold. ``label`` is
    the name of its class where the source states one. An item of a Parquet file, or of a tar shard
    at a URL, holds its bytes, since the scan had to pass over them: keep locators, not items.

    ``damage`` says why the rest of a shard could not be read, or a folder within not be listed,
    where the item is no image but stands for that; see ``scan``. ``fetch`` gives the bytes.
    """

    id: str
    locator: str
    size_bytes: int
    mtime_ns: int
    label: str | None = None
    damage: str | None = None
    fetch: Callable[[], bytes] = field(kw_only=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        # File systems and the lists of archives may state any number.
        if abs(self.mtime_ns) >= _BEYOND:
            object.__setattr__(self, "mtime_ns", 0)
        object.__setattr__(self, "size_bytes", min(self.size_bytes, _BEYOND - 1))

    @property
    def stands_for(self) -> str:
        """How the locators begin of what an item with ``damage`` stands for."""
        shard, hash_, _ = self.locator.rpartition("#")
        return f"{shard}#" if hash_ and not self.locator.startswith("file:") else f"{self.locator}/"

    def read(self) -> bytes:
        """The image file's bytes.

        Raises:
            SourceNotFound: it has gone since the scan.
            SourceUnreadable: it cannot be read, is empty, too large, or is refused.
        """
        if self.damage is not None:
            raise SourceUnreadable(self.damage)
        if self.size_bytes > LARGEST_FILE_BYTES:
            raise SourceUnreadable(
                f"{self.locator} has {self.size_bytes:,} bytes, "
                f"expected at most {LARGEST_FILE_BYTES:,}"
            )
        return self.fetch()


def is_picture(name: str) -> bool:
    """Whether a file of this name is an image: by its suffix, hidden ones left out."""
    base = PurePosixPath(name)
    return base.suffix.lower() in IMAGE_SUFFIXES and not base.name.startswith(".")


def leads_out(name: str) -> bool:
    """Whether a member's name is absolute, or goes up: unpacked, it would lie elsewhere."""
    return name.startswith("/") or ".." in PurePosixPath(name).parts


def empty_span(place: str, offset: int) -> SourceUnreadable:
    """What reading a member that was refused is answered with."""
    return SourceUnreadable(
        f"{place} holds no plain file at byte {offset}: empty members, links, devices, and names "
        "that lead out of the archive are refused"
    )
