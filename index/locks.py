"""The lock files of a collection's folder: whoever does the same work holds the same one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from index.files import held_alone


@dataclass(frozen=True)
class Lock:
    """A lock file by its name in the folder, and what is done while it is held."""

    name: str
    work: str

    def held(self, folder: Path) -> AbstractContextManager[None]:
        """Hold it alone; raises as ``held_alone``."""
        return held_alone(folder / self.name, self.work)


INDEXING: Final = Lock("build.lock", "indexing")
TIDYING: Final = Lock("deeds.lock", "tidying up")
COMPACTION: Final = Lock("compaction.lock", "compaction")
MIGRATION: Final = Lock("migration.lock", "migration")
