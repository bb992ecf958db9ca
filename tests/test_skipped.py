"""`make test` ends with what was skipped and why."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from tests.conftest import describe_skipped

ROOT = Path(__file__).parents[1]


def report(nodeid: str, reason: str) -> SimpleNamespace:
    return SimpleNamespace(nodeid=nodeid, longrepr=("file.py", 3, f"Skipped: {reason}"))


def test_each_reason_has_a_line_with_its_files() -> None:
    reports = [
        report("tests/b.py::test_one", "there is no chromium here"),
        report("tests/a.py::test_two[x]", "there is no chromium here"),
        report("tests/b.py::test_three", "there is no chromium here"),
        report("tests/c.py", "could not import 'umap'"),
    ]
    first, *lines = describe_skipped(reports).splitlines()
    assert all(word in first for word in ("slow", "matrix", "torture"))
    assert lines == [
        "skipped: could not import 'umap': 1 in tests/c.py",
        "skipped: there is no chromium here: 1 in tests/a.py, 2 in tests/b.py",
    ]


def test_nothing_skipped_is_said_too() -> None:
    assert describe_skipped([]).splitlines()[1:] == ["skipped: nothing"]


def test_a_run_writes_the_list_from_all_its_processes(tmp_path: Path) -> None:
    """Of the tests of this project's own conftest, in a folder of their own."""
    (tmp_path / "conftest.py").write_text(
        "from tests.conftest import pytest_terminal_summary\n", encoding="utf-8"
    )
    for name in ("a", "b"):
        code = "import pytest\n\n\ndef test_it():\n    pytest.skip('not today')\n"
        (tmp_path / f"test_{name}.py").write_text(code, encoding="utf-8")
    environment = {
        **os.environ,
        "SKIPPED_TESTS": str(tmp_path / "skipped"),
        "PYTHONPATH": str(ROOT),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        str(tmp_path),
    ]
    subprocess.run(
        command, cwd=tmp_path, env=environment, check=True, capture_output=True
    )
    written = (tmp_path / "skipped").read_text(encoding="utf-8").splitlines()
    assert written[1] == "skipped: not today: 1 in test_a.py, 1 in test_b.py"
