"""LanceDB holds what every store has to, and what only it can: several writers at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unimodal.search.conformance import Conformance

pytest.importorskip("lancedb")

from unimodal.search import lance  # after the skip


class TestLance(Conformance):
    capabilities = lance.CAPABILITIES

    @staticmethod
    def url(folder: Path) -> str:
        return f"lance://{folder}/store"
