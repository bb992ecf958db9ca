"""A command imports what it uses, and nothing that takes long before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unimodal.formats import native
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer

# These take seconds together, and no command needs them before it has something to encode.
HEAVY = {
    "torch",
    "numpy",
    "PIL",
    "timm",
    "transformers",
    "open_clip",
    "torchvision",
    "pandas",
    "pyarrow",
    "scipy",
    "datasets",
    "mteb",
    "bm25s",
    "lancedb",
    "fastapi",
    "matplotlib",
    "ray",
    "pymilvus",
    "jinja2",
    "huggingface_hub",
}
# What an evaluation of captions and images does not use, once its model is loaded.
UNUSED = {
    "pandas",
    "pyarrow",
    "datasets",
    "mteb",
    "bm25s",
    "open_clip",
    "sklearn",
    "matplotlib",
    "lancedb",
    "fastapi",
    "ray",
    "pymilvus",
    "peft",
    "sentence_transformers",
}


def modules_after(program: str) -> set[str]:
    """Names in sys.modules of a new process that has run the program."""
    script = f"{program}\nimport json, sys\nprint('\\n' + json.dumps([*sys.modules]))"
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    names: list[str] = json.loads(finished.stdout.splitlines()[-1])
    return set(names)


def command(*words: str) -> str:
    return f"""import sys
from unimodal.cli import main
sys.argv = {["unimodal", *words]!r}
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code"""


def test_the_package_imports_nothing_heavy() -> None:
    assert not modules_after("import unimodal") & HEAVY


@pytest.mark.parametrize("name", ["search", "mteb"])
def test_the_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    assert not modules_after(command(name, "--help")) & HEAVY


def test_the_help_of_eval_imports_its_keys_and_what_they_are_made_of_alone() -> None:
    """Its keys are those of the kinds of task, whose modules hold arrays and images."""
    assert modules_after(command("eval", "--help")) & HEAVY <= {"numpy", "PIL"}


def test_an_evaluation_imports_nothing_that_it_does_not_use(
    model: DualEncoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    native.save(tmp_path / "model", model, tokenizer)
    rows = [
        {"image": f"{colour}.png", "text": f"a {colour} mug"}
        for colour in ("red", "green", "blue")
    ]
    for row, colour in zip(rows, ("red", "green", "blue"), strict=True):
        Image.new("RGB", (20, 20), colour).save(tmp_path / row["image"])
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows)
    )
    (tmp_path / "suite.yaml").write_text(
        "tasks: {mugs: {kind: image-text, rows: {input: rows.jsonl}}}"
    )
    words = [
        "eval",
        str(tmp_path / "model"),
        "--suite",
        str(tmp_path / "suite.yaml"),
        "--data",
        str(tmp_path),
    ]
    found = modules_after(command(*words))
    assert {"torch", "timm", "transformers"} <= found
    # The newest transformers for Python 3.10 imports scikit-learn, which imports these.
    if sys.version_info < (3, 11):
        found -= {"sklearn", "pandas", "pyarrow"}
    assert not found & UNUSED
