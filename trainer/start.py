"""Where weights start: an earlier run, an encoder file, or a file of a backbone's weights."""

from __future__ import annotations

import re
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
from trainer.backbones import Backbone, stem_stride
from trainer.companion import Companion, CompanionSpec
from trainer.network import Network
from trainer.settings import PretrainSettings
from trainer.whitening import Whitening

INHERITED = (
    "backbone", "width", "image_size", "stored_size", "copies", "descriptor_width",
    "descriptor_stages", "companion",
)  # fmt: skip
GOING_ON = {
    "optimizer": "adamw",
    "learning_rate": 3e-4,
    "crop_min_area": 0.2,
    "jitter_strength": 0.5,
}
"""Milder than from scratch, so that what the weights know is not undone; found on Grocery train."""

_WRAPPERS = ("module.", "backbone.", "model.", "encoder.", "state_dict.")


def inherited(path: Path, setting: str = "from") -> dict[str, Any]:
    """The settings that going on from ``path`` brings along, where nobody chooses others.

    A run and an encoder file bring their backbone and sizes, and a descriptor trained for copies
    if they have one; a bare file of weights has none.

    Args:
        setting: what the path was given for.

    Raises:
        RunError: the path is nothing to start from.
    """
    if not (path.is_dir() or path.is_file()):
        raise RunError(f"{setting} is {path}, which is neither a folder of a run nor a file")
    brought = _recorded(path)
    if path.suffix == ".onnx" and path.is_file():
        linear = _read_encoder(path).get("copies.linear.weight")
        if linear is not None:
            brought |= {"copies": True, "descriptor_width": len(linear)}
    return GOING_ON | brought


def _recorded(path: Path) -> dict[str, Any]:
    """What a run or an encoder file says of its networks; a file of weights says nothing."""
    if path.is_dir():
        recorded = checkpoint.read_settings(path)
        return {name: recorded[name] for name in INHERITED if name in recorded}
    if path.suffix == ".onnx":
        metadata = read_metadata(path)
        return {"image_size": metadata.image_size, **_named(metadata.backbone)}
    return {}


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


def inherited_before(run: Path) -> dict[str, Any]:
    """The settings that a run which has begun brought along then; none where none has."""
    if not (run / checkpoint.CHECKPOINT).exists():
        return {}
    recorded = checkpoint.read_settings(run)
    names = (*INHERITED, *GOING_ON, "contrast_weight")
    return {name: recorded[name] for name in names if name in recorded}


def named(settings: PretrainSettings, served_size: int) -> str:
    """The networks of a run, as its encoder file names them, with the size it was trained at.

    That is left out where it is the size that the file is served at.
    """
    width = f" x{settings.width:g}" if settings.width != 1 else ""
    size = f" at {settings.image_size}" if settings.image_size != served_size else ""
    stages = settings.descriptor_stages
    pooled = f", descriptor of {stages} stages" if stages else ""
    companion = f" + {settings.companion}" if settings.companion else ""
    return settings.backbone + width + size + pooled + companion


def _named(text: str) -> dict[str, Any]:
    """The settings that ``named`` tells."""
    found = re.fullmatch(
        r"(\S+?)(?: x(\d*\.?\d+))?(?: at (\d+))?(?:, descriptor of (\d+) stages)?(?: \+ (.+))?",
        text,
    )
    if not found:
        raise RunError(f"the encoder's backbone is {text!r}, expected 'NAME [xWIDTH] ...'")
    name, width, size, stages, companion = found.groups()
    return ({"image_size": int(size)} if size else {}) | {
        "backbone": name,
        "width": float(width or 1),
        "descriptor_stages": int(stages or 0),
        "companion": companion or "",
    }


def companion_of(path: Path) -> str:
    """What stands beside another network: the companion of a run or encoder file, or all of it.

    Raises:
        RunError: it has none, and no descriptor that was trained for copies on the whole network.
    """
    brought = inherited(path, "companion_from")
    if companion := brought.get("companion"):
        return str(companion)
    if not brought.get("copies") or brought.get("descriptor_stages"):
        raise RunError(
            f"companion_from is {path}, expected a run or encoder file with a companion, or with a "
            "descriptor that was trained by --copies on the whole network"
        )
    return str(CompanionSpec(brought["backbone"], brought["width"], brought["image_size"]))


@dataclass(frozen=True)
class Start:
    """What was taken from ``path`` beside the backbone, and what starts from scratch."""

    path: Path
    taken: tuple[str, ...]
    fresh: tuple[str, ...]

    def sentence(self, companion_from: str | None = None) -> str:
        """The same in words, where the companion is perhaps another's."""
        taken, fresh = (
            [name for name in names if name != "companion" or not companion_from]
            for names in (self.taken, self.fresh)
        )
        parts = set(taken) & set(fresh)
        taken = [f"a part of {name}" if name in parts else name for name in taken]
        fresh = [f"the rest of {name}" if name in parts else name for name in fresh]
        sentence = f"weights of {', '.join(('the backbone', *taken))} from {self.path}"
        sentence += f"; companion from {companion_from}" if companion_from else ""
        return sentence + (f"; {', '.join(fresh)} from scratch" if fresh else "")


