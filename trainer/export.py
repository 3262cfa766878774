"""`kindred-train export`: a run becomes one .onnx file that carries everything.

The file is loaded again by the class that will serve it, and compared with the trained network on
awkward images, before its metadata is written: a file with metadata has passed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxscript import optimizer
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from index.artifact import DEFAULT_FALSE_MATCH_RATE, FORMAT_VERSION, Calibration, Metadata
from index.encoder import Encoder, Encoding, Provider
from index.errors import DataError, ExportRefused, RunError
from index.image import Fit, fit_pixels
from trainer import checkpoint, quantise, start
from trainer.data import Images, images_of_run
from trainer.edits import EditSettings, make_edits
from trainer.files import check_place, writing
from trainer.network import Network, check_map
from trainer.provenance import weights_digest
from trainer.settings import refuse_missing, setting
from trainer.trained import load_trained
from trainer.validation import CPU_BATCH
from trainer.views import ViewSettings, make_views
from trainer.whitening import Whitening

LEAST_COSINE = 0.9999
"""Between the file's vectors and the network's, on every image that is tried."""

WHITENING_POWER = 0.5
"""The best on images that were not trained on, for both outputs; see EXPERIMENTS.md."""

BACKGROUND_IMAGES = 4096
CALIBRATION_QUERIES = 2_000
CALIBRATION_IMAGES = 20_000
LEAST_FALSE_MATCHES = 10
"""A false match rate is stated only where so many of the measured pairs are behind it."""


@dataclass(frozen=True)
class ExportSettings:
    """Which run, and where to."""

    run: str = setting("", "folder of a pretraining run", positional=True)
    out: str = setting("", "encoder file to write, .onnx")
    image_size: int | None = setting(
        None,
        "side of the encoder's input in pixels; half as much again as in training often sees more, "
        "and takes 2.25 times as long [that of the training]",
    )
    embedding_width: int = setting(512, "most dimensions of the embedding: its strongest are kept")
    descriptor_width: int = setting(
        512, "most dimensions of the descriptor: its strongest are kept"
    )
    int8: bool = setting(False, "write it in int8, calibrated on training images")
    max_int8_loss: float = setting(0.01, "largest fall in recall@1 that int8 may cost, 0 to 1")
    training_data: str = setting("", "what the metadata says it learnt from [count and file name]")

    def __post_init__(self) -> None:
        refuse_missing(self, out="the encoder file to write, .onnx")
        for name, least in (("embedding_width", 2), ("descriptor_width", 2), ("image_size", 8)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise RunError(f"{name} is {value}, expected at least {least}")
        if not self.max_int8_loss <= 1:
            raise RunError(f"max_int8_loss is {self.max_int8_loss}, expected a share of 1")
        if Path(self.out).suffix != ".onnx":
            raise RunError(f"out is {self.out!r}, expected a name that ends in .onnx")


@dataclass(frozen=True)
class Export:
    """What was written: figures of the check, and of int8 where it was asked for.

    ``cosine`` is the lowest between file and network over both outputs and all tried images.
    """

    encoder: str
    sha256: str
    megabytes: float
    cosine: float
    int8: quantise.Comparison | None


class Served(nn.Module):
    """The graph of the file: uint8 (N, S, S, 3) to embedding, descriptor, descriptor_offset.

    Both outputs of the network are whitened, by ``pixels_BSSC``, a sample of training images that
    also gives the background; the embedding also by how images differ that look alike. Too small a
    sample does not tell how a network's outputs vary: then the whitening of the encoder that
    training went on from stays, ``earlier`` by name. The offset is the mean similarity to the
    second to fourth nearest of the background (score normalisation: Pizzi et al. 2022,
    arXiv:2202.10261). The nearest is left out, because people search the pictures that they trained
    on, and one of those may be in the background itself.
    """

    background_KB: Tensor

    @torch.no_grad()
    def __init__(
        self,
        network: Network,
        pixels_BSSC: NDArray[np.uint8],
        embedding_width: int | None = None,
        descriptor_width: int | None = None,
        earlier: Mapping[str, Whitening] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.network = network
        outputs = zip(*map(network.encode, _parts(pixels_BSSC, "encoding")), strict=True)
        embedding_BD, descriptor_BK = map(torch.cat, outputs)
        self.embedding_whitening = _whitening(embedding_BD, embedding_width, "embedding", earlier)
        if _tells(embedding_BD):
            self.embedding_whitening = self.embedding_whitening.for_likeness(
                embedding_BD, _views(network, pixels_BSSC)
            )
        self.descriptor_whitening = _whitening(
            descriptor_BK, descriptor_width, "descriptor", earlier
        )
        self.embedding_dim = int(self.embedding_whitening.matrix_DK.shape[1])
        background_BK = self.descriptor_whitening(descriptor_BK)
        self.descriptor_dim = int(background_BK.shape[1])
        # In half precision, which moves an offset by less than 0.001 and halves its room.
        self.register_buffer("background_KB", background_BK.T.contiguous().half())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Run the graph."""
        h, z = self.network.encode(images)
        embedding, descriptor = self.embedding_whitening(h), self.descriptor_whitening(z)
        nearest = (descriptor @ self.background_KB.float()).topk(4, dim=1).values
        return embedding, descriptor, nearest[:, 1:].mean(dim=1)


