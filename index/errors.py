"""Every error that Kindred raises on purpose, in one tree.

    KindredError
    ├── ImageError          UnknownFormat · ImageTooLarge · UnreadableImage
    ├── ArtifactError       ArtifactInvalid · EncoderMismatch · EncoderNotKept
    ├── SourceError         SourceNotFound · SourceUnreadable
    ├── CollectionError     CollectionNotFound · CollectionExists · CollectionLocked
    │                       CollectionCorrupt (CollectionTooNew) · ImageNotFound
    │                       InvalidName · InvalidId · InvalidVector · InvalidMetadata
    │                       InvalidFilter · InvalidVerdict · TooFewImages
    │                       TooManyPairs · DeedRefused · JournalError · SnapshotInvalid
    │                       EncoderSwitched · MigrationRefused
    └── TrainingError       DataError · RunError · TrainingDiverged · ExportRefused

A message says what was found, what was expected, and where. Statuses of HTTP and of the
command line are chosen by the layers that have them, not here.
"""

from typing import Final


class KindredError(Exception):
    """Base of all errors below; ``str(error)`` is a sentence for the person who asked."""


class ImageError(KindredError):
    """The bytes did not become a picture."""


class UnknownFormat(ImageError):
    """The bytes do not begin like any format on the allow-list."""


class ImageTooLarge(ImageError):
    """The picture's width times height is over the pixel limit; it was not decoded."""


class UnreadableImage(ImageError):
    """The format is known, but the bytes are damaged, cut off or of an unsupported variant."""


class ArtifactError(KindredError):
    """An encoder file cannot be used."""


class ArtifactInvalid(ArtifactError):
    """The file is not an encoder of this format, or its metadata and graph disagree."""


class EncoderMismatch(ArtifactError):
    """The collection was made with another encoder; vectors of two encoders do not compare."""


class EncoderNotKept(ArtifactError):
    """A collection has no copy of the encoder that made its vectors."""


class SourceError(KindredError):
    """A place that images are read from failed."""


class SourceNotFound(SourceError):
    """The folder, file, row or member is not there."""


class SourceUnreadable(SourceError):
    """It is there, but damaged, refused, or not of a kind that is read here."""


class CollectionError(KindredError):
    """A collection cannot do what was asked."""


class CollectionNotFound(CollectionError):
    """No collection of that name."""


class CollectionExists(CollectionError):
    """A collection of that name is there already, or there with other settings."""


class CollectionCorrupt(CollectionError):
    """What is stored contradicts itself, or was written by a newer version."""


class CollectionTooNew(CollectionCorrupt):
    """A newer version wrote it."""


class CollectionLocked(CollectionError):
    """Another process holds the collection for writing."""


class ImageNotFound(CollectionError):
    """No image of that id in the collection."""


class InvalidName(CollectionError):
    """A collection's name has a character or a length that is not allowed."""


class InvalidId(CollectionError):
    """An image's id is empty or too long."""


class InvalidVector(CollectionError):
    """A vector has the wrong length, is not finite, or is zero."""


class InvalidMetadata(CollectionError):
    """An image's metadata is not what JSON can hold, or is too large."""


class InvalidFilter(CollectionError):
    """A filter is not of the language that ``index.filters`` describes, or over its limits."""


class InvalidVerdict(CollectionError):
    """A verdict contradicts what is plain, or names fewer than two pictures."""


class TooFewImages(CollectionError):
    """A collection is too small to measure on it what was asked for."""


class TooManyPairs(CollectionError):
    """More images are near each other than are kept in memory at once."""


class DeedRefused(CollectionError):
    """A file is left as it is: what was asked for could lose something, or cannot be done."""


class JournalError(CollectionError):
    """A file is no journal of deeds, is damaged before its end, or cannot be written."""


class SnapshotInvalid(CollectionError):
    """A file is no snapshot of a collection, is cut off, or was changed."""


class EncoderSwitched(CollectionError):
    """The collection has gone over to another encoder since it was opened; open it anew."""


class MigrationRefused(CollectionError):
    """A collection cannot go over to another encoder, or back, as it is."""


class TrainingError(KindredError):
    """A training command cannot go on."""


class DataError(TrainingError):
    """The training data is empty, too small, or lacks what the command needs."""


class RunError(TrainingError):
    """A run's folder is missing, incomplete, or belongs to other settings."""


class TrainingDiverged(TrainingError):
    """The loss is no longer finite; the last checkpoint is intact."""


class ExportRefused(TrainingError):
    """The exported file does not agree with the trained network closely enough."""


OF_ONE_IMAGE: Final = (SourceError, ImageError, ImageNotFound, CollectionCorrupt)
"""What may be wrong with a stored image alone: the others can be looked at."""
