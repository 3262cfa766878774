"""What is declared, locked and shipped agrees with what the code needs."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.cli import GRACE_SECONDS
from service.settings import Settings

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LISTS = sorted((ROOT / "requirements").glob("*.txt"))
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
TRAINING_PACKAGES = {"torch", "torchvision", "onnx", "onnxscript", "tensorboard"}


def declared(*extras: str) -> set[str]:
    """Distributions that the project asks for, with the extras and the extras that they name."""
    found: set[str] = set()
    texts = list(PROJECT["dependencies"])
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    for requirement in map(Requirement, texts):
        if requirement.name == "kindred":
            found |= declared(*requirement.extras)
        else:
            found.add(canonicalize_name(requirement.name))
    return found


def imported(package: str) -> set[str]:
    """Distributions of other people that the package's modules import, at any depth."""
    modules: set[str] = set()
    for file in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module.partition(".")[0])
    modules -= {"index", "service", "trainer", *sys.stdlib_module_names}
    providers = importlib.metadata.packages_distributions()
    return {canonicalize_name(providers[module][0]) for module in modules}


def pins(file: Path) -> dict[str, set[str]]:
    """Versions by distribution; more than one where they depend on the Python version."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==(\S+)", file.read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_index_declares_what_it_imports() -> None:
    needed = imported("index")
    assert {"faiss-cpu", "numpy", "pillow"} <= needed
    # ONNX Runtime comes with `serve` or `gpu`; HEIC pictures are an extra of their own.
    assert needed - {"onnxruntime-gpu", "onnxruntime", "pillow-heif"} <= declared()


@pytest.mark.parametrize("extra", ["serve", "gpu"])
def test_service_declares_what_it_imports(extra: str) -> None:
    assert imported("service") <= declared(extra)


def test_trainer_declares_what_it_imports() -> None:
    needed = imported("trainer")
    assert "torch" in needed
    assert needed <= declared("train")


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.name)
def test_every_pin_has_a_hash_and_no_list_names_an_address(file: Path) -> None:
    text = file.read_text()
    entries = re.split(r"^(?=\S)", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE), flags=re.M)
    entries = [entry for entry in entries if entry.strip()]
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.+!]+", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE)


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.name)
def test_no_list_holds_both_builds_of_onnxruntime(file: Path) -> None:
    assert len({"onnxruntime", "onnxruntime-gpu"} & pins(file).keys()) == (file.stem != "build")


@pytest.mark.parametrize("extra", ["serve", "gpu"])
def test_serving_lists_hold_no_training_package(extra: str) -> None:
    assert not TRAINING_PACKAGES & pins(ROOT / f"requirements/{extra}.txt").keys()


@pytest.mark.parametrize("extra", ["serve", "gpu", "train", "dev"])
def test_a_list_covers_its_extra(extra: str) -> None:
    assert declared(extra) <= pins(ROOT / f"requirements/{extra}.txt").keys()


def test_all_lists_take_one_version_of_a_package() -> None:
    """What is tested with dev.txt is what serve.txt installs."""
    tested = pins(ROOT / "requirements/dev.txt")
    for file in LISTS:
        for name, versions in pins(file).items():
            assert versions == tested.get(name, versions), f"{name} in {file.name}"
    (cpu,) = pins(ROOT / "requirements/serve.txt")["onnxruntime"]
    assert tested["onnxruntime-gpu"] == {cpu}


def test_this_environment_has_one_build_of_onnxruntime() -> None:
    builds = set(importlib.metadata.packages_distributions()["onnxruntime"])
    assert len(builds) == 1, builds


def test_indexer_and_service_start_without_the_training_packages() -> None:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({sorted(TRAINING_PACKAGES)!r})); "
    for module in ("index.cli", "service.cli"):
        subprocess.run(
            [sys.executable, "-c", f"{blocked}import {module}"], check=True, cwd=ROOT, timeout=60
        )


def test_wheel_carries_every_module_the_page_and_the_encoder(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    ignore = shutil.ignore_patterns("__pycache__")
    for package in ("index", "service", "trainer"):
        shutil.copytree(ROOT / package, tree / package, ignore=ignore)
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, tree)
    expected = {
        file.relative_to(tree).as_posix()
        for package in ("index", "service", "trainer")
        for file in (tree / package).rglob("*")
        if file.is_file()
    }
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, tree], check=True, timeout=120)
    (wheel,) = tmp_path.glob("kindred-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        carried = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert carried == expected
    assert {"service/page/index.html", "index/data/default.onnx"} <= carried


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.stem)
def test_an_image_is_pinned_copies_what_exists_and_does_not_run_as_root(file: Path) -> None:
    lines = re.sub(r"\\\n", " ", file.read_text()).splitlines()
    steps = [line.split() for line in lines if line and not line.startswith("#")]
    bases = {step[1] for step in steps if step[0] == "FROM"}
    assert bases == {"python:3.11-slim-bookworm"}
    last_user = [step[1] for step in steps if step[0] == "USER"][-1]
    assert last_user.partition(":")[0].isdigit()
    assert last_user.partition(":")[0] != "0"
    sent = {
        rule[1:]
        for rule in (ROOT / ".dockerignore").read_text().splitlines()
        if rule.startswith("!")
    }
    for step in steps:
        if step[0] == "COPY" and not step[1].startswith("--from"):
            for source in step[1:-1]:
                for runtime in ("serve", "gpu"):
                    path = source.replace("${RUNTIME}", runtime)
                    assert (ROOT / path).exists(), path
                    assert path in sent or f"{Path(path).parent}/*.txt" in sent, path


@pytest.mark.parametrize("name", ["service", "indexer"])
def test_serving_images_install_nothing_to_train_with(name: str) -> None:
    text = (ROOT / f"docker/{name}.Dockerfile").read_text()
    assert "requirements/train.txt" not in text
    assert "COPY trainer" not in text


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_every_variable_that_a_container_gets_is_a_setting() -> None:
    known = {f"KINDRED_{name.upper()}" for name in Settings.model_fields}
    given = set(re.findall(r"\b(KINDRED_\w+)=", "".join(file.read_text() for file in DOCKERFILES)))
    for service in compose()["services"].values():
        given |= service.get("environment", {}).keys()
    assert given
    assert given <= known


def test_compose_serves_on_loopback_with_a_read_only_root_and_without_privileges() -> None:
    services = compose()["services"]
    assert services.keys() == {"kindred", "kindred-gpu", "index", "train"}
    volumes = compose()["volumes"].keys()
    for name, service in services.items():
        assert (ROOT / service["build"]["dockerfile"]).exists()
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        for port in service.get("ports", []):
            assert port.startswith("${ADDRESS:-127.0.0.1}:")
        for volume in service["volumes"]:
            source = volume.rpartition(":/")[0]
            assert source in volumes or source.startswith("${PICTURES:-./demo/photographs}")
        assert ("profiles" in service) == (name != "kindred")
        assert ("healthcheck" in service) == name.startswith("kindred")


def test_compose_waits_for_requests_under_way_before_it_kills() -> None:
    for name, service in compose()["services"].items():
        if name.startswith("kindred"):
            assert int(service["stop_grace_period"].removesuffix("s")) >= 2 * GRACE_SECONDS


def test_make_demo_answers_a_search_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    """The README's first command, in this environment and with a data folder of its own."""
    environment = Path(sys.prefix)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            # The environment is taken as it is, whatever the dates of the lists.
            [
                "make",
                "demo",
                f"VENV={environment}",
                "RUNTIME=gpu",
                f"--old-file={environment}/.gpu",
            ],
            cwd=ROOT,
            env={**os.environ, "KINDRED_PORT": str(port), "KINDRED_DATA": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            text=True,
        )
    assert process.stdout is not None
    try:
        said = ""
        while "Ctrl-C" not in said and (line := process.stdout.readline()):
            said += line
        address = f"http://127.0.0.1:{port}"
        assert f"the page     {address}" in said, (tmp_path / "stderr").read_text()
        photograph = next((ROOT / "demo/photographs").glob("*.jpg"))
        request = urllib.request.Request(
            f"{address}/v1/collections/demo/search",
            data=json.dumps({"query": {"id": photograph.name}, "top_k": 3}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            results = json.load(response)["results"]
        assert len(results) == 3
        assert photograph.name not in {result["id"] for result in results}
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.stdout.close()
        process.wait(timeout=30)
    assert "Error" not in (tmp_path / "stderr").read_text()
    with pytest.raises(ProcessLookupError):  # nothing of its process group is left
        os.killpg(process.pid, 0)
