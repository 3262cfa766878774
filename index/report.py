"""Groups of copies as files: a page for people, with the pictures, and a table for programs.

The page needs nothing but itself: pictures are data in it, and its own policy forbids it to run or
to fetch anything. Ids and paths come from anywhere, so every text is escaped, and characters that
would not show, or turn the writing about, are replaced.
"""

from __future__ import annotations

import base64
import csv
import html
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files as resource_files
from pathlib import Path
from typing import Any, Final

import numpy as np

from index.duplicates import Group
from index.errors import KindredError
from index.files import now, replacing
from index.homography import Matrix, apply, corners
from index.image import thumbnail
from index.matching import TIERS, Match, Tier, surest_first
from index.policies import Policy
from index.printable import printable
from index.records import Item

MOST_IMAGES: Final = 24
"""Of one group, so many are shown on the page that have other bytes."""

_COLUMNS: Final = (
    "group id source keep tier score false_match_rate width height size_bytes format verified"
).split()
_SPREADSHEET_COMMANDS: Final = ("=", "+", "-", "@", "\t", "\r")
_SECURITY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_MOST_NAMES: Final = 5
_WHOLE: Final = 0.995
_LEAST_TURN: Final = 0.5  # degrees
_RARE: Final = 0.1
_TIER_WORDS: Final[dict[Tier, str]] = {
    "exact": "same bytes",
    "pixels": "same pixels",
    "perceptual": "near in perceptual hash",
    "descriptor": "near in descriptor",
}
_POLICY_WORDS: Final[dict[Policy, str]] = {
    "pixels": "the most pixels",
    "bytes": "the largest file",
    "format": "the format that loses least",
    "sharpness": "the sharpest",
    "metadata": "the file that says when, where or by which camera it was taken",
    "oldest": "the oldest file",
    "newest": "the newest file",
    "shortest-path": "the shortest path",
}


@dataclass(frozen=True)
class Terms:
    """What groups were made by: of ``images`` of a collection, at this score and policy.

    ``false_match_rate`` is what was measured at ``threshold``, the least copy score.
    """

    collection: str
    images: int
    threshold: float
    false_match_rate: float
    policy: Policy


def spare_bytes(group: Group) -> int:
    """How many bytes are won if all but the one to keep go."""
    return sum(item.size_bytes for item in group.images[1:])


def write_csv(path: Path, groups: Sequence[Group]) -> None:
    """A row an image, of each group the one to keep first; UTF-8, as RFC 4180 has it.

    An id that a spreadsheet would take for a formula has an apostrophe before it; ``source`` is
    always exact. ``verified`` is empty where no second look was taken.
    """
    with replacing(path) as draft, draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for group in groups:
            for item, match in zip(group.images, (None, *group.matches), strict=True):
                look = match.evidence.get("verified") if match else None
                writer.writerow(
                    [
                        _harmless(group.id),
                        _harmless(item.id),
                        item.source,
                        "no" if match else "yes",
                        match.tier if match else "",
                        f"{match.score:.6f}" if match else "",
                        f"{match.false_match_rate:g}" if match else "",
                        item.width,
                        item.height,
                        item.size_bytes,
                        item.format,
                        "" if look is None else "yes" if look else "no",
                    ]
                )


def write_html(
    path: Path,
    groups: Sequence[Group],
    terms: Terms,
    read: Callable[[str], bytes],
    *,
    limit: int,
    progress: Callable[[Sequence[Group]], Iterable[Group]] = lambda groups: groups,
) -> None:
    """The page; the ``limit`` groups are shown that win the most bytes.

    ``read`` gives an image file's bytes by its id; where it raises a KindredError, a grey tile
    stands for the picture and says why. ``progress`` hands the shown groups on, and may count them.
    """
    shown = sorted(groups, key=lambda group: (-spare_bytes(group), group.id))[:limit]
    with replacing(path) as draft, draft.open("w", encoding="utf-8") as file:
        file.write(_head(groups, terms, len(shown)))
        for number, group in enumerate(progress(shown), 1):
            file.writelines(_section(number, group, read))
        file.write("</main>\n</body>\n</html>\n")


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_SPREADSHEET_COMMANDS) else text


# The page


