"""What made a run: recorded beside its settings, and compared when it is repeated."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

import torch

import index
from index.errors import RunError
from trainer import checkpoint, distributed
from trainer.precision import cpu_has_bf16

PACKAGES = ("torch", "timm", "numpy", "Pillow")
"""Those whose version can change the numbers of a run."""


def versions(device: torch.device) -> dict[str, str]:
    """What the numbers depend on, by name: versions, device, the CPU's instructions and threads.

    The threads share out sums, whose order changes what is rounded; the processes that torchrun
    started share out batches, and each draws views of its own.
    """
    instructions = torch.backends.cpu.get_cpu_capability()
    return {
        "python": platform.python_version(),
        "processor": f"{instructions} with bf16" if cpu_has_bf16() else instructions,
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": str(distributed.processes()),
    } | {name: version(name) for name in PACKAGES}


def code_digest() -> str:
    """SHA-256 over the source of the trainer and of the index that it reads images with."""
    digest = hashlib.sha256()
    for package in (Path(index.__file__).parent, Path(__file__).parent):
        for path in sorted(package.rglob("*.py")):
            digest.update(f"{path.relative_to(package.parent)}\0".encode())
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


WEIGHTS = {
    "start_digest": "from_", "companion_digest": "companion_from", "teacher_digest": "teacher"
}  # fmt: skip
"""The digests that a run records of other runs and files, and the settings that name those."""


def weights_digest(path: str | None) -> str | None:
    """SHA-256 of the weights of a run or of an encoder file, in hex.

    Raises:
        RunError: they cannot be read.
    """
    if path is None:
        return None
    file = Path(path, checkpoint.CHECKPOINT) if Path(path).is_dir() else Path(path)
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}") from error
