"""Strong edits: each does what it is named for, per sample, and leaves enough of the picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from trainer import edits
from trainer.edits import EditSettings, make_edits, mix
from trainer.jpeg import jpeg
from trainer.resampling import place, quarter_turns, rotate


def photograph(size: int = 64) -> Tensor:
    """One of the demo's photographs, uint8 (3, size, size)."""
    with Image.open("demo/photographs/beach0.jpg") as image:
        square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)


def only(kind: str, **chosen: object) -> EditSettings:
    """Settings under which nothing happens but one kind of edit, always."""
    names = [
        "crop", "flip", "rotation", "quarter_turn", "jitter", "grey", "padding", "overlay",
        "banner", "text", "blur", "shrink", "noise", "jpeg",
    ]  # fmt: skip
    probabilities = {f"{name}_probability": float(name == kind) for name in names}
    return EditSettings(64, **probabilities | chosen)  # type: ignore[arg-type]


def edit(settings: EditSettings, n: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The picture as float, and its edits."""
    picture = photograph(settings.size)
    batch = picture.expand(n, -1, -1, -1)
    return picture / 255, make_edits(batch, settings, torch.Generator().manual_seed(seed))


def test_nothing_happens_where_nothing_is_drawn() -> None:
    picture, got = edit(only("none"))
    torch.testing.assert_close(got, picture.expand_as(got), atol=1e-6, rtol=0)


def test_edits_are_finite_pictures_that_differ_by_sample_and_repeat_with_the_seed() -> None:
    settings = EditSettings(48)
    for seed in range(40):
        _, got = edit(settings, 64, seed)
        assert got.shape == (64, 3, 48, 48)
        assert bool(got.isfinite().all())
        assert 0 <= float(got.min()) <= float(got.max()) <= 1
    assert len({view.numpy().tobytes() for view in got}) == 64
    assert torch.equal(got, edit(settings, 64, 39)[1])


@pytest.mark.parametrize("quality", [10, 30, 75, 95])
@pytest.mark.parametrize("size", [64, 52])
def test_jpeg_is_pillows_but_for_rounding(quality: int, size: int) -> None:
    picture = photograph(size)
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()
    got = jpeg(picture[None] / 255, torch.tensor([float(quality)]))[0] * 255
    assert float((got - expected).abs().mean()) < 0.5
    # A coefficient that lies between two steps may fall to the other side, for a whole block.
    assert float(((got - expected).abs() <= 2).float().mean()) > 0.95
    lost = float((picture - expected).abs().mean())
    assert lost > 1  # there was something to get right


def test_quarter_turns_are_exact() -> None:
    x = torch.rand(4, 3, 20, 20)
    got = quarter_turns(x, torch.arange(4))
    for turns in range(4):
        assert torch.equal(got[turns], x[turns].rot90(turns, (1, 2)))
    picture, edited = edit(only("quarter_turn"))
    turned = [picture.rot90(turns, (1, 2)) for turns in (1, 2, 3)]
    assert all(any(torch.allclose(view, each, atol=1e-5) for each in turned) for view in edited)


def test_rotation_by_a_right_angle_is_a_quarter_turn() -> None:
    x = torch.rand(1, 3, 20, 20)
    angle, one = torch.tensor([torch.pi / 2]), torch.ones(1)
    got = rotate(x, angle, one, torch.zeros(1, 3), torch.tensor([True]))
    torch.testing.assert_close(got, x.rot90(1, (2, 3)), atol=1e-4, rtol=0)


def test_banner_covers_its_share_of_one_side_and_nothing_else() -> None:
    picture, got = edit(only("banner", banner_share=(0.25, 0.25)), 32)
    for view in got:
        changed = (view - picture).abs().amax(0) > 1e-6
        rows, columns = changed.any(1).sum(), changed.any(0).sum()
        assert min(int(rows), int(columns)) <= 16
        assert int(changed.sum()) <= 16 * 64
        colours = view[:, changed]
        assert float((colours - colours[:, :1]).abs().max()) < 1e-6


def test_overlay_text_and_padding_leave_the_rest_of_the_picture_in_sight() -> None:
    for kind, least, most in (("overlay", 0.0, 0.21), ("text", 0.0, 0.3), ("padding", 0.1, 1.0)):
        picture, got = edit(only(kind), 64)
        changed = ((got - picture).abs().amax(1) > 0.02).float().mean((1, 2))
        assert float(changed.mean()) > least
        assert float(changed.max()) <= most, kind
        assert float((changed > 0).float().mean()) > 0.9


def test_crop_keeps_at_least_the_asked_area() -> None:
    """A picture of its own coordinates tells what was cut out."""
    ramp = torch.arange(64, dtype=torch.uint8) * 4
    x = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)])
    batch = x.byte().expand(64, -1, -1, -1)
    got = make_edits(batch, only("crop"), torch.Generator().manual_seed(0)) * 255 / 4
    spans = [
        (view.amax((0, 1)) - view.amin((0, 1)) + 1) / 64 for view in (got[:, 0], got[:, 1])
    ]  # rough check of the whole batch first
    assert all(float(span.max()) <= 1.02 for span in spans)
    width = (got[:, 0].amax((1, 2)) - got[:, 0].amin((1, 2)) + 1) / 64
    height = (got[:, 1].amax((1, 2)) - got[:, 1].amin((1, 2)) + 1) / 64
    assert float((width * height).min()) > edits.LEAST_VISIBLE - 0.04
    assert float((width * height).std()) > 0.1


@pytest.mark.parametrize("kind", ["blur", "shrink"])
def test_blur_and_shrinking_take_detail_away(kind: str) -> None:
    picture, got = edit(only(kind))
    detail = (picture[:, :, 1:] - picture[:, :, :-1]).abs().mean()
    left = (got[..., 1:] - got[..., :-1]).abs().mean((1, 2, 3))
    assert bool((left < detail).all())


def test_noise_has_the_deviation_that_was_drawn() -> None:
    grey = torch.full((64, 3, 64, 64), 128, dtype=torch.uint8)
    settings = only("noise", noise_deviation=(0.05, 0.05))
    got = make_edits(grey, settings, torch.Generator().manual_seed(0))
    deviations = (got - 128 / 255).std((1, 2, 3))
    torch.testing.assert_close(deviations, torch.full((64,), 0.05), atol=0.003, rtol=0)


def test_grey_has_no_colour() -> None:
    _, got = edit(only("grey"))
    torch.testing.assert_close(got[:, 0], got[:, 2], atol=1e-6, rtol=0)


def test_placed_picture_fills_its_box_and_nothing_outside() -> None:
    got = place(torch.ones(1, 3, 10, 10), torch.tensor([[4.0, 8.0, 16.0, 12.0]]), 32)
    expected = torch.zeros(1, 3, 32, 32)
    expected[:, :, 4:20, 8:20] = 1
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_mixed_views_show_both_sources_and_name_the_partner() -> None:
    """Plain pictures, each of its own brightness, tell what a view is made of."""
    n = 64
    brightness = torch.arange(n) / n
    views = brightness[:, None, None, None].expand(n, 3, 32, 32)
    got, partner = mix(views, torch.Generator().manual_seed(0), 1.0)
    assert bool((partner != torch.arange(n)).all())
    assert len(set(partner.tolist())) == n
    for row in range(n):
        own, other = float(brightness[row]), float(brightness[partner[row]])
        share = (float(got[row].mean()) - own) / (other - own)
        assert 0.25 < share < 0.75
    _, alone = mix(views, torch.Generator().manual_seed(0), 0.0)
    assert torch.equal(alone, torch.arange(n))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 4},
        {"blur_probability": 1.5},
        {"crop_area": (0.1, 1.0)},
        {"jpeg_quality": (80.0, 20.0)},
        {"overlay_side": (0.0, 0.5)},
        {"jitter_strength": 3.0},
    ],
)
def test_settings_out_of_range_are_refused_with_what_was_found(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        EditSettings(**{"size": 32} | wrong)  # type: ignore[arg-type]
