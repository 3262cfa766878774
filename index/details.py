"""What a file says of its picture: when it was taken, where, and with which camera.

By EXIF (CIPA DC-008), as cameras write it; people's programs and chats drop it when they pass a
picture on.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base


class Details(IntFlag):
    """What there is; more of the first ones is the larger number."""

    NONE = 0
    CAMERA = 1
    PLACE = 2
    TIME = 4

    def __str__(self) -> str:
        return ", ".join(word for each, word in _WORDS.items() if each in self) or "nothing"


_WORDS: Final = {Details.TIME: "time", Details.PLACE: "place", Details.CAMERA: "camera"}


def details_of(exif: Image.Exif) -> Details:
    """What EXIF says of the taking of a picture; damaged EXIF says nothing.

    The time is when it was taken or digitised, and not when a program last saved it.
    """
    found = Details.NONE
    if not exif:
        return found
    try:
        taken, place = exif.get_ifd(IFD.Exif), exif.get_ifd(IFD.GPSInfo)
    except Exception:  # Pillow raises nearly any type on damaged bytes
        return found
    if taken.get(Base.DateTimeOriginal) or taken.get(Base.DateTimeDigitized):
        found |= Details.TIME
    if GPS.GPSLatitude in place and GPS.GPSLongitude in place:
        found |= Details.PLACE
    if exif.get(Base.Make) or exif.get(Base.Model):
        found |= Details.CAMERA
    return found
