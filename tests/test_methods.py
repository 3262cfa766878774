"""What holds for every method: it learns, resumes, exports, and refuses what cannot work."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from small_methods import SMALL, small_network, small_settings
from torch.nn import functional

from index.encoder import Encoder
from index.errors import RunError
from index.image import Fit
from trainer import checkpoint
from trainer.data import load_images
from trainer.export import ExportSettings, export
from trainer.metrics import retrieval
from trainer.network import Network
from trainer.objectives import METHODS
from trainer.objectives.options import options_of
from trainer.pretrain import pretrain
from trainer.settings import PretrainSettings
from trainer.views import ViewSettings, make_views

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photographs of each of eight kinds of scene, a folder for each."""
    root = tmp_path_factory.mktemp("pictures")
    for scene in "badlands beach canyon city desert dune forest mountain".split():
        (root / scene).mkdir()
        for path in sorted((REPOSITORY / "demo" / "photographs").glob(f"{scene}[0-9]*.jpg"))[:6]:
            shutil.copy(path, root / scene)
    return root


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The demo's photographs, a folder for each kind of scene: every other one, and the rest."""
    root = tmp_path_factory.mktemp("halves")
    paths = sorted((REPOSITORY / "demo" / "photographs").glob("*.jpg"))
    for number, path in enumerate(paths):
        scene = path.stem.split("-")[0].rstrip("0123456789")
        if scene not in ("earthrise", "loc"):  # too few of them to be a class
            folder = root / ("unseen" if number % 2 else "learnt") / scene
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder)
    return root / "learnt", root / "unseen"


def test_a_backbone_of_one_size_is_refused_where_smaller_views_are_shown() -> None:
    settings = PretrainSettings(
        data="here", out="there", method="dino", backbone="vgg11", image_size=64,
        option=SMALL["dino"] | {"small_views": 1},
    )  # fmt: skip
    message = r"does not take images of 27 px: .* --small-size or --option small_views=0"
    with pytest.raises(RunError, match=message):
        Network(settings)
    Network(replace(settings, option=SMALL["dino"] | {"small_views": 0}))


def small_run(method: str, pictures: Path, out: Path, **changes: Any) -> PretrainSettings:
    """Settings of a short run; what teaches it is trained before."""
    if method == "distill":
        teacher = out.parent / "teacher"
        if not teacher.exists():
            pretrain(small_run("classify", pictures, teacher, optimizer="adamw", epochs=14))
        changes["teacher"] = str(teacher)
    settings: dict[str, Any] = {
        "data": str(pictures), "out": str(out), "method": method, "image_size": 16,
        "width": 0.125, "batch_size": 16, "epochs": 2, "device": "cpu", "optimizer": "sgd",
    }  # fmt: skip
    return PretrainSettings(**settings | {"option": SMALL[method]} | changes)


def tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, by its path."""
    if isinstance(value, torch.Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    parts = [tensors(each, f"{name}/{key}") for key, each in items if not _plain(each)]
    return {key: each for part in parts for key, each in part.items()}


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def test_every_method_is_tested() -> None:
    assert SMALL.keys() == METHODS.keys()


@pytest.mark.parametrize("method", SMALL)
@pytest.mark.parametrize("copies", [False, True], ids=["alone", "with copies"])
def test_interrupted_run_ends_with_the_same_bits(
    method: str, copies: bool, pictures: Path, tmp_path: Path
) -> None:
    """Stopped after the first step: weights, queues, momentum encoders, the optimizer's state."""
    changes = {"copies": True, "descriptor_width": 8} if copies else {}
    whole = small_run(method, pictures, tmp_path / "whole", **changes)
    parts = replace(whole, out=str(tmp_path / "parts"))
    pretrain(whole)
    pretrain(replace(parts, max_minutes=1e-6))
    assert checkpoint.load_checkpoint(tmp_path / "parts")["step"] == 1
    pretrain(parts)
    first, second = (
        tensors(checkpoint.load_checkpoint(tmp_path / run)) for run in ("whole", "parts")
    )
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("method", SMALL)
@pytest.mark.parametrize(
    ("copies", "compile"), [(False, False), (True, True)], ids=["alone", "with copies, compiled"]
)
def test_run_on_a_gpu_goes_on(
    method: str, copies: bool, compile: bool, pictures: Path, tmp_path: Path
) -> None:
    """There in bfloat16, and to other bits than those of a whole run."""
    changes = {"copies": True, "descriptor_width": 8} if copies else {}
    run = tmp_path / "run"
    settings = small_run(method, pictures, run, device="cuda", compile=compile, epochs=4, **changes)
    pretrain(replace(settings, max_minutes=1e-6))
    assert 0 < checkpoint.load_checkpoint(run)["step"] < 12
    pretrain(settings)
    state = checkpoint.load_checkpoint(run)
    assert state["step"] == 12
    assert all(value.isfinite().all() for value in tensors(state).values())


