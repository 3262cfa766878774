"""Going on from an earlier run, an encoder file, or a file of weights."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import numpy_helper
from small_methods import small_network, small_settings

from index.errors import RunError
from trainer import checkpoint, cli
from trainer.companion import Companion, CompanionSpec
from trainer.export import ExportSettings, export
from trainer.network import Network
from trainer.pretrain import pretrain
from trainer.settings import PretrainSettings
from trainer.start import (
    GOING_ON,
    companion_of,
    inherited,
    inherited_alone,
    load_companion,
    load_start,
    named,
    whitenings,
)
from trainer.trained import load_trained

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> PretrainSettings:
    """Of a run on 32 photographs that is already there, with its encoder file beside it."""
    root = tmp_path_factory.mktemp("start")
    (root / "pictures").mkdir()
    for path in sorted((REPOSITORY / "demo" / "photographs").glob("*.jpg"))[::6][:32]:
        shutil.copy(path, root / "pictures")
    settings = PretrainSettings(
        data=str(root / "pictures"), out=str(root / "run"), image_size=24, width=0.125,
        option={"projection_width": 16}, descriptor_width=24, batch_size=16, epochs=1, device="cpu",
        copies=True, descriptor_stages=4, optimizer="adamw",
    )  # fmt: skip
    pretrain(settings)
    export(ExportSettings(str(root / "run"), str(root / "encoder.onnx")))
    return settings


def test_without_copies_stages_and_width_of_the_descriptor_are_not_brought_along(
    settings: PretrainSettings,
) -> None:
    out = Path(settings.out).parent / "likeness only"
    assert cli.main([
        "pretrain", "--from", settings.out, "--no-copies", "--data", settings.data,
        "--out", str(out), "--epochs", "1", "--batch-size", "16", "--device", "cpu",
    ]) == 0  # fmt: skip
    recorded = checkpoint.read_settings(out)
    assert (recorded["copies"], recorded["descriptor_stages"]) == (False, 0)
    assert recorded["descriptor_width"] == 256


@pytest.mark.parametrize("kind", ["run", "encoder.onnx"])
def test_run_and_encoder_bring_every_weight_and_their_settings(
    kind: str, settings: PretrainSettings
) -> None:
    path = Path(settings.out).parent / kind
    brought = inherited(path)
    assert brought["backbone"] == "resnet18"
    assert brought["width"] == 0.125
    assert brought["image_size"] == 24
    assert (brought["copies"], brought["descriptor_width"], brought["descriptor_stages"]) == (
        True, 24, 4,
    )  # fmt: skip
    torch.manual_seed(5)
    network = Network(settings)
    start = load_start(network, path)
    assert "copies" in start.taken
    assert "copies" not in start.fresh  # or it would be made anew from the backbone
    assert "the backbone, copies" in start.sentence()
    trained = checkpoint.load_checkpoint(Path(settings.out))["network"]
    for name, value in network.state_dict().items():
        # The projection does not serve, so an encoder file has none.
        if "num_batches" not in name and not (name.startswith("objective") and kind != "run"):
            assert torch.equal(value, trained[name]), name


def test_descriptor_of_another_map_starts_from_scratch_though_shapes_agree(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    """Stem and first stage of a ResNet have as many channels."""
    stem = replace(settings, descriptor_stages=1, out=str(tmp_path / "run"))
    pretrain(stem)
    export(ExportSettings(stem.out, str(tmp_path / "encoder.onnx")))
    for name in ("run", "encoder.onnx"):
        network = Network(replace(stem, descriptor_stages=2))
        assert network.copies is not None
        untouched = network.copies.linear.weight.clone()
        assert "copies" in load_start(network, tmp_path / name).fresh
        assert torch.equal(network.copies.linear.weight, untouched)
    assert whitenings(tmp_path / "encoder.onnx", network).keys() == {"embedding"}
    assert whitenings(tmp_path / "encoder.onnx", Network(stem)).keys() == {
        "embedding", "descriptor",
    }  # fmt: skip


def test_network_from_an_encoder_file_represents_as_the_trained_one(
    settings: PretrainSettings,
) -> None:
    """In training mode too, where norms use the batch: nothing was folded away."""
    trained, started = Network(settings), Network(settings)
    trained.load_state_dict(checkpoint.load_checkpoint(Path(settings.out))["network"])
    load_start(started, Path(settings.out).parent / "encoder.onnx")
    pixels = torch.rand(8, 3, 24, 24)
    for network in (trained, started):
        network.train()
    with torch.no_grad():
        assert torch.equal(trained.represent(pixels), started.represent(pixels))


def test_weights_of_a_library_are_taken_by_their_names(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    model = timm.create_model("mobilenetv3_small_050", num_classes=10)
    wrapped = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": wrapped}, tmp_path / "weights.pt")
    network = Network(
        replace(
            settings,
            backbone="mobilenetv3_small_050",
            width=1.0,
            image_size=32,
            descriptor_stages=0,
        )
    )
    start = load_start(network, tmp_path / "weights.pt")
    assert "copies, objective from scratch" in start.sentence()
    own = network.backbone.model.state_dict()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in own.items())


def test_weights_of_another_backbone_are_refused_with_shapes(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    model = timm.create_model("resnet18", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(RunError, match=r"does not fit the backbone.*expected \("):
        load_start(Network(settings), tmp_path / "weights.pt")


def test_what_is_nothing_to_start_from_is_refused(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="neither a folder of a run nor a file"):
        inherited(tmp_path / "nowhere")
    (tmp_path / "weights.pt").write_bytes(b"PK\3\4 nothing")
    with pytest.raises(RunError, match=r"weights.pt cannot be read: .*not a ZIP archive$"):
        load_start(Network(settings), tmp_path / "weights.pt")
    (tmp_path / "README.md").write_text("# No weights\n")
    with pytest.raises(
        RunError, match=r"README.md cannot be read: expected a file of .* writes it$"
    ):
        load_start(Network(settings), tmp_path / "README.md")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(RunError, match="holds a list, expected tensors by name"):
        load_start(Network(settings), tmp_path / "list.pt")


def test_command_line_goes_on_without_naming_the_backbone(
    settings: PretrainSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "on"
    arguments = ["pretrain", "--data", settings.data, "--out", str(out), "--epochs", "1",
                 "--batch-size", "16", "--device", "cpu", "--option", "projection_width=16",
                 "--from", str(Path(settings.out).parent / "encoder.onnx")]  # fmt: skip
    assert cli.main(arguments) == 0
    assert "weights of the backbone, copies from" in capsys.readouterr().out
    recorded = checkpoint.read_settings(out)
    assert (recorded["backbone"], recorded["width"], recorded["image_size"]) == (
        "resnet18", 0.125, 24,
    )  # fmt: skip
    assert recorded["copies"]
    assert recorded["start_digest"]
    assert recorded["learning_rate"] == GOING_ON["learning_rate"]
    arguments[arguments.index(str(out))] = str(tmp_path / "other")
    assert cli.main([*arguments, "--optimizer", "lars"]) == 0
    assert checkpoint.read_settings(tmp_path / "other")["learning_rate"] is None
    arguments[arguments.index(str(tmp_path / "other"))] = str(tmp_path / "spelt out")
    assert cli.main([*arguments, "--optimizer", "adamw"]) == 0
    recorded = checkpoint.read_settings(tmp_path / "spelt out")
    assert recorded["learning_rate"] == GOING_ON["learning_rate"]


def test_a_run_that_has_begun_needs_its_start_no_more(
    settings: PretrainSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, out = tmp_path / "encoder.onnx", tmp_path / "on"
    shutil.copy(Path(settings.out).parent / "encoder.onnx", start)
    arguments = ["pretrain", "--data", settings.data, "--out", str(out), "--epochs", "2",
                 "--batch-size", "16", "--device", "cpu", "--option", "projection_width=16",
                 "--from", str(start)]  # fmt: skip
    assert cli.main([*arguments, "--max-minutes", "0.00001"]) == 0
    start.unlink()
    assert cli.main(arguments) == 0
    assert "going on at step 1" in capsys.readouterr().out
    arguments[arguments.index(str(out))] = str(tmp_path / "another")
    assert cli.main(arguments) == 2
    assert "neither a folder of a run nor a file" in capsys.readouterr().err


def test_frozen_backbone_keeps_the_embedding_and_the_descriptor_learns_on_a_map_of_it(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    plain = replace(
        settings, out=str(tmp_path / "plain"), copies=False, descriptor_stages=0,
        descriptor_width=256, epochs=1,
    )  # fmt: skip
    pretrain(plain)
    whole = replace(
        settings, out=str(tmp_path / "on"), from_=plain.out, frozen_stages=5, epochs=3,
        learning_rate=1e-3,
    )  # fmt: skip
    pretrain(whole)
    before = checkpoint.load_checkpoint(Path(plain.out))["network"]
    after = checkpoint.load_checkpoint(Path(whole.out))["network"]
    kept = [name for name in after if name.startswith("backbone.")]
    assert all(torch.equal(after[name], before[name]) for name in kept)
    torch.manual_seed(whole.seed)
    untrained = Network(whole).state_dict()
    assert after["copies.linear.weight"].shape == (24, 32)
    assert not torch.equal(after["copies.linear.weight"], untrained["copies.linear.weight"])


def test_descriptor_of_an_earlier_version_is_refused(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    """One that had copies of the backbone's last stages for itself."""
    model = onnx.load(Path(settings.out).parent / "encoder.onnx")
    weight = numpy_helper.from_array(
        np.zeros(1, np.float32), "network.copies.stages.0.0.conv1.weight"
    )
    model.graph.initializer.append(weight)
    onnx.save(model, tmp_path / "earlier.onnx")
    with pytest.raises(RunError, match="with stages of its own, which this version does not train"):
        load_start(Network(settings), tmp_path / "earlier.onnx")


