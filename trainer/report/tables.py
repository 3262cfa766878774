"""What is shown in figures: what a network overlooks, how good its vectors are, how it was made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

from trainer.provenance import WEIGHTS
from trainer.report.measures import OUTPUTS, Seen
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
DIGESTS = ("data_digest", "eval_digest", "labels_digest", *WEIGHTS, "code_digest")


def invariance(seen: Sequence[Seen], sheet: Sheet) -> str:
    """The table of transformations, with examples of each."""
    above = "".join(f'<th colspan="2" scope="colgroup">{output}</th>' for output in OUTPUTS)
    head = f"<tr><td></td>{above}</tr>" + columns(["", *["cosine", "triples"] * len(OUTPUTS)])
    unrelated = ["unrelated pictures"]
    for output in OUTPUTS:
        unrelated += [_bars(seen, [each.measured.unrelated[output] for each in seen]), ""]
    kinds: dict[str, list[list[str]]] = {}
    for row, first in enumerate(seen[0].measured.invariance):
        tiles = "".join(
            f'<i class="{sheet.style}" style="{sheet.place(row * EXAMPLES + each)}"></i>'
            for each in range(EXAMPLES)
        )
        cells = [f'{text(first.name)}<span class="examples">{tiles}</span>']
        for output in OUTPUTS:
            helds = [getattr(each.measured.invariance[row], output) for each in seen]
            notches = [each.measured.unrelated[output] for each in seen]
            cells.append(_bars(seen, [held.cosine for held in helds], notches=notches))
            cells.append(_values(seen, [percent(held.triples) for held in helds]))
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
    return section("invariance", "What it overlooks", note, _titles(seen) + tables)


def figures(seen: Sequence[Seen]) -> str:
    """Figures of both outputs; those of labels where there are labels."""
    rows = []
    for measure, (words, written) in MEASURES.items():
        scores = {
            output: [getattr(each.measured.scores[output], measure) for each in seen]
            for output in OUTPUTS
        }
        if None not in scores["embedding"]:
            cells = [_values(seen, map(written, scores[output])) for output in OUTPUTS]
            rows.append([text(words), *cells])
    widths = [
        _values(seen, [str(each.measured.vectors[output].shape[1]) for each in seen])
        for output in OUTPUTS
    ]
    rows.append(["dimensions that there are", *widths])
    note = (
        "Alignment and uniformity: Wang and Isola 2020, on two views by SimCLR's augmentations; "
        "RankMe: Garrido et al. 2023. kNN: 200 neighbours, temperature 0.07. Of vectors as the "
        "network makes them; export whitens them, so figures of an encoder file differ."
    )
    body = table("figures", columns(["", *OUTPUTS]), rows)
    return section("figures", "Figures", note, _titles(seen) + body)


def labels(seen: Sequence[Seen]) -> str:
    """Accuracy by share of labels; nothing where there are none."""
    rows = []
    for fractions in zip(*(each.measured.fractions for each in seen), strict=True):
        share = f"{100 * fractions[0].share:g} %"
        linear, knn = ([getattr(each, name) for each in fractions] for name in ("linear", "knn"))
        rows.append(
            [
                f'{share}<span class="quiet">{fractions[0].labels:,} labels</span>',
                _bars(seen, linear, percent),
                _bars(seen, knn, percent),
            ]
        )
    if not rows:
        return ""
    note = (
        "Accuracy on a fifth of the pictures, from the embedding, by what learns from a share of "
        "the labels of the others: a linear probe, and weighted kNN. Each class gives at least "
        "one label."
    )
    body = table("labels", columns(["labels", "linear probe", "kNN"]), rows)
    return section("labels", "With few labels", note, _titles(seen) + body)


def left_out(runs: Sequence[Run]) -> str:
    """Pictures that a run could not learn from, and why."""
    parts = []
    for number, run in enumerate(runs):
        whose = f"<h3>{key(number, run.name)}</h3>" if len(runs) > 1 else ""
        items = "".join(
            f'<li>{name(id_)}<span class="quiet">{text(why)}</span></li>'
            for id_, why in run.skipped[:MOST_LEFT_OUT]
        )
        more = len(run.skipped) - MOST_LEFT_OUT
        rest = f"<p>And {more:,} more.</p>" if more > 0 else ""
        if not run.tells_skipped:
            rest += "<p>The run does not tell of all any more.</p>"
        listed = f'<ul class="left-out">{items}</ul>{rest}' if items or rest else "<p>None.</p>"
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
    note = (
        "As the run recorded them, and what stands for those that were left open; kindred-train "
        "reproduce starts it again from these."
    )
    return section("settings", "Settings and provenance", note, body)


def _flat(run: Run) -> dict[str, str]:
    """What a run recorded, by name, in words; what was not set is left out, unless it follows."""
    flat: dict[str, Any] = {}
    followed = run.trained.settings.followed() if run.trained else {}
    for each, value in (run.recorded | followed).items():
        if isinstance(value, dict):
            flat |= {f"{each}: {inner}": of for inner, of in value.items()}
        elif value is not None and value != "":
            flat[each] = str(value)[:16] if each in DIGESTS else value
    return {
        each: f"{value:g}" if isinstance(value, float) else str(value)
        for each, value in flat.items()
    }


def _titles(seen: Sequence[Seen]) -> str:
    return f"<p>{' '.join(each.title for each in seen)}</p>\n" if seen[0].title else ""


def _values(seen: Sequence[Seen], words: Iterable[str]) -> str:
    return "".join(
        f'<span class="value run-{each.number}">{value}</span>'
        for each, value in zip(seen, words, strict=True)
    )


def _bars(
    seen: Sequence[Seen],
    shares: Sequence[float],
    written: Callable[[float], str] = "{:.3f}".format,
    *,
    notches: Sequence[float] = (),
) -> str:
    """Figures of 0 to 1, each over a bar of its length, perhaps with a notch at another."""
    drawn = []
    for share, notch in zip_longest(shares, notches):
        mark = "" if notch is None else f'<b style="left:{_length(notch)}"></b>'
        bar = f'<span class="bar"><i style="width:{_length(share)}"></i>{mark}</span>'
        drawn.append(written(share) + bar)
    return _values(seen, drawn)


def _length(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.1f}%"
