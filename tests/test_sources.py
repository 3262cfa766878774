"""Folders, Parquet files and tar shards: the same items in the same order, every time."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index.errors import SourceNotFound, SourceUnreadable
from index.sources import (
    SourceItem,
    count,
    is_same_place,
    locator_prefix,
    path_of,
    read,
    scan,
    unread_archives,
)


def write(folder: Path, *names: str) -> Path:
    """Files whose content is their own name: a scan does not look at it."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return folder


def write_parquet(
    path: Path,
    images: list[bytes | None],
    labels: list[Any] | None = None,
    metadata: dict[str, str] | None = None,
    rows_a_group: int = 1000,
) -> Path:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": None} for data in images]
    columns = {"image": pa.array(rows, image)}
    if labels is not None:
        columns["label"] = pa.array(labels)
    table = pa.table(columns).replace_schema_metadata(metadata)
    pq.write_table(table, path, row_group_size=rows_a_group)
    return path


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def ids(source: Path) -> list[str]:
    return [item.id for item in scan(source)]


def labels(source: Path) -> dict[str, str | None]:
    return {item.id: item.label for item in scan(source)}


def assert_sound(source: Path) -> list[SourceItem]:
    """What holds for every source: stable, counted, unique, and readable by locator."""
    items = list(scan(source))
    assert items == list(scan(source))
    assert count(source) == len(items)
    assert len({item.id for item in items}) == len({item.locator for item in items}) == len(items)
    for item in items:
        assert item.locator.startswith(locator_prefix(source))
        data = item.read()
        assert len(data) == item.size_bytes
        assert read(item.locator) == data
    return items


# Folders


def test_a_folder_gives_its_images_by_their_paths_in_order(tmp_path: Path) -> None:
    write(tmp_path, "z.jpg", "b/2.PNG", "b/10.webp", "a/x/deep.TIFF", "b.gif", "a/note.txt")
    assert [item.id for item in assert_sound(tmp_path)] == [
        "a/x/deep.TIFF",
        "b/10.webp",
        "b/2.PNG",
        "b.gif",
        "z.jpg",
    ]


def test_an_item_of_a_folder_says_what_the_file_system_says(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    os.utime(tmp_path / "a.jpg", ns=(1, 1_700_000_000_123_456_000))
    (item,) = scan(tmp_path)
    assert item == SourceItem(
        "a.jpg",
        f"file:{tmp_path}/a.jpg",
        len(b"a.jpg"),
        1_700_000_000_123_456_000,
        None,
        fetch=bytes,
    )


def test_the_first_folder_of_the_path_is_the_label(tmp_path: Path) -> None:
    write(tmp_path, "top.jpg", "cats/1.jpg", "cats/grey/2.jpg", "dogs/3.jpg")
    assert labels(tmp_path) == {
        "cats/1.jpg": "cats",
        "cats/grey/2.jpg": "cats",
        "dogs/3.jpg": "dogs",
        "top.jpg": None,
    }


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, ".a.jpg", ".git/b.jpg", "__MACOSX/._c.jpg", "d.jpg", "e/.f/g.jpg")
    assert ids(tmp_path) == ["d.jpg"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere", "shelf/1.jpg")
    folder = write(tmp_path / "photographs", "a/2.jpg", "b/3.jpg")
    (folder / "shelf").symlink_to(tmp_path / "elsewhere" / "shelf")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "a" / "b").symlink_to(folder / "b")
    (folder / "b" / "a").symlink_to(folder / "a")
    (folder / "itself").symlink_to(folder / "itself")
    (folder / "linked.jpg").symlink_to(folder / "a" / "2.jpg")
    items = assert_sound(folder)
    assert [item.id for item in items] == [
        "a/2.jpg",
        "a/b/3.jpg",
        "b/3.jpg",
        "b/a/2.jpg",
        "linked.jpg",
        "shelf/1.jpg",
    ]