def test_descriptor_of_an_earlier_version_is_no_companion_either(
    beside: PretrainSettings, tmp_path: Path
) -> None:
    model = onnx.load(f"{beside.out}.onnx")
    weight = numpy_helper.from_array(np.zeros(1, np.float32), "network.copies.stages.0.0.weight")
    model.graph.initializer.append(weight)
    onnx.save(model, tmp_path / "earlier.onnx")
    companion = Companion(CompanionSpec.parse("resnet18 x0.125 at 32"), 24)
    load_companion(companion, Path(f"{beside.out}.onnx"))
    with pytest.raises(RunError, match="with stages of its own"):
        load_companion(companion, tmp_path / "earlier.onnx")


def test_run_of_an_earlier_version_is_refused(settings: PretrainSettings) -> None:
    record = checkpoint.read_settings(Path(settings.out))
    assert PretrainSettings.recorded(record) == settings
    assert PretrainSettings.recorded(record, seed=3) == replace(settings, seed=3)
    assert PretrainSettings.recorded({**record, "branch_stages": 0}) == settings
    with pytest.raises(RunError, match="branch_stages 2, which this version does not have"):
        PretrainSettings.recorded({**record, "branch_stages": 2})


@pytest.mark.parametrize("width", [1.0, 0.5])
@pytest.mark.parametrize("stages", [0, 3])
@pytest.mark.parametrize("companion", ["", "resnet18 x0.25 at 32"])
@pytest.mark.parametrize("size", [24, 16])
def test_encoder_file_names_its_networks(
    width: float,
    stages: int,
    companion: str,
    size: int,
    settings: PretrainSettings,
    tmp_path: Path,
) -> None:
    """As ``named`` writes them, and as it was written before there were stages."""
    described = replace(
        settings, width=width, image_size=size, descriptor_stages=stages, companion=companion
    )
    model = onnx.load(Path(settings.out).parent / "encoder.onnx")
    (entry,) = (each for each in model.metadata_props if "resnet18" in each.value)
    entry.value = json.dumps(named(described, served_size=24))
    onnx.save(model, tmp_path / "other.onnx")
    brought = inherited(tmp_path / "other.onnx")
    names = ("backbone", "width", "image_size", "descriptor_stages", "companion")
    assert [brought[name] for name in names] == [getattr(described, name) for name in names]


