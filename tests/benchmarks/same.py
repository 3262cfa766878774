"""Which edited copies the service finds at a precision of 99.9 %, beside hashes that people use.

    python tests/benchmarks/same.py [SOURCE] [--distractors SOURCE] [--queries 30]
        [--imagededup PYTHON] [--sheet FILE.png]

Pictures of the source and most of the distractors are indexed as a user would, by kindred-index.
Then pictures of the source, edited in 37 ways (picture_edits.py, and rotated by 5 degrees), are
looked up over HTTP, and so are other distractors (of a source alone: a fifth of it), edited alike,
which are not there and may match nothing. Every match counts: recall is the share of the copies
whose source (or a file of the same bytes) is among the matches, precision the share of matches
that are true. Kindred answers with orientations and a second look, and by its tiers alone, at its
default threshold. The peers get the most favourable threshold that keeps 99.9 % in this very run,
and are shown at their usual one as well. micro-AP is the average precision of all pairs of all
lookups in one ranking: of Kindred its matches, then what is no match, both by calibrated copy
score; of hashes by distance.

imagededup runs in an environment of its own, whose Python is given. Its neural network is left
out: its weights have to be fetched. The other peers are installed by:

    pip install imagehash pdqhash
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pdqhash
from copies import Floats, Lookups, calibrated, edit, encode, open_image
from fastapi.testclient import TestClient
from numpy.random import Generator
from numpy.typing import NDArray
from peers import needs
from picture_edits import EDITS, Edit, Picture
from PIL import Image, ImageDraw, ImageOps
from tqdm import tqdm

from index import sources
from index.cli import main as kindred_index
from index.encoder import DEFAULT_ENCODER, Encoder
from service.app import create_app
from service.settings import Settings
from trainer.metrics import micro_average_precision

STRANGERS: Final = 300
PRECISION: Final = 0.999
TILE: Final = 240

Mask = NDArray[np.bool_]

_IMAGEDEDUP: Final = """
import json, sys
from imagededup.methods import DHash, PHash
names = {"imagededup PHash": PHash, "imagededup DHash": DHash}
print(json.dumps([
    {name: method(verbose=False).encode_images(image_dir=folder) for name, method in names.items()}
    for folder in sys.argv[1:]
]))
"""


@dataclass(frozen=True, eq=False)
class Method:
    """What a method calls the same, and how sure it is: (Q, B), queries by pictures there."""

    name: str
    is_match: Mask
    scores: Floats


def rotate_little(image: Picture, other: Picture, chance: Generator) -> Picture:
    """By 5 degrees either way, whole, with black corners."""
    angle = 5 * chance.choice((-1, 1))
    return image.rotate(angle, Image.Resampling.BICUBIC, expand=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", nargs="?", default="demo/photographs")
    parser.add_argument("--distractors", help="pictures of the same kind")
    parser.add_argument("--queries", type=int, default=30, help="copies of each edit [30]")
    parser.add_argument("--imagededup", type=Path, help="Python of an environment that has it")
    parser.add_argument("--sheet", type=Path, help="picture of the pairs matched in error")
    arguments = parser.parse_args()
    needs("imagehash")

    known = shuffled(arguments.source)
    if arguments.distractors:
        others = shuffled(arguments.distractors)
        strangers, database = others[:STRANGERS], known + others[STRANGERS:]
    else:
        cut = len(known) // 5
        strangers, known = known[:cut], known[cut:]
        database = known
    edits = EDITS | {"rotated by 5 degrees": Edit(rotate_little)}
    # What edits show beside or over a picture is not in the database either.
    lookups = edit(known, strangers, strangers, database, arguments.queries, edits)
    print(
        f"{len(lookups.files):,} lookups, {int(lookups.is_true_QB.any(1).sum()):,} of them copies, "
        f"among {len(database):,} pictures"
    )
    methods = []
    with tempfile.TemporaryDirectory() as folder:
        pictures, queries = Path(folder) / "pictures", Path(folder) / "queries"
        for place, files in ((pictures, database), (queries, lookups.files)):
            place.mkdir()
            for number, data in enumerate(files):
                (place / f"{number}.jpg").write_bytes(data)
        methods += kindred(Path(folder) / "data", pictures, lookups.files, database)
        methods += hashes(lookups, database)
        if arguments.imagededup:
            methods += imagededup(arguments.imagededup, lookups, pictures, queries)
    report(methods, lookups, list(edits))
    if arguments.sheet:
        draw(arguments.sheet, methods[0], lookups, database)


def shuffled(source: str) -> list[bytes]:
    """The files of a source in an order of chance."""
    files = [item.read() for item in sources.scan(source)]
    return [files[row] for row in np.random.default_rng(1).permutation(len(files))]


def kindred(
    data: Path, pictures: Path, queries: Sequence[bytes], database: Sequence[bytes]
) -> list[Method]:
    """The service's matches: with orientations and a second look, and by its tiers alone."""
    encoder = Encoder(DEFAULT_ENCODER)
    copy_scores_QB = calibrated(
        *(encode(encoder, files, "encoding").descriptor for files in (queries, database))
    )
    build = ["build", str(pictures), "--collection", "same", "--data", str(data)]
    with redirect_stdout(None):
        assert kindred_index(build) == 0
    methods = []
    with TestClient(create_app(Settings(data=data)), base_url="http://localhost") as client:
        for name, looks in (("Kindred", "true"), ("its tiers alone", "false")):
            is_match = np.zeros(copy_scores_QB.shape, np.bool_)
            tiers: Counter[str] = Counter()
            start = time.process_time()
            for row, query in enumerate(tqdm(queries, name, leave=False)):
                answer = client.post(
                    "/v1/collections/same/duplicates/check/file",
                    files={"file": ("query.jpg", query)},
                    data={"verify": looks, "orientations": looks},
                )
                assert answer.status_code == 200, answer.text
                for match in answer.json()["matches"]:
                    is_match[row, int(Path(match["id"]).stem)] = True
                    tiers[match["tier"]] += 1
            seconds = (time.process_time() - start) / len(queries)
            print(f"{name}: {seconds:.2f} s a lookup, CPU time; matches by tier {dict(tiers)}")
            # Copy scores lie within 2 of 0: cosines less a cosine.
            methods.append(Method(name, is_match, copy_scores_QB + 4 * is_match))
    return methods


