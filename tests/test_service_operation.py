"""Running the service: limits, overload, health, metrics, log, and what survives a power cut."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import numpy as np
import pytest
import tiny_encoder
from fastapi.testclient import TestClient
from serving import client, image_url, process, upload
from starlette.datastructures import Headers
from starlette.types import Message, Scope

from index.encoder import Encoder
from service import cli
from service.intake import Intake
from service.metrics import Metrics
from service.observation import JsonLines
from service.problems import ProblemError
from service.routes.health import readyz
from service.state import Service
from service.uploads import OVERHEAD_BYTES

LIMIT = 100_000
SEARCH = "/v1/collections/demo/search"
CHECK = "/v1/collections/demo/duplicates/check"


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, encoder_path: Path, photographs: list[Path]
) -> Iterator[TestClient]:
    with client(
        tmp_path_factory.mktemp("operation"), encoder_path, max_upload_bytes=LIMIT, max_queue=2
    ) as started:
        started.put("/v1/collections/demo", json={})
        upload(started, "demo", "a.jpg", photographs[0].read_bytes())
        yield started


def state(service: TestClient) -> Service:
    found: Service = service.app_state["service"]
    return found


class TestLimits:
    def test_a_file_over_the_limit_is_refused(self, service: TestClient) -> None:
        for answer in (
            upload(service, "demo", "large", b"x" * (LIMIT + 1)),
            service.post(SEARCH + "/file", files={"file": b"x" * (LIMIT + 1)}),
            service.post(SEARCH, json={"query": {"base64": text(b"x" * (LIMIT + 1))}}),
            service.post("/v1/embed", json={"query": {"base64": "x" * 2 * OVERHEAD_BYTES}}),
        ):
            assert answer.status_code == 413
            assert answer.json()["type"] == "/docs#too-large"
            assert f"{LIMIT:,}" in answer.json()["detail"] or "body" in answer.json()["detail"]

    def test_a_file_at_the_limit_is_not(self, service: TestClient) -> None:
        data = b"x" * LIMIT  # no picture, which is found out after the limit has let it in
        assert upload(service, "demo", "full", data).status_code == 415
        body = {"query": {"base64": text(data)}}
        assert service.post(SEARCH, json=body).status_code == 415

    def test_json_is_held_to_the_limit_of_json_however_its_type_is_written(
        self, tmp_path: Path, encoder_path: Path
    ) -> None:
        """Base64 is a third larger than the file, which is more than there is room beside it."""
        limit = 6 * OVERHEAD_BYTES
        body = json.dumps({"query": {"base64": text(b"x" * limit)}})
        with client(tmp_path, encoder_path, max_upload_bytes=limit) as service:
            for written in ("application/json", "Application/JSON; charset=utf-8"):
                answer = service.post("/v1/embed", content=body, headers={"Content-Type": written})
                assert answer.status_code == 415  # it was let in, and is no picture

    @pytest.mark.parametrize("announced", [None, 10**12])
    def test_a_body_is_not_read_past_its_limit(
        self, service: TestClient, announced: int | None
    ) -> None:
        """Neither one that announces its size, nor one that goes on and on."""
        handed_out = 0
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'

        async def receive() -> Message:
            nonlocal handed_out
            body = b"x" * 65_536 if handed_out else head
            handed_out += len(body)
            assert handed_out < 10_000_000
            return {"type": "http.request", "body": body, "more_body": True}

        status, body = send(service, announced, receive)
        assert (status, body["type"]) == (413, "/docs#too-large")
        assert handed_out <= LIMIT + OVERHEAD_BYTES + 2 * 65_536


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def send(service: TestClient, announced: int | None, receive: Any) -> tuple[int, dict[str, Any]]:
    """PUT an image whose body comes from ``receive``; the client waits to be asked for it."""
    headers = [(b"expect", b"100-continue")]
    if announced is not None:
        headers.append((b"content-length", str(announced).encode()))
    sent: list[Message] = []

    async def collect(message: Message) -> None:
        sent.append(message)

    assert service.portal is not None
    service.portal.call(service.app, put_scope(service, *headers), receive, collect)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body)


def put_scope(service: TestClient, *headers: tuple[bytes, bytes]) -> Scope:
    """Of a request that puts an image."""
    return {
        "type": "http",
        "method": "PUT",
        "path": "/v1/collections/demo/images/x",
        "raw_path": b"/v1/collections/demo/images/x",
        "query_string": b"",
        "headers": [(b"content-type", b"multipart/form-data; boundary=b"), *headers],
        "state": dict(service.app_state),
    }


class TestOverload:
    def test_when_too_many_wait_a_request_is_told_when_to_come_back(
        self, service: TestClient, photographs: list[Path]
    ) -> None:
        data = photographs[0].read_bytes()
        assert service.portal is not None
        with service.portal.wrap_async_context_manager(state(service).intake.places(2)):
            for answer in (
                service.post(SEARCH + "/file", files={"file": data}),
                service.post(SEARCH, json={"query": {"base64": text(data)}}),
                upload(service, "demo", "b.jpg", data),
                service.post("/v1/embed/file", files={"file": data}),
            ):
                assert answer.status_code == 429
                assert answer.json()["type"] == "/docs#overloaded"
                assert int(answer.headers["retry-after"]) >= 1
            by_id = service.post(SEARCH, json={"query": {"id": "a.jpg"}})
            assert by_id.status_code == 200  # needs no encoding
            assert "kindred_queue_depth 2.0" in service.get("/metrics").text
        assert service.post(SEARCH + "/file", files={"file": data}).status_code == 200
        assert "kindred_queue_depth 0.0" in service.get("/metrics").text

    @pytest.mark.parametrize(
        ("queue", "ask"),
        [
            ("groups", ("GET", "/v1/collections/demo/duplicates", None)),
            ("groups", ("GET", "/v1/collections/demo/duplicates?verify=true", None)),
            ("second_looks", ("POST", CHECK, {"query": {"id": "a.jpg"}, "verify": True})),
        ],
    )
    def test_comparisons_that_take_long_wait_for_each_other_alone(
        self, service: TestClient, queue: str, ask: tuple[str, str, Any]
    ) -> None:
        method, route, body = ask
        comparisons = getattr(state(service), queue)
        done = threading.Event()
        assert service.portal is not None
        before = [service.portal.start_task_soon(comparisons.run, done.wait) for _ in range(2)]
        try:
            refused = service.request(method, route, json=body)
            assert (refused.status_code, refused.json()["type"]) == (429, "/docs#overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            for path in ("/readyz", "/", "/v1/collections"):
                assert service.get(path).status_code == 200
            by_id = {"query": {"id": "a.jpg"}}
            assert service.post(SEARCH, json=by_id).status_code == 200
            assert service.post(CHECK, json=by_id).status_code == 200  # no second look
        finally:
            done.set()
        assert [task.result() for task in before] == [True, True]
        assert service.request(method, route, json=body).status_code == 200

    def test_what_waits_for_a_comparison_holds_no_thread_that_others_need(
        self, tmp_path: Path, encoder_path: Path
    ) -> None:
        """More than there are threads for all requests together."""
        with client(tmp_path, encoder_path) as service:
            done = threading.Event()
            assert service.portal is not None
            waiting = [
                service.portal.start_task_soon(state(service).groups.run, done.wait)
                for _ in range(60)
            ]
            try:
                for path in ("/readyz", "/", "/v1/collections"):
                    assert service.get(path).status_code == 200
            finally:
                done.set()
            assert all(task.result() for task in waiting)

    def test_a_request_that_fails_gives_its_place_back(self, service: TestClient) -> None:
        for _ in range(5):
            assert upload(service, "demo", "text", b"text").status_code == 415
        assert state(service).intake.depth == 0


class TestIntake:
    """Encoding in batches."""

    def test_images_that_wait_together_are_encoded_together_and_each_gets_its_own(
        self, encoder: Encoder
    ) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
        metrics = Metrics()

        async def together() -> list[Any]:
            intake = Intake(metrics, capacity=99, batch_size=8, max_pixels=10**6)
            running = asyncio.create_task(intake.run())
            answers = await asyncio.gather(
                *(intake.encode(each[np.newaxis], encoder) for each in pixels)
            )
            running.cancel()
            return answers

        for answer, alone in zip(asyncio.run(together()), pixels, strict=True):
            expected = encoder.encode(alone[np.newaxis])
            assert len(answer) == 1
            np.testing.assert_allclose(answer.embedding, expected.embedding, atol=1e-6)
            np.testing.assert_allclose(answer.descriptor, expected.descriptor, atol=1e-6)
        assert "kindred_encode_images_count 3.0" in metrics.text().decode()
        assert "kindred_encode_images_sum 20.0" in metrics.text().decode()

    def test_images_of_two_encoders_that_wait_together_are_not_mixed(
        self, encoder: Encoder, tmp_path: Path
    ) -> None:
        path = tiny_encoder.build(tmp_path / "other.onnx", seed=1, embedding_dim=48)
        other = Encoder(path, provider="cpu", threads=1)
        pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)
        of = [other if row % 3 == 0 else encoder for row in range(len(pixels))]

        async def together() -> list[Any]:
            intake = Intake(Metrics(), capacity=99, batch_size=8, max_pixels=10**6)
            running = asyncio.create_task(intake.run())
            answers = await asyncio.gather(
                *(
                    intake.encode(each[np.newaxis], its)
                    for each, its in zip(pixels, of, strict=True)
                )
            )
            running.cancel()
            return answers

        for answer, alone, its in zip(asyncio.run(together()), pixels, of, strict=True):
            expected = its.encode(alone[np.newaxis])
            np.testing.assert_allclose(answer.embedding, expected.embedding, atol=1e-6)

    def test_a_failure_reaches_those_who_wait_and_the_next_are_served(
        self, encoder: Encoder
    ) -> None:
        async def fail_then_go_on() -> None:
            intake = Intake(Metrics(), capacity=9, batch_size=8, max_pixels=10**6)
            running = asyncio.create_task(intake.run())
            with pytest.raises(ValueError, match="expected uint8"):
                await intake.encode(np.zeros((1, 8, 8, 3), np.uint8), encoder)
            assert len(await intake.encode(np.zeros((2, 32, 32, 3), np.uint8), encoder)) == 2
            running.cancel()

        asyncio.run(fail_then_go_on())

    def test_an_empty_intake_lets_in_what_is_larger_than_itself(self, encoder: Encoder) -> None:
        async def fill() -> None:
            intake = Intake(Metrics(), capacity=2, batch_size=8, max_pixels=10**6)
            async with intake.places(8):
                assert intake.depth == 8
                with pytest.raises(ProblemError):
                    async with intake.places(1):
                        pass
            assert intake.depth == 0

        asyncio.run(fill())


class TestHealth:
    def test_it_is_alive_and_ready(self, service: TestClient, encoder: Encoder) -> None:
        assert service.get("/livez").json() == {"status": "alive"}
        ready = service.get("/readyz").json()
        assert ready["encoder"] == encoder.sha256
        assert ready["provider"] == "CPUExecutionProvider"
        assert ready["collections"] == 1

    def test_it_is_ready_however_busy_the_threads_of_other_requests_are(
        self, service: TestClient
    ) -> None:
        done = threading.Event()

        async def busy() -> None:
            await anyio.to_thread.run_sync(done.wait)

        async def ready() -> str:
            with anyio.fail_after(60):
                return (await readyz(state(service))).status

        assert service.portal is not None
        for _ in range(60):
            service.portal.start_task_soon(busy)
        try:
            assert service.portal.call(ready) == "ready"
        finally:
            done.set()

    def test_a_damaged_collection_makes_it_unready_and_spares_the_others(
        self, tmp_path: Path, encoder_path: Path, photographs: list[Path]
    ) -> None:
        broken = tmp_path / "collections" / "broken"
        broken.mkdir(parents=True)
        (broken / "kindred.sqlite3").write_bytes(b"not a database" * 100)
        with client(tmp_path, encoder_path) as service:
            service.put("/v1/collections/whole", json={})
            assert upload(service, "whole", "a", photographs[0].read_bytes()).status_code == 201
            answer = service.get("/readyz")
            assert (answer.status_code, answer.json()["type"]) == (503, "/docs#not-ready")
            assert "broken" in answer.json()["detail"]
            assert service.get("/livez").status_code == 200
            listed = service.get("/v1/collections").json()["collections"]
            assert [each["searchable"] for each in listed] == [False, True]

    def test_a_collection_that_is_damaged_while_it_is_served_spares_the_others(
        self, tmp_path: Path, encoder_path: Path, photographs: list[Path]
    ) -> None:
        with client(tmp_path, encoder_path) as service:
            for name in ("broken", "whole"):
                service.put(f"/v1/collections/{name}", json={})
                upload(service, name, "a", photographs[0].read_bytes())
            for file in (tmp_path / "collections" / "broken").glob("kindred.sqlite3*"):
                with file.open("r+b") as open_file:
                    open_file.write(b"\xff" * file.stat().st_size)
            listed = service.get("/v1/collections").json()["collections"]
            assert [(each["name"], each["searchable"]) for each in listed] == [
                ("broken", False),
                ("whole", True),
            ]
            assert "damaged" in listed[0]["reason"]
            assert service.get("/v1/collections/broken").json() == listed[0]
            metrics = service.get("/metrics")
            assert metrics.status_code == 200
            assert 'kindred_images{collection="whole"} 1.0' in metrics.text
            assert "broken" not in metrics.text

    def test_what_is_listed_and_then_not_found_is_left_out(
        self, tmp_path: Path, encoder_path: Path
    ) -> None:
        """As of a collection that is removed at that moment; a folder in its place is as good."""
        (tmp_path / "collections" / "gone" / "kindred.sqlite3").mkdir(parents=True)
        with client(tmp_path, encoder_path) as service:
            service.put("/v1/collections/there", json={})
            listed = service.get("/v1/collections").json()["collections"]
            assert [each["name"] for each in listed] == ["there"]
            ready = service.get("/readyz")
            assert (ready.status_code, ready.json()["collections"]) == (200, 1)


class TestMetrics:
    def test_requests_are_counted_by_the_template_of_their_route(self, service: TestClient) -> None:
        for image_id in ("one", "two", "a/b"):
            service.get(image_url("demo", image_id))
        service.get("/never/heard/of")
        metrics = service.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        template = "/v1/collections/{collection}/images/{id}"
        counted = f'kindred_requests_total{{method="GET",route="{template}",status="404"}} 3.0'
        assert counted in metrics.text
        assert 'route="unmatched",status="404"' in metrics.text
        assert "never" not in metrics.text
        assert 'kindred_images{collection="demo"} 1.0' in metrics.text
        assert re.search(r"kindred_encode_seconds_count [1-9]", metrics.text)
        timed = f'kindred_request_seconds_count{{method="GET",route="{template}"}} 3.0'
        assert timed in metrics.text


class TestLog:
    def test_each_request_is_one_line_with_its_id(
        self, service: TestClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "kindred.request")
        service.get(image_url("demo", "no/such\nimage"), headers={"X-Request-ID": "from-the-proxy"})
        records = [each for each in caplog.records if each.name == "kindred.request"]
        assert len(records) == 1
        formatted = JsonLines().format(records[0])
        assert "\n" not in formatted
        line = json.loads(formatted)
        assert line["request_id"] == "from-the-proxy"
        assert (line["method"], line["status"]) == ("GET", 404)
        assert line["route"] == "/v1/collections/{collection}/images/{id}"
        assert line["path"] == image_url("demo", "no/such\nimage")
        assert line["duration_ms"] >= 0

    @pytest.mark.parametrize("forged", ["", "x" * 129, "a b", 'x"}{'])
    def test_an_id_that_could_forge_a_line_is_replaced(
        self, service: TestClient, forged: str
    ) -> None:
        answer = service.get("/livez", headers={"X-Request-ID": forged})
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


class TestStopping:
    def test_a_request_that_is_cut_short_is_told_so(
        self, service: TestClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As the server does with those that take longer than it waits."""
        caplog.set_level(logging.INFO)
        sent: list[Message] = []

        async def cut_short() -> None:
            reading = asyncio.Event()

            async def receive() -> Message:
                reading.set()
                await asyncio.Event().wait()  # the body never comes
                raise AssertionError

            async def collect(message: Message) -> None:
                sent.append(message)

            task = asyncio.ensure_future(service.app(put_scope(service), receive, collect))
            await reading.wait()
            task.cancel()
            await task

        assert service.portal is not None
        service.portal.call(cut_short)
        start, body = sent
        problem = json.loads(body["body"])
        assert (start["status"], problem["type"]) == (503, "/docs#not-ready")
        assert "stopping" in problem["detail"]
        assert Headers(raw=start["headers"])["x-request-id"] == problem["request_id"]
        (line,) = [each for each in caplog.records if each.name == "kindred.request"]
        assert line.__dict__["status"] == 503
        assert not [each for each in caplog.records if each.exc_info]


