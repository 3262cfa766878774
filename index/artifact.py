"""What an encoder file says about itself: one .onnx file, its metadata, and the shape of its graph.

Graph: ``images`` uint8 (N, S, S, 3), RGB, goes in; ``embedding`` float32 (N, D) and ``descriptor``
float32 (N, K), rows of unit length, and ``descriptor_offset`` float32 (N,) come out.

The copy score of a query q against an item x is
``dot(descriptor_q, descriptor_x) - descriptor_offset_q``.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import onnxruntime
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from index.errors import ArtifactInvalid
from index.image import Fit, FitRule, Kernel

FORMAT_VERSION: Final = 1
"""Raised when a reader of the last version would misread a file of the next."""

DEFAULT_FALSE_MATCH_RATE: Final = 1e-5
"""Of pairs of different pictures, the share that counts as copies where nobody asked for another:
an image compared with 100,000 strangers finds one false copy."""

_PREFIX: Final = "kindred."

Text = Annotated[str, Field(min_length=1)]
Dimension = Annotated[int, Field(ge=1, le=65_536)]
Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Score = Annotated[float, Field(allow_inf_nan=False)]


class Calibration(BaseModel):
    """How often pictures that do not match reach a copy score, measured on such pairs.

    ``false_match_rates[i]`` is the share of the ``pairs`` whose copy score is at least
    ``thresholds[i]``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: Annotated[int, Field(ge=1)]
    false_match_rates: tuple[Rate, ...]
    thresholds: tuple[Score, ...]

    @model_validator(mode="after")
    def _check_curve(self) -> Self:
        rates, thresholds = self.false_match_rates, self.thresholds
        if len(rates) < 2 or len(rates) != len(thresholds):
            raise ValueError(
                f"{len(rates)} false match rates and {len(thresholds)} thresholds, "
                "expected as many of one as of the other, and at least 2"
            )
        if any(earlier <= later for earlier, later in pairwise(rates)):
            raise ValueError("false match rates are expected to fall strictly")
        if any(earlier > later for earlier, later in pairwise(thresholds)):
            raise ValueError("thresholds are expected not to fall")
        return self

    def threshold_for(self, rate: float) -> float:
        """The smallest threshold whose measured false match rate is at most ``rate``.

        Raises:
            ValueError: no threshold was measured to be so strict.
        """
        for threshold in self.thresholds:
            if self.rate_at(threshold) <= rate:
                return threshold
        raise ValueError(
            f"a false match rate of {rate:g} was asked for, the smallest that was measured is "
            f"{self.rate_at(self.thresholds[-1]):g} (on {self.pairs:,} pairs)"
        )

    def default_threshold(self, looks: int = 1) -> float:
        """The threshold where nobody asked for a rate, for each of so many looks at a pair.

        That of the default rate, or the strictest where so small a rate was not measured.
        """
        smallest = self.rate_at(self.thresholds[-1])
        return self.threshold_for(max(DEFAULT_FALSE_MATCH_RATE / looks, smallest))

    def rate_at(self, score: float) -> float:
        """The rate measured at the highest threshold that ``score`` reaches; 1 if it reaches none.

        Never too favourable: between two thresholds the rate of the lower one is given.
        """
        if not score >= self.thresholds[0]:  # so that NaN reaches none
            return 1.0
        highest = self.thresholds[bisect_right(self.thresholds, score) - 1]
        return self.false_match_rates[bisect_left(self.thresholds, highest)]


