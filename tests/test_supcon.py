"""SupCon against equation 2 of its paper."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as example_settings
from hypothesis import strategies as st
from pictures import picture
from PIL import Image
from torch import Tensor

from index.errors import DataError
from trainer.network import Network, Views
from trainer.objectives.simclr import nt_xent
from trainer.objectives.supcon import supervised_contrast
from trainer.pretrain import pretrain
from trainer.settings import PretrainSettings


def equation_2(z: Tensor, labels: list[int], temperature: float) -> Tensor:
    """Khosla et al. 2020, L_out, anchor by anchor, as a mean over anchors."""
    unit = [row / torch.linalg.norm(row) for row in z]
    losses = []
    for i in range(len(unit)):
        others = [a for a in range(len(unit)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        denominator = sum(torch.exp(unit[i] @ unit[a] / temperature) for a in others)
        terms = [
            torch.log(torch.exp(unit[i] @ unit[p] / temperature) / denominator) for p in positives
        ]
        losses.append(-torch.stack(terms).sum() / len(positives))
    return torch.stack(losses).mean()


@example_settings(max_examples=25, deadline=None)
@given(
    classes=st.lists(st.integers(0, 3), min_size=2, max_size=7),
    width=st.integers(2, 6),
    chunk=st.integers(1, 100),
)
def test_value_and_gradients_are_equation_2(classes: list[int], width: int, chunk: int) -> None:
    """Two views of each image, in chunks of any size."""
    torch.manual_seed(17 * len(classes) + width)
    z = torch.randn(2 * len(classes), width, dtype=torch.float64, requires_grad=True)
    labels = classes + classes
    expected = equation_2(z, labels, 0.2)
    got = supervised_contrast(z, torch.tensor(labels), 0.2, chunk)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    (wanted,), (gradient,) = torch.autograd.grad(expected, z), torch.autograd.grad(got, z)
    torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-11)


def test_a_class_an_image_makes_it_simclr() -> None:
    torch.manual_seed(0)
    z = torch.randn(10, 4).double()
    got = supervised_contrast(z, torch.arange(5).repeat(2), 0.3)
    torch.testing.assert_close(got, nt_xent(z[:5], z[5:], 0.3))


def run_on(folder: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        path = folder / "pictures" / f"{name}{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed).save(path)
    settings = PretrainSettings(
        data=str(folder / "pictures"), out=str(folder / "run"), method="supcon", batch_size=2,
        image_size=16, width=0.125, epochs=1, device="cpu", option={"hidden_width": 8},
    )  # fmt: skip
    pretrain(settings)


def test_each_image_comes_with_its_own_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of one shade each, which views without jitter keep, in classes by shade."""
    for number in range(12):
        path = tmp_path / "pictures" / f"class{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 20), 20 + 80 * (number % 3) + number // 3).save(path)
    seen: list[tuple[Tensor, Tensor]] = []
    real = Network.forward

    def forward(network: Network, views: Views) -> dict[str, Tensor]:
        assert views.labels_N is not None
        seen.append((views.pixels_M3SS.mean((1, 2, 3)) * 255, views.labels_N))
        return real(network, views)

    monkeypatch.setattr(Network, "forward", forward)
    settings = PretrainSettings(
        data=str(tmp_path / "pictures"), out=str(tmp_path / "run"), method="supcon", batch_size=4,
        image_size=16, width=0.125, epochs=2, device="cpu", option={"hidden_width": 8},
        jitter_strength=0.0,
    )  # fmt: skip
    pretrain(replace(settings, max_minutes=1e-6))
    pretrain(settings)
    assert len(seen) == 6
    for shades, labels in seen:
        assert ((shades - 10) / 80).floor().long().tolist() == labels.repeat(2).tolist()


def test_class_of_one_image_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 classes with one image alone.*first are lynx, owl"):
        run_on(tmp_path, ["cat/", "cat/", "owl/", "dog/", "dog/", "lynx/"])
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_images_without_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="images without labels, which supcon learns from"):
        run_on(tmp_path, ["cat", "dog", "owl", "lynx"])
