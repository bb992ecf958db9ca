"""The command line as a user meets it: in a process of its own, with its exit status and one-line
errors.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Recipe
from training.run.resume import write_config
from unimodal.config import Config
from unimodal.search.index.items import IndexConfig
from unimodal.serve.config import ServeConfig


def _unimodal(
    *words: object, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unimodal", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=cwd)


def _recipe_file(recipe: Recipe, folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    write_config(folder, recipe(changes))
    return folder / "config.yaml"


# Without the hub's tower; any file will do as a tokenizer.
DRY_RUN = [
    "train",
    "openstax-mini",
    "--dry-run",
    "model.text.name=bert",
    "model.text.pretrained=false",
    f"model.text.tokenizer={__file__}",
]


def test_help_and_a_dry_run_import_no_torch() -> None:
    code = (
        "import sys\nsys.argv = ['unimodal', *{words}]\nfrom unimodal.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {{'torch', 'transformers', 'timm', 'open_clip'}} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    for words in (["--help"], ["train", "--help"], DRY_RUN):
        result = subprocess.run(
            [sys.executable, "-c", code.format(words=words)],
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("words", [[], ["shards"]], ids=["unimodal", "unimodal shards"])
def test_every_command_has_help(words: list[str]) -> None:
    from typer.testing import CliRunner

    from unimodal.cli import app, shards_app

    for command in (app if not words else shards_app).registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__
        result = CliRunner().invoke(app, [*words, name, "--help"])
        assert result.exit_code == 0, f"{name}: {result.exception}"


@pytest.mark.parametrize(
    ("command", "config", "arguments"),
    [
        ("serve", ServeConfig, {"model", "store", "urls"}),
        ("index", IndexConfig, {"input"}),
    ],
)
def test_help_lists_every_key_with_its_default_and_comment(
    command: str,
    config: type[Config],
    arguments: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from typer.testing import CliRunner

    from unimodal.cli import app

    monkeypatch.setenv("COLUMNS", "80")
    output = CliRunner().invoke(app, [command, "--help"]).stdout
    assert max(map(len, output.splitlines())) <= 80
    words = output.split()
    for key in config.model_fields.keys() - arguments:
        assert any(word.startswith(f"{key}=") for word in words), key
    said = {
        "serve": [
            "queue_items=4096",
            "urls.redirects=3",
            "429",
            "Pixels per forward pass",
        ],
        "index": ["hash_range=[0,100]", "binary=", "Fields to filter by"],
    }
    assert all(one in output for one in said[command])


def test_train_resume_plot_eval_and_embed_follow_each_other(
    recipe: Recipe, world: Path, tmp_path: Path
) -> None:
    file = _recipe_file(recipe, tmp_path / "recipe")
    run = tmp_path / "run"
    first = _unimodal("train", file, "steps=4", "tensorboard=true", "save_every=2")
    assert first.returncode == 0, first.stderr
    assert _unimodal("train", file, "steps=4", "tensorboard=true").returncode == 1
    again = _unimodal("train", file, "steps=4", "tensorboard=true", "--resume")
    assert again.returncode == 0, again.stderr
    assert list((run / "tensorboard").iterdir())
    plot = _unimodal("plot", run)
    assert plot.returncode == 0, plot.stderr
    assert (run / "plots.png").stat().st_size > 10_000

    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "tasks:\n  squares:\n    kind: image-text\n    rows: {input: "
        "pictures.jsonl}\n    text: captions\n"
    )
    on_suite = ["--suite", suite, "--data", world, "--cache", tmp_path / "cache"]
    scored = _unimodal(
        "eval",
        run / "model",
        *on_suite,
        "--dims",
        "8",
        "--json",
        tmp_path / "scores.json",
        "--html",
        tmp_path / "report.html",
        "analysis.space=true",
        "analysis.compression=true",
        "analysis.neighbours=true",
        "analysis.map=pca",
        "analysis.robustness=[typos]",
        f"analysis.contamination=[{world}/shards/pictures]",
    )
    assert scored.returncode == 0, scored.stderr
    assert "squares/text->image" in scored.stdout
    assert "0 texts and 0 images to encode" not in scored.stderr
    rows = json.loads((tmp_path / "scores.json").read_text())
    assert set(rows[0]) >= {
        "task",
        "metric",
        "value",
        "chance",
        "baseline",
        "model",
        "fingerprint",
        "suite",
        "split",
    }
    assert {row.get("variant") for row in rows} >= {
        "8 dims",
        "int8",
        "centred",
        "typos",
        "contamination",
    }
    assert "<svg" in (tmp_path / "report.html").read_text()
    again = _unimodal("eval", run / "model", *on_suite, "--dry-run")
    assert "0 texts and 0 images to encode" in again.stdout, again.stderr
    former = [*on_suite[:-2], "--store", tmp_path / "cache"]
    again = _unimodal("eval", run / "model", *former, "--dry-run")
    assert "0 texts and 0 images to encode" in again.stdout, again.stderr
    assert "--cache" in again.stderr
    longer = _unimodal("eval", run / "model", *on_suite, "--dims", "4096")
    assert "error: --dims 4096 is more than the " in longer.stderr
    second = _unimodal("eval", run / "model", tmp_path / "not" / "there", *on_suite)
    assert second.returncode == 1
    assert "to encode" not in second.stderr  # nothing was scored first
    absent = _unimodal(
        "eval", run / "model", "--suite", suite, "--data", tmp_path / "nowhere"
    )
    assert absent.returncode == 1
    assert "pictures.jsonl" in absent.stdout

    for words, count in (
        ([world / "images"], 79),
        ([world / "pairs.jsonl", "--text", "query"], 61),
        ([world / "pictures.jsonl", "--image", "image"], 79),
    ):
        out = tmp_path / "vectors"
        embedded = _unimodal("embed", run / "model", *words, out, "--overwrite")
        assert embedded.returncode == 0, embedded.stderr
        vectors = np.load(out / "vectors.npy", allow_pickle=False)
        assert vectors.shape == (count, 16)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
        assert len((out / "items.jsonl").read_text().splitlines()) == count


def test_validation_during_training_is_written_and_its_best_model_kept(
    recipe: Recipe, world: Path, tmp_path: Path
) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "tasks:\n  squares: {kind: image-text, rows: {input: pictures.jsonl}, text: captions}\n"
        "  pairs: {kind: text-retrieval, rows: {input: pairs.jsonl}}\n"
    )
    settings = {
        "suite": str(suite),
        "tasks": ["squares"],
        "data_root": str(world),
        "every": 2,
        "best": "squares/text->image hit_rate_at_1",
    }
    file = _recipe_file(recipe, tmp_path / "recipe", eval=settings, steps=4)
    result = _unimodal("train", file)
    assert result.returncode == 0, result.stderr
    rows = [
        json.loads(line)
        for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    validated = [row for row in rows if "val/squares/text->image hit_rate_at_1" in row]
    assert [row["step"] for row in validated] == [2, 4]
    assert not any("val/pairs" in name for row in rows for name in row)
    assert (tmp_path / "run/best/model.safetensors").is_file()


def test_shards_are_packed_checked_and_refused_twice(
    world: Path, tmp_path: Path
) -> None:
    words = (
        world / "pictures.jsonl",
        "image=image",
        "captions=[captions]",
        "--out",
        tmp_path / "packed",
    )
    packed = _unimodal("shards", "pack", *words)
    assert packed.returncode == 0, packed.stderr
    assert "packed already" in _unimodal("shards", "pack", *words).stderr
    checked = _unimodal("shards", "check", tmp_path / "packed")
    assert checked.returncode == 0
    assert "79" in checked.stdout
    (tmp_path / "packed/000000.tar").write_bytes(
        (tmp_path / "packed/000000.tar").read_bytes()[:9000]
    )
    assert _unimodal("shards", "check", tmp_path / "packed").returncode == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["train", "demmo"],
            "recipe 'demmo' is neither a file nor a shipped recipe; did you mean 'demo'?",
        ),
        (["train", "demo", "optim.lerning_rate=1"], "unknown key 'lerning_rate'; "),
        (
            ["train", "demo", "optim.lr=fast"],
            "optim.lr: Input should be a valid number",
        ),
        (["train", "demo", "steps"], "'steps' is not an override; write key=value"),
        (["train", "demo", "run=RUN", "data_root=nowhere", "eval=null"], "nowhere"),
        (
            ["eval", "nowhere/at/all", "--suite", "demo"],
            "2 tasks of suite demo lack data in .",
        ),
        (["eval", "demo", "--suite", "minni"], "'minni'"),
        (["eval", "tasks.figures=null"], "no model to score"),
        (
            ["eval", "a/b", "a/b/", "--suite", "demo"],
            "a/b is given twice; name each model once",
        ),
        (
            ["eval", "a/b", "--suite", "demo", "--dims", "64,0"],
            "--dims '64,0' holds '0'; give whole numbers above 0",
        ),
        (
            ["eval", "a/b", "--suite", "demo", "--dims", "64, 64"],
            "--dims '64, 64' names 64 twice",
        ),
        (
            ["mteb", "a/b", "SciFact", "--out", "OUT", "--dims", "many"],
            "--dims 'many' holds 'many'; give whole numbers",
        ),
        (
            ["eval", "a/b", "--suite", "demo", "--json", "."],
            "--json . is a folder; name a file in it",
        ),
        (["bench", "loss", "--json", "."], "--json . is a folder; name a file in it"),
        (
            ["eval", "a/b", "--suite", "demo", "--json", "x", "--html", "x"],
            "--json and --html name the same file, x",
        ),
        (
            ["eval", "a/b", "--suite", "demo", "--html", "/dev/null/r.html"],
            "would lie below /dev/null, which is a file",
        ),
        (["plot", "nowhere"], "nowhere/metrics.jsonl does not exist"),
        (["embed", "nowhere", "nothing.txt", "OUT"], "nothing.txt"),
        (["shards", "pack", "rows.csv", "image=i", "captions=[c]"], "add --out FOLDER"),
        (["shards", "check", "nowhere"], "nowhere"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_status_one(
    words: list[str], message: str, tmp_path: Path
) -> None:
    result = _unimodal(*words, cwd=tmp_path)
    assert result.returncode == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """mteb outside the home folder, and no hub."""
    pytest.importorskip("mteb")
    import huggingface_hub

    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "mteb"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_a_name_of_mtebs_is_no_model_of_ours_and_how_to_ask_mteb_for_it_is_said(
    offline: None,
) -> None:
    from unimodal.cli.evaluate import _load

    name = "jinaai/jina-clip-v1"
    way_out = rf"'{name}' is not a folder here .*; mteb:{name} is .* may run code"
    with pytest.raises(ValueError, match=way_out):
        _load("jinaai/jina-clip-v1", "cpu", "float32")
    with pytest.raises(
        ValueError, match="'nobody/nothing' is not a folder here"
    ) as error:
        _load("nobody/nothing", "cpu", "float32")
    assert "mteb" not in str(error.value)


def test_a_dtype_for_a_model_of_mtebs_is_refused() -> None:
    from unimodal.cli.evaluate import _load

    with pytest.raises(
        ValueError,
        match="dtype bfloat16 is for models of ours; leave it out for mteb:owner/name",
    ):
        _load("mteb:owner/name", "cpu", "bfloat16")
