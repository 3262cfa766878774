"""Augmentations: equal to torchvision's at equal parameters, and drawn per sample."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional

from trainer import colour, resampling, views
from trainer.draw import Draw
from trainer.views import ViewSettings, make_views


@pytest.fixture
def x() -> Tensor:
    """Six float pictures (6, 3, 40, 40): noise, smooth, grey, black, white, primary colours."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(3, 40, 40, generator=generator)
    smooth = functional.gaussian_blur(noise, [9, 9], [3.0, 3.0])
    ramp = torch.linspace(0, 1, 40).expand(3, 40, 40)
    primary = torch.eye(3)[torch.arange(40) % 3].T[:, None].expand(3, 40, 40)
    return torch.stack(
        [noise, smooth, ramp, torch.zeros_like(noise), torch.ones_like(noise), primary]
    )


@pytest.mark.parametrize(
    ("kind", "theirs", "low", "high"),
    [
        (colour.BRIGHTNESS, functional.adjust_brightness, 0.2, 1.8),
        (colour.CONTRAST, functional.adjust_contrast, 0.2, 1.8),
        (colour.SATURATION, functional.adjust_saturation, 0.2, 1.8),
        (colour.HUE, functional.adjust_hue, -0.2, 0.2),
    ],
)
def test_colour_operations_are_torchvisions(
    kind: int, theirs: Callable[[Tensor, float], Tensor], low: float, high: float, x: Tensor
) -> None:
    """Each alone: the others have factors that change nothing."""
    factors = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).repeat(len(x), 1)
    factors[:, kind] = torch.linspace(low, high, len(x))
    orders = torch.arange(4).expand(len(x), 4)
    got = colour.jitter(x, factors, orders, torch.ones(len(x), dtype=torch.bool))
    for row, factor in enumerate(factors[:, kind]):
        torch.testing.assert_close(got[row], theirs(x[row], float(factor)), atol=2e-5, rtol=0)


