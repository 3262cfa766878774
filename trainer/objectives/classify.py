"""Fine-tuning with labels: a linear classifier on the first layer of the projection head.

Chen, Kornblith, Swersky, Norouzi, Hinton, Big Self-Supervised Models are Strong Semi-Supervised
Learners, NeurIPS 2020 (arXiv:2006.10029): section 2, "Fine-tuning": from the first layer of the
head, here where the start has one of SimCLR's; the rate is appendix B's, for a batch of 1024; views
are cropped and mirrored, no more.

Shape suffixes: N images, M = 2N views, D width of h.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final

from torch import Tensor, nn
from torch.nn import functional

from trainer.backbones import Backbone
from trainer.objectives.objective import Objective, Recipe, Seen, Within, exact, hidden

PLAIN: Final[dict[str, Any]] = {"jitter_strength": 0.0, "grey": 0.0, "blur": (0.0, 0.0)}
"""Views that are cropped and mirrored alone."""


class Classifier(Objective):
    """A head's first layer, if it is kept, and a linear classifier with as many outputs as classes.

    Args:
        head_layers: 1 keeps the layer, whose output is then the descriptor; 0 classifies h.
    """

    recipe: ClassVar[Recipe] = Recipe(optimizer="lars", rate=0.04, weight_decay=0.0, **PLAIN)

    def __init__(
        self, backbone: Backbone, *, head_layers: Annotated[int, Within(0, 1)] = 1
    ) -> None:
        super().__init__()
        width = backbone.width
        self.projector = nn.Sequential(*(hidden(width, width) if head_layers else []))
        self.classifier: nn.Module = nn.Identity()  # until there are classes
        self._width = width

    def set_classes(self, count: int) -> None:
        """Make the classifier, which says nothing yet."""
        self.classifier = nn.Linear(self._width, count)
        for parameter in self.classifier.parameters():
            nn.init.zeros_(parameter)

    def classify(self, h_ND: Tensor) -> Tensor:
        """Logits (N, classes)."""
        logits: Tensor = self.classifier(self.projector(h_ND))
        return logits

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """With the classes that it has there: who loads a run need not know its labels."""
        found = state_dict.get(f"{prefix}classifier.weight")
        if found is not None and not isinstance(self.classifier, nn.Linear):
            self.set_classes(len(found))
        super()._load_from_state_dict(state_dict, prefix, *others)


class Classify(Classifier):
    """Cross entropy with the labels."""

    labelled = True

    def prepare(self, images: int, classes: int) -> None:  # noqa: ARG002
        """The classifier."""
        self.set_classes(classes)

    def forward(self, seen: Seen) -> Tensor:
        """The mean over views."""
        return functional.cross_entropy(exact(self.classify(seen.h_MD)), seen.labels_of_views())
