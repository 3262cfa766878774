"""The vectors of images, without a collection."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Form

from index.encoder import Encoding
from service import problems
from service.answers import EmbedAnswer
from service.queries import encode, refuse_url
from service.requests import MAX_EMBED_IMAGES, EmbedForm, EmbedRequest, ImageQuery
from service.state import Service, ServiceState
from service.uploads import base64_bytes, expects_files, expects_json, file_bytes

_PROBLEMS = problems.documented(*problems.IMAGE_SENT, problems.UNAVAILABLE_OPTION)
router = APIRouter(tags=["embed"], responses=_PROBLEMS)


@router.post(
    "/v1/embed",
    summary="Embed images",
    dependencies=[Depends(expects_json)],
)
async def embed(service: ServiceState, body: EmbedRequest) -> EmbedAnswer | list[EmbedAnswer]:
    """The vectors of one image, or a list of them for a list of images.

    The images of one request together are held to the limit of one upload.
    """
    several = isinstance(body.query, list)
    queries = body.query if isinstance(body.query, list) else [body.query]
    _check_count(len(queries), "body.query")
    texts = [
        _base64_of(query, f"body.query.{place}" if several else "body.query")
        for place, query in enumerate(queries)
    ]
    answers = []
    async with service.intake.places(len(queries)):
        for text, field in texts:
            data = await base64_bytes(text, field, service.settings.max_upload_bytes)
            answers.append(_answer(service, (await encode(service, service.encoder, data))[1]))
    return answers if several else answers[0]


@router.post(
    "/v1/embed/file",
    summary="Embed uploaded files",
    dependencies=[Depends(expects_files)],
)
async def embed_file(
    service: ServiceState, form: Annotated[EmbedForm, Form(media_type="multipart/form-data")]
) -> EmbedAnswer | list[EmbedAnswer]:
    """The vectors of one file, or a list of them for several.

    The files of one request together are held to the limit of one upload.
    """
    _check_count(len(form.file), "body.file")
    answers = []
    async with service.intake.places(len(form.file)):
        for file in form.file:
            data = await file_bytes(file, service.settings.max_upload_bytes)
            answers.append(_answer(service, (await encode(service, service.encoder, data))[1]))
    return answers if len(answers) > 1 else answers[0]


def _check_count(images: int, field: str) -> None:
    if not 1 <= images <= MAX_EMBED_IMAGES:
        problems.invalid(field, f"expected 1 to {MAX_EMBED_IMAGES} images", found=images)


def _base64_of(query: ImageQuery, field: str) -> tuple[str, str]:
    """The image's text, and the name of the field it stands in."""
    if query.url is not None:
        refuse_url()
    if query.base64 is None:
        problems.invalid(field, "expected an image as base64; there is no collection here")
    return query.base64, f"{field}.base64"


def _answer(service: Service, encoding: Encoding) -> EmbedAnswer:
    return EmbedAnswer(
        embedding=encoding.embedding[0].tolist(),
        descriptor=encoding.descriptor[0].tolist(),
        descriptor_offset=float(encoding.descriptor_offset[0]),
        encoder=service.encoder.sha256,
    )
