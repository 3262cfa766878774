"""Copies over HTTP: found by bytes and by descriptor, at a bar that the answer states."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageOps
from serving import client, image_url, upload

from index.artifact import Calibration
from index.encoder import Encoder
from index.image import DEFAULT_MAX_PIXELS
from index.orientations import ORIENTATIONS, oriented

CHECK = "/v1/collections/demo/duplicates/check"
TURNED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "upright": lambda image: image,
    "mirrored": ImageOps.mirror,
    "turned_90": lambda image: image.rotate(90, expand=True),
    "turned_90_mirrored": lambda image: ImageOps.mirror(image.rotate(90, expand=True)),
    "turned_180": lambda image: image.rotate(180),
    "turned_180_mirrored": ImageOps.flip,
    "turned_270": lambda image: image.rotate(270, expand=True),
    "turned_270_mirrored": lambda image: ImageOps.mirror(image.rotate(270, expand=True)),
}


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def patchwork(seed: int) -> Image.Image:
    """A picture with no symmetry."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return Image.fromarray(patches).resize((300, 200), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, encoder_path: Path, photographs: list[Path]
) -> Iterator[TestClient]:
    with client(tmp_path_factory.mktemp("duplicates"), encoder_path) as started:
        started.put("/v1/collections/demo", json={})
        for path in photographs:
            upload(started, "demo", path.name, path.read_bytes())
        yield started


def check(service: TestClient, data: bytes, **fields: str) -> dict[str, Any]:
    answer = service.post(CHECK + "/file", files={"file": data}, data=fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_the_same_bytes_are_an_exact_copy(service: TestClient, photographs: list[Path]) -> None:
    match = check(service, photographs[0].read_bytes())["matches"][0]
    assert (match["id"], match["tier"]) == (photographs[0].name, "exact")
    assert match["false_match_rate"] == 0
    assert "sha256" in match["evidence"]


def test_a_picture_saved_again_is_a_copy_by_its_hash(
    service: TestClient, photographs: list[Path]
) -> None:
    with Image.open(photographs[0]) as image:
        answer = check(service, jpeg(image.resize((300, 150)), quality=60))
    match = answer["matches"][0]
    assert (match["id"], match["tier"]) == (photographs[0].name, "perceptual")
    assert match["false_match_rate"] <= answer["false_match_rate"] <= 0.001


def test_an_image_of_the_collection_is_no_copy_of_itself(
    service: TestClient, photographs: list[Path]
) -> None:
    answer = service.post(CHECK, json={"query": {"id": photographs[0].name}, "threshold": -2})
    ids = [match["id"] for match in answer.json()["matches"]]
    assert sorted(ids) == sorted(path.name for path in photographs[1:])


def test_a_rate_sets_the_threshold_and_the_answer_states_both(
    service: TestClient, photographs: list[Path], encoder: Encoder
) -> None:
    calibration = encoder.metadata.calibration
    data = photographs[0].read_bytes()
    for rate in (0.1, 0.01, 0.001):
        answer = check(service, data, max_false_match_rate=str(rate))
        assert answer["threshold"] == calibration.threshold_for(rate)
        assert answer["false_match_rate"] <= rate
    assert check(service, data)["threshold"] == calibration.default_threshold()
    given = check(service, data, threshold="0.25")
    assert given["threshold"] == 0.25
    assert given["false_match_rate"] == calibration.rate_at(0.25)


def test_without_a_rate_a_coarsely_calibrated_encoder_answers_at_its_smallest(
    tmp_path: Path, encoder_path: Path, photographs: list[Path]
) -> None:
    model = onnx.load(encoder_path)
    properties = {each.key: each.value for each in model.metadata_props}
    coarse = Calibration(pairs=100, false_match_rates=(0.5, 0.02), thresholds=(0.0, 0.3))
    properties["kindred.calibration"] = coarse.model_dump_json()
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, tmp_path / "coarse.onnx")
    with client(tmp_path, tmp_path / "coarse.onnx") as service:
        service.put("/v1/collections/demo", json={})
        for orientations, rate in (("false", 0.02), ("true", 8 * 0.02)):
            answer = check(service, photographs[0].read_bytes(), orientations=orientations)
            assert (answer["threshold"], answer["false_match_rate"]) == (0.3, rate)


