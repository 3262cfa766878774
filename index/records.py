"""What is stored of an image, and the rules for what may be stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from index.encoder import Encoding
from index.errors import InvalidId, InvalidMetadata
from index.image import Picture
from index.vectors import Keys

LONGEST_ID: Final = 512
LARGEST_METADATA_BYTES: Final = 1 << 20
DEEPEST_METADATA: Final = 64

State = Literal["present", "gone", "unreadable"]
Scalar: TypeAlias = str | int | float | bool | None


@dataclass(frozen=True)
class Item:
    """One image of a collection.

    ``width`` and ``height`` (pixels, upright) are 0, ``format`` and ``sha256`` empty where the
    image could never be read; ``reason`` then says why. ``source`` is the locator of its bytes,
    ``blob:<sha256>`` where the collection keeps them, and ``root`` the beginning that all locators
    of its source share, None of an upload. ``mtime_ns`` is when the file was last changed, in
    nanoseconds since 1970, 0 of an upload; ``updated_at`` is ISO 8601 in UTC. ``pixel_sha256`` and
    ``perceptual_hash`` are those of ``index.fingerprint``, as is ``sharpness``; ``details`` are the
    flags of ``index.details``. Of images that came in before these were taken, and of what is
    unreadable, the sharpness is -1 and the details are 0.
    """

    id: str
    state: State
    root: str | None
    source: str
    sha256: str
    pixel_sha256: str
    perceptual_hash: bytes
    size_bytes: int
    mtime_ns: int
    width: int
    height: int
    format: str
    sharpness: float
    details: int
    metadata: dict[str, Any]
    reason: str
    updated_at: str

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height


@dataclass(frozen=True)
class Known:
    """What the batch job asks of an item before it reads the image again."""

    key: int
    version: int
    state: State
    root: str | None
    source: str
    sha256: str
    size_bytes: int
    mtime_ns: int
    metadata: dict[str, Any]
    reason: str
    embedded: bool


@dataclass(frozen=True)
class Record:
    """What is stored of an image beside its vectors; ``root`` None says that it was uploaded.

    What has a default is taken of the picture, see ``of_picture``.
    """

    id: str
    root: str | None
    source: str
    sha256: str
    size_bytes: int
    mtime_ns: int
    metadata: Mapping[str, Any]
    pixel_sha256: str = ""
    perceptual_hash: bytes = b""
    width: int = 0
    height: int = 0
    format: str = ""
    sharpness: float = -1.0
    details: int = 0

    def of_picture(self, picture: Picture) -> Record:
        """The same, with what is known once the image is decoded."""
        return replace(
            self,
            pixel_sha256=picture.fingerprint.pixel_sha256,
            perceptual_hash=picture.fingerprint.perceptual_hash,
            width=picture.width,
            height=picture.height,
            format=picture.format,
            sharpness=picture.fingerprint.sharpness,
            details=picture.details,
        )


@dataclass(frozen=True, eq=False)
class Chunk:
    """N present items in order of their ``keys`` (N,); ``hashes`` are the perceptual ones."""

    keys: Keys
    images: list[Facts]
    hashes: list[bytes]
    encoding: Encoding


class Facts(NamedTuple):
    """What groups go by of a present item.

    ``pixels`` is width times height, ``offset`` what its copy scores are lowered by.
    """

    key: int
    id: str
    sha256: str
    pixel_sha256: str
    pixels: int
    size_bytes: int
    mtime_ns: int
    format: str
    sharpness: float
    details: int
    offset: float


@dataclass(frozen=True)
class Settings:
    """What a collection was created with; ``encoder`` is the encoder's metadata as JSON."""

    encoder_sha256: str
    encoder: str
    created_at: str


def check_id(id: str) -> None:
    """Raise InvalidId unless the text can name an image."""
    if not 1 <= len(id) <= LONGEST_ID:
        raise InvalidId(f"the id has {len(id):,} characters, expected 1 to {LONGEST_ID}")
    if "\0" in id or not is_unicode(id):
        raise InvalidId(f"the id {id!r} holds a NUL or half a surrogate pair, expected plain text")


def check_new_id(id: str) -> None:
    """Raise InvalidId unless an image may be stored under the text.

    ``.`` and ``..`` may not: clients resolve them in a URL, encoded or not. Where a collection has
    them from before, they can still be looked up and deleted.
    """
    check_id(id)
    if id in (".", ".."):
        raise InvalidId(f"the id {id!r} would lead to another place in a URL, expected a name")


def metadata_text(metadata: Mapping[str, Any]) -> str:
    """Metadata as JSON text.

    Raises:
        InvalidMetadata: it is not what JSON can hold, is over 1 MiB, or nested too deeply.
    """
    if not _is_nested_at_most(metadata, DEEPEST_METADATA):
        raise InvalidMetadata(f"metadata is nested deeper than {DEEPEST_METADATA} levels")
    try:
        text = json.dumps(dict(metadata), ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError) as error:
        raise InvalidMetadata(f"metadata is not plain JSON: {error}") from error
    if size > LARGEST_METADATA_BYTES:
        raise InvalidMetadata(
            f"metadata is {size:,} bytes of JSON, expected {LARGEST_METADATA_BYTES:,} at most"
        )
    return text


def is_unicode(text: str) -> bool:
    """Whether text has no half surrogate pairs, which neither SQLite nor UTF-8 can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_nested_at_most(value: Any, levels: int) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return True
    return levels > 0 and all(_is_nested_at_most(part, levels - 1) for part in value)
