"""An int8 variant of an encoder file, and what it costs and brings."""

from __future__ import annotations

import logging
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
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
    and errors there are not averaged away. The weights as they were stay in the file, too, so that training can go
    on from it.
    """
    # It advises to preprocess the model, which is what happens here.
    logging.getLogger().addFilter(_not_advice)
    try:
        quant_pre_process(source, target, skip_symbolic_shape=True)
        narrow, depthwise = _sensitive(onnx.load(target).graph)
        quantize_static(
            target,
            target,
            _Reader(pixels),
            quant_format=QuantFormat.QDQ,
            # Were Clip, a ReLU6, left out, the scale before it would span what it cuts off.
            op_types_to_quantize=["Conv", "Add", "Relu", "Clip", "Pad", "MaxPool"],
            per_channel=True,
            # Seven bits of a weight: with eight, sums of two products overflow their 16 bits on x86
            # without VNNI, and vectors would depend on the processor that made them.
            reduce_range=True,
            extra_options={"TensorQuantOverrides": depthwise},
            nodes_to_exclude=narrow,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.getLogger().removeFilter(_not_advice)
    model = onnx.load(target)
    there = {each.name for each in model.graph.initializer}
    model.graph.initializer.extend(
        each
        for each in onnx.load(source).graph.initializer
        if each.name.startswith("network.") and each.name not in there
    )
    onnx.save(model, target)


def _sensitive(graph: onnx.GraphProto) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    """Convolutions to leave in float, by name, and those whose weights get eight bits, by weights.

    Those that see pixels, and a first block of few channels, have too few weights for their errors
    to average out, and are no faster in int8. Products of depthwise ones are summed in 32 bits.
    """
    shapes = {each.name: each.dims for each in graph.initializer}
    eight_bits = {"axis": 0, "quant_type": QuantType.QInt8, "symmetric": True}
    narrow, depthwise = [], {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        shape = shapes[node.input[1]]
        if shape[1] == 3 or (shape[0] <= 32 and math.prod(shape) < 1000):
            narrow.append(node.name)
        elif shape[1] == 1:
            depthwise[node.input[1]] = [{**eight_bits, "reduce_range": False}]
    return narrow, depthwise


def compare(fp32: Encoder, int8: Encoder, pixels: NDArray[np.uint8]) -> Comparison:
    """Recall@1 and speed of both, on the same images and views, timed in turn."""
    queries = edited(pixels, seed=0)
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
