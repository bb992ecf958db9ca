from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from rich.console import Console

from eval.report import Results, results_table, write_json
from eval.results import Row

ROWS = [
    Row("figures/text->image", "hit_rate_at_1", None, 0.001, None),
    Row("figures/text->image", "hit_rate_at_5", None, 0.005, None),
    Row("sections", "ndcg_at_10", 0.71, 0.003, 0.633),
]
BETTER = [
    Row("figures/text->image", "hit_rate_at_1", 0.25, 0.001, None),
    Row("sections", "ndcg_at_10", 0.8, 0.003, 0.633),
]


def rendered(results: Results) -> list[str]:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(results_table(results))
    return [line.rstrip() for line in captured.get().splitlines() if line.strip()]


def test_a_table_shows_chance_and_bm25_beside_the_model() -> None:
    lines = rendered(ROWS)
    assert lines[0].split() == ["task", "metric", "chance", "BM25", "model"]
    assert lines[2].split() == ["figures/text->image", "hit_rate_at_1", "0.001", "-", "-"]
    assert lines[3].split() == ["hit_rate_at_5", "0.005", "-", "-"]
    assert lines[4].split() == ["sections", "ndcg_at_10", "0.003", "0.633", "0.710"]


def test_models_stand_side_by_side_in_a_hundred_columns() -> None:
    lines = rendered({"first": ROWS, "second": BETTER})
    assert lines[2].split() == ["figures/text->image", "hit_rate_at_1", "0.001", "-", "-", "0.250"]
    assert lines[3].split() == ["hit_rate_at_5", "0.005", "-", "-", "-"]
    assert lines[4].split()[-2:] == ["0.710", "0.800"]
    crowded = rendered({f"a-model-with-a-long-name-{number}": BETTER for number in range(5)})
    assert max(map(len, crowded)) <= 100
    assert crowded[-1].split() == ["sections", "ndcg_at_10", "0.003", "0.633", *["0.800"] * 5]


def test_json_holds_exactly_the_rows(tmp_path: Path) -> None:
    write_json(ROWS, tmp_path / "new" / "scores.json")
    written = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert written[2] == dataclasses.asdict(ROWS[2])
    assert (written[2]["value"], written[2]["chance"], written[2]["baseline"]) == (0.71, 0.003, 0.633)
    write_json({"first": ROWS, "second": BETTER}, tmp_path / "both.json")
    both = json.loads((tmp_path / "both.json").read_text())
    assert [row["model"] for row in both] == ["first"] * 3 + ["second"] * 2
