"""What a run tells while it trains: log, TensorBoard and the line on the screen.

Values stay on the device until they are read, because reading one makes the host wait for the
device: on a GPU that is every few steps, on a CPU every step.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Never

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from index.errors import TrainingDiverged
from trainer import checkpoint
from trainer.files import writing

TENSORBOARD = "tensorboard"
GPU_STEPS_BETWEEN_READS = 10
LEAST_SPREAD = 1e-3
"""Of h: one less the squared length of the mean unit vector. Untrained networks have .2 or more;
a collapsed one has what rounding leaves."""


@contextmanager
def tensorboard(run: Path, step: int) -> Iterator[SummaryWriter]:
    """What TensorBoard shows of a run that goes on from this step.

    Raises:
        RunError: the disk is full or the folder not writable.
    """

    def cry(failure: threading.ExceptHookArgs) -> None:
        if not issubclass(failure.exc_type, OSError):
            before(failure)

    # The thread that writes would print its error, which whoever writes next is told, too.
    before, threading.excepthook = threading.excepthook, cry
    try:
        with writing(run / TENSORBOARD, checkpoint.GOES_ON):
            board = SummaryWriter(run / TENSORBOARD, purge_step=step + 1 if step else 0)
        try:
            yield board
        finally:
            with writing(run / TENSORBOARD, checkpoint.GOES_ON):
                board.close()
    finally:
        threading.excepthook = before


@dataclass
class Journal:
    """Log of one run; ``main`` is false in all processes but one, which then only check.

    Attributes:
        steps_per_epoch: turns steps into epochs.
    """

    run: Path
    steps_per_epoch: int
    main: bool
    board: SummaryWriter | None
    bar: tqdm[Never]
    steps_between_reads: int
    _waiting: list[tuple[dict[str, float], dict[str, Tensor]]] = field(default_factory=list)

    def step(self, step: int, known: dict[str, float], losses: dict[str, Tensor]) -> bool:
        """Note a step that was taken; true when values were read and checked.

        Raises:
            TrainingDiverged: the loss is not finite, or the representation collapsed.
        """
        self._waiting.append(({"step": step} | known, losses))
        if step % self.steps_between_reads == 0:
            self.read()
            return True
        return False

    def read(self) -> None:
        """Fetch, check and write down what is waiting.

        Raises:
            TrainingDiverged: the loss is not finite, or the representation collapsed.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        names = list(waiting[0][1])
        fetched = torch.stack([torch.stack([each[1][name] for name in names]) for each in waiting])
        for (known, _), values in zip(
            waiting, fetched.detach().float().cpu().tolist(), strict=True
        ):
            record = known | dict(zip(names, values, strict=True))
            self._check(record)
            self.write(record)
            self.bar.update()
        if self.main:
            epoch = f"{record['step'] / self.steps_per_epoch:.2f}"
            self.bar.set_postfix(loss=f"{record['loss']:.3f}", epoch=epoch)

    def write(self, record: dict[str, float]) -> None:
        """Add a line to the log, and its values to TensorBoard."""
        if not self.main or self.board is None:
            return
        step = record["step"]
        checkpoint.append_log(self.run, {"epoch": step / self.steps_per_epoch} | record)
        with writing(self.run / TENSORBOARD, checkpoint.GOES_ON):
            for name, value in record.items():
                if name not in ("step", "epoch"):
                    self.board.add_scalar(name, value, int(step))

    def check_weights(self, network: nn.Module, step: int, rate: float) -> None:
        """Look at what a step made, whose loss only the next one would tell.

        Raises:
            TrainingDiverged: a weight is not finite, or a tensor of them so large that the sum of
                its squares, which norms calculate with, is not.
        """
        squares = [each.detach().square().sum() for each in network.parameters()]
        if not torch.stack(squares).isfinite().all():
            where, advice = self._where(step, rate)
            raise TrainingDiverged(
                f"the weights are beyond what float32 can calculate with {where}: {advice}"
            )

    def _where(self, step: float, rate: float) -> tuple[str, str]:
        """Parts of a sentence: where training diverged, and what to do."""
        return (
            f"at step {step}, learning rate {rate:.4g}",
            f"try a lower rate or a longer warm-up; {checkpoint.what_is_kept(self.run)}",
        )

    def _check(self, record: dict[str, float]) -> None:
        where, advice = self._where(record["step"], record["learning_rate"])
        if not math.isfinite(record["loss"]):
            raise TrainingDiverged(f"loss is {record['loss']} {where}: {advice}")
        if record["spread"] < LEAST_SPREAD:
            raise TrainingDiverged(
                f"the representation collapsed {where}: all images of the batch have nearly the "
                f"same h (spread {record['spread']:.1e}, expected at least {LEAST_SPREAD}); "
                f"{advice}"
            )
