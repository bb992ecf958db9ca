"""The suite that every store runs explains its failures as tests do."""

import pytest

pytest.register_assert_rewrite("tests.unimodal.search.conformance")
