"""Zip files: what a folder would give, and nothing that an image cannot be."""

from __future__ import annotations

import io
import os
import stat
import struct
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sources import assert_sound, ids, labels

from index.errors import SourceError, SourceNotFound, SourceUnreadable
from index.sources import LARGEST_FILE_BYTES, count, locator_prefix, path_of, read, scan


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def entry(name: str, kind: int) -> zipfile.ZipInfo:
    """A member that was packed under Unix, of a type of file."""
    member = zipfile.ZipInfo(name)
    member.create_system = 3
    member.external_attr = (kind | 0o644) << 16
    return member


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_file_gives_its_images_as_a_folder_would(tmp_path: Path, method: int) -> None:
    pictures = {"cats/1.jpg": b"one" * 999, "cats/grey/2.PNG": os.urandom(5000), "3.webp": b"three"}
    others = {"cats/note.txt": b"", ".hidden/4.jpg": b"4", "__MACOSX/._1.jpg": b"5", "cats/": b""}
    path = write_zip(tmp_path / "album.zip", {**pictures, **others}, method)
    items = assert_sound(path)
    assert {item.id: item.read() for item in items} == {
        f"album.zip/{name}": data for name, data in pictures.items()
    }
    assert labels(path) == {
        "album.zip/cats/1.jpg": "cats",
        "album.zip/cats/grey/2.PNG": "cats",
        "album.zip/3.webp": None,
    }
    assert {item.mtime_ns for item in items} == {path.stat().st_mtime_ns}


def test_a_folder_of_zip_files_is_read_in_order(tmp_path: Path) -> None:
    for name in ("b.zip", "a.ZIP"):
        write_zip(tmp_path / name, {"1.jpg": name.encode()})
    assert [item.read() for item in assert_sound(tmp_path)] == [b"a.ZIP", b"b.zip"]


def test_a_zip_file_behind_other_bytes_is_read(tmp_path: Path) -> None:
    """A self-extracting archive begins with a program: offsets count from its end."""
    path = write_zip(tmp_path / "a.zip", {"1.jpg": b"data"})
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())
    assert [item.read() for item in assert_sound(path)] == [b"data"]


def test_a_member_that_was_streamed_has_its_sizes_behind_it(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        """A file that cannot go back to complete a header."""

        data = bytearray()

        def write(self, data: object) -> int:
            self.data += bytes(data)  # type: ignore[call-overload]
            return len(bytes(data))  # type: ignore[call-overload]

        def writable(self) -> bool:
            return True

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.jpg", b"streamed" * 100)
    (tmp_path / "a.zip").write_bytes(pipe.data)
    assert [item.read() for item in assert_sound(tmp_path / "a.zip")] == [b"streamed" * 100]


def test_a_long_name_and_long_extra_fields_do_not_hide_the_bytes(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("x" * 2000 + ".jpg")
    member.extra = struct.pack("<HH", 0x9999, 4000) + bytes(4000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, b"data")
        archive.writestr("2.jpg", b"next")
    assert [item.read() for item in assert_sound(tmp_path / "a.zip")] == [b"data", b"next"]


def test_links_devices_and_names_that_lead_out_are_refused_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, kind in enumerate((stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO)):
            archive.writestr(entry(f"kind{number}.jpg", kind), "/etc/passwd")
        for name in ("../up.jpg", "a/../../up.jpg", "/etc/absolute.jpg"):
            archive.writestr(name, b"data")
        archive.writestr(entry("good.jpg", stat.S_IFREG), b"data")
        archive.writestr("empty.jpg", b"")
    *refused, good, empty = scan(path)
    assert len(refused) == 7
    assert count(path) == 9
    assert "a.zip/../up.jpg" in [item.id for item in refused]
    assert good.read() == b"data"
    for item in (*refused, empty):
        for look in (item.read, lambda item=item: read(item.locator)):
            with pytest.raises(SourceUnreadable, match=r"a\.zip holds no plain file .*refused"):
                look()


def altered(path: Path, name: str, **fields: int) -> None:
    """Change what the list at the end says of a member, and its own header: APPNOTE.TXT 4.3."""
    places = {"flags": (6, 8, "<H"), "method": (8, 10, "<H"), "size": (22, 24, "<I")}
    places["packed"] = (18, 20, "<I")
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        own = archive.getinfo(name).header_offset
    listed = data.index(b"PK\1\2")
    while data[listed + 46 : listed + 46 + len(name)] != name.encode():
        listed = data.index(b"PK\1\2", listed + 4)
    for field, value in fields.items():
        mine, theirs, form = places[field]
        struct.pack_into(form, data, own + mine, value)
        struct.pack_into(form, data, listed + theirs, value)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"flags": 1}, "is encrypted"),
        ({"method": 14}, r"packed by method 14, expected 0 or 8"),
        ({"size": 99}, "size or checksum is not as stated"),
        ({"size": 10_001}, "size or checksum is not as stated"),
        ({"size": LARGEST_FILE_BYTES + 1}, "bytes, expected at most"),
        ({"packed": LARGEST_FILE_BYTES + 1}, "bytes, expected at most"),
    ],
)
def test_what_cannot_be_unpacked_is_named_and_fails_alone(
    tmp_path: Path, fields: dict[str, int], why: str
) -> None:
    path = write_zip(tmp_path / "a.zip", {"1.jpg": b"x" * 10_000, "2.jpg": b"whole"})
    altered(path, "1.jpg", **fields)
    bad, good = scan(path)
    assert good.read() == b"whole"
    with pytest.raises(SourceUnreadable, match=why):
        bad.read()


