"""Pairs that people annotate become classes; what cannot be is refused by file and line."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pictures import picture
from torch import Tensor

from index.errors import DataError, RunError
from trainer.data import load_images
from trainer.labelled import read_labels
from trainer.network import Network, Views
from trainer.pairs import classes_of
from trainer.pretrain import pretrain
from trainer.settings import PretrainSettings

IDS = ["a.png", "b.png", "c, d.png", "e.png", "f.png", "g.png", "g.png"]
PAIRS = [
    ("a.png", "c, d.png", "same"), ("f.png", "a.png", "same"), ("b.png", "a.png", "different")
]  # fmt: skip


def written(path: Path, pairs: list[tuple[str, str, str]]) -> Path:
    names = ("one", "other", "verdict")
    if path.suffix == ".jsonl":
        text = "\n\n".join(
            json.dumps(dict(zip(names, pair, strict=True)), ensure_ascii=False) for pair in pairs
        )
    else:
        lines = (",".join(f'"{each}"' for each in pair) for pair in pairs)
        text = "\n".join([",".join(names), *lines])
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl"])
def test_what_is_the_same_by_way_of_others_is_one_class(tmp_path: Path, name: str) -> None:
    classes = classes_of(written(tmp_path / name, PAIRS), IDS).tolist()
    assert classes[0] == classes[2] == classes[4]
    assert set(classes) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl"])
def test_a_name_may_hold_what_some_call_the_end_of_a_line(tmp_path: Path, name: str) -> None:
    ids = ["a\u2028b.png", "c\x0bd.png", "e\x85f.png"]
    file = written(tmp_path / name, [(ids[0], ids[1], "same"), (ids[1], ids[2], "same")])
    assert classes_of(file, ids).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([*PAIRS, ("a.png", "z.png", "same")], r"pairs.csv:5: there is no image 'z.png'"),
        ([("a.png", "b.png", "alike")], r":2: verdict is 'alike', expected 'same' or 'different'"),
        ([("a.png", "a.png", "same")], r":2: 'a.png' is paired with itself"),
        ([*PAIRS, ("f.png", "c, d.png", "different")], r":5: 'f.png' and 'c, d.png' are different"),
        ([("a.png", "b.png", "different")], r"1 pairs, none of them the same"),
        ([], r"0 pairs, none"),
        ([*PAIRS, ("a.png", "g.png", "same")], r"pairs.csv:5: there are 2 images 'g.png'"),
    ],
)
def test_pairs_that_cannot_be_are_refused(
    tmp_path: Path, pairs: list[tuple[str, str, str]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        classes_of(written(tmp_path / "pairs.csv", pairs), IDS)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "one,two\na.png,b.png", r"a.csv:2: other, verdict missing"),
        ("a.csv", "one,other,verdict\na.png", r"a.csv:2: other, verdict missing"),
        (
            "a.csv",
            'one,other,verdict\n"' + 200_000 * "a",
            r"a.csv:\d: this is no CSV: field larger",
        ),
        ("a.jsonl", '{"one": "a.png"', r"a.jsonl:1: this is no JSON"),
        ("a.jsonl", "[1]", r"a.jsonl:1: found list, expected an object"),
        ("a.jsonl", '{"one": 1, "other": "b.png", "verdict": "same"}', r":1: one missing"),
    ],
)
def test_a_file_that_is_none_of_pairs_is_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        classes_of(tmp_path / name, IDS)
    with pytest.raises(DataError, match="cannot be read as a file of pairs"):
        classes_of(tmp_path / "nowhere.csv", IDS)


def settings_of(folder: Path, method: str, pairs: Path) -> PretrainSettings:
    for seed in range(12):
        path = folder / "pictures" / f"{seed}.png"
        path.parent.mkdir(exist_ok=True)
        picture(seed).save(path)
    return PretrainSettings(
        data=str(folder / "pictures"), out=str(folder / "run"), method=method, batch_size=4,
        image_size=16, width=0.125, epochs=3, device="cpu", pairs=str(pairs),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["supcon", "triplet", "margin"])
def test_training_shows_those_of_a_pair_together(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In most batches: one ends where another begins."""
    pairs = [(f"{n}.png", f"{n + 1}.png", "same") for n in range(0, 12, 2)]
    seen: list[Tensor] = []
    real = Network.forward

    def forward(network: Network, views: Views) -> dict[str, Tensor]:
        assert views.labels_N is not None
        seen.append(views.labels_N)
        return real(network, views)

    monkeypatch.setattr(Network, "forward", forward)
    pretrain(settings_of(tmp_path, method, written(tmp_path / "pairs.csv", pairs)))
    together = [len(labels) - len(set(labels.tolist())) for labels in seen]
    assert together == [2] * 9
    orders = [torch.cat(seen[start : start + 3]).tolist() for start in (0, 3, 6)]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == sorted(2 * list(range(6))) for order in orders)


def test_a_method_without_classes_takes_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"pairs is .*pairs.csv', expected none: simclr takes no"):
        settings_of(tmp_path, "simclr", tmp_path / "pairs.csv")


def test_a_run_does_not_go_on_with_other_pairs(tmp_path: Path) -> None:
    file = written(tmp_path / "pairs.csv", [("1.png", "2.png", "same")])
    settings = settings_of(tmp_path, "supcon", file)
    pretrain(replace(settings, max_minutes=1e-6))
    written(file, [("1.png", "3.png", "same")])
    with pytest.raises(RunError, match="the labels have changed"):
        pretrain(settings)


@pytest.mark.parametrize("readable", [0, 1])
def test_images_of_one_name_are_told_apart_or_refused(tmp_path: Path, readable: int) -> None:
    """Of two files of a tar that have one name, where none or one can be read."""
    with tarfile.open(tmp_path / "pictures.tar", "w") as tar:
        for number, name in enumerate(["0.png", "0.png", "1.png", "2.png", "3.png", "4.png"]):
            data = io.BytesIO(b"no picture")
            if number >= 2 - readable:
                data = io.BytesIO()
                picture(number).save(data, "PNG")
            member = tarfile.TarInfo(name)
            member.size = len(data.getvalue())
            tar.addfile(member, io.BytesIO(data.getvalue()))
    file = written(tmp_path / "pairs.csv", [("pictures.tar/2.png", "pictures.tar/3.png", "same")])
    settings = replace(settings_of(tmp_path, "supcon", file), data=str(tmp_path / "pictures.tar"))
    images = load_images(settings.data, settings.fit(), tmp_path / "cache")
    if readable:
        with pytest.raises(DataError, match=r"2 images 'pictures.tar/0.png', of which 1 could not"):
            read_labels(images, None, settings)
    else:
        classes = read_labels(images, None, settings).classes.tolist()
        assert (len(classes), len(set(classes))) == (4, 3)
        assert classes[1] == classes[2]


def test_an_unknown_image_is_refused_before_training(tmp_path: Path) -> None:
    file = written(tmp_path / "pairs.csv", [("1.png", "99.png", "same")])
    with pytest.raises(DataError, match=r"pairs.csv:2: there is no image '99.png' to learn from"):
        pretrain(settings_of(tmp_path, "triplet", file))
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