@pytest.mark.parametrize("method", SMALL)
def test_nothing_that_a_method_adds_is_left_out_of_training_or_stays_behind(
    method: str, pictures: Path, tmp_path: Path
) -> None:
    """Every parameter moves, by gradients or after them."""
    settings = small_run(
        method, pictures, tmp_path / "run", optimizer="adamw", learning_rate=0.01, weight_decay=0.0
    )
    torch.manual_seed(settings.seed)
    before = dict(Network(settings).named_parameters())
    pretrain(settings)
    after = checkpoint.load_checkpoint(tmp_path / "run")["network"]
    same = [name for name, value in before.items() if torch.equal(value, after[name])]
    assert [name for name in same if before[name].requires_grad] == []


def views_found(network: Network, folder: Path, cache: Path) -> float:
    """Mean average precision of finding the other three views of a photograph among those of all.

    h of photographs that were not trained on, leave one out.
    """
    images = load_images(str(folder), Fit(32), cache)
    generator = torch.Generator().manual_seed(5)
    mild = ViewSettings(16, crop_area=(0.3, 1.0), jitter_strength=0.5, blur_probability=0.0)
    pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2)
    x = torch.cat([make_views(pixels, mild, generator) for _ in range(4)])
    with torch.no_grad():
        h = functional.normalize(network.eval().represent(x), dim=1)
    return retrieval(h, torch.arange(len(images)).repeat(4)).mean_average_precision


@pytest.mark.parametrize("method", SMALL)
def test_short_run_learns_to_find_views_of_photographs_that_it_has_not_seen(
    method: str, halves: tuple[Path, Path], tmp_path: Path
) -> None:
    """Some seconds on a hundred photographs raise it by a fifth at least, over an untrained h."""
    learnt, unseen = halves
    settings = small_run(
        method, learnt, tmp_path / "run", optimizer="adamw", learning_rate=0.002, epochs=14
    )
    torch.manual_seed(settings.seed)
    network = Network(settings)
    before = views_found(network, unseen, tmp_path / "unseen")
    pretrain(settings)
    network.load_state_dict(checkpoint.load_checkpoint(tmp_path / "run")["network"])
    assert views_found(network, unseen, tmp_path / "unseen") > 1.2 * before
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    if method not in ("moco", "dino"):  # theirs is measured by what moves: the queue, the teacher
        assert sum(losses[-20:]) < sum(losses[:20])


@pytest.mark.parametrize("method", SMALL)
def test_defaults_are_the_papers_and_what_is_given_wins(method: str) -> None:
    teacher = "a run" if METHODS[method].taught else None
    settings = PretrainSettings(data="here", out="there", method=method, teacher=teacher)
    taken = options_of(METHODS[method])
    assert settings.option == {name: option.default for name, option in taken.items()}
    assert settings.optimizer == settings.recipe().optimizer
    for name, value in SMALL[method].items():
        changed = replace(settings, option={name: value})
        assert changed.option == settings.option | {name: value}


def test_rate_and_decay_are_the_papers_unless_given() -> None:
    """Rates of most papers follow the batch; a rate of one optimizer says nothing of another."""
    byol = PretrainSettings(data="here", out="there", method="byol", batch_size=1024)
    assert byol.peak_rate() == pytest.approx(0.8)
    assert replace(byol, learning_rate=0.3).peak_rate() == 0.3
    assert replace(byol, optimizer="sgd").peak_rate() == pytest.approx(0.02 * 32)
    dino = PretrainSettings(data="here", out="there", method="dino")
    assert [dino.decay(share) for share in (0, 0.5, 1)] == pytest.approx([0.04, 0.22, 0.4])
    assert replace(dino, weight_decay=0.1).decay(0.5) == 0.1
    distill = PretrainSettings(data="here", out="there", method="distill", teacher="a run")
    simclr2 = PretrainSettings(data="here", out="there", method="simclr2")
    assert [simclr2.decay(0), distill.decay(0)] == [1e-4, 1e-4]
    assert distill.peak_rate() == simclr2.peak_rate() == pytest.approx(0.075 * math.sqrt(512))


@pytest.mark.parametrize("method", ["classify", "distill"])
def test_classes_are_learnt_from_crops_and_mirrors_alone(method: str) -> None:
    teacher = "a run" if method == "distill" else None
    settings = PretrainSettings(data="here", out="there", method=method, teacher=teacher)
    views = settings.views()
    assert views.jitter_strength == views.grey_probability == views.blur_probability == 0


