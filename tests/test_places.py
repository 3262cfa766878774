"""Sources at URLs: the same items as on this machine, and every failure by its name."""

from __future__ import annotations

import io
import os
import re
import tarfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pictures import jpeg
from test_sources import assert_sound, write, write_parquet, write_tar
from test_zips import write_zip

from index.build import Report, Settings, build
from index.catalog import Catalog
from index.collection import Collection
from index.encoder import Encoder
from index.errors import SourceNotFound, SourceUnreadable
from index.sources import count, locator_prefix, path_of, read, scan, unread_archives
from index.sources.places import Remote, place_of


@pytest.fixture
def bucket() -> Iterator[str]:
    """The URL of an empty bucket, as S3 has them: names alone make folders."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    files.pseudo_dirs.clear()
    files.pipe_file("memory://bucket/.keep", b"")
    yield "memory://bucket"
    files.store.clear()


def upload(folder: Path, url: str) -> None:
    """All files below a folder, by their names."""
    for path in folder.rglob("*"):
        if path.is_file():
            name = f"{url}/{path.relative_to(folder).as_posix()}"
            fsspec.filesystem("memory").pipe_file(name, path.read_bytes())


def seen(source: str | Path) -> list[tuple[str, int, str | None, bytes]]:
    return [(item.id, item.size_bytes, item.label, item.read()) for item in scan(source)]


# The same as here


def test_a_folder_at_a_url_is_the_same_as_here(tmp_path: Path, bucket: str) -> None:
    names = ["z.jpg", "b/2.PNG", "b/10.webp", "a/x/deep #1.TIFF", "a/note.txt", ".git/x.jpg"]
    upload(write(tmp_path, *names, "b/.a.jpg", "b.gif"), bucket)
    items = assert_sound_remote(bucket)
    assert sorted(item[0] for item in items) == sorted(item[0] for item in seen(tmp_path))
    assert dict.fromkeys(seen(tmp_path)) == dict.fromkeys(sorted(items))
    assert "url:memory://bucket/a/x/deep #1.TIFF" in [item.locator for item in scan(bucket)]


def test_archives_beside_pictures_at_a_url_are_told(tmp_path: Path, bucket: str) -> None:
    upload(write(tmp_path, "a.jpg", "b.zip", "c/d.tar", "c/.e.zip"), bucket)
    assert unread_archives(bucket) == ["b.zip", "c/d.tar"]


def assert_sound_remote(url: str) -> list[tuple[str, int, str | None, bytes]]:
    """What holds for every source: see ``assert_sound``."""
    items = list(scan(url))
    assert items == list(scan(url)) == list(scan(f"{url}/"))
    assert len({item.id for item in items}) == len({item.locator for item in items}) == len(items)
    for item in items:
        assert item.locator.startswith(locator_prefix(url))
        assert item.read() == read(item.locator)
        with pytest.raises(SourceUnreadable, match="is no file of a folder"):
            path_of(item.locator)
    assert count(url) in (None, len(items))
    return seen(url)


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """One of each kind, the same pictures in each."""
    pictures = {"x/1.jpg": os.urandom(3000), "x/2.jpg": b"two", "x/3.jpg": bytes(9000)}
    for kind in ("zip", "tar", "parquet"):
        (tmp_path / kind).mkdir()
    write_zip(tmp_path / "zip" / "a.zip", pictures)
    members = [*pictures.items(), ("x/3.cls", b"7"), ("x/4.json", b'{"label": "cat"}')]
    write_tar(tmp_path / "tar" / "a.tar", [*members, ("x/4.jpg", b"four")])
    write_parquet(tmp_path / "parquet" / "a.parquet", list(pictures.values()), [1, 2, 3])
    return tmp_path


@pytest.mark.parametrize("kind", ["zip", "tar", "parquet"])
def test_an_archive_at_a_url_is_the_same_as_here(archives: Path, bucket: str, kind: str) -> None:
    upload(archives / kind, bucket)
    expected = seen(archives / kind)
    assert len(expected) >= 3
    assert assert_sound_remote(bucket) == expected
    assert seen(f"{bucket}/a.{kind}") == expected
    assert locator_prefix(f"{bucket}/a.{kind}") == f"{kind}:memory://bucket/a.{kind}#"


def test_links_and_ways_out_of_a_shard_at_a_url_are_refused(tmp_path: Path, bucket: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name in ("../up.jpg", "good.jpg"):
            header = tarfile.TarInfo(name)
            header.size = 4
            archive.addfile(header, io.BytesIO(b"data"))
    upload(tmp_path, bucket)
    *refused, good = scan(f"{bucket}/a.tar")
    assert good.read() == b"data"
    for item in refused:
        with pytest.raises(SourceUnreadable, match="refused"):
            item.read()


def test_a_shard_of_one_long_sample_is_not_held_in_memory(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names such as IMG.0001.jpg are one sample: what is over the limit is fetched by itself."""
    monkeypatch.setattr("index.sources.tars._HELD_BYTES", 1000)
    pictures = [(f"IMG.{number}.jpg", bytes([number]) * 600) for number in range(4)]
    write_tar(tmp_path / "a.tar", pictures)
    upload(tmp_path, bucket)
    asked: list[int] = []
    span = Remote.span

    def spied(self: Remote, offset: int, size: int) -> bytes:
        asked.append(offset)
        return span(self, offset, size)

    monkeypatch.setattr(Remote, "span", spied)
    assert [item.read() for item in scan(bucket)] == [data for _, data in pictures]
    assert len(asked) == 3


