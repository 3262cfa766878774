"""A collection: what was acknowledged is found, by everyone, whatever happens to the process."""

from __future__ import annotations

import hashlib
import io
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import faiss
import numpy as np
import pytest
from pictures import jpeg, picture, put

from index import filters, indexes
from index.blobs import Blobs
from index.catalog import Catalog
from index.collection import Collection, CopyQuery, Item
from index.encoder import Encoder
from index.errors import (
    CollectionCorrupt,
    CollectionLocked,
    CollectionNotFound,
    ImageNotFound,
    InvalidId,
    InvalidMetadata,
    InvalidVector,
)
from index.files import held_alone
from index.indexes import Indexes

_PROJECT = Path(__file__).parent.parent


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path)


@pytest.fixture
def collection(catalog: Catalog, encoder: Encoder) -> Iterator[Collection]:
    with catalog.create("pictures", encoder) as collection:
        yield collection


def embedding_of(encoder: Encoder, data: bytes) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    vector: np.ndarray[tuple[int], np.dtype[np.float32]]
    vector = encoder.encode(encoder.load(data).pixels[np.newaxis]).embedding[0]
    return vector


def found(collection: Collection, encoder: Encoder, seed: int, **options: object) -> list[str]:
    """Ids of a search by the picture of that seed; ``filter`` is JSON."""
    query = embedding_of(encoder, jpeg(seed))
    if "filter" in options:
        options["filter"] = filters.parse(cast("dict[str, object]", options["filter"]))
    return [hit.id for hit in collection.search(query, **options)]  # type: ignore[arg-type]


# Images


def test_what_is_put_is_found_by_the_next_search(collection: Collection, encoder: Encoder) -> None:
    for seed in range(5):
        assert put(collection, encoder, f"{seed}", jpeg(seed), {"seed": seed})
        (hit,) = collection.search(embedding_of(encoder, jpeg(seed)), top_k=1)
        assert (hit.id, hit.metadata) == (f"{seed}", {"seed": seed})
        assert hit.score == pytest.approx(1.0, abs=1e-6)
        assert hit.score <= 1.0


