"""Pixels to vectors: the same vectors however they are batched, threaded or asked for."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_encoder
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

from index import image
from index.encoder import Encoder, Encoding, count_cuda_devices
from index.errors import ArtifactInvalid, ImageTooLarge

REPOSITORY = Path(__file__).parent.parent


def noise(number: int, size: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (number, size, size, 3), np.uint8)


def assert_close(one: Encoding, other: Encoding, tolerance: float) -> None:
    for name in ("embedding", "descriptor", "descriptor_offset"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=0, atol=tolerance, err_msg=name
        )


# What comes out


def test_vectors_are_float32_of_unit_length_and_of_the_stated_size(encoder: Encoder) -> None:
    blank = np.stack([np.full((32, 32, 3), grey, np.uint8) for grey in (0, 115, 255)])
    encoding = encoder.encode(np.concatenate([noise(20), blank]))
    assert encoding.embedding.shape == (23, encoder.metadata.embedding_dim)
    assert encoding.descriptor.shape == (23, encoder.metadata.descriptor_dim)
    assert encoding.descriptor_offset.shape == (23,)
    for rows in (encoding.embedding, encoding.descriptor):
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert encoding.descriptor_offset.dtype == np.float32


@settings(deadline=None, max_examples=30)
@given(number=st.integers(0, 40), batch_size=st.integers(1, 50))
def test_any_number_of_pictures_in_any_size_of_batch_gives_the_same_vectors(
    encoder_path: Path, encoder: Encoder, number: int, batch_size: int
) -> None:
    pictures = noise(40)
    alone = Encoding.concatenate([encoder.encode(pictures[row : row + 1]) for row in range(40)])
    batched = Encoder(encoder_path, provider="cpu", threads=1, batch_size=batch_size)
    encoding = batched.encode(pictures[:number])
    assert len(encoding) == number
    assert_close(encoding, alone[:number], 1e-6)


def test_no_pictures_give_no_vectors_of_the_right_width(encoder: Encoder) -> None:
    encoding = encoder.encode(noise(0))
    assert encoding.embedding.shape == (0, 64)
    assert encoding.descriptor.shape == (0, 32)
    assert encoding.descriptor_offset.shape == (0,)
    assert encoding.embedding.dtype == np.float32


def test_a_picture_s_neighbours_in_the_batch_do_not_matter(encoder: Encoder) -> None:
    picture = noise(1)
    among_some = encoder.encode(np.concatenate([noise(5, seed=1), picture]))
    among_others = encoder.encode(np.concatenate([noise(5, seed=2), picture]))
    assert_close(among_some[5:], among_others[5:], 1e-6)


def test_the_number_of_threads_does_not_matter(encoder_path: Path, encoder: Encoder) -> None:
    pictures = noise(64)
    for threads in (2, 4, None):
        other = Encoder(encoder_path, provider="cpu", threads=threads)
        assert_close(other.encode(pictures), encoder.encode(pictures), 1e-5)


def test_one_encoder_serves_many_threads_at_once(encoder_path: Path) -> None:
    shared = Encoder(encoder_path, provider="cpu", batch_size=4)
    jobs = [noise(1 + seed % 9, seed=seed) for seed in range(64)]
    expected = [shared.encode(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        for found, alone in zip(pool.map(shared.encode, jobs), expected, strict=True):
            assert_close(found, alone, 1e-6)


def test_pixels_need_not_lie_in_one_piece(encoder: Encoder) -> None:
    pictures = noise(4)
    mirrored = pictures[:, :, ::-1]
    assert not mirrored.flags.c_contiguous
    expected = encoder.encode(np.ascontiguousarray(mirrored))
    assert_close(encoder.encode(mirrored), expected, 0)


def test_loading_fits_a_picture_to_this_encoder(tmp_path: Path, photographs: list[Path]) -> None:
    encoder = Encoder(tiny_encoder.build(tmp_path / "e.onnx", size=48), provider="cpu")
    data = photographs[0].read_bytes()
    picture = encoder.load(data)
    assert picture.pixels.shape == (48, 48, 3)
    assert np.array_equal(picture.pixels, image.load(data, encoder.fit).pixels)
    with pytest.raises(ImageTooLarge):
        encoder.load(data, max_pixels=100)


def test_a_copy_scores_above_every_other_picture(encoder: Encoder, photographs: list[Path]) -> None:
    files = [path.read_bytes() for path in photographs]
    originals = encoder.encode(np.stack([encoder.load(data).pixels for data in files]))
    copies = encoder.encode(np.stack([encoder.load(smaller(data)).pixels for data in files]))
    scores = copies.descriptor @ originals.descriptor.T - copies.descriptor_offset[:, None]
    same = np.eye(len(files), dtype=bool)
    assert scores[same].min() > encoder.metadata.calibration.threshold_for(0.001)
    assert (copies.descriptor @ originals.descriptor.T)[same].min() > 0.98
    assert scores.argmax(axis=1).tolist() == list(range(len(files)))
    assert (copies.embedding @ originals.embedding.T).argmax(axis=1).tolist() == list(
        range(len(files))
    )


def smaller(data: bytes) -> bytes:
    picture = Image.open(io.BytesIO(data))
    buffer = io.BytesIO()
    picture.resize((picture.width // 2, picture.height // 2)).save(buffer, "JPEG", quality=40)
    return buffer.getvalue()


# What is refused


@pytest.mark.parametrize(
    "pixels",
    [
        noise(2).astype(np.float32),
        noise(2).astype(np.int64),
        noise(2)[0],
        noise(2)[..., :2],
        noise(2, size=31),
        noise(2).transpose(0, 3, 1, 2),
        noise(2)[..., 0],
        np.zeros((0, 3), np.uint8),
    ],
    ids=["float", "int64", "no batch", "two channels", "size", "planes first", "grey", "empty"],
)
def test_pixels_of_another_type_or_shape_are_refused(
    encoder: Encoder, pixels: NDArray[Any]
) -> None:
    with pytest.raises(ValueError, match=r"pixels are .*expected uint8 \(N, 32, 32, 3\)"):
        encoder.encode(pixels)


@pytest.mark.parametrize(
    "arguments", [{"provider": "tpu"}, {"threads": 0}, {"batch_size": 0}, {"batch_size": -1}]
)
def test_settings_that_make_no_sense_are_refused(
    encoder_path: Path, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="expected"):
        Encoder(encoder_path, **arguments)


def test_a_file_that_is_not_there_is_refused_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(ArtifactInvalid, match=r"missing\.onnx cannot be read"):
        Encoder(tmp_path / "missing.onnx")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_file_that_is_cut_off_is_refused(encoder_path: Path, tmp_path: Path, kept: float) -> None:
    data = encoder_path.read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ArtifactInvalid, match=r"cut\.onnx"):
        Encoder(path, provider="cpu")


def test_a_graph_of_somebody_else_is_refused(encoder_path: Path, tmp_path: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        model.graph.input[0].name = "pixel_values"
        model.graph.node[0].input[0] = "pixel_values"

    path = tiny_encoder.altered(encoder_path, tmp_path, rename)
    with pytest.raises(ArtifactInvalid, match=r"its graph has .*pixel_values.* expected .*images"):
        Encoder(path, provider="cpu")


def test_weights_outside_the_file_are_refused(encoder_path: Path, tmp_path: Path) -> None:
    """Its SHA-256 would not speak for them."""
    model = onnx.load(encoder_path)
    path = tmp_path / "split.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(ArtifactInvalid, match=r"split\.onnx"):
        Encoder(path, provider="cpu")


@pytest.mark.parametrize("factor", [0.5, 2.0, np.nan, np.inf, 0.0])
def test_an_encoder_without_unit_length_is_refused(
    encoder_path: Path, tmp_path: Path, factor: float
) -> None:
    """Found at construction by running it, since no signature says so."""

    def scale(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if "embedding" in node.output)
        node.output[0] = "unit"
        model.graph.initializer.append(
            numpy_helper.from_array(np.array(factor, np.float32), "factor")
        )
        model.graph.node.append(onnx.helper.make_node("Mul", ["unit", "factor"], ["embedding"]))

    with pytest.raises(ArtifactInvalid, match=r"embedding rows of length .*expected 1"):
        Encoder(tiny_encoder.altered(encoder_path, tmp_path, scale), provider="cpu")


# What it says about itself


def test_an_encoder_is_known_by_the_hash_of_its_file(encoder_path: Path, encoder: Encoder) -> None:
    assert encoder.sha256 == hashlib.sha256(encoder_path.read_bytes()).hexdigest()


def test_another_seed_makes_another_encoder(tmp_path: Path, encoder: Encoder) -> None:
    other = Encoder(tiny_encoder.build(tmp_path / "other.onnx", seed=1), provider="cpu")
    assert other.sha256 != encoder.sha256
    assert np.abs(other.encode(noise(1)).embedding - encoder.encode(noise(1)).embedding).max() > 0.1


def test_the_same_seed_makes_the_same_file(tmp_path: Path, encoder_path: Path) -> None:
    assert tiny_encoder.build(tmp_path / "again.onnx").read_bytes() == encoder_path.read_bytes()


# Providers


def without_gpu(encoder_path: Path, provider: str) -> subprocess.CompletedProcess[str]:
    """Open an encoder in a process that no GPU is visible to."""
    script = """