def _head(groups: Sequence[Group], terms: Terms, shown: int) -> str:
    grouped = sum(len(group.images) for group in groups)
    spare = grouped - len(groups)
    tiers = Counter(match.tier for group in groups for match in group.matches)
    totals = {
        "images in the collection": f"{terms.images:,}",
        "groups of copies": f"{len(groups):,}",
        "images in groups": f"{grouped:,}",
        "to spare": f"{spare:,}",
        "to win": _size(sum(map(spare_bytes, groups))),
    }
    by_tier = ", ".join(f"{tiers[tier]:,} {_TIER_WORDS[tier]}" for tier in TIERS if tiers[tier])
    notes = [f"Of those to spare: {by_tier}." if spare else "No image is a copy of another."]
    notes.append(
        f"Each image of a group is a copy of the one to keep, which has "
        f"{_POLICY_WORDS[terms.policy]}. Descriptors are near from a score of "
        f"{terms.threshold:.3f} on; {_rate(terms.false_match_rate)}."
    )
    if shown < len(groups):
        notes.append(
            f"This page shows the {shown:,} groups that win the most bytes, and leaves out the "
            f"other {len(groups) - shown:,}; --report-groups shows more, --csv and --json all."
        )
    name = _text(terms.collection)
    style = resource_files("index.data").joinpath("report.css").read_text("utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_SECURITY}">
<meta name="referrer" content="no-referrer">
<title>Copies in {name}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>Copies in {name}</h1>
<ul class="totals">
{"".join(f"<li><b>{value}</b> <span>{label}</span></li>" for label, value in totals.items())}
</ul>
{"".join(f"<p>{_text(note)}</p>" for note in notes)}
<p>Made at <time>{now()[:16].replace("T", " ")}</time> UTC.</p>
</header>
<main>
"""


def _section(number: int, group: Group, read: Callable[[str], bytes]) -> Iterator[str]:
    keep, *others = group.images
    by_id = {item.id: item for item in others}
    kinds: dict[str, list[Match]] = {}  # what has the same bytes is shown once
    for match in sorted(group.matches, key=surest_first):
        kinds.setdefault(by_id[match.id].sha256, []).append(match)
    shown = list(kinds.values())[: MOST_IMAGES - 1]
    left_out = len(others) - sum(map(len, shown))
    yield (
        f'<section class="group" id="group-{number}">\n<h2>{_name(group.id)}</h2>\n'
        f"<p>{len(others):,} to spare, {_size(spare_bytes(group))} to win</p>\n"
        f'<ul class="pictures">\n'
    )
    kept, name = _picture(keep, read), f"keep-{number}"
    label = f'<p class="label">keep: {_text(group.keep.reason)}</p>'
    yield f'<li class="keep">{kept.tile(name=name)}{_title(keep)}{label}{_facts(keep)}</li>\n'
    for first, *twins in shown:
        item = by_id[first.id]
        yield f"<li>{_copy(item, first, _picture(item, read), kept, name)}{_twins(twins)}</li>\n"
    yield "</ul>\n"
    if left_out:
        yield f"<p>And {left_out:,} more in this group, which --csv and --json name.</p>\n"
    yield "</section>\n"


def _copy(item: Item, match: Match, picture: _Picture, kept: _Picture, name: str) -> str:
    """One image that is a copy of the one to keep, whose picture is on the page under the name."""
    why = " ".join(_evidence(match))
    outline = inset = ""
    if "transform" in match.evidence:
        onto = np.array(match.evidence["transform"], np.float64).reshape(3, 3)
        if match.evidence["overlap"] < _WHOLE:
            outline = _outline(onto, picture.height)
            why += " Dashed: where the one to keep lies on it."
        if match.evidence["query_overlap"] < _WHOLE and kept.data:
            back = _outline(np.asarray(np.linalg.inv(onto)), kept.height)
            inset = (
                f'<div class="lies">{kept.tile(use=name, outline=back)}'
                "<span>Where it lies on the one to keep.</span></div>"
            )
    words = _TIER_WORDS[match.tier]
    if match.tier not in ("exact", "pixels"):
        words += f", score {match.score:.3f}"
    return (
        f'{picture.tile(outline=outline)}{_title(item)}<p class="label">{words}</p>'
        f'{_facts(item)}<p class="why">{_text(why)}</p>{inset}'
    )


def _title(item: Item) -> str:
    return f'<p class="name" title="{_text(item.source)}">{_name(item.id)}</p>'


def _facts(item: Item) -> str:
    size = f"{item.width} × {item.height}, {_text(item.format)}, {_size(item.size_bytes)}"
    return f'<p class="facts">{size}</p>'


def _twins(twins: Sequence[Match]) -> str:
    if not twins:
        return ""
    names = ", ".join(_name(match.id) for match in twins[:_MOST_NAMES])
    more = f" and {len(twins) - _MOST_NAMES:,} more" if len(twins) > _MOST_NAMES else ""
    return f'<p class="why">The same bytes: {names}{more}.</p>'


@dataclass(frozen=True)
class _Picture:
    """A thumbnail, or the reason why there is none; ``height`` is for a width of 1000."""

    label: str
    height: float
    data: str
    reason: str = ""

    def tile(self, *, name: str = "", use: str = "", outline: str = "") -> str:
        """As HTML: remembered by a name, or another's that is, with an outline laid over it."""
        if not self.data:
            return f'<div class="tile missing">{_text(self.reason)}</div>'
        size = f'width="1000" height="{self.height:.1f}"'
        own = f' id="{name}"' if name else ""
        image = f'<use href="#{use}"/>' if use else f'<image{own} {size} href="{self.data}"/>'
        return (
            f'<svg class="tile" viewBox="0 0 1000 {self.height:.1f}" role="img" '
            f'aria-label="{_text(self.label)}">{image}{outline}</svg>'
        )


def _picture(item: Item, read: Callable[[str], bytes]) -> _Picture:
    height = 1000 * item.height / max(1, item.width)
    try:
        data = base64.b64encode(thumbnail(read(item.id))).decode("ascii")
    except KindredError as error:
        return _Picture(item.id, height, "", str(error))
    return _Picture(item.id, height, f"data:image/jpeg;base64,{data}")


def _outline(onto: Matrix, height: float) -> str:
    """The outline of another picture on one, by what leads onto it in shares of both."""
    points = " ".join(
        f"{1000 * corner.real:.1f},{height * corner.imag:.1f}"
        for corner in apply(onto, corners((1, 1)))
    )
    return f'<polygon class="under" points="{points}"/><polygon class="over" points="{points}"/>'


# Words


def _evidence(match: Match) -> Iterator[str]:
    """What speaks for a match, a sentence each."""
    found: dict[str, Any] = match.evidence
    if match.tier == "exact":
        yield f"Both files have the SHA-256 {found['sha256'][:12]}…"
    elif match.tier == "pixels":
        yield "The files differ, the pixels do not."
    elif match.tier == "perceptual":
        yield f"The hashes differ in {found['distance']} of {found['bits']} bits;"
    else:
        yield f"The cosine is {found['cosine']:.3f};"
    if match.tier in ("perceptual", "descriptor"):
        said = found.get("verdict") == "same"
        yield "a person said it." if said else f"{_rate(match.false_match_rate)}."
    if found.get("verified") is False:
        yield f"A second look did not confirm it: {found['reason']}."
    elif "transform" in found:
        yield from _alignment(found)


def _alignment(found: dict[str, Any]) -> Iterator[str]:
    texture = f"{found['agreement']:.0%} of the texture"
    agree = f"{found['inliers']} local features agree, and {texture}"
    yield f"A second look confirms it: {agree if found['inliers'] else f'{texture} agrees'}."
    changes = ["shows " + _share(found["query_overlap"]) + " of the one to keep"]
    if found["flipped"]:
        changes.append("mirrored")
    if abs(found["rotation"]) >= _LEAST_TURN:
        way = "clockwise" if found["rotation"] > 0 else "anticlockwise"
        changes.append(f"turned by {abs(found['rotation']):.0f}° {way}")
    if not 0.99 <= found["scale"] <= 1.01:
        changes.append(f"at {found['scale']:.2f} times the size")
    if found["overlap"] < _WHOLE:
        changes.append(f"on {_share(found['overlap'])} of its area")
    yield f"It {', '.join(changes)}."


def _share(share: float) -> str:
    return "the whole" if share >= _WHOLE else f"{share:.0%}"


def _rate(rate: float) -> str:
    """A false match rate in words."""
    share = f"1 in {round(float(f'{1 / rate:.2g}')):,}" if 0 < rate < _RARE else f"{rate:.0%}"
    return f"{share} pairs of different pictures come as close"


def _size(size_bytes: int) -> str:
    size, units = float(size_bytes), iter(("bytes", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 1000 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size_bytes:,} bytes" if unit == "bytes" else f"{size:.1f} {unit}"


def _text(text: str) -> str:
    """Any text as HTML."""
    return html.escape(printable(text))


def _name(text: str) -> str:
    """A name as HTML, whose direction of writing ends with it."""
    return f"<bdi>{_text(text)}</bdi>"