def test_a_size_that_no_database_holds_is_refused_as_too_large(tmp_path: Path) -> None:
    member = zipfile.ZipInfo("1.jpg")
    member.extra = struct.pack("<HHQ", 1, 8, (1 << 64) - 1)  # ZIP64: the size, where it says so
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(member, b"data")
    altered(tmp_path / "a.zip", "1.jpg", size=0xFFFFFFFF)
    (item,) = scan(tmp_path / "a.zip")
    assert item.size_bytes == (1 << 63) - 1
    with pytest.raises(SourceUnreadable, match="bytes, expected at most"):
        item.read()


def test_a_bomb_is_not_unpacked_beyond_what_it_states(tmp_path: Path) -> None:
    """Megabytes of zeros take kilobytes; who states a kilobyte gets no more."""
    path = write_zip(tmp_path / "a.zip", {"1.jpg": bytes(50_000_000)})
    altered(path, "1.jpg", size=1000)
    (item,) = scan(path)
    tracemalloc.start()
    with pytest.raises(SourceUnreadable, match="not as stated"):
        item.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_damaged_member_is_never_given(tmp_path: Path) -> None:
    """JPEGs decode past a changed byte; the checksum does not."""
    path = write_zip(tmp_path / "a.zip", {"1.jpg": bytes(range(256))}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    (item,) = scan(path)
    with pytest.raises(SourceUnreadable, match="damaged"):
        item.read()


def test_a_member_that_is_not_there_any_more_is_not_found(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"1.jpg": b"x", "2.jpg": b"y" * 5000})
    locator = list(scan(path))[1].locator
    write_zip(path, {"1.jpg": b"x"})
    with pytest.raises(SourceNotFound, match=r"a\.zip has no member at byte"):
        read(locator)
    path.unlink()
    with pytest.raises(SourceNotFound, match="is not there"):
        read(locator)


def test_a_file_that_is_no_zip_or_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"1.jpg": b"x" * 5000})
    whole = path.read_bytes()
    for data in (b"", b"neither", whole[:-10], whole[: len(whole) // 2]):
        path.write_bytes(data)
        for look in (lambda: list(scan(path)), lambda: count(path)):
            with pytest.raises(SourceUnreadable, match=r"a\.zip cannot be read"):
                look()
        with pytest.raises(SourceUnreadable, match=r"a\.zip cannot be read"):
            list(scan(path, past_damage=True))


def test_past_damage_a_zip_file_without_its_list_is_one_item(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_zip(tmp_path / name, {"1.jpg": name.encode()})
    (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-10])
    damaged, sound = scan(tmp_path, past_damage=True)
    assert (damaged.id, sound.read()) == ("a.zip", b"b.zip")
    assert damaged.locator.startswith(locator_prefix(tmp_path))
    with pytest.raises(SourceUnreadable, match="refused"):
        read(damaged.locator)
    assert count(tmp_path, past_damage=True) == 2


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_damage_gives_bytes_or_a_named_error(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_zip(Path(folder) / "a.zip", {"1.jpg": b"one" * 20, "b/2.jpg": b"two"})
        damaged = bytearray(path.read_bytes())
        places = st.integers(0, len(damaged) - 1)
        for place, byte in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=4)):
            damaged[place] = byte
        path.write_bytes(damaged)
        try:
            items = list(scan(path))
        except SourceError:
            return
        for item in items:
            try:
                assert item.read() in (b"one" * 20, b"two")
            except SourceError:
                continue


def test_a_zip_file_beside_pictures_does_not_hide_them(tmp_path: Path) -> None:
    write_zip(tmp_path / "backup.zip", {"old.jpg": b"x"})
    (tmp_path / "a.jpg").write_bytes(b"a")
    assert ids(tmp_path) == ["a.jpg"]


def test_no_file_of_a_folder_is_meant_by_a_members_locator(tmp_path: Path) -> None:
    (item,) = scan(write_zip(tmp_path / "a.zip", {"1.jpg": b"x"}))
    with pytest.raises(SourceUnreadable, match="is no file of a folder"):
        path_of(item.locator)
