"""What is shown with pictures: the map of the sample, and nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainer.report.layout import layout, on_a_square, turned_onto
from trainer.report.measures import OUTPUTS, Seen
from trainer.report.sample import Sample
from trainer.report.sheet import Sheet
from trainer.report.words import name, section, text

MOST_SHOWN = 1000
"""Pictures of the sample that the page holds."""
QUERIES, NEIGHBOURS = 12, 6
TILE = 0.052
"""Side of a picture on the map, of the map's; the others are dots."""
MOST_IN_LEGEND = 24


def maps(seen: Sequence[Seen], sample: Sample, sheet: Sheet, seed: int) -> str:
    """A map for each run, in which the same picture can be found in both."""
    colours = _colours(sample, sheet)
    style = "map" if sample.labels is None else "map classes"
    drawn: list[str] = []
    laid_out: list[NDArray[np.float64]] = []
    for each in seen:
        places = layout(each.measured.vectors["embedding"][:MOST_SHOWN].numpy(), seed)
        laid_out.append(turned_onto(places, laid_out[0]) if laid_out else places)
        points = _points(on_a_square(laid_out[-1]), sheet, colours)
        title = f"<h3>{each.title}</h3>" if each.title else ""
        drawn.append(
            f'<div>{title}<div class="{style}" tabindex="0" role="group" '
            f'aria-label="Map of the pictures by {text(each.name)}; arrow keys go through them">'
            f"{points}</div></div>\n"
        )
    names = "".join(
        f"<li>{name(each)}{label}</li>"
        for each, label in zip(sample.names[:MOST_SHOWN], _labels(sample), strict=False)
    )
    note = (
        "Pictures with like embeddings stand together (t-SNE): who stands beside whom has a "
        "meaning, distances across the map and the size of a cluster have none. Point or tap to "
        "see a picture."
    )
    if len(drawn) > 1:
        note += " The second map is turned to lie on the first, and a picture is marked in both."
    body = f'<div class="maps">\n{"".join(drawn)}</div>\n{_legend(sample)}'
    size = f'data-columns="{sheet.columns}" data-rows="{sheet.rows}"'
    body += f'<ol id="names" {size} hidden>{names}</ol>\n'
    return section("map", "Map", note, body)


def _points(square_N2: NDArray[np.float64], sheet: Sheet, colours: list[str]) -> str:
    """Dots, and over them pictures wherever one fits that covers no other."""
    inside = TILE / 2 + (1 - TILE) * square_N2
    tiled: list[int] = []
    for row, place in enumerate(inside):
        if not tiled or np.abs(inside[tiled] - place).max(1).min() >= TILE:
            tiled.append(row)
    pictures, dots = [], []
    is_tile = set(tiled)
    for row, (x, y) in enumerate(inside):
        where = f"left:{100 * x:.2f}%;top:{100 * y:.2f}%"
        if row in is_tile:
            look = f"{where};{sheet.place(row)};color:{colours[row]}"
            pictures.append(f'<i class="{sheet.style}" data-n="{row}" style="{look}"></i>')
        else:
            dots.append(f'<i data-n="{row}" style="{where};background:{colours[row]}"></i>')
    return "".join(dots + pictures)


def _colours(sample: Sample, sheet: Sheet) -> list[str]:
    """Of each picture: its class's, or without classes its own mean."""
    if sample.labels is None:
        return sheet.colours
    by_class = _by_class(sample.labels)
    return [by_class[str(label)] for label in sample.labels[:MOST_SHOWN]]


def _by_class(labels: NDArray[np.str_]) -> dict[str, str]:
    """Colours all around the circle of hues, light and dark in turn."""
    names = [str(each) for each in np.unique(labels)]
    return {
        each: f"hsl({360 * row / len(names):.0f} 65% {(42, 62)[row % 2]}%)"
        for row, each in enumerate(names)
    }


def _legend(sample: Sample) -> str:
    by_class = {} if sample.labels is None else _by_class(sample.labels)
    if not 0 < len(by_class) <= MOST_IN_LEGEND:
        return ""
    entries = "".join(
        f'<li><i style="background:{colour}"></i>{name(label)}</li>'
        for label, colour in by_class.items()
    )
    return f'<ul class="legend">{entries}</ul>\n'


def _labels(sample: Sample) -> list[str]:
    """What stands behind each picture's name."""
    if sample.labels is None:
        return [""] * len(sample)
    return [f" <b>{name(str(label))}</b>" for label in sample.labels]


def neighbours(seen: Sequence[Seen], sample: Sample, sheet: Sheet) -> str:
    """The nearest of some pictures by each output of each run."""
    parts = []
    for each in seen:
        for output in OUTPUTS:
            grid = _grid(each.measured.vectors[output][:MOST_SHOWN].numpy(), sample, sheet)
            parts.append(f"<div><h3>by {output} {each.title}</h3>{grid}</div>\n")
    note = (
        "The first of each row is the query; under its nearest stands the cosine. The embedding "
        "is for likeness, the descriptor for copies."
    )
    if sample.labels is not None:
        note += " A line under a picture says that it is of the query's class."
    return section(
        "neighbours", "Nearest neighbours", note, f'<div class="grids">{"".join(parts)}</div>\n'
    )


def _grid(x_ND: NDArray[np.float32], sample: Sample, sheet: Sheet) -> str:
    rows = []
    for query in range(min(QUERIES, len(x_ND))):
        cosines = x_ND @ x_ND[query]
        cosines[query] = -np.inf
        nearest = np.argsort(-cosines, kind="stable")[: min(NEIGHBOURS, len(x_ND) - 1)]
        cells = [_tile(query, sample, sheet, "", "query")]
        for row in nearest:
            labels = sample.labels
            same = labels is not None and labels[row] == labels[query]
            caption = f"{cosines[row]:.2f}"
            cells.append(_tile(int(row), sample, sheet, caption, "same" if same else ""))
        rows.append(f"<li>{''.join(cells)}</li>")
    return f'<ol class="rows">{"".join(rows)}</ol>'


def _tile(row: int, sample: Sample, sheet: Sheet, caption: str, style: str) -> str:
    label = text(sample.names[row])
    says = f'role="img" aria-label="{label}" title="{label}"'
    picture = f'<i class="{sheet.style}" {says} style="{sheet.place(row)}"></i>'
    return f'<span class="{style}">{picture}{caption}</span>'
