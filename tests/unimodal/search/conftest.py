"""A model in a folder; and the suite that every store runs explains its failures as tests do."""

from pathlib import Path

import pytest

from unimodal.formats import native
from unimodal.model import DualEncoder
from unimodal.preprocess.tokenizers import Tokenizer

pytest.register_assert_rewrite(
    "tests.unimodal.search.stores.conformance",
    "tests.unimodal.search.stores.conformance_processes",
)


@pytest.fixture
def saved(tmp_path: Path, model: DualEncoder, tokenizer: Tokenizer) -> str:
    """The directory of a small model."""
    native.save(tmp_path / "model", model, tokenizer)
    return str(tmp_path / "model")
