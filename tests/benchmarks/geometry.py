"""Which edited copies geometric verification confirms, and which look-alikes it takes for copies.

    python tests/benchmarks/geometry.py [SOURCE] [--queries 30] [--pictures 300] [--sheet FILE.png]

True pairs: pictures of the source edited in 36 ways (picture_edits.py), each against its original;
and two different crops of one picture. Hard negatives: the 20 nearest other pictures by the
encoder's embedding, as a search would hand them on, of every third edited picture, and of
pictures as they are. Pictures that an edit shows besides (in a collage, for one) and files equal to
the byte are left out. What is called false is false by this count alone: series of one scene may
hold true duplicates, so look at the sheet, which shows query, candidate, and the query laid on it.

The peer, in the same run: OpenCV's SIFT at its defaults, of the query and its mirror image, ratio
test at 0.75, estimateAffine2D by RANSAC, 10 inliers.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from picture_edits import EDITS, crop
from PIL import Image, ImageDraw
from tqdm import tqdm

from index import sources
from index.alignment import Alignment, NoAlignment, is_copy
from index.encoder import DEFAULT_ENCODER, Encoder
from index.geometry import Features, align, features

NEIGHBOURS: Final = 20
PEER_INLIERS, PEER_RATIO = 10, 0.75
TWO_CROPS: Final = "two crops of 50 %"

Pixels = NDArray[np.uint8]
PeerFeatures = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Query:
    """A picture to look up: as it is where ``edit`` is empty.

    ``shows`` are the files that it shows, ``pair`` a true counterpart, none for a picture as it is.
    """

    edit: str
    data: bytes
    shows: frozenset[bytes]
    pair: bytes | None


@dataclass(frozen=True, eq=False)
class Confirmed:
    """A pair of pictures that were called copies, though they are none by our count."""

    query: Query
    candidate: bytes
    outcome: Alignment


class Stopwatch:
    """CPU time of this process by name."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._calls: Counter[str] = Counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self._seconds[name] += time.process_time() - start
        self._calls[name] += 1

    def milliseconds(self) -> dict[str, float]:
        """The mean of each name's calls."""
        return {name: 1e3 * self._seconds[name] / self._calls[name] for name in self._calls}