import sys
from index.encoder import Encoder
from index.errors import ArtifactError
try:
    print(Encoder(sys.argv[1], provider=sys.argv[2]).provider)
except ArtifactError as error:
    print("refused:", error)
"""
    return subprocess.run(
        [sys.executable, "-c", script, str(encoder_path), provider],
        cwd=REPOSITORY,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        check=True,
        text=True,
    )


def test_auto_falls_to_the_cpu_says_so_and_keeps_quiet(encoder_path: Path) -> None:
    done = without_gpu(encoder_path, "auto")
    assert done.stdout == "CPUExecutionProvider\n"
    assert done.stderr == ""


def test_cuda_is_refused_where_there_is_none(encoder_path: Path) -> None:
    done = without_gpu(encoder_path, "cuda")
    assert done.stdout.startswith("refused: ")
    assert "no GPU" in done.stdout or "has no CUDA, it offers" in done.stdout


@pytest.mark.skipif(count_cuda_devices() == 0, reason="needs an NVIDIA GPU")
def test_cpu_and_gpu_give_the_same_vectors(encoder_path: Path, encoder: Encoder) -> None:
    on_gpu = Encoder(encoder_path, provider="cuda")
    assert on_gpu.provider == "CUDAExecutionProvider"
    assert Encoder(encoder_path, provider="auto").provider == on_gpu.provider
    assert_close(on_gpu.encode(noise(40)), encoder.encode(noise(40)), 1e-4)


# Encodings


def test_encodings_are_cut_and_joined_without_loss(encoder: Encoder) -> None:
    whole = encoder.encode(noise(7))
    joined = Encoding.concatenate([whole[:2], whole[2:2], whole[2:]])
    assert_close(joined, whole, 0)
    assert len(whole[5:100]) == 2


def test_a_single_row_is_asked_for_as_a_slice(encoder: Encoder) -> None:
    with pytest.raises(TypeError, match="by a slice, found 0"):
        encoder.encode(noise(1))[0]  # type: ignore[index]


def test_vectors_that_do_not_belong_together_are_refused() -> None:
    rows, offsets = np.zeros((2, 4), np.float32), np.zeros(2, np.float32)
    for parts in ((rows, rows[:1], offsets), (rows, rows, offsets[:1]), (rows, rows, rows)):
        with pytest.raises(ValueError, match="shapes are"):
            Encoding(*parts)


def test_nothing_is_told_to_anyone(tmp_path: Path, encoder_path: Path) -> None:
    """ONNX Runtime would keep what it is about to report to its maker in the home folder."""
    program = """
import sys, numpy as np
from index.encoder import Encoder
encoder = Encoder(sys.argv[1], provider="cpu")
size = encoder.fit.size
encoder.encode(np.zeros((1, size, size, 3), np.uint8))
"""
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    command = [sys.executable, "-c", program, str(encoder_path)]
    subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, timeout=120)
    assert list(tmp_path.rglob("*onnxruntime*")) == []