def hashes(lookups: Lookups, database: Sequence[bytes]) -> list[Method]:
    """imagehash's and pdqhash's."""
    import imagehash

    def opened(data: bytes) -> Picture:
        return ImageOps.exif_transpose(open_image(data))

    functions: dict[str, tuple[int, Any]] = {
        "pHash": (10, lambda image: imagehash.phash(image).hash),
        "dHash": (10, lambda image: imagehash.dhash(image).hash),
        "PDQ": (31, lambda image: pdqhash.compute(np.asarray(image))[0]),
    }
    methods = []
    for name, (usual, function) in functions.items():
        bits_Q, bits_B = (
            np.stack([np.ravel(function(opened(data))) for data in tqdm(files, name, leave=False)])
            for files in (lookups.files, database)
        )
        methods += at_thresholds(name, usual, distances(bits_Q, bits_B), lookups)
    return methods


def imagededup(python: Path, lookups: Lookups, pictures: Path, queries: Path) -> list[Method]:
    """imagededup's, computed by itself."""
    command = [str(python), "-c", _IMAGEDEDUP, str(queries), str(pictures)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    of_queries, of_pictures = json.loads(answer.stdout.splitlines()[-1])
    return [
        method
        for name in of_queries
        for method in at_thresholds(
            name, 10, distances(_bits(of_queries[name]), _bits(of_pictures[name])), lookups
        )
    ]


def distances(bits_Q: NDArray[Any], bits_B: NDArray[Any]) -> NDArray[np.int64]:
    """Hamming distances, (Q, B)."""
    q, b = bits_Q.astype(np.float32), bits_B.astype(np.float32)
    return np.rint(q @ (1 - b).T + (1 - q) @ b.T).astype(np.int64)


def at_thresholds(
    name: str, usual: int, distances_QB: NDArray[np.int64], lookups: Lookups
) -> list[Method]:
    """At the largest distance that keeps the precision in this run, and at the usual one."""
    best = max(
        (
            distance
            for distance in range(usual + 60)
            if precision(distances_QB <= distance, lookups) >= PRECISION
        ),
        default=-1,
    )
    return [
        Method(
            f"{name} <= {distance}" if distance >= 0 else f"{name}: none",
            distances_QB <= distance,
            -distances_QB.astype(np.float32),
        )
        for distance in (best, usual)
    ]


def precision(is_match_QB: Mask, lookups: Lookups) -> float:
    """Of all matches, the share that is true; 1 where there are none."""
    return float((is_match_QB & lookups.is_true_QB).sum() / max(1, is_match_QB.sum())) or 1.0


def report(methods: Sequence[Method], lookups: Lookups, edits: Sequence[str]) -> None:
    """A row an edit, a column a method."""
    print(f"\n{'recall':28}" + "".join(f"{method.name:>24}" for method in methods))
    rows = {name: np.isin(lookups.edits, [name]) for name in edits}
    rows["all"] = np.ones(len(lookups.edits), np.bool_)
    copies_Q = lookups.is_true_QB.any(axis=1)
    is_true, positives = lookups.is_true_QB.ravel(), int(lookups.is_true_QB.sum())
    for name, of_edit_Q in rows.items():
        chosen = of_edit_Q & copies_Q
        shares = [
            (method.is_match & lookups.is_true_QB)[chosen].any(axis=1).mean() for method in methods
        ]
        print(f"{name:28}" + "".join(f"{share:24.3f}" for share in shares))
    print(
        f"{'precision':28}"
        + "".join(f"{precision(method.is_match, lookups):24.4f}" for method in methods)
    )
    print(
        f"{'micro-AP':28}"
        + "".join(
            f"{micro_average_precision(method.scores.ravel(), is_true, positives):24.3f}"
            for method in methods
        )
    )
    wrong = [int((method.is_match & ~lookups.is_true_QB).sum()) for method in methods]
    print(f"{'wrong pairs':28}" + "".join(f"{count:24,}" for count in wrong))
    found = [
        (method.is_match & lookups.is_true_QB)[copies_Q].any(axis=1).mean() for method in methods
    ]
    ratios = [f"{found[0] / share:24.2f}" if share else f"{'-':>24}" for share in found]
    print(f"{'Kindred / this, all':28}" + "".join(ratios))


def draw(path: Path, method: Method, lookups: Lookups, database: Sequence[bytes]) -> None:
    """The pairs matched in error, query and match side by side."""
    pairs = np.argwhere(method.is_match & ~lookups.is_true_QB)[:60]
    sheet = Image.new("RGB", (6 * TILE, max(1, -(-len(pairs) // 3)) * (TILE + 20)), "white")
    for number, (row, column) in enumerate(pairs.tolist()):
        x, y = number % 3 * 2 * TILE, number // 3 * (TILE + 20)
        for place, data in ((x, lookups.files[row]), (x + TILE, database[column])):
            sheet.paste(ImageOps.contain(open_image(data), (TILE - 4, TILE)), (place, y))
        ImageDraw.Draw(sheet).text((x, y + TILE), str(lookups.edits[row]), "black")
    sheet.save(path)


def _bits(by_name: dict[str, str]) -> NDArray[np.uint8]:
    """Hexadecimal hashes by file name, N.jpg, as bits in the order of the numbers."""
    ordered = sorted(by_name, key=lambda name: int(Path(name).stem))
    raw = [np.frombuffer(bytes.fromhex(by_name[name]), np.uint8) for name in ordered]
    return np.unpackbits(np.stack(raw), axis=1)


if __name__ == "__main__":
    main()