def test_a_rate_that_was_never_measured_is_refused_and_names_the_smallest(
    service: TestClient, photographs: list[Path], encoder: Encoder
) -> None:
    answer = service.post(
        CHECK, json={"query": {"id": photographs[0].name}, "max_false_match_rate": 1e-9}
    )
    assert answer.status_code == 422
    assert f"{encoder.metadata.calibration.false_match_rates[-1]:g}" in answer.json()["detail"]


def test_orientations_are_the_eight_flips_and_turns() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    views = oriented(picture)
    assert len({view.tobytes() for view in views}) == len(views) == len(ORIENTATIONS) == 8
    for view, name in zip(views, ORIENTATIONS, strict=True):
        expected = TURNED[name](Image.fromarray(picture))
        np.testing.assert_array_equal(view, np.asarray(expected))


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_turned_or_flipped_copy_is_found_and_the_evidence_says_how(
    service: TestClient, name: str
) -> None:
    undo = {"turned_90": "turned_270", "turned_270": "turned_90"}.get(name, name)
    upload(service, "demo", "patchwork", jpeg(patchwork(0)))
    data = jpeg(TURNED[undo](patchwork(0)), quality=95)
    match = check(service, data, orientations="true")["matches"][0]
    assert match["id"] == "patchwork"
    assert match["evidence"]["orientation"] == name
    upright = [each["id"] for each in check(service, data)["matches"]]
    assert ("patchwork" in upright) == (name == "upright")
    service.delete(image_url("demo", "patchwork"))


def test_eight_looks_keep_to_the_rate_of_one(
    service: TestClient, photographs: list[Path], encoder: Encoder
) -> None:
    calibration = encoder.metadata.calibration
    answer = service.post(
        CHECK,
        json={
            "query": {"id": photographs[0].name},
            "orientations": True,
            "max_false_match_rate": 0.1,
        },
    ).json()
    assert answer["threshold"] == calibration.threshold_for(0.1 / 8)
    assert answer["false_match_rate"] == 8 * calibration.rate_at(answer["threshold"]) <= 0.1


def test_groups_of_duplicates_come_page_by_page_with_one_to_keep(
    service: TestClient,
) -> None:
    service.put("/v1/collections/doubled", json={})
    for place in range(3):
        picture = patchwork(place)
        upload(service, "doubled", f"{place} large", jpeg(picture))
        upload(service, "doubled", f"{place} small", jpeg(picture.resize((90, 60))))
    pages = []
    cursor = None
    while True:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        pages.append(service.get("/v1/collections/doubled/duplicates", params=query).json())
        cursor = pages[-1]["next_cursor"]
        if cursor is None:
            break
    assert [len(page["groups"]) for page in pages] == [2, 1]
    for group in (group for page in pages for group in page["groups"]):
        place = group["images"][0]["id"][0]
        assert {image["id"] for image in group["images"]} == {f"{place} large", f"{place} small"}
        assert group["keep"]["id"] == f"{place} large"
        assert group["keep"]["reason"]
    assert pages[0]["false_match_rate"] <= 0.001


def test_groups_may_be_given_a_second_look(service: TestClient, photographs: list[Path]) -> None:
    service.put("/v1/collections/looked", json={})
    for path in photographs[:2]:
        with Image.open(path) as image:
            for quality in (90, 60):
                data = jpeg(image.convert("RGB"), quality)
                upload(service, "looked", f"{path.stem} {quality}", data)
    route = "/v1/collections/looked/duplicates"
    (group,) = service.get(route, params={"threshold": -2}).json()["groups"]
    assert len(group["images"]) == 4
    answer = service.get(route, params={"threshold": -2, "verify": True}).json()
    found = sorted(sorted(image["id"] for image in group["images"]) for group in answer["groups"])
    assert found == sorted([f"{path.stem} 60", f"{path.stem} 90"] for path in photographs[:2])


