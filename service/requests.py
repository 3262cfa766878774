"""What requests carry; every description here is part of the API's reference."""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, Self, get_args

from fastapi import Request, UploadFile
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    PlainValidator,
    StringConstraints,
    Tag,
    WithJsonSchema,
    model_validator,
)

from index import filters
from index.artifact import DEFAULT_FALSE_MATCH_RATE
from index.errors import InvalidFilter
from index.policies import DEFAULT_POLICY, Policy
from index.verdicts import Verdict
from service.problems import invalid

MAX_EMBED_IMAGES: Final = 32


def _parse_object(value: Any) -> Any:
    """JSON text, as form fields carry objects, becomes the object."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected the text of a JSON object: {error}") from None


def _parse_filter(value: Any) -> filters.Filter:
    try:
        return filters.parse(_parse_object(value))
    except InvalidFilter as error:
        raise ValueError(str(error)) from None


async def known_query(request: Request) -> None:
    """Dependency of the API's routes: an unknown parameter is refused, as a misspelt field is."""
    if not request.query_params:
        return
    route = request.scope["route"]
    operation = request.app.openapi()["paths"][route.path_format][request.method.lower()]
    parameters = operation.get("parameters", [])
    known = [each["name"] for each in parameters if each["in"] == "query"]
    for name, found in request.query_params.items():
        if name not in known:
            expected = f"one of {', '.join(known)}" if known else "no query parameters"
            invalid(f"query.{name}", f"unknown, expected {expected}", found=found)


def _check_verdict(value: Any) -> Any:
    if value is not None and value not in get_args(Verdict):
        raise ValueError("expected 'same', 'different', or null to take back what was said")
    return value


ImageId = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Filter = Annotated[
    filters.Filter, PlainValidator(_parse_filter), WithJsonSchema({"type": "object"})
]


class Body(BaseModel):
    """A request's body: unknown fields are refused, so that a misspelt one is not ignored."""

    model_config = ConfigDict(extra="forbid")


class ImageQuery(Body):
    """The image asked about: exactly one of these fields."""

    model_config = ConfigDict(
        json_schema_extra={"minProperties": 1, "maxProperties": 1},
    )

    id: ImageId | None = Field(
        default=None, description="An image of the collection; it is left out of the results."
    )
    base64: str | None = Field(
        default=None,
        description="An image file's bytes in base64; a `data:` URL is taken too.",
    )
    url: str | None = Field(
        default=None, description="Address of an image: none is fetched, so this answers 422."
    )
    vector: list[FiniteFloat] | None = Field(
        default=None, description="An `embedding`, as `/v1/embed` answers it. For search only."
    )

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        found = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(found) != 1:
            raise ValueError(
                "expected exactly one of id, base64, url, vector; found "
                + (" and ".join(found) or "none")
            )
        return self


class SearchOptions(Body):
    """How to search, and what of the results to answer."""

    top_k: int = Field(default=10, ge=1, le=1000, description="How many results at most.")
    offset: int = Field(
        default=0, ge=0, le=10_000, description="How many of the nearest to skip, to page on."
    )
    min_score: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        default=None, description="Leave out results below this cosine."
    )
    filter: Filter | None = Field(
        default=None, description=filters.LANGUAGE, examples=filters.EXAMPLES
    )
    group_duplicates: bool = Field(
        default=False, description="Of images that are copies of each other, only the nearest."
    )


class SearchRequest(SearchOptions):
    """A search by one image."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": {"id": "snow2.jpg"}, "top_k": 5},
                {"query": {"base64": "/9j/4AAQSkZJRg..."}, "filter": {"label": "snow"}},
            ]
        },
    )

    query: ImageQuery = Field(description="The image whose neighbours are asked for.")


class SearchForm(SearchOptions):
    """A search by an uploaded file."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"file": "(bytes)", "top_k": 5}]})

    file: UploadFile = Field(description="The image file whose neighbours are asked for.")


class Strictness(Body):
    """How sure a match must be: a rate or a threshold, not both."""

    max_false_match_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Of pairs of different pictures, the share that may be taken for copies; the "
        "collection's calibration, else the encoder's, turns it into a threshold. "
        f"{DEFAULT_FALSE_MATCH_RATE:g}, or the smallest that was measured, unless `threshold` is "
        "given.",
    )
    threshold: Annotated[FiniteFloat, Field(ge=-2, le=2)] | None = Field(
        default=None, description="The least copy score itself, for those who calibrated it."
    )

    @model_validator(mode="after")
    def _one_at_most(self) -> Self:
        if self.max_false_match_rate is not None and self.threshold is not None:
            raise ValueError("expected max_false_match_rate or threshold, found both")
        return self


