"""Two real processes against one: a batch shared out must train as the joint batch does."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from small_methods import SMALL, small_network, small_settings
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.multiprocessing.spawn import spawn

from index.errors import RunError
from trainer import distributed
from trainer.backbones import create_backbone
from trainer.network import Network, Views
from trainer.objectives.objective import Progress, Seen
from trainer.objectives.simclr import SimCLR
from trainer.objectives.sscd import CopyDescriptor, Sources
from trainer.views import PATCHES

IMAGES, SIZE, PROCESSES, LIMIT_S = 8, 32, 2, 300
BACKBONES = {"resnet18": 0.125, "tinynet_e": 1.0}
"""Widths by name: one has plain batch norm, the other timm's with the activation inside."""


class Small(nn.Module):
    """A backbone with both objectives, as they are trained together."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.backbone = create_backbone(name, SIZE, BACKBONES[name])
        self.contrast = SimCLR(self.backbone, temperature=0.2, projection_width=8)
        self.copies = CopyDescriptor(self.backbone.channels, 8)

    def forward(self, x: Tensor, sources: Sources) -> Tensor:
        feature_map, h = self.backbone(x)
        contrast: Tensor = self.contrast(Seen(h, x))
        copies = self.copies.loss(self.copies.describe(feature_map), sources)
        return contrast + 0.1 * copies


def small(name: str) -> Small:
    torch.manual_seed(0)
    return Small(name).double()


def share(rank: int, processes: int) -> tuple[Tensor, Sources]:
    """One process's views: first views, then second, each of its own images.

    Every third second view is mixed with an image of another process.
    """
    x = torch.randn(2, IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).double()
    x[1] = 0.5 * x[0] + 0.5 * x[1]
    numbers = torch.arange(IMAGES)
    partners = torch.where(numbers % 3 == 0, (numbers + IMAGES // 2) % IMAGES, numbers)
    own = slice(rank * IMAGES // processes, (rank + 1) * IMAGES // processes)
    sources = Sources(numbers[own].repeat(2), torch.cat([numbers[own], partners[own]]))
    return x[:, own].flatten(0, 1), sources


def views_of(rank: int, processes: int, method: str) -> Views:
    """One process's views, smaller ones, classes and numbers of its images."""
    parts = PATCHES if method == "pirl" else 2
    x, _ = share(rank, processes)
    generator = torch.Generator().manual_seed(2)
    small = torch.randn(parts, IMAGES, 3, 16, 16, generator=generator).double()
    own = slice(rank * IMAGES // processes, (rank + 1) * IMAGES // processes)
    labels, numbers = torch.arange(IMAGES) // 2 % 3, torch.arange(IMAGES)
    return Views(
        x,
        small_L3SS=small[:, own].flatten(0, 1),
        labels_N=labels[own],
        rows_N=numbers[own],
    )


def method_steps(network: Network, model: nn.Module, views: Views) -> dict[str, Tensor]:
    """After a step the second batch meets what the first left behind: queue, momentum, centre."""
    losses = []
    for step in (1, 2):
        network.zero_grad()
        loss = model(views)["loss"]
        loss.backward()
        losses.append(loss.detach())
        if step == 1:
            learnt = [each for each in network.parameters() if each.requires_grad]
            torch.optim.SGD(learnt, lr=0.1).step()
            network.update(Progress(step, 4, 2))
    return results(network) | {"loss": torch.stack(losses)}


def method_network(method: str) -> Network:
    torch.manual_seed(0)
    return small_network(small_settings(method)).double()


def results(network: nn.Module) -> dict[str, Tensor]:
    """What must be equal: every gradient, and every running statistic."""
    gradients = {
        f"gradient of {name}": parameter.grad
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    return gradients | {name: buffer.clone() for name, buffer in network.named_buffers()}


def train_a_step(rank: int, port: int, folder: Path) -> None:
    """One of the processes, in the environment that torchrun makes."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(PROCESSES), "LOCAL_RANK": str(rank)}
    os.environ |= {
        "TORCHELASTIC_USE_AGENT_STORE": "True"
    }  # the parent's, so that no port is guessed
    with distributed.process_group(torch.device("cpu")):
        for name in BACKBONES:
            network = small(name)
            model = distributed.parallel(network)
            x, sources = share(rank, PROCESSES)
            loss = model(x, sources)
            loss.backward()
            torch.save(results(network) | {"loss": loss.detach()}, folder / f"{name}-{rank}.pt")

        for method in SMALL:
            whole = method_network(method)
            parallel = distributed.parallel(whole)
            found = method_steps(whole, parallel, views_of(rank, PROCESSES, method))
            torch.save(found, folder / f"{method}-{rank}.pt")

        row = torch.full((1, 2), rank + 1.0, requires_grad=True)
        gathered = distributed.gather(row)
        # The loss of process r is (r + 1) times the sum of all: the factors add up to 3.
        ((rank + 1) * gathered.sum()).backward()  # type: ignore[no-untyped-call]
        distributed.wait()
        answers = {
            "gathered": gathered.detach(),
            "gradient": row.grad,
            "order": distributed.gather(torch.tensor([7 * rank])),
            "one says yes": distributed.any_process(rank == 1),
            "all say no": distributed.any_process(False),
            "main": distributed.is_main(),
            "size": distributed.world_size(),
        }
        torch.save(answers, folder / f"answers-{rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote after a step together."""
    folder = tmp_path_factory.mktemp("processes")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = spawn(train_a_step, (store.port, folder), PROCESSES, join=False)  # type: ignore[no-untyped-call]
    deadline = time.monotonic() + LIMIT_S
    while not context.join(timeout=1):
        if time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
            pytest.fail(f"the processes were not done after {LIMIT_S} seconds")
    return folder


@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_and_running_statistics_are_those_of_the_joint_batch(
    name: str, folder: Path
) -> None:
    network = small(name)
    loss = network(*share(0, 1))
    loss.backward()
    expected = results(network)
    parts = [torch.load(folder / f"{name}-{rank}.pt") for rank in range(PROCESSES)]
    mean_loss = torch.stack([part.pop("loss") for part in parts]).mean()
    torch.testing.assert_close(mean_loss, loss.detach())
    for part in parts:
        assert part.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(part[key], value, rtol=1e-8, atol=1e-10, msg=key)
    assert max(float(value.abs().max()) for key, value in expected.items() if "grad" in key) > 1e-3


@pytest.mark.parametrize("method", SMALL)
def test_two_steps_of_a_method_are_those_of_the_joint_batch(method: str, folder: Path) -> None:
    network = method_network(method)
    expected = method_steps(network, network, views_of(0, 1, method))
    parts = [torch.load(folder / f"{method}-{rank}.pt") for rank in range(PROCESSES)]
    torch.testing.assert_close(
        torch.stack([part.pop("loss") for part in parts]).mean(0), expected.pop("loss")
    )
    for part in parts:
        assert part.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(part[key], value, rtol=1e-8, atol=1e-10, msg=key)
    assert max(float(value.abs().max()) for key, value in expected.items() if "grad" in key) > 1e-3


@pytest.mark.parametrize("rank", range(PROCESSES))
def test_processes_agree(rank: int, folder: Path) -> None:
    answers = torch.load(folder / f"answers-{rank}.pt")
    assert answers["gathered"].tolist() == [[1, 1], [2, 2]]
    assert answers["gradient"].tolist() == [[3, 3]]
    assert answers["order"].tolist() == [0, 7]
    assert answers["one says yes"] is True
    assert answers["all say no"] is False
    assert answers["main"] is (rank == 0)
    assert answers["size"] == PROCESSES


def test_processes_that_are_all_given_one_gpu_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with (
        pytest.raises(RunError, match="device is cuda:1 in each of 4 processes, expected cuda"),
        distributed.process_group(torch.device("cuda:1")),
    ):
        pass


def test_a_single_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    x = torch.randn(3, 2)
    with distributed.process_group(torch.device("cpu")):
        assert not torch.distributed.is_initialized()
        assert distributed.gather(x) is x
        assert distributed.any_process(True)
        assert not distributed.any_process(False)
        assert distributed.is_main()
        distributed.wait()


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.BatchNorm1d(4), (6, 4)),
        (lambda: nn.BatchNorm1d(4, affine=False), (6, 4, 5)),
        (lambda: nn.BatchNorm2d(4, momentum=None), (6, 4, 3, 2)),
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), (6, 4, 3, 2)),
        (lambda: BatchNormAct2d(4, act_layer=nn.SiLU), (6, 4, 3, 2)),
    ],
)
def test_a_synchronised_norm_of_one_process_is_the_plain_norm(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    """Output, gradients, state and evaluation, far from zero mean too; names stay the same."""
    torch.manual_seed(0)
    plain = make().double()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    joint = make().double()
    joint.load_state_dict(plain.state_dict())
    parameters = list(joint.parameters())
    assert distributed.synchronise_norms(joint) is joint
    assert all(a is b for a, b in zip(joint.parameters(), parameters, strict=True))
    for _ in range(2):
        x = (3 + 2 * torch.randn(shape).double()).requires_grad_()
        weights = torch.randn(shape).double()
        outcomes = []
        for norm in (plain, joint):
            y = norm(x)
            gradients = torch.autograd.grad((y * weights).sum(), [x, *norm.parameters()])
            outcomes.append([y, *gradients])
        for got, expected in zip(outcomes[1], outcomes[0], strict=True):
            torch.testing.assert_close(got, expected)
    torch.testing.assert_close(dict(joint.state_dict()), dict(plain.state_dict()))
    torch.testing.assert_close(joint.eval()(x), plain.eval()(x))


def test_a_synchronised_norm_keeps_half_precision() -> None:
    joint = distributed.synchronise_norms(BatchNormAct2d(4))
    x = torch.randn(6, 4, 3, 2).bfloat16()
    y = joint(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, BatchNormAct2d(4)(x.float()).bfloat16())
