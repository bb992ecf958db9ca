"""What is installed is what is in the tree, under names that take nobody else's place, and it runs
from there.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FOLDERS = ("unimodal", "training", "eval", "configs")
RECIPES = sorted(path.name for path in (ROOT / "configs").glob("*/*.yaml"))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
LOCKED = re.compile(r"[a-z0-9-]+==[0-9][a-z0-9.]*( ; [^/]+)?")  # no address and no path


def pyproject() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(
        (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    )
    return project


def setuptools_table() -> dict[str, object]:
    table: dict[str, object] = pyproject()["tool"]["setuptools"]
    return table


def requirements(extra: str) -> Iterator[Requirement]:
    """What an extra asks for, with what the extras that it names ask for."""
    for line in pyproject()["project"]["optional-dependencies"][extra]:
        required = Requirement(line)
        if required.name != "unimodal":
            yield required
        for name in required.extras if required.name == "unimodal" else ():
            yield from requirements(name)


def locked(python: str) -> dict[str, str]:
    """Package -> version, of Linux on x86_64; a package with two versions there is an error."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "os_name": "posix",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    found: dict[str, str] = {}
    for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        required = Requirement(line)
        if required.marker is None or required.marker.evaluate(environment):
            assert required.name not in found, (
                f"{required.name} is locked twice for Python {python}"
            )
            found[required.name] = str(required.specifier).removeprefix("==")
    return found


def installed_name(folder: Path) -> str:
    parts = folder.relative_to(ROOT).parts
    return ".".join(parts if parts[0] == "unimodal" else ("unimodal", *parts))


def test_the_packages_of_pyproject_are_those_of_the_tree() -> None:
    tree = {
        installed_name(file.parent)
        for folder in FOLDERS
        for file in (ROOT / folder).rglob("__init__.py")
    }
    packages = setuptools_table()["packages"]
    assert isinstance(packages, list)
    assert sorted(packages) == sorted(tree)


def test_the_lock_is_plain_lines_of_names_and_versions() -> None:
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    comments = lines[:2]
    others = lines[2:]
    assert all(line.startswith("#") for line in comments)
    assert [line for line in others if not LOCKED.fullmatch(line)] == []


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_all_that_is_required_directly(python: str) -> None:
    versions = locked(python)
    base = [Requirement(line) for line in pyproject()["project"]["dependencies"]]
    for required in [*base, *requirements("dev")]:
        version = versions.get(canonicalize_name(required.name))
        assert version is not None, (
            f"{required} is not in requirements.lock; run make lock"
        )
        assert required.specifier.contains(version), (
            f"{required} does not admit the locked {version}; run make lock"
        )


def test_the_supported_pythons_are_the_same_everywhere() -> None:
    classifiers = [
        line.rpartition(" ")[2] for line in pyproject()["project"]["classifiers"]
    ]
    assert classifiers == list(PYTHONS)
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in (ROOT / "README.md").read_text(
        encoding="utf-8"
    )
    first, last = (
        f"({python.replace('.', ', ')})" for python in (PYTHONS[0], PYTHONS[-1])
    )
    assert f"{first} <= sys.version_info[:2] <= {last}" in (
        ROOT / "Makefile"
    ).read_text(encoding="utf-8")


def test_every_folder_with_code_is_a_package() -> None:
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").is_file(), (
                f"{file.parent} has no __init__.py"
            )


