"""The rooms of search: index and query stand over stores, and stores over filters."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import unimodal.search

ROOT = Path(unimodal.search.__file__).parent
BELOW: dict[str, set[str]] = {
    "filters": set(),
    "stores": {"filters"},
    "query": {"filters", "stores"},
    "index": {"filters", "stores"},
}
ENGINES = {"lance", "milvus"}


def modules_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports_of(module: Path) -> set[tuple[str, ...]]:
    """The modules of `unimodal.search` that a module imports, as parts: ("stores", "base")."""
    package = module.relative_to(ROOT).parts[:-1]
    imported = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = tuple((node.module or "").split("."))
        if node.level == 0 and parts[:2] == ("unimodal", "search"):
            imported.add(parts[2:])
        elif 0 < node.level <= len(package) + 1:
            imported.add((*package[: len(package) + 1 - node.level], *parts))
    return imported


@pytest.mark.parametrize("room", BELOW)
def test_a_room_imports_only_itself_and_those_below(room: str) -> None:
    rooms = {
        parts[0]
        for module in modules_of(ROOT / room)
        for parts in imports_of(module)
        if parts and parts[0]
    }
    assert rooms <= BELOW[room] | {room}


def test_no_module_outside_an_engine_imports_one() -> None:
    for module in modules_of(ROOT):
        own = set(module.relative_to(ROOT).with_suffix("").parts)
        for parts in imports_of(module):
            engines = ENGINES & set(parts[1:2]) if parts[:1] == ("stores",) else set()
            assert engines <= own, f"{module} imports {'.'.join(parts)}"
