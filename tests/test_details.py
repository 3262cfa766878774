"""What a file's EXIF says of the taking of its picture, and nothing more than that."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from index.details import Details
from index.image import Fit, load

pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

ALL = Details.TIME | Details.PLACE | Details.CAMERA


def details(format: str, fill: Callable[[Image.Exif], None]) -> Details:
    """As ``load`` finds them in a file with this EXIF."""
    exif = Image.Exif()
    fill(exif)
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, format, exif=exif.tobytes())
    return load(buffer.getvalue(), Fit(32)).details


def everything(exif: Image.Exif) -> None:
    exif[Base.Model] = "A camera"
    exif.get_ifd(IFD.Exif)[Base.DateTimeOriginal] = "2020:01:02 03:04:05"
    place = exif.get_ifd(IFD.GPSInfo)
    place[GPS.GPSLatitude], place[GPS.GPSLongitude] = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)


def saved_by_a_program(exif: Image.Exif) -> None:
    exif[Base.DateTime] = "2020:01:02 03:04:05"
    exif[Base.Software] = "A program"
    exif[Base.Orientation] = 6


def latitude_alone(exif: Image.Exif) -> None:
    exif.get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] = (1.0, 2.0, 3.0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_camera_says_when_where_and_with_what(format: str) -> None:
    found = details(format, everything)
    assert found == ALL
    assert str(found) == "time, place, camera"


@pytest.mark.parametrize("fill", [lambda _: None, saved_by_a_program, latitude_alone])
def test_what_tells_nothing_of_the_taking_does_not_count(
    fill: Callable[[Image.Exif], None],
) -> None:
    assert details("JPEG", fill) == Details.NONE


def test_time_comes_before_place_and_camera_together() -> None:
    assert Details.TIME > Details.PLACE | Details.CAMERA > Details.PLACE > Details.CAMERA


@given(st.data())
def test_damage_to_it_says_less_and_hurts_nothing_else(data: st.DataObject) -> None:
    exif = Image.Exif()
    everything(exif)
    body = bytearray(exif.tobytes())
    for _ in range(data.draw(st.integers(1, 8))):
        body[data.draw(st.integers(6, len(body) - 1))] = data.draw(st.integers(0, 255))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", exif=bytes(body))
    picture = load(buffer.getvalue(), Fit(32))
    assert (picture.width * picture.height, picture.details in ALL) == (64, True)
