"""An int8 variant of an encoder file, and what it costs and brings."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from index.encoder import Encoder
from trainer.views import edited


@dataclass(frozen=True)
class Comparison:
    """int8 beside fp32: recall@1 of each image by one edited view of it, and images a second.

    The lower recall of the two outputs counts as an encoder's recall.
    """

    images: int
    fp32_recall_at_1: float
    int8_recall_at_1: float
    fp32_images_per_second: float
    int8_images_per_second: float

    @property
    def loss(self) -> float:
        """Recall@1 that int8 costs; negative where it gains."""
        return self.fp32_recall_at_1 - self.int8_recall_at_1

    def sentence(self) -> str:
        """The figures in words."""
        ratio = self.int8_images_per_second / self.fp32_images_per_second
        return (
            f"int8: recall@1 {self.int8_recall_at_1:.4f}, fp32 {self.fp32_recall_at_1:.4f} "
            f"({self.images:,} images, each by one edited view); "
            f"{self.int8_images_per_second:.0f} images/s, fp32 {self.fp32_images_per_second:.0f}: "
            f"{ratio:.2f} times as fast"
        )


def quantise(source: Path, target: Path, pixels: NDArray[np.uint8]) -> None:
    """Write ``target``: convolutions in int8, calibrated on ``pixels``, uint8 (N, S, S, 3).

    Weights are signed, one scale a channel; activations unsigned, one scale a tensor. The first
    convolutions, the head, the normalisation and the background stay in float: they cost little,
    and errors there are not averaged away. The weights as they were stay in the file, too, so that
    training can go on from it.
    """
    # It advises to preprocess the model, which is what happens here.
    logging.getLogger().addFilter(_not_advice)
    try:
        quant_pre_process(source, target, skip_symbolic_shape=True)
        floating, ranges = _choices(onnx.load(target).graph)
        quantize_static(
            target,
            target,
            _Reader(pixels),
            quant_format=QuantFormat.QDQ,
            # Were Clip, a ReLU6, left out, the scale before it would span what it cuts off.
            op_types_to_quantize=["Conv", "Add", "Relu", "Clip", "Pad", "MaxPool"],
            per_channel=True,
            extra_options={"TensorQuantOverrides": ranges},
            nodes_to_exclude=floating,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.getLogger().removeFilter(_not_advice)
    model = onnx.load(target)
    there = {each.name for each in model.graph.initializer}
    kept = [
        each
        for each in onnx.load(source).graph.initializer
        if each.name.startswith("network.") and each.name not in there
    ]
    _rename_values(model.graph, {each.name for each in kept})
    model.graph.initializer.extend(kept)
    onnx.save(model, target)


def _rename_values(graph: onnx.GraphProto, taken: set[str]) -> None:
    """Give values that the graph makes, a bias out of int8 for one, other names than those."""
    made = taken & {name for node in graph.node for name in node.output}
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name in made:
                    names[place] = f"{name}_dequantized"


def _choices(graph: onnx.GraphProto) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    """Convolutions to leave in float, by name, and the ranges of the others' weights, by weights.

    Those of three channels, which see pixels, and those of few channels and weights, as in a first
    block, have too few weights for their errors to average out, and are no faster in int8.

    x86 without VNNI multiplies activations, up to 255, by the weights of two neighbouring channels
    and sums both products in 16 bits. So the weights of a pair may sum up to 128, and the range of
    an output's is that of its largest pair; else vectors would depend on the processor.
    """
    weights = {each.name: each for each in graph.initializer}
    floating, ranges = [], {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        weight_OCHW = numpy_helper.to_array(weights[node.input[1]])
        outputs, channels = weight_OCHW.shape[:2]
        if channels == 3 or (outputs <= 32 and weight_OCHW.size < 1000):
            floating.append(node.name)
            continue
        largest = np.abs(weight_OCHW).max(axis=(1, 2, 3))
        if channels % 2 == 0:
            pairs = np.abs(weight_OCHW[:, ::2] + weight_OCHW[:, 1::2]).max(axis=(1, 2, 3))
            largest = np.maximum(largest, pairs)
        elif channels > 1:
            largest *= 2
        ranges[node.input[1]] = [
            {
                "axis": 0,
                "quant_type": QuantType.QInt8,
                "symmetric": True,
                "rmin": -each,
                "rmax": each,
            }
            for each in largest
        ]
    return floating, ranges


def compare(fp32: Encoder, int8: Encoder, pixels: NDArray[np.uint8]) -> Comparison:
    """Recall@1 and speed of both, on the same images and views, timed in turn."""
    queries = np.concatenate(list(edited(pixels, seed=0)))
    recalls = [_recall_at_1(encoder, pixels, queries) for encoder in (fp32, int8)]
    seconds: tuple[list[float], list[float]] = ([], [])
    timed = pixels[: 8 * fp32.batch_size]
    for _ in range(5):
        for encoder, taken in zip((fp32, int8), seconds, strict=True):
            start = time.perf_counter()
            encoder.encode(timed)
            taken.append(time.perf_counter() - start)
    speeds = [len(timed) / statistics.median(taken) for taken in seconds]
    return Comparison(len(pixels), recalls[0], recalls[1], speeds[0], speeds[1])


def _recall_at_1(encoder: Encoder, pixels: NDArray[np.uint8], views: NDArray[np.uint8]) -> float:
    originals, queries = encoder.encode(pixels), encoder.encode(views)
    own = np.arange(len(pixels))
    return min(
        float(((queries.embedding @ originals.embedding.T).argmax(1) == own).mean()),
        float(((queries.descriptor @ originals.descriptor.T).argmax(1) == own).mean()),
    )


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds the calibration in batches."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(
            np.array_split(pixels, max(1, len(pixels) // 32))
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"images": batch}


def _not_advice(record: logging.LogRecord) -> bool:
    return "pre-processing" not in record.getMessage()