def test_views_differ_as_in_the_paper_and_with_copies_are_of_one_kind() -> None:
    settings = PretrainSettings(data="here", out="there", method="byol", image_size=96)
    views = [settings.views(which) for which in (0, 1, None)]
    assert [each.blur_probability for each in views] == [1.0, 0.1, 0.55]
    assert [each.solarize_probability for each in views] == [0.0, 0.2, 0.1]
    assert {each.jitter_strength for each in views} == {0.5}
    assert settings.smaller_views().size == 41
    dino = replace(settings, method="dino", option={}).smaller_views()
    assert (dino.blur_probability, dino.solarize_probability) == (0.5, 0.0)
    small = replace(settings, image_size=32)
    assert [small.views(which).blur_probability for which in (0, 1)] == [0, 0]


def test_setting_of_another_method_is_refused_by_name() -> None:
    with pytest.raises(RunError, match=r"option prediction_width is 9, .* none: simclr"):
        PretrainSettings(data="here", out="there", option={"prediction_width": 9})
    with pytest.raises(RunError, match=r"momentum is 1\.5, expected a number 0 to 1"):
        PretrainSettings(data="here", out="there", method="byol", option={"momentum": 1.5})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entropy_weight": 30.0}, r"entropy_weight is 30\.0, expected 5\.0 without --copies"),
        ({"descriptor_width": 17}, "descriptor_width is 17, expected 256 without --copies"),
        ({"descriptor_stages": 2}, "descriptor_stages is 2, expected 0 without --copies"),
        ({"mixed_share": 0.5}, r"mixed_share is 0\.5, expected 0\.25 without --copies"),
        ({"contrast_weight": 0.0}, r"contrast_weight is 0\.0, expected 1\.0 without --copies"),
        ({"companion_from": "run"}, "companion_from is 'run', expected none without --copies"),
        ({"small_size": 12}, "small_size is 12, expected none without a method that has smaller"),
    ],
)
def test_what_would_be_of_no_use_is_refused(changes: dict[str, Any], message: str) -> None:
    """But for what a run of an earlier version recorded."""
    with pytest.raises(RunError, match=message):
        PretrainSettings(data="here", out="there", **changes)
    plain = PretrainSettings(data="here", out="there")
    assert PretrainSettings.recorded(asdict(plain) | changes) == plain


def test_smaller_views_have_a_size_where_there_are_some() -> None:
    settings = PretrainSettings(data="here", out="there", method="dino", small_size=12)
    assert settings.smaller_views().size == 12
    assert replace(settings, method="pirl", option={}).smaller_views().size == 12
    with pytest.raises(RunError, match="small_size is 12, expected none"):
        replace(settings, option={"small_views": 0})


def test_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RunError, match="method is 'simclear', expected one of simclr, simclr2"):
        PretrainSettings(data="here", out="there", method="simclear")


@pytest.mark.parametrize("method", SMALL)
def test_embedding_is_h_and_descriptor_the_projection(method: str) -> None:
    network = small_network(small_settings(method)).eval()
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    embedding, descriptor = network.encode(pixels)
    h = network.represent(pixels.permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(embedding, functional.normalize(h, dim=1))
    z = network.objective.projector(h)
    assert z.shape == (3, SMALL[method].get("projection_width", network.backbone.width))
    torch.testing.assert_close(descriptor, functional.normalize(z, dim=1))


def test_export_leaves_out_what_only_training_needs(pictures: Path, tmp_path: Path) -> None:
    settings = small_run("byol", pictures, tmp_path / "run", epochs=1)
    pretrain(settings)
    export(ExportSettings(settings.out, str(tmp_path / "encoder.onnx"), descriptor_width=6))
    encoder = Encoder(tmp_path / "encoder.onnx")
    assert encoder.metadata.method == "byol"
    assert encoder.metadata.descriptor_dim == 6
    names = [each.name for each in onnx.load(tmp_path / "encoder.onnx").graph.initializer]
    assert any("objective.projector" in name for name in names)
    assert not any("target" in name or "predictor" in name for name in names)


@pytest.mark.parametrize("method", ["byol", "moco", "dino"])
def test_slow_copy_starts_from_weights_that_were_loaded(
    method: str, pictures: Path, tmp_path: Path
) -> None:
    """Frozen stages are frozen in the copy too, its norms included."""
    before = small_run("simclr", pictures, tmp_path / "before", epochs=1)
    pretrain(before)
    start = {"from_": before.out, "frozen_stages": 2, "learning_rate": 1e-12, "epochs": 1}
    settings = small_run(method, pictures, tmp_path / "run", **start)
    pretrain(settings)
    trained = checkpoint.load_checkpoint(Path(before.out))["network"]
    after = checkpoint.load_checkpoint(Path(settings.out))["network"]
    copies = {name for name in after if ".backbone." in name and name.startswith("objective.")}
    assert copies
    for name in copies:
        origin = "backbone." + name.split(".backbone.")[1]
        if name.endswith("weight"):
            torch.testing.assert_close(after[name], trained[origin], msg=name)
        if "layer1" in name:
            assert torch.equal(after[name], trained[origin]), name