def test_encoder_served_larger_goes_on_at_the_size_of_its_training(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    """At the size that it is served at, a ResNet could have another stem with equal shapes."""
    path = tmp_path / "larger.onnx"
    export(ExportSettings(settings.out, str(path), image_size=48))
    assert inherited(path)["image_size"] == 24
    load_start(Network(settings), path)
    larger = replace(settings, image_size=48)
    with pytest.raises(RunError, match="trained at 24 px, where a stem has stride 1, expected 2 "):
        load_start(Network(larger), path)


def test_encoder_that_names_no_backbone_is_refused(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    model = onnx.load(Path(settings.out).parent / "encoder.onnx")
    (entry,) = (each for each in model.metadata_props if "resnet18" in each.value)
    entry.value = entry.value.replace("resnet18", "a resnet18")
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(RunError, match=r"'a resnet18 x0.125, .*', expected 'NAME \[xWIDTH\]"):
        inherited(tmp_path / "odd.onnx")


@pytest.fixture(scope="module")
def beside(settings: PretrainSettings) -> PretrainSettings:
    """Of a run of the descriptor alone, on the whole of a network."""
    alone = replace(
        settings, out=str(Path(settings.out).parent / "beside"), descriptor_stages=0, image_size=32,
        stored_size=48, contrast_weight=0.0,
    )  # fmt: skip
    pretrain(alone)
    export(ExportSettings(alone.out, f"{alone.out}.onnx"))
    return alone


def test_without_the_methods_loss_the_descriptor_and_its_backbone_learn_and_the_head_stays(
    beside: PretrainSettings,
) -> None:
    torch.manual_seed(beside.seed)
    before = Network(beside).state_dict()
    after = checkpoint.load_checkpoint(Path(beside.out))["network"]
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {name.split(".")[0] for name in moved} == {"backbone", "copies"}


def test_a_companion_stands_beside_the_backbone_and_goes_along_with_the_encoder_file(
    settings: PretrainSettings, beside: PretrainSettings, tmp_path: Path
) -> None:
    out = str(tmp_path / "both")
    arguments = ["pretrain", "--data", settings.data, "--out", out, "--epochs", "1",
                 "--batch-size", "16", "--device", "cpu", "--frozen-stages", "5",
                 "--from", settings.out, "--learning-rate", "1e-9",
                 "--companion-from", f"{beside.out}.onnx"]  # fmt: skip
    assert cli.main(arguments) == 0
    recorded = checkpoint.read_settings(Path(out))
    assert recorded["companion"] == "resnet18 x0.125 at 32"
    assert recorded["companion_digest"]
    network = load_trained(Path(out)).network
    alone = load_trained(Path(beside.out)).network
    first = load_trained(Path(settings.out)).network
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        _, joint = network.encode(pixels)
        parts = [each.encode(pixels)[1] for each in (first, alone)]
    # Equal in weight, and at a rate of nothing but for what norms have seen, what both were.
    half = [part / part.norm(dim=1, keepdim=True) for part in joint.chunk(2, dim=1)]
    for part, own in zip(half, parts, strict=True):
        assert (part * own).sum(1).min() > 0.9

    encoder = tmp_path / "both.onnx"
    exported = export(ExportSettings(out, str(encoder), image_size=48))
    assert exported.cosine > 0.9999  # at another size, where the companion's picture is resized
    brought = inherited(encoder)
    assert (brought["backbone"], brought["width"], brought["companion"]) == (
        "resnet18", 0.125, "resnet18 x0.125 at 32",
    )  # fmt: skip
    on = replace(settings, out=out, companion=brought["companion"])
    torch.manual_seed(6)
    again = Network(on)
    start = load_start(again, encoder)
    assert {"companion", "copies"} <= set(start.taken)
    assert start.fresh == ("objective",)
    with torch.no_grad():
        assert torch.allclose(again.eval().encode(pixels)[1], joint, atol=1e-5)


def test_a_companion_is_gone_on_with_alone_and_stands_beside_the_backbone_again(
    settings: PretrainSettings, beside: PretrainSettings, tmp_path: Path
) -> None:
    """Of an encoder file and of a run; nearly nothing is learnt, so that it is still the same."""
    out = str(tmp_path / "both")
    few = ["--data", settings.data, "--epochs", "1", "--batch-size", "16", "--device", "cpu",
           "--learning-rate", "1e-9"]  # fmt: skip
    assert cli.main([
        "pretrain", *few, "--out", out, "--frozen-stages", "5", "--from", settings.out,
        "--companion-from", beside.out,
    ]) == 0  # fmt: skip
    export(ExportSettings(out, f"{out}.onnx"))
    for number, path in enumerate((f"{out}.onnx", out)):
        alone = str(tmp_path / f"alone {number}")
        assert cli.main([
            "pretrain", *few, "--out", alone, "--from", path, "--companion-alone",
        ]) == 0  # fmt: skip
        recorded = checkpoint.read_settings(Path(alone))
        assert (recorded["backbone"], recorded["width"]) == ("resnet18", 0.125)
        assert (recorded["image_size"], recorded["contrast_weight"]) == (32, 0.0)
        before = load_trained(Path(out)).network.companion
        assert before is not None
        after = load_trained(Path(alone)).network.state_dict()
        for name, value in before.named_parameters():
            torch.testing.assert_close(after[name], value, atol=1e-5, rtol=1e-3)
        assert companion_of(Path(alone)) == "resnet18 x0.125 at 32"


def test_a_companion_is_taken_from_where_it_stands_beside_another(
    settings: PretrainSettings,
    beside: PretrainSettings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From an encoder file and from a run that have one, and it is said so."""
    few = ["--data", settings.data, "--epochs", "1", "--batch-size", "16", "--device", "cpu",
           "--learning-rate", "1e-9", "--frozen-stages", "5", "--from", settings.out]  # fmt: skip
    out = str(tmp_path / "first")
    assert cli.main(["pretrain", *few, "--out", out, "--companion-from", beside.out]) == 0
    export(ExportSettings(out, f"{out}.onnx"))
    first = load_trained(Path(out)).network.companion
    assert first is not None
    for number, path in enumerate((out, f"{out}.onnx")):
        again = str(tmp_path / f"again {number}")
        assert cli.main(["pretrain", *few, "--out", again, "--companion-from", path]) == 0
        assert f"from {settings.out}; companion from {path}" in capsys.readouterr().out
        companion = load_trained(Path(again)).network.companion
        assert companion is not None
        for name, value in first.named_parameters():
            taken = companion.get_parameter(name)
            torch.testing.assert_close(taken, value, atol=1e-5, rtol=1e-3)


def test_what_gives_no_map_is_no_companion(settings: PretrainSettings) -> None:
    odd = replace(settings, companion="test_vit at 32", out=settings.out + "-odd")
    with pytest.raises(RunError, match=r"'test_vit' gives a tensor of shape .*, expected a map"):
        Network(odd)


def test_an_encoder_file_that_lacks_weights_is_refused_for_the_run(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    """Linear layers of a transformer are transposed in the file, and have other names."""
    plain = PretrainSettings(
        data=settings.data, out=str(tmp_path / "run"), backbone="test_vit", image_size=32,
        batch_size=16, epochs=1, device="cpu", optimizer="adamw",
    )  # fmt: skip
    pretrain(plain)
    export(ExportSettings(plain.out, str(tmp_path / "encoder.onnx")))
    with pytest.raises(RunError, match=r"mlp.fc1.weight is missing, .*: give the run"):
        load_start(Network(plain), tmp_path / "encoder.onnx")
    assert load_start(Network(plain), Path(plain.out)).fresh == ()


def test_what_has_no_companion_is_not_gone_on_with_alone(settings: PretrainSettings) -> None:
    with pytest.raises(RunError, match="has no companion"):
        inherited_alone(Path(settings.out))
    with pytest.raises(RunError, match="expected it together with --from"):
        replace(settings, companion_alone=True)


def test_what_is_no_companion_is_refused(
    settings: PretrainSettings, beside: PretrainSettings, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"'resnet18 at x', expected NAME \[xWIDTH\] at SIZE"):
        replace(settings, companion="resnet18 at x")
    with pytest.raises(RunError, match="expected none without --copies"):
        PretrainSettings(data="here", out="there", companion="resnet18 at 32")
    with pytest.raises(RunError, match="trained by --copies on the whole network"):
        companion_of(Path(settings.out))  # its descriptor is of some stages alone
    wider = replace(
        settings, out=str(tmp_path / "wider"), companion="resnet18 x0.125 at 32",
        companion_from=beside.out, descriptor_width=32,
    )  # fmt: skip
    with pytest.raises(RunError, match=r"copies.linear.weight is \(24, 64\), expected \(32, 64\)"):
        pretrain(wider)
    larger = replace(wider, descriptor_width=24, companion="resnet18 x0.125 at 48")
    with pytest.raises(RunError, match="trained at 32 px, where a stem has stride 1, expected 2 "):
        pretrain(larger)


def test_light_network_goes_on_from_its_encoder_file_with_a_descriptor_of_its_first_stages(
    settings: PretrainSettings, tmp_path: Path
) -> None:
    """Its widening layers are in the file once, though the graph passes through them twice."""
    out = str(tmp_path / "light")
    light = replace(
        settings, out=out, backbone="tf_efficientnet_lite0", width=1.0, image_size=32,
        descriptor_stages=3, max_minutes=0.02,
    )  # fmt: skip
    pretrain(light)
    exported = export(ExportSettings(out, f"{out}.onnx"))
    assert exported.cosine > 0.9999
    names = [each.name for each in onnx.load(f"{out}.onnx").graph.initializer]
    assert len(names) == len(set(names))
    again = Network(light)
    start = load_start(again, Path(f"{out}.onnx"))
    assert "copies" in start.taken
    trained = load_trained(Path(out)).network
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        for one, other in zip(again.eval().encode(pixels), trained.encode(pixels), strict=True):
            assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("method", ["swav", "pirl", "dino"])
def test_what_belongs_to_the_earlier_run_is_begun_anew(method: str, tmp_path: Path) -> None:
    """Its queue, its memory of each image and its warm-up are of other weights or other images."""
    settings = small_settings(method)
    earlier, network = small_network(settings), small_network(settings)
    of_run = {f"objective.{name}" for name in network.objective.of_run}
    state = earlier.state_dict()
    assert of_run <= state.keys()
    for name in of_run:
        state[name].fill_(3)
    before = {name: network.state_dict()[name].clone() for name in of_run}
    checkpoint.save_checkpoint(tmp_path, {"network": state, "step": 0})
    checkpoint.write_settings(tmp_path, asdict(settings) | {"data_digest": ""})
    assert load_start(network, tmp_path).fresh == ()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name] if name in of_run else state[name]), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "{encoder}", "--backbone", "resnet50"], "backbone is resnet50, and .* is of"),
        (["--companion-from", "nowhere", "--copies"], "companion_from is nowhere, which is"),
    ],
)
def test_what_is_refused_is_what_was_given(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [
        each.format(encoder=REPOSITORY / "index" / "data" / "default.onnx") for each in arguments
    ]
    assert cli.main(["pretrain", "--data", "pictures", "--out", "run", *given]) == cli.REFUSED
    assert re.search(message, capsys.readouterr().err)
