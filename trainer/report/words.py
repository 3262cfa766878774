"""Text and figures as HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence


def text(words: object) -> str:
    """Any text as HTML, with a sign for every character that does not show."""
    shown = "".join(each if each.isprintable() else "\ufffd" for each in str(words))
    return html.escape(shown)


def name(words: str) -> str:
    """A name as HTML, whose direction of writing ends with it."""
    return f"<bdi>{text(words)}</bdi>"


def key(number: int, of: str) -> str:
    """What stands for a run wherever two are compared."""
    return f'<span class="key run-{number}">{name(of)}</span>'


def table(style: str, head: str, rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells, the first of each row its name; it scrolls where it is too wide.

    Args:
        head: what ``columns`` makes, or more than one such row.
    """
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{each}</td>" for each in rest)}</tr>\n'
        for first, *rest in rows
    )
    return (
        f'<div class="wide"><table class="{style}">\n<thead>{head}</thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def columns(names: Sequence[str]) -> str:
    """The head of a table."""
    return "<tr>" + "".join(f'<th scope="col">{each}</th>' for each in names) + "</tr>"


def section(id: str, title: str, note: str, body: str) -> str:
    """A section of the page; the note says what is to be seen in it, and is text."""
    return (
        f'<section id="{id}">\n<h2>{text(title)}</h2>\n'
        f'<p class="note">{text(note)}</p>\n{body}</section>\n'
    )


def percent(share: float) -> str:
    """A share of 0 to 1 in per cent."""
    return f"{100 * share:.1f} %".replace("100.0", "100")
