"""`kindred-train pretrain`: learn a representation from images without labels."""

from __future__ import annotations

import math
import re
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import tee
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from index.errors import DataError, RunError
from index.image import Fit
from trainer import checkpoint, distributed, provenance
from trainer.compiler import compile_network
from trainer.data import Images, images_of_run, load_images
from trainer.edits import EditSettings, make_edits, mix
from trainer.hard_batches import read_neighbours, write_neighbours
from trainer.journal import GPU_STEPS_BETWEEN_READS, Journal, tensorboard
from trainer.loader import Batches
from trainer.memory import is_out_of_memory
from trainer.network import Network, Views
from trainer.objectives.objective import Progress
from trainer.objectives.sscd import Sources
from trainer.optimisers import Schedule, create_optimizer
from trainer.precision import float_on_tiny_maps, in_bf16
from trainer.profile import Profile
from trainer.settings import PretrainSettings
from trainer.start import load_companion, load_start
from trainer.subject import Subject, prepare
from trainer.trained import load_network
from trainer.validation import at_size, validate
from trainer.views import make_jigsaws, make_views

START_IMAGES = 4096
"""Images that a new descriptor on an earlier backbone is started from."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a call learnt from, and where it stopped: after ``step`` of ``total_steps``."""

    images: Images
    step: int
    total_steps: int
    interrupted: bool


def pretrain(settings: PretrainSettings, last_step: int | None = None) -> Outcome:
    """Train until the epochs, the minutes or the user's patience are over.

    The same call goes on where an interrupted one stopped. On a CPU the result is then the same,
    to the bit, as without the interruption: every random number comes from the seed, the step and
    the process's rank alone. Under torchrun the batch is shared out among the processes.

    Args:
        last_step: where to stop before the epochs are over, as a run did that is repeated.

    Returns:
        Where it stopped; ``skipped`` of its images says which were left out.

    Raises:
        DataError, RunError, SourceError: before training starts.
        RunError: out of memory, or a checkpoint could not be written.
        TrainingDiverged: the loss or a weight is not finite, or the representation collapsed.
        The last checkpoint is intact in each case.
    """
    device = torch.device(resolve_device(settings.device))
    with distributed.process_group(device):
        try:
            return _pretrain(settings, device, last_step)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise RunError(
                    f"out of memory with batches of {settings.batch_size} images of "
                    f"{settings.image_size} px: try a smaller --batch-size; "
                    f"{checkpoint.what_is_kept(Path(settings.out))} ({error})"
                ) from error
            raise


def _pretrain(settings: PretrainSettings, device: torch.device, last_step: int | None) -> Outcome:
    run, world = Path(settings.out), distributed.world_size()
    if settings.batch_size % world:
        raise RunError(f"batch_size is {settings.batch_size}, expected a multiple of {world}")
    with checkpoint.held(run) if distributed.is_main() else nullcontext():
        distributed.wait()  # for the folder: where it is refused, no process may write there
        return _train(settings, device, last_step)


