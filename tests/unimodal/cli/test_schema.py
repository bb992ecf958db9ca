"""The command that prints schemas, and the keys in --help."""

from __future__ import annotations

import json

import jsonschema
import pytest
from typer.testing import CliRunner

from unimodal.cli import app


@pytest.mark.parametrize("kind", ["train", "suite", "pack", "index", "serve"])
def test_a_schema_is_valid_json_schema(kind: str) -> None:
    result = CliRunner().invoke(app, ["schema", kind])
    assert result.exit_code == 0
    schema = json.loads(result.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["base"]


@pytest.mark.parametrize("width", ["80", "120"])
@pytest.mark.parametrize(
    ("command", "keys"),
    [
        (["train"], ["optim.lr=0.001", "tasks.NAME.sources.NAME.weight=1.0"]),
        (["eval"], ["analysis.space=false", "tasks.NAME.rows.split=train"]),
        (["index"], ["thumbnail=256", "fields="]),
        (["embed"], ["batch=256"]),
        (["serve"], ["port=8000", "urls.redirects=3"]),
        (["shards", "pack"], ["samples_per_shard=1000"]),
    ],
)
def test_help_lists_keys_with_their_defaults(
    monkeypatch: pytest.MonkeyPatch, command: list[str], keys: list[str], width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    for key in keys:
        assert key in result.stdout
