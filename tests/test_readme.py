"""Every block of the README runs, in order, in one folder; the shell blocks and the Python blocks alike."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
# Set-up and test commands would start themselves again; `make openstax-mini` needs data and an hour, `make
# matrix` and `unimodal bench` need minutes and an idle machine, `unimodal prepare` and `mteb` the public origins,
# and so does the shop.
NOT_HERE = ("pip install", "make test", "make openstax", "make demo", "make matrix", "make torture", "unimodal bench",
            "unimodal prepare", "unimodal mteb", "luma_shop")  # fmt: skip


def _blocks() -> list[tuple[str, str]]:
    found = re.findall(r"^```(bash|python)\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    return [(language, code) for language, code in found if not any(word in code for word in NOT_HERE)]


def test_the_readme_has_blocks_for_every_room() -> None:
    code = "\n".join(code for _, code in _blocks())
    for word in ("unimodal.load", "unimodal embed", "unimodal train", "unimodal eval", "shards pack", "torchrun",
                 "unimodal index", "unimodal search", "unimodal serve"):  # fmt: skip
        assert word in code


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_block_of_the_readme_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    demo = ("bash", "unimodal demo")
    for language, code in [demo, *_blocks()]:
        (tmp_path / "block.py").write_text(code, encoding="utf-8")
        command = ["bash", "-euo", "pipefail", "-c", code] if language == "bash" else [sys.executable, "block.py"]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, f"{code}\n{result.stdout}\n{result.stderr}"


def test_the_suite_of_the_readme_is_one(tmp_path: Path) -> None:
    from eval.suites import read_suite

    blocks = re.findall(r"^```yaml\n(tasks:.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    (tmp_path / "own.yaml").write_text(blocks[0], encoding="utf-8")
    suite = read_suite(tmp_path / "own.yaml")
    assert [task.kind for task in suite.tasks.values()] == ["image-text", "text-retrieval", "beir", "webdataset"]
