"""What is compiled, and what happens where the compiler fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_methods import SMALL, small_network, small_settings, small_subject
from torch import Tensor, nn
from torch._inductor import config

from trainer.compiler import compile_network, compiled
from trainer.objectives.objective import Progress
from trainer.pretrain import training_views

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of torch 2.11


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # what is there needs no compiler
    torch.compiler.reset()
    with config.patch({"cpp.cxx": ("/bin/false",)}):
        yield
    torch.compiler.reset()


def test_without_a_compiler_things_run_as_they_are_and_it_says_so(
    caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    def halved(x: Tensor) -> Tensor:
        return x.tanh() / 2

    network, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh()), torch.randn(5, 4)
    expected = network(x)
    compile_network(network)
    torch.testing.assert_close(network(x), expected)

    logger = logging.getLogger("torch")  # torch does not hand on what it logs
    logger.addHandler(caplog.handler)
    request.addfinalizer(lambda: logger.removeHandler(caplog.handler))
    torch.testing.assert_close(compiled(halved)(x), halved(x))
    assert "WON'T CONVERT halved" in caplog.text


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # where a graph goes on
@pytest.mark.parametrize("method", SMALL)
def test_no_step_compiles_a_method_anew(method: str) -> None:
    """It would at each, were a number that counts steps a part of what is compiled."""
    settings, rows = small_settings(method, batch_size=8), np.arange(8)
    network = small_network(settings)
    subject = small_subject(network.objective)
    pixels_N3HW = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
    network.compile(backend="eager")
    for step in range(4):
        with torch._dynamo.config.patch(error_on_recompile=step > 1, suppress_errors=False):
            network(subject.told(training_views(pixels_N3HW, settings, step), rows))
        network.update(Progress(step + 1, 4, 2))
