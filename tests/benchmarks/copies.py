"""Which edited copies the descriptor finds at the default false match rate, beside pHash.

    python tests/benchmarks/copies.py [SOURCE] [--encoder FILE]

Each picture of the source is edited, and the edit is looked up among all the originals. Recall is
the share whose own original reaches the threshold; false counts the other originals that do, over
all lookups. The peer is pHash at a Hamming distance of at most 10; install it first:

    pip install imagehash
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from index import sources
from index.encoder import DEFAULT_ENCODER, Encoder, Encoding

PHASH_DISTANCE = 10


def crop(share: float) -> Callable[[Image.Image], Image.Image]:
    """Keep the middle, this share of the area."""

    def edit(image: Image.Image) -> Image.Image:
        width, height = (round(side * share**0.5) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    return edit


def banner(image: Image.Image) -> Image.Image:
    """White over the lowest 15 %."""
    edited = image.copy()
    top = round(0.85 * image.height)
    ImageDraw.Draw(edited).rectangle((0, top, image.width, image.height), fill="white")
    return edited


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG, quality 30": lambda image: image,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "grey": lambda image: image.convert("L"),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "banner over 15 %": banner,
    "turned by 5 degrees": lambda image: image.rotate(5),
    "crop to 80 % of the area": crop(0.8),
    "crop to 50 % of the area": crop(0.5),
    "crop to 30 % of the area": crop(0.3),
    "turned by 90 degrees": lambda image: image.transpose(Image.Transpose.ROTATE_90),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", default="demo/photographs")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER)
    arguments = parser.parse_args()
    encoder = Encoder(arguments.encoder)
    threshold = encoder.metadata.calibration.default_threshold()

    def encode(files: list[bytes]) -> Encoding:
        return encoder.encode(np.stack([encoder.load(data).pixels for data in files]))

    def hashes(files: list[bytes]) -> NDArray[np.bool_]:
        return np.stack(
            [imagehash.phash(Image.open(io.BytesIO(data))).hash.ravel() for data in files]
        )

    originals = [item.read() for item in sources.scan(arguments.source)]
    known, known_hashes = encode(originals), hashes(originals)
    own = np.eye(len(originals), dtype=bool)
    print(f"{len(originals):,} pictures, copy score at least {threshold:.3f}")
    print(f"{'':26}{'recall':>8}{'false':>7}{'pHash recall':>14}{'false':>7}")
    for name, edit in EDITS.items():
        edited = []
        for data in originals:
            buffer = io.BytesIO()
            image = edit(Image.open(io.BytesIO(data)).convert("RGB"))
            image.save(buffer, "JPEG", quality=30 if name.startswith("JPEG") else 85)
            edited.append(buffer.getvalue())
        query = encode(edited)
        score = query.descriptor @ known.descriptor.T - query.descriptor_offset[:, None]
        distance = (hashes(edited)[:, None] != known_hashes[None]).sum(2)
        columns = []
        for found in (score >= threshold, distance <= PHASH_DISTANCE):
            columns += [found[own].mean(), int(found[~own].sum())]
        print(f"{name:26}{columns[0]:8.3f}{columns[1]:7}{columns[2]:14.3f}{columns[3]:7}")


if __name__ == "__main__":
    main()