class Metadata(BaseModel):
    """Everything about an encoder that its graph does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1]
    image_size: int
    fit: FitRule
    kernel: Kernel
    embedding_dim: Dimension
    descriptor_dim: Dimension
    method: Text
    backbone: Text
    training_data: Text
    run_id: Text
    precision: Literal["fp32", "int8"]
    calibration: Calibration

    @model_validator(mode="after")
    def _check_fit(self) -> Self:
        Fit(self.image_size, self.fit, self.kernel)
        return self

    @property
    def fit_rule(self) -> Fit:
        """How pictures become this encoder's input."""
        return Fit(self.image_size, self.fit, self.kernel)

    def to_properties(self) -> dict[str, str]:
        """The custom metadata of the ONNX file: ``kindred.<field>`` to JSON text."""
        fields = self.model_dump(mode="json")
        return {f"{_PREFIX}{name}": json.dumps(value) for name, value in fields.items()}

    @classmethod
    def from_properties(cls, properties: dict[str, str]) -> Metadata:
        """The inverse of ``to_properties``; keys of other tools are left alone.

        Raises:
            ArtifactInvalid: a key is missing or unknown, or its value is not as it should be.
        """
        ours = {
            key.removeprefix(_PREFIX): value
            for key, value in properties.items()
            if key.startswith(_PREFIX)
        }
        if not ours:
            raise ArtifactInvalid("no kindred.* metadata, expected a file that Kindred exported")
        fields = {}
        for name, text in ours.items():
            try:
                fields[name] = json.loads(text)
            except ValueError as error:
                raise ArtifactInvalid(
                    f"metadata {_PREFIX}{name} is not JSON: {text[:80]!r}"
                ) from error
        version = fields.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise ArtifactInvalid(f"format version {version}, this release reads {FORMAT_VERSION}")
        try:
            return cls.model_validate_json(json.dumps(fields), strict=True)
        except ValidationError as error:
            problems = (
                f"{_PREFIX}{'.'.join(map(str, problem['loc']))}: {problem['msg']}".replace(
                    f"{_PREFIX}: ", ""
                )
                for problem in error.errors()
            )
            raise ArtifactInvalid(f"metadata is not valid: {'; '.join(problems)}") from error


def read_metadata(path: Path | str) -> Metadata:
    """The metadata of an encoder file, without making it ready to run.

    Raises:
        ArtifactInvalid: the file is not there, is not ONNX, or is no encoder of this format.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is raised
    session = open_session(read_bytes(path), path, options, ["CPUExecutionProvider"])
    return check_graph(session, path)


def read_bytes(path: Path | str) -> bytes:
    """The bytes of an encoder file; ArtifactInvalid if they cannot be had."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ArtifactInvalid(f"encoder {path} cannot be read: {error.strerror}") from error


def open_session(
    model: bytes,
    path: Path | str,
    options: onnxruntime.SessionOptions,
    providers: list[str | tuple[str, dict[str, str]]],
) -> onnxruntime.InferenceSession:
    """A session over the bytes of ``path``: those whose SHA-256 was taken, nothing beside them.

    Raises:
        ArtifactInvalid: ONNX Runtime does not take them.
    """
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # its errors have no common base below Exception
        raise ArtifactInvalid(f"encoder {path} cannot be loaded: {error}") from error


def check_graph(session: onnxruntime.InferenceSession, path: Path | str) -> Metadata:
    """The session's metadata, after comparing the graph's inputs and outputs with it.

    Raises:
        ArtifactInvalid: the metadata is not valid, or the graph is not as it says.
    """
    try:
        metadata = Metadata.from_properties(session.get_modelmeta().custom_metadata_map)
    except ArtifactInvalid as error:
        raise ArtifactInvalid(f"encoder {path}: {error}") from error
    size = metadata.image_size
    expected = {
        "images": f"tensor(uint8) (N, {size}, {size}, 3)",
        "embedding": f"tensor(float) (N, {metadata.embedding_dim})",
        "descriptor": f"tensor(float) (N, {metadata.descriptor_dim})",
        "descriptor_offset": "tensor(float) (N)",
    }
    found = {
        value.name: f"{value.type} ({', '.join(map(str, _with_free_batch(value.shape)))})"
        for value in (*session.get_inputs(), *session.get_outputs())
    }
    if found != expected:
        raise ArtifactInvalid(f"encoder {path}: its graph has {found}, expected {expected}")
    return metadata


def _with_free_batch(shape: list[int | str | None]) -> list[int | str | None]:
    """The shape, with whatever name the exporter gave to a first dimension of any size as N."""
    return ["N", *shape[1:]] if shape and not isinstance(shape[0], int) else shape
