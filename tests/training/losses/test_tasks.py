"""The table of losses and the recipe name the same losses."""

from __future__ import annotations

from typing import get_args

from training.config import TaskConfig
from training.losses.tasks import LOSSES


def test_every_loss_that_a_recipe_can_name_is_in_the_table_and_no_other() -> None:
    names = get_args(TaskConfig.model_fields["loss"].annotation)
    assert sorted(LOSSES) == sorted(names)
