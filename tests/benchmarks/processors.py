"""Whether an encoder's vectors depend on the processor that calculates them.

    python tests/benchmarks/processors.py [SOURCE] [--encoder FILE ...] [--cpu MODEL ...]

The first pictures of the source are encoded here and on emulated processors, by QEMU's user mode
(Debian: qemu-user): by default on a Haswell, which has AVX2 and no instructions for int8. The
figures are the lowest cosine between both vectors of a picture, and the largest difference of a
component.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from index import sources
from index.encoder import DEFAULT_ENCODER, Encoder

PICTURES = 6

Vectors = tuple[NDArray[np.float32], NDArray[np.float32]]

_THERE = """
import io, sys
import numpy as np
from index.encoder import Encoder
pixels = np.load(io.BytesIO(sys.stdin.buffer.read()))
encoding = Encoder(sys.argv[1], provider="cpu", threads=1).encode(pixels)
file = io.BytesIO()
np.savez(file, embedding=encoding.embedding, descriptor=encoding.descriptor)
sys.stdout.buffer.write(file.getvalue())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", nargs="?", default="demo/photographs")
    parser.add_argument("--encoder", action="append", type=Path, help="may be given repeatedly")
    parser.add_argument("--cpu", action="append", help="a model that QEMU emulates, likewise")
    arguments = parser.parse_args()

    files = [item.read() for item in islice(sources.scan(arguments.source), PICTURES)]
    print(f"{'encoder':28}{'processor':>12}{'lowest cosine':>16}{'largest difference':>20}")
    for path in arguments.encoder or [DEFAULT_ENCODER]:
        encoder = Encoder(path, provider="cpu", threads=1)
        pixels = np.stack([encoder.load(data).pixels for data in files])
        here = encoder.encode(pixels)
        for cpu in arguments.cpu or ["Haswell"]:
            there = emulated(cpu, path, pixels)
            pairs = list(zip((here.embedding, here.descriptor), there, strict=True))
            cosine = min(float((one * other).sum(1).min()) for one, other in pairs)
            difference = max(float(np.abs(one - other).max()) for one, other in pairs)
            print(f"{path.name:28}{cpu:>12}{cosine:16.6f}{difference:20.2g}")


def emulated(cpu: str, encoder: Path, pixels: NDArray[np.uint8]) -> Vectors:
    """Embedding and descriptor of the pictures, uint8 (N, S, S, 3), as this processor has them."""
    sent = io.BytesIO()
    np.save(sent, pixels)
    command = ["qemu-x86_64", "-cpu", cpu, sys.executable, "-c", _THERE, str(encoder)]
    done = subprocess.run(command, input=sent.getvalue(), stdout=subprocess.PIPE, check=True)
    found = np.load(io.BytesIO(done.stdout))
    return found["embedding"], found["descriptor"]


if __name__ == "__main__":
    main()