def test_grey_is_torchvisions(x: Tensor) -> None:
    expected = functional.rgb_to_grayscale(x, num_output_channels=3)
    torch.testing.assert_close(colour.grey(x), expected, atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.integers(8, 64),
    st.booleans(),
)
def test_crop_is_torchvisions_antialiased_resized_crop(
    sides: tuple[int, int], place: tuple[float, float], size: int, mirrored: bool
) -> None:
    """Any box, reduced or enlarged, mirrored or not."""
    picture = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(1))
    top, left = (round(p * (40 - side)) for p, side in zip(place, sides, strict=True))
    box = torch.tensor([[top, left, *sides]], dtype=torch.float32)
    got = resampling.crop_resize_flip(picture, box, torch.tensor([mirrored]), size)
    expected = functional.resized_crop(picture, top, left, *sides, [size, size], antialias=True)
    expected = functional.horizontal_flip(expected) if mirrored else expected
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def test_blur_is_torchvisions_and_leaves_out_who_is_not_drawn(x: Tensor) -> None:
    sigmas = torch.tensor([0.1, 0.5, 1.0, 1.5, 2.0, 2.0])
    got = views.blur(x, sigmas, torch.tensor([True] * 5 + [False]))
    side = 2 * (40 // 20) + 1
    for row in range(5):
        sigma = float(sigmas[row])
        expected = functional.gaussian_blur(x[row], [side, side], [sigma, sigma])
        torch.testing.assert_close(got[row], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(got[5], x[5], atol=1e-6, rtol=0)


def test_jitter_applies_each_samples_operations_in_its_own_order(x: Tensor) -> None:
    factors = torch.tensor([[0.6, 1.5, 0.3, 0.1]]).expand(len(x), 4)
    orders = torch.stack(
        [torch.randperm(4, generator=torch.Generator().manual_seed(i)) for i in range(6)]
    )
    applied = torch.tensor([True, True, True, True, True, False])
    got = colour.jitter(x, factors, orders, applied)
    operations = [
        functional.adjust_brightness,
        functional.adjust_contrast,
        functional.adjust_saturation,
        functional.adjust_hue,
    ]
    for row in range(5):
        expected = x[row]
        for operation in orders[row]:
            expected = operations[operation](expected, float(factors[row, operation]))
        torch.testing.assert_close(got[row], expected, atol=5e-5, rtol=0)
    assert torch.equal(got[5], x[5])


def test_every_sample_of_a_batch_gets_parameters_of_its_own() -> None:
    """The same picture 64 times gives 64 different views."""
    picture = torch.randint(0, 256, (1, 3, 48, 48), dtype=torch.uint8)
    got = make_views(
        picture.expand(64, -1, -1, -1), ViewSettings.published(48), torch.Generator().manual_seed(0)
    )
    assert len({view.numpy().tobytes() for view in got}) == 64


def test_views_are_float_pictures_of_the_asked_size_and_repeat_with_the_seed() -> None:
    pictures = torch.randint(0, 256, (5, 3, 30, 50), dtype=torch.uint8)
    first, again = (
        make_views(pictures, ViewSettings.published(32), torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert first.shape == (5, 3, 32, 32)
    assert first.dtype == torch.float32
    assert 0 <= float(first.min()) <= float(first.max()) <= 1
    assert torch.equal(first, again)


def test_without_augmentation_a_view_is_the_picture() -> None:
    picture = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    plain = ViewSettings(
        32,
        crop_area=(1.0, 1.0),
        crop_ratio=(1.0, 1.0),
        flip_probability=0,
        jitter_probability=0,
        grey_probability=0,
        blur_probability=0,
    )
    got = make_views(picture, plain, torch.Generator())
    torch.testing.assert_close(got, picture / 255, atol=1e-6, rtol=0)


def test_crop_boxes_keep_the_asked_area_and_ratio() -> None:
    draw = Draw(torch.rand(4000, 40, generator=torch.Generator().manual_seed(0)))
    top, left, height, width = draw.crop_boxes(64, 64, (0.08, 1.0), (3 / 4, 4 / 3)).unbind(1)
    assert bool((top >= 0).all() and (left >= 0).all())
    assert bool((top + height <= 64).all() and (left + width <= 64).all())
    area = height * width / 64**2
    assert float(area.min()) > 0.07
    # Uniform on 0.08 to 1 has mean 0.54; boxes that do not fit are drawn again, which favours
    # smaller ones a little.
    assert 0.45 < float(area.mean()) < 0.56
    assert float((width / height).min()) > 0.70
    assert float((width / height).max()) < 1.43


def test_probabilities_hold_per_sample() -> None:
    draw = Draw(torch.rand(20_000, 8, generator=torch.Generator().manual_seed(0)))
    assert float(draw.chance(0.2).float().mean()) == pytest.approx(0.2, abs=0.02)
    orders = draw.permutations(4)
    assert bool((orders.sort(1).values == torch.arange(4)).all())
    assert len({tuple(order) for order in orders.tolist()}) == 24


def test_views_are_one_graph_without_a_wait_for_the_device() -> None:
    """A value that the host had to read would break the graph."""
    images = torch.randint(0, 256, (6, 3, 96, 96), dtype=torch.uint8)
    unit = torch.rand(6, views.UNIFORMS)
    recipe = ViewSettings.published(48)
    compiled = torch.compile(views.show_views, fullgraph=True, dynamic=False, backend="eager")
    got, expected = (show(images, unit, recipe) for show in (compiled, views.show_views))
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_views_do_not_depend_on_the_part_of_the_batch_that_they_are_made_in() -> None:
    images = torch.randint(0, 256, (130, 3, 256, 256), dtype=torch.uint8)
    recipe = ViewSettings.published(64)
    got = make_views(images, recipe, torch.Generator().manual_seed(0))
    unit = torch.rand(130, views.UNIFORMS, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(got, views.show_views(images, unit, recipe), atol=1e-5, rtol=0)


def test_solarising_is_torchvisions_for_who_is_drawn(x: Tensor) -> None:
    images = (x[:1] * 255).round().byte().repeat(200, 1, 1, 1)
    plain = ViewSettings(
        40, crop_area=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_probability=0,
        jitter_probability=0, grey_probability=0, blur_probability=0, solarize_probability=0.3,
    )  # fmt: skip
    shown = make_views(images, plain, torch.Generator().manual_seed(0))
    kept = images.float() / 255
    drawn = (shown - kept).abs().amax((1, 2, 3)) > 0.01
    assert 0.2 < float(drawn.float().mean()) < 0.4
    torch.testing.assert_close(shown[drawn], functional.solarize(kept[drawn], 0.5))
    torch.testing.assert_close(shown[~drawn], kept[~drawn])


def test_uniforms_are_enough_and_no_more() -> None:
    draw = Draw(torch.rand(2, 3))
    draw.unit(3)
    with pytest.raises(ValueError, match="expected 4"):
        draw.unit(1)
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    few = torch.rand(2, views.UNIFORMS - 1)
    with pytest.raises(ValueError, match=f"expected {views.UNIFORMS}"):
        views.show_views(images, few, ViewSettings.published(64))


def test_small_images_take_the_papers_cifar_recipe() -> None:
    assert ViewSettings.published(32).blur_probability == 0
    assert ViewSettings.published(32).jitter_strength == 0.5
    assert ViewSettings.published(64).blur_probability == 0.5
    assert ViewSettings.published(64).jitter_strength == 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 4},
        {"size": 32, "crop_area": (0.0, 1.0)},
        {"size": 32, "crop_area": (0.5, 0.2)},
        {"size": 32, "flip_probability": 1.5},
        {"size": 32, "jitter_strength": 2.0},
    ],
)
def test_settings_out_of_range_are_refused_with_what_was_found(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        ViewSettings(**wrong)  # type: ignore[arg-type]
