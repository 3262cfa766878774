"""Collections over HTTP, and errors: each is problem details, whatever went wrong."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
from fastapi.testclient import TestClient
from PIL import Image
from serving import client, image_url, upload

from index.catalog import Catalog
from index.encoder import Encoder
from service import problems
from service.app import create_app
from service.known_names import known_names
from service.settings import Settings


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, encoder_path: Path, photographs: list[Path]
) -> Iterator[TestClient]:
    with client(
        tmp_path_factory.mktemp("service"),
        encoder_path,
        max_upload_bytes=200_000,
        max_pixels=90_000,
    ) as started:
        started.put("/v1/collections/demo", json={})
        assert upload(started, "demo", "a.jpg", photographs[0].read_bytes()).status_code == 201
        yield started


class TestCollections:
    def test_putting_one_makes_it_and_again_leaves_it(
        self, service: TestClient, photographs: list[Path]
    ) -> None:
        first = service.put("/v1/collections/made", json={})
        upload(service, "made", "kept", photographs[0].read_bytes())
        again = service.put("/v1/collections/made")
        assert (first.status_code, again.status_code) == (201, 200)
        assert (first.json()["images"], again.json()["images"]) == (0, 1)
        assert service.get("/v1/collections/made").json() == again.json()

    def test_a_deleted_one_is_gone(self, service: TestClient) -> None:
        service.put("/v1/collections/passing", json={})
        assert service.delete("/v1/collections/passing").status_code == 204
        assert service.delete("/v1/collections/passing").status_code == 404
        assert service.get("/v1/collections/passing").status_code == 404
        names = [each["name"] for each in service.get("/v1/collections").json()["collections"]]
        assert "passing" not in names
        assert service.put("/v1/collections/passing", json={}).json()["images"] == 0

    def test_another_encoder_than_the_services_is_refused(self, service: TestClient) -> None:
        answer = service.put("/v1/collections/demo", json={"encoder": "0" * 64})
        assert_problem(answer, problems.MISMATCH)

    def test_one_that_another_process_makes_is_served(
        self, tmp_path: Path, encoder: Encoder, encoder_path: Path
    ) -> None:
        with client(tmp_path, encoder_path) as service:
            assert service.get("/v1/collections").json() == {"collections": []}
            Catalog(tmp_path).create("late", encoder)
            assert service.get("/v1/collections/late").json()["searchable"] is True

    def test_one_of_another_encoder_is_served_by_its_own_copy_of_it(
        self, tmp_path: Path, encoder_path: Path, encoder: Encoder, photographs: list[Path]
    ) -> None:
        path = tiny_encoder.build(tmp_path / "foreign.onnx", seed=1, size=40, embedding_dim=48)
        foreign = Encoder(path, provider="cpu")
        Catalog(tmp_path).create("foreign", foreign).close()
        path.unlink()
        with client(tmp_path, encoder_path) as service:
            for name in ("foreign", "ours"):
                made = service.put(f"/v1/collections/{name}", json={}).json()
                assert made["searchable"] is True
                for photograph in photographs[:3]:
                    assert (
                        upload(service, name, photograph.name, photograph.read_bytes()).status_code
                        == 201
                    )
                with photographs[1].open("rb") as file:
                    found = service.post(
                        f"/v1/collections/{name}/search/file", files={"file": file}
                    ).json()
                assert found["results"][0]["id"] == photographs[1].name
                assert found["encoder"] == (foreign if name == "foreign" else encoder).sha256
            again = service.put("/v1/collections/foreign", json={"encoder": foreign.sha256})
            assert again.status_code == 200
            refused = service.put("/v1/collections/foreign", json={"encoder": encoder.sha256})
            assert foreign.sha256 in assert_problem(refused, problems.MISMATCH)["detail"]

    def test_one_of_an_encoder_without_a_copy_is_listed_and_refuses_to_be_searched(
        self, tmp_path: Path, encoder_path: Path, encoder: Encoder
    ) -> None:
        foreign = Encoder(tiny_encoder.build(tmp_path / "foreign.onnx", seed=1), provider="cpu")
        with Catalog(tmp_path).create("foreign", foreign) as collection:
            collection.encoders.path(foreign.sha256).unlink()
        with client(tmp_path, encoder_path) as service:
            listed = service.get("/v1/collections").json()["collections"][0]
            assert (listed["name"], listed["searchable"]) == ("foreign", False)
            assert listed["encoder"] == foreign.sha256
            for answer in (
                service.post("/v1/collections/foreign/search", json={"query": {"id": "a"}}),
                service.put("/v1/collections/foreign", json={}),
                service.get("/v1/collections/foreign/duplicates"),
            ):
                detail = assert_problem(answer, problems.MISMATCH, problems.EXISTS)["detail"]
                assert foreign.sha256[:12] in detail
                assert encoder.sha256[:12] in detail
            assert service.get("/readyz").status_code == 200
            assert service.delete("/v1/collections/foreign").status_code == 204


def assert_problem(answer: Any, *kinds: problems.Kind) -> dict[str, Any]:
    """Check that an answer is problem details of one of these kinds; its body."""
    body: dict[str, Any] = answer.json()
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert body["type"] in [kind.type for kind in kinds], body
    assert (
        answer.status_code
        == body["status"]
        == next(kind.status for kind in kinds if kind.type == body["type"])
    )
    assert body["title"]
    assert body["detail"]
    assert body["instance"].startswith("/")
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


JSON = {"Content-Type": "application/json"}
SEARCH = "/v1/collections/demo/search"
CHECK = "/v1/collections/demo/duplicates/check"


@pytest.mark.parametrize(
    ("method", "path", "content", "kind"),
    [
        ("GET", "/nothing", {}, problems.NO_ROUTE),
        ("GET", "/v1/collections/demo/images/", {}, problems.NO_ROUTE),
        ("GET", "/page/secret", {}, problems.NO_ROUTE),
        ("GET", "/page/..%2Fapp.py", {}, problems.NO_ROUTE),
        ("POST", "/livez", {}, problems.METHOD),
        ("DELETE", "/v1/collections", {}, problems.METHOD),
        ("GET", "/v1/collections/none", {}, problems.NO_COLLECTION),
        ("DELETE", "/v1/collections/none", {}, problems.NO_COLLECTION),
        ("PUT", "/v1/collections/Un%20fit", {"json": {}}, problems.INVALID),
        ("GET", "/v1/collections/..", {}, problems.NO_ROUTE),
        ("GET", "/v1/collections/%2E%2E%2Fetc", {}, problems.INVALID),
        ("PUT", "/v1/collections/new", {"json": {"encoder": "x"}}, problems.INVALID),
        ("PUT", "/v1/collections/new", {"json": {"speed": 1}}, problems.INVALID),
        ("GET", "/v1/collections/demo/images/none", {}, problems.NO_IMAGE),
        ("DELETE", "/v1/collections/demo/images/none", {}, problems.NO_IMAGE),
        ("GET", "/v1/collections/demo/images/none/thumbnail", {}, problems.NO_IMAGE),
        ("GET", "/v1/collections/demo/images/%FF", {}, problems.BAD_REQUEST),
        ("GET", "/v1/collections/demo/images?limit=0", {}, problems.INVALID),
        (
            "PUT",
            "/v1/collections/demo/images/" + "x" * 513,
            {"files": {"file": b"x"}},
            problems.UNKNOWN_FORMAT,
        ),
        ("PUT", "/v1/collections/demo/images/x", {"json": {}}, problems.MEDIA),
        ("PUT", "/v1/collections/demo/images/x", {"content": b"bytes"}, problems.MEDIA),
        ("PUT", "/v1/collections/demo/images/x", {"files": {"other": b"x"}}, problems.INVALID),
        (
            "PUT",
            "/v1/collections/demo/images/x",
            {"files": {"file": b"text"}},
            problems.UNKNOWN_FORMAT,
        ),
        ("PUT", "/v1/collections/demo/images/x", {"files": {"file": b""}}, problems.UNKNOWN_FORMAT),
        (
            "PUT",
            "/v1/collections/demo/images/x",
            {"files": {"file": b"\xff\xd8\xff\xe0"}},
            problems.UNREADABLE,
        ),
        (
            "PUT",
            "/v1/collections/none/images/x",
            {"files": {"file": b"text"}},
            problems.NO_COLLECTION,
        ),
        (
            "PATCH",
            "/v1/collections/demo/images/none",
            {"json": {"metadata": {}}},
            problems.NO_IMAGE,
        ),
        ("PATCH", "/v1/collections/demo/images/a.jpg", {"json": {}}, problems.INVALID),
        (
            "PATCH",
            "/v1/collections/demo/images/a.jpg",
            {"content": b'{"metadata": {"a": NaN}}', "headers": JSON},
            problems.INVALID,
        ),
        (
            "PATCH",
            "/v1/collections/demo/images/a.jpg",
            {"content": b'{"metadata": {"a": "\\ud800"}}', "headers": JSON},
            problems.INVALID,
        ),
        ("POST", SEARCH, {"content": b"{", "headers": JSON}, problems.INVALID),
        ("POST", SEARCH, {"content": b"\xff", "headers": JSON}, problems.BAD_REQUEST),
        (
            "POST",
            SEARCH,
            {"content": b"{}", "headers": {"Content-Type": "text/plain"}},
            problems.MEDIA,
        ),
        ("POST", SEARCH, {"json": {}}, problems.INVALID),
        ("POST", SEARCH, {"json": {"query": {}}}, problems.INVALID),
        ("POST", SEARCH, {"json": {"query": {"id": "a.jpg", "base64": "eA=="}}}, problems.INVALID),
        ("POST", SEARCH, {"json": {"query": {"id": "none"}}}, problems.NO_IMAGE),
        (
            "POST",
            SEARCH,
            {"json": {"query": {"url": "http://127.0.0.1/"}}},
            problems.UNAVAILABLE_OPTION,
        ),
        ("POST", SEARCH, {"json": {"query": {"base64": "not base64!"}}}, problems.INVALID),
        ("POST", SEARCH, {"json": {"query": {"base64": "data:text/plain,x"}}}, problems.INVALID),
        ("POST", SEARCH, {"json": {"query": {"base64": "dGV4dA=="}}}, problems.UNKNOWN_FORMAT),
        ("POST", SEARCH, {"json": {"query": {"vector": [1.0]}}}, problems.INVALID),
        ("POST", SEARCH, {"json": {"query": {"vector": [0.0] * 64}}}, problems.INVALID),
        (
            "POST",
            SEARCH,
            {"content": b'{"query": {"vector": [NaN]}}', "headers": JSON},
            problems.INVALID,
        ),
        ("POST", SEARCH, {"json": {"query": {"id": "a.jpg"}, "top_k": 0}}, problems.INVALID),
        ("POST", SEARCH, {"json": {"query": {"id": "a.jpg"}, "topk": 5}}, problems.INVALID),
        (
            "POST",
            SEARCH,
            {"content": b'{"query": {"id": "\\ud800"}}', "headers": JSON},
            problems.INVALID,
        ),
        (
            "POST",
            SEARCH + "/file",
            {"files": {"file": b"text"}, "data": {"filter": "[1"}},
            problems.INVALID,
        ),
        ("POST", SEARCH + "/file", {"data": {"top_k": "5"}}, problems.MEDIA),
        (
            "POST",
            CHECK,
            {"json": {"query": {"url": "http://127.0.0.1/"}, "verify": True}},
            problems.UNAVAILABLE_OPTION,
        ),
        (
            "POST",
            CHECK,
            {"json": {"query": {"id": "a.jpg"}, "threshold": 0.5, "max_false_match_rate": 0.1}},
            problems.INVALID,
        ),
        (
            "POST",
            CHECK,
            {"json": {"query": {"id": "a.jpg"}, "max_false_match_rate": 1e-9}},
            problems.INVALID,
        ),
        ("POST", CHECK, {"json": {"query": {"vector": [1.0] * 64}}}, problems.INVALID),
        (
            "GET",
            "/v1/collections/demo/duplicates?threshold=1&max_false_match_rate=0.1",
            {},
            problems.INVALID,
        ),
        ("GET", "/v1/collections/demo/duplicates?thresh=1", {}, problems.INVALID),
        ("GET", "/v1/collections/demo/images?limt=5", {}, problems.INVALID),
        ("GET", "/v1/collections/demo/images/a.jpg/thumbnail?long=99", {}, problems.INVALID),
        ("GET", "/v1/collections?limit=5", {}, problems.INVALID),
        ("POST", SEARCH + "?top_k=5", {"json": {"query": {"id": "a.jpg"}}}, problems.INVALID),
        ("POST", SEARCH + "/file?top_k=5", {"files": {"file": b"text"}}, problems.INVALID),
        (
            "POST",
            SEARCH + "/file",
            {"files": {"file": b"text"}, "data": {"top_k": ["5", "6"]}},
            problems.INVALID,
        ),
        (
            "POST",
            SEARCH + "/file",
            {"files": [("file", b"text"), ("file", b"other")]},
            problems.INVALID,
        ),
        ("POST", "/v1/embed", {"json": {"query": {"id": "a.jpg"}}}, problems.INVALID),
        ("POST", "/v1/embed", {"json": {"query": []}}, problems.INVALID),
        ("POST", "/v1/embed", {"json": {"query": [{"base64": "eA=="}] * 33}}, problems.INVALID),
    ],
)
def test_every_error_is_a_problem_of_its_kind(
    service: TestClient, method: str, path: str, content: dict[str, Any], kind: problems.Kind
) -> None:
    assert_problem(service.request(method, path, **content), kind)


def test_a_validation_error_names_the_field_and_what_was_found(service: TestClient) -> None:
    answer = service.post(SEARCH, json={"query": {"id": "a.jpg"}, "top_k": 5000, "offset": "x"})
    errors = {each["field"]: each for each in assert_problem(answer, problems.INVALID)["errors"]}
    assert errors["body.top_k"]["found"] == 5000
    assert "1000" in errors["body.top_k"]["message"]
    assert errors["body.offset"]["found"] == "x"


@pytest.mark.parametrize(
    ("query", "field"),
    [({"id": ""}, "body.query.id"), ({}, "body.query"), ([], "body.query"), (5, "body.query")],
)
def test_of_one_image_or_several_the_fault_is_named_once(
    service: TestClient, query: object, field: str
) -> None:
    answer = service.post("/v1/embed", json={"query": query})
    (error,) = assert_problem(answer, problems.INVALID)["errors"]
    assert error["field"] == field


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example"])
def test_a_stranger_s_name_is_refused(service: TestClient, host: str) -> None:
    """As of a website that has its name lead here."""
    for method, path in (("GET", "/v1/collections"), ("DELETE", "/v1/collections/demo")):
        answer = service.request(method, path, headers={"Host": host})
        assert host in assert_problem(answer, problems.UNKNOWN_NAME)["detail"]
    for known in ("localhost", "LOCALHOST.:80", "127.0.0.1:8000", "[::1]:8000", ""):
        assert service.get("/v1/collections", headers={"Host": known}).status_code == 200


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"localhost", "127.0.0.1", "::1"}),
        ({"host": "127.0.0.2"}, {"localhost", "127.0.0.1", "::1", "127.0.0.2"}),
        ({"host": "0.0.0.0"}, None),
        ({"host": "box.lan"}, None),
        ({"names": "*"}, None),
        (
            {"names": "Photos.example:8443, [fe80::1]:80,"},
            {"localhost", "127.0.0.1", "::1", "photos.example", "fe80::1"},
        ),
        (
            {"host": "0.0.0.0", "names": "localhost"},
            {"localhost", "127.0.0.1", "::1", "0.0.0.0"},
        ),
    ],
)
def test_names_by_which_the_service_is_known(
    settings: dict[str, str], expected: set[str] | None
) -> None:
    assert known_names(Settings(**settings)) == expected  # type: ignore[arg-type]


def test_where_things_lie_is_nobodys_business(service: TestClient) -> None:
    answer = service.get("/v1/collections/nope")
    assert assert_problem(answer, problems.NO_COLLECTION)["detail"] == (
        "there is no collection 'nope'"
    )


def test_a_file_in_a_field_of_another_name_is_named(service: TestClient) -> None:
    answer = service.post(f"{SEARCH}/file", files={"picture": ("é.jpg", b"x"), "also": b"y"})
    errors = {each["field"]: each for each in assert_problem(answer, problems.INVALID)["errors"]}
    assert errors["body.file"]["message"] == "Field required"
    assert errors["body.picture"]["found"] == "a file, é.jpg"


def test_an_unknown_parameter_is_told_which_ones_there_are(service: TestClient) -> None:
    answer = service.get("/v1/collections/demo/images?limt=5")
    assert assert_problem(answer, problems.INVALID)["errors"] == [
        {
            "field": "query.limt",
            "message": "unknown, expected one of limit, cursor",
            "found": "5",
        }
    ]
    assert service.get("/v1/collections/demo/images?limit=5&cursor=a").status_code == 200


def test_a_method_that_is_not_allowed_lists_those_that_are(service: TestClient) -> None:
    assert service.post("/livez").headers["allow"] == "GET, HEAD"
    allowed = service.post(image_url("demo", "a.jpg")).headers["allow"]
    assert {"GET", "PUT", "PATCH", "DELETE"} <= set(allowed.split(", "))


PAGE = ("/", "/docs", "/page/app.js", "/page/icon.svg")
THUMBNAIL = "/v1/collections/demo/images/a.jpg/thumbnail"


@pytest.mark.parametrize(
    "path", [*PAGE, "/openapi.json", "/livez", "/v1/collections", THUMBNAIL, "/nothing", CHECK]
)
def test_head_is_answered_as_get_without_the_body(service: TestClient, path: str) -> None:
    got, head = service.get(path), service.head(path)
    assert head.content == b""
    assert head.status_code == got.status_code
    for name in ("content-type", "etag", "allow"):
        assert head.headers.get(name) == got.headers.get(name)
    if got.is_success:
        assert head.headers["content-length"] == str(len(got.content))


def test_head_is_counted_as_what_it_is(service: TestClient) -> None:
    service.head("/livez")
    counted = 'kindred_requests_total{method="HEAD",route="/livez",status="200"}'
    assert counted in service.get("/metrics").text


@pytest.mark.parametrize("path", [*PAGE, THUMBNAIL])
def test_who_has_a_file_already_is_told_so(service: TestClient, path: str) -> None:
    first = service.get(path)
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = service.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        for name in ("etag", "cache-control"):
            assert again.headers[name] == first.headers[name]
    assert service.get(path, headers={"If-None-Match": '"other"'}).content == first.content


@pytest.mark.parametrize("part", ["bytes=0-9", "bytes=9999999-", "bytes=9-1", "foo"])
@pytest.mark.parametrize("path", PAGE)
def test_of_the_page_whoever_asks_for_a_part_gets_all(
    service: TestClient, path: str, part: str
) -> None:
    answer = service.get(path, headers={"Range": part})
    assert (answer.status_code, answer.content) == (200, service.get(path).content)


def test_a_picture_over_the_pixel_limit_is_refused(service: TestClient) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (301, 300)).save(buffer, "PNG")
    body = assert_problem(upload(service, "demo", "large", buffer.getvalue()), problems.TOO_LARGE)
    assert "301 x 300" in body["detail"]


def test_an_error_that_nobody_foresaw_says_nothing_of_the_inside(
    tmp_path: Path, encoder_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(Settings(data=tmp_path, encoder=encoder_path, provider="cpu", threads=1))

    @app.get("/broken")
    def broken() -> None:
        raise RuntimeError("the secret of the house")

    with TestClient(app, base_url="http://localhost") as service:
        answer = service.get("/broken")
    body = assert_problem(answer, problems.INTERNAL)
    assert "secret" not in answer.text
    logged = next(record for record in caplog.records if record.levelname == "ERROR")
    assert logged.exc_info is not None
    assert logged.__dict__["request_id"] == body["request_id"]
