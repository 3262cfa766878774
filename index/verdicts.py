"""What people have decided about pairs of pictures: that they are the same, or that they are not.

A verdict is about bytes, not ids or vectors. So it outlives a new name, another scan and another
encoder, holds for every copy of the file and for files of equal pixels that are there, and no
longer holds once an id shows another picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["same", "different"]


@dataclass(frozen=True)
class Verdicts:
    """All verdicts of a collection, by the SHA-256 of the files."""

    same: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    different: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, Verdict]]) -> Verdicts:
        """From pairs of digests and what was said of each."""
        verdicts = cls()
        for one, other, verdict in rows:
            pairs = verdicts.same if verdict == "same" else verdicts.different
            pairs[one].add(other)
            pairs[other].add(one)
        return verdicts

    def same_as(self, *files: str) -> Set[str]:
        """The files that are the same picture as one of these."""
        return {other for sha256 in files for other in self.same.get(sha256, ())}

    def different_from(self, *files: str) -> Set[str]:
        """The files that are another picture than one of these."""
        return {other for sha256 in files for other in self.different.get(sha256, ())}