def test_an_image_comes_back_as_it_was_put(collection: Collection, encoder: Encoder) -> None:
    data = jpeg(1, width=80, height=20)
    put(collection, encoder, "a/b c", data, {"tags": ["x", {"y": None}]})
    item = collection.get("a/b c")
    assert (item.width, item.height, item.format) == (80, 20, "JPEG")
    assert (item.size_bytes, item.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (item.state, item.metadata) == ("present", {"tags": ["x", {"y": None}]})
    assert collection.read("a/b c") == data
    expected = encoder.encode(encoder.load(data).pixels[np.newaxis])
    np.testing.assert_array_equal(collection.vectors("a/b c").embedding, expected.embedding)
    np.testing.assert_array_equal(collection.vectors("a/b c").descriptor, expected.descriptor)


def test_a_replaced_image_is_found_by_its_new_look_only(
    collection: Collection, encoder: Encoder
) -> None:
    put(collection, encoder, "a", jpeg(1), {"old": True})
    assert not put(collection, encoder, "a", jpeg(2))
    assert collection.get("a").metadata == {}
    assert collection.read("a") == jpeg(2)
    (hit,) = collection.search(embedding_of(encoder, jpeg(1)), top_k=5)
    assert hit.score < 0.99
    assert list((collection.folder / "blobs").glob("??/*")) == [
        collection.folder / "blobs" / name[:2] / name
        for name in [hashlib.sha256(jpeg(2)).hexdigest()]
    ]


def test_a_deleted_image_is_gone_from_the_next_search(
    collection: Collection, encoder: Encoder
) -> None:
    for seed in range(3):
        put(collection, encoder, f"{seed}", jpeg(seed))
    collection.compact()
    collection.delete("1")
    assert sorted(found(collection, encoder, 1)) == ["0", "2"]
    for look in (collection.get, collection.delete, collection.read, collection.vectors):
        with pytest.raises(ImageNotFound, match="'1'"):
            look("1")
    assert collection.count() == {"present": 2, "gone": 0, "unreadable": 0}


def test_reading_an_image_that_is_replaced_or_deleted_meanwhile(
    catalog: Catalog, collection: Collection, encoder: Encoder
) -> None:
    """Once it was looked up, and before its bytes are read."""
    put(collection, encoder, "a", jpeg(1))
    meanwhile: list[Callable[[], object]] = []

    class Overtaken(Collection):
        def get(self, id: str) -> Item:
            item = super().get(id)
            while meanwhile:
                meanwhile.pop()()
            return item

    with Overtaken(collection.folder) as overtaken:
        meanwhile.append(lambda: put(collection, encoder, "a", jpeg(2)))
        assert overtaken.read("a") == jpeg(2)
        meanwhile.append(lambda: collection.delete("a"))
        with pytest.raises(ImageNotFound):
            overtaken.read("a")
        put(collection, encoder, "a", jpeg(1))
        meanwhile.append(lambda: catalog.delete("pictures"))
        with pytest.raises(CollectionNotFound):
            overtaken.read("a")


def test_equal_bytes_are_kept_once_until_the_last_image_goes(
    collection: Collection, encoder: Encoder
) -> None:
    for name in "ab":
        put(collection, encoder, name, jpeg(1))
    collection.delete("a")
    assert collection.read("b") == jpeg(1)
    collection.delete("b")
    assert not list((collection.folder / "blobs").glob("??/*"))


def test_new_metadata_takes_the_place_of_the_old(collection: Collection, encoder: Encoder) -> None:
    put(collection, encoder, "a", jpeg(1), {"label": "x", "n": 1})
    assert collection.update_metadata("a", {"label": "y"}).metadata == {"label": "y"}
    assert found(collection, encoder, 1, filter={"label": "y"}) == ["a"]
    assert found(collection, encoder, 1, filter={"label": "x"}) == []
    assert found(collection, encoder, 1, filter={"n": 1}) == []
    with pytest.raises(ImageNotFound):
        collection.update_metadata("b", {})


def test_a_refused_image_leaves_nothing_behind(collection: Collection, encoder: Encoder) -> None:
    loaded = encoder.load(jpeg(1))
    encoding = encoder.encode(np.stack([loaded.pixels, loaded.pixels]))
    for name in ("", ".", ".."):
        with pytest.raises(InvalidId):
            put(collection, encoder, name, jpeg(1))
    with pytest.raises(InvalidMetadata):
        put(collection, encoder, "a", jpeg(1), {"a": float("nan")})
    with pytest.raises(InvalidVector, match="expected \\(1, 64\\)"):
        collection.put("a", jpeg(1), loaded, encoding)
    assert collection.count()["present"] == 0
    assert not [path for path in (collection.folder / "blobs").rglob("*.draft") if path.is_file()]


def test_images_are_listed_in_the_order_of_their_ids(
    collection: Collection, encoder: Encoder
) -> None:
    names = ["B", "a", "b", "ä", "ab", "🂡"]
    for name in names:
        put(collection, encoder, name, jpeg(1))
    listed: list[str] = []
    while page := collection.items(listed[-1] if listed else None, 2):
        listed += [item.id for item in page]
    assert listed == sorted(names)


# Search


def test_a_search_pages_through_the_same_order(collection: Collection, encoder: Encoder) -> None:
    for seed in range(12):
        put(collection, encoder, f"{seed}", jpeg(seed), {"even": seed % 2 == 0})
        if seed == 7:
            collection.compact()
    everything = found(collection, encoder, 3, top_k=100)
    assert everything[0] == "3"
    assert len(everything) == 12
    pages = [found(collection, encoder, 3, top_k=5, offset=offset) for offset in (0, 5, 10, 15)]
    assert list(itertools.chain(*pages)) == everything
    assert found(collection, encoder, 3, top_k=100, exclude="3") == everything[1:]
    assert found(collection, encoder, 3, top_k=4, exclude="3") == everything[1:5]
    even = [name for name in everything if int(name) % 2 == 0]
    assert found(collection, encoder, 3, top_k=100, filter={"even": True}) == even
    assert found(collection, encoder, 3, top_k=2, offset=1, filter={"even": True}) == even[1:3]
    assert found(collection, encoder, 3, filter={"even": 1}) == []


def test_a_search_leaves_out_what_is_below_the_least_score(
    collection: Collection, encoder: Encoder
) -> None:
    for seed in range(12):
        put(collection, encoder, f"{seed}", jpeg(seed))
    query = embedding_of(encoder, jpeg(3))
    every = collection.search(query, top_k=100)
    bar = every[4].score
    assert collection.search(query, top_k=100, min_score=bar) == every[:5]
    assert collection.search(query, top_k=3, min_score=bar) == every[:3]
    assert collection.search(query, min_score=1.5) == []


def test_a_search_gives_the_nearest_of_each_kind(collection: Collection, encoder: Encoder) -> None:
    """Copies do not crowd others out, however many there are."""
    for seed in range(6):
        for quality in (95, 80, 70):
            put(collection, encoder, f"{seed}-{quality}", jpeg(seed, quality=quality))
    kinds = [name[0] for name in found(collection, encoder, 2, top_k=5, group_duplicates=True)]
    every = [name[0] for name in found(collection, encoder, 2, top_k=100)]
    assert kinds == list(dict.fromkeys(every))[:5]
    assert every[:3] == ["2", "2", "2"]


def test_equal_pictures_are_of_one_kind_whatever_their_copy_score(
    collection: Collection, encoder: Encoder
) -> None:
    """An offset that high leaves a picture's score with itself below the threshold."""
    for name, level in (("a", 6), ("b", 6), ("c", 1)):
        data = io.BytesIO()
        picture(1).save(data, "PNG", compress_level=level)
        loaded = encoder.load(data.getvalue())
        encoding = encoder.encode(loaded.pixels[np.newaxis])
        busy = replace(encoding, descriptor_offset=np.array([0.9], np.float32))
        collection.put(name, data.getvalue(), loaded, busy)
    put(collection, encoder, "d", jpeg(2))
    assert found(collection, encoder, 1, group_duplicates=True) == ["a", "d"]


def test_what_people_said_decides_what_is_of_one_kind(
    collection: Collection, encoder: Encoder
) -> None:
    for seed in (1, 2):
        put(collection, encoder, f"{seed}", jpeg(seed))
    put(collection, encoder, "1 again", jpeg(1, quality=70))
    pixels = []
    for name, level in (("3", 6), ("3 again", 1)):  # of equal pixels
        data = io.BytesIO()
        picture(3).save(data, "PNG", compress_level=level)
        put(collection, encoder, name, data.getvalue())
        pixels.append(collection.get(name).pixel_sha256)
    assert pixels[0] == pixels[1]
    kinds = found(collection, encoder, 1, group_duplicates=True)
    assert kinds[0] == "1"
    assert {"2", "1 again"} & set(kinds) == {"2"}
    assert len(kinds) == 3
    collection.decide(["1", "1 again"], "different")
    collection.decide(["1", "2"], "same")
    for name in ("3", "3 again"):  # whichever stands for both
        collection.decide(["1 again", name], "same")
        assert found(collection, encoder, 1, group_duplicates=True) == ["1", "1 again"]
        collection.decide(["1 again", name], None)


def test_a_query_is_scaled_to_unit_length(collection: Collection, encoder: Encoder) -> None:
    put(collection, encoder, "a", jpeg(1))
    query = embedding_of(encoder, jpeg(1))
    (hit,) = collection.search(7 * query)
    assert hit.score == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(InvalidVector):
        collection.search(query[:-1])


def test_an_empty_collection_answers_nothing(collection: Collection, encoder: Encoder) -> None:
    put(collection, encoder, "a", jpeg(1))
    query = collection.vectors("a")
    collection.delete("a")
    assert collection.search(query.embedding[0]) == []
    assert collection.copies(CopyQuery(query, sha256="ab"), threshold=-2.0) == []
    assert collection.duplicate_groups(threshold=-2.0).groups == ()
    assert collection.compact() == 1
    assert collection.search(query.embedding[0], group_duplicates=True) == []


# Copies


def test_copies_are_exact_ones_first_then_by_score(
    collection: Collection, encoder: Encoder
) -> None:
    for seed in range(8):
        put(collection, encoder, f"{seed}", jpeg(seed))
    put(collection, encoder, "0 again", jpeg(0))
    put(collection, encoder, "0 smaller", jpeg(0, quality=60, width=48, height=36))
    query = collection.vectors("0")
    sha256 = hashlib.sha256(jpeg(0)).hexdigest()
    threshold = collection.metadata.calibration.threshold_for(0.001)
    asked = CopyQuery(query, sha256=sha256)
    first, second, third, *others = collection.copies(asked, threshold=threshold)
    assert [(match.id, match.tier) for match in (first, second, third)] == [
        ("0", "exact"),
        ("0 again", "exact"),
        ("0 smaller", "descriptor"),
    ]
    assert first.false_match_rate == 0.0
    offset = float(query.descriptor_offset[0])
    assert first.score == pytest.approx(1.0 - offset)
    assert third.score == pytest.approx(third.evidence["cosine"] - offset)
    assert threshold <= third.score <= first.score
    assert 0.0 < third.false_match_rate <= 0.001
    assert all(match.score >= threshold for match in others)
    without = collection.copies(CopyQuery(query, exclude="0"), threshold=threshold, limit=2)
    assert [(match.id, match.tier) for match in without] == [
        ("0 again", "descriptor"),
        ("0 smaller", "descriptor"),
    ]
    assert collection.copies(asked, threshold=9.0) == [first, second]


# Other processes, and the end of this one


def other_process(folder: Path, encoder_path: Path, work: str) -> subprocess.Popen[str]:
    """A Python process with the collection open as ``collection``."""
    program = f"""
import sys
from pathlib import Path
from index.collection import Collection
from index.encoder import Encoder
from pictures import jpeg, put
encoder = Encoder({str(encoder_path)!r}, provider="cpu", threads=1)
collection = Collection(Path({str(folder)!r}), encoder)
{work}
"""
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{_PROJECT}{os.pathsep}{_PROJECT / 'tests'}"},
    )


