"""Strong edits: each does what it is named for, per sample, and leaves enough of the picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from trainer import edits
from trainer.draw import Draw, room
from trainer.edits import EditSettings, make_edits, mix
from trainer.jpeg import jpeg
from trainer.resampling import place, quarter_turns, rotate
from trainer.stickers import STRIP_HEIGHT, stickers

PHOTOGRAPHS = Path(__file__).parents[1] / "demo" / "photographs"


def photograph(width: int = 64, height: int | None = None) -> Tensor:
    """One of the demo's photographs, uint8 (3, height, width)."""
    with Image.open(PHOTOGRAPHS / "beach0.jpg") as image:
        small = image.convert("RGB").resize((width, height or width), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


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


@pytest.mark.parametrize("quality", [5, 10, 30, 50, 75, 95, 100])
@pytest.mark.parametrize("sides", [(64, 64), (52, 72), (37, 51)])
def test_jpeg_is_pillows_but_for_rounding(quality: int, sides: tuple[int, int]) -> None:
    """At any quality, and where blocks stick out."""
    picture = photograph(*sides)
    file = io.BytesIO()
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()
    got = jpeg(picture[None] / 255, torch.tensor([float(quality)]))[0] * 255
    assert float((got - expected).abs().mean()) < 0.35
    # A coefficient halfway between two steps may fall to the other side, for a whole block.
    assert float(((got - expected).abs() <= 2).float().mean()) > 0.97
    lost = float((picture - expected).abs().mean())
    assert lost > 0.5  # there was something to get right


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


@pytest.mark.parametrize("degrees", [0.0, 10.0, 45.0, 130.0])
def test_turning_cuts_off_no_more_than_corners_and_nothing_where_zoomed_out(degrees: float) -> None:
    white, angle = torch.ones(1, 3, 128, 128), torch.tensor([degrees]).deg2rad()
    black, plain = torch.zeros(1, 3), torch.tensor([False])
    least = float(rotate(white, angle, torch.ones(1), black, plain).mean())
    assert least > 1 - edits.TURNING_CUTS - 0.01
    full = angle.cos().abs() + angle.sin().abs()
    whole = float(rotate(white, angle, full, black, plain).mean() * full**2)
    assert whole == pytest.approx(1, abs=0.03)
    reflected = rotate(white, angle, full, black, torch.tensor([True]))
    torch.testing.assert_close(reflected, white)


def test_whatever_comes_together_leaves_enough_of_the_picture_in_sight() -> None:
    """Each picture is red or green; what covers it is mostly neither."""
    batch = torch.zeros(128, 3, 64, 64, dtype=torch.uint8)
    batch[::2, 0], batch[1::2, 1] = 255, 255
    greedy = only(
        "none", overlay_probability=1.0, banner_probability=1.0, text_probability=1.0,
        overlay_side=(0.7, 0.9), banner_share=(0.4, 0.5), text_height=(0.3, 0.5),
    )  # fmt: skip
    got = make_edits(batch, greedy, torch.Generator().manual_seed(0))
    own = ((got - batch / 255).abs().amax(1) < 0.01).float().mean((1, 2))
    assert float(own.min()) > edits.LEAST_VISIBLE - 0.03
    assert int((own < 0.4).sum()) > 10  # there was something to hold back

    picture = photograph()
    batch = picture.expand(32, -1, -1, -1)
    least = (edits.LEAST_VISIBLE, edits.LEAST_VISIBLE)
    cropped, covered = (
        make_edits(batch, settings, torch.Generator().manual_seed(0))
        for settings in (
            only("crop", crop_area=least),
            only("crop", crop_area=least, banner_probability=1.0, overlay_probability=1.0),
        )
    )
    assert float(((cropped - covered).abs().amax(1) > 0.02).float().mean((1, 2)).max()) < 0.1


class Numbers(NamedTuple):
    """A batch of numbers to be edited."""

    x_N: Tensor


def add_one_to_two(batch: Numbers, draw: Draw) -> Numbers:
    return Numbers(batch.x_N + 1 + draw.uniform(0, 1))


def test_each_sample_is_edited_with_the_probability_and_the_others_are_left() -> None:
    generator = torch.Generator().manual_seed(0)
    for n, probability in ((1000, 0.1), (1000, 0.9), (3, 0.5), (1, 0.3), (500, 1.0), (64, 0.0)):
        shares = []
        for _ in range(100):
            unit = torch.rand(n, 2, generator=generator)

            before = torch.arange(n) * 10.0
            after = Draw(unit).sometimes(Numbers(before.clone()), probability, add_one_to_two).x_N
            drawn = unit[:, 0] < probability
            changed = after != before
            assert bool((changed <= drawn).all())  # and those alone
            # Each has got its own parameter, though only a part of the batch was edited.
            torch.testing.assert_close(
                (after - before)[changed], 1 + unit[changed, 1], atol=2e-3, rtol=0
            )
            shares.append(float(changed.float().mean()))
        assert np.mean(shares) == pytest.approx(probability, abs=4 * (0.25 / (100 * n)) ** 0.5)
        assert room(n, probability) <= n


def test_stickers_are_drawn() -> None:
    drawn = stickers(torch.device("cpu"))
    assert bool((drawn.shapes[:, :3] <= drawn.shapes[:, 3:] + 1e-6).all())  # times alpha
    assert bool((drawn.shapes[:, 3].mean((1, 2)) > 0.1).all())
    assert bool(((drawn.inks > 0.02) & (drawn.inks < 0.9)).all())
    assert drawn.strips.shape[2] == STRIP_HEIGHT
    assert float(drawn.widths.max()) == drawn.strips.shape[3]


def test_uniforms_are_enough_and_no_more() -> None:
    settings, images = EditSettings(32), photograph().expand(4, -1, -1, -1)
    normal = torch.zeros(room(4, settings.noise_probability), 3, 32, 32)
    few = torch.rand(4, edits.UNIFORMS - 1)
    with pytest.raises(ValueError, match=f"expected {edits.UNIFORMS}"):
        edits.show_edits(images, few, normal, stickers(torch.device("cpu")), settings)


def test_edits_are_one_graph_without_a_wait_for_the_device() -> None:
    """A value that the host had to read would break the graph."""
    settings = EditSettings(32)
    images = photograph(48).expand(6, -1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    random = (
        torch.rand(6, edits.UNIFORMS, generator=generator),
        torch.randn(room(6, settings.noise_probability), 3, 32, 32, generator=generator),
    )
    pasted = stickers(torch.device("cpu"))
    compiled = torch.compile(edits.show_edits, fullgraph=True, dynamic=False, backend="eager")
    got = compiled(images, *random, pasted, settings)
    expected = edits.show_edits(images, *random, pasted, settings)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


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
    plain = got.flatten(1).std(1) < 1e-6
    assert 0.3 < float(plain.float().mean()) < 0.7  # mixup; the others by CutMix
    for row in (~plain).nonzero()[:, 0]:
        shown = torch.unique(got[row])
        expected = brightness[torch.stack([row, partner[row]])].sort().values
        torch.testing.assert_close(shown, expected, atol=1e-6, rtol=0)
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