def test_what_cannot_be_read_is_an_item_and_fails_alone(tmp_path: Path) -> None:
    write(tmp_path, "good.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
    items = {item.id: item for item in scan(tmp_path)}
    assert len(items) == count(tmp_path) == 4
    assert items["good.jpg"].read() == b"good.jpg"
    with pytest.raises(SourceNotFound, match=r"broken\.jpg is not there"):
        items["broken.jpg"].read()
    with pytest.raises(SourceUnreadable, match=r"circle\.jpg cannot be read: Too many levels"):
        items["circle.jpg"].read()
    with pytest.raises(SourceUnreadable, match=r"pipe\.jpg is .*no regular file"):
        items["pipe.jpg"].read()


def test_what_goes_away_during_a_scan_does_not_end_it(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
    items = scan(tmp_path)
    first = next(items)
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    gone, last = items
    assert last.read() == b"c/3.jpg"
    for item in (first, gone):
        with pytest.raises(SourceNotFound):
            item.read()


def test_a_scan_is_lazy(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "b/2.jpg")
    items = scan(tmp_path)
    assert next(items).id == "a/1.jpg"
    write(tmp_path, "b/3.jpg")
    assert [item.id for item in items] == ["b/2.jpg", "b/3.jpg"]


def test_a_relative_source_has_absolute_locators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "photographs", "a.jpg")
    monkeypatch.chdir(tmp_path)
    for source in ("photographs", "./photographs/", "../" + tmp_path.name + "/photographs"):
        assert [item.locator for item in scan(source)] == [f"file:{tmp_path}/photographs/a.jpg"]


@settings(deadline=None, max_examples=50)
@given(
    st.sets(
        st.binary(min_size=1, max_size=40).filter(lambda name: not set(name) & {0, 0x2F}),
        max_size=8,
    )
)
def test_any_file_name_has_an_id_that_is_text_and_a_locator_back(names: set[bytes]) -> None:
    """File names are bytes; SQLite, JSON and HTTP want text."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            with open(os.fsencode(folder) + b"/x" + name + b".jpg", "wb") as file:
                file.write(name)
        items = assert_sound(Path(folder))
        assert {item.read() for item in items} == names
        for item in items:
            item.id.encode()
            item.locator.encode()


def test_an_ordinary_name_is_its_own_id(tmp_path: Path) -> None:
    write(tmp_path, "été #1 100%.jpg", "日本/写真.png")
    assert ids(tmp_path) == ["été #1 100%.jpg", "日本/写真.png"]


# Parquet


def test_a_parquet_file_gives_its_rows(tmp_path: Path) -> None:
    images = [bytes([row]) * (row + 1) for row in range(200)]
    path = write_parquet(tmp_path / "test.parquet", list(images), rows_a_group=70)
    items = assert_sound(path)
    assert [item.id for item in items] == [f"test.parquet/{row}" for row in range(200)]
    assert [item.read() for item in items] == images
    assert items[17].locator == f"parquet:{path}#17"
    assert items[17].mtime_ns == path.stat().st_mtime_ns
    assert items[17].label is None


def test_a_folder_of_parquet_files_is_read_in_order(tmp_path: Path) -> None:
    for name in ("train-1.parquet", "train-0.parquet"):
        write_parquet(tmp_path / name, [name.encode()])
    write(tmp_path, "README.md", ".cache.jpg")
    items = assert_sound(tmp_path)
    assert [item.read() for item in items] == [b"train-0.parquet", b"train-1.parquet"]


@pytest.mark.parametrize(
    "metadata",
    [
        {"label_names": '["cat", "dog", ""]'},
        {
            "huggingface": json.dumps(
                {
                    "info": {
                        "features": {
                            "image": {"_type": "Image"},
                            "label": {"names": ["cat", "dog", ""], "_type": "ClassLabel"},
                        }
                    }
                }
            )
        },
    ],
)
def test_integer_labels_go_by_their_names(tmp_path: Path, metadata: dict[str, str]) -> None:
    """A number without a name stands for itself; -1 and null mean unlabelled."""
    path = write_parquet(tmp_path / "a.parquet", [b"x"] * 6, [1, 0, 2, 7, -1, None], metadata)
    assert list(labels(path).values()) == ["dog", "cat", "2", "7", None, None]


@pytest.mark.parametrize("metadata", [None, {"huggingface": "[]"}, {"label_names": "{}"}])
def test_labels_without_names_are_taken_as_they_are(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    write_parquet(tmp_path / "numbers.parquet", [b"x"] * 2, [3, 4], metadata)
    write_parquet(tmp_path / "texts.parquet", [b"x"] * 2, ["cat", "dog"], metadata)
    assert list(labels(tmp_path).values()) == ["3", "4", "cat", "dog"]


def test_a_row_without_bytes_is_an_item_and_fails_alone(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [b"x", None, b"", b"y"])
    first, null, empty, last = scan(path)
    assert (first.read(), last.read()) == (b"x", b"y")
    for item in (null, empty):
        assert item.size_bytes == 0
        with pytest.raises(SourceUnreadable, match="holds no image bytes"):
            item.read()


def test_a_row_that_is_not_there_any_more_is_not_found(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [b"x"] * 3)
    locator = list(scan(path))[2].locator
    write_parquet(path, [b"x"] * 2)
    with pytest.raises(SourceNotFound, match="has 2 rows, expected one with number 2"):
        read(locator)
    path.unlink()
    with pytest.raises(SourceNotFound, match="is not there"):
        read(locator)


def test_a_parquet_file_of_other_columns_is_refused_with_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    for column, kind in (("img", "string"), ("image", "string")):
        pq.write_table(pa.table({column: ["x"]}), path)
        for look in (
            lambda: list(scan(path)),
            lambda: count(path),
            lambda: read(f"parquet:{path}#0"),
        ):
            with pytest.raises(SourceUnreadable, match=f"columns .*{column}.*{kind}.*struct"):
                look()


def test_a_parquet_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 but not really PAR1")
    for look in (lambda: list(scan(path)), lambda: count(path)):
        with pytest.raises(SourceUnreadable, match=r"a\.parquet cannot be read"):
            look()


def test_rows_before_a_damaged_group_are_given(tmp_path: Path) -> None:
    """Rows come as the file is read: the damage behind them is not met at once."""
    images: list[bytes | None] = [os.urandom(500) for _ in range(256)]
    path = write_parquet(tmp_path / "a.parquet", images, rows_a_group=128)
    group = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = group.data_page_offset
    data[start : start + 200] = b"\xff" * 200
    path.write_bytes(data)
    items = scan(path)
    assert [next(items).id for _ in range(128)] == [f"a.parquet/{row}" for row in range(128)]
    with pytest.raises(SourceUnreadable, match=r"a\.parquet cannot be read"):
        list(items)


# Tar shards


def test_a_shard_gives_its_images_with_their_samples_labels(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "shard-0.tar",
        [
            ("0001.jpg", b"one"),
            ("0001.cls", b"7\n"),
            ("0002.cls", b"8"),
            ("0002.left.png", b"two, left"),
            ("0002.right.png", b"two, right"),
            ("0003.json", b'{"label": "cat", "width": 3}'),
            ("0003.webp", b"three"),
            ("./sub.dir/0003.JPG", b"another three"),
            ("0004.txt", b"no picture"),
            ("0005.gif", b"five"),
        ],
    )
    items = assert_sound(path)
    assert [(item.id, item.read(), item.label) for item in items] == [
        ("shard-0.tar/0001.jpg", b"one", "7"),
        ("shard-0.tar/0002.left.png", b"two, left", "8"),
        ("shard-0.tar/0002.right.png", b"two, right", "8"),
        ("shard-0.tar/0003.webp", b"three", "cat"),
        ("shard-0.tar/sub.dir/0003.JPG", b"another three", None),
        ("shard-0.tar/0005.gif", b"five", None),
    ]
    assert items[0].locator == f"tar:{path}#512+3"


def test_a_folder_of_shards_is_read_in_order(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar"):
        write_tar(tmp_path / name, [("1.jpg", name.encode())])
    assert [item.id for item in assert_sound(tmp_path)] == ["a.tar/1.jpg", "b.tar/1.jpg"]


@pytest.mark.parametrize("sidecar", [b"", b"{", b"[1]", b'{"label": null}', b'{"label": {"a": 1}}'])
def test_a_label_that_is_not_legible_is_none(tmp_path: Path, sidecar: bytes) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("1.json", sidecar)])
    assert labels(path) == {"a.tar/1.jpg": None}


def test_links_and_names_that_lead_out_are_refused_one_by_one(tmp_path: Path) -> None:
    secret = write(tmp_path, "secret.jpg") / "secret.jpg"
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("soft.jpg", tarfile.SYMTYPE), ("hard.jpg", tarfile.LNKTYPE)):
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, str(secret)
            archive.addfile(header)
        for name in ("../up.jpg", "a/../../up.jpg", "/etc/absolute.jpg", "good.jpg"):
            header = tarfile.TarInfo(name)
            header.size = 4
            archive.addfile(header, io.BytesIO(b"data"))
        archive.addfile(tarfile.TarInfo("empty.jpg"))
    *refused, good, empty = scan(path)
    assert len(refused) == 5
    assert count(path) == 7
    assert good.read() == b"data"
    for item in (*refused, empty):
        with pytest.raises(SourceUnreadable, match=r"shard\.tar holds no plain file .*refused"):
            item.read()


def test_a_damaged_header_does_not_end_a_shard_in_silence(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{number}.jpg", b"x" * 600) for number in range(9)])
    data = bytearray(path.read_bytes())
    data[1536 * 4 : 1536 * 4 + 40] = b"\xff" * 40
    path.write_bytes(data)
    items = scan(path)
    assert [next(items).id for _ in range(4)] == [f"a.tar/{number}.jpg" for number in range(4)]
    with pytest.raises(SourceUnreadable, match="damaged header at byte 6144"):
        list(items)
    with pytest.raises(SourceUnreadable, match="damaged header"):
        count(path)


def test_a_shard_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{number}.jpg", b"x" * 600) for number in range(9)])
    data = path.read_bytes()
    for kept in (1536 * 4 + 700, 1536 * 4 + 100):
        path.write_bytes(data[:kept])
        with pytest.raises(SourceUnreadable, match=r"a\.tar"):
            list(scan(path))


def test_a_shard_without_an_end_mark_is_whole(tmp_path: Path) -> None:
    """Some writers leave it out; nothing is lost by that."""
    path = write_tar(tmp_path / "a.tar", [("1.jpg", b"x" * 600), ("2.jpg", b"y")])
    path.write_bytes(path.read_bytes()[: 1536 + 1024])
    assert [item.read() for item in assert_sound(path)] == [b"x" * 600, b"y"]


def test_a_compressed_shard_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("1.jpg"))
    with pytest.raises(SourceUnreadable, match=r"a\.tar cannot be read"):
        list(scan(path))


def test_a_member_that_is_not_there_any_more_is_not_found(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.jpg", b"x" * 20_000)])
    (item,) = scan(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(SourceNotFound, match="ends before byte 20512"):
        item.read()


# Damaged shards


def damaged_shards(folder: Path) -> Path:
    """Three shards of three pictures, the second cut off in the middle of its second picture."""
    for name in ("a.tar", "b.tar", "c.tar"):
        write_tar(folder / name, [(f"{number}.jpg", b"x" * 600) for number in range(3)])
    (folder / "b.tar").write_bytes((folder / "b.tar").read_bytes()[: 1536 + 900])
    return folder


def test_past_damage_a_shard_gives_what_it_can_and_then_stands_for_the_rest(tmp_path: Path) -> None:
    items = list(scan(damaged_shards(tmp_path), past_damage=True))
    assert [item.id for item in items] == [
        *("a.tar/0.jpg", "a.tar/1.jpg", "a.tar/2.jpg"),
        *("b.tar/0.jpg", "b.tar/1.jpg", "b.tar"),
        *("c.tar/0.jpg", "c.tar/1.jpg", "c.tar/2.jpg"),
    ]
    assert [item.read() for item in items[:4]] == [b"x" * 600] * 4
    assert [item.id for item in items if item.damage] == ["b.tar"]
    with pytest.raises(SourceNotFound, match="ends before"):
        items[4].read()
    with pytest.raises(SourceUnreadable, match=r"b\.tar cannot be read"):
        items[5].read()
    with pytest.raises(SourceUnreadable, match="refused"):
        read(items[5].locator)
    assert items[5].locator.startswith(locator_prefix(tmp_path))
    assert len({item.locator for item in items}) == len(items)
    assert count(tmp_path, past_damage=True) == len(items)


def test_damage_ends_a_scan_that_did_not_ask_to_go_past_it(tmp_path: Path) -> None:
    damaged_shards(tmp_path)
    with pytest.raises(SourceUnreadable, match=r"b\.tar cannot be read"):
        list(scan(tmp_path))
    with pytest.raises(SourceUnreadable, match=r"b\.tar cannot be read"):
        count(tmp_path)


def test_past_damage_a_sound_source_is_the_same(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [b"x", None], ["cat", "dog"])
    assert list(scan(tmp_path, past_damage=True)) == list(scan(tmp_path))
    assert count(tmp_path, past_damage=True) == 2


def test_past_damage_a_parquet_file_without_its_end_is_one_item(tmp_path: Path) -> None:
    """Its rows are listed at its end: nothing can be read of it, but of its neighbour."""
    for name in ("a.parquet", "b.parquet"):
        write_parquet(tmp_path / name, [name.encode()] * 2)
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    damaged, *sound = scan(tmp_path, past_damage=True)
    assert (damaged.id, damaged.size_bytes) == (
        "a.parquet",
        (tmp_path / "a.parquet").stat().st_size,
    )
    assert "cannot be read" in str(damaged.damage)
    assert [item.read() for item in sound] == [b"b.parquet"] * 2
    assert count(tmp_path, past_damage=True) == 3


def test_a_sample_whose_label_is_cut_off_keeps_its_picture(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.jpg", b"x" * 600), ("1.json", b" " * 600 + b"{}")])
    path.write_bytes(path.read_bytes()[: 1536 + 600])
    picture, rest = scan(path, past_damage=True)
    assert (picture.read(), picture.label) == (b"x" * 600, None)
    assert rest.damage


@pytest.mark.parametrize("name", ["a.parquet", "a.tar"])
def test_one_file_with_nothing_to_read_is_refused_even_past_damage(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"neither " * 200)
    for look in (
        lambda: list(scan(tmp_path / name, past_damage=True)),
        lambda: count(tmp_path / name, past_damage=True),
    ):
        with pytest.raises(SourceUnreadable, match="cannot be read"):
            look()


@pytest.mark.parametrize("suffix", ["parquet", "tar", "zip"])
def test_a_named_pipe_is_no_archive_and_nobody_waits_for_it(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"a.{suffix}")
    (item,) = scan(tmp_path, past_damage=True)
    assert "no regular file" in str(item.damage)


# Which kind of source it is


def test_a_source_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    for look in (scan, count, locator_prefix):
        with pytest.raises(SourceNotFound, match="missing is not there"):
            look(tmp_path / "missing")


def test_a_file_of_another_kind_is_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path, "photo.jpg", "shards.tar.gz")
    for name in ("photo.jpg", "shards.tar.gz"):
        with pytest.raises(SourceUnreadable, match=r"is a file, expected a folder, a \.parquet"):
            scan(tmp_path / name)


def test_an_archive_beside_pictures_does_not_hide_them(tmp_path: Path) -> None:
    write_tar(tmp_path / "backup.tar", [("old.jpg", b"x")])
    write(tmp_path, "a.jpg")
    assert ids(tmp_path) == ["a.jpg"]


def test_an_archive_beside_folders_does_not_hide_them(tmp_path: Path) -> None:
    write_parquet(tmp_path / "features.parquet", [b"x"])
    write(tmp_path, "cats/a.jpg")
    assert ids(tmp_path) == ["cats/a.jpg"]


def test_archives_that_a_folder_of_pictures_hides_are_told(tmp_path: Path) -> None:
    """At any depth; of a folder of shards all are read."""
    (tmp_path / "shards").mkdir()
    write_tar(tmp_path / "shards" / "a.tar", [("1.jpg", b"x")])
    write_parquet(tmp_path / "b.PARQUET", [b"x"])
    assert unread_archives(tmp_path / "shards") == []
    assert unread_archives(tmp_path / "shards" / "a.tar") == []
    write(tmp_path, "a.jpg", "cats/c.zip", "cats/.hidden.zip", ".git/d.zip", "cats/e.tar.gz")
    assert unread_archives(tmp_path) == ["b.PARQUET", "cats/c.zip", "shards/a.tar"]


def test_two_kinds_of_shards_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("1.jpg", b"x")])
    write_parquet(tmp_path / "b.parquet", [b"x"])
    with pytest.raises(SourceUnreadable, match="holds both"):
        scan(tmp_path)


def test_an_empty_folder_has_no_items(tmp_path: Path) -> None:
    assert assert_sound(tmp_path) == []


def test_the_prefix_tells_neighbouring_sources_apart(tmp_path: Path) -> None:
    write(tmp_path, "cats/1.jpg", "cats-old/2.jpg")
    (old,) = scan(tmp_path / "cats-old")
    assert not old.locator.startswith(locator_prefix(tmp_path / "cats"))
    one, other = (write_parquet(tmp_path / name, [b"x"]) for name in ("a.parquet", "a.parquet2"))
    other.rename(tmp_path / "a.parquet.parquet")
    (item,) = scan(tmp_path / "a.parquet.parquet")
    assert not item.locator.startswith(locator_prefix(one))


def test_a_place_is_the_same_by_way_of_a_link(tmp_path: Path) -> None:
    write(tmp_path, "cats/1.jpg", "dogs/1.jpg")
    shard = write_tar(tmp_path / "a.tar", [("1.jpg", b"x")])
    (tmp_path / "link").symlink_to(tmp_path / "cats")
    (tmp_path / "link.tar").symlink_to(shard)
    cats, dogs, link, tar, tar_link = (
        locator_prefix(tmp_path / name) for name in ("cats", "dogs", "link", "a.tar", "link.tar")
    )
    assert is_same_place(cats, link)
    assert is_same_place(tar, tar_link)
    for other in (dogs, tar, "url:memory://cats/", "file:/nowhere/"):
        assert not is_same_place(cats, other)


@pytest.mark.parametrize(
    "locator",
    [
        "",
        "a.jpg",
        "http://127.0.0.1/a.jpg",
        "parquet:/a",
        "parquet:/a#-1",
        "tar:/a#1",
        "tar:/a#x+1",
        "tar:/a#1+" + "9" * 5000,
        "zip:/a#1+2+3",
        "url:/a.jpg",
        "url:a.jpg",
    ],
)
def test_what_is_no_locator_is_refused(locator: str) -> None:
    with pytest.raises(SourceUnreadable, match="is no locator, expected file:"):
        read(locator)


@given(st.text())
def test_any_text_for_a_locator_gives_bytes_or_a_named_error(text: str) -> None:
    for kind in ("file", "parquet", "tar"):
        with pytest.raises((SourceNotFound, SourceUnreadable)):
            read(f"{kind}:/nowhere/{text}#{text}")


def test_a_folders_locator_leads_to_its_file_and_an_archives_to_none(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xef\xbf\xbd.jpg")  # not UTF-8, and U+FFFD itself
    write(tmp_path / "album", "a.jpg")
    (tmp_path / "album" / name).write_bytes(b"")
    assert {path_of(item.locator) for item in scan(tmp_path)} == {
        tmp_path / "album" / "a.jpg",
        tmp_path / "album" / name,
    }
    assert path_of(locator_prefix(tmp_path)) == tmp_path
    for locator in ("tar:/a.tar#0+9", "parquet:/a.parquet#0", "blob:abc", ""):
        with pytest.raises(SourceUnreadable, match="is no file of a folder"):
            path_of(locator)
