"""What answers hold; every description and example here is part of the API's reference."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from index.matching import Tier
from index.records import State


class CollectionAnswer(BaseModel):
    """A collection of images and their vectors."""

    example: ClassVar[dict[str, Any]] = {
        "name": "demo",
        "images": 198,
        "states": {"present": 198, "gone": 0, "unreadable": 0},
        "encoder": "9f2c1e0d7b6a594837261504f3e2d1c0b9a8f7e6d5c4b3a29180716f5e4d3c2b",
        "generation": 1,
        "searchable": True,
        "reason": None,
    }
    model_config = ConfigDict(json_schema_extra={"examples": [example]})

    name: str = Field(description="Its name, as in the path.")
    images: int | None = Field(description="Images present; null if it cannot be opened.")
    states: dict[str, int] | None = Field(
        description="Images by state: `present`, `gone` (its file is), `unreadable`; null if it "
        "cannot be opened."
    )
    encoder: str | None = Field(description="SHA-256 of the encoder that made it.")
    generation: int | None = Field(description="Number of its main index; grows with compaction.")
    searchable: bool = Field(description="Whether the service has the collection's encoder.")
    reason: str | None = Field(description="Why it cannot be searched, if so.")


class CollectionsAnswer(BaseModel):
    """All collections."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"collections": [CollectionAnswer.example]}]}
    )

    collections: list[CollectionAnswer] = Field(description="By name.")


class ImageAnswer(BaseModel):
    """An image of a collection."""

    example: ClassVar[dict[str, Any]] = {
        "id": "snow2.jpg",
        "state": "present",
        "width": 384,
        "height": 192,
        "format": "JPEG",
        "size_bytes": 14_201,
        "sha256": "1b4f0e9851971998e732078544c96b36c3d01cedf7caa332359d6f1d83567014",
        "metadata": {"label": "snow"},
        "updated_at": "2025-11-22T18:53:07Z",
        "thumbnail_url": "/v1/collections/demo/images/snow2.jpg/thumbnail",
    }
    model_config = ConfigDict(json_schema_extra={"examples": [example]})

    id: str = Field(description="Its id.")
    state: State = Field(
        description="`present`: searches find it. `gone`: the file it was indexed from is no more. "
        "`unreadable`: that file could not be decoded."
    )
    width: int | None = Field(description="Width in pixels, upright; null if never decoded.")
    height: int | None = Field(description="Height in pixels, upright; null if never decoded.")
    format: str | None = Field(description="Format such as `JPEG`; null if never decoded.")
    size_bytes: int = Field(description="Size of the file.")
    sha256: str | None = Field(description="SHA-256 of the file; null if it was never read.")
    metadata: dict[str, Any] = Field(description="What was stored with it.")
    updated_at: str = Field(description="When it last changed: ISO 8601, UTC.")
    thumbnail_url: str = Field(description="Where its thumbnail is.")


class ImagesAnswer(BaseModel):
    """Images of a collection, a page of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"images": [ImageAnswer.example], "next_cursor": "snow2.jpg"}]
        }
    )

    images: list[ImageAnswer] = Field(description="In the order of their ids.")
    next_cursor: str | None = Field(description="For `cursor` of the next page; null on the last.")


class ResultAnswer(BaseModel):
    """A neighbour of the query."""

    id: str = Field(description="The image's id.")
    score: float = Field(description="Cosine of the embeddings, at most 1; higher is nearer.")
    metadata: dict[str, Any] = Field(description="What was stored with the image.")
    thumbnail_url: str = Field(description="Where its thumbnail is.")


class SearchAnswer(BaseModel):
    """The neighbours of the query, nearest first."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "results": [
                        {
                            "id": "snow7.jpg",
                            "score": 0.871,
                            "metadata": {"label": "snow"},
                            "thumbnail_url": "/v1/collections/demo/images/snow7.jpg/thumbnail",
                        }
                    ],
                    "took_ms": 11.8,
                    "generation": 1,
                    "encoder": "9f2c1e0d7b6a594837261504f3e2d1c0b9a8f7e6d5c4b3a29180716f5e4d3c2b",
                }
            ]
        }
    )

    results: list[ResultAnswer] = Field(description="Nearest first.")
    took_ms: float = Field(description="Time of decoding, encoding and searching, in milliseconds.")
    generation: int = Field(description="Number of the collection's main index.")
    encoder: str = Field(description="SHA-256 of the encoder that compared.")


