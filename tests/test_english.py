"""Messages, docstrings and comments are plain English: no phrase that a reader has to decode."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("unimodal", "training", "eval")

# Phrase -> what to write. "There is no such file" and "no longer" are fine.
PHRASES = {
    r"(?<!there )(?<!There )\b(?:is|are) no (?!longer\b|more\b|\w+er than\b)": "not",
    r"\bpictures?\b": "image",
    r"\bhangs? on\b": "depends on",
    r"\bso many\b": "N, that many",
    r"\bfor so long\b": "for that long",
    r"\bgo(?:es)? on (?:from|with)\b": "resume from, continue with",
    r"\banew\b": "again",
    r"\bpassed over\b": "skipped",
    r"\bin the mean(?=[,.;:)]| of)": "on average",
    r"\bfor one in\b": "for NAME in",
    r"\bsuch as has\b": "name the thing",
}

# Where the word is data: templates, synonyms, names of sources, a key of earlier suites.
DATA = {
    "unimodal/demo/sentences.py": "picture",
    "eval/analysis/paraphrase.py": "picture",
    "training/speed/data.py": "picture",
    "eval/data/folder_tasks.py": "picture",
}


def _words(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every comment and string of a file, and of every loop over one in many."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.COMMENT, tokenize.STRING):
            yield token.start[0], token.string
    for number, line in enumerate(source.splitlines(), start=1):
        if "for one in" in line:
            yield number, "for one in"


def _faults(path: Path) -> Iterator[str]:
    name = path.relative_to(ROOT).as_posix()
    for line, text in _words(path):
        for phrase, better in PHRASES.items():
            match = re.search(phrase, text)
            if match is None:
                continue
            if name in DATA and DATA[name] in match[0]:
                continue
            yield f"{name}:{line}: {match[0]!r}; write {better!r}"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_phrase_has_to_be_decoded(folder: str) -> None:
    faults: list[str] = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        faults += _faults(path)
    assert not faults, "\n".join(faults)