class CheckOptions(Strictness):
    """How to look for copies."""

    limit: int = Field(default=100, ge=1, le=1000, description="How many matches at most.")
    verify: bool = Field(
        default=False,
        description="Give the nearest images a second look: local features and the aligned pixels "
        "decide, and `evidence` says how the one picture lies on the other. Finds more, says "
        "more, and takes some tenths of a second.",
    )
    orientations: bool = Field(
        default=False,
        description="Look for the image's eight flips and quarter turns too. Each of the eight "
        "looks gets an eighth of the false match rate, so that the whole keeps to it.",
    )


class CheckRequest(CheckOptions):
    """A look for copies of one image."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": {"id": "snow2.jpg"}, "max_false_match_rate": 0.0001},
                {"query": {"base64": "/9j/4AAQSkZJRg..."}, "orientations": True},
            ]
        },
    )

    query: ImageQuery = Field(description="The image whose copies are asked for.")


class CheckForm(CheckOptions):
    """A look for copies of an uploaded file."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"file": "(bytes)", "orientations": True}]}
    )

    file: UploadFile = Field(description="The image file whose copies are asked for.")


class GroupsQuery(Strictness):
    """Which groups of duplicates to list."""

    limit: int = Field(default=20, ge=1, le=200, description="How many groups at most.")
    cursor: str | None = Field(
        default=None, description="`next_cursor` of the page before; none for the first page."
    )
    keep: Policy = Field(
        default=DEFAULT_POLICY,
        description="Which image of a group is suggested to be kept: the one of the most `pixels`, "
        "of the largest file (`bytes`), saved without loss (`format`), the sharpest (`sharpness`), "
        "the one whose EXIF still says when, where or by which camera it was taken (`metadata`), "
        "of the `oldest` or `newest` file, or of the shortest id (`shortest-path`). Every page of "
        "a listing needs the same.",
    )
    verify: bool = Field(
        default=False,
        description="Whether to give every match a second look, unless bytes or pixels are equal: "
        "what it refuses leaves its group, and is grouped again among itself. It adds none from "
        "below the threshold, as a check with `verify` does. `limit` counts groups before that "
        "look, so a page may have a few more or less.",
    )


class VerdictRequest(Body):
    """What images are to each other."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"ids": ["snow2.jpg", "snow3.jpg"], "verdict": "different"}]
        },
    )

    ids: list[ImageId] = Field(
        min_length=2, max_length=100, description="Images; the verdict is of each pair of them."
    )
    verdict: Annotated[Verdict | None, BeforeValidator(_check_verdict)] = Field(
        description="`same`, `different`, or null to take back what was said."
    )


EMBED_TAGS: Final = ("<one image>", "<several images>")
"""By which an error is of one alternative alone; they are no part of its place."""


class EmbedRequest(Body):
    """One image to embed, or several."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"query": {"base64": "/9j/4AAQSkZJRg..."}}]},
    )

    query: Annotated[
        Annotated[ImageQuery, Tag(EMBED_TAGS[0])]
        | Annotated[list[ImageQuery], Field(min_length=1), Tag(EMBED_TAGS[1])],
        Discriminator(lambda query: EMBED_TAGS[isinstance(query, list)]),
    ] = Field(description=f"One image as `base64`, or a list of at most {MAX_EMBED_IMAGES}.")


class EmbedForm(Body):
    """Uploaded files to embed."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"file": "(bytes)"}]})

    file: list[UploadFile] = Field(
        description=f"The image file; repeated for several, {MAX_EMBED_IMAGES} at most."
    )


class CollectionSettings(Body):
    """Settings of a collection; `{}` takes the service's encoder."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    encoder: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = Field(
        default=None,
        description="SHA-256 of the encoder that the collection is to have, for a caller who "
        "wants to be sure; another than the service's answers 409.",
    )


class ImageForm(Body):
    """An image to keep under an id."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"file": "(bytes)", "metadata": '{"label": "snow"}'}]},
    )

    file: UploadFile = Field(description="The image file.")
    metadata: Annotated[dict[str, Any], BeforeValidator(_parse_object)] | None = Field(
        default=None, description="Any JSON object, as text; searches can filter by its values."
    )


class ImageChange(Body):
    """What to change of an image."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"label": "ice"}}]})

    metadata: dict[str, Any] = Field(description="The metadata in place of the present one.")
