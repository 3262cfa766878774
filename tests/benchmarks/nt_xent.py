"""Memory, time and exactness of chunked NT-Xent, beside the dense cross entropy.

    python tests/benchmarks/nt_xent.py [--device cuda] [--views 65536] [--width 128]

The peer is the formulation that most code has: the matrix of all pairs of views, a mask over its
diagonal, cross_entropy. It runs where its matrix fits. Time and memory are those of forward and
backward together, each measured in a process of its own, above what the process held before: peak
resident memory on a CPU, peak allocated memory on a GPU. The gradient's error is the largest
anywhere against the dense formulation in float64, over the largest entry of that gradient.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor
from torch.nn import functional

from trainer.objectives.simclr import nt_xent

TEMPERATURE = 0.2
LARGEST_DENSE = 16_384
"""Views; at 65,536 the dense formulation would take some 64 GiB."""

LEAST_SECONDS = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--views", type=int, default=65_536, help="largest number of views")
    parser.add_argument("--width", type=int, default=128, help="of a projection")
    parser.add_argument("--repeats", type=int, default=3, help="at least; the fastest counts")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments)))
        return

    print(f"{arguments.device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("  views  chunked             dense               dense / chunked")
    for views in (1_024, 4_096, 16_384, 65_536):
        if views > arguments.views:
            break
        chunked = child("chunked", views, arguments)
        line = f"{views:7,}  {chunked['seconds']:7.3f} s {chunked['mib']:6.0f} MiB"
        if views <= LARGEST_DENSE:
            dense = child("dense", views, arguments)
            line += f"  {dense['seconds']:7.3f} s {dense['mib']:6.0f} MiB"
            line += f"  {dense['seconds'] / chunked['seconds']:.2f} x time"
            line += f"  {dense['mib'] / max(1, chunked['mib']):.2f} x memory"
        print(line, flush=True)

    exact = step("dense", projections(4_096, arguments, torch.float64))
    for name in ("chunked", "dense"):
        error = (step(name, projections(4_096, arguments)).double() - exact).abs().max()
        print(
            f"largest error of a gradient, {name} float32: {float(error / exact.abs().max()):.1e}"
        )


def dense(z_a: Tensor, z_b: Tensor, temperature: float) -> Tensor:
    """NT-Xent with all pairs at once."""
    z = functional.normalize(torch.cat([z_a, z_b]), dim=1)
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), -torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(z), device=z.device).roll(len(z_a)))


def child(name: str, views: int, arguments: argparse.Namespace) -> dict[str, float]:
    """The figures of one formulation, from a process of its own."""
    command = [sys.executable, __file__, "--child", name, "--views", str(views)]
    for flag in ("device", "width", "repeats"):
        command += [f"--{flag}", str(getattr(arguments, flag))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and MiB of forward and backward."""
    step(arguments.child, projections(256, arguments))  # loads threads, libraries and kernels
    z = projections(arguments.views, arguments)
    on_gpu = z.device.type == "cuda"
    before = torch.cuda.memory_allocated() if on_gpu else resident_peak()
    seconds: list[float] = []
    while len(seconds) < arguments.repeats or sum(seconds) < LEAST_SECONDS:
        started = time.perf_counter()
        step(arguments.child, z)
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if on_gpu else resident_peak()
    return {"seconds": min(seconds), "mib": (peak - before) / 2**20}


def resident_peak() -> int:
    """Most bytes that this process ever held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def projections(
    views: int, arguments: argparse.Namespace, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Two views each, (2, views / 2, K), half alike."""
    generator = torch.Generator().manual_seed(0)
    image, view = torch.randn(2, 2, views // 2, arguments.width, generator=generator)
    image[1] = image[0]
    z: Tensor = (image + view).to(arguments.device, dtype)
    return z.requires_grad_()


def step(name: str, z: Tensor) -> Tensor:
    """The gradient of the loss."""
    loss: Tensor = (nt_xent if name == "chunked" else dense)(z[0], z[1], TEMPERATURE)
    return torch.autograd.grad(loss, z)[0]


if __name__ == "__main__":
    main()