class MatchAnswer(BaseModel):
    """A copy of the query."""

    id: str = Field(description="The image's id.")
    tier: Tier = Field(
        description="What says that it is a copy, the surest that does: `exact` is the same bytes, "
        "`pixels` the same pixels, `perceptual` hashes (PDQ) that differ in at most 31 of 256 "
        "bits, `descriptor` a copy score over the threshold."
    )
    score: float = Field(
        description="Copy score: cosine of the descriptors less an offset, how alike the query is "
        "to other pictures; to those of the collection, once it is calibrated."
    )
    false_match_rate: float = Field(
        description="Of pairs of different pictures, the share that would match as well; 0 "
        "where bytes or pixels are equal."
    )
    evidence: dict[str, Any] = Field(
        description="What the tier found; with `orientations`, how the query was turned."
    )
    thumbnail_url: str = Field(description="Where its thumbnail is.")


class CheckAnswer(BaseModel):
    """The copies of the query, surest first, and how sure a match had to be."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "matches": [
                        {
                            "id": "snow2.jpg",
                            "tier": "descriptor",
                            "score": 0.64,
                            "false_match_rate": 0.00001,
                            "evidence": {"orientation": "mirrored"},
                            "thumbnail_url": "/v1/collections/demo/images/snow2.jpg/thumbnail",
                        }
                    ],
                    "threshold": 0.41,
                    "false_match_rate": 0.001,
                    "took_ms": 14.2,
                    "generation": 1,
                    "encoder": "9f2c1e0d7b6a594837261504f3e2d1c0b9a8f7e6d5c4b3a29180716f5e4d3c2b",
                }
            ]
        }
    )

    matches: list[MatchAnswer] = Field(description="By tier, the surest first, then by score.")
    threshold: float = Field(description="The least copy score that counted as a match.")
    false_match_rate: float = Field(
        description="The rate that was measured at that threshold, over all looks."
    )
    took_ms: float = Field(description="Time of decoding, encoding and searching, in milliseconds.")
    generation: int = Field(description="Number of the collection's main index.")
    encoder: str = Field(description="SHA-256 of the encoder that compared.")


class KeepAnswer(BaseModel):
    """Which image of a group to keep."""

    id: str = Field(description="The image's id.")
    reason: str = Field(description="Why this one.")


class GroupAnswer(BaseModel):
    """Images that are copies of each other."""

    id: str = Field(description="The group's id, the same as long as its images are.")
    images: list[ImageAnswer] = Field(description="Its images.")
    keep: KeepAnswer = Field(description="Which one to keep, as a suggestion.")


class GroupsAnswer(BaseModel):
    """Groups of duplicates, a page of them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "groups": [
                        {
                            "id": "snow2.jpg",
                            "images": [
                                ImageAnswer.example,
                                {**ImageAnswer.example, "id": "snow2-small.jpg"},
                            ],
                            "keep": {"id": "snow2.jpg", "reason": "most pixels"},
                        }
                    ],
                    "next_cursor": None,
                    "threshold": 0.41,
                    "false_match_rate": 0.001,
                }
            ]
        }
    )

    groups: list[GroupAnswer] = Field(description="In a stable order.")
    next_cursor: str | None = Field(description="For `cursor` of the next page; null on the last.")
    threshold: float = Field(description="The least copy score that counted as a match.")
    false_match_rate: float = Field(description="The rate that was measured at that threshold.")


class EmbedAnswer(BaseModel):
    """The vectors of one image."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "embedding": [0.0312, -0.0441],
                    "descriptor": [0.0871, 0.0107],
                    "descriptor_offset": 0.12,
                    "encoder": "9f2c1e0d7b6a594837261504f3e2d1c0b9a8f7e6d5c4b3a29180716f5e4d3c2b",
                }
            ]
        }
    )

    embedding: list[float] = Field(description="Of unit length; compares by what it looks like.")
    descriptor: list[float] = Field(description="Of unit length; compares copies.")
    descriptor_offset: float = Field(
        description="How alike it is to anything, by the encoder's background: what a copy score "
        "by this query is lessened by, where the collection was not calibrated on its own pictures."
    )
    encoder: str = Field(description="SHA-256 of the encoder.")


class LiveAnswer(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"status": "alive"}]})

    status: Literal["alive"] = Field(description="Always `alive`.")


class ReadyAnswer(BaseModel):
    """The service can encode and search."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "ready",
                    "encoder": "9f2c1e0d7b6a594837261504f3e2d1c0b9a8f7e6d5c4b3a29180716f5e4d3c2b",
                    "provider": "CPUExecutionProvider",
                    "inference_ms": 7.9,
                    "collections": 1,
                }
            ]
        }
    )

    status: Literal["ready"] = Field(description="Always `ready`; else the answer is a problem.")
    encoder: str = Field(description="SHA-256 of the encoder.")
    provider: str = Field(description="What the encoder runs on.")
    inference_ms: float = Field(description="Time of the inference that was just run.")
    collections: int = Field(description="Collections that were opened and read.")
