"""What the README tells people to type works, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import serving

from index.encoder import DEFAULT_ENCODER
from trainer.cli import main as kindred_train

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text()
CURLS = re.findall(r"^curl .*$", README, re.MULTILINE)


def test_curl_examples_are_answered_in_their_order(tmp_path: Path) -> None:
    """On a collection made by the indexer from the demo's photographs, with the shipped encoder."""
    assert len(CURLS) >= 6
    command = [sys.executable, "-m", "index.cli", "build", "demo/photographs"]
    command += ["--collection", "demo", "--data", str(tmp_path / "data")]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nnoproxy = *\n")
    with serving.process(tmp_path / "data", DEFAULT_ENCODER) as service:
        for curl in CURLS:
            line = curl.replace("http://127.0.0.1:8000", service.address.rstrip("/"))
            environment = {**os.environ, "CURL_HOME": str(tmp_path)}
            done = subprocess.run(
                line, shell=True, cwd=REPOSITORY, env=environment, capture_output=True, text=True,
                timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{curl}\n{done.stdout}\n{done.stderr}"
            if "/search" in curl:
                assert '"results":[{"id":"' in done.stdout.replace(" ", "")


def test_tree_names_files_that_are_there() -> None:
    tree = README.split("## What is where")[1].split("## Limits")[0]
    folder, named = "", 0
    for line in re.findall(r"^    (\S.*|  \S.*)$", tree, re.MULTILINE):
        names = re.split(r"\s{2,}|\s(?=[a-z])", line.strip())[0].split()
        if not line.startswith("  "):
            folder = names[0]
            assert (REPOSITORY / folder).is_dir(), folder
        else:
            for name in re.findall(r"[\w/]+\.py", line.split("  ")[1]):
                assert (REPOSITORY / folder / name).is_file(), f"{folder}{name}"
                named += 1
    assert named > 20


@pytest.mark.parametrize("name", re.findall(r"kindred-train (\w+)", README))
def test_trainer_commands_exist(name: str) -> None:
    with pytest.raises(SystemExit) as ended:
        kindred_train([name, "--help"])
    assert ended.value.code == 0