def _whitening(
    sample_ND: Tensor, width: int | None, name: str, earlier: Mapping[str, Whitening]
) -> Whitening:
    if not _tells(sample_ND):
        images, dimensions = sample_ND.shape
        # Of all pictures: the other half is what is calibrated on.
        few = f"half of the images, {images:,}, are too few to whiten {dimensions:,} dimensions by"
        found = earlier.get(name)
        if (
            found is not None
            and len(found.mean_D) == dimensions
            and found.matrix_DK.shape[1] <= (width or dimensions)
        ):
            print(f"{name}: {few}, so it is whitened as by the encoder before")
            return found
        print(f"{name}: {few}; from {2 * dimensions:,} images on it would be better to search with")
    return Whitening.fitted(sample_ND, WHITENING_POWER, width)


def _tells(sample_ND: Tensor) -> bool:
    """Whether there are enough images to span the dimensions; see EXPERIMENTS.md."""
    images, dimensions = sample_ND.shape
    return images >= dimensions


def _views(network: Network, pixels_BSSC: NDArray[np.uint8]) -> list[Tensor]:
    """The embedding of a part of each image, float32 (B, D), and that of an edited copy."""
    size, generator = pixels_BSSC.shape[1], torch.Generator().manual_seed(0)
    crop, edit = ViewSettings.cropped(size), EditSettings(size)
    crops, copies = [], []
    for part in _parts(pixels_BSSC, "encoding views"):
        images_NCHW = part.permute(0, 3, 1, 2)
        crops.append(network.represent(make_views(images_NCHW, crop, generator)))
        copies.append(network.represent(make_edits(images_NCHW, edit, generator)))
    return [functional.normalize(torch.cat(each), dim=1) for each in (crops, copies)]


def _parts(pixels_BSSC: NDArray[np.uint8], doing: str) -> Iterable[Tensor]:
    """``CPU_BATCH`` images at a time, and how far it is."""
    parts = torch.split(torch.from_numpy(pixels_BSSC), CPU_BATCH)
    return tqdm(parts, doing, leave=False)