class Verifier:
    """Kindred's verdict and the peer's on pairs of files, each file's features made once."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch
        self._features: dict[bytes, Features] = {}
        self._peer: dict[bytes, PeerFeatures] = {}

    def outcome(self, query: bytes, candidate: bytes) -> Alignment | NoAlignment:
        """Kindred's."""
        pair = self._of(query), self._of(candidate)
        with self._stopwatch("align, a pair"):
            return align(*pair)

    def peer_confirms(self, query: bytes, candidate: bytes) -> bool:
        """Whether the query or its mirror image has enough inliers."""
        target = self._peer_of(candidate)
        for seen in (self._peer_of(query), self._peer_of(query, mirrored=True)):
            with self._stopwatch("peer, a pair and orientation"):
                if peer_inliers(seen, target) >= PEER_INLIERS:
                    return True
        return False

    def _of(self, data: bytes) -> Features:
        if data not in self._features:
            pixels = decode(data)
            with self._stopwatch("features, a picture"):
                self._features[data] = features(pixels)
        return self._features[data]

    def _peer_of(self, data: bytes, *, mirrored: bool = False) -> PeerFeatures:
        key = data + b"mirrored" * mirrored
        if key not in self._peer:
            grey = cv2.cvtColor(decode(data), cv2.COLOR_RGB2GRAY)
            grey = np.ascontiguousarray(grey[:, ::-1]) if mirrored else grey
            with self._stopwatch("peer, a picture and orientation"):
                found, rows = cv2.SIFT.create().detectAndCompute(grey, None)
            points = np.array([each.pt for each in found], np.float32).reshape(-1, 2)
            self._peer[key] = points, np.asarray(rows if found else np.zeros((0, 128)), np.float32)
        return self._peer[key]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="demo/photographs")
    parser.add_argument("--queries", type=int, default=30, help="copies of each edit [30]")
    parser.add_argument("--pictures", type=int, default=300, help="queries as they are [300]")
    parser.add_argument("--sheet", type=Path, help="write the false confirmations as a picture")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()

    cv2.setNumThreads(1)
    files = list(dict.fromkeys(item.read() for item in sources.scan(arguments.source)))
    edited = list(edits(files, arguments.queries))
    chance = np.random.default_rng(1)
    plain = [
        Query("", files[row], frozenset([files[row]]), None)
        for row in chance.permutation(len(files))[: arguments.pictures]
    ]
    stopwatch = Stopwatch()
    verifier = Verifier(stopwatch)

    print(f"{'true pairs confirmed':32}{'Kindred':>9}{'peer':>9}")
    report: dict[str, object] = {}
    for name in [*EDITS, TWO_CROPS]:
        verdicts = np.array(
            [
                (
                    is_copy(verifier.outcome(query.data, query.pair)),
                    verifier.peer_confirms(query.data, query.pair),
                )
                for query in edited
                if query.edit == name and query.pair is not None
            ]
        )
        ours, peers = verdicts.mean(axis=0).tolist()
        report[name] = {"confirmed": ours, "peer": peers}
        print(f"{name:32}{ours:9.3f}{peers:9.3f}", flush=True)

    print(
        f"\n{'false pairs confirmed':32}{'pairs':>9}{'Kindred':>9}{'peer':>9}{'queries':>9}", end=""
    )
    print(f"{'Kindred':>9}{'peer':>9}")
    confirmed: list[Confirmed] = []
    for name, queries in (("edited queries", edited[::3]), ("pictures as they are", plain)):
        pairs = 0
        ours_by_query, peers_by_query = np.zeros((2, len(queries)), int)
        neighbours = nearest(queries, files)
        for number, query in enumerate(tqdm(queries, name, leave=False)):
            for candidate in neighbours[number]:
                pairs += 1
                outcome = verifier.outcome(query.data, candidate)
                if is_copy(outcome):
                    ours_by_query[number] += 1
                    confirmed.append(Confirmed(query, candidate, outcome))
                peers_by_query[number] += verifier.peer_confirms(query.data, candidate)
        ours, peers = int(ours_by_query.sum()), int(peers_by_query.sum())
        of_queries = int((ours_by_query > 0).sum()), int((peers_by_query > 0).sum())
        report[name] = {
            "pairs": pairs,
            "confirmed": ours,
            "peer": peers,
            "queries": len(queries),
            "queries with one": of_queries[0],
            "queries with one, peer": of_queries[1],
        }
        print(f"{name:32}{pairs:9,}{ours:9,}{peers:9,}{len(queries):9,}", end="")
        print(f"{of_queries[0]:9,}{of_queries[1]:9,}", flush=True)

    print()
    for each in confirmed:
        outcome = each.outcome
        row = files.index(each.candidate)
        shown = [files.index(data) for data in each.query.shows if data in files]
        print(
            f"{each.query.edit or 'as it is':28} of {shown} on {row}: inliers {outcome.inliers}, "
            f"residual {outcome.residual:.2e}, overlaps {outcome.overlap:.3f} "
            f"{outcome.query_overlap:.3f}, agreement {outcome.agreement:.2f}"
        )
    report["milliseconds"] = stopwatch.milliseconds()
    for name, milliseconds in stopwatch.milliseconds().items():
        print(f"{name:32}{milliseconds:9.1f} ms of CPU time")
    if arguments.sheet and confirmed:
        contact_sheet(confirmed).save(arguments.sheet)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def edits(files: Sequence[bytes], each: int) -> Iterator[Query]:
    """Edited pictures, and pairs of crops, so many of each kind."""
    chance = np.random.default_rng(0)
    for name, edit in EDITS.items():
        for row in chance.permutation(len(files))[:each]:
            other = files[int(chance.integers(len(files)))]
            data = edit.file(opened(files[row]), opened(other), chance)
            yield Query(name, data, frozenset([files[row], other]), files[row])
    for row in chance.permutation(len(files))[:each]:
        image = opened(files[row])
        first, second = (encoded(crop(0.5)(image, image, chance), quality) for quality in (85, 75))
        yield Query(TWO_CROPS, first, frozenset([files[row]]), second)


