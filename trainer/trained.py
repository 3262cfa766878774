"""The network of a run, as its last checkpoint has it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from index.errors import RunError
from trainer import checkpoint
from trainer.network import Network
from trainer.settings import PretrainSettings


@dataclass(frozen=True, eq=False)
class Trained:
    """A network in evaluation mode, after ``step`` steps and ``seconds`` of training.

    ``classes`` are names of what its classifier tells apart, where it has one.
    """

    settings: PretrainSettings
    network: Network
    step: int
    seconds: float
    classes: list[str] | None


def load_trained(run: Path) -> Trained:
    """Read a run's settings and last checkpoint.

    Raises:
        RunError: the folder is no run, has no checkpoint, or one of another network.
    """
    settings = PretrainSettings.recorded(checkpoint.read_settings(run))
    state = checkpoint.load_checkpoint(run)
    network = Network(settings).eval()
    load_network(network, state, run)
    return Trained(settings, network, state["step"], state["seconds"], state.get("classes"))


def load_network(network: Network, state: dict[str, Any], run: Path) -> None:
    """Copy the weights of a run's checkpoint.

    Raises:
        RunError: they are another network's.
    """
    try:
        network.load_state_dict(state["network"])
    except RuntimeError as error:
        raise RunError(
            f"{run / checkpoint.CHECKPOINT} does not fit the network that its settings describe"
        ) from error
