"""From a run to the served file: exact, calibrated, and refused where it is not."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from index.artifact import read_metadata
from index.encoder import CPU, Encoder, Encoding
from index.errors import ArtifactInvalid, DataError, ExportRefused, RunError
from index.image import Fit, fit_pixels, load_pixels
from trainer import checkpoint, cli, export, quantise, start
from trainer.evaluate import EvaluateSettings, evaluate, score
from trainer.network import Network
from trainer.pretrain import pretrain
from trainer.settings import PretrainSettings
from trainer.whitening import Whitening

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty-six photographs, in a folder for each kind of scene."""
    root = tmp_path_factory.mktemp("pictures")
    for path in sorted((REPOSITORY / "demo" / "photographs").glob("*.jpg"))[::3]:
        scene = path.stem.split("-")[0].rstrip("0123456789")
        (root / scene).mkdir(exist_ok=True)
        shutil.copy(path, root / scene)
    return root


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run."""
    folder = tmp_path_factory.mktemp("run")
    settings = PretrainSettings(
        data=str(pictures), out=str(folder), image_size=32, width=0.125,
        option={"projection_width": 16}, batch_size=22, epochs=2, optimizer="adamw", device="cpu",
    )  # fmt: skip
    pretrain(settings)
    return folder


@pytest.fixture(scope="module")
def exported(run: Path) -> Path:
    out = run / "encoder.onnx"
    export.export(export.ExportSettings(str(run), str(out), training_data="66 photographs"))
    return out


def test_file_says_what_it_is(exported: Path, run: Path) -> None:
    metadata = read_metadata(exported)
    assert (metadata.image_size, metadata.embedding_dim, metadata.descriptor_dim) == (32, 64, 16)
    assert metadata.method == "simclr"
    assert metadata.backbone == "resnet18 x0.125"
    assert metadata.training_data == "66 photographs"
    assert metadata.precision == "fp32"
    assert re.fullmatch(r"[0-9a-f]{12}-6", metadata.run_id)


def test_file_agrees_with_the_network_on_awkward_images(exported: Path, run: Path) -> None:
    """Compared here once more, with the weights loaded anew."""
    recorded = json.loads((run / "settings.json").read_text())
    names = PretrainSettings.__dataclass_fields__
    network = Network(PretrainSettings(**{name: recorded[name] for name in names}))
    network.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True)["network"])
    network.eval()
    pixels = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    pixels[0], pixels[1] = 0, 255
    got = Encoder(exported).encode(pixels)
    stored = {each.name: each for each in onnx.load(exported).graph.initializer}

    def constant(name: str) -> NDArray[np.generic]:
        return onnx.numpy_helper.to_array(stored[name])

    with torch.no_grad():
        h = network.represent(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
        z = network.objective.projector(h)
    for output, mine, theirs in (
        ("embedding", got.embedding, h.numpy()),
        ("descriptor", got.descriptor, z.numpy()),
    ):
        theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
        theirs -= constant(f"{output}_whitening.mean_D")
        theirs = theirs @ constant(f"{output}_whitening.matrix_DK")
        theirs /= np.linalg.norm(theirs, axis=1, keepdims=True)
        assert float((mine * theirs).sum(1).min()) > 0.9999
    background = constant("background_KB")
    assert background.dtype == np.float16
    similarity = np.sort(got.descriptor @ background.astype(np.float32), axis=1)
    np.testing.assert_allclose(got.descriptor_offset, similarity[:, -4:-1].mean(1), atol=1e-5)


def test_disagreement_is_refused_and_nothing_is_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is made from a network with one weight changed after the fact."""
    real = export.to_onnx

    def wrong(served: export.Served, image_size: int) -> onnx.ModelProto:
        model = real(served, image_size)
        with torch.no_grad():
            served.network.objective.projector[3].weight[0] += 1  # type: ignore[index]
        return model

    monkeypatch.setattr(export, "to_onnx", wrong)
    with pytest.raises(ExportRefused, match=r"lowest cosine -?0\.\d+, expected at least"):
        export.export(export.ExportSettings(str(run), str(tmp_path / "wrong.onnx")))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def in_int8(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, export.Export]:
    out = tmp_path_factory.mktemp("int8") / "int8.onnx"
    settings = export.ExportSettings(str(run), str(out), int8=True, max_int8_loss=1.0)
    return out, export.export(settings)


