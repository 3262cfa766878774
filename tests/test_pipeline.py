"""From a folder of photographs to answers over HTTP, by the commands that a person would type."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import serving
from httpx2 import Client

from index.catalog import Catalog

REPOSITORY = Path(__file__).parent.parent


def run(module: str, *arguments: object) -> str:
    """One command; its standard output."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pretrain_export_index_serve_search(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    for path in sorted((REPOSITORY / "demo" / "photographs").glob("*.jpg"))[::2]:
        scene = path.stem.split("-")[0].rstrip("0123456789")
        (pictures / scene).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, pictures / scene)
    runs, encoder, data = tmp_path / "run", tmp_path / "encoder.onnx", tmp_path / "data"

    run("trainer.cli", "pretrain", "--data", pictures, "--eval-data", pictures, "--out", runs,
        "--image-size", 32, "--width", 0.25, "--epochs", 4, "--batch-size", 33,
        "--optimizer", "adamw", "--device", "cpu")  # fmt: skip
    knn = [json.loads(line) for line in (runs / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in knn if "knn" in line] == [0, 1, 2, 3, 4]
    run("trainer.cli", "export", runs, "--out", encoder)
    place = ("--collection", "trip", "--data", data)
    run("index.cli", "build", pictures, "--encoder", encoder, *place)

    photograph = pictures / "beach" / "beach1.jpg"
    with serving.process(data, encoder) as service, Client(base_url=service.address) as client:
        answer = client.post(
            "/v1/collections/trip/search/file",
            files={"file": photograph.read_bytes()},
            data={"top_k": "3"},
        ).json()
        assert answer["results"][0]["id"] == "beach/beach1.jpg"
        assert answer["results"][0]["score"] == pytest.approx(1.0, abs=1e-5)
        assert answer["results"][0]["metadata"] == {"label": "beach"}
        thumbnail = client.get(answer["results"][0]["thumbnail_url"])
        assert thumbnail.headers["content-type"] == "image/jpeg"

        copies = client.post(
            "/v1/collections/trip/duplicates/check/file", files={"file": photograph.read_bytes()}
        ).json()
        assert (copies["matches"][0]["id"], copies["matches"][0]["tier"]) == (
            "beach/beach1.jpg",
            "exact",
        )

        vectors = client.post("/v1/embed/file", files={"file": photograph.read_bytes()}).json()
    with Catalog(data).open("trip") as collection:
        indexed = collection.vectors("beach/beach1.jpg")
    # Not nearly the same: the indexer and the service share every step.
    np.testing.assert_array_equal(np.float32(vectors["embedding"]), indexed.embedding[0])
    np.testing.assert_array_equal(np.float32(vectors["descriptor"]), indexed.descriptor[0])
