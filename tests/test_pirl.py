"""PIRL against the equations of its paper, its memory, and the patches of a jigsaw."""

from __future__ import annotations

import pytest
import torch
from small_methods import SMALL
from torch import Tensor
from torch.nn.functional import normalize

from trainer.backbones import create_backbone
from trainer.objectives.objective import Seen, unit
from trainer.objectives.pirl import PIRL, noise_contrast
from trainer.views import PATCHES, ViewSettings, make_jigsaws

IMAGES = 12


def rows(count: int, seed: int) -> Tensor:
    z = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)).double()
    return unit(z)


def equation_4(z: Tensor, own: Tensor, negatives: list[Tensor], temperature: float) -> Tensor:
    """Misra and van der Maaten 2020, of one image; shares as in equation 3."""
    powers = [torch.exp(z @ each / temperature) for each in (own, *negatives)]
    shares = [power / sum(powers) for power in powers]
    return -torch.log(shares[0]) - sum(torch.log(1 - share) for share in shares[1:])


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_value_and_gradients_are_equation_4(temperature: float) -> None:
    """The image itself, where it was drawn as a negative, takes no part."""
    z, own, negatives = rows(3, 0).requires_grad_(), rows(3, 1), rows(5, 2)
    hidden = torch.zeros(3, 5, dtype=torch.bool)
    hidden[1, 2] = True
    expected = torch.stack([
        equation_4(
            z[n], own[n], [negatives[q] for q in range(5) if not hidden[n, q]], temperature
        )
        for n in range(3)
    ]).mean()  # fmt: skip
    got = noise_contrast(z, own, negatives, hidden, temperature)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    (wanted,), (gradient,) = torch.autograd.grad(expected, z), torch.autograd.grad(got, z)
    torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9)


def small(**changes: float) -> PIRL:
    torch.manual_seed(0)
    objective = PIRL(create_backbone("resnet18", 32, 0.125), **SMALL["pirl"] | changes).double()
    objective.prepare(IMAGES, 0)
    return objective


def seen(objective: PIRL, images: list[int]) -> Seen:
    generator = torch.Generator().manual_seed(3)
    width, n = objective.patch.in_features, len(images)
    h = torch.randn(2 * n, width, generator=generator).double()
    patches = torch.randn(PATCHES * n, width, generator=generator).double()
    return Seen(h, h, small_LD=patches, rows_N=torch.tensor(images))


def test_loss_is_equation_5_and_the_memory_a_moving_average() -> None:
    """All images are negatives where there are fewer than are asked for."""
    objective = small(jigsaw_weight=0.25, momentum=0.6)
    images = [3, 7, 0, 9]
    shown, before = seen(objective, images), objective.memory_IK.clone()
    loss = objective(shown)
    assert shown.small_LD is not None
    first, second = unit(objective.projector(shown.h_MD)).chunk(2)
    patches = shown.small_LD.view(PATCHES, 4, -1)
    terms = []
    for n, image in enumerate(images):
        others = [before[i] for i in range(IMAGES) if i != image]
        joined = torch.cat([objective.patch(patches[p, n]) for p in range(PATCHES)])
        jigsaw = normalize(objective.jigsaw(joined), dim=0)
        of_jigsaw, of_first, of_second = (
            equation_4(z, before[image], others, objective.temperature)
            for z in (jigsaw, first[n], second[n])
        )
        terms.append(0.25 * of_jigsaw + 0.75 * 0.5 * (of_first + of_second))
        seen_now = 0.5 * (first[n] + second[n])
        expected = normalize(0.6 * before[image] + 0.4 * seen_now, dim=0)
        torch.testing.assert_close(objective.memory_IK[image], expected.detach())
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    untouched = [i for i in range(IMAGES) if i not in images]
    assert torch.equal(objective.memory_IK[untouched], before[untouched])


def test_negatives_are_others_each_step_and_a_loaded_memory_brings_its_length() -> None:
    objective = small(negatives=5)
    first = objective._drawn()
    objective(seen(objective, [0, 1]))
    assert objective._drawn().tolist() != first.tolist()
    loaded = PIRL(create_backbone("resnet18", 32, 0.125), **SMALL["pirl"]).double()
    loaded.load_state_dict(objective.state_dict())
    assert torch.equal(loaded.memory_IK, objective.memory_IK)


def test_patches_are_of_the_nine_cells_in_an_order_of_their_own() -> None:
    """Of pictures whose cells are told by their grey; nothing but the cut is random."""
    cells = torch.arange(9).view(3, 3).repeat_interleave(20, 0).repeat_interleave(20, 1)
    pictures = (25 * cells).to(torch.uint8).expand(6, 3, 60, 60)
    settings = ViewSettings(
        15, crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0.0,
        jitter_probability=0.0, grey_probability=0.0, blur_probability=0.0,
    )  # fmt: skip
    patches = make_jigsaws(pictures, settings, torch.Generator().manual_seed(0))
    assert patches.shape == (9 * 6, 3, 15, 15)
    found = (patches.view(9, 6, 3 * 15 * 15) * 255 / 25).round()
    assert bool((found == found[..., :1]).all())  # each of one cell alone
    orders = found[..., 0].T.int().tolist()
    assert all(sorted(order) == list(range(9)) for order in orders)
    assert len({tuple(order) for order in orders}) == 6
