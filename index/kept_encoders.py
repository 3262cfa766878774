"""A collection's own copies of the encoder files that made its vectors.

What a collection holds can be searched, and added to, by its own encoder alone; so it keeps the
file, whatever becomes of the place it was first read from, or of the one that ships.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from index.errors import ArtifactInvalid, CollectionError, EncoderNotKept
from index.files import make_folder, remove_abandoned, replacing, sha256_of


class KeptEncoders:
    """A folder of encoder files, ``<sha256>.onnx``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, sha256: str) -> bool:
        """Whether there is a copy of this encoder."""
        return self._place(sha256).is_file()

    def path(self, sha256: str) -> Path:
        """The copy of an encoder; EncoderNotKept where there is none."""
        if not self.has(sha256):
            raise EncoderNotKept(
                f"{self._folder.parent} keeps no copy of encoder {sha256[:12]}, since an earlier "
                "release made it; name the encoder's file"
            )
        return self._place(sha256)

    def keep(self, file: Path, sha256: str) -> None:
        """Copy an encoder's file, durably, unless there is a copy.

        Raises:
            ArtifactInvalid: the file hashes to something else, perhaps by now.
            CollectionError: the disk is full or read-only.
        """
        if self.has(sha256):
            return
        try:
            make_folder(self._folder)
            with replacing(self._place(sha256)) as draft:
                shutil.copyfile(file, draft)
                if sha256_of(draft) != sha256:
                    raise ArtifactInvalid(f"encoder {file} is not, or no longer, {sha256[:12]}")
        except OSError as error:
            raise CollectionError(
                f"encoder {file} cannot be kept in {self._folder}: {error.strerror}"
            ) from error

    def remove_others(self, needed: Collection[str]) -> None:
        """Remove the copies of all encoders but these."""
        remove_abandoned(self._folder, "*.draft")
        for path in self._folder.glob("*.onnx"):
            if path.stem not in needed:
                path.unlink()

    def problems(self) -> list[str]:
        """What is wrong with the copies, a sentence each."""
        return [
            f"the copy of an encoder, {path}, hashes to {found}"
            for path in sorted(self._folder.glob("*.onnx"))
            if (found := sha256_of(path)) != path.stem
        ]

    def _place(self, sha256: str) -> Path:
        return self._folder / f"{sha256}.onnx"