def test_a_write_by_another_process_is_seen_by_the_next_search(
    collection: Collection, encoder: Encoder, encoder_path: Path
) -> None:
    put(collection, encoder, "mine", jpeg(0))
    assert found(collection, encoder, 0) == ["mine"]
    work = """
put(collection, encoder, "theirs", jpeg(1))
print("put", flush=True)
sys.stdin.readline()
collection.delete("mine")
print("deleted", flush=True)
sys.stdin.readline()
collection.compact()
print("compacted", flush=True)
collection.close()
"""
    with other_process(collection.folder, encoder_path, work) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "put\n"
        assert found(collection, encoder, 1) == ["theirs", "mine"]
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "deleted\n"
        assert found(collection, encoder, 1) == ["theirs"]
        print(file=process.stdin, flush=True)
        assert process.stdout.readline() == "compacted\n"
        assert found(collection, encoder, 1) == ["theirs"]
        assert collection.generation == 1
        assert process.wait(30) == 0


def test_kill_9_loses_no_acknowledged_write(
    catalog: Catalog, collection: Collection, encoder: Encoder, encoder_path: Path
) -> None:
    """Killed while it writes, compacts and deletes; what it said was done is done."""
    collection.close()
    work = """
for number in range(10_000):
    put(collection, encoder, f"{number}", jpeg(number))
    print("put", number, flush=True)
    if number % 3 == 2:
        collection.delete(f"{number - 1}")
        print("deleted", number - 1, flush=True)
    if number % 5 == 4:
        collection.compact()
"""
    with other_process(collection.folder, encoder_path, work) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(20)]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.readlines()
        assert process.wait(30) == -signal.SIGKILL
    told = [line.split() for line in lines]
    deleted = {number for what, number in told if what == "deleted"}
    present = {number for what, number in told if what == "put"} - deleted
    assert len(present) >= 10
    with catalog.open("pictures", encoder) as again:
        for number in present:
            # The very last line may stand for a put whose deletion was not told any more.
            if number == str(max(map(int, present)) - 1):
                continue
            assert again.read(number) == jpeg(int(number))
            assert found(again, encoder, int(number), top_k=1) == [number]
        assert not deleted & {item.id for item in again.items(None, 1000)}
        assert again.verify().problems == ()
        assert put(again, encoder, "goes on", jpeg(77_777))


