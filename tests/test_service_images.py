"""Images over HTTP: what is put in is there, is found, and comes out as it was."""

from __future__ import annotations

import base64
import errno
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from serving import client, image_url, upload

from index.catalog import Catalog
from index.collection import Collection, Item
from index.encoder import Encoder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, encoder_path: Path) -> Iterator[TestClient]:
    with client(tmp_path_factory.mktemp("images"), encoder_path) as started:
        started.put("/v1/collections/demo", json={})
        yield started


def found(service: TestClient, data: bytes) -> list[str]:
    """Ids of a search by these bytes."""
    answer = service.post("/v1/collections/demo/search/file", files={"file": data})
    return [result["id"] for result in answer.json()["results"]]


def test_an_image_is_found_in_the_next_search_and_gone_after_its_removal(
    service: TestClient, photographs: list[Path]
) -> None:
    data = photographs[0].read_bytes()
    assert "new" not in found(service, data)
    assert upload(service, "demo", "new", data).status_code == 201
    assert found(service, data)[0] == "new"
    assert upload(service, "demo", "new", photographs[1].read_bytes()).status_code == 200
    assert found(service, photographs[1].read_bytes())[0] == "new"
    assert service.delete(image_url("demo", "new")).status_code == 204
    assert "new" not in found(service, data)
    assert service.delete(image_url("demo", "new")).status_code == 404


def test_an_image_is_described_as_it_is(service: TestClient, photographs: list[Path]) -> None:
    data = photographs[2].read_bytes()
    put = upload(service, "demo", "described", data, metadata='{"label": "é", "n": [1]}').json()
    with Image.open(photographs[2]) as image:
        assert (put["width"], put["height"], put["format"]) == (*image.size, "JPEG")
    assert put["size_bytes"] == len(data)
    assert put["metadata"] == {"label": "é", "n": [1]}
    assert put["state"] == "present"
    assert service.get(image_url("demo", "described")).json() == put


def test_replacing_an_image_without_metadata_leaves_it_without(
    service: TestClient, photographs: list[Path]
) -> None:
    upload(service, "demo", "bare", photographs[0].read_bytes(), metadata='{"label": "x"}')
    assert upload(service, "demo", "bare", photographs[0].read_bytes()).json()["metadata"] == {}


