"""A real encoder in a few kilobytes, for tests: colours on a grid, a fixed random projection.

It needs no training and no torch, yet does the job: a re-encoded or resized copy scores near an
exact one, and another picture lower.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from index.artifact import Calibration, Metadata
from index.image import Fit, fit_pixels

_EMBEDDING_GRID = 4
_DESCRIPTOR_GRID = 8
_BACKGROUND_PICTURES = 64
_CALIBRATION_PICTURES = 625  # 390,000 ordered pairs: round rates are measured exactly


def build(
    path: Path,
    *,
    size: int = 32,
    embedding_dim: int = 64,
    descriptor_dim: int = 32,
    seed: int = 0,
) -> Path:
    """Write an encoder of this shape to ``path``; another seed gives other vectors.

    ``size`` is a multiple of 8. The calibration is measured, on synthetic pictures.
    """
    random = np.random.default_rng(seed)
    graph = _Graph()
    scaled = graph.add(
        "Mul", graph.add("Cast", "images", to=TensorProto.FLOAT), np.float32(1 / 255)
    )
    planes = graph.add("Transpose", graph.add("Sub", scaled, np.float32(0.45)), perm=[0, 3, 1, 2])
    for name, grid, dim in (
        ("embedding", _EMBEDDING_GRID, embedding_dim),
        ("descriptor", _DESCRIPTOR_GRID, descriptor_dim),
    ):
        cells = graph.add(
            "AveragePool", planes, kernel_shape=[size // grid] * 2, strides=[size // grid] * 2
        )
        if name == "descriptor":  # what sets this picture apart, not how bright it is overall
            mean = graph.add("GlobalAveragePool", cells)
            cells = graph.add("Sub", cells, mean)
        features = 3 * grid * grid
        weight = random.normal(0, features**-0.5, (features, dim)).astype(np.float32)
        bias = random.normal(0, 0.02, dim).astype(np.float32)  # a blank picture has a direction too
        hidden = graph.add("Tanh", graph.add("Gemm", graph.add("Flatten", cells), weight, bias))
        length = graph.add("ReduceL2", hidden, np.array([1]), keepdims=1)
        graph.add("Div", hidden, length, output=name)

    pictures = _pictures(_BACKGROUND_PICTURES + _CALIBRATION_PICTURES, size, random)
    descriptors = _run(graph.model(size, {"descriptor": descriptor_dim}), pictures)[0]
    background, sample = np.split(descriptors, [_BACKGROUND_PICTURES])
    similarity = graph.add("MatMul", "descriptor", np.ascontiguousarray(background.T))
    highest = graph.add("TopK", similarity, np.array([3]), outputs=2)
    offset = graph.add("ReduceMean", highest, np.array([1]), keepdims=0)
    graph.add("Identity", offset, output="descriptor_offset")

    model = graph.model(
        size, {"embedding": embedding_dim, "descriptor": descriptor_dim, "descriptor_offset": None}
    )
    offsets = _run(model, pictures)[2][_BACKGROUND_PICTURES:]
    metadata = Metadata(
        format_version=1,
        image_size=size,
        fit="stretch",
        kernel="bilinear",
        embedding_dim=embedding_dim,
        descriptor_dim=descriptor_dim,
        method="random projection",
        backbone="colour grid",
        training_data="none",
        run_id=f"tiny-{seed}",
        precision="fp32",
        calibration=_calibrate(sample, offsets),
    )
    helper.set_model_props(model, metadata.to_properties())
    path.write_bytes(model.SerializeToString())
    return path


def build_another(path: Path) -> Path:
    """Write an encoder of another shape to ``path``, so that no vector of one fits the other."""
    return build(path, size=40, embedding_dim=48, descriptor_dim=24, seed=1)


class _Graph:
    """Nodes and constants in the making, each value under a name of its own."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._names = (f"value{number}" for number in count())

    def add(
        self,
        operator: str,
        *inputs: str | NDArray[np.float32] | NDArray[np.int64] | np.float32,
        output: str | None = None,
        outputs: int = 1,
        **attributes: Any,
    ) -> str:
        """Append a node and give the name of its first output."""
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        produced = [output or next(self._names) for _ in range(outputs)]
        self._nodes.append(helper.make_node(operator, names, produced, **attributes))
        return produced[0]

    def _constant(self, value: NDArray[np.float32] | NDArray[np.int64] | np.float32) -> str:
        name = next(self._names)
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def model(self, size: int, outputs: dict[str, int | None]) -> onnx.ModelProto:
        """The nodes so far as a checked model with these outputs, (N, dim) or (N,)."""
        graph = helper.make_graph(
            self._nodes,
            "tiny-encoder",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", size, size, 3])],
            [
                helper.make_tensor_value_info(
                    name, TensorProto.FLOAT, ["N"] if dim is None else ["N", dim]
                )
                for name, dim in outputs.items()
            ],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model


def altered(encoder_path: Path, folder: Path, change: Callable[[onnx.ModelProto], object]) -> Path:
    """The file with its model changed, in a folder."""
    model = onnx.load(encoder_path)
    change(model)
    path = folder / "altered.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _pictures(number: int, size: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """Synthetic pictures, (number, size, size, 3): blurred colour patches, most of them coarse."""
    fit = Fit(size, kernel="bicubic")
    patches = [
        random.integers(0, 256, (cells, cells, 3), np.uint8)
        for cells in random.integers(2, 8, number)
    ]
    return np.stack([fit_pixels(patch, fit) for patch in patches])


def _run(model: onnx.ModelProto, pictures: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {"images": pictures}))


def _calibrate(descriptors: NDArray[np.float32], offsets: NDArray[np.float32]) -> Calibration:
    """The false match curve over every ordered pair of different pictures."""
    scores = descriptors @ descriptors.T - offsets[:, None]
    others = np.sort(scores[~np.eye(len(scores), dtype=bool)])
    rates = (0.1, 0.01, 0.001, 0.0001)
    return Calibration(
        pairs=len(others),
        false_match_rates=rates,
        thresholds=tuple(float(others[-round(rate * len(others))]) for rate in rates),
    )