def test_searches_and_writes_go_on_at_once(collection: Collection, encoder: Encoder) -> None:
    """From several threads, with compactions between: never an error, never a stale answer."""
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for seed in range(first, first + 8):
                put(collection, encoder, f"{seed}", jpeg(seed))
                assert found(collection, encoder, seed, top_k=1) == [f"{seed}"]
                if seed % 2:
                    collection.delete(f"{seed}")
                    assert f"{seed}" not in found(collection, encoder, seed)
                if seed % 4 == 3:
                    try:
                        collection.compact()
                    except CollectionLocked:  # another thread compacts at this moment
                        continue
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert collection.count()["present"] == 16
    assert collection.verify().problems == ()


def test_a_second_start_finds_everything(
    catalog: Catalog, collection: Collection, encoder: Encoder
) -> None:
    """Part of it in the index files, part of it only in the database."""
    for seed in range(6):
        put(collection, encoder, f"{seed}", jpeg(seed))
        if seed == 2:
            collection.compact()
    collection.delete("1")
    answers = [found(collection, encoder, seed) for seed in range(6)]
    collection.close()
    with catalog.open("pictures", encoder) as again:
        assert [found(again, encoder, seed) for seed in range(6)] == answers
        assert again.generation == 1


# Index files


def index_files(collection: Collection) -> list[Path]:
    return sorted((collection.folder / "faiss").iterdir())


