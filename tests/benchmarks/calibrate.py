"""Whether promised false match rates hold for pictures that a collection has not seen.

    python tests/benchmarks/calibrate.py SOURCE [--held-out 600] [--sample 500] [--encoder FILE]

The pictures of the source are dealt at random: some are held out, the others make a collection,
which is calibrated on itself. Then the held-out pictures and edited copies of them are looked up,
each of which has no copy there. Beside the collection's own curve stands that of the encoder, which
was measured on its training images. A rate is kept where measured / promised is near 1.

Held-out pictures whose hash is nearly that of a stored one are passed over: they may be copies.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from index import sources
from index.artifact import Calibration
from index.calibrate import CalibrationSettings
from index.catalog import Catalog
from index.collection import Collection, CopyQuery
from index.edits import EDITS
from index.encoder import DEFAULT_ENCODER, Encoder, Encoding
from index.image import upright
from index.vectors import Floats

RATES = (1e-2, 1e-3, 1e-4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source")
    parser.add_argument("--encoder", type=Path, default=DEFAULT_ENCODER)
    parser.add_argument("--held-out", type=int, default=600)
    parser.add_argument("--sample", type=int, default=500)
    parser.add_argument("--copies", type=int, default=3, help="edited copies of each")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    encoder = Encoder(arguments.encoder)
    files = [item.read() for item in sources.scan(arguments.source)]
    order = np.random.default_rng(arguments.seed).permutation(len(files)).tolist()
    held_out, stored = order[: arguments.held_out], order[arguments.held_out :]
    with (
        tempfile.TemporaryDirectory() as folder,
        Catalog(Path(folder)).create("calibrated", encoder) as collection,
    ):
        for row in tqdm(stored, "indexing", leave=False):
            picture = encoder.load(files[row])
            encoding = encoder.encode(picture.pixels[np.newaxis])
            collection.put(str(row), files[row], picture, encoding)
        settings = CalibrationSettings(arguments.sample, arguments.copies, arguments.seed)
        measured = collection.calibrate(encoder, settings)
        scores, by_encoder = look_up(
            [files[row] for row in held_out], collection, encoder, arguments.copies
        )
    print(
        f"{len(stored):,} pictures stored, {measured.sampled} of them sampled; "
        f"{len(scores):,} lookups of pictures that are not there, {scores.size:,} pairs\n"
    )
    print(f"{'promised':>10}{'stated error':>14}{'collection':>24}{'encoder':>24}")
    for rate in RATES:
        row = f"{rate:10.0e}{_error(measured.calibration, measured.errors, rate):>14}"
        row += f"{_kept(scores, measured.calibration, rate):>24}"
        row += f"{_kept(by_encoder, encoder.metadata.calibration, rate):>24}"
        print(row)


def look_up(
    files: list[bytes], collection: Collection, encoder: Encoder, copies: int
) -> tuple[Floats, Floats]:
    """Copy scores of the pictures and their copies against all that is stored, (Q, N).

    By the background of the collection, and by that of its encoder.
    """
    chance = np.random.default_rng(7)
    with collection.store.read() as snapshot:
        stored = np.concatenate([chunk.encoding.descriptor for chunk in snapshot.present()])
        background = snapshot.background()
    assert background is not None  # since it is calibrated
    parts: list[Encoding] = []
    for data in tqdm(files, "looking up", leave=False):
        picture = encoder.load(data)
        encoding = encoder.encode(picture.pixels[np.newaxis])
        asked = CopyQuery(encoding, [picture.fingerprint.perceptual_hash])
        if collection.copies(asked, threshold=9.0):
            continue
        image = _image(data)
        names = chance.permutation(list(EDITS))[:copies].tolist()
        pixels = [picture.pixels]
        pixels += [encoder.load(EDITS[name].file(image, chance)).pixels for name in names]
        parts.append(encoder.encode(np.stack(pixels)))
    asked_for = Encoding.concatenate(parts)
    cosines = asked_for.descriptor @ stored.T
    own = background.offsets(asked_for.descriptor)
    return cosines - own[:, None], cosines - asked_for.descriptor_offset[:, None]


def _image(data: bytes) -> Image.Image:
    return Image.fromarray(upright(data, longest=512).pixels)


def _kept(scores: Floats, curve: Calibration, rate: float) -> str:
    try:
        threshold = curve.threshold_for(rate)
    except ValueError:
        return "not measured"
    found, promised = float((scores >= threshold).mean()), curve.rate_at(threshold)
    return f"{found:.2e} / {promised:.2e} = {found / promised:.2f}"


def _error(curve: Calibration, errors: tuple[float, ...], rate: float) -> str:
    try:
        promised = curve.rate_at(curve.threshold_for(rate))
    except ValueError:
        return "-"
    return f"± {100 * errors[curve.false_match_rates.index(promised)]:.0f} %"


if __name__ == "__main__":
    main()
