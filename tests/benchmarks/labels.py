"""What a few labels bring, by model size: CIFAR-10, as SimCLRv2's table 1 has it for ImageNet.

    python tests/benchmarks/labels.py cifar10/train.parquet --test cifar10/test.parquet
        [--images 10000] [--epochs 10] [--tune-epochs 10] [--backbone resnet18]
        [--width 0.25 --width 0.5] [--labels 1% --labels 10% --labels all] [--out FOLDER]

For each width: `kindred-train pretrain --method simclr2` on all pictures without labels, then
`finetune` with a share of the labels; beside it the same network with the same labels and as many
steps, from scratch. Last, `distill` from the largest network that was fine-tuned with the fewest
labels to each smaller one, on all pictures without labels. Figures are top-1 on the test pictures.
Runs stay in FOLDER, so that the same command goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from methods import call, first

RATE = ["--optimizer", "adamw", "--learning-rate", "1e-3"]
"""Of everything alike: in so few steps the papers' warm-ups would not come far."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("train", type=Path, help="Parquet file with labels")
    parser.add_argument("--test", type=Path, required=True, help="likewise")
    parser.add_argument("--images", type=int, default=10_000, help="of train, and as many of test")
    parser.add_argument("--epochs", type=int, default=10, help="without labels")
    parser.add_argument("--tune-epochs", type=int, default=10, help="of all labels")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--width", type=float, action="append", help="[0.25, 0.5]")
    parser.add_argument("--labels", action="append", help="[1%%, 10%%, all]")
    parser.add_argument("--out", type=Path, help="of the runs [a temporary folder]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        table(arguments, out)


def table(arguments: argparse.Namespace, out: Path) -> None:
    """Print a row a width, and one a student."""
    train, test = (
        first(source, arguments.images, out / f"{name}.parquet")
        for name, source in (("train", arguments.train), ("test", arguments.test))
    )
    widths = sorted(arguments.width or [0.25, 0.5])
    labels = arguments.labels or ["1%", "10%", "all"]
    common = ["--data", str(train), "--image-size", "32", "--eval-data", str(test)]
    common += ["--eval-every-epochs", "1e6"]  # at the start and at the end

    def tuned(width: float, share: str, start: Path | None) -> Path:
        run = out / f"{'tuned' if start else 'scratch'}-{width:g}-{share.rstrip('%')}"
        part = float(share[:-1]) / 100 if share.endswith("%") else 1.0
        batch = min(arguments.batch_size, max(10, round(arguments.images * part / 5)))
        epochs = max(1, round(arguments.tune_epochs / part * batch / arguments.batch_size))
        steps = ["--labels", share, "--batch-size", str(batch), "--epochs", str(epochs), *RATE]
        if start:
            call("finetune", *common, *steps, "--from", str(start), "--out", str(run))
        else:
            size = ["--backbone", arguments.backbone, "--width", str(width)]
            call("pretrain", "--method", "classify", *common, *steps, *size, "--out", str(run))
        return run

    print(f"{arguments.images:,} pictures, {arguments.epochs} epochs without labels")
    print(f"{arguments.backbone:24}{''.join(f'{each:>12}' for each in labels)}")
    best: Path | None = None
    for width in reversed(widths):
        start = out / f"start-{width:g}"
        call("pretrain", "--method", "simclr2", "--data", str(train), "--image-size", "32",
             "--backbone", arguments.backbone, "--width", str(width), "--out", str(start),
             "--epochs", str(arguments.epochs), "--batch-size", str(arguments.batch_size),
             *RATE)  # fmt: skip
        for name, origin in (("fine-tuned", start), ("from scratch", None)):
            runs = [tuned(width, share, origin) for share in labels]
            best = best or runs[0]
            print(f"{name + f', x{width:g}':24}{''.join(f'{top1(run):12.3f}' for run in runs)}")
    for width in widths[:-1]:
        run = out / f"student-{width:g}"
        call("distill", *common, "--teacher", str(best), "--out", str(run), "--epochs",
             str(arguments.epochs), "--batch-size", str(arguments.batch_size), "--backbone",
             arguments.backbone, "--width", str(width), *RATE)  # fmt: skip
        print(f"{f'distilled, x{width:g}':24}{top1(run):12.3f}")


def top1(run: Path) -> float:
    """The last share of test pictures that a run's classifier told right."""
    lines = (json.loads(line) for line in (run / "log.jsonl").read_text().splitlines())
    return float([line["top1"] for line in lines if "top1" in line][-1])


if __name__ == "__main__":
    main()