def nearest(queries: Sequence[Query], files: Sequence[bytes]) -> list[list[bytes]]:
    """The nearest files by the encoder's embedding that are not those that a query shows."""
    encoder = Encoder(DEFAULT_ENCODER)

    def embed(pictures: Sequence[bytes]) -> NDArray[np.float32]:
        return np.concatenate(
            [
                encoder.encode(
                    np.stack([encoder.load(data).pixels for data in pictures[start : start + 64]])
                ).embedding
                for start in range(0, len(pictures), 64)
            ]
        )

    order = np.argsort(-(embed([query.data for query in queries]) @ embed(files).T), axis=1)
    return [
        [files[row] for row in rows if files[row] not in query.shows][:NEIGHBOURS]
        for query, rows in zip(queries, order, strict=True)
    ]


def peer_inliers(query: PeerFeatures, candidate: PeerFeatures) -> int:
    """Inliers of an affine transform by RANSAC on matches that pass the ratio test."""
    (p, a), (q, b) = query, candidate
    if min(len(a), len(b)) < 2:
        return 0
    pairs = [
        (first.queryIdx, first.trainIdx)
        for first, second in cv2.BFMatcher().knnMatch(a, b, k=2)
        if first.distance < PEER_RATIO * second.distance
    ]
    if len(pairs) < PEER_INLIERS:
        return 0
    rows, columns = np.array(pairs).T
    _, inliers = cv2.estimateAffine2D(p[rows], q[columns])
    return int(inliers.sum())


def contact_sheet(confirmed: Sequence[Confirmed]) -> Image.Image:
    """Query, candidate, and the query laid on the candidate, three such in a row."""
    side, in_a_row = 192, 3
    rows = -(-len(confirmed) // in_a_row)
    sheet = Image.new("RGB", (in_a_row * (3 * side + 12), rows * (side + 16)), "white")
    draw = ImageDraw.Draw(sheet)
    for number, each in enumerate(confirmed):
        query, candidate = decode(each.query.data), decode(each.candidate)
        matrix = (
            np.diag([candidate.shape[1], candidate.shape[0], 1.0])
            @ np.reshape(each.outcome.transform, (3, 3))
            @ np.diag([1 / query.shape[1], 1 / query.shape[0], 1.0])
        )
        laid = cv2.warpPerspective(query, matrix, (candidate.shape[1], candidate.shape[0]))
        left = number % in_a_row * (3 * side + 12)
        top = number // in_a_row * (side + 16)
        for column, pixels in enumerate((query, candidate, np.asarray(laid, np.uint8))):
            shown = Image.fromarray(pixels)
            shown.thumbnail((side, side))
            sheet.paste(shown, (left + column * side, top + 14))
        outcome = each.outcome
        draw.text(
            (left, top),
            f"{each.query.edit or 'as it is'}: {outcome.inliers} inliers, residual "
            f"{outcome.residual:.1e}, containment {outcome.containment:.3f}, "
            f"agreement {outcome.agreement:.2f}",
            "black",
        )
    return sheet


def opened(data: bytes) -> Image.Image:
    """The picture of a file, RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def decode(data: bytes) -> Pixels:
    """Its pixels, uint8 (H, W, 3)."""
    return np.asarray(opened(data))


def encoded(image: Image.Image, quality: int) -> bytes:
    """The picture as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
