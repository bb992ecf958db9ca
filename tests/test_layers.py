"""Imports point one way: the library knows neither program, the programs do not know each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = ("training", "eval")
FORBIDDEN = {
    "unimodal": PROGRAMS,
    "training": ("eval",),
    "eval": ("training",),
    "configs": PROGRAMS,
}
ALLOWED = "unimodal/cli/"  # it alone knows all three


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of all that a file imports, wherever in it."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level]] if node.level else []
            for alias in node.names:
                yield (
                    node.lineno,
                    ".".join(
                        [*base, *(node.module or "").split("."), alias.name]
                    ).replace("..", "."),
                )


def imported_at_run_time(path: Path) -> Iterator[str]:
    """Absolute dotted names of all that a file imports, wherever it does, but for types."""
    package = path.relative_to(ROOT).parent.parts
    ignored: set[ast.AST] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            ignored |= {inner for line in node.body for inner in ast.walk(line)}
        if node in ignored:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def import_graph() -> dict[str, set[str]]:
    """Module -> modules of the tree that it imports, by their names in the checkout."""
    paths = [path for path, folder in files_and_folders() if folder != "configs"]
    modules = {module_name(path): path for path in paths}
    graph = {}
    for name, path in modules.items():
        targets = {
            target.removeprefix("unimodal.")
            if target.startswith(("unimodal.training", "unimodal.eval"))
            else target
            for target in imported_at_run_time(path)
        }
        # `from .losses import info_nce` names a module and then what is in it: a package in
        # between counts only where its own file holds code.
        used = {target for target in targets if target in modules}
        graph[name] = {
            target
            for target in used - {name}
            if not any(other.startswith(f"{target}.") for other in used)
        }
    return graph


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a circle, the first one again at the end; nothing where there is none."""
    done: set[str] = set()

    def walk(name: str, above: list[str]) -> list[str]:
        if name in above:
            return [*above[above.index(name) :], name]
        if name not in done:
            for target in sorted(graph[name]):
                if circle := walk(target, [*above, name]):
                    return circle
            done.add(name)
        return []

    for name in sorted(graph):
        if circle := walk(name, []):
            return circle
    return []


def belongs_to(name: str, folder: str) -> bool:
    """Whether a module is of a folder, under its name in the checkout or its installed one."""
    return any(
        f"{name}.".startswith(f"{prefix}.") for prefix in (folder, f"unimodal.{folder}")
    )


def files_and_folders() -> list[tuple[Path, str]]:
    return [(path, folder) for folder in FORBIDDEN for path in sources(folder)]


@pytest.mark.parametrize(
    ("path", "folder"),
    files_and_folders(),
    ids=[str(path.relative_to(ROOT)) for path, _ in files_and_folders()],
)
def test_a_file_imports_nothing_from_above_or_beside_its_folder(
    path: Path, folder: str
) -> None:
    if path.relative_to(ROOT).as_posix().startswith(ALLOWED):
        return
    found = [
        (line, name)
        for line, name in imported(path)
        if any(belongs_to(name, to) for to in FORBIDDEN[folder])
    ]
    assert not found, path


@pytest.mark.parametrize("folder", ["training", "eval"])
def test_a_programs_files_import_each_other_relatively(folder: str) -> None:
    """Their folder has one name in the checkout and another where it is installed."""
    wrong = []
    for path in sources(folder):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.ImportFrom)
                and not node.level
                and belongs_to(node.module or "", folder)
            ):
                wrong.append(f"{path}:{node.lineno}")
            if isinstance(node, ast.Import) and any(
                belongs_to(alias.name, folder) for alias in node.names
            ):
                wrong.append(f"{path}:{node.lineno}")
    assert not wrong


@pytest.mark.parametrize("folder", ["training", "eval"])
def test_relative_imports_stay_inside_their_program(folder: str) -> None:
    """One dot too many would reach the library where it is installed, and nothing
    in the checkout.
    """
    for path in sources(folder):
        depth = len(path.relative_to(ROOT).parent.parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level > depth), (
                f"{path}:{node.lineno}"
            )


def test_the_library_and_the_programs_do_not_import_the_tests() -> None:
    assert not [
        name
        for path, _ in files_and_folders()
        for _, name in imported(path)
        if belongs_to(name, "tests")
    ]


def test_every_relative_import_names_a_file_that_is_there() -> None:
    for path, _ in files_and_folders():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                target = path.parents[node.level - 1].joinpath(*node.module.split("."))
                assert (
                    target.with_suffix(".py").is_file()
                    or (target / "__init__.py").is_file()
                ), f"{path}: {target}"


def test_no_import_runs_in_a_circle() -> None:
    assert " -> ".join(circle_in(import_graph())) == ""


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}
    assert circle_in(graph) == ["b", "d", "b"]


def test_no_file_is_called_utils() -> None:
    everywhere = [path for folder in (*FORBIDDEN, "tests") for path in sources(folder)]
    assert not [
        path
        for path in everywhere
        if path.stem in ("utils", "util", "helpers", "common", "misc")
    ]


def test_every_module_opens_with_what_it_does() -> None:
    assert not [
        path
        for path, _ in files_and_folders()
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
