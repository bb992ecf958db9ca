"""`unimodal.search` offers what the documents use, and imports nothing heavy until it is used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import unimodal.search

ROOT = Path(__file__).parents[3]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
]
HEAVY = ("torch", "lancedb", "pymilvus", "pyarrow")


@pytest.mark.parametrize("name", unimodal.search.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(unimodal.search, name).__name__ == name


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match=r"unimodal\.search.*'serach'"):
        unimodal.search.serach  # noqa: B018  # the access is the test


def test_import_needs_neither_torch_nor_an_engine() -> None:
    code = (
        "import sys, unimodal.search as search\n"
        "search.Query(text='a', where=search.parse_where('price < 5'))\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_documents_import_public_names_only() -> None:
    statement = re.compile(r"from (unimodal\.search[\w.]*) import ([\w, ]+)")
    imported = [
        (module, name.strip())
        for document in DOCUMENTS
        for module, names in statement.findall(document.read_text())
        for name in names.split(",")
    ]
    assert imported
    for module, name in imported:
        assert module == "unimodal.search", f"{module} is not public ({name})"
        assert name in unimodal.search.__all__
