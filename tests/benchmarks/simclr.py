"""Kindred's training step beside that of lightly's SimCLR, in the same run.

    python tests/benchmarks/simclr.py --data cifar10/test.parquet --peer-python peer/bin/python

lightly is no dependency and brings packages of its own, so it has an environment of its own, with
the torch of Kindred's:

    python -m venv peer
    peer/bin/pip install lightly timm torch==2.15.0

Both train the same backbone and projection head on the same decoded pixels, held in memory: same
stem, memory layout, precision, batch, optimiser and strength of augmentation. Otherwise each does
as its documentation says. lightly makes views image by image in the workers of a DataLoader and
passes first and second views through the network in turn; Kindred makes them in batches on the
device and passes them together.

Views alone and whole steps are timed by turns, each time in a new process, after a warm-up. The
table has medians over the rounds, and the lowest and highest; the ratio is Kindred's views per
second over lightly's. Before it both losses are compared on the same projections.

On a CPU nothing else may run: where another program has a core, torch's threads wait for one
another much longer than they work. There OMP_NUM_THREADS=1 with --workers 1 tells more.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from trainer.backbones import create_backbone
from trainer.objectives.simclr import nt_xent
from trainer.precision import in_bf16
from trainer.views import ViewSettings

# This file runs in both environments: what only one of them has is imported in functions.

ROOT = Path(__file__).parents[2]
PROJECTION_WIDTH = 128
TEMPERATURE = 0.2
RATE = 0.01
WEIGHT_DECAY = 1e-6
LARGEST_DIFFERENCE = 1e-5
"""Of the losses, and of their gradients over the largest entry."""


@dataclass(frozen=True)
class Task:
    """What a process of its own measures.

    Attributes:
        what: views, or whole steps.
        pixels: .npy file of uint8 (N, S, S, 3).
        uncounted, counted: batches of the warm-up, and after it.
        workers: of lightly's DataLoader.
    """

    library: str
    what: str
    pixels: str
    backbone: str
    size: int
    batch_size: int
    uncounted: int
    counted: int
    device: str
    workers: int
    compile: bool
    bf16: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder, Parquet or tar shards")
    parser.add_argument("--peer-python", help="of the environment with lightly")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backbone", default="resnet18", help="model of timm, by name")
    parser.add_argument("--image-sizes", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--batch-size", type=int, default=256, help="images a step")
    parser.add_argument("--batches", type=int, help="counted in a round [4, on a GPU 200]")
    parser.add_argument("--rounds", type=int, default=3)
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--workers", type=int, default=cores, help="of lightly [one a core]")
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile both networks, and our views"
    )
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16"),
        help="of both; auto: what the trainer takes [auto]",
    )  # fmt: skip
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child == "agreement":
        print(json.dumps(agreement()))
    elif arguments.child:
        print(json.dumps(measure(Task(**json.loads(arguments.child)))))
    elif arguments.data and arguments.peer_python:
        compare(arguments)
    else:
        parser.error("--data and --peer-python are needed")


def compare(arguments: argparse.Namespace) -> None:
    """Print whether the losses agree, then the table."""
    from index.image import Fit
    from trainer.data import load_images

    pythons = {"Kindred": sys.executable, "lightly": arguments.peer_python}
    on_gpu = arguments.device.startswith("cuda")
    counted = arguments.batches or (200 if on_gpu else 4)
    # Workers that begin together deliver together: count whole deliveries.
    counted += -counted % max(1, arguments.workers)

    backbone = create_backbone(arguments.backbone, arguments.image_sizes[0])
    bf16 = in_bf16(arguments.precision, backbone, torch.device(arguments.device))

    found = run(arguments.peer_python, "agreement")
    print(
        f"lightly {found['lightly']}, torch {found['torch']}; Kindred, torch {torch.__version__}\n"
        f"NT-Xent of the same projections: {found['ours']:.6f} and {found['theirs']:.6f}, "
        f"relative difference {found['difference']:.0e}, of gradients {found['of_gradients']:.0e}"
    )
    if not max(found["difference"], found["of_gradients"]) < LARGEST_DIFFERENCE:
        raise SystemExit(f"the losses differ by more than {LARGEST_DIFFERENCE}")
    print(
        f"{arguments.backbone}, batches of {arguments.batch_size} images, {arguments.device}, "
        f"{'bf16' if bf16 else 'fp32'}{', compiled' if arguments.compile else ''}, "
        f"{torch.get_num_threads()} threads, {arguments.workers} workers for lightly, "
        f"{arguments.rounds} rounds of {counted} batches, "
        f"load average {os.getloadavg()[0]:.1f} before\n"
        f"  px  what   library  ms a batch   (lowest,  highest)  batches/s   views/s  ratio"
    )
    for size in arguments.image_sizes:
        with tempfile.TemporaryDirectory() as folder:
            pixels = Path(folder, "pixels.npy")
            np.save(pixels, load_images(arguments.data, Fit(size), Path(folder)).pixels)
            for what in ("views", "steps"):
                seconds: dict[str, list[float]] = {library: [] for library in pythons}
                for library in list(pythons) * arguments.rounds:
                    task = Task(
                        library=library,
                        what=what,
                        pixels=str(pixels),
                        backbone=arguments.backbone,
                        size=size,
                        batch_size=arguments.batch_size,
                        uncounted=50 if on_gpu else 2,
                        counted=counted,
                        device=arguments.device,
                        workers=arguments.workers,
                        compile=arguments.compile,
                        bf16=bf16,
                    )
                    taken = run(pythons[library], json.dumps(asdict(task)))
                    seconds[library].append(taken["seconds"])
                for library, each in seconds.items():
                    rate = 1 / median(each)
                    print(
                        f"{size:4}  {what}  {library}  {1000 / rate:10.1f}  "
                        f"({1000 * min(each):8.1f}, {1000 * max(each):8.1f})  {rate:9.3f}"
                        f"{2 * arguments.batch_size * rate:10,.0f}"
                        f"{median(seconds['lightly']) * rate:7.2f}",
                        flush=True,
                    )


def run(python: str, child: str) -> dict[str, Any]:
    """What a process of that Python prints, which finds Kindred's modules here."""
    command = [python, __file__, "--child", child]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def agreement() -> dict[str, Any]:
    """Both losses of the same projections, and how far they and their gradients are apart."""
    import lightly
    from lightly.loss import NTXentLoss

    z = torch.randn(2, 256, PROJECTION_WIDTH, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    ours, theirs = nt_xent(z[0], z[1], TEMPERATURE), NTXentLoss(TEMPERATURE)(z[0], z[1])
    our, their = (torch.autograd.grad(loss, z)[0] for loss in (ours, theirs))
    return {
        "lightly": lightly.__version__,
        "torch": torch.__version__,
        "ours": ours.item(),
        "theirs": theirs.item(),
        "difference": abs(ours.item() / theirs.item() - 1),
        "of_gradients": ((our - their).abs().max() / their.abs().max()).item(),
    }


def measure(task: Task) -> dict[str, float]:
    """Seconds a batch, once warm."""
    torch.manual_seed(0)
    pixels_NSSC = np.load(task.pixels)
    batches = {"Kindred": of_kindred, "lightly": of_lightly}[task.library](task, pixels_NSSC)

    def time_after(number: int) -> float:
        next(islice(batches, number - 1, None))
        if task.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    started = time_after(task.uncounted)
    return {"seconds": (time_after(task.counted) - started) / task.counted}


def of_kindred(task: Task, pixels_NSSC: NDArray[np.uint8]) -> Iterator[None]:
    """Batch after batch as `trainer/pretrain.py` takes them."""
    from trainer.loader import Batches
    from trainer.memory import keep_freed_memory
    from trainer.network import Network
    from trainer.optimisers import create_optimizer, set_rate
    from trainer.pretrain import training_views
    from trainer.settings import PretrainSettings

    settings = PretrainSettings(
        data=task.pixels,
        out=task.pixels,
        backbone=task.backbone,
        image_size=task.size,
        batch_size=task.batch_size,
        compile=task.compile,
        option={"temperature": TEMPERATURE, "projection_width": PROJECTION_WIDTH},
        weight_decay=WEIGHT_DECAY,
    )
    device = torch.device(task.device)
    if device.type == "cpu":
        keep_freed_memory()
    network = Network(settings).to(device).to(memory_format=torch.channels_last)
    optimizer = create_optimizer("sgd", network, WEIGHT_DECAY)
    set_rate(optimizer, RATE)
    if task.compile:
        network.compile()

    random = np.random.default_rng(0)
    rows = (np.sort(random.integers(len(pixels_NSSC), size=task.batch_size)) for _ in count())
    with Batches(pixels_NSSC, device) as batches:
        for step, batch_N3SS in enumerate(batches.of(rows)):
            views = training_views(batch_N3SS, settings, step)
            if task.what == "steps":
                with torch.autocast(device.type, torch.bfloat16, enabled=task.bf16):
                    loss = network(views)["loss"]
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            yield


class Pictures(Dataset[list[Tensor]]):
    """Both views of a picture, as lightly's documentation makes them."""

    def __init__(self, pixels_NSSC: NDArray[np.uint8], transform: Any) -> None:
        self.pixels_NSSC = pixels_NSSC
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pixels_NSSC)

    def __getitem__(self, row: int) -> list[Tensor]:
        views: list[Tensor] = self.transform(Image.fromarray(self.pixels_NSSC[row]))
        return views