@dataclass
class _Training:
    """What a run trains and learns from, and how far it is.

    Attributes:
        evaluation: labelled images for kNN, where they were asked for.
        seconds: of training, up to ``step``.
    """

    settings: PretrainSettings
    images: Images
    evaluation: Images | None
    subject: Subject
    network: Network
    optimizer: Optimizer
    schedule: Schedule
    device: torch.device
    bf16: bool
    step: int = 0
    seconds: float = 0.0

    def evaluate(self, journal: Journal) -> None:
        """Measure what the weights are worth, where there are images to tell it by."""
        if self.evaluation is None or not journal.main:
            return
        # Among the very images that it is asked about, each would find itself.
        bank = None if self.settings.evaluates_itself() else self.images
        measured = validate(
            self.network, self.evaluation, bank, self.subject.names,
            self.settings.image_size, self.device, self.bf16,
        )  # fmt: skip
        journal.write({"step": self.step} | measured)
        words = ", ".join(f"{name} {100 * value:.1f} %" for name, value in measured.items())
        tqdm.write(f"epoch {self.step / self.schedule.steps_per_epoch:.1f}: {words}")

    def save(self) -> None:
        """Write a checkpoint, which the run goes on from."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "classes": self.subject.names,
        }
        checkpoint.save_checkpoint(Path(self.settings.out), state)

    def resume(self) -> None:
        """Go on from the last checkpoint."""
        run = Path(self.settings.out)
        state = checkpoint.load_checkpoint(run)
        load_network(self.network, state, run)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        print(f"going on at step {self.step} of {run}")


def _train(settings: PretrainSettings, device: torch.device, last_step: int | None) -> Outcome:
    run, main = Path(settings.out), distributed.is_main()
    training = _prepare(settings, device)
    network, optimizer, schedule = training.network, training.optimizer, training.schedule
    model: nn.Module = network
    if distributed.world_size() > 1:
        # A descriptor, and its companion's, may need a part of a backbone alone.
        model = distributed.parallel(network, parts_unused=settings.copies)
    if settings.compile:
        compile_network(model)

    total_steps = schedule.total_steps
    end = total_steps if last_step is None else last_step
    # The loader is ahead of the step by its share, which is kept for the step.
    rows, own_rows = tee(training.subject.rows(settings, training.step, total_steps))
    profile = Profile(settings.profile, device)
    seconds_before, started = training.seconds, time.monotonic()
    saved = started

    with ExitStack() as stack:
        board = None
        if main:
            checkpoint.trim_log(run, training.step)
            board = stack.enter_context(tensorboard(run, training.step))
        bar = stack.enter_context(
            tqdm(
                total=end, initial=training.step, unit="step", desc="pretraining", disable=not main
            )
        )
        interrupt = stack.enter_context(_Interrupt())
        batches = stack.enter_context(Batches(training.images.pixels, device)).of(rows)
        journal = Journal(
            run, schedule.steps_per_epoch, main, board, bar,
            GPU_STEPS_BETWEEN_READS if device.type == "cuda" else 1,
        )  # fmt: skip
        if training.step == 0:
            training.evaluate(journal)
        network.train()
        while training.step < end:
            with profile.part("data"):
                batch_N3HW = next(batches)
            with profile.part("views"):
                views = training_views(batch_N3HW, settings, training.step)
                views = training.subject.told(views, next(own_rows))
            rate = schedule.set(optimizer, training.step)
            with (
                profile.part("forward"),
                torch.autocast(device.type, torch.bfloat16, enabled=training.bf16),
            ):
                losses = model(views)
            with profile.part("backward"):
                optimizer.zero_grad()
                losses["loss"].backward()
            with profile.part("optimizer"):
                optimizer.step()
            training.step += 1
            network.update(Progress(training.step, total_steps, schedule.steps_per_epoch))

            seconds = time.monotonic() - started
            training.seconds = seconds_before + seconds
            known = {"learning_rate": rate, "seconds": training.seconds}
            checked = journal.step(training.step, known, losses)
            if training.step % schedule.eval_steps == 0 or training.step == total_steps:
                journal.read()
                training.evaluate(journal)
            if not (checked or training.step == end):
                continue
            minutes_over = seconds > 60 * (settings.max_minutes or math.inf)
            stop = distributed.any_process(interrupt.asked or minutes_over)
            due = time.monotonic() - saved > 60 * settings.checkpoint_every_minutes
            if main and (stop or training.step == end or due):
                journal.read()
                journal.check_weights(network, training.step, rate)
                training.save()
                saved = time.monotonic()
            if stop and training.step < end:
                if main:
                    why = f"{settings.max_minutes} minutes over" if minutes_over else "interrupted"
                    tqdm.write(
                        f"{why} at step {training.step} of {total_steps}; the same command goes on"
                    )
                break
    if settings.profile and main:
        print(profile.table(2 * settings.batch_size))
    distributed.wait()  # for the last checkpoint
    asked = interrupt.asked and training.step < end
    return Outcome(training.images, training.step, total_steps, asked)


def _prepare(settings: PretrainSettings, device: torch.device) -> _Training:
    """All that the first step needs, or the next one of a run that goes on."""
    run, main = Path(settings.out), distributed.is_main()
    earlier = earlier_record(run, settings)
    images, evaluation = _load(settings, earlier)

    torch.manual_seed(settings.seed)
    network = Network(settings)
    subject = prepare(network.objective, images, evaluation, settings, device)
    labels_digest = None if subject.labels is None else subject.labels.digest
    network = network.to(device).to(memory_format=torch.channels_last)
    if earlier is not None:
        if earlier.get("labels_digest", labels_digest) != labels_digest:
            raise _other(run, ["the labels have changed"])
    else:
        if main:
            _record(run, settings, images, evaluation, labels_digest, device)
        _start(network, settings, images, device, main)
    if settings.group_size > 1:
        if earlier is None and main:
            write_neighbours(run, network, images.pixels, settings, device)
        distributed.wait()
        subject = replace(subject, near_NK=read_neighbours(run))
    if settings.frozen_stages:
        network.freeze(settings.frozen_stages)
    recipe = settings.recipe()
    optimizer = create_optimizer(
        settings.optimizer, network, settings.decay(0), settings.backbone_rate, recipe.norm_rate,
        recipe.constant,
    )  # fmt: skip
    bf16 = in_bf16(settings.precision, network, device)
    if bf16 and device.type == "cpu":
        float_on_tiny_maps(network)
    schedule = Schedule(settings, len(subject) // settings.batch_size)
    training = _Training(
        settings, images, evaluation, subject, network, optimizer, schedule, device, bf16
    )
    if earlier is not None:
        training.resume()
    return training


def _start(
    network: Network, settings: PretrainSettings, images: Images, device: torch.device, main: bool
) -> None:
    """Take the earlier weights, where there are any."""
    if settings.from_:
        _go_on(network, settings, images, device, main)
    if network.companion is not None and settings.companion_from:
        load_companion(network.companion, Path(settings.companion_from))


def _go_on(
    network: Network, settings: PretrainSettings, images: Images, device: torch.device, main: bool
) -> None:
    """From earlier weights; a new descriptor starts from what they make of the images."""
    path = Path(str(settings.from_))
    start = load_start(network, path, companion_alone=settings.companion_alone)
    if main:
        print(start.sentence(settings.companion_from))
    if settings.group_size > 1 and "companion" in start.fresh and not settings.companion_from:
        raise RunError(
            f"group_size is {settings.group_size}, expected 1 with a new companion, which does not "
            "know yet what is alike; see --companion-from"
        )
    if "objective" in start.fresh:
        network.objective.start_from(network.backbone)
    if network.copies is None or "copies" not in start.fresh:
        return
    rows = np.linspace(0, len(images) - 1, min(len(images), START_IMAGES)).astype(int)
    if len(rows) <= settings.descriptor_width:
        return
    network.eval()
    parts = at_size(images.pixels, settings.image_size, device, rows)
    maps = (network.maps(x) for x in parts)
    with torch.no_grad():
        network.copies.start_from(torch.cat([network.copies.pool(each) for each in maps]))


def training_views(batch_N3HW: Tensor, settings: PretrainSettings, step: int) -> Views:
    """The two views of each image, float32, what they show, and smaller views of the method's.

    Both are the method's views. With copies the second are strong edits instead, and some at the
    end of the batch, whose order is random, are mixed with one another.

    Args:
        batch_N3HW: uint8, this process's share of the batch.
    """
    n, device, compiled = len(batch_N3HW), batch_N3HW.device, settings.compile
    seed = _step_seed(settings.seed, step, distributed.rank())
    generator = torch.Generator(device).manual_seed(seed)
    torch.manual_seed(seed)  # of dropout, where a backbone has it
    first_settings = settings.views(None if settings.copies else 0)
    first = make_views(batch_N3HW, first_settings, generator, compiled)
    sources, mixed = None, 0
    if settings.copies:
        second = make_edits(batch_N3HW, EditSettings(settings.image_size), generator, compiled)
        numbers_N = torch.arange(n, device=device)
        partners_N = numbers_N.clone()
        mixed = settings.mixed(n)
        if mixed:
            second[n - mixed :], partners = mix(second[n - mixed :], generator, 1.0)
            partners_N[n - mixed :] = n - mixed + partners
        offset = distributed.rank() * n
        sources = Sources(
            offset + torch.cat([numbers_N, numbers_N]), offset + torch.cat([numbers_N, partners_N])
        )
    else:
        second = make_views(batch_N3HW, settings.views(1), generator, compiled)
    x = torch.cat([first, second]).contiguous(memory_format=torch.channels_last)
    small, pure = None, batch_N3HW[: n - mixed]
    if settings.recipe().jigsaw:
        small = make_jigsaws(pure, settings.smaller_views(), generator, compiled)
    elif count := int(settings.option.get("small_views", 0)):
        smaller = settings.smaller_views()
        small = torch.cat([make_views(pure, smaller, generator, compiled) for _ in range(count)])
    if small is not None:
        small = small.contiguous(memory_format=torch.channels_last)
    return Views(x, sources, mixed, small)


def _load(
    settings: PretrainSettings, earlier: Mapping[str, Any] | None
) -> tuple[Images, Images | None]:
    """Those of the earlier record: images to learn from, and labelled ones for kNN if asked."""
    images = _images("data", settings, settings.fit(), earlier)
    if len(images) < settings.batch_size:
        raise DataError(
            f"{settings.data} has {len(images)} readable images, "
            f"expected at least one batch of {settings.batch_size}; see --batch-size"
        )
    if not settings.eval_data:
        return images, None
    evaluation = _images("eval_data", settings, Fit(settings.image_size), earlier)
    if not evaluation.labelled:
        raise DataError(f"{settings.eval_data} has images without labels, which kNN needs")
    return images, evaluation


def _images(
    name: str, settings: PretrainSettings, fit: Fit, earlier: Mapping[str, Any] | None
) -> Images:
    """Of the setting ``name``, decoded; as they were where the run began with that source."""
    source, workers = getattr(settings, name), settings.workers
    cache = Path(settings.out, name.replace("_", "-"))
    digest = None if earlier is None else earlier.get(f"{name.partition('_')[0]}_digest")
    if earlier is not None and digest and source == earlier.get(name):
        tell = distributed.is_main()
        return images_of_run(source, fit, cache, digest, workers=workers, tell=tell)
    # Of several processes another might decode again what the first has mapped.
    retry = earlier is None and distributed.world_size() == 1
    return load_images(source, fit, cache, workers=workers, digest=digest, retry=retry)


def resolve_device(name: str) -> str:
    """``auto`` is the GPU where there is one.

    Raises:
        RunError: it is none, or cuda was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return "cuda" if available else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise RunError(f"device is {name!r}, expected auto, cpu or cuda")
    if name.startswith("cuda") and not available:
        raise RunError(f"device is {name}, but torch {torch.__version__} finds no CUDA GPU here")
    return name


