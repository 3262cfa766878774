"""Settings of the service, read once from the environment variables ``KINDRED_*``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from index.encoder import Provider
from index.image import DEFAULT_MAX_PIXELS
from index.indexes import DEFAULT_MEMORY

PREFIX = "KINDRED_"


class Settings(BaseSettings):
    """One field a variable: ``port`` is ``KINDRED_PORT``. An empty variable counts as unset."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    data: Path = Field(
        default=Path("kindred-data"),
        description="Folder of the collections; made when it is not there.",
    )
    encoder: Path | None = Field(
        default=None,
        description="Encoder file (.onnx) of new collections; others are served with the copies "
        "that they keep of theirs. Without one, the encoder that ships with Kindred.",
    )
    provider: Provider = Field(
        default="auto",
        description="Where the encoder runs. `auto` takes a CUDA GPU where one works, else the "
        "CPU; `cuda` refuses to start without one.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="CPU threads of one encoder run. Without a number, one a physical core.",
    )
    batch_size: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="Images of concurrent requests that the encoder takes together at most.",
    )
    host: str = Field(
        default="127.0.0.1",
        description="Address to listen on. The default is reachable from this machine only; no "
        "key is asked for, so put a proxy that does in front of any other address.",
    )
    names: str = Field(
        default="",
        description="Names by which the service may be asked for, with commas between them, beside "
        "`localhost` and the like: that of a proxy, for one. Without any, and on an address that "
        "others reach, any name will do, as with `*`.",
        pattern=r"^[^/]*$",
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    max_upload_bytes: int = Field(
        default=32 * 1024 * 1024,
        ge=1024,
        description="Size of one image file, in bytes; a larger one is refused with 413 while it "
        "is still being sent.",
    )
    max_pixels: int = Field(
        default=DEFAULT_MAX_PIXELS,
        ge=1,
        description="Width times height of one image; a larger one is refused with 413 before it "
        "is decoded.",
    )
    max_queue: int = Field(
        default=64,
        ge=1,
        description="Images that may wait for the encoder; as many requests may wait for a second "
        "look, and as many for groups. One beyond is refused with 429 and a `Retry-After`.",
    )
    index_memory_bytes: int = Field(
        default=DEFAULT_MEMORY.largest_held_bytes,
        ge=0,
        description="Size of a collection's index files, in bytes, up to which its vectors are "
        "held in memory. Of larger ones they are read from the disk, some hundred a search, and "
        "only codes and keys are held: about 290 bytes an image with the default encoder.",
    )
    thumbnail_cache_bytes: int = Field(
        default=64 * 1024 * 1024,
        ge=0,
        description="Memory for thumbnails that were made before, in bytes; 0 keeps none.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="Least severe log lines to write to standard error; requests are `info`.",
    )


def unknown_variables() -> list[str]:
    """``KINDRED_*`` variables of the environment that no setting has: most likely misspelt."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    return sorted(
        name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known
    )