def test_int8_states_its_loss_and_speed(
    in_int8: tuple[Path, export.Export], exported: Path
) -> None:
    out, result = in_int8
    assert result.int8 is not None
    assert result.int8.loss == result.int8.fp32_recall_at_1 - result.int8.int8_recall_at_1
    assert result.int8.int8_images_per_second > 0
    assert read_metadata(out).precision == "int8"
    pixels = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    cosine = Encoder(out).encode(pixels).embedding * Encoder(exported).encode(pixels).embedding
    assert float(cosine.sum(1).min()) > 0.9


def test_int8_keeps_the_weights_as_they_were(
    in_int8: tuple[Path, export.Export], exported: Path
) -> None:
    fp32, int8 = (
        {each.name: each.raw_data for each in onnx.load(path).graph.initializer}
        for path in (exported, in_int8[0])
    )
    weights = [name for name in fp32 if name.startswith("network.")]
    assert "network.backbone.model.conv1.weight" in weights
    assert [name for name in weights if int8.get(name) != fp32[name]] == []


def test_int8_weights_overflow_no_sum_of_two_products(in_int8: tuple[Path, export.Export]) -> None:
    """Of 255 and the weights of two neighbouring channels, in 16 bits."""
    weights = {
        each.name: onnx.numpy_helper.to_array(each).astype(np.int64)
        for each in onnx.load(in_int8[0]).graph.initializer
        if each.name.endswith("weight_quantized")
    }
    assert any("layer4.1.conv2" in name for name in weights)
    assert not any("model.conv1" in name for name in weights)  # it sees pixels
    pairs = [np.abs(weight[:, ::2] + weight[:, 1::2]).max() for weight in weights.values()]
    assert 120 <= max(pairs) <= 128
    assert max(np.abs(weight).max() for weight in weights.values()) > 100