def _step_seed(seed: int, step: int, rank: int) -> int:
    """One seed a step and process, far from those of its neighbours."""
    entropy = [seed, step, rank] if rank else [seed, step]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def earlier_record(run: Path, settings: PretrainSettings) -> dict[str, Any] | None:
    """What made the run that the settings go on with; None where there is no checkpoint yet.

    Raises:
        RunError: it was made with other settings, or by another teacher.
    """
    if not (run / checkpoint.CHECKPOINT).exists():
        return None
    earlier = checkpoint.read_settings(run)
    differences = settings.differences(earlier)
    if differences:
        raise _other(run, differences)
    digest = provenance.weights_digest(settings.teacher)
    if earlier.get("teacher_digest", digest) != digest:  # earlier versions did not record it
        raise _other(run, [f"the teacher {settings.teacher} has changed"])
    return earlier


def _other(run: Path, differences: list[str]) -> RunError:
    return RunError(f"{run} holds a run with other settings: {'; '.join(differences)}")


def _record(
    run: Path,
    settings: PretrainSettings,
    images: Images,
    evaluation: Images | None,
    labels_digest: str | None,
    device: torch.device,
) -> None:
    """Keep what makes a new run."""
    record = asdict(settings) | {
        "data_digest": images.digest,
        "eval_digest": None if evaluation is None else evaluation.digest,
        "labels_digest": labels_digest,
        "code_digest": provenance.code_digest(),
        "versions": provenance.versions(device),
    }
    for name, path in provenance.WEIGHTS.items():
        record[name] = provenance.weights_digest(getattr(settings, path))
    checkpoint.write_settings(run, record)


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
