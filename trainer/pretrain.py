"""`kindred-train pretrain`: learn a representation from images without labels."""

from __future__ import annotations

import math
import signal
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from index.errors import DataError, RunError, TrainingDiverged
from index.image import Fit
from trainer import checkpoint
from trainer.data import Images, load_images
from trainer.metrics import joint_labels, weighted_knn
from trainer.network import Network
from trainer.optimisers import create_optimizer, learning_rate
from trainer.settings import PretrainSettings
from trainer.views import make_views

MOST_OF_GPU_MEMORY = 0.4
"""The share of free GPU memory up to which all images are kept there."""


def pretrain(settings: PretrainSettings) -> Images:
    """Train until the epochs, the minutes or the user's patience are over.

    The same call goes on where an interrupted one stopped. On a CPU the result is then the same,
    to the bit, as without the interruption: every random number comes from the seed and the step
    alone.

    Returns:
        The images that were learnt from; their ``skipped`` says which were left out.

    Raises:
        DataError, RunError, SourceError: before training starts.
        TrainingDiverged: the loss is not finite; the last checkpoint is intact.
    """
    run = Path(settings.out)
    device = torch.device(resolve_device(settings.device))
    images, evaluation = _load(settings, run)
    _check_settings(run, settings, images.digest)

    torch.manual_seed(settings.seed)
    network = create_network(settings).to(device).to(memory_format=torch.channels_last)
    optimizer = create_optimizer(settings.optimizer, network, settings.weight_decay)
    step, seconds_before = 0, 0.0
    if (run / checkpoint.CHECKPOINT).exists():
        state = checkpoint.load_checkpoint(run, device)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        step, seconds_before = state["step"], state["seconds"]
        print(f"going on at step {step} of {run}")
    checkpoint.trim_log(run, step)

    steps_per_epoch = len(images) // settings.batch_size
    total_steps = settings.epochs * steps_per_epoch
    warmup_steps = round(settings.warmup() * steps_per_epoch)
    eval_steps = max(1, round(settings.eval_every_epochs * steps_per_epoch))
    bf16 = {"fp32": False, "bf16": True, "auto": device.type == "cuda"}[settings.precision]
    views = settings.views()
    pixels = torch.from_numpy(images.pixels)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        if pixels.nbytes < MOST_OF_GPU_MEMORY * free:
            pixels = pixels.to(device)
    order = _epoch_order(settings.seed, step // steps_per_epoch, len(images))

    started = saved = time.monotonic()
    with (
        SummaryWriter(run / "tensorboard", purge_step=step) as board,
        _Interrupt() as interrupt,
        tqdm(total=total_steps, initial=step, unit="step", desc="pretraining") as bar,
    ):

        def record(values: dict[str, float]) -> None:
            when = {"step": step, "epoch": step / steps_per_epoch}
            checkpoint.append_log(run, when | values)
            for name, value in values.items():
                board.add_scalar(name, value, step)

        def evaluate() -> None:
            if evaluation is not None:
                knn = knn_accuracy(network, evaluation, images, settings.image_size, device, bf16)
                record({"knn": knn})
                tqdm.write(f"epoch {step / steps_per_epoch:.1f}: kNN {100 * knn:.1f} %")

        if step == 0:
            evaluate()
        network.train()
        while step < total_steps:
            epoch, place = divmod(step, steps_per_epoch)
            if place == 0:
                order = _epoch_order(settings.seed, epoch, len(images))
            # Sorted, because the pixels may lie on disk.
            rows = np.sort(order[place * settings.batch_size : (place + 1) * settings.batch_size])
            step_seed = _step_seed(settings.seed, step)
            generator = torch.Generator(device).manual_seed(step_seed)
            torch.manual_seed(step_seed)  # of dropout, where a backbone has it
            batch = pixels[torch.from_numpy(rows).to(pixels.device)].to(device)
            batch_NCHW = batch.permute(0, 3, 1, 2)
            x = torch.cat([make_views(batch_NCHW, views, generator) for _ in range(2)])
            x = x.contiguous(memory_format=torch.channels_last)

            rate = learning_rate(step, total_steps, warmup_steps, settings.peak_rate())
            for group in optimizer.param_groups:
                group["lr"] = rate
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = network(x)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"loss is {value} at step {step}, learning rate {rate:.4g}: try a lower rate "
                    f"or a longer warm-up; the last checkpoint in {run} is intact"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1

            now = time.monotonic()
            seconds = now - started
            total_seconds = seconds_before + seconds
            record({"loss": value, "learning_rate": rate, "seconds": total_seconds})
            bar.update()
            bar.set_postfix(loss=f"{value:.3f}", epoch=f"{step / steps_per_epoch:.2f}")
            if step % eval_steps == 0 or step == total_steps:
                evaluate()
            minutes_over = seconds > 60 * (settings.max_minutes or math.inf)
            stop = interrupt.asked or minutes_over
            if stop or step == total_steps or now - saved > 60 * settings.checkpoint_every_minutes:
                state = {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "seconds": total_seconds,
                }
                checkpoint.save_checkpoint(run, state)
                saved = now
            if stop and step < total_steps:
                why = "interrupted" if interrupt.asked else f"{settings.max_minutes:g} minutes over"
                tqdm.write(f"{why} at step {step} of {total_steps}; the same command goes on")
                break
    return images


def _load(settings: PretrainSettings, run: Path) -> tuple[Images, Images | None]:
    """The images to learn from, and the labelled ones for kNN if asked for."""
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{run} cannot be made a folder: {error.strerror}") from error
    images = load_images(settings.data, settings.fit(), run / "data", workers=settings.workers)
    if len(images) < settings.batch_size:
        raise DataError(
            f"{settings.data} has {len(images)} readable images, "
            f"expected at least one batch of {settings.batch_size}; see --batch-size"
        )
    if not settings.eval_data:
        return images, None
    fit = Fit(settings.image_size)
    evaluation = load_images(settings.eval_data, fit, run / "eval-data", workers=settings.workers)
    if not evaluation.labelled:
        raise DataError(f"{settings.eval_data} has images without labels, which kNN needs")
    return images, evaluation


def create_network(settings: PretrainSettings) -> Network:
    """The network that the settings describe, untrained."""
    return Network(
        method=settings.method,
        backbone_name=settings.backbone,
        width=settings.width,
        image_size=settings.image_size,
        projection_width=settings.projection_width,
        temperature=settings.temperature,
    )


def resolve_device(name: str) -> str:
    """``auto`` is the GPU where there is one.

    Raises:
        RunError: cuda was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if name.startswith("cuda") and not available:
        raise RunError(f"device is {name}, but torch {torch.__version__} finds no CUDA GPU here")
    return name


def knn_accuracy(
    network: Network,
    evaluation: Images,
    train: Images,
    size: int,
    device: torch.device,
    autocast: bool,
) -> float:
    """Weighted kNN (k=200, temperature 0.07) on h of the evaluation images.

    The bank is up to 10,000 training images where they have labels, spread evenly; else the
    evaluation images themselves, leave-one-out.
    """
    network.eval()
    queries = _represent(network, evaluation.pixels, size, device, autocast)
    if train.labelled:
        rows = np.linspace(0, len(train) - 1, min(len(train), 10_000)).astype(int)
        bank = _represent(network, train.pixels[rows], size, device, autocast)
        query_labels, bank_labels = joint_labels(evaluation.labels, train.labels[rows])
        accuracy = weighted_knn(queries, query_labels, bank, bank_labels)
    else:
        (labels,) = joint_labels(evaluation.labels)
        accuracy = weighted_knn(queries, labels, queries, labels, leave_one_out=True)
    network.train()
    return accuracy


@torch.no_grad()
def _represent(
    network: Network,
    pixels: NDArray[np.uint8],
    size: int,
    device: torch.device,
    autocast: bool,
) -> Tensor:
    """Unit-length h on the CPU, float32 (N, D), of uint8 pixels of any square size."""
    parts = []
    for start in range(0, len(pixels), 256):
        x = torch.from_numpy(np.ascontiguousarray(pixels[start : start + 256])).to(device)
        x = x.permute(0, 3, 1, 2).float() / 255
        if x.shape[-1] != size:
            x = functional.interpolate(x, (size, size), mode="bilinear", antialias=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
            h = network.represent(x.contiguous(memory_format=torch.channels_last))
        parts.append(functional.normalize(h.float(), dim=1).cpu())
    return torch.cat(parts)


def _step_seed(seed: int, step: int) -> int:
    """One seed a step, far from those of its neighbours."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _epoch_order(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(length)


def _check_settings(run: Path, settings: PretrainSettings, digest: str) -> None:
    """Record the settings of a new run; refuse to go on with others."""
    if not (run / checkpoint.CHECKPOINT).exists():
        versions = {"data_digest": digest, "torch": torch.__version__}
        checkpoint.write_settings(run, asdict(settings) | versions)
        return
    recorded = checkpoint.read_settings(run)
    differences = settings.differences(recorded)
    if recorded["data_digest"] != digest:
        differences.append("the images have changed")
    if differences:
        raise RunError(f"{run} holds a run with other settings: {'; '.join(differences)}")


class _Interrupt:
    """Notes SIGINT and SIGTERM, so that the step in flight is finished and saved."""

    asked = False

    def __enter__(self) -> _Interrupt:
        self._before = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
