"""The curves of a run, from its log."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.report.charts import Line, chart
from trainer.report.run import Run
from trainer.report.words import section, text

TITLES = {
    "knn": "kNN accuracy, %",
    "top1": "accuracy of the classifier, %",
    "loss": "loss",
    "loss_contrast": "loss of the method",
    "loss_copies": "loss of the copies",
    "learning_rate": "learning rate",
    "spread": "spread of h",
}
"""Of what the journal writes, in the order of the page; other values follow by their names."""
SHARES = {"knn", "top1"}
NOT_CURVES = {"step", "epoch", "seconds"}


def curves(runs: Sequence[Run]) -> str:
    """A chart for each value that was logged, with a line for each run that has it."""
    found = {name for run in runs for record in run.records for name in record} - NOT_CURVES
    order = [name for name in TITLES if name in found] + sorted(found - TITLES.keys())
    charts = []
    for name in order:
        lines = [
            line
            for number, run in enumerate(runs)
            if (line := _line(number, run, name)) is not None
        ]
        if lines:
            title = TITLES.get(name, name.replace("_", " "))
            ends = " ".join(
                f'<span class="key run-{line.colour}">{line.y_N[-1]:.4g}</span>' for line in lines
            )
            charts.append(
                f"<figure><figcaption><b>{text(title)}</b> {ends}</figcaption>"
                f"{chart(title, lines)}</figure>\n"
            )
    if not charts:
        return ""
    note = (
        "Over epochs; the figure is the last value. kNN at epoch 0 is the network as it started; "
        "a spread of nought is a collapse."
    )
    return section("curves", "Curves", note, f'<div class="charts">\n{"".join(charts)}</div>\n')


def series(run: Run, name: str) -> tuple[list[float], list[float]]:
    """Epochs and finite values of one name in the log."""
    pairs = [
        (float(record["epoch"]), float(record[name])) for record in run.records if name in record
    ]
    finite = [(x, y) for x, y in pairs if np.isfinite(y)]
    return [x for x, _ in finite], [y for _, y in finite]


def _line(number: int, run: Run, name: str) -> Line | None:
    x, y = series(run, name)
    scale = 100 if name in SHARES else 1
    return Line(number, np.array(x), scale * np.array(y)) if x else None
