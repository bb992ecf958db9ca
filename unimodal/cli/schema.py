"""The command that prints the JSON schema of a YAML file."""

from __future__ import annotations

import importlib
import json
from enum import Enum
from typing import Annotated

import typer

_CONFIGS = {
    "train": ("unimodal.training.config", "TrainConfig"),
    "suite": ("unimodal.eval.suites", "Suite"),
    "pack": ("unimodal.shards.config", "PackRecipe"),
    "index": ("unimodal.search.index.items", "IndexConfig"),
    "serve": ("unimodal.serve.config", "ServeConfig"),
}


class Kind(str, Enum):
    """What a schema can describe."""

    TRAIN = "train"
    SUITE = "suite"
    PACK = "pack"
    INDEX = "index"
    SERVE = "serve"


def schema(
    kind: Annotated[
        Kind, typer.Argument(help="Describe the files or keys of this command.")
    ],
) -> None:
    """Print a JSON schema, by which editors complete recipes: `schema train > recipe.json`."""
    from unimodal.config_keys import recipe_schema

    module, name = _CONFIGS[kind.value]
    config = getattr(importlib.import_module(module), name)
    print(json.dumps(recipe_schema(config), indent=2))
