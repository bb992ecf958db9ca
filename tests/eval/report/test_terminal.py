from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console, RenderableType

from eval.analysis.contamination import VARIANT
from eval.data.pairs import PairData
from eval.report.layout import WITHOUT_OVERLAP, halves_of, variant_groups
from eval.report.terminal import Results, results_table, write_json
from eval.results import TaskResult
from eval.scoring.score_row import ScoreRow
from eval.scoring.statistics import Comparison

ROWS = [
    ScoreRow("sections", "ndcg_at_10", 0.71, 0.003, 0.633, low=0.7, high=0.715),
    ScoreRow("figures/text->image", "hit_rate_at_1", None, 0.001, None),
    ScoreRow("figures/text->image", "hit_rate_at_5", None, 0.005, None),
]
BETTER = [
    ScoreRow("sections", "ndcg_at_10", 0.8, 0.003, 0.633, low=0.78, high=0.82),
    ScoreRow("figures/text->image", "hit_rate_at_1", 0.25, 0.001, None),
]
VARIED = [
    *BETTER,
    ScoreRow("sections", "ndcg_at_10", 0.7, 0.003, None, variant="64 dims"),
    ScoreRow("sections", "ndcg_at_10", 0.6, 0.003, None, variant="8 dims"),
    ScoreRow("sections", "ndcg_at_10", 0.79, 0.003, None, variant="int8"),
]


def printed(table: RenderableType, width: int = 100) -> list[str]:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines() if line.strip()]


def rendered(results: Results, width: int = 100) -> list[str]:
    return printed(results_table(results, width=width), width)


def test_each_half_has_a_section_with_chance_bm25_and_the_interval_beside_the_model() -> (
    None
):
    lines = rendered(ROWS)
    assert lines[0].split() == ["task", "metric", "chance", "BM25", "model"]
    assert lines[2].strip() == "text"
    assert lines[3].split() == [
        "sections",
        "ndcg_at_10",
        "0.003",
        "0.633",
        "0.710",
        "±.010",
    ]
    assert lines[4].strip() == "text and images"
    assert lines[5].split() == [
        "figures/text->image",
        "hit_rate_at_1",
        "0.001",
        "-",
        "-",
    ]
    assert lines[6].split() == ["hit_rate_at_5", "0.005", "-", "-"]


def test_a_task_stands_in_the_section_of_its_result() -> None:
    row = ScoreRow("lookup", "ndcg_at_10", 0.5, 0.1, None)
    about_both = ScoreRow("balance", "minimum", 0.4, None, None)
    halves = halves_of(
        [TaskResult("lookup", "cross-modal", PairData([], [], []), [row])]
    )
    lines = printed(
        results_table([ROWS[0], row, about_both], halves={**halves, "sections": "text"})
    )[2:]
    assert [line.strip() for line in lines[::2]] == [
        "text",
        "text and images",
        "all together",
    ]
    assert lines[-1].split()[0] == "balance"


def test_models_stand_side_by_side_in_a_hundred_columns() -> None:
    lines = rendered({"first": ROWS, "second": BETTER})
    assert lines[3].split() == [
        "sections",
        "ndcg_at_10",
        "0.003",
        "0.633",
        "0.710",
        "±.010",
        "0.800",
        "±.020",
    ]
    assert lines[5].split() == [
        "figures/text->image",
        "hit_rate_at_1",
        "0.001",
        "-",
        "-",
        "0.250",
    ]
    assert lines[6].split() == ["hit_rate_at_5", "0.005", "-", "-", "-"]
    crowded = rendered(
        {f"a-model-with-a-long-name-{number}": BETTER for number in range(5)}
    )
    assert max(map(len, crowded)) <= 100
    assert crowded[-1].split() == [
        "figures/text->image",
        "hit_rate_at_1",
        "0.001",
        "-",
        *["0.250"] * 5,
    ]


def test_intervals_give_way_where_the_terminal_is_narrow() -> None:
    three = {"first": BETTER, "second": BETTER, "third": BETTER}
    wide = rendered(three, 120)
    narrow = rendered(three, 80)
    assert wide[3].count("±") == 3
    assert "±" not in "".join(narrow)
    assert narrow[3].split() == [
        "sections",
        "ndcg_at_10",
        "0.003",
        "0.633",
        "0.800",
        "0.800",
        "0.800",
    ]


