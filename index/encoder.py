"""Pixels to vectors: runs the encoder file on ONNX Runtime.

Indexer and service call it, and so do the trainer's own checks; what is measured is what serves.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self, get_args

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from index import image
from index.artifact import Metadata, check_graph, open_session, read_bytes
from index.errors import ArtifactError, ArtifactInvalid

Provider = Literal["auto", "cuda", "cpu"]

DEFAULT_ENCODER: Final = Path(__file__).parent / "data" / "default.onnx"
"""The encoder that ships with Kindred."""

CPU: Final = "CPUExecutionProvider"
"""The provider that needs no GPU."""

_CUDA: Final = "CUDAExecutionProvider"
_CUDA_OPTIONS: Final = {
    # Vectors made on a GPU are searched with queries encoded on a CPU: TF32's ten bits of
    # mantissa would put the two a thousandth apart.
    "use_tf32": "0",
    # The default tries every convolution algorithm anew for each size of batch.
    "cudnn_conv_algo_search": "HEURISTIC",
}
_FATAL_ONLY: Final = 4
_UNIT_TOLERANCE: Final = 1e-3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Encoding:
    """The vectors of N pictures, all float32.

    ``embedding`` (N, D) tells what is similar, ``descriptor`` (N, K) what is a copy; their rows
    have unit length. ``descriptor_offset`` (N,) is what a copy score is lowered by.
    """

    embedding: NDArray[np.float32]
    descriptor: NDArray[np.float32]
    descriptor_offset: NDArray[np.float32]

    def __post_init__(self) -> None:
        shapes = (self.embedding.shape, self.descriptor.shape, self.descriptor_offset.shape)
        if [len(shape) for shape in shapes] != [2, 2, 1] or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(f"shapes are {shapes}, expected (N, D), (N, K) and (N,)")

    def __len__(self) -> int:
        return len(self.embedding)

    def __getitem__(self, rows: slice) -> Encoding:
        if not isinstance(rows, slice):
            raise TypeError(f"rows are chosen by a slice, found {rows!r}")
        return Encoding(self.embedding[rows], self.descriptor[rows], self.descriptor_offset[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[Encoding]) -> Self:
        """All rows of one or more encodings, in order."""
        return cls(
            np.concatenate([part.embedding for part in parts]),
            np.concatenate([part.descriptor for part in parts]),
            np.concatenate([part.descriptor_offset for part in parts]),
        )


class Encoder:
    """An encoder file, ready to run; safe to use from several threads.

    Attributes:
        path: of the file.
        metadata: what the file says about itself.
        sha256: of the file, in hex; a collection remembers it.
        provider: "CUDAExecutionProvider" or "CPUExecutionProvider", whichever runs it.
        fit: how pictures become its input.
        batch_size: how many pictures it runs at once.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        provider: Provider = "auto",
        threads: int | None = None,
        batch_size: int = 32,
    ) -> None:
        """Load the file and run it once, so that what cannot work fails here.

        ``auto`` takes a GPU where there is one that works, else the CPU. ``threads`` is the
        number of CPU threads that share one batch, by default one a physical core.

        Raises:
            ArtifactInvalid: the file is not there, or is not an encoder of this format.
            ArtifactError: ``cuda`` was asked for, and there is none that works.
            ValueError: an argument is out of range.
        """
        if provider not in get_args(Provider):
            raise ValueError(f"provider is {provider!r}, expected one of {get_args(Provider)}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads is {threads}, expected 1 or more")
        if batch_size < 1:
            raise ValueError(f"batch size is {batch_size}, expected 1 or more")
        model = read_bytes(path)
        self.path: Final = Path(path)
        self._session = _open(provider, model, path, threads)
        self.sha256 = hashlib.sha256(model).hexdigest()
        self.metadata: Metadata = check_graph(self._session, path)
        self.fit = self.metadata.fit_rule
        self.provider: str = self._session.get_providers()[0]
        self.batch_size = batch_size

    def load(self, data: bytes, *, max_pixels: int = image.DEFAULT_MAX_PIXELS) -> image.Picture:
        """Decode an image file and fit it to this encoder; see ``index.image.load``."""
        return image.load(data, self.fit, max_pixels=max_pixels)

    def encode(self, pixels: NDArray[np.uint8]) -> Encoding:
        """The vectors of any number of pictures, none included; uint8 (N, S, S, 3), RGB.

        Raises:
            ValueError: the pixels have another type or shape.
            ArtifactInvalid: the encoder gave vectors that are not finite or not of unit length.
        """
        size = self.fit.size
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(
                f"pixels are {pixels.dtype} {pixels.shape}, expected uint8 (N, {size}, {size}, 3)"
            )
        if len(pixels) == 0:
            return Encoding(
                np.empty((0, self.metadata.embedding_dim), np.float32),
                np.empty((0, self.metadata.descriptor_dim), np.float32),
                np.empty(0, np.float32),
            )
        return Encoding.concatenate(
            [
                _run(self._session, pixels[start : start + self.batch_size], self.path)
                for start in range(0, len(pixels), self.batch_size)
            ]
        )


