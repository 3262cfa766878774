"""What is shown in figures: what a network overlooks, how good its vectors are, how it was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from trainer.evaluate import Scores
from trainer.report.measures import OUTPUTS, Measured
from trainer.report.run import Run
from trainer.report.sheet import Sheet
from trainer.report.words import columns, key, name, percent, section, table, text

EXAMPLES = 3
"""Pictures that each transformation is shown on."""
MOST_LEFT_OUT = 50
MEASURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "knn": ("kNN accuracy, leave one out", percent),
    "recall_at_1": ("recall@1: the nearest is of the same class", percent),
    "mean_average_precision": ("mean average precision", percent),
    "alignment": ("alignment: squared distance of two views, lower is better", "{:.3f}".format),
    "uniformity": ("uniformity: lower is more evenly spread", "{:.3f}".format),
    "rankme": ("RankMe: how many dimensions are used", "{:.1f}".format),
}
DIGESTS = ("data_digest", "start_digest", "code_digest")

Found = Sequence[Measured | None]


def invariance(runs: Sequence[Run], found: Found, sheet: Sheet) -> str:
    """The table of transformations, with examples of each."""
    have = [(number, each) for number, each in enumerate(found) if each is not None]
    above = "".join(f'<th colspan="2" scope="colgroup">{output}</th>' for output in OUTPUTS)
    head = f"<tr><td></td>{above}</tr>" + columns(["", *["cosine", "triples"] * len(OUTPUTS)])
    unrelated = ["unrelated pictures"]
    for output in OUTPUTS:
        cells = [_bar(number, each.unrelated[output], 0.0) for number, each in have]
        unrelated += ["".join(cells), ""]
    kinds: dict[str, list[list[str]]] = {}
    for row, first in enumerate(have[0][1].invariance):
        tiles = "".join(
            f'<i class="{sheet.style}" style="{sheet.place(row * EXAMPLES + each)}"></i>'
            for each in range(EXAMPLES)
        )
        cells = [f'{text(first.name)}<span class="examples">{tiles}</span>']
        for output in OUTPUTS:
            helds = [(n, each, getattr(each.invariance[row], output)) for n, each in have]
            cells.append("".join(_bar(n, h.cosine, each.unrelated[output]) for n, each, h in helds))
            cells.append("".join(_number(n, percent(h.triples)) for n, _, h in helds))
        kinds.setdefault(first.kind, []).append(cells)
    tables = "".join(
        f"<h3>{text(kind)}</h3>{table('invariance', head, [unrelated, *rows])}"
        for kind, rows in kinds.items()
    )
    note = (
        "Cosine: of a picture with its transformed self, on average; 1 is to overlook the change "
        "altogether, and the notch marks two unrelated pictures. Triples: how often a picture is "
        "nearer to its transformed self than to another picture."
    )
    return section("invariance", "What it overlooks", note, _keys(runs) + tables)


def figures(runs: Sequence[Run], found: Found) -> str:
    """Figures of both outputs."""
    have = [(number, each) for number, each in enumerate(found) if each is not None]
    rows = []
    for measure in (each.name for each in fields(Scores) if each.name in MEASURES):
        words, written = MEASURES[measure]
        cells = [
            [(n, getattr(each.scores[output], measure)) for n, each in have] for output in OUTPUTS
        ]
        if all(value is not None for cell in cells for _, value in cell):
            rows.append(
                [text(words)]
                + ["".join(_number(n, written(value)) for n, value in cell) for cell in cells]
            )
    widths = [
        "".join(_number(n, str(each.vectors[output].shape[1])) for n, each in have)
        for output in OUTPUTS
    ]
    rows.append(["dimensions that there are", *widths])
    note = (
        "Alignment and uniformity: Wang and Isola 2020, on two views by SimCLR's augmentations; "
        "RankMe: Garrido et al. 2023. kNN: 200 neighbours, temperature 0.07. Of vectors as the "
        "network makes them; export whitens them, so figures of an encoder file differ."
    )
    return section(
        "figures", "Figures", note, _keys(runs) + table("figures", columns(["", *OUTPUTS]), rows)
    )


def labels(runs: Sequence[Run], found: Found) -> str:
    """Accuracy by share of labels."""
    have = [
        (number, each.fractions) for number, each in enumerate(found) if each and each.fractions
    ]
    if not have:
        return ""
    rows = []
    for row, first in enumerate(have[0][1]):
        parts = [(number, fractions[row]) for number, fractions in have]
        rows.append(
            [
                f"{100 * first.share:g} %<span class=quiet>{first.labels:,} labels</span>",
                "".join(_bar(n, each.linear, 0.0, percent(each.linear)) for n, each in parts),
                "".join(_bar(n, each.knn, 0.0, percent(each.knn)) for n, each in parts),
            ]
        )
    note = (
        "Accuracy on a fifth of the pictures, from the embedding, by what learns from a share of "
        "the labels of the others: a linear probe, and weighted kNN. Each class gives at least "
        "one label."
    )
    body = table("labels", columns(["labels", "linear probe", "kNN"]), rows)
    return section("labels", "With few labels", note, _keys(runs) + body)


def left_out(runs: Sequence[Run]) -> str:
    """Pictures that a run could not learn from, and why."""
    parts = []
    for number, run in enumerate(runs):
        whose = f"<h3>{key(number, run.name)}</h3>" if len(runs) > 1 else ""
        items = "".join(
            f"<li>{name(id_)}<span class=quiet>{text(why)}</span></li>"
            for id_, why in run.skipped[:MOST_LEFT_OUT]
        )
        more = len(run.skipped) - MOST_LEFT_OUT
        rest = f"<p>And {more:,} more.</p>" if more > 0 else ""
        listed = f'<ul class="left-out">{items}</ul>{rest}' if items else "<p>None.</p>"
        parts.append(whose + listed)
    note = "Pictures that could not be decoded, and parts of archives that could not be read."
    return section("left-out", "Left out", note, "".join(parts))


def settings(runs: Sequence[Run]) -> str:
    """Settings and provenance; of two runs first what differs."""
    records = [_flat(run) for run in runs]
    names = list(dict.fromkeys(each for record in records for each in record))
    differ = [each for each in names if len({record.get(each) for record in records}) > 1]
    same = [each for each in names if each not in differ]
    head = columns(["", *(key(row, run.name) for row, run in enumerate(runs))])

    def rows(chosen: Sequence[str]) -> list[list[str]]:
        return [
            [
                text(each.replace("_", " ").strip()),
                *(text(r.get(each, "not there")) for r in records),
            ]
            for each in chosen
        ]

    body = ""
    if len(runs) > 1:
        body = "<h3>what differs</h3>" + table("settings", head, rows(differ))
    words = "what is the same" if len(runs) > 1 else "all"
    folded = table("settings", head, rows(same))
    body += (
        f"<details{' open' if len(runs) == 1 else ''}><summary>{words}</summary>{folded}</details>"
    )
    note = "As the run recorded them; kindred-train reproduce starts it again from these."
    return section("settings", "Settings and provenance", note, body)


def _flat(run: Run) -> dict[str, str]:
    """What a run recorded, by name, in words; what was not set is left out."""
    flat: dict[str, Any] = {}
    for each, value in run.recorded.items():
        if isinstance(value, dict):
            flat |= {f"{each}: {inner}": of for inner, of in value.items()}
        elif value is not None and value != "":
            flat[each] = str(value)[:16] if each in DIGESTS else value
    return {each: str(value) for each, value in flat.items()}


def _keys(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return ""
    return f"<p>{' '.join(key(number, run.name) for number, run in enumerate(runs))}</p>"


def _number(run: int, words: str) -> str:
    return f'<span class="value run-{run}">{words}</span>'


def _bar(run: int, share: float, notch: float, words: str = "") -> str:
    """A figure of 0 to 1 over a bar of its length, with a notch at another."""
    to, at = (100 * min(1.0, max(0.0, each)) for each in (share, notch))
    mark = f'<b style="left:{at:.1f}%"></b>' if notch > 0 else ""
    bar = f'<span class="bar"><i style="width:{to:.1f}%"></i>{mark}</span>'
    return f'<span class="value run-{run}">{words or f"{share:.3f}"}{bar}</span>'