def test_the_one_to_keep_is_chosen_by_a_policy(service: TestClient) -> None:
    service.put("/v1/collections/chosen", json={})
    picture = patchwork(0)
    upload(service, "chosen", "a longer name", jpeg(picture))
    upload(service, "chosen", "small", jpeg(picture.resize((90, 60))))
    route = "/v1/collections/chosen/duplicates"
    for policy, keep in (("pixels", "a longer name"), ("shortest-path", "small")):
        (group,) = service.get(route, params={"keep": policy}).json()["groups"]
        assert group["keep"]["id"] == group["images"][0]["id"] == keep
    answer = service.get(route, params={"keep": "beauty"})
    assert answer.status_code == 422
    assert "shortest-path" in answer.text


def test_a_second_look_says_how_the_pictures_lie_on_each_other(
    service: TestClient, photographs: list[Path]
) -> None:
    with Image.open(photographs[0]) as image:
        part = image.crop((0, 0, image.width // 2, image.height)).convert("RGB")
    answer = check(service, jpeg(part), threshold="2", verify="true")
    (match,) = answer["matches"]
    assert match["id"] == photographs[0].name
    assert match["evidence"]["overlap"] == pytest.approx(0.5, abs=0.02)
    assert len(match["evidence"]["transform"]) == 9
    by_id = {"query": {"id": photographs[0].name}, "threshold": -2, "verify": True}
    assert service.post(CHECK, json=by_id).json()["matches"] == []


def test_a_second_look_takes_pictures_as_large_as_the_service_does(
    tmp_path: Path, encoder_path: Path, photographs: list[Path]
) -> None:
    """Beyond what is taken by default, be it the query or what is stored."""
    with Image.open(photographs[0]) as image:
        large = image.convert("L").resize((19_000, 9_500), Image.Resampling.BILINEAR)
    data = jpeg(large)
    assert large.width * large.height > DEFAULT_MAX_PIXELS
    with client(tmp_path, encoder_path, max_pixels=2 * DEFAULT_MAX_PIXELS) as service:
        service.put("/v1/collections/demo", json={})
        upload(service, "demo", "large", data)
        upload(service, "demo", "small", jpeg(large.reduce(25)))
        answer = check(service, data, threshold="2", verify="true")
        found = {match["id"]: match["evidence"] for match in answer["matches"]}
        assert found["small"]["scale"] == pytest.approx(1 / 25, rel=0.01)
        by_id = {"query": {"id": "small"}, "threshold": 2, "verify": True}
        (match,) = service.post(CHECK, json=by_id).json()["matches"]
        assert match["evidence"]["scale"] == pytest.approx(25, rel=0.01)


def test_a_verdict_is_kept_and_answers_go_by_it(
    tmp_path: Path, encoder_path: Path, photographs: list[Path]
) -> None:
    with client(tmp_path, encoder_path) as service:
        service.put("/v1/collections/demo", json={})
        for path in photographs[:3]:
            upload(service, "demo", path.name, path.read_bytes())
        ids = [path.name for path in photographs[:2]]
        route = "/v1/collections/demo/verdicts"
        asked = {"query": {"id": ids[0]}, "threshold": 2}
        assert service.post(CHECK, json=asked).json()["matches"] == []
        assert service.put(route, json={"ids": ids, "verdict": "same"}).status_code == 204
        (match,) = service.post(CHECK, json=asked).json()["matches"]
        assert (match["id"], match["false_match_rate"]) == (ids[1], 0)
        assert match["evidence"]["verdict"] == "same"
        (group,) = service.get("/v1/collections/demo/duplicates?threshold=2").json()["groups"]
        assert sorted(image["id"] for image in group["images"]) == sorted(ids)
        assert service.put(route, json={"ids": ids, "verdict": None}).status_code == 204
        assert service.get("/v1/collections/demo/duplicates?threshold=2").json()["groups"] == []


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"ids": ["a"], "verdict": "same"}, 422, "body.ids"),
        ({"ids": ["a", "b"], "verdict": "alike"}, 422, "'same', 'different', or null to take back"),
        ({"ids": ["a", "b"], "verdict": ["same"]}, 422, "'same', 'different', or null"),
        ({"ids": ["a", "b"]}, 422, "body.verdict"),
        ({"ids": ["a", "b"], "verdict": "same"}, 404, "no image 'a'"),
    ],
)
def test_a_verdict_that_cannot_be_is_explained(
    service: TestClient, body: dict[str, Any], status: int, words: str
) -> None:
    answer = service.put("/v1/collections/demo/verdicts", json=body)
    assert answer.status_code == status
    assert words in answer.text
