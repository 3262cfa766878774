"""A collection measures its own false match rates, promises what holds, and says how sure it is."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pictures import jpeg, put
from PIL import Image

from index import cli
from index.build import build
from index.calibrate import FOLDS, LEAST_FALSE_MATCHES, CalibrationSettings, _curve, sample
from index.catalog import Catalog
from index.collection import Collection, CopyQuery
from index.commands.calibrate import Calibrator
from index.commands.signals import Stop
from index.edits import EDITS
from index.encoder import Encoder
from index.errors import TooFewImages

SMALL = CalibrationSettings(sample=40, copies=2)


@pytest.fixture
def collection(tmp_path: Path, encoder: Encoder) -> Iterator[Collection]:
    """A hundred pictures."""
    with Catalog(tmp_path).create("measured", encoder) as collection:
        for seed in range(100):
            put(collection, encoder, f"{seed:03}", jpeg(seed))
        yield collection


def false_share(collection: Collection, encoder: Encoder, threshold: float) -> float:
    """Of pairs of a new picture and a stored one, the share over a threshold."""
    new = encoder.encode(np.stack([encoder.load(jpeg(1000 + n)).pixels for n in range(200)]))
    with collection.store.read() as snapshot:
        stored = np.concatenate([chunk.encoding.descriptor for chunk in snapshot.present()])
        background = snapshot.background()
    assert background is not None
    scores = new.descriptor @ stored.T - background.offsets(new.descriptor)[:, None]
    return float((scores >= threshold).mean())


def test_measured_rates_take_the_place_of_the_encoders_and_outlive_it(
    collection: Collection, encoder: Encoder
) -> None:
    assert collection.measured() is None
    assert collection.calibration == encoder.metadata.calibration
    measured = collection.calibrate(encoder, SMALL)
    assert (measured.images, measured.sampled, measured.queries) == (100, 40, 120)
    assert measured.calibration.pairs == 120 * 99
    assert collection.calibration == measured.calibration != encoder.metadata.calibration
    with Catalog(collection.folder.parent.parent).open("measured") as again:
        assert again.measured() == measured


def test_same_seed_measures_the_same(collection: Collection, encoder: Encoder) -> None:
    first = collection.calibrate(encoder, SMALL)
    second = collection.calibrate(encoder, SMALL)
    assert first.model_dump(exclude={"created_at"}) == second.model_dump(exclude={"created_at"})


def test_a_rate_that_was_promised_holds_for_pictures_that_were_not_there(
    collection: Collection, encoder: Encoder
) -> None:
    """Within what was stated, three standard errors, and what chance adds on the other side."""
    measured = collection.calibrate(encoder, CalibrationSettings(sample=100, copies=4))
    for rate, threshold, error in zip(
        measured.calibration.false_match_rates[1:4],
        measured.calibration.thresholds[1:4],
        measured.errors[1:4],
        strict=True,
    ):
        assert false_share(collection, encoder, threshold) == pytest.approx(
            rate, rel=3 * error + 0.3
        )


def test_answers_go_by_the_measured_curve(collection: Collection, encoder: Encoder) -> None:
    collection.calibrate(encoder, SMALL)
    threshold = collection.calibration.default_threshold()
    asked = CopyQuery(collection.vectors("001"), exclude="001")
    for match in collection.copies(asked, threshold=-2.0):
        assert match.false_match_rate == collection.calibration.rate_at(match.score)
    rates = collection.calibration.false_match_rates
    assert collection.calibration.rate_at(threshold) == rates[-1] < 0.01


def test_copies_and_equal_pictures_are_no_false_matches(tmp_path: Path, encoder: Encoder) -> None:
    """Every picture is there three times; counted, one in a hundred pairs would be equal."""
    with Catalog(tmp_path).create("thrice", encoder) as collection:
        for seed in range(60):
            for again in range(3):
                put(collection, encoder, f"{seed} {again}", jpeg(seed))
        measured = collection.calibrate(encoder, CalibrationSettings(sample=40, copies=1))
        assert measured.calibration.pairs == 80 * (180 - 3)
        with Catalog(tmp_path).create("once", encoder) as once:
            for seed in range(60):
                put(once, encoder, str(seed), jpeg(seed))
            alone = once.calibrate(encoder, CalibrationSettings(sample=60, copies=4))
        assert measured.calibration.threshold_for(0.01) == pytest.approx(
            alone.calibration.threshold_for(0.01), abs=0.1
        )


def test_what_is_found_is_stated_edit_by_edit(collection: Collection, encoder: Encoder) -> None:
    measured = collection.calibrate(encoder, CalibrationSettings(sample=40, copies=len(EDITS)))
    assert list(measured.found) == list(EDITS)
    assert measured.found["saved at quality 30"] > measured.found["turned by quarters"]


def test_too_few_images_promise_nothing(tmp_path: Path, encoder: Encoder) -> None:
    with Catalog(tmp_path).create("few", encoder) as collection:
        with pytest.raises(TooFewImages, match="there are 0 pairs"):
            collection.calibrate(encoder)
        for seed in range(30):
            put(collection, encoder, str(seed), jpeg(seed))
        with pytest.raises(TooFewImages, match=r"1,200 pairs.* expected at least 10,000 .*0\.001"):
            collection.calibrate(encoder, CalibrationSettings(copies=1, sample=15 + 5))
        assert collection.measured() is None


def test_pictures_that_look_alike_promise_nothing(tmp_path: Path, encoder: Encoder) -> None:
    """Plain white ones of different widths: the scores of all pairs are the same."""
    with Catalog(tmp_path).create("white", encoder) as collection:
        for width in range(40, 100):
            buffer = io.BytesIO()
            Image.new("RGB", (width, 60), "white").save(buffer, "PNG")
            put(collection, encoder, str(width), buffer.getvalue())
        with pytest.raises(TooFewImages, match=r"more than 32% of 14,160 pairs .* look different"):
            collection.calibrate(encoder)
        assert collection.measured() is None


def test_images_of_one_fold_tell_no_error() -> None:
    counts = np.zeros((FOLDS, 8192), np.int64)
    counts[3, 4000:4100] = 200
    with pytest.raises(TooFewImages, match=r"20,000 pairs .* expected 2 groups"):
        _curve(counts)
    counts[4] = counts[3]
    assert np.isfinite(_curve(counts)[1]).all()


def test_what_goes_away_meanwhile_is_passed_over(collection: Collection, encoder: Encoder) -> None:
    with collection.store.read() as snapshot:
        _, deleted, lost, *_ = sample(snapshot, SMALL).values()

    def progress() -> None:
        blob = next((collection.folder / "blobs").rglob(lost.sha256), None)
        if blob is not None:
            blob.unlink()
            collection.delete(deleted.id)

    assert collection.calibrate(encoder, SMALL, progress=progress).sampled == 38


def test_unreadable_images_are_passed_over_and_a_stop_measures_what_there_is(
    tmp_path: Path, encoder: Encoder
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for seed in range(100):
        (source / f"{seed:03}.jpg").write_bytes(jpeg(seed))
    collection = Catalog(tmp_path).create("files", encoder)
    build(source, collection, encoder)
    for seed in range(10):
        (source / f"{seed:03}.jpg").unlink()
    measured = collection.calibrate(encoder, CalibrationSettings(sample=100, copies=1))
    assert measured.sampled == 90
    stop = threading.Event()
    seen = 0

    def progress() -> None:
        nonlocal seen
        seen += 1
        if seen == 80:
            stop.set()

    stopped = collection.calibrate(
        encoder, CalibrationSettings(sample=100, copies=1), progress=progress, stop=stop
    )
    assert 60 < stopped.sampled < 90
    collection.close()


def test_curve_counts_exactly_and_its_error_is_that_of_repeated_measurement() -> None:
    """Of independent pairs the error of a rate r over n pairs is sqrt(1 / (n r)) of it."""
    random = np.random.default_rng(0)
    counts = np.zeros((FOLDS, 8192), np.int64)
    scores = random.normal(0, 0.2, (FOLDS, 50_000))
    for fold, row in enumerate(scores):
        counts[fold] = np.bincount(((row + 2) * 2048).astype(int), minlength=8192)
    calibration, errors = _curve(counts)
    assert calibration.pairs == scores.size
    for rate, threshold in zip(calibration.false_match_rates, calibration.thresholds, strict=True):
        assert rate == pytest.approx((scores >= threshold).mean(), abs=1e-12)
    assert calibration.false_match_rates[-1] * scores.size >= LEAST_FALSE_MATCHES / 2
    expected = np.sqrt(1 / (scores.size * calibration.false_match_rates[4]))
    assert errors[4] == pytest.approx(expected, rel=0.6)


@pytest.mark.parametrize(("sample", "copies"), [(5, 1), (100, 0), (100, 99)])
def test_settings_are_checked(sample: int, copies: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        CalibrationSettings(sample=sample, copies=copies)


def test_a_build_that_is_stopped_while_it_calibrates_stores_nothing(
    collection: Collection, encoder_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Stopped(Stop):
        """Set after 50 images."""

        images = 0

        def is_set(self) -> bool:
            self.images += 1
            return self.images > 50

    options = cli._parser().parse_args(
        ["build", "source", "--collection", "measured", "--encoder", str(encoder_path)]
    )
    Calibrator(collection, options, Stopped()).calibrate_where_due()
    assert collection.measured() is None
    assert "the same command does it" in capsys.readouterr().err
    Calibrator(collection, options, Stop()).calibrate_where_due()
    assert collection.is_calibrated()


def test_command_prints_curve_and_shares(
    collection: Collection,
    encoder_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["calibrate", "--collection", "measured", "--encoder", str(encoder_path), "--data",
                 str(collection.folder.parent.parent), "--sample", "40", "--json"]  # fmt: skip
    assert cli.main(arguments) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    report = json.loads(last)
    assert report["queries"] == 160
    assert any("±" in line for line in lines)
    assert any(line.startswith("crop to 50 %") for line in lines)
    assert cli.main([*arguments, "--sample", "3"]) == 2
