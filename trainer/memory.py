"""How the process keeps its memory."""

from __future__ import annotations

import ctypes
import os
import re

import torch

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is what torch, NumPy or ONNX Runtime say where there is too little of it.

    They have classes of their own on GPUs at most; on a CPU the sentence tells.
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or bool(
        re.search("(out of|not enough|allocate) memory", str(error))
    )


def keep_freed_memory() -> bool:
    """Have this process reuse the memory that it frees, for as long as it lives.

    The C library would give every large buffer back to the system, which clears the pages of the
    next one: on a CPU hundreds of thousands of page faults a step (EXPERIMENTS.md).

    Returns:
        Whether the C library can be told; the one of GNU can.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