def test_a_difference_is_marked_and_how_sure_that_is_is_explained() -> None:
    both = {"first": ROWS, "second": BETTER}
    sure = Comparison("sections", "ndcg_at_10", 0.71, 0.8, 0.09, 0.05, 0.13, 0.01, 100)
    chance = Comparison(
        "figures/text->image", "hit_rate_at_1", 0.2, 0.25, 0.05, -0.05, 0.15, 0.3, 100
    )
    lines = printed(results_table(both, comparisons={"second": [sure, chance]}))
    assert lines[3].split()[-2:] == ["0.800*", "±.020"]
    assert "*" not in "".join(lines[4:-2])
    caption = " ".join(" ".join(lines).split()).rpartition("*")[2]
    assert caption.startswith(" differs from first (paired test, p < 0.05")


def test_the_best_of_a_score_is_bold_and_a_distance_has_no_best() -> None:
    gap = (
        [ScoreRow("figures", "modality_gap", 0.5, None, None)],
        [ScoreRow("figures", "modality_gap", 0.7, None, None)],
    )
    console = Console(width=100, force_terminal=True, color_system="standard")
    with console.capture() as captured:
        console.print(
            results_table({"first": [ROWS[0], *gap[0]], "second": [BETTER[0], *gap[1]]})
        )
    assert "\x1b[1m0.800" in captured.get()
    assert "\x1b[1m0.710" not in captured.get()
    assert "\x1b[1m0.700" not in captured.get()


def test_variants_stand_in_columns_beside_the_plain_score() -> None:
    lines = rendered(VARIED)
    dims = lines.index("dimensions")
    assert lines[dims + 1].split() == ["task", "metric", "8", "64", "all"]
    assert lines[dims + 3].split() == [
        "sections",
        "ndcg_at_10",
        "0.600",
        "0.700",
        "0.800",
    ]
    assert lines[dims + 5].split() == ["task", "metric", "int8", "plain"]
    assert lines[dims + 7].split() == [
        "sections",
        "ndcg_at_10",
        "0.790",
        "-0.010",
        "0.800",
    ]
    both = rendered({"first": VARIED, "second": VARIED[:-1], "third": VARIED})
    assert both[-2].split() == [
        "sections",
        "ndcg_at_10",
        "first",
        "0.790",
        "-0.010",
        "0.800",
    ]
    assert both[-1].split() == ["third", "0.790", "-0.010", "0.800"]


def test_the_score_without_overlap_is_known_by_its_variant() -> None:
    assert WITHOUT_OVERLAP == VARIANT


def test_what_a_variant_costs_the_same_queries_stands_beside_it() -> None:
    changed = [("typos", 0.5), ("typos, difference", -0.2), ("without overlap", 0.7)]
    rows = [
        ScoreRow("sections", "ndcg_at_10", value, None, None, variant=variant)
        for variant, value in changed
    ]
    lines = rendered([*VARIED, *rows])
    assert lines[-3].split() == [
        "task",
        "metric",
        "int8",
        "typos",
        "without",
        "overlap",
        "plain",
    ]
    assert lines[-1].split() == [
        "sections",
        "ndcg_at_10",
        "0.790",
        "-0.010",
        "0.500",
        "-0.200",
        "0.700",
        "0.800",
    ]


def test_variants_that_do_not_fit_stand_in_a_second_table() -> None:
    many = [
        ScoreRow("sections", "ndcg_at_10", 0.1 * n, None, None, variant=f"{2**n} dims")
        for n in range(1, 9)
    ]
    for width, tables in ((100, 1), (50, 4)):
        lines = rendered([*BETTER, *many], width)
        assert max(map(len, lines)) <= width
        heads = [line.split()[2:-1] for line in lines if line.split()[-1:] == ["all"]]
        assert len(heads) == tables
        assert [dim for head in heads for dim in head] == [
            str(2**n) for n in range(1, 9)
        ]


def test_what_has_no_plain_score_has_no_column_for_it() -> None:
    lines = rendered(
        [
            *BETTER,
            ScoreRow(
                "sections",
                "near_duplicate_share",
                0.25,
                None,
                None,
                variant="cosine 0.95",
            ),
        ]
    )
    assert lines[-3].split() == ["task", "metric", "cosine", "0.95"]
    assert lines[-1].split() == ["sections", "near_duplicate_share", "0.250"]


