"""Where weights start: an earlier run, an encoder file, or a file of a backbone's weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from index.artifact import read_metadata
from index.errors import RunError
from trainer import checkpoint
from trainer.companion import Companion, CompanionSpec
from trainer.network import Network
from trainer.objectives.sscd import CopyDescriptor
from trainer.whitening import Whitening

INHERITED = (
    "backbone", "width", "image_size", "stored_size", "copies", "descriptor_width",
    "branch_stages", "companion",
)  # fmt: skip
GOING_ON = {
    "optimizer": "adamw",
    "learning_rate": 3e-4,
    "crop_min_area": 0.2,
    "jitter_strength": 0.5,
}
"""Milder than from scratch, so that what the weights know is not undone; found on Grocery train."""

_WRAPPERS = ("module.", "backbone.", "model.", "encoder.", "state_dict.")


def inherited(path: Path) -> dict[str, Any]:
    """The settings that going on from ``path`` brings along, where nobody chooses others.

    A run and an encoder file bring their backbone and sizes, and a descriptor trained for copies
    if they have one; a bare file of weights has none.

    Raises:
        RunError: the path is nothing to start from.
    """
    if path.is_dir():
        recorded = checkpoint.read_settings(path)
        return GOING_ON | {name: recorded[name] for name in INHERITED if name in recorded}
    if not path.is_file():
        raise RunError(f"from is {path}, which is neither a folder of a run nor a file")
    if path.suffix == ".onnx":
        metadata = read_metadata(path)
        backbone, _, companion = metadata.backbone.partition(" + ")
        name, _, width = backbone.partition(" x")
        size = metadata.image_size
        brought = {"backbone": name, "width": float(width or 1), "image_size": size}
        if companion:
            brought["companion"] = companion
        return GOING_ON | brought | _descriptor(_read_encoder(path))
    return dict(GOING_ON)


def inherited_alone(path: Path) -> dict[str, Any]:
    """The settings that going on from the companion in a run or an encoder file brings along.

    Raises:
        RunError: it has none.
    """
    brought = inherited(path)
    if not brought.get("companion"):
        raise RunError(f"{path} has no companion, which training is to go on from alone")
    spec = CompanionSpec.parse(brought["companion"])
    return GOING_ON | {
        "backbone": spec.name,
        "width": spec.width,
        "image_size": spec.size,
        "copies": True,
        "descriptor_width": brought["descriptor_width"],
        "contrast_weight": 0.0,
    }


def _descriptor(tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The settings of the trained descriptor among these tensors, none without one."""
    linear = tensors.get("copies.linear.weight")
    if linear is None:
        return {}
    stages = {name.split(".")[2] for name in tensors if name.startswith("copies.stages.")}
    return {"copies": True, "descriptor_width": len(linear), "branch_stages": len(stages)}


def companion_of(path: Path) -> str:
    """What a network that stands beside another is, by its own run or encoder file.

    Raises:
        RunError: it has no descriptor that was trained for copies, or none that one network gives.
    """
    brought = inherited(path)
    if not brought.get("copies") or brought.get("branch_stages") or brought.get("companion"):
        raise RunError(
            f"companion_from is {path}, expected a run or encoder file with a descriptor that was "
            "trained by --copies on the whole of one network"
        )
    return str(CompanionSpec(brought["backbone"], brought["width"], brought["image_size"]))


@dataclass(frozen=True)
class Start:
    """What was taken from ``path`` beside the backbone, and what starts from scratch."""

    path: Path
    taken: tuple[str, ...]
    fresh: tuple[str, ...]

    def sentence(self) -> str:
        """The same in words."""
        sentence = f"weights of {', '.join(('the backbone', *self.taken))} from {self.path}"
        return sentence + (f"; {', '.join(self.fresh)} from scratch" if self.fresh else "")


def load_start(network: Network, path: Path, *, companion_alone: bool = False) -> Start:
    """Copy what fits from ``path``, or of its companion alone, into the network.

    The backbone has to fit whole. Heads are taken where their names and shapes agree; stages of the
    descriptor's own that the file has none of start as the backbone's.

    Raises:
        RunError: the backbone's weights are not all there, or have other shapes.
    """
    own = network.state_dict()
    found = _read(path)
    if companion_alone:
        found = {
            name.removeprefix(_COMPANION): value for name, value in found.items()
            if name.startswith(_COMPANION)
        }  # fmt: skip
    found = _aligned(found, network)
    taken = {
        name: value for name, value in found.items()
        if name in own and value.shape == own[name].shape
    }  # fmt: skip
    missing = _learnt(network).keys() - taken.keys()
    lacking = sorted(name for name in missing if name.startswith("backbone."))
    if lacking:
        shapes = [
            f"{name} is {tuple(found[name].shape) if name in found else 'missing'}, "
            f"expected {tuple(own[name].shape)}"
            for name in lacking[:3]
        ]
        raise RunError(
            f"{path} does not fit the backbone: {len(lacking)} of its tensors differ; "
            f"{'; '.join(shapes)}; see --backbone, --width and --image-size"
        )
    network.load_state_dict(taken, strict=False)
    if network.copies is not None:
        _fill_stages(network, network.copies, taken)
    given = {"backbone", "mean", "deviation"}
    heads = {name.split(".")[0] for name in taken} - given
    fresh = {name.split(".")[0] for name in missing if not name.startswith(_STAGES)} - given
    return Start(path, tuple(sorted(heads)), tuple(sorted(fresh)))