def load_start(network: Network, path: Path, *, companion_alone: bool = False) -> Start:
    """Copy what fits from ``path``, or of its companion alone, into the network.

    The backbone has to fit whole. Heads are taken where their names and shapes agree, a descriptor
    only where it is made of the same feature map.

    Raises:
        RunError: the backbone's weights are not all there, or have other shapes.
    """
    of_run = {f"objective.{name}" for name in network.objective.of_run}
    own = {name: value for name, value in network.state_dict().items() if name not in of_run}
    found, recorded = _read(path), _recorded(path)
    _refuse_other_stem(network.backbone, path, recorded, of_companion=companion_alone)
    if companion_alone:
        found = _of_companion(found)
    elif network.copies:
        _refuse_stages(found, path)
        if not _of_same_map(network, recorded):
            found = {name: found[name] for name in found if not name.startswith("copies.")}
    taken = {
        name: value for name, value in found.items()
        if name in own and value.shape == own[name].shape
    }  # fmt: skip
    learnt = _learnt(network).keys() - of_run
    missing = learnt - taken.keys()
    lacking = sorted(name for name in missing if name.startswith("backbone."))
    if lacking:
        shapes = [
            f"{name} is {tuple(found[name].shape) if name in found else 'missing'}, "
            f"expected {tuple(own[name].shape)}"
            for name in lacking[:3]
        ]
        advice = "see --backbone, --width and --image-size"
        if path.suffix == ".onnx" and not found.keys() & set(lacking):
            advice = "files of such a backbone do not keep its weights as they are: give the run"
        raise RunError(
            f"{path} does not fit the backbone: {len(lacking)} of its tensors differ; "
            f"{'; '.join(shapes)}; {advice}"
        )
    network.load_state_dict(taken, strict=False)
    given = {"backbone", "mean", "deviation"}
    heads = {name.split(".")[0] for name in learnt & taken.keys()} - given
    fresh = {name.split(".")[0] for name in missing} - given
    return Start(path, tuple(sorted(heads)), tuple(sorted(fresh)))


def _refuse_other_stem(
    backbone: Backbone, path: Path, recorded: dict[str, Any], *, of_companion: bool
) -> None:
    """A ResNet's weights fit the stem of another size by shape, and mean something else there."""
    size = recorded.get("image_size")
    if of_companion and recorded.get("companion"):
        size = CompanionSpec.parse(recorded["companion"]).size
    if backbone.stem_stride and size and backbone.stem_stride != stem_stride(size):
        raise RunError(
            f"{path} was trained at {size} px, where a stem has stride {stem_stride(size)}, "
            f"expected {backbone.stem_stride} as at the size chosen; see --image-size, --companion"
        )


def _refuse_stages(tensors: dict[str, Tensor], path: Path) -> None:
    """Those of an earlier version, whose linear layer means nothing on another map."""
    if any(name.startswith("copies.stages.") for name in tensors):
        raise RunError(
            f"{path} has a descriptor with stages of its own, which this version does not train; "
            "go on with --companion-alone or --no-copies, or from a newer encoder"
        )


def _of_same_map(network: Network, recorded: dict[str, Any]) -> bool:
    """Whether both descriptors are made of the map after as many stages."""
    stages: int = recorded.get("descriptor_stages", 0)
    return stages == network.backbone.descriptor_stages


def _of_companion(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "companion."
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def load_companion(companion: Companion, path: Path) -> None:
    """Copy the companion of the file or run ``path``, or without one its network and descriptor.

    Raises:
        RunError: they do not fit.
    """
    found, own = _read(path), _learnt(companion)
    of_companion = _of_companion(found)
    _refuse_other_stem(companion.backbone, path, _recorded(path), of_companion=bool(of_companion))
    if of_companion:
        found = of_companion
    else:
        _refuse_stages(found, path)
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
    shares_descriptor = (network.copies is None or _of_same_map(network, _recorded(path))) and all(
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
    loaded = checkpoint.read_tensors(path)
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
    if not any(name.startswith("backbone.") for name in found):
        raise RunError(
            f"{path} holds no weights to train on with: it is an encoder with {len(found)} tensors "
            "of a network, expected all of them"
        )
    return found


def _tensors(path: Path, prefix: str) -> dict[str, Tensor]:
    """Those of an encoder file whose names begin so, by the rest of their names."""
    return {
        each.name.removeprefix(prefix): torch.from_numpy(numpy_helper.to_array(each).copy())
        for each in onnx.load(path).graph.initializer
        if each.name.startswith(prefix)
    }