def test_int8_says_the_same_where_it_is_calculated_in_float(
    in_int8: tuple[Path, export.Export],
) -> None:
    """As on a GPU; what differs is on which side of a half a value was rounded."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.log_severity_level = 4
    in_float = onnxruntime.InferenceSession(in_int8[0], options, providers=[CPU])
    pixels = np.random.default_rng(1).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    expected = Encoder(in_int8[0], provider="cpu").encode(pixels)
    for name in ("embedding", "descriptor"):
        (got,) = in_float.run([name], {"images": pixels})
        assert float((got * getattr(expected, name)).sum(1).mean()) > 0.95


def test_int8_spans_no_more_than_a_relu6_lets_through(tmp_path: Path) -> None:
    """One channel reaches thousands before it; in steps of their span the others would be lost."""
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(4, 64, 3)
    with torch.no_grad():
        convolution.weight *= 10
        convolution.weight[0] *= 300
    network = torch.nn.Sequential(convolution, torch.nn.ReLU6(), torch.nn.Conv2d(64, 8, 1)).eval()
    x = torch.rand(64, 4, 16, 16)
    program = torch.onnx.export(
        network, (x,), input_names=["images"], dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("n")},),
    )  # fmt: skip
    assert program is not None
    program.save(tmp_path / "fp32.onnx")
    quantise.quantise(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", x.numpy())
    session = onnxruntime.InferenceSession(tmp_path / "int8.onnx", providers=[CPU])
    (got,) = session.run(None, {"images": x.numpy()})
    with torch.no_grad():
        expected = network(x).numpy()
    assert float(np.abs(got - expected).mean()) < 0.05 * float(expected.std())


def test_int8_of_convolutions_with_biases_is_gone_on_with(pictures: Path, tmp_path: Path) -> None:
    """Out of int8 such a bias comes under the name that the one which training goes on with has."""
    settings = PretrainSettings(
        data=str(pictures), out=str(tmp_path / "run"), backbone="test_efficientnet", image_size=32,
        batch_size=22, epochs=1, optimizer="adamw", device="cpu",
    )  # fmt: skip
    pretrain(settings)
    out = tmp_path / "int8.onnx"
    export.export(export.ExportSettings(settings.out, str(out), int8=True, max_int8_loss=1.0))
    network, trained = Network(settings), checkpoint.load_checkpoint(Path(settings.out))["network"]
    start.load_start(network, out)
    for name, value in network.state_dict().items():
        if name.startswith("backbone.") and not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, trained[name], msg=name)


@pytest.mark.parametrize("rows", [[0] * 40, [0] * 20 + [1] * 20])
def test_images_that_are_all_but_the_same_have_no_rates(rows: list[int]) -> None:
    vectors = np.eye(2, dtype=np.float32)[rows]
    encoding = Encoding(vectors, vectors, np.zeros(len(rows), np.float32))
    with pytest.raises(DataError, match=r"40 training images have \d+ pairs of different ones"):
        export.calibrate(encoding)


def test_a_bound_that_bounds_nothing_is_refused() -> None:
    with pytest.raises(RunError, match="max_int8_loss is nan, expected a share of 1"):
        export.ExportSettings("run", "x.onnx", int8=True, max_int8_loss=float("nan"))


def test_int8_over_its_bound_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportRefused, match=r"int8 costs .* expected at most -2"):
        export.export(
            export.ExportSettings(str(run), str(tmp_path / "x.onnx"), int8=True, max_int8_loss=-2.0)
        )


def test_few_images_leave_the_whitening_as_it_was(
    exported: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where training went on from an encoder file that is still there; else it says so.

    The embedding has more dimensions than there are images, the descriptor fewer.
    """
    earlier, again, later = (tmp_path / f"{name}.onnx" for name in ("earlier", "again", "later"))
    shutil.copy(exported, earlier)
    settings = PretrainSettings(
        data=str(pictures), out=str(tmp_path / "run"), from_=str(earlier), image_size=32,
        width=0.125, option={"projection_width": 16}, batch_size=22, epochs=1, device="cpu",
    )  # fmt: skip
    pretrain(settings)
    export.export(export.ExportSettings(settings.out, str(again)))
    said = capsys.readouterr().out
    few = "embedding: half of the images, 33, are too few to whiten 64 dimensions by"
    assert f"{few}, so it is" in said
    assert "calibrated on 33 images, which tell false match rates down to 0.0" in said
    assert "descriptor:" not in said
    network = Network(settings)
    assert kept_whitenings(network, earlier, again) == {"embedding"}
    earlier.unlink()
    export.export(export.ExportSettings(settings.out, str(later)))
    said = capsys.readouterr().out
    assert "earlier.onnx, which training started from, is not there any more" in said
    assert f"{few}; from 128 images on" in said
    assert kept_whitenings(network, again, later) == {"descriptor"}


def test_parts_of_a_picture_are_nearer_to_it_than_by_plain_whitening() -> None:
    """By parts that the whitening was not fitted on, as against other pictures."""
    files = sorted((REPOSITORY / "demo" / "photographs").glob("*.jpg"))
    pixels = np.stack([load_pixels(path.read_bytes(), Fit(32)) for path in files])
    torch.manual_seed(0)
    network = Network(PretrainSettings(data="-", out="-", image_size=32, width=0.125)).eval()
    served = export.Served(network, pixels)
    with torch.no_grad():
        h, _ = network.encode(torch.from_numpy(pixels))
        whole, part = (
            network.encode(torch.from_numpy(each))[0]
            for each in (pixels, np.stack([fit_pixels(x[4:28, 4:28], Fit(32)) for x in pixels]))
        )

    def lead(whitening: Whitening) -> float:
        cosine = whitening(part) @ whitening(whole).T
        others = cosine[~torch.eye(len(cosine), dtype=torch.bool)]
        return float((cosine.diagonal().mean() - others.mean()) / others.std())

    assert lead(served.embedding_whitening) > 1.2 * lead(Whitening.fitted(h, 0.5))


