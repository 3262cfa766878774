"""Every way in which training changes pictures, each alone, to see what a network overlooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from torch import Tensor

from trainer.edits import EditSettings, make_edits
from trainer.views import ViewSettings, make_views

VIEWS, EDITS = "views, as methods learn from", "edits, as people make them"


@dataclass(frozen=True)
class Transformation:
    """A random change of pictures.

    ``show`` takes uint8 (N, 3, H, W) and a ``generator``, and gives float32 (N, 3, S, S) in 0 to 1.
    """

    kind: str
    name: str
    show: Callable[..., Tensor]


def transformations(size: int) -> Iterator[Transformation]:
    """Those of ``trainer.views`` and of ``trainer.edits``, and last of each kind all together.

    Args:
        size: side of what they make in pixels.
    """
    views, off = ViewSettings.published(size), _off(ViewSettings)
    whole: dict[str, Any] = {"crop_area": (1.0, 1.0), "crop_ratio": (1.0, 1.0)}
    chosen = {"crop": replace(views, **off)}
    chosen |= {_words(name): replace(views, **off | whole | {name: 1.0}) for name in off}
    for name, settings in (chosen | {"all of SimCLR's": views}).items():
        yield Transformation(VIEWS, name, partial(make_views, settings=settings))
    edits, off = EditSettings(size), _off(EditSettings)
    alone = {_words(name): replace(edits, **off | {name: 1.0}) for name in off}
    for name, edit in (alone | {"all of SSCD's": edits}).items():
        yield Transformation(EDITS, name, partial(make_edits, settings=edit))


def _off(kind: type[ViewSettings | EditSettings]) -> dict[str, Any]:
    """Every probability of the settings, at nought."""
    names = [each.name for each in fields(kind)]
    return {name: 0.0 for name in names if name.endswith("_probability")}


def _words(name: str) -> str:
    return name.removesuffix("_probability").replace("_", " ")