class TestProcess:
    """`kindred-serve`, as a process of its own."""

    def test_what_was_answered_survives_sigkill(
        self, tmp_path: Path, encoder_path: Path, photographs: list[Path]
    ) -> None:
        odd_id = "a/ü ?#%.jpg"
        with process(tmp_path, encoder_path) as running:
            with httpx2.Client(base_url=running.address) as service:
                service.put("/v1/collections/demo", json={})
                for place, path in enumerate(photographs[:3]):
                    put = upload(service, "demo", str(place), path.read_bytes())
                    assert put.status_code == 201
                upload(service, "demo", odd_id, photographs[3].read_bytes(), metadata='{"n": 1}')
                assert service.delete(image_url("demo", "1")).status_code == 204
                file = {"file": photographs[3].read_bytes()}
                vectors = service.post("/v1/embed/file", files=file)
            running.kill()
        with (
            process(tmp_path, encoder_path) as running,
            httpx2.Client(base_url=running.address) as service,
        ):
            found = service.post(
                SEARCH, json={"query": {"vector": vectors.json()["embedding"]}}
            ).json()["results"]
            assert sorted(each["id"] for each in found) == ["0", "2", odd_id]
            assert (found[0]["id"], found[0]["metadata"]) == (odd_id, {"n": 1})
            assert service.get(image_url("demo", "1")).status_code == 404
            thumbnail = service.get(found[0]["thumbnail_url"])
            assert thumbnail.headers["content-type"] == "image/jpeg"

    def test_a_client_that_sends_too_much_gets_its_answer_and_the_log_is_lines_of_json(
        self, tmp_path: Path, encoder_path: Path
    ) -> None:
        variables = {"KINDRED_MAX_UPLOAD_BYTES": "50000", "KINDRED_PROT": "1"}
        with process(tmp_path, encoder_path, **variables) as running:
            with httpx2.Client(base_url=running.address) as service:
                service.put("/v1/collections/demo", json={})
                refused = upload(service, "demo", "large", b"x" * 8_000_000)
                assert refused.status_code == 413
                assert refused.headers["content-type"] == "application/problem+json"
            status, log = running.stop()
        assert status == 0
        lines = [json.loads(line) for line in log.splitlines()]
        assert any("KINDRED_PROT is no setting" in line["message"] for line in lines)
        assert [line["status"] for line in lines if line["message"] == "request"] == [201, 413]

    def test_what_cannot_start_says_why_in_a_sentence(
        self, tmp_path: Path, encoder_path: Path
    ) -> None:
        ended = subprocess.run(
            [sys.executable, "-m", "service.cli", "--data", str(tmp_path)],
            cwd=Path(__file__).parent.parent,
            env={"KINDRED_PORT": "0", "KINDRED_ENCODER": "/no/such/encoder.onnx"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ended.returncode == 2
        assert "kindred-serve: " in ended.stderr
        assert "/no/such/encoder.onnx" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert ended.stdout == ""


@pytest.fixture
def _logging_left_alone() -> Iterator[None]:
    """The command sets up the process's log; put back what pytest had."""
    before = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = before[0]
    logging.root.setLevel(before[1])


@pytest.mark.usefixtures("_logging_left_alone")
@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("KINDRED_PORT", "many", "--port or KINDRED_PORT: Input should be a valid integer"),
        ("KINDRED_MAX_QUEUE", "0", "KINDRED_MAX_QUEUE: Input should be greater"),
        ("KINDRED_HOST", "203.0.113.1", "cannot listen on 203.0.113.1"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_exit_status_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
    value: str,
    said: str,
) -> None:
    monkeypatch.setenv(variable, value)
    assert cli.main([]) == 2
    assert said in capsys.readouterr().err