def test_json_holds_exactly_what_is_set(tmp_path: Path) -> None:
    write_json(
        [*ROWS, VARIED[-1], ScoreRow("sections", "map", 0.5, 0.1, None, num=12)],
        tmp_path / "new" / "scores.json",
    )
    written = json.loads((tmp_path / "new" / "scores.json").read_text())
    plain = {
        "task": "sections",
        "metric": "ndcg_at_10",
        "value": 0.71,
        "chance": 0.003,
        "baseline": 0.633,
    }
    assert written[0] == {**plain, "low": 0.7, "high": 0.715}
    assert written[1].keys() == plain.keys()
    assert written[3] == {**plain, "value": 0.79, "baseline": None, "variant": "int8"}
    assert written[4]["num"] == 12


def test_json_of_several_models_says_in_each_row_whose_it_is(tmp_path: Path) -> None:
    facts = {
        "first": {"fingerprint": "ab", "suite": "mini"},
        "second": {"fingerprint": "cd", "suite": "mini"},
    }
    write_json({"first": ROWS, "second": BETTER}, tmp_path / "both.json", facts)
    both = json.loads((tmp_path / "both.json").read_text())
    assert [row["model"] for row in both] == ["first"] * 3 + ["second"] * 2
    assert [row["fingerprint"] for row in both] == ["ab"] * 3 + ["cd"] * 2
    assert {row["suite"] for row in both} == {"mini"}


def test_tasks_in_three_languages_are_a_sheet_of_their_own() -> None:
    languages = [
        ScoreRow(f"xtd10/{language}/text->image", metric, 0.5, 0.01, None)
        for language in ("de", "en", "zh-tw")
        for metric in ("hit_rate_at_5", "hit_rate_at_10")
    ]
    lines = rendered(
        [*ROWS, ScoreRow("beir/nq", "ndcg_at_10", 0.4, 0.0, None), *languages]
    )
    sheet = lines.index("xtd10")
    assert "xtd10/de" not in "".join(lines)
    assert any(line.split()[:1] == ["beir/nq"] for line in lines[:sheet])
    assert lines[sheet + 1].split() == ["language", "text->image", "hit_rate_at_5"]
    assert [line.split() for line in lines[sheet + 3 :]] == [
        ["de", "0.500"],
        ["en", "0.500"],
        ["zh-tw", "0.500"],
    ]


def test_variants_of_nearly_the_same_lines_share_a_table() -> None:
    lines = [(f"task {n}", "ndcg_at_10", "") for n in range(10)]
    variants = {
        "64 dims": lines,
        "typos": lines,
        "first half": lines[:8],
        "poor jpeg": lines[8:],
        "int8": lines[2:],
    }
    assert variant_groups(variants) == [["typos", "first half", "int8"], ["poor jpeg"]]


UNDEFINED = [
    ScoreRow(
        "pairs", "spearman", None, 0.0, None, note="the scores of all 3 pairs are 3"
    ),
    ScoreRow(
        "pairs", "pearson", None, 0.0, None, note="the scores of all 3 pairs are 3"
    ),
    ScoreRow(
        "set",
        "ndcg_at_10",
        0.5,
        0.1,
        None,
        note="2 relevant documents are not in the corpus",
    ),
    ScoreRow(
        "set",
        "hit_rate_at_1",
        0.4,
        0.1,
        None,
        note="2 relevant documents are not in the corpus",
    ),
]


def test_an_undefined_score_says_so_and_why_below_the_table() -> None:
    lines = rendered(UNDEFINED)
    assert [
        line.split()[-1] for line in lines if "spearman" in line or "pearson" in line
    ][:2] == ["undefined"] * 2
    assert lines[-2:] == [
        "pairs spearman, pearson: the scores of all 3 pairs are 3",
        "set: 2 relevant documents are not in the corpus",
    ]


def test_what_is_to_be_known_of_one_model_names_it() -> None:
    lines = rendered(
        {"one": UNDEFINED[:1], "two": [ScoreRow("pairs", "spearman", 0.5, 0.0, None)]}
    )
    assert lines[-1] == "pairs spearman (one): the scores of all 3 pairs are 3"


def test_an_undefined_score_is_null_in_json_beside_its_note(tmp_path: Path) -> None:
    write_json(UNDEFINED, tmp_path / "scores.json")
    first, *_, last = json.loads((tmp_path / "scores.json").read_text())
    assert (first["value"], first["note"]) == (None, "the scores of all 3 pairs are 3")
    assert (last["value"], last["note"]) == (
        0.4,
        "2 relevant documents are not in the corpus",
    )
