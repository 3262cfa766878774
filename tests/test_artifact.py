"""The encoder file's metadata and calibration: what is written is read, and nothing else is."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import tiny_encoder
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from pydantic import ValidationError

from index.artifact import FORMAT_VERSION, Calibration, Metadata, read_metadata
from index.errors import ArtifactInvalid
from index.image import Fit

CALIBRATION = Calibration(
    pairs=1000, false_match_rates=(0.1, 0.01, 0.001), thresholds=(0.2, 0.4, 0.6)
)
FIELDS: dict[str, Any] = {
    "format_version": 1,
    "image_size": 96,
    "fit": "stretch",
    "kernel": "bicubic",
    "embedding_dim": 512,
    "descriptor_dim": 256,
    "method": "simclr",
    "backbone": "resnet18",
    "training_data": "holiday photographs",
    "run_id": "2024-05-01",
    "precision": "int8",
    "calibration": CALIBRATION,
}


@st.composite
def calibrations(draw: st.DrawFn) -> Calibration:
    rates = draw(st.lists(st.floats(0, 1), min_size=2, max_size=8, unique=True))
    thresholds = draw(st.lists(st.floats(-2, 2), min_size=len(rates), max_size=len(rates)))
    return Calibration(
        pairs=draw(st.integers(1, 10**9)),
        false_match_rates=tuple(sorted(rates, reverse=True)),
        thresholds=tuple(sorted(thresholds)),
    )


# Calibration


def test_the_threshold_is_the_smallest_that_keeps_the_rate() -> None:
    assert CALIBRATION.threshold_for(0.1) == 0.2
    assert CALIBRATION.threshold_for(0.05) == 0.4
    assert CALIBRATION.threshold_for(0.001) == 0.6
    assert CALIBRATION.threshold_for(1.0) == 0.2


def test_a_rate_smaller_than_any_measured_is_refused_and_the_smallest_named() -> None:
    with pytest.raises(ValueError, match=r"rate of 0\.0001 .* measured is 0\.001 \(on 1,000 pairs"):
        CALIBRATION.threshold_for(0.0001)


def test_a_score_has_the_rate_of_the_highest_threshold_that_it_reaches() -> None:
    scores = (-1.0, 0.1999, 0.2, 0.3999, 0.4, 0.6, 1.0)
    assert [CALIBRATION.rate_at(score) for score in scores] == [1, 1, 0.1, 0.1, 0.01, 0.001, 0.001]


def test_of_equal_thresholds_the_larger_rate_counts() -> None:
    tied = Calibration(pairs=9, false_match_rates=(0.5, 0.2, 0.1), thresholds=(0.3, 0.3, 0.3))
    assert tied.rate_at(0.3) == 0.5
    with pytest.raises(ValueError, match=r"smallest that was measured is 0\.5"):
        tied.threshold_for(0.2)


def test_a_score_that_is_no_number_has_rate_one() -> None:
    assert CALIBRATION.rate_at(math.nan) == 1.0


@given(calibrations(), st.floats(0, 1), st.floats(-2, 2), st.floats(-2, 2))
def test_the_curve_never_promises_too_much(
    calibration: Calibration, rate: float, score: float, other: float
) -> None:
    lower, higher = sorted((score, other))
    assert calibration.rate_at(lower) >= calibration.rate_at(higher)
    try:
        threshold = calibration.threshold_for(rate)
    except ValueError:
        assert rate < calibration.rate_at(calibration.thresholds[-1])
    else:
        assert calibration.rate_at(threshold) <= rate
        assert all(calibration.rate_at(t) > rate for t in calibration.thresholds if t < threshold)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"false_match_rates": (0.1, 0.1, 0.001)}, "fall strictly"),
        ({"false_match_rates": (0.001, 0.01, 0.1)}, "fall strictly"),
        ({"thresholds": (0.2, 0.1, 0.6)}, "not to fall"),
        ({"thresholds": (0.2, 0.4)}, "3 false match rates and 2 thresholds"),
        ({"thresholds": (0.2,), "false_match_rates": (0.1,)}, "at least 2"),
        ({"thresholds": (0.2, 0.4, math.nan)}, "finite"),
        ({"thresholds": (0.2, 0.4, math.inf)}, "finite"),
        ({"false_match_rates": (1.5, 0.01, 0.001)}, "less than or equal to 1"),
        ({"pairs": 0}, "greater than or equal to 1"),
        ({"measured_on": "cats"}, "Extra inputs"),
    ],
)
def test_a_curve_that_makes_no_sense_is_refused(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Calibration(**{**CALIBRATION.model_dump(), **changed})


# Metadata


@given(
    st.integers(8, 2048),
    st.integers(1, 65_536),
    st.text(min_size=1),
    st.sampled_from(["fp32", "int8"]),
    calibrations(),
)
def test_what_is_written_is_read(
    size: int, dim: int, text: str, precision: str, calibration: Calibration
) -> None:
    changed = {
        "image_size": size,
        "embedding_dim": dim,
        "training_data": text,
        "precision": precision,
        "calibration": calibration,
    }
    metadata = Metadata(**{**FIELDS, **changed})
    properties = metadata.to_properties()
    assert all(key.startswith("kindred.") for key in properties)
    assert Metadata.from_properties(properties) == metadata


def test_every_field_stands_under_its_own_key() -> None:
    properties = Metadata(**FIELDS).to_properties()
    assert set(properties) == {f"kindred.{name}" for name in FIELDS}
    assert json.loads(properties["kindred.image_size"]) == 96
    assert json.loads(properties["kindred.calibration"])["thresholds"] == [0.2, 0.4, 0.6]


def test_the_fit_is_the_one_of_the_metadata() -> None:
    assert Metadata(**FIELDS).fit_rule == Fit(96, "stretch", "bicubic")


def test_metadata_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Metadata(**FIELDS).image_size = 64


def test_keys_of_other_tools_are_left_alone() -> None:
    metadata = Metadata(**FIELDS)
    assert Metadata.from_properties({**metadata.to_properties(), "onnx.infer": "1"}) == metadata


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_missing_key_is_named(name: str) -> None:
    properties = Metadata(**FIELDS).to_properties()
    del properties[f"kindred.{name}"]
    with pytest.raises(ArtifactInvalid, match=rf"kindred\.{name}: Field required"):
        Metadata.from_properties(properties)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("kindred.mood", '"good"', r"kindred\.mood: Extra inputs"),
        ("kindred.image_size", "64.5", r"kindred\.image_size: "),
        ("kindred.image_size", '"64"', r"kindred\.image_size: "),
        ("kindred.image_size", "4", "image size is 4, expected 8 to 2048"),
        ("kindred.image_size", "sixty-four", r"kindred\.image_size is not JSON: 'sixty-four'"),
        ("kindred.fit", '"crop"', r"kindred\.fit: "),
        ("kindred.kernel", '"nearest"', r"kindred\.kernel: "),
        ("kindred.embedding_dim", "0", r"kindred\.embedding_dim: "),
        ("kindred.method", '""', r"kindred\.method: "),
        ("kindred.precision", '"fp16"', r"kindred\.precision: "),
        ("kindred.calibration", "{}", r"kindred\.calibration\.pairs: Field required"),
        ("kindred.format_version", "2", f"format version 2, this release reads {FORMAT_VERSION}"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: str, reason: str) -> None:
    with pytest.raises(ArtifactInvalid, match=reason):
        Metadata.from_properties({**Metadata(**FIELDS).to_properties(), key: value})


def test_a_newer_file_is_told_apart_from_a_damaged_one() -> None:
    """Its unknown keys are not the news, its version is."""
    properties = {"kindred.format_version": "7", "kindred.something_new": "1"}
    with pytest.raises(ArtifactInvalid, match="format version 7"):
        Metadata.from_properties(properties)


@given(st.dictionaries(st.sampled_from([f"kindred.{name}" for name in FIELDS]), st.text()))
def test_any_text_in_the_metadata_is_accepted_or_refused_by_name(changed: dict[str, str]) -> None:
    try:
        metadata = Metadata.from_properties({**Metadata(**FIELDS).to_properties(), **changed})
    except ArtifactInvalid as error:
        found = str(error)
    else:
        found = ", ".join(metadata.to_properties())
    assert "kindred." in found or "format version" in found or "image size" in found


# Files


def test_the_metadata_of_a_file_is_read(tmp_path: Path) -> None:
    path = tiny_encoder.build(tmp_path / "e.onnx", size=40, embedding_dim=20, descriptor_dim=10)
    metadata = read_metadata(path)
    assert (metadata.image_size, metadata.embedding_dim, metadata.descriptor_dim) == (40, 20, 10)


def test_a_file_that_is_not_there_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(ArtifactInvalid, match=r"missing\.onnx cannot be read: No such file"):
        read_metadata(tmp_path / "missing.onnx")


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0 a picture", b"\0" * 1000])
def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "encoder.onnx"
    path.write_bytes(data)
    with pytest.raises(ArtifactInvalid, match=r"encoder\.onnx cannot be loaded"):
        read_metadata(path)


def test_an_onnx_file_of_somebody_else_is_refused(encoder_path: Path, tmp_path: Path) -> None:
    def without_metadata(model: onnx.ModelProto) -> None:
        del model.metadata_props[:]

    with pytest.raises(ArtifactInvalid, match=r"no kindred\.\* metadata"):
        read_metadata(tiny_encoder.altered(encoder_path, tmp_path, without_metadata))


def with_property(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        properties = {entry.key: entry.value for entry in model.metadata_props}
        helper.set_model_props(model, {**properties, key: value})

    return change


def with_extra_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(
        helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.FLOAT, None)
    )


@pytest.mark.parametrize(
    "change",
    [
        with_property("kindred.image_size", "64"),
        with_property("kindred.embedding_dim", "65"),
        with_property("kindred.descriptor_dim", "31"),
        lambda model: model.graph.output.pop(),
        with_extra_output,
        lambda model: (
            model.graph.input[0].type.tensor_type.shape.dim[0].__setattr__("dim_value", 1)
        ),
    ],
    ids=["size", "embedding", "descriptor", "output gone", "output added", "batch of one"],
)
def test_a_graph_that_is_not_as_the_metadata_say_is_refused(
    encoder_path: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], object]
) -> None:
    with pytest.raises(ArtifactInvalid, match=r"its graph has .* expected"):
        read_metadata(tiny_encoder.altered(encoder_path, tmp_path, change))


def test_default_threshold_is_of_the_default_rate_or_the_strictest_measured() -> None:
    fine = Calibration(pairs=10**7, false_match_rates=(0.1, 1e-5, 1e-6), thresholds=(0.1, 0.5, 0.6))
    assert fine.default_threshold() == 0.5
    assert fine.default_threshold(looks=8) == 0.6
    coarse = Calibration(pairs=100, false_match_rates=(0.5, 0.02), thresholds=(0.0, 0.3))
    assert coarse.default_threshold() == 0.3