def test_compaction_changes_no_answer_and_leaves_one_generation(
    collection: Collection, encoder: Encoder
) -> None:
    for turn in range(3):
        for seed in range(10 * turn, 10 * turn + 5):
            put(collection, encoder, f"{seed}", jpeg(seed))
        collection.delete(f"{10 * turn}")
        before = [found(collection, encoder, seed) for seed in range(25)]
        assert collection.compact() == turn + 1
        assert [found(collection, encoder, seed) for seed in range(25)] == before
        assert [path.name for path in index_files(collection)] == [
            f"{turn + 1:06}-descriptor.faiss",
            f"{turn + 1:06}-embedding.faiss",
        ]
    assert collection.compact() == 3, "nothing changed, so the files stay"
    collection.update_metadata("1", {"new": True})
    assert collection.compact() == 3, "metadata is not in the files"


def corrupt_by_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last number of the last vector: FAISS itself would not notice
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace_by_the_other_space(path: Path) -> None:
    other = {"embedding": "descriptor", "descriptor": "embedding"}
    space = path.stem.split("-")[1]
    shutil.copy(path.with_name(path.name.replace(space, other[space])), path)


def replace_by_another_program_s(path: Path) -> None:
    faiss.write_index(faiss.IndexFlatIP(64), str(path))