def test_a_shard_that_was_cut_off_on_the_way_is_named(tmp_path: Path, bucket: str) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{n}.jpg", b"x" * 600) for n in range(3)])
    path.write_bytes(path.read_bytes()[: 1536 + 900])
    upload(tmp_path, bucket)
    first, rest = scan(bucket, past_damage=True)
    assert (first.id, rest.id) == ("a.tar/0.jpg", "a.tar")
    assert "in the middle of 1.jpg" in str(rest.damage)


def test_a_file_url_is_the_path_itself(tmp_path: Path) -> None:
    write(tmp_path, "a b/1.jpg")
    assert list(scan(f"file://{tmp_path}/a b/")) == assert_sound(tmp_path / "a b")
    assert locator_prefix(f"file://{tmp_path}") == locator_prefix(tmp_path)


# Collections of what lies at a URL


@pytest.fixture
def collection(tmp_path: Path, encoder: Encoder) -> Iterator[Collection]:
    with Catalog(tmp_path / "data").create("pictures", encoder) as collection:
        yield collection


def run(source: str, collection: Collection, encoder: Encoder) -> dict[str, int]:
    report: Report = build(source, collection, encoder, settings=Settings(workers=2, batch_size=4))
    names = ("added", "updated", "unchanged", "left_out", "gone")
    found = {name: getattr(report.progress, name) for name in names}
    return {name: number for name, number in found.items() if number}


def test_a_bucket_is_followed_as_a_folder_is(
    bucket: str, collection: Collection, encoder: Encoder
) -> None:
    files = fsspec.filesystem("memory")
    for seed in range(5):
        files.pipe_file(f"{bucket}/shelf/{seed}.jpg", jpeg(seed))
    assert run(bucket, collection, encoder) == {"added": 5}
    assert run(bucket, collection, encoder) == {"unchanged": 5}
    assert collection.read("shelf/3.jpg") == jpeg(3)
    assert collection.get("shelf/3.jpg").metadata == {"label": "shelf"}
    files.pipe_file(f"{bucket}/shelf/3.jpg", jpeg(33))
    files.rm_file(f"{bucket}/shelf/4.jpg")
    with pytest.raises(SourceUnreadable, match="has changed since"):
        collection.read("shelf/3.jpg")
    with pytest.raises(SourceNotFound, match=r"memory://bucket/shelf/4\.jpg is not there"):
        collection.read("shelf/4.jpg")
    assert run(bucket, collection, encoder) == {"updated": 1, "unchanged": 3, "gone": 1}
    assert collection.read("shelf/3.jpg") == jpeg(33)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_images_of_an_archive_at_a_url_are_indexed_and_read_again(
    tmp_path: Path, bucket: str, collection: Collection, encoder: Encoder, kind: str
) -> None:
    pictures = {f"{seed}.jpg": jpeg(seed) for seed in range(6)}
    (tmp_path / "up").mkdir()
    if kind == "zip":
        write_zip(tmp_path / "up" / "a.zip", pictures)
    else:
        write_tar(tmp_path / "up" / "a.tar", list(pictures.items()))
    upload(tmp_path / "up", bucket)
    assert run(f"{bucket}/a.{kind}", collection, encoder) == {"added": 6}
    assert run(f"{bucket}/a.{kind}", collection, encoder) == {"unchanged": 6}
    assert collection.read(f"a.{kind}/4.jpg") == jpeg(4)
    assert collection.verify().problems == ()