def test_every_installed_name_leads_to_its_folder() -> None:
    assert setuptools_table()["package-dir"] == {
        "unimodal": "unimodal",
        **{f"unimodal.{folder}": folder for folder in FOLDERS[1:]},
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build", reason="pip install build")
    copy = tmp_path_factory.mktemp("copy")
    for folder in FOLDERS:
        shutil.copytree(
            ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / file).is_file():
            shutil.copy(ROOT / file, copy / file)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(copy / "dist"),
        str(copy),
    ]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return next((copy / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
    ]
    subprocess.run([*command, str(wheel)], check=True)
    return target


def run(
    installed: Path, elsewhere: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run Python where the checkout is not the working folder and the installed
    files come first.
    """
    environment = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_takes_one_name_and_holds_everything(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"unimodal"}
    assert {
        name.split("/")[0]
        for name in names
        if not name.split("/")[0].endswith(".dist-info")
    } == {"unimodal"}
    assert "unimodal/py.typed" in names
    kept = {
        f"{installed_name(file.parent).replace('.', '/')}/{file.name}"
        for file in files_beside_code()
    }
    assert {name for name in names if name.endswith((".yaml", ".css", ".js"))} == kept
    modules = {
        f"{installed_name(file.parent).replace('.', '/')}/{file.name}"
        for file in code()
    }
    assert {name for name in names if name.endswith(".py")} == modules


def test_the_types_of_the_installed_package_fit_together(
    installed: Path, tmp_path: Path
) -> None:
    """In the checkout the command line's imports of the programs have no types."""
    pytest.importorskip("mypy", reason="pip install mypy")
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    _, _, rest = config.partition("[tool.mypy]\n")
    parts = ("[tool.mypy]\n" + rest).split("[[tool.mypy.overrides]]\n")
    kept = [part for part in parts if '"unimodal.training.*"' not in part]
    assert len(kept) == len(parts) - 1
    text = "[[tool.mypy.overrides]]\n".join(kept).replace(
        'files = ["unimodal", "training", "eval", "tests"]\n', ""
    )
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "-m", "mypy", "-p", "unimodal", "--no-color-output"],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr


def files_beside_code() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (
            path
            for path in (ROOT / folder).rglob("*")
            if path.suffix in (".yaml", ".css", ".js")
        )


def code() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (ROOT / folder).rglob("*.py")


def test_the_installed_help_starts_without_torch(
    installed: Path, tmp_path: Path
) -> None:
    finished = run(installed, tmp_path, "-X", "importtime", "-m", "unimodal", "--help")
    assert finished.returncode == 0, finished.stderr
    assert "train" in finished.stdout
    modules = {
        line.rsplit("|")[-1].strip()
        for line in finished.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert "unimodal.cli" in modules
    assert not modules & {
        "torch",
        "numpy",
        "transformers",
        "open_clip",
        "timm",
        "PIL",
        "rich.progress",
        "pydantic",
    }


@pytest.mark.parametrize(
    "module",
    [
        "unimodal",
        "unimodal.embedder",
        "unimodal.training.config",
        "unimodal.eval.suites",
        "unimodal.shards.write",
    ],
)
def test_an_installed_module_is_the_one_in_the_wheel(
    installed: Path, tmp_path: Path, module: str
) -> None:
    program = f"import importlib; print(importlib.import_module({module!r}).__file__)"
    finished = run(installed, tmp_path, "-c", program)
    assert finished.stdout.strip().startswith(str(installed)), (
        finished.stdout + finished.stderr
    )


@pytest.mark.parametrize("recipe", ["demo", "openstax-mini"])
def test_an_installed_recipe_is_checked_by_its_name_from_anywhere(
    installed: Path, tmp_path: Path, recipe: str
) -> None:
    here = [
        "model.text.name=bert",
        f"model.text.tokenizer={__file__}",
    ]  # any file will do
    if recipe == "openstax-mini":
        here.append("model.text.pretrained=false")
    program = (
        "import sys; sys.argv[0] = 'unimodal'\n"
        "from unimodal.cli import app\n"
        "app(standalone_mode=False)\n"
        "import unimodal.training.config as config\n"
        "print('torch' in sys.modules, config.__file__)"
    )
    finished = run(
        installed,
        tmp_path,
        "-c",
        program,
        "train",
        recipe,
        "--dry-run",
        "steps=7",
        *here,
    )
    assert finished.returncode == 0, finished.stderr
    *plan, last = finished.stdout.splitlines()
    assert "steps: 7" in plan
    assert any("pictures" in line and "streams" not in line for line in plan)
    assert last.split() == [
        "False",
        str(installed / "unimodal" / "training" / "config.py"),
    ]
    assert not list(tmp_path.iterdir())


def test_a_misspelt_recipe_is_one_line_and_status_one(
    installed: Path, tmp_path: Path
) -> None:
    finished = run(
        installed, tmp_path, "-m", "unimodal", "train", "openstax-mni", "--dry-run"
    )
    assert finished.returncode == 1
    assert finished.stdout == ""
    assert finished.stderr.startswith("error: recipe 'openstax-mni'")
    assert finished.stderr.count("\n") == 1