@pytest.mark.parametrize("space", ["embedding", "descriptor"])
@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        corrupt_by_a_bit,
        cut_off,
        replace_by_the_other_space,
        replace_by_another_program_s,
    ],
)
def test_a_damaged_index_file_is_never_served_and_made_again(
    catalog: Catalog,
    collection: Collection,
    encoder: Encoder,
    damage: object,
    space: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for seed in range(5):
        put(collection, encoder, f"{seed}", jpeg(seed))
    collection.compact()
    answers = [found(collection, encoder, seed) for seed in range(5)]
    collection.close()
    path = collection.folder / "faiss" / f"000001-{space}.faiss"
    damage(path)  # type: ignore[operator]
    with catalog.open("pictures", encoder) as again:
        (problem,) = again.verify().problems
        assert problem.startswith("index files of generation 1: ")
        with caplog.at_level(logging.WARNING):
            assert [found(again, encoder, seed) for seed in range(5)] == answers
        assert "generation 1 of" in caplog.text
        assert "made again from the database" in caplog.text
    # Leaving the collection waits for the repair, which runs beside the searches.
    with catalog.open("pictures", encoder) as repaired:
        assert repaired.generation == 2
        assert repaired.verify().problems == ()
        assert [found(repaired, encoder, seed) for seed in range(5)] == answers


def test_what_changed_much_is_compacted_by_itself(
    collection: Collection, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_LEAST_STALE", 5)
    for seed in range(5):
        put(collection, encoder, f"{seed}", jpeg(seed))
    assert len(found(collection, encoder, 0)) == 5
    collection.close()
    assert not (collection.folder / "faiss").exists()
    with Collection(collection.folder, encoder) as again:
        put(again, encoder, "5", jpeg(5))
        assert len(found(again, encoder, 0)) == 6
    with Collection(collection.folder, encoder) as again:
        assert again.generation == 1
        assert again.verify().problems == ()


def test_one_compaction_at_a_time(collection: Collection, encoder: Encoder) -> None:
    put(collection, encoder, "a", jpeg(1))
    with (
        held_alone(collection.folder / "compaction.lock", "compaction"),
        pytest.raises(CollectionLocked, match=f"process {os.getpid()} .* since "),
    ):
        collection.compact()
    assert collection.compact() == 1


def test_compaction_clears_away_what_a_killed_process_left(
    collection: Collection, encoder: Encoder
) -> None:
    put(collection, encoder, "a", jpeg(1))
    blobs = collection.folder / "blobs"
    orphan = blobs / "ab" / ("ab" * 32)
    orphan.parent.mkdir()
    orphan.write_bytes(b"renamed, but its transaction was never committed")
    old, young = blobs / "old.draft", blobs / "young.draft"
    for draft in (old, young):
        draft.write_bytes(b"half")
    os.utime(old, (0, 0))
    collection.compact()
    assert not orphan.exists()
    assert not old.exists()
    assert young.exists(), "it may belong to a writer at work"
    assert collection.read("a") == jpeg(1)


# Verify


def test_verify_finds_each_kind_of_contradiction(collection: Collection, encoder: Encoder) -> None:
    for seed in range(4):
        put(collection, encoder, f"{seed}", jpeg(seed))
    collection.compact()
    verdict = collection.verify()
    assert (verdict.images, verdict.blobs, verdict.generation, verdict.problems) == (4, 4, 1, ())
    for seed in (0, 1):
        sha256 = hashlib.sha256(jpeg(seed)).hexdigest()
        blob = collection.folder / "blobs" / sha256[:2] / sha256
        if seed:
            blob.write_bytes(b"other bytes")
        else:
            blob.unlink()
    writer = collection.store._writer  # by the back door: no call of ours does such things
    writer.execute("UPDATE vectors SET embedding = zeroblob(length(embedding)) WHERE key = 3")
    writer.execute("DELETE FROM vectors WHERE key = 4")
    problems = collection.verify().problems
    assert [
        word
        for problem in problems
        for word in ("cannot be read", "hashes to", "no vectors", "no unit length", "index lacks")
        if word in problem
    ] == ["no vectors", "cannot be read", "hashes to", "no unit length", "index lacks"]
    with pytest.raises(CollectionCorrupt, match="cannot be read"):
        collection.read("0")


def test_verify_finds_an_index_that_holds_other_vectors(
    collection: Collection, encoder: Encoder
) -> None:
    for seed in range(4):
        put(collection, encoder, f"{seed}", jpeg(seed))
    collection.compact()
    writer = collection.store._writer
    (row,) = writer.execute("SELECT descriptor FROM vectors WHERE key = 1").fetchone()
    writer.execute("UPDATE vectors SET descriptor = ? WHERE key = 2", (row,))
    problems = collection.verify().problems
    assert "1 descriptor vectors in the index are not the database's" in problems


def test_verify_finds_nothing_wrong_while_others_write(
    catalog: Catalog, collection: Collection, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is removed while it looks, blobs and index files, was not lost."""
    for seed in range(4):
        put(collection, encoder, f"{seed}", jpeg(seed))
    collection.compact()
    with catalog.open("pictures", encoder) as other:

        def first(owner: type, name: str, act: Callable[[], object]) -> None:
            """Let the other act once, before a method of the owner does its work."""
            method, still = getattr(owner, name), [act]

            def then(*arguments: object) -> object:
                if still:
                    still.pop()()
                return method(*arguments)

            monkeypatch.setattr(owner, name, then)

        def replace_the_index() -> None:
            other.delete("0")
            other.compact()

        first(Indexes, "load", replace_the_index)
        first(Blobs, "problem", lambda: other.delete("2"))
        findings = collection.verify()
        assert (findings.images, findings.generation, findings.problems) == (3, 2, ())
        assert {item.id for item in collection.items()} == {"1", "3"}
        other.compact()
        assert collection.verify().problems == ()
        assert sum(path.is_file() for path in (collection.folder / "blobs").rglob("*")) == 2


def test_verify_finds_the_blobs_of_a_lost_folder(collection: Collection, encoder: Encoder) -> None:
    put(collection, encoder, "a", jpeg(1))
    shutil.rmtree(collection.folder / "blobs")
    (problem,) = collection.verify().problems
    assert "cannot be read" in problem