def test_a_form_that_was_cut_off_is_refused_and_nothing_is_stored(
    service: TestClient, photographs: list[Path]
) -> None:
    """By a proxy, say, which then counts the bytes anew."""
    data, url = photographs[0].read_bytes(), image_url("demo", "cut")
    assert upload(service, "demo", "cut", data, metadata='{"label": "winter"}').status_code == 201
    request = service.build_request("PUT", url, files={"file": data}, data={"metadata": "{}"})
    body, kind = request.read(), request.headers["content-type"]
    for cut in (len(data) // 2, len(body) - 10, len(body) - 3):
        answer = service.put(url, content=body[:cut], headers={"content-type": kind})
        assert (answer.status_code, answer.json()["type"]) == (400, "/docs#bad-request")
        assert service.get(url).json()["metadata"] == {"label": "winter"}
    parts = [body[:-5], body[-5:-3], body[-3:] + b" an epilogue"]
    answer = service.put(url, content=iter(parts), headers={"content-type": kind})
    assert (answer.status_code, answer.json()["metadata"]) == (200, {})


def test_a_disk_without_room_for_a_body_is_no_fault_of_the_request(
    service: TestClient, photographs: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of more than a megabyte wait on disk."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile.write", full)
    answer = upload(service, "demo", "full", photographs[0].read_bytes())
    assert (answer.status_code, answer.json()["type"]) == (500, "/docs#internal-error")


@pytest.mark.parametrize("metadata", ["{", "[1]", '"text"', '{"a": NaN}', "[" * 100_000])
def test_metadata_that_is_no_json_object_is_refused_and_nothing_is_stored(
    service: TestClient, photographs: list[Path], metadata: str
) -> None:
    answer = upload(service, "demo", "refused", photographs[0].read_bytes(), metadata=metadata)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert service.get(image_url("demo", "refused")).status_code == 404


def test_metadata_changes_and_the_image_stays(service: TestClient, photographs: list[Path]) -> None:
    before = upload(service, "demo", "patched", photographs[0].read_bytes()).json()
    changed = service.patch(image_url("demo", "patched"), json={"metadata": {"label": "sea"}})
    assert changed.json()["metadata"] == {"label": "sea"}
    assert changed.json()["sha256"] == before["sha256"]
    assert service.get(image_url("demo", "patched")).json() == changed.json()


@given(
    image_id=st.text(
        st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=512
    ).filter(lambda text: text not in (".", ".."))
)
@example(image_id="a/b.jpg")
@example(image_id="a/thumbnail")
@example(image_id="../a")
@example(image_id="?#%2F&=+ ")
@example(image_id="x" * 512)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_is_an_id(service: TestClient, photographs: list[Path], image_id: str) -> None:
    put = upload(service, "demo", image_id, photographs[0].read_bytes())
    assert put.json()["id"] == image_id
    assert service.get(image_url("demo", image_id)).json()["id"] == image_id
    thumbnail = service.get(image_url("demo", image_id) + "/thumbnail")
    assert thumbnail.headers["content-type"] == "image/jpeg"
    by_id = service.post("/v1/collections/demo/search", json={"query": {"id": image_id}})
    assert image_id not in [result["id"] for result in by_id.json()["results"]]
    assert service.delete(image_url("demo", image_id)).status_code == 204


@pytest.mark.parametrize("image_id", [".", ".."])
def test_an_id_that_leads_elsewhere_in_a_url_is_refused(
    service: TestClient, photographs: list[Path], image_id: str
) -> None:
    answer = upload(service, "demo", image_id, photographs[0].read_bytes())
    assert answer.status_code == 422
    assert f"the id {image_id!r}" in answer.json()["detail"]


def test_slashes_of_an_id_may_be_sent_as_they_are(
    service: TestClient, photographs: list[Path]
) -> None:
    url = "/v1/collections/demo/images/holidays/2024/a.jpg"
    service.put(url, files={"file": photographs[0].read_bytes()})
    assert (
        service.get(image_url("demo", "holidays/2024/a.jpg")).json()["id"] == "holidays/2024/a.jpg"
    )
    assert service.get(url + "/thumbnail").headers["content-type"] == "image/jpeg"
    assert service.delete(url).status_code == 204


@given(data=st.binary(max_size=300), cut=st.integers(0, 3000))
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_an_image_or_a_problem(
    service: TestClient, photographs: list[Path], data: bytes, cut: int
) -> None:
    damaged = photographs[0].read_bytes()
    for sent in (data, damaged[:cut], damaged[:cut] + data + damaged[cut:]):
        answer = service.post("/v1/embed/file", files={"file": sent})
        assert answer.status_code in (200, 413, 415, 422)
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/problem+json"


def test_vectors_are_those_that_the_indexer_makes(
    service: TestClient, photographs: list[Path], encoder: Encoder
) -> None:
    data = [path.read_bytes() for path in photographs[:3]]
    files = service.post("/v1/embed/file", files=[("file", each) for each in data]).json()
    texts = [{"base64": base64.b64encode(each).decode()} for each in data]
    assert service.post("/v1/embed", json={"query": texts}).json() == files
    assert service.post("/v1/embed", json={"query": texts[0]}).json() == files[0]
    assert service.post("/v1/embed/file", files={"file": data[0]}).json() == files[0]
    for each, answer in zip(data, files, strict=True):
        expected = encoder.encode(encoder.load(each).pixels[np.newaxis])
        np.testing.assert_array_equal(np.float32(answer["embedding"]), expected.embedding[0])
        np.testing.assert_array_equal(np.float32(answer["descriptor"]), expected.descriptor[0])
        assert answer["descriptor_offset"] == float(expected.descriptor_offset[0])
        assert answer["encoder"] == encoder.sha256


def test_images_are_listed_once_each_in_the_order_of_their_ids(
    service: TestClient, photographs: list[Path]
) -> None:
    service.put("/v1/collections/listed", json={})
    ids = ["b", "a/2", "a", "Ω", "c"]
    for image_id in ids:
        upload(service, "listed", image_id, photographs[0].read_bytes())
    seen: list[str] = []
    cursor = None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = service.get("/v1/collections/listed/images", params=query).json()
        seen += [image["id"] for image in page["images"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == sorted(ids)


class TestThumbnails:
    def test_a_thumbnail_is_a_small_jpeg_in_proportion(
        self, service: TestClient, photographs: list[Path]
    ) -> None:
        url = upload(service, "demo", "shown.jpg", photographs[0].read_bytes()).json()[
            "thumbnail_url"
        ]
        for longest in (256, 100):
            answer = service.get(url, params={"longest": longest})
            with Image.open(io.BytesIO(answer.content)) as image:
                assert (image.format, image.size) == ("JPEG", (longest, longest // 2))

    def test_who_has_it_already_is_told_so_until_the_image_changes(
        self, service: TestClient, photographs: list[Path]
    ) -> None:
        url = upload(service, "demo", "kept.jpg", photographs[0].read_bytes()).json()[
            "thumbnail_url"
        ]
        first = service.get(url)
        etag = first.headers["etag"]
        assert "no-cache" in first.headers["cache-control"]
        again = service.get(url, headers={"If-None-Match": f'"other", W/{etag}'})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        upload(service, "demo", "kept.jpg", photographs[1].read_bytes())
        changed = service.get(url, headers={"If-None-Match": etag})
        assert changed.status_code == 200
        assert changed.content != first.content

    def test_one_that_is_replaced_meanwhile_is_kept_as_what_it_is(
        self,
        tmp_path: Path,
        encoder_path: Path,
        photographs: list[Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A thumbnail of the new image does not serve for the one before when that comes back."""
        one, other = (path.read_bytes() for path in photographs[:2])
        get = Collection.get
        with client(tmp_path, encoder_path) as service:
            service.put("/v1/collections/demo", json={})
            url = upload(service, "demo", "a", one).json()["thumbnail_url"]

            def overtaken(collection: Collection, id: str) -> Item:
                monkeypatch.undo()
                item = get(collection, id)
                upload(service, "demo", "a", other)
                return item

            monkeypatch.setattr(Collection, "get", overtaken)
            between = service.get(url)
            after = service.get(url)
            upload(service, "demo", "a", one)
            first = service.get(url)
        assert (between.content, between.headers["etag"]) == (after.content, after.headers["etag"])
        assert first.content != after.content
        assert first.headers["etag"] != after.headers["etag"]

    def test_an_image_whose_file_is_gone_says_so(
        self, tmp_path: Path, encoder_path: Path, encoder: Encoder, photographs: list[Path]
    ) -> None:
        from index.build import build

        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "a.jpg").write_bytes(photographs[0].read_bytes())
        with Catalog(tmp_path).create("demo", encoder) as collection:
            build(folder, collection, encoder)
        (folder / "a.jpg").unlink()
        with client(tmp_path, encoder_path) as service:
            answer = service.get(image_url("demo", "a.jpg") + "/thumbnail")
            assert (answer.status_code, answer.json()["type"]) == (404, "/docs#original-not-found")
            assert str(tmp_path) not in json.dumps(service.get(image_url("demo", "a.jpg")).json())
