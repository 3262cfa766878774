"""Search over HTTP: every way of asking, and every option."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from serving import client, upload

from index.encoder import Encoder

SEARCH = "/v1/collections/demo/search"


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, encoder_path: Path, photographs: list[Path]
) -> Iterator[TestClient]:
    """The photographs under their names; those at even places are labelled so."""
    with client(tmp_path_factory.mktemp("search"), encoder_path) as started:
        started.put("/v1/collections/demo", json={})
        for place, path in enumerate(photographs):
            parity = "odd" if place % 2 else "even"
            metadata = f'{{"label": "{parity}", "place": {place}}}'
            upload(started, "demo", path.name, path.read_bytes(), metadata=metadata)
        yield started


def results(service: TestClient, **body: Any) -> list[dict[str, Any]]:
    answer = service.post(SEARCH, json=body)
    assert answer.status_code == 200, answer.text
    listed: list[dict[str, Any]] = answer.json()["results"]
    return listed


def test_every_way_of_asking_about_an_image_gives_the_same_neighbours(
    service: TestClient, photographs: list[Path], encoder: Encoder
) -> None:
    data = photographs[0].read_bytes()
    vector = encoder.encode(encoder.load(data).pixels[np.newaxis]).embedding[0]
    by_file = service.post(SEARCH + "/file", files={"file": data}).json()["results"]
    wrapped = base64.encodebytes(data).decode()
    plain = base64.b64encode(data).decode()
    assert by_file == results(service, query={"base64": wrapped})
    assert by_file == results(service, query={"base64": f"data:image/jpeg;base64,{plain}"})
    assert by_file == results(service, query={"vector": vector.tolist()})
    assert by_file[0]["id"] == photographs[0].name
    assert by_file[0]["score"] == pytest.approx(1, abs=1e-5)
    by_id = results(service, query={"id": photographs[0].name}, top_k=9)
    assert [each["id"] for each in by_id] == [each["id"] for each in by_file[1:]]


def test_scores_are_cosines_in_falling_order(
    service: TestClient, photographs: list[Path], encoder: Encoder
) -> None:
    found = results(service, query={"id": photographs[0].name}, top_k=100)
    assert len(found) == len(photographs) - 1
    embeddings = {
        path.name: encoder.encode(encoder.load(path.read_bytes()).pixels[np.newaxis]).embedding[0]
        for path in photographs
    }
    scores = [each["score"] for each in found]
    assert scores == sorted(scores, reverse=True)
    for each in found:
        cosine = float(embeddings[photographs[0].name] @ embeddings[each["id"]])
        assert each["score"] == pytest.approx(cosine, abs=1e-5)


def test_a_result_carries_its_metadata_and_a_thumbnail_that_answers(
    service: TestClient, photographs: list[Path]
) -> None:
    found = results(service, query={"id": photographs[0].name}, top_k=1)[0]
    assert set(found) == {"id", "score", "metadata", "thumbnail_url"}
    assert found["metadata"]["label"] in ("even", "odd")
    assert service.get(found["thumbnail_url"]).headers["content-type"] == "image/jpeg"


def test_the_answer_says_what_answered(
    service: TestClient, photographs: list[Path], encoder: Encoder
) -> None:
    answer = service.post(SEARCH, json={"query": {"id": photographs[0].name}}).json()
    assert set(answer) == {"results", "took_ms", "generation", "encoder"}
    assert answer["encoder"] == encoder.sha256


def test_pages_put_together_are_the_whole(service: TestClient, photographs: list[Path]) -> None:
    query = {"id": photographs[0].name}
    pages = [
        each
        for offset in range(0, 12, 3)
        for each in results(service, query=query, top_k=3, offset=offset)
    ]
    assert pages == results(service, query=query, top_k=100)


def test_a_filter_keeps_what_has_its_values(service: TestClient, photographs: list[Path]) -> None:
    query = {"id": photographs[0].name}
    everything = results(service, query=query, top_k=100)
    odd = results(service, query=query, top_k=100, filter={"label": "odd"})
    assert odd == [each for each in everything if each["metadata"]["label"] == "odd"]
    assert len(results(service, query=query, filter={"label": "odd", "place": 3})) == 1
    assert results(service, query=query, filter={"label": "neither"}) == []


def test_a_least_score_leaves_out_what_is_farther(
    service: TestClient, photographs: list[Path]
) -> None:
    query = {"id": photographs[0].name}
    everything = results(service, query=query, top_k=100)
    bar = everything[4]["score"] - 1e-6
    assert results(service, query=query, top_k=100, min_score=bar) == everything[:5]


def test_form_fields_mean_what_the_json_means(service: TestClient, photographs: list[Path]) -> None:
    data = photographs[0].read_bytes()
    form = {
        "top_k": "2",
        "offset": "1",
        "min_score": "-1",
        "filter": '{"label": "even"}',
        "group_duplicates": "true",
    }
    by_form = service.post(SEARCH + "/file", files={"file": data}, data=form).json()["results"]
    by_json = results(
        service,
        query={"base64": base64.b64encode(data).decode()},
        top_k=2,
        offset=1,
        min_score=-1,
        filter={"label": "even"},
        group_duplicates=True,
    )
    assert by_form == by_json
    assert len(by_form) == 2


def test_of_copies_only_the_nearest_is_shown_when_grouped(
    service: TestClient, photographs: list[Path]
) -> None:
    service.put("/v1/collections/copies", json={})
    for name, path in (("a", photographs[0]), ("a again", photographs[0]), ("b", photographs[1])):
        upload(service, "copies", name, path.read_bytes())
    file = {"file": photographs[0].read_bytes()}
    route = "/v1/collections/copies/search/file"
    alone = service.post(route, files=file, data={"group_duplicates": "true"}).json()["results"]
    both = service.post(route, files=file).json()["results"]
    assert len(both) == 3
    assert [each["id"] for each in alone].count("b") == 1
    assert len(alone) == 2
