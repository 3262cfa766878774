"""Views per second of the augmentations, beside torchvision's of one image at a time, same run.

    python tests/benchmarks/views.py [--sizes 32 64 128] [--device cuda] [--compile] [--json FILE]

The peer is SimCLR's recipe from torchvision.transforms.v2 as it is usually written, each image by
itself, on uint8 tensors that are decoded already. Ours and theirs take turns on the same images of
twice the size of a view, with the same number of threads; the figures are medians. With --device
cuda ours are made on the GPU, theirs on the CPU all the same: they are meant for its workers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2

from trainer.edits import EditSettings, make_edits
from trainer.views import ViewSettings, make_views


def torchvision_recipe(settings: ViewSettings) -> Callable[[Tensor], Tensor]:
    """What ``make_views`` does, of torchvision's parts: uint8 (3, H, W) to float32 (3, S, S)."""
    strength, size = settings.jitter_strength, settings.size
    jitter = v2.ColorJitter(*[0.8 * strength] * 3, 0.2 * strength)
    parts = [
        v2.RandomResizedCrop(size, settings.crop_area, settings.crop_ratio, antialias=True),
        v2.RandomHorizontalFlip(settings.flip_probability),
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomApply([jitter], settings.jitter_probability),
        v2.RandomGrayscale(settings.grey_probability),
    ]
    if settings.blur_probability:
        blur = v2.GaussianBlur(2 * (size // 20) + 1, settings.blur_sigma)
        parts.append(v2.RandomApply([blur], settings.blur_probability))
    recipe: Callable[[Tensor], Tensor] = v2.Compose(parts)
    return recipe


def rate(images_N3HW: Tensor, views: Callable[[Tensor], object]) -> float:
    """Images a second of one call."""
    start = time.perf_counter()
    views(images_N3HW)
    if images_N3HW.is_cuda:
        torch.cuda.synchronize()
    return len(images_N3HW) / (time.perf_counter() - start)


def measure(size: int, batch: int, rounds: int, device: str, compiled: bool) -> dict[str, float]:
    """Views a second of each, by name."""
    # As data are stored: pixels by rows, colours innermost.
    stored_NHW3 = torch.randint(0, 256, (batch, 2 * size, 2 * size, 3), dtype=torch.uint8)
    images_N3HW = stored_NHW3.permute(0, 3, 1, 2)
    separate = [image.contiguous() for image in images_N3HW[: max(16, batch // 8)]]
    on_device = stored_NHW3.to(device).permute(0, 3, 1, 2)
    generator = torch.Generator(device).manual_seed(0)
    recipe, edits = ViewSettings.published(size), EditSettings(size)
    theirs = torchvision_recipe(recipe)
    timed: dict[str, Callable[[], float]] = {
        "torchvision": lambda: rate(
            images_N3HW[: len(separate)], lambda _: [theirs(image) for image in separate]
        ),
        "views": lambda: rate(on_device, lambda x: make_views(x, recipe, generator, compiled)),
        "edits": lambda: rate(on_device, lambda x: make_edits(x, edits, generator, compiled)),
    }
    rates: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(rounds + 2):  # the first two warm up
        for name, run in timed.items():
            figure = run()
            if turn >= 2:
                rates[name].append(figure)
    return {name: statistics.median(figures) for name, figures in rates.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, help="of torch, for both [one a core]")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="ours, with torch.compile")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    print(f"{chosen.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(
        f"{'px':>5}{'torchvision':>14}{'make_views':>14}{'ratio':>8}{'make_edits':>14}{'ratio':>8}"
    )
    table = {}
    for size in chosen.sizes:
        each = measure(size, chosen.batch, chosen.rounds, chosen.device, chosen.compile)
        table[str(size)] = each
        peer = each["torchvision"]
        print(
            f"{size:>5}{peer:>12,.0f}/s{each['views']:>12,.0f}/s{each['views'] / peer:>8.2f}"
            f"{each['edits']:>12,.0f}/s{each['edits'] / peer:>8.2f}",
            flush=True,
        )
    if chosen.json:
        chosen.json.write_text(json.dumps(table, indent=2) + "\n")


if __name__ == "__main__":
    main()