def kept_whitenings(network: Network, one: Path, other: Path) -> set[str]:
    """Which outputs two encoders whiten alike."""
    before, after = (start.whitenings(path, network) for path in (one, other))
    assert before.keys() == after.keys() == {"embedding", "descriptor"}
    return {
        name
        for name, whitening in before.items()
        if torch.allclose(whitening.matrix_DK, after[name].matrix_DK)
    }


@pytest.mark.parametrize(
    "other",
    [
        {"method": "byol", "option": {"projection_width": 16, "hidden_width": 32}},
        {"copies": True, "descriptor_width": 16},
    ],
)
def test_a_descriptor_from_scratch_is_not_whitened_as_another_was(
    exported: Path, pictures: Path, tmp_path: Path, other: dict[str, Any]
) -> None:
    """Though it has as many dimensions."""
    settings = PretrainSettings(
        data=str(pictures), out=str(tmp_path), from_=str(exported), image_size=32, width=0.125,
        batch_size=22, device="cpu", **other,
    )  # fmt: skip
    assert start.whitenings(exported, Network(settings)).keys() == {"embedding"}


def test_calibration_states_the_share_of_non_matching_pairs() -> None:
    random = np.random.default_rng(0)
    descriptor = random.normal(size=(3000, 8)).astype(np.float32)
    descriptor /= np.linalg.norm(descriptor, axis=1, keepdims=True)
    descriptor[2500] = descriptor[3]  # the same picture twice is no false match
    offset = random.uniform(0, 0.1, 3000).astype(np.float32)
    calibration = export.calibrate(Encoding(descriptor, descriptor, offset))
    scores = descriptor[:2000] @ descriptor.T - offset[:2000, None]
    np.fill_diagonal(scores, np.nan)
    scores[3, 2500] = np.nan
    assert calibration.pairs == 2000 * 3000 - 2000 - 1
    assert calibration.thresholds[-1] < 0.9999 - offset[3]
    for rate, threshold in zip(
        calibration.false_match_rates[1:-1], calibration.thresholds[1:-1], strict=True
    ):
        share = (scores >= threshold).sum() / calibration.pairs
        assert share == pytest.approx(rate, rel=1e-4)
    assert calibration.threshold_for(1e-3) in calibration.thresholds


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no settings\.json"):
        export.export(export.ExportSettings(str(tmp_path), str(tmp_path / "x.onnx")))
    with pytest.raises(RunError, match=r"ends in \.onnx"):
        export.ExportSettings(str(tmp_path), "encoder.pt")


def test_what_cannot_be_written_is_refused_before_the_work(run: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").touch()
    for out in ("folder.onnx", "file/encoder.onnx", "/proc/encoder.onnx"):
        with pytest.raises(RunError, match=r"could not be written .*; nothing was exported"):
            export.export(export.ExportSettings(str(run), str(tmp_path / out)))


def test_a_bank_suffices_where_each_image_is_alone_in_its_class() -> None:
    x_ND = functional.normalize(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)))
    names = np.array(["a", "b", "c"])
    scores = score(x_ND[:3], names, (x_ND[:3], x_ND[:3]), (x_ND, np.tile(names, 2)))
    assert (scores.knn, scores.linear_probe) == (1.0, 1.0)
    assert scores.recall_at_1 is None


