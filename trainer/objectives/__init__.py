"""One file an objective: its loss, the modules that it owns, and the paper that it follows."""

from __future__ import annotations

from index.errors import RunError
from trainer.objectives.barlow import BarlowTwins
from trainer.objectives.byol import BYOL
from trainer.objectives.classify import Classify
from trainer.objectives.dino import DINO
from trainer.objectives.distill import Distill
from trainer.objectives.margin import Margin
from trainer.objectives.moco import MoCo
from trainer.objectives.objective import Objective
from trainer.objectives.pirl import PIRL
from trainer.objectives.simclr import SimCLR
from trainer.objectives.simclr2 import SimCLR2
from trainer.objectives.simsiam import SimSiam
from trainer.objectives.supcon import SupCon
from trainer.objectives.swav import SwAV
from trainer.objectives.triplet import Triplet
from trainer.objectives.vicreg import VICReg

METHODS: dict[str, type[Objective]] = {
    "simclr": SimCLR,
    "simclr2": SimCLR2,
    "simsiam": SimSiam,
    "byol": BYOL,
    "moco": MoCo,
    "barlow": BarlowTwins,
    "vicreg": VICReg,
    "pirl": PIRL,
    "supcon": SupCon,
    "triplet": Triplet,
    "margin": Margin,
    "swav": SwAV,
    "dino": DINO,
    "classify": Classify,
    "distill": Distill,
}
"""Methods by the name that ``--method`` takes."""


def find_method(name: str) -> type[Objective]:
    """The method of that name.

    Raises:
        RunError: there is none.
    """
    if name not in METHODS:
        raise RunError(f"method is {name!r}, expected one of {', '.join(METHODS)}")
    return METHODS[name]
