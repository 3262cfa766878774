"""The page: one file, whose own policy forbids it to fetch anything or to run another's script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files

from trainer.report import tables
from trainer.report.curves import curves, series
from trainer.report.measures import Measured, Seen, examples
from trainer.report.pictures import MOST_SHOWN, maps, neighbours
from trainer.report.run import Run
from trainer.report.sample import Sample
from trainer.report.sheet import Sheet
from trainer.report.words import key, name, percent, text
from trainer.start import named

MOST_SIDE = 96
"""Of a picture on the page, in pixels."""


def page(
    runs: Sequence[Run],
    sample: Sample | None,
    found: Sequence[Measured | None],
    missing: Sequence[str],
    seed: int,
) -> str:
    """The whole page.

    Args:
        sample: what was looked at; none where there was nothing to look at, or to look with.
        found: of each run, in their order; none of one without a network.
        missing: sentences on what is not on the page.
    """
    sheets, shown = [], []
    if sample is not None:
        pictures = Sheet("picture", sample.thumbnails(MOST_SHOWN, MOST_SIDE))
        size = min([MOST_SIDE, *(run.trained.settings.image_size for run in runs if run.trained)])
        changed = Sheet("example", examples(sample, size, tables.EXAMPLES, seed))
        sheets = [pictures, changed]
        seen = [
            Seen(number, run.name, key(number, run.name) if len(runs) > 1 else "", measured)
            for number, (run, measured) in enumerate(zip(runs, found, strict=True))
            if measured is not None
        ]
        shown = [
            maps(seen, sample, pictures, seed),
            neighbours(seen, sample, pictures),
            tables.invariance(seen, changed),
            tables.figures(seen),
            tables.labels(seen),
        ]
    main = "".join([curves(runs), *shown, tables.left_out(runs), tables.settings(runs)])
    return _frame(_header(runs, sample, missing) + f"<main>\n{main}</main>\n", runs, sheets)


def _frame(body: str, runs: Sequence[Run], sheets: Sequence[Sheet]) -> str:
    own = files("trainer.report")
    script = own.joinpath("report.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    # The same house style as the page of groups of copies, and what this one has beside it.
    style = files("index.data").joinpath("report.css").read_text("utf-8")
    style += own.joinpath("report.css").read_text("utf-8")
    style += "".join(sheet.rule() for sheet in sheets)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="referrer" content="no-referrer">
<title>{text(_title(runs))}</title>
<style>
{style}</style>
</head>
<body>
{body}<div id="look" hidden><i class="picture"></i><p></p></div>
<script>{script}</script>
</body>
</html>
"""


def _title(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return f"What {runs[0].name} learnt"
    return f"What {runs[0].name} and {runs[1].name} learnt"


def _header(runs: Sequence[Run], sample: Sample | None, missing: Sequence[str]) -> str:
    parts = [f"<h1>{text(_title(runs))}</h1>\n"]
    for number, run in enumerate(runs):
        totals = "".join(f"<li><b>{v}</b> <span>{k}</span></li>" for k, v in _totals(run).items())
        title = f"<h2>{key(number, run.name)}</h2>" if len(runs) > 1 else ""
        parts.append(f'{title}<ul class="totals">{totals}</ul>\n')
    if sample is not None:
        of = f"Looked at: {len(sample):,} pictures of {name(sample.source)}"
        of += ", which it learnt from." if sample.learnt_from else "."
        if len(sample) > MOST_SHOWN:
            of += f" The page shows {MOST_SHOWN:,} of them."
        parts.append(f"<p>{of}</p>\n")
    if missing:
        items = "".join(f"<li>{text(each)}</li>" for each in missing)
        parts.append(f'<div class="missing-parts"><b>Not on this page</b><ul>{items}</ul></div>\n')
    parts.append(f"<p>Made at <time>{datetime.now(UTC):%Y-%m-%d %H:%M}</time> UTC.</p>\n")
    return f"<header>\n{''.join(parts)}</header>\n"


def _totals(run: Run) -> dict[str, str]:
    """The figures that stand above all."""
    method = str(run.recorded.get("method")) + (" + copies" if run.recorded.get("copies") else "")
    backbone = run.recorded.get("backbone")
    if run.trained:
        settings = run.trained.settings
        backbone = named(settings, served_size=settings.image_size)
    totals = {"method": text(method), "backbone": text(backbone)}
    _, knn = series(run, "knn")
    if knn:
        totals["kNN accuracy, from the start to the end"] = (
            f"{percent(knn[0])} → {percent(knn[-1])}"
        )
    epochs, loss = series(run, "loss")
    if loss:
        totals["loss"] = f"{loss[0]:.2f} → {loss[-1]:.2f}"
        totals[f"of {run.recorded.get('epochs')} epochs"] = f"{epochs[-1]:.3g}"
    if run.trained:
        totals["minutes of training"] = f"{run.trained.seconds / 60:.1f}"
    return totals