def test_rank_is_measured_on_images_of_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of a folder are of one class, here of one direction."""
    monkeypatch.setattr("trainer.evaluate.LARGEST_SPECTRUM", 10)
    x_ND = torch.eye(8)[[0] * 80 + list(range(1, 8)) * 20]
    assert score(x_ND, None, (x_ND, x_ND)).rankme > 3


def test_a_run_is_exported_whatever_became_of_its_pictures(
    run: Path, exported: Path, tmp_path: Path
) -> None:
    """By those that it learnt from; where they are gone, too, others do not take their place."""
    shutil.copytree(run, tmp_path / "run")
    recorded = checkpoint.read_settings(run)
    shutil.copytree(recorded["data"], tmp_path / "others")
    next((tmp_path / "others").rglob("*.jpg")).unlink()
    checkpoint.write_settings(tmp_path / "run", recorded | {"data": str(tmp_path / "others")})
    settings = export.ExportSettings(str(tmp_path / "run"), str(tmp_path / "x.onnx"))
    export.export(settings)
    assert read_metadata(tmp_path / "x.onnx").calibration == read_metadata(exported).calibration
    shutil.rmtree(tmp_path / "run" / "data")
    with pytest.raises(RunError, match="others: the images have changed"):
        export.export(settings)


def test_evaluation_goes_through_the_file(exported: Path, pictures: Path, tmp_path: Path) -> None:
    """With a bank of some of the pictures."""
    bank = tmp_path / "bank"
    shutil.copytree(pictures, bank)
    max(bank.rglob("*.jpg")).unlink()
    found = evaluate(EvaluateSettings(str(exported), str(pictures), str(bank), "cpu"))
    assert found.images == 66
    for scores in (found.embedding, found.descriptor):
        assert scores.recall_at_1 is not None
        assert scores.mean_average_precision is not None
        assert scores.linear_probe is not None
        assert 0 < scores.recall_at_1 <= 1
        assert 0 < scores.mean_average_precision <= 1
        assert 0 < scores.linear_probe <= 1
        assert scores.alignment > 0
        assert scores.uniformity < 0
        assert 1 <= scores.rankme <= 66
    assert "recall@1" in found.table()
    assert "-:" not in found.table()
    shutil.copytree(pictures, tmp_path / "the same")
    for same in (pictures, tmp_path / "the same"):
        with pytest.raises(DataError, match=r"holds the very images of .*each would find itself"):
            evaluate(EvaluateSettings(str(exported), str(pictures), str(same), "cpu"))


def test_evaluation_without_labels_gives_what_needs_none(
    exported: Path, photographs: list[Path], tmp_path: Path
) -> None:
    for path in photographs:
        shutil.copy(path, tmp_path)
    found = evaluate(EvaluateSettings(str(exported), str(tmp_path)))
    assert found.embedding.knn is None
    assert found.embedding.rankme > 1
    assert found.table().endswith("-: these need a label of every image")
    for number, path in enumerate(photographs):
        (tmp_path / "alone" / str(number)).mkdir(parents=True)
        shutil.copy(path, tmp_path / "alone" / str(number))
    found = evaluate(EvaluateSettings(str(exported), str(tmp_path / "alone")))
    assert found.embedding.recall_at_1 is None
    assert found.table().splitlines()[-2:] == [
        "-: a linear probe needs a --bank to learn from",
        "-: no two images have the same label, which recall@1 and mAP need",
    ]
    with pytest.raises(DataError, match="a bank needs labels"):
        evaluate(EvaluateSettings(str(exported), str(tmp_path), str(tmp_path)))


def test_commands_print_json_last_and_exit_by_what_happened(
    run: Path, exported: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "encoder.onnx")
    assert cli.main(["export", str(run), "--out", out, "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["cosine"] > 0.9999
    status = cli.main(["evaluate", "--encoder", out, "--data", str(pictures), "--json"])
    assert status == cli.DONE
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"] == 66
    assert cli.main(["export", str(tmp_path), "--out", out]) == cli.REFUSED
    assert "has no settings.json" in capsys.readouterr().err
    shutil.copytree(pictures, tmp_path / "pictures")
    (tmp_path / "pictures" / "broken.jpg").write_bytes(b"nothing")
    status = cli.main(
        ["evaluate", "--encoder", str(exported), "--data", str(tmp_path / "pictures")]
    )
    assert status == cli.LEFT_OUT


@pytest.mark.parametrize("command", ["pretrain", "evaluate", "export"])
def test_every_setting_has_a_flag_with_help(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, _ = cli.COMMANDS[command]
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for field in fields(settings):
        assert field.metadata["help"]
        if (command, field.name) == ("pretrain", "teacher"):
            continue  # it is of distill alone
        assert (
            field.metadata["positional"] or f"--{field.name.rstrip('_').replace('_', '-')}" in text
        )


def test_file_without_metadata_is_no_encoder(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    with pytest.raises(ArtifactInvalid):
        Encoder(tmp_path / "bare.onnx")