def export(settings: ExportSettings) -> Export:
    """Write the encoder file of a run's last checkpoint.

    Raises:
        RunError: the folder is no run, its data has gone, or ``out`` cannot be written.
        ExportRefused: the file does not agree with the network, or int8 costs too much.
    """
    run, out = Path(settings.run), Path(settings.out)
    check_place(out, "nothing was exported")
    recorded = checkpoint.read_settings(run)
    loaded = load_trained(run)
    trained, network = loaded.settings, loaded.network
    images = images_of_run(
        trained.data, trained.fit(), run / "data", recorded["data_digest"], workers=trained.workers
    )
    if len(images) < 16:
        raise DataError(f"{len(images)} training images, expected 16 to measure scores with")
    size = settings.image_size or trained.image_size
    check_map(network.backbone, trained.backbone, size, False)
    pixels = _sample(images, size, trained.seed)

    background = min(BACKGROUND_IMAGES, len(pixels) // 2)
    served = Served(
        network,
        pixels[:background],
        settings.embedding_width,
        settings.descriptor_width,
        _earlier(trained.from_, recorded, network),
    ).eval()
    source = Path(trained.data).name or trained.data  # where it lies here is nobody's business
    run_id = hashlib.sha256(json.dumps(recorded, sort_keys=True).encode()).hexdigest()[:12]
    fit = {"image_size": size, "fit": "stretch", "kernel": "bilinear"}
    common: dict[str, Any] = fit | {
        "format_version": FORMAT_VERSION,
        "embedding_dim": served.embedding_dim,
        "descriptor_dim": served.descriptor_dim,
        "method": trained.method + (" + sscd" if trained.copies else ""),
        "backbone": start.named(trained, size),
        "training_data": settings.training_data or f"{len(images):,} images of {source}",
        "run_id": f"{run_id}-{loaded.step}",
    }
    unmeasured = Calibration(pairs=1, false_match_rates=(1.0, 0.0), thresholds=(-2.0, 2.0))

    model = to_onnx(served, size)
    with (
        writing(out, "nothing was exported"),
        tempfile.TemporaryDirectory(dir=out.parent) as folder,
    ):
        draft = Path(folder, "draft.onnx")
        _write(model, Metadata(**common, precision="fp32", calibration=unmeasured), draft)
        # What int8 costs and brings is asked of CPUs, for which it is made.
        provider: Provider = "cpu" if settings.int8 else "auto"
        encoder = Encoder(draft, provider=provider)
        cosine = compare(encoder, served, _awkward(size, pixels))
        print(f"lowest cosine between file and network: {cosine:.6f}")
        if cosine < LEAST_COSINE:
            raise ExportRefused(
                f"the file's vectors differ from the network's: lowest cosine {cosine:.6f}, "
                f"expected at least {LEAST_COSINE}"
            )
        comparison = None
        if settings.int8:
            small = Path(folder, "int8.onnx")
            quantise.quantise(draft, small, pixels[:512])
            model, draft = onnx.load(small), small
            _write(model, Metadata(**common, precision="int8", calibration=unmeasured), draft)
            int8 = Encoder(draft, provider=provider)
            comparison = quantise.compare(encoder, int8, pixels[:4000])
            print(comparison.sentence())
            if comparison.loss > settings.max_int8_loss:
                raise ExportRefused(
                    f"int8 costs {comparison.loss:.4f} of recall@1, "
                    f"expected at most {settings.max_int8_loss}"
                )
            encoder = int8
        calibration = calibrate(encoder.encode(pixels[background:]))
        if (smallest := calibration.false_match_rates[-1]) > DEFAULT_FALSE_MATCH_RATE:
            print(
                f"calibrated on {len(pixels) - background:,} images, which tell false match rates "
                f"down to {smallest:.1g}: measure a collection's own by kindred-index calibrate"
            )
        _write(model, encoder.metadata.model_copy(update={"calibration": calibration}), draft)
        final = Encoder(draft)
        os.replace(draft, out)
    return Export(str(out), final.sha256, out.stat().st_size / 1e6, cosine, comparison)


def _earlier(
    path: str | None, recorded: Mapping[str, Any], network: Network
) -> dict[str, Whitening]:
    """The whitenings of the encoder file that a run started from, by output."""
    if path is None or Path(path).suffix != ".onnx":
        return {}
    if not Path(path).is_file() or weights_digest(path) != recorded["start_digest"]:
        print(f"{path}, which training started from, is not there any more, or another by now")
        return {}
    return start.whitenings(Path(path), network)


def to_onnx(served: Served, image_size: int) -> onnx.ModelProto:
    """The graph with a free batch axis.

    Constants are folded here, norms are not: the runtime folds those as it loads. So every
    parameter stands in the file under the name that it has in the network, and training can go on
    from the file.
    """
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        # The exporter's own use of deprecated torch interfaces; nothing that a caller could mend.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            served,
            (example,),
            input_names=["images"],
            output_names=["embedding", "descriptor", "descriptor_offset"],
            dynamic_shapes={"images": {0: torch.export.Dim("n")}},
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    if program is None:
        raise ExportRefused("torch made no ONNX program")
    optimizer.inline(program.model)
    # Without casts: what is kept in half precision would be kept in single.
    optimizer.fold_constants(
        program.model, should_fold=lambda node: False if node.op_type == "Cast" else None
    )
    optimizer.remove_unused_nodes(program.model)
    model: onnx.ModelProto = program.model_proto
    return model


def compare(encoder: Encoder, served: Served, pixels: NDArray[np.uint8]) -> float:
    """Lowest cosine between the file's and the network's vectors, over both outputs."""
    got = encoder.encode(pixels)
    with torch.no_grad():
        expected = served(torch.from_numpy(pixels))
    cosines = [
        (got.embedding * expected[0].numpy()).sum(1),
        (got.descriptor * expected[1].numpy()).sum(1),
    ]
    return float(np.min(cosines))


def calibrate(encoding: Encoding) -> Calibration:
    """The false match rates of copy scores, on pairs of different images.

    Images query all of them; a pair whose vectors are all but equal is taken for the same picture
    and left out. Rates go down by half decades as far as the pairs can tell.

    Raises:
        DataError: too few of them are different to tell any rate.
    """
    queries = min(CALIBRATION_QUERIES, len(encoding))
    scores = []
    for row in range(0, queries, 256):
        rows = slice(row, min(row + 256, queries))
        cosine = encoding.descriptor[rows] @ encoding.descriptor.T
        score = cosine - encoding.descriptor_offset[rows, None]
        scores.append(score[cosine < 0.9999])
    ordered = np.sort(np.concatenate(scores))
    pairs = len(ordered)
    rates, thresholds = [1.0], [float(each) for each in ordered[:1]]
    decades = math.log10(max(pairs, 1) / LEAST_FALSE_MATCHES)
    for half in range(1, int(2 * decades) + 1):
        # Rounded down, so that a threshold for 0.001 has a rate of at most 0.001.
        threshold = float(ordered[-int(pairs * 10 ** (-half / 2))])
        rate = (pairs - int(np.searchsorted(ordered, threshold, "left"))) / pairs
        if rate < rates[-1]:
            rates.append(rate)
            thresholds.append(threshold)
    if len(rates) < 2:
        raise DataError(
            f"{len(encoding):,} training images have {pairs:,} pairs of different ones to measure "
            "scores with, whose scores are all alike; expected more different pictures"
        )
    return Calibration(pairs=pairs, false_match_rates=tuple(rates), thresholds=tuple(thresholds))


def _write(model: onnx.ModelProto, metadata: Metadata, path: Path) -> None:
    """Put the metadata in place of any other, and save."""
    del model.metadata_props[:]
    for key, value in metadata.to_properties().items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)