# What tells that a file has changed


def stamp(**facts: Any) -> tuple[int, int]:
    return Remote("s3://bucket/a.jpg", None, "bucket/a.jpg", facts).size_and_time()


def test_a_files_number_follows_its_time_and_its_etag() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    seconds = int(moment.timestamp())
    assert stamp(size=3, LastModified=moment) == (3, seconds * 10**9)
    assert stamp(size=3, mtime=seconds + 0.5) == (3, seconds * 10**9 + 5 * 10**8)
    assert stamp(size=3, last_modified="2026-01-02T03:04:05Z")[1] == seconds * 10**9
    web = {"size": 3, "Last-Modified": format_datetime(moment)}
    assert stamp(**web)[1] == seconds * 10**9
    one, other = (stamp(size=3, LastModified=moment, ETag=tag)[1] for tag in ("a", "b"))
    assert one != other
    assert one // 10**9 == other // 10**9 == seconds
    assert stamp(size=3, ETag="a")[1] > 0


@pytest.mark.parametrize(
    "facts",
    [
        {"type": "file"},
        {"mtime": "yesterday"},
        {"mtime": object()},
        {"mtime": float("inf")},
        {"mtime": 1e300},
        {"mtime": 10**400},
    ],
)
def test_a_file_of_unknown_time_has_no_number(facts: dict[str, Any]) -> None:
    assert stamp(**facts) == (0, 0)


class Timeless(MemoryFileSystem):  # type: ignore[misc]
    """A server that states neither times nor tags: what a plain web page lists."""

    protocol = "timeless"

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        return [
            {name: facts[name] for name in ("name", "type")} | {"size": None}
            for facts in super().ls(path, detail=True)
        ]

    @classmethod
    def _strip_protocol(cls, path: str) -> Any:
        return super()._strip_protocol(path.removeprefix("timeless://"))


def test_where_no_time_is_known_the_bytes_tell(
    bucket: str, collection: Collection, encoder: Encoder
) -> None:
    fsspec.register_implementation("timeless", Timeless, clobber=True)
    files = fsspec.filesystem("memory")
    for seed in range(3):
        files.pipe_file(f"{bucket}/{seed}.jpg", jpeg(seed))
    source = "timeless://bucket"
    assert run(source, collection, encoder) == {"added": 3}
    version = collection.get("1.jpg").updated_at
    assert run(source, collection, encoder) == {"unchanged": 3}
    assert collection.get("1.jpg").updated_at == version, "nothing was written"
    files.pipe_file(f"{bucket}/1.jpg", jpeg(7))
    assert run(source, collection, encoder) == {"updated": 1, "unchanged": 2}


# Failures


@pytest.mark.parametrize(
    ("protocol", "package"),
    [("s3", "s3fs"), ("gs", "gcsfs"), ("az", "adlfs"), ("sftp", "paramiko"), ("https", "aiohttp")],
)
def test_a_protocol_without_its_package_says_which(protocol: str, package: str) -> None:
    try:
        __import__(package)
    except ImportError:
        message = f"{protocol}://bucket needs a package that is not installed: {package}$"
        for look in (scan, count, locator_prefix):
            with pytest.raises(SourceUnreadable, match=message):
                look(f"{protocol}://bucket")
    else:
        pytest.skip(f"{package} is installed")


def test_a_protocol_that_nobody_knows_is_refused() -> None:
    with pytest.raises(SourceUnreadable, match=r"Protocol not known: gopher"):
        scan("gopher://host/pictures")


def test_nothing_at_a_url_is_not_found(bucket: str) -> None:
    for name in ("missing", "missing.tar", "missing.zip", "missing.parquet"):
        with pytest.raises(SourceNotFound, match=rf"memory://bucket/{name} is not there"):
            scan(f"{bucket}/{name}")