def _open(
    provider: Provider, model: bytes, path: Path | str, threads: int | None
) -> onnxruntime.InferenceSession:
    """A session that has run once on the provider that was asked for, or on the best that works."""
    if provider == "cuda" or (provider == "auto" and count_cuda_devices()):
        try:
            return _prove(_open_on_cuda(model, path, _options(threads)), path)
        except ArtifactError as error:
            if provider == "cuda":
                raise
            _log.warning("%s; the CPU does the work instead", error)
    return _prove(open_session(model, path, _options(threads), [CPU]), path)


def _options(threads: int | None) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Threads that wait by spinning take the processors from those that decode the next images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _FATAL_ONLY  # what goes wrong is raised, and says more there
    return options


def _open_on_cuda(
    model: bytes, path: Path | str, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    offered = onnxruntime.get_available_providers()
    if _CUDA not in offered:
        raise ArtifactError(f"this ONNX Runtime has no CUDA, it offers {', '.join(offered)}")
    if not count_cuda_devices():
        raise ArtifactError("the NVIDIA driver is missing or shows no GPU, expected at least one")
    # CUDA has no convolutions in int8: the weights are made float once, not with every batch.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    with contextlib.redirect_stdout(sys.stderr):  # they print, and stdout may be a JSON answer
        onnxruntime.preload_dlls()  # CUDA's libraries, where pip has installed them
        session = open_session(model, path, options, [(_CUDA, _CUDA_OPTIONS), CPU])
    if session.get_providers()[0] != _CUDA:
        raise ArtifactError(
            "there is a GPU, but ONNX Runtime cannot start CUDA on it: "
            "its libraries are missing or of another version (it names them above)"
        )
    return session


def _prove(session: onnxruntime.InferenceSession, path: Path | str) -> onnxruntime.InferenceSession:
    """The same session, after one batch of noise: a missing kernel or cuDNN shows only then."""
    size = check_graph(session, path).image_size
    noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    _run(session, noise, path)
    return session


def _run(
    session: onnxruntime.InferenceSession, pixels: NDArray[np.uint8], path: Path | str
) -> Encoding:
    """One batch; no vector that would poison an index gets past."""
    names = ["embedding", "descriptor", "descriptor_offset"]
    try:
        outputs = session.run(names, {"images": np.ascontiguousarray(pixels)})
        encoding = Encoding(*outputs)
    except Exception as error:  # ONNX Runtime's errors have no common base below Exception
        raise ArtifactInvalid(f"encoder {path} does not run: {error}") from error
    for name, rows in (("embedding", encoding.embedding), ("descriptor", encoding.descriptor)):
        lengths = np.linalg.norm(rows, axis=1)
        if not np.all(np.abs(lengths - 1.0) < _UNIT_TOLERANCE):
            raise ArtifactInvalid(
                f"encoder {path} gave {name} rows of length {lengths}, expected 1"
            )
    if len(encoding) != len(pixels) or not np.all(np.isfinite(encoding.descriptor_offset)):
        raise ArtifactInvalid(
            f"encoder {path} gave {len(encoding)} rows for {len(pixels)} pictures, "
            f"with offsets {encoding.descriptor_offset}"
        )
    return encoding


def count_cuda_devices() -> int:
    """How many GPUs the NVIDIA driver shows.

    The driver is asked directly, since ONNX Runtime's way to say "none" is a page of warnings.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