_STAGES = "copies.stages."
_COMPANION = "companion."


def _aligned(found: dict[str, Tensor], network: Network) -> dict[str, Tensor]:
    """The same tensors; the descriptor's last stages by the numbers that the network gives them."""
    has = {int(name.split(".")[2]) for name in found if name.startswith(_STAGES)}
    if network.copies is None or not has:
        return found
    later = len(network.copies.stages) - len(has)

    def renamed(name: str) -> str:
        if not name.startswith(_STAGES):
            return name
        number, _, rest = name.removeprefix(_STAGES).partition(".")
        return f"{_STAGES}{int(number) + later}.{rest}"

    return {renamed(name): value for name, value in found.items()}


def _fill_stages(network: Network, copies: CopyDescriptor, taken: Collection[str]) -> None:
    """Whole stages, since half of one from elsewhere would be worth nothing."""
    for number, stage in enumerate(network.backbone.branch()):
        if not any(name.startswith(f"{_STAGES}{number}.") for name in taken):
            copies.stages[number].load_state_dict(stage.state_dict())


def load_companion(companion: Companion, path: Path) -> None:
    """Copy the network and the descriptor of the file or run ``path`` whole.

    Raises:
        RunError: they do not fit.
    """
    found, own = _read(path), _learnt(companion)
    for name, value in own.items():
        shape = tuple(found[name].shape) if name in found else "missing"
        if shape != value.shape and name not in ("mean", "deviation"):
            raise RunError(
                f"{path} does not fit the companion: {name} is {shape}, expected "
                f"{tuple(value.shape)}; see --companion and --descriptor-width"
            )
    companion.load_state_dict({name: found[name] for name in found.keys() & own}, strict=False)


def whitenings(path: Path, network: Network) -> dict[str, Whitening]:
    """By which an encoder file whitens those outputs that a network started from it shares.

    The descriptor is one of them where the file has all of what makes it: a head from scratch has
    directions of its own.
    """
    head = "objective.projector." if network.copies is None else ("copies.", "companion.")
    tensors = _tensors(path, "network.")
    shares_descriptor = all(
        name in tensors and tensors[name].shape == value.shape
        for name, value in _learnt(network).items()
        if name.startswith(head)
    )
    found = {}
    for name in ("embedding", "descriptor") if shares_descriptor else ("embedding",):
        parts = _tensors(path, f"{name}_whitening.")
        if parts.keys() >= {"mean_D", "matrix_DK"}:
            found[name] = Whitening(parts["mean_D"], parts["matrix_DK"])
    return found


def _learnt(network: nn.Module) -> dict[str, Tensor]:
    """The state but for what norms count, which no encoder file has: nothing is made of it."""
    state = network.state_dict().items()
    return {name: value for name, value in state if not name.endswith("num_batches_tracked")}


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by the name that a network's own have."""
    if path.is_dir():
        state: dict[str, Tensor] = checkpoint.load_checkpoint(path)["network"]
        return state
    if path.suffix == ".onnx":
        return _read_encoder(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged zip or pickle raises nearly any type
        raise RunError(f"{path} cannot be read as a file of weights: {error}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(
        isinstance(each, Tensor) for each in loaded.values()
    ):
        raise RunError(f"{path} holds a {type(loaded).__name__}, expected tensors by name")
    return {f"backbone.model.{_bare(name)}": value for name, value in loaded.items()}


def _bare(name: str) -> str:
    """The name without what training wrappers put before it."""
    while name.startswith(_WRAPPERS):
        name = name.partition(".")[2]
    return name


def _read_encoder(path: Path) -> dict[str, Tensor]:
    """The tensors of the network in an encoder file, which keeps their names."""
    found = _tensors(path, "network.")
    if not any(name.startswith("backbone.") and "running_mean" in name for name in found):
        raise RunError(
            f"{path} holds no weights to train on with: expected an encoder in float32 that was "
            "exported with its norms (int8 encoders cannot be trained)"
        )
    return found


def _tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """Those of an encoder file whose names begin so, by the rest of their names."""
    return {
        each.name.removeprefix(prefix): torch.from_numpy(numpy_helper.to_array(each).copy())
        for each in onnx.load(path).graph.initializer
        if each.name.startswith(prefix)
    }