def test_a_single_picture_at_a_url_is_no_source(bucket: str) -> None:
    fsspec.filesystem("memory").pipe_file(f"{bucket}/a.jpg", b"x")
    with pytest.raises(SourceUnreadable, match=r"a\.jpg is a file, expected a folder"):
        scan(f"{bucket}/a.jpg")


@pytest.mark.parametrize("url", ["sftp://me:secret@host/x", "ftp://me:secret@host/x"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    """It would be stored with every image, and shown with every error."""
    with pytest.raises(SourceUnreadable, match=r"FSSPEC_S?FTP_PASSWORD") as caught:
        scan(url)
    assert "secret" not in str(caught.value)


def test_a_chain_of_urls_is_refused() -> None:
    with pytest.raises(SourceUnreadable, match="is a chain of URLs"):
        scan("simplecache::memory://bucket")


def test_a_path_with_colons_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "12:30", "a.jpg")
    assert place_of("12:30") == place_of(tmp_path / "12:30")
    assert [item.id for item in scan("12:30")] == ["a.jpg"]


class Broken(MemoryFileSystem):  # type: ignore[misc]
    """A server that lists folders, but not the one named ``locked``."""

    protocol = "broken"

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        if path.endswith("locked"):
            raise RuntimeError("503 slow down")
        return super().ls(path, detail=True)

    @classmethod
    def _strip_protocol(cls, path: str) -> Any:
        return super()._strip_protocol(path.removeprefix("broken://"))


def test_a_folder_that_fails_on_the_way_makes_nothing_gone(
    bucket: str, collection: Collection, encoder: Encoder
) -> None:
    fsspec.register_implementation("broken", Broken, clobber=True)
    files = fsspec.filesystem("memory")
    for seed, folder in enumerate(("a", "later", "z")):
        files.pipe_file(f"{bucket}/{folder}/{seed}.jpg", jpeg(seed))
    assert run("broken://bucket", collection, encoder) == {"added": 3}
    files.mv(f"{bucket}/later", f"{bucket}/locked", recursive=True)
    with pytest.raises(SourceUnreadable, match=r"broken://bucket/locked cannot be read: 503"):
        run("broken://bucket", collection, encoder)
    assert collection.count()["present"] == 3


# The web


class Server(BaseHTTPRequestHandler):
    """Files of ``folder`` with ranges and ETags, and a page of links for each folder."""

    folder: Path
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.folder / self.path.strip("/")
        status, headers = 200, {}
        if path.is_dir():
            names = [f"{each.name}{'/' * each.is_dir()}" for each in path.iterdir()]
            body = "".join(f'<a href="{name}">{name}</a>' for name in names).encode()
            headers["Content-Type"] = "text/html"
        elif path.is_file():
            body = path.read_bytes()
            headers |= {"Accept-Ranges": "bytes", "ETag": f'"{hash(body)}"'}
            if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "")):
                first, last = int(asked[1]), min(int(asked[2]), len(body) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
                status, body = 206, body[first : last + 1]
        else:
            status, body = 404, b""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing on the screen."""


@pytest.fixture
def web(archives: Path) -> Iterator[str]:
    pytest.importorskip("aiohttp", reason="https:// sources need aiohttp")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Server,), {"folder": archives}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("kind", ["zip", "tar", "parquet"])
def test_an_archive_of_a_web_server_is_the_same_as_here(
    web: str, archives: Path, kind: str
) -> None:
    assert seen(f"{web}/{kind}/a.{kind}") == seen(archives / kind)
    for item in scan(f"{web}/{kind}/a.{kind}"):
        assert item.mtime_ns > 0, "from the ETag"
        assert read(item.locator) == item.read()


def test_pages_of_links_are_folders(web: str, archives: Path) -> None:
    write(archives / "album", "1.jpg", "shelf/2.jpg")
    assert [(item.id, item.read()) for item in scan(f"{web}/album")] == [
        ("1.jpg", b"1.jpg"),
        ("shelf/2.jpg", b"shelf/2.jpg"),
    ]
    with pytest.raises(SourceNotFound, match="nowhere is not there"):
        scan(f"{web}/nowhere")
