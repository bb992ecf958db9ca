"""`unimodal` offers what the documents use, and imports nothing heavy until it is used."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import unimodal
import unimodal.search

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```(?:python|pycon|py)\b[^\n]*\n(.*?)^ *```", re.M | re.S)
PUBLIC = {
    "unimodal": set(unimodal.__all__),
    "unimodal.search": set(unimodal.search.__all__),
    # What the programs offer to Python lies in their own modules.
    "unimodal.training.config": {"TrainConfig"},
    "unimodal.training.loop": {"train"},
    "unimodal.eval.with_mteb.adapter": {"mteb_model"},
}


def blocks(document: Path) -> Iterator[ast.Module]:
    for indent, code in BLOCK.findall(document.read_text(encoding="utf-8")):
        yield ast.parse(textwrap.dedent(indent + code))


def used_names(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Module and name of what a block imports from us, or uses as `unimodal.NAME`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] == "unimodal":
                yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "unimodal":
            yield "unimodal", node.attr


@pytest.mark.parametrize("name", sorted({*unimodal.__all__} - {"__version__"}))
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(unimodal, name).__name__ == name


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="'laod'"):
        unimodal.laod  # noqa: B018  # the access is the test


def test_import_needs_no_torch() -> None:
    code = "import sys, unimodal; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("False False", "")


def test_documents_use_public_names_only() -> None:
    used = [
        use
        for document in DOCUMENTS
        for tree in blocks(document)
        for use in used_names(tree)
    ]
    assert ("unimodal", "load") in used
    assert not {use for use in used if use[1] not in PUBLIC.get(use[0], ())}
