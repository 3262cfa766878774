"""Nothing is served or set that is not documented."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from serving import client

from service import problems
from service.app import create_app
from service.routes import page
from service.settings import Settings, unknown_variables

APP = create_app(Settings())
SCHEMA: dict[str, Any] = APP.openapi()
OPERATIONS = [
    pytest.param(path, method, operation, id=f"{method.upper()} {path}")
    for path, operations in SCHEMA["paths"].items()
    for method, operation in operations.items()
]
PROMISED = """
GET /v1/collections
PUT /v1/collections/{collection}
GET /v1/collections/{collection}
DELETE /v1/collections/{collection}
GET /v1/collections/{collection}/images
PUT /v1/collections/{collection}/images/{id}
GET /v1/collections/{collection}/images/{id}
PATCH /v1/collections/{collection}/images/{id}
DELETE /v1/collections/{collection}/images/{id}
GET /v1/collections/{collection}/images/{id}/thumbnail
POST /v1/collections/{collection}/search
POST /v1/collections/{collection}/search/file
POST /v1/collections/{collection}/duplicates/check
POST /v1/collections/{collection}/duplicates/check/file
GET /v1/collections/{collection}/duplicates
PUT /v1/collections/{collection}/verdicts
POST /v1/embed
POST /v1/embed/file
GET /livez
GET /readyz
GET /metrics
"""


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """A node of the schema, its reference followed."""
    while "$ref" in node:
        name = node["$ref"].removeprefix("#/components/schemas/")
        node = SCHEMA["components"]["schemas"][name]
    return node


def has_example(content: dict[str, Any]) -> bool:
    if "example" in content or content.get("examples"):
        return True
    schema = resolved(content["schema"])
    choices = [resolved(choice) for choice in schema.get("anyOf", [])]
    return any(each.get("examples") for each in (schema, *choices))


def properties(node: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, each in node.get("properties", {}).items():
        yield f"{path}.{name}", each


def test_the_routes_are_those_that_were_promised() -> None:
    served = {
        f"{method.upper()} {path}"
        for path, operations in SCHEMA["paths"].items()
        for method in operations
    }
    assert served == set(PROMISED.split("\n")) - {""}


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_route_is_explained_with_examples_and_problems(
    path: str, method: str, operation: dict[str, Any]
) -> None:
    assert operation["summary"]
    assert operation["description"].endswith((".", "?"))
    assert operation["tags"]
    for parameter in operation.get("parameters", []):
        assert parameter["description"], parameter["name"]
    for content in operation.get("requestBody", {}).get("content", {}).values():
        assert has_example(content)
    answers = operation["responses"]
    good = [answers[status] for status in answers if status.startswith("2")]
    assert good
    for answer in good:
        assert answer["description"]
        for content in answer.get("content", {}).values():
            assert has_example(content)
    bad = [answers[status] for status in answers if status[0] in "45"]
    assert bad
    for answer in bad:
        assert list(answer["content"]) == ["application/problem+json"]
        assert has_example(answer["content"]["application/problem+json"])


@pytest.mark.parametrize("name", SCHEMA["components"]["schemas"])
def test_every_field_of_a_body_is_described(name: str) -> None:
    schema = SCHEMA["components"]["schemas"][name]
    assert schema.get("description"), name
    for path, each in properties(schema, name):
        assert each.get("description") or resolved(each).get("description"), path


def test_every_problem_that_can_be_raised_is_listed_and_has_a_name_of_its_own() -> None:
    listed = [each["name"] for each in SCHEMA["x-problems"]]
    assert sorted(listed) == sorted({kind.name for kind in problems.KINDS})
    documented = {
        name
        for operations in SCHEMA["paths"].values()
        for operation in operations.values()
        for answer in operation["responses"].values()
        for content in answer.get("content", {}).values()
        for name in content.get("examples", {})
    }
    # No route to document them on.
    everywhere = {problems.NO_ROUTE.name, problems.METHOD.name, problems.UNKNOWN_NAME.name}
    assert set(listed) - everywhere == documented


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_described(name: str) -> None:
    description = Settings.model_fields[name].description
    assert description
    assert description.endswith(".")


def test_a_setting_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KINDRED_PORT", "8123")
    monkeypatch.setenv("KINDRED_MAX_QUEUE", "")
    monkeypatch.setenv("KINDRED_PROT", "1")
    assert Settings().port == 8123
    assert Settings().max_queue == Settings.model_fields["max_queue"].default
    assert unknown_variables() == ["KINDRED_PROT"]


def test_the_reference_and_the_page_take_nothing_from_elsewhere(
    tmp_path: Path, encoder_path: Path
) -> None:
    with client(tmp_path, encoder_path) as service:
        check_nothing_from_elsewhere(service)


def check_nothing_from_elsewhere(service: TestClient) -> None:
    for path in ("/", "/docs", *(f"/page/{name}" for name in page.FILES)):
        answer = service.get(path)
        assert answer.status_code == 200
        outside = answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in outside
        assert "https:" not in outside
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
