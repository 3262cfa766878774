"""Settings of a pretraining run; the command line has a flag of the same name for each."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from index.errors import RunError
from index.image import Fit
from trainer.companion import WIDEST, CompanionSpec
from trainer.objectives import find_method
from trainer.objectives.classify import Classifier
from trainer.objectives.objective import Recipe, half_cosine
from trainer.objectives.options import LARGEST_INT, Number, complete, options_of
from trainer.objectives.sscd import ENTROPY_WEIGHT
from trainer.views import ViewSettings

LARGEST: Final = float(np.finfo(np.float32).max)
"""What a step can calculate with."""


def setting(
    default: Any, text: str, *, changes_numbers: bool = True, positional: bool = False
) -> Any:
    """A field with its help text.

    A run may go on with another value of a field that does not change its numbers.
    """
    metadata = {"help": text, "changes_numbers": changes_numbers, "positional": positional}
    return field(default=default, metadata=metadata)


def refuse_missing(settings: object, **expected: str) -> None:
    """Refuse settings without what they cannot do without.

    Args:
        expected: what each of those is, by name.

    Raises:
        RunError: one is missing.
    """
    for name, what in expected.items():
        if not getattr(settings, name):
            raise RunError(f"{name} is missing, expected --{name} with {what}")


@dataclass(frozen=True)
class PretrainSettings:
    """What a run is started with; checked when made.

    What the method's paper sets is taken from there where it is not given.

    Raises:
        RunError: a value is out of its range, or given for a method that does not take it.
    """

    data: str = setting(
        "", "folder, zip, Parquet or tar files to learn from, or a URL", changes_numbers=False
    )
    out: str = setting("", "folder of the run; the same one goes on with it", changes_numbers=False)
    eval_data: str | None = setting(
        None, "labelled images for kNN accuracy while it trains", changes_numbers=False
    )
    method: str = setting("simclr", "training objective, one of those listed below")
    copies: bool = setting(
        False, "train the descriptor to tell copies, with strong edits as second views"
    )
    from_: str | None = setting(
        None,
        "where the weights start: an earlier run, encoder file, or file of backbone weights; rate "
        "and crops are then milder unless given, networks and sizes those of the run or file",
    )
    backbone: str = setting("resnet18", "model of timm, by name")
    width: float = setting(1.0, "multiplies a ResNet's channels")
    frozen_stages: int = setting(
        0, "stages of the backbone, from the stem on, that keep the weights of --from"
    )
    image_size: int = setting(64, "side of the encoder's input in pixels")
    stored_size: int | None = setting(
        None, "side at which images are kept to crop from [twice the image size]"
    )
    epochs: int = setting(100, "passes over the images")
    max_minutes: float | None = setting(
        None,
        "stop this call after so many minutes of training; the same command goes on",
        changes_numbers=False,
    )
    batch_size: int = setting(512, "images a step, each seen in two views")
    labels: str = setting(
        "all",
        "which labels are used, by a method that learns from labels: all, a share of each class "
        "such as 10%, or a number of images of each",
    )
    teacher: str | None = setting(None, "run of finetune whose classes distill learns")
    pairs: str | None = setting(
        None,
        "file of pairs that people call the same or different, which supcon, triplet and margin "
        "learn from in place of labels: CSV or JSON Lines of one, other, verdict",
    )
    option: dict[str, Number] = field(
        default_factory=dict,
        metadata=setting(
            None, "of the method's own, as often as needed; they are listed below [the paper's]"
        ).metadata,
    )
    small_size: int | None = setting(
        None, "side of smaller views in pixels [3/7 of the image size, of jigsaws 2/7, at least 8]"
    )
    descriptor_width: int = setting(256, "width of the descriptor that --copies trains")
    descriptor_stages: int = setting(
        0, "first stages of the backbone, the stem being one, that --copies pools from [0: all]"
    )
    entropy_weight: float = setting(
        ENTROPY_WEIGHT, "of the term of --copies that spreads descriptors"
    )
    companion: str = setting(
        "", "network beside the backbone for the descriptor alone: 'NAME [xWIDTH] at SIZE'"
    )
    companion_from: str | None = setting(
        None, "run or encoder file to take it from: its companion, else its network, if of --copies"
    )
    companion_alone: bool = setting(
        False, "go on from the companion alone that the run or encoder file of --from has"
    )
    contrast_weight: float = setting(
        1.0, "of the method's loss beside that of --copies; 0: the descriptor alone is trained"
    )
    mixed_share: float = setting(
        0.25, "of the images of a batch whose second view --copies mixes with another"
    )
    group_size: int = setting(
        1, "images alike, by what --from knows, in one batch of --copies: hard negatives"
    )
    optimizer: str = setting("", "lars, sgd or adamw [the paper's]")
    learning_rate: float | None = setting(
        None,
        "peak rate [the paper's; of simclr, simclr2, distill, and of an optimizer that is not the "
        "paper's, f sqrt(batch): f = 0.075 for lars, 0.02 for sgd, 6e-5 for adamw]",
    )
    backbone_rate: float = setting(1.0, "share of the rate at which the backbone learns, not heads")
    weight_decay: float | None = setting(None, "on all but biases and norms [the paper's]")
    warmup_epochs: float | None = setting(
        None, "epochs of linear warm-up [a tenth of all, at most 10]"
    )
    crop_min_area: float | None = setting(
        None, "smallest share of the image that a crop keeps [the paper's]"
    )
    jitter_strength: float | None = setting(
        None, "of the colours [0.5 up to 40 px, the paper's above]"
    )
    blur_probability: float | None = setting(
        None, "of a view, to be blurred [0 up to 40 px, the paper's above]"
    )
    compile: bool = setting(False, "compile the network and the views with torch.compile: for GPUs")
    profile: bool = setting(
        False, "measure the parts of a step, and print them last", changes_numbers=False
    )
    precision: str = setting("auto", "fp32, bf16, or auto: the faster one here")
    seed: int = setting(0, "of the weights, the order and the views")
    device: str = setting(
        "auto", "cpu, cuda, or auto: cuda where there is one", changes_numbers=False
    )
    workers: int | None = setting(
        None, "threads that decode images [one a processor]", changes_numbers=False
    )
    eval_every_epochs: float = setting(1.0, "epochs between two evaluations", changes_numbers=False)
    checkpoint_every_minutes: float = setting(
        2.0, "minutes between two checkpoints", changes_numbers=False
    )

    def __post_init__(self) -> None:
        refuse_missing(self, data="images to learn from", out="a folder for the run")
        for name in ("eval_data", "from_", "teacher", "pairs", "companion_from"):
            if getattr(self, name) == "":  # as of a variable of the shell that is not set
                raise RunError(f"{name.rstrip('_')} is empty, expected a path or nothing")
        self._complete()
        positive = [
            "width", "image_size", "stored_size", "epochs", "max_minutes", "small_size",
            "descriptor_width", "learning_rate", "backbone_rate", "workers", "eval_every_epochs",
            "checkpoint_every_minutes",
        ]  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            most = WIDEST if name == "width" else LARGEST_INT if isinstance(value, int) else LARGEST
            if value is not None and not 0 < value <= most:
                raise RunError(f"{name} is {value}, expected a number above 0, at most {most:g}")
        if self.batch_size < 2:
            raise RunError(
                f"batch_size is {self.batch_size}, expected at least 2: "
                "an image is contrasted with others"
            )
        if self.warmup_epochs is not None and not 0 <= self.warmup_epochs <= self.epochs:
            raise RunError(f"warmup_epochs is {self.warmup_epochs}, expected 0 to {self.epochs}")
        if not 0 <= self.seed < 2**63:
            raise RunError(f"seed is {self.seed}, expected 0 to 2^63 - 1")
        if self.frozen_stages < 0 or (self.frozen_stages and not self.from_):
            raise RunError(
                f"frozen_stages is {self.frozen_stages}, expected 0, or more together with --from"
            )
        if not 1 <= self.group_size <= self.batch_size:
            raise RunError(
                f"group_size is {self.group_size}, expected 1 to batch_size, {self.batch_size}"
            )
        if self.group_size > 1 and (not self.from_ or find_method(self.method).labelled):
            raise RunError(
                f"group_size is {self.group_size}, expected 1 without --from, whose weights know "
                "what is alike, and with a method that learns from labels"
            )
        if self.descriptor_stages < 0:
            raise RunError(f"descriptor_stages is {self.descriptor_stages}, expected 0 or more")
        self._check_labels()
        if not 0 <= self.mixed_share <= 0.5:
            raise RunError(f"mixed_share is {self.mixed_share}, expected 0 to 0.5")
        if self.copies and self.batch_size - self.mixed(self.batch_size) < 2:
            raise RunError(
                f"mixed_share is {self.mixed_share} of batches of {self.batch_size}, expected at "
                "least two images that are not mixed: an image is contrasted with others"
            )
        for name in ("entropy_weight", "contrast_weight", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= LARGEST:
                raise RunError(f"{name} is {value}, expected 0 or more, at most {LARGEST:g}")
        if self.companion:
            CompanionSpec.parse(self.companion)
        if self.companion_alone and not self.from_:
            raise RunError("companion_alone is set, expected it together with --from")
        if not self.contrast_weight and self.descriptor_stages and not self.frozen_stages:
            raise RunError(
                f"contrast_weight is 0 with descriptor_stages {self.descriptor_stages}, expected "
                "frozen_stages too: nothing would train the stages that follow"
            )
        defaults = {each.name: each.default for each in fields(self)}
        for name, needed in _unused(vars(self)).items():
            if (value := getattr(self, name)) != defaults[name]:
                expected = "none" if defaults[name] in (None, "") else defaults[name]
                raise RunError(f"{name} is {value!r}, expected {expected} without {needed}")
        choices = {"optimizer": ("lars", "sgd", "adamw"), "precision": ("auto", "fp32", "bf16")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise RunError(
                    f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}"
                )
        try:
            self.views()
            self.smaller_views()
            self.fit()
        except ValueError as error:
            raise RunError(str(error)) from error

    @classmethod
    def recorded(cls, record: Mapping[str, Any], **changed: Any) -> Self:
        """Those of a run, of which ``changed`` are others.

        Raises:
            RunError: an earlier version made the run, with what this one does not have.
        """
        if stages := record.get("branch_stages"):
            raise RunError(
                f"the run was made with branch_stages {stages}, which this version does not have"
            )
        # What was of no use a run of an earlier version may have with any value.
        names = {each.name for each in fields(cls)} - _unused(record).keys()
        try:
            return cls(**{name: record[name] for name in names if name in record} | changed)
        except (TypeError, AttributeError) as error:
            raise RunError(f"the record of the run is damaged: {error}") from error

    def _check_labels(self) -> None:
        method = find_method(self.method)
        if not re.fullmatch(r"all|\d+(\.\d+)?%|[1-9]\d*", self.labels):
            raise RunError(
                f"labels is {self.labels!r}, expected all, a share such as 10%, or a number of "
                "images of each class"
            )
        for name, nothing in (("labels", "all"), ("pairs", None)):
            if getattr(self, name) != nothing and not method.labelled:
                raise RunError(
                    f"{name} is {getattr(self, name)!r}, expected none: {self.method} takes no "
                    "classes"
                )
        if self.pairs and issubclass(method, Classifier):
            raise RunError(
                f"pairs is {self.pairs!r}, expected none: {self.method} tells classes apart that "
                "have names"
            )
        if self.teacher and not method.taught:
            raise RunError(f"teacher is {self.teacher!r}, expected none: {self.method} takes none")
        if method.taught and not self.teacher:
            raise RunError(f"teacher is missing, expected a run that {self.method} learns from")

    def _complete(self) -> None:
        """Fill in what the method's paper sets; the record of a run then says it all."""
        recipe, method = self.recipe(), find_method(self.method)
        object.__setattr__(self, "option", complete(self.method, options_of(method), self.option))
        paper = {
            "optimizer": recipe.optimizer,
            "weight_decay": recipe.weight_decay,
            "crop_min_area": recipe.crop_min_area,
        }
        for name, value in paper.items():
            if getattr(self, name) in (None, ""):
                object.__setattr__(self, name, value)

    def recipe(self) -> Recipe:
        """What the method's paper trains with."""
        return find_method(self.method).recipe

    def views(self, which: int | None = None) -> ViewSettings:
        """The augmentations: the paper's for this image size, but for what was set.

        Args:
            which: 0 for first, 1 for second views, which differ in some papers; else their mean.
        """
        published, recipe = ViewSettings.published(self.image_size), self.recipe()

        def of(probabilities: tuple[float, float]) -> float:
            return sum(probabilities) / 2 if which is None else probabilities[which]

        chosen: dict[str, Any] = {
            "crop_area": (self.crop_min_area, 1.0),
            "jitter_strength": self.jitter_strength,
            "blur_probability": self.blur_probability,
        }
        paper: dict[str, Any] = {
            "solarize_probability": of(recipe.solarize),
            "grey_probability": recipe.grey,
            "jitter_strength": min(published.jitter_strength, recipe.jitter_strength),
            "blur_probability": of(recipe.blur) if published.blur_probability else 0.0,
        }
        given = {name: value for name, value in chosen.items() if value is not None}
        return replace(published, **paper | given)

    def smaller_views(self) -> ViewSettings:
        """The augmentations of the views beside the two."""
        recipe, views = self.recipe(), self.views()
        sevenths = 2 if recipe.jigsaw else 3
        size = self.small_size or max(8, round(self.image_size * sevenths / 7))
        crop = views.crop_area if recipe.jigsaw else recipe.small_crop_area
        blur = views.blur_probability
        if self.blur_probability is None and blur:
            blur = 0.5  # whatever the two have; and none is solarised, as in the authors' code
        return replace(
            views, size=size, crop_area=crop, blur_probability=blur, solarize_probability=0.0
        )

    def shows_smaller_views(self) -> bool:
        """Whether the method sees any beside the two."""
        return "small_size" not in _unused(vars(self))

    def mixed(self, images: int) -> int:
        """How many of a batch are mixed with one another; one alone could not be."""
        mixed = round(self.mixed_share * images)
        return mixed if mixed > 1 else 0

    def fit(self) -> Fit:
        """How pictures are kept for cropping."""
        return Fit(self.stored_size or 2 * self.image_size)

    def evaluates_itself(self) -> bool:
        """Whether what it learns from and the labelled images for kNN are one source."""
        with suppress(OSError, TypeError):  # where one is not here
            return Path(self.data).samefile(str(self.eval_data))
        return self.data == self.eval_data

    def peak_rate(self) -> float:
        """Learning rate after the warm-up.

        Without a rate of the method's own 0.075 sqrt(batch) for LARS (Chen et al. 2020, appendix
        B.1); the others scale alike.
        """
        recipe = self.recipe()
        if self.learning_rate is not None:
            return self.learning_rate
        if recipe.rate is not None and recipe.optimizer == self.optimizer:
            return recipe.rate * self.batch_size / 256
        factor = {"lars": 0.075, "sgd": 0.02, "adamw": 6e-5}[self.optimizer]
        return factor * math.sqrt(self.batch_size)

    def decay(self, share: float) -> float:
        """Weight decay when this share of all steps is taken; one that was chosen stays."""
        recipe = self.recipe()
        assert self.weight_decay is not None  # since the settings are complete
        if recipe.last_weight_decay is None or self.weight_decay != recipe.weight_decay:
            return self.weight_decay
        return half_cosine(recipe.weight_decay, recipe.last_weight_decay, share)

    def warmup(self) -> float:
        """Epochs of warm-up."""
        return min(10, self.epochs / 10) if self.warmup_epochs is None else self.warmup_epochs

    def followed(self) -> dict[str, Any]:
        """What stands for those settings that were left open and follow others, by name."""
        following = {
            "stored_size": self.fit().size,
            "learning_rate": self.peak_rate(),
            "warmup_epochs": self.warmup(),
            "jitter_strength": self.views().jitter_strength,
            "blur_probability": self.views().blur_probability,
            "small_size": self.smaller_views().size,
        }
        unused = _unused(vars(self))
        return {
            name: value
            for name, value in following.items()
            if getattr(self, name) is None and name not in unused
        }

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Sentences on the recorded settings of another run that would change the numbers.

        What the version that made it did not have yet was as it is by default.
        """
        compared = [each for each in fields(self) if each.metadata["changes_numbers"]]
        absent = {each.name for each in compared} - other.keys()
        mine = asdict(self)
        by_default = type(self)(**{name: mine[name] for name in mine.keys() - absent})
        theirs = asdict(by_default) | other
        if theirs["method"] == self.method and isinstance(theirs["option"], dict):
            options = options_of(find_method(self.method))
            theirs["option"] = complete(self.method, options, {}) | theirs["option"]
        unused = _unused(mine)
        return [
            f"{each.name} was {theirs[each.name]!r}, now {mine[each.name]!r}"
            for each in compared
            if each.name not in unused and theirs[each.name] != mine[each.name]
        ]


OF_COPIES = (
    "descriptor_width", "descriptor_stages", "entropy_weight", "companion_from", "companion",
    "contrast_weight", "mixed_share", "group_size",
)  # fmt: skip
"""What is of use with copies alone; a companion from a file is named before what it brings."""


def _unused(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings that are of no use beside the others, by name, and what they would need."""
    unused = {} if settings.get("copies") else dict.fromkeys(OF_COPIES, "--copies")
    jigsaw = find_method(settings["method"]).recipe.jigsaw
    if not (jigsaw or settings.get("option", {}).get("small_views")):
        unused["small_size"] = "a method that has smaller views"
    return unused