class SimCLR(nn.Module):
    """lightly's example of the model, on Kindred's backbone."""

    def __init__(self, backbone: str, size: int) -> None:
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__()
        self.backbone = create_backbone(backbone, size)
        width = self.backbone.width
        self.projection_head = SimCLRProjectionHead(width, width, PROJECTION_WIDTH)

    def forward(self, x_N3SS: Tensor) -> Tensor:
        z_NK: Tensor = self.projection_head(self.backbone(x_N3SS)[1])
        return z_NK


def of_lightly(task: Task, pixels_NSSC: NDArray[np.uint8]) -> Iterator[None]:
    """Batch after batch as lightly's example of SimCLR takes them."""
    from lightly.loss import NTXentLoss
    from lightly.transforms import SimCLRTransform

    views = ViewSettings.published(task.size)
    pictures = Pictures(
        pixels_NSSC,
        SimCLRTransform(
            input_size=task.size,
            cj_strength=views.jitter_strength,
            gaussian_blur=views.blur_probability,
        ),
    )
    device = torch.device(task.device)
    # More than is asked for, so that the workers are busy to the end.
    batches = task.uncounted + task.counted + 4 * task.workers
    loader = DataLoader(
        pictures,
        task.batch_size,
        sampler=RandomSampler(pictures, num_samples=batches * task.batch_size),
        num_workers=task.workers,
        pin_memory=device.type == "cuda",
    )
    model = SimCLR(task.backbone, task.size).to(device).to(memory_format=torch.channels_last)
    criterion = NTXentLoss(TEMPERATURE)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RATE, momentum=0.9, weight_decay=WEIGHT_DECAY
    )
    if task.compile:
        model.compile()
    for first, second in loader:
        x0 = first.to(device, memory_format=torch.channels_last, non_blocking=True)
        x1 = second.to(device, memory_format=torch.channels_last, non_blocking=True)
        if task.what == "steps":
            with torch.autocast(device.type, torch.bfloat16, enabled=task.bf16):
                loss = criterion(model(x0), model(x1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield


if __name__ == "__main__":
    main()
