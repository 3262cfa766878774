"""Every method of `kindred-train pretrain --method` on CIFAR-10, with as many views each.

    python tests/benchmarks/methods.py cifar10/train.parquet --test cifar10/test.parquet
        [--images 10000] [--epochs 10] [--backbone resnet18] [--width 0.5] [--method simclr ...]
        [--out FOLDER] [-- --seed 1 ...]

Each method trains the same backbone from scratch on the same pictures, with the defaults of its
paper, but for heads and queues that are of ImageNet's size, which are as solo-learn sets them for
CIFAR (OF_CIFAR); what follows -- goes to every run. It is exported and measured as a user would.
Runs stay in FOLDER, so that the same command goes on where it was interrupted.

    kNN, probe   weighted kNN and linear probe of the embedding on the test pictures, learnt from
                 the training pictures
    descriptor   kNN of the projection
    RankMe       effective rank of the embedding
    minutes      of training, by the clock, with the start of the process

`untrained` is the backbone as it starts; its norms have seen the pictures. Pictures and test
pictures are the first of each source. Beside each method stands what others report for a ResNet-18
on all of CIFAR-10: solo-learn after 1,000 epochs (probe, while training), lightly after 200 (kNN).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Final

import pyarrow.parquet as parquet

from trainer.cli import main as kindred_train
from trainer.objectives import METHODS

UNTRAINED: Final = "untrained"
PRETRAINING: Final = [name for name in METHODS if name not in ("classify", "distill")]
SOLO_LEARN: Final = {
    "simclr": 0.9074, "simsiam": 0.9051, "byol": 0.9258, "moco": 0.9294, "barlow": 0.9210,
    "vicreg": 0.9207, "supcon": 0.9382, "swav": 0.8917, "dino": 0.8952,
}  # fmt: skip
LIGHTLY: Final = {
    "simclr": 0.847, "simsiam": 0.819, "byol": 0.869, "moco": 0.838, "barlow": 0.842,
    "swav": 0.812, "dino": 0.840,
}  # fmt: skip


OF_CIFAR: Final[dict[str, dict[str, int]]] = {
    "barlow": {"hidden_width": 2048, "projection_width": 2048},
    "vicreg": {"hidden_width": 2048, "projection_width": 2048},
    "dino": {"prototypes": 4096},
    "moco": {"queue_length": 32_768},
}


class Refused(Exception):
    """A command that did not do what it was told; it has said why."""


def main() -> None:
    given = sys.argv[1:]
    cut = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", type=Path, help="Parquet file with labels")
    parser.add_argument("--test", type=Path, required=True, help="likewise")
    parser.add_argument("--images", type=int, default=10_000, help="of train, and as many of test")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--method", action="append", choices=PRETRAINING, help="[all]")
    parser.add_argument("--out", type=Path, help="of the runs [a temporary folder]")
    arguments = parser.parse_args(given[:cut])
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        train, test = (
            first(source, arguments.images, out / f"{name}.parquet")
            for name, source in (("train", arguments.train), ("test", arguments.test))
        )
        common = [
            "--epochs", arguments.epochs, "--batch-size", arguments.batch_size,
            "--image-size", 32, "--backbone", arguments.backbone, "--width", arguments.width,
            *given[cut + 1 :],
        ]  # fmt: skip
        print(
            f"{arguments.images:,} pictures, {arguments.epochs} epochs, {arguments.backbone} of "
            f"width {arguments.width:g}, batches of {arguments.batch_size}\n"
            f"{'':12}{'kNN':>8}{'probe':>8}{'descriptor':>12}{'RankMe':>8}{'minutes':>9}"
            f"{'solo-learn':>12}{'lightly':>9}"
        )
        for method in (UNTRAINED, *(arguments.method or PRETRAINING)):
            try:
                scores, minutes = measure(method, train, test, out, [str(each) for each in common])
            except Refused as error:  # a collapse, for one; the others go on
                print(f"{method:12}{error}")
                continue
            line = "".join(
                f"{value:{width}}"
                for value, width in (
                    (scores["embedding"]["knn"], "8.4f"),
                    (scores["embedding"]["linear_probe"], "8.4f"),
                    (scores["descriptor"]["knn"], "12.4f"),
                    (scores["embedding"]["rankme"], "8.1f"),
                    (minutes, "9.1f"),
                )
            )
            print(f"{method:12}{line}{_known(SOLO_LEARN, method):>12}{_known(LIGHTLY, method):>9}")


def first(source: Path, count: int, place: Path) -> Path:
    """The first rows of a Parquet file, as one of its own."""
    parquet.write_table(parquet.read_table(source).slice(0, count), place)
    return place


def measure(
    method: str, train: Path, test: Path, out: Path, common: list[str]
) -> tuple[dict[str, Any], float]:
    """Figures of a method, and the minutes that it trained; both once for each folder."""
    report = out / f"{method}.json"
    if not report.exists():
        run, encoder = out / method, out / f"{method}.onnx"
        start = time.monotonic()
        if method == UNTRAINED:
            # A rate this small moves no weight, but the norms learn what pictures are.
            chosen = ["--learning-rate", "1e-12", *common, "--epochs", "1"]
        else:
            own = dict(OF_CIFAR.get(method, {}))
            if "queue_length" in own:  # no image twice
                own["queue_length"] = min(
                    own["queue_length"], parquet.read_metadata(train).num_rows
                )
            options = [f"--option={name}={value}" for name, value in own.items()]
            chosen = ["--method", method, *options, *common]
        call("pretrain", "--data", str(train), "--out", str(run), *chosen)
        minutes = (time.monotonic() - start) / 60
        call("export", str(run), "--out", str(encoder))
        scores = call(
            "evaluate", "--encoder", str(encoder), "--data", str(test), "--bank", str(train)
        )
        report.write_text(json.dumps([scores, minutes]))
    scores, minutes = json.loads(report.read_text())
    return scores, minutes


def call(*arguments: str) -> Any:
    """What a command of kindred-train answers."""
    with tempfile.TemporaryFile("w+") as file:
        with redirect_stdout(file):
            status = kindred_train([*arguments, "--json"])
        file.seek(0)
        lines = file.read().splitlines()
    if status:
        raise Refused(f"kindred-train {arguments[0]} ended with {status}")
    return json.loads(lines[-1])


def _known(figures: dict[str, float], method: str) -> str:
    return f"{figures[method]:.4g}" if method in figures else "-"


if __name__ == "__main__":
    main()
