from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unimodal.formats.native import save_model
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer

# what takes a second or more together, and no command needs before it has something to encode
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
UNUSED = {  # by an evaluation of captions and images, once its model is loaded
    "torch._dynamo",
    "torch._inductor",
    "triton",
    "scipy",
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
    """Names in sys.modules of a process of its own that has run the program."""
    asked = f"{program}\nimport json, sys\nprint('\\n' + json.dumps([*sys.modules]))"
    finished = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True
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


@pytest.mark.parametrize("name", ["eval", "search", "mteb"])
def test_the_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    assert not modules_after(command(name, "--help")) & HEAVY


def test_an_evaluation_imports_nothing_that_it_does_not_use(
    model: DualEncoder, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    save_model(tmp_path / "model", model, tokenizer)
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
    older = (
        {"sklearn", "scipy", "pandas", "pyarrow"}
        if sys.version_info < (3, 11)
        else set()
    )
    assert not found & (UNUSED - older)


def test_what_stood_in_makes_way_for_the_real_thing() -> None:
    program = """
import torch
disable = torch.compiler.disable
from unimodal.towers.light_imports import import_timm, import_transformers
import_timm()
import_transformers()
assert torch.compiler.disable is disable
assert "torch._dynamo" not in sys.modules
assert "scipy.optimize" not in sys.modules or sys.version_info < (3, 11)

from torchvision.ops import roi_align
boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
assert roi_align(torch.ones(1, 1, 8, 8), boxes, 2).shape == (1, 1, 2, 2)
from transformers.loss.loss_rt_detr import linear_sum_assignment
assert [*map(list, linear_sum_assignment([[1.0, 2.0], [2.0, 1.0]]))] == [[0, 1], [0, 1]]
from timm.models.naflexvit import NaFlexRopeIterator
import scipy.optimize
import torch._dynamo
assert torch._dynamo.utils.is_compile_supported("cpu")
assert torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item() == 2
"""
    modules_after(f"import sys\n{program}")


def test_what_nobody_foresaw_of_the_compiler_is_the_real_thing() -> None:
    program = """
import torch
from unimodal.towers import light_imports
with light_imports._later(light_imports._COMPILER):
    assert torch._dynamo.config.cache_size_limit > 0
assert torch._dynamo.config is sys.modules["torch._dynamo.config"]
"""
    modules_after(f"import sys\n{program}")


def test_a_package_that_imports_a_part_of_the_compiler_gets_the_real_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "newer_timm.py").write_text(
        "from torch._dynamo.eval_frame import OptimizedModule"
    )
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from unimodal.towers import light_imports
light_imports._import("newer_timm", modules=light_imports._COMPILER)
import newer_timm, torch._dynamo
assert newer_timm.OptimizedModule is torch._dynamo.eval_frame.OptimizedModule
"""
    modules_after(program)


def test_two_threads_that_import_at_once_leave_nothing_behind() -> None:
    program = """
import sys, threading, torch
disable = torch.compiler.disable
from unimodal.towers.light_imports import import_timm, import_transformers
threads = [threading.Thread(target=target) for target in (import_timm, import_transformers)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert torch.compiler.disable is disable
assert "torch._dynamo" not in sys.modules
assert "scipy.optimize" not in sys.modules or sys.version_info < (3, 11)
assert {"timm", "transformers"} <= sys.modules.keys()
"""
    modules_after(program)