def _sample(images: Images, size: int, seed: int) -> NDArray[np.uint8]:
    """Training images at the encoder's size, in random but repeatable order, uint8 (N, S, S, 3)."""
    wanted = BACKGROUND_IMAGES + CALIBRATION_IMAGES
    rows = np.random.default_rng(seed).permutation(len(images))[:wanted]
    fit = Fit(size)
    pixels = np.empty((len(rows), size, size, 3), np.uint8)
    for place, row in enumerate(rows):
        pixels[place] = fit_pixels(images.pixels[row], fit)
    return pixels


def _awkward(size: int, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images on which an export goes wrong first, and a few real ones; uint8 (N, S, S, 3)."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    board = (np.indices((size, size)).sum(0) % 2 * 255).astype(np.uint8)
    dot = np.zeros((size, size), np.uint8)
    dot[size // 2, size // 2] = 255
    greys = [np.full((size, size), value, np.uint8) for value in (0, 1, 127, 254, 255)]
    planes = [*greys, np.tile(ramp, (size, 1)), np.tile(ramp[:, None], (1, size)), board, dot]
    noise = random.integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    red = np.zeros((1, size, size, 3), np.uint8)
    red[..., 0] = 255
    plain = np.repeat(np.stack(planes)[..., None], 3, axis=3)
    return np.concatenate([plain, noise, red, pixels[:48]])
