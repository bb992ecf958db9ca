from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.data.hub import table_files, table_rows
from eval.data.inputs import Deferred
from tests.eval.layouts import make_image


def write_parquet(file: Path, rows: list[dict[str, Any]], group: int = 2) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=group)


def readme(*configs: dict[str, Any]) -> str:
    return f"---\nlanguage:\n- en\nconfigs: {json.dumps(configs)}\n---\n# A data set\n"


def test_the_readme_says_which_files_a_split_is(tmp_path: Path) -> None:
    for name in ("b/x-1.jsonl", "b/x-0.jsonl", "b/y.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"a": 1}\n')
    files = [
        {"split": "test", "path": "b/x-*"},
        {"split": "dev", "path": ["b/y.jsonl"]},
    ]
    (tmp_path / "README.md").write_text(
        readme({"config_name": "corpus", "data_files": files})
    )
    assert [path.name for path in table_files(tmp_path, ["corpus"], "test")] == [
        "x-0.jsonl",
        "x-1.jsonl",
    ]
    assert [path.name for path in table_files(tmp_path, ["corpus"], "dev")] == [
        "y.jsonl"
    ]
    with pytest.raises(
        ValueError, match=r"corpus of .* has no split 'tst'; did you mean 'test'\?"
    ):
        table_files(tmp_path, ["corpus"], "tst")


@pytest.mark.parametrize(
    "files", ["a.jsonl", ["a.jsonl"], {"test": "a.jsonl", "dev": "b.jsonl"}]
)
def test_files_may_be_named_in_short(tmp_path: Path, files: Any) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "README.md").write_text(
        readme({"config_name": "default", "data_files": files})
    )
    assert table_files(tmp_path, ["default"], "test") == [tmp_path / "a.jsonl"]


def test_the_only_split_of_a_configuration_is_taken_whatever_it_is_called(
    tmp_path: Path,
) -> None:
    (tmp_path / "all.jsonl").write_text("{}\n")
    only = {
        "config_name": "corpus",
        "data_files": [{"split": "corpus", "path": "all.jsonl"}],
    }
    (tmp_path / "README.md").write_text(readme(only))
    assert table_files(tmp_path, ["corpus"], "test") == [tmp_path / "all.jsonl"]


def test_what_the_readme_names_and_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        readme({"config_name": "corpus", "data_files": "corpus.parquet"})
    )
    with pytest.raises(
        ValueError, match=r"lacks corpus\.parquet, which its README\.md names"
    ):
        table_files(tmp_path, ["corpus"], "test")


@pytest.mark.parametrize(
    "pattern",
    ["../secret.jsonl", "data/../../secret.jsonl", "{root}/secret.jsonl", "{root}/*"],
)
def test_a_readme_cannot_name_files_outside_of_its_folder(
    tmp_path: Path, pattern: str
) -> None:
    (tmp_path / "secret.jsonl").write_text("{}\n")
    folder = tmp_path / "set"
    (folder / "data").mkdir(parents=True)
    files = {"test": ["*.jsonl", pattern.format(root=tmp_path)]}
    (folder / "README.md").write_text(
        readme({"config_name": "corpus", "data_files": files})
    )
    with pytest.raises(
        ValueError, match=r"README\.md names '.*', which is not within its folder"
    ):
        table_files(folder, ["corpus"], "test")


@pytest.mark.parametrize(
    ("file", "config"),
    [
        ("corpus.jsonl", "corpus"),
        ("corpus.jsonl.gz", "corpus"),
        ("qrels/test.tsv", "qrels"),
        ("corpus/test-00000-of-00001.parquet", "corpus"),
        ("corpus/test/0000.parquet", "corpus"),
        ("corpus/train-00000-of-00001.parquet", "corpus"),
        ("en/sts22-test.parquet", "en"),
        ("test/en-en.jsonl.gz", "en-en"),
        ("data/test-00000-of-00001.parquet", "default"),
        ("test.jsonl.gz", "default"),
    ],
)
def test_without_a_readme_the_usual_places_are_looked_at(
    tmp_path: Path, file: str, config: str
) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
    (tmp_path / file).touch()
    (tmp_path / "notes.txt").touch()
    assert table_files(tmp_path, [config], "test") == [tmp_path / file]


def test_a_table_that_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "dev.tsv").touch()
    (tmp_path / "qrels" / "train.tsv").touch()
    with pytest.raises(
        ValueError, match=r"has no table qrels for the split 'test'; it holds qrels\."
    ):
        table_files(tmp_path, ["qrels"], "test")
    with pytest.raises(ValueError, match=r"'.*nowhere' does not exist; fetch"):
        table_files(tmp_path / "nowhere", ["qrels"], "test")


def test_images_of_a_parquet_file_are_read_when_they_are_needed(
    tmp_path: Path,
) -> None:
    contents = [make_image(number) for number in range(5)]
    cells: list[dict[str, Any] | None] = [
        {"bytes": one, "path": None} for one in contents
    ]
    cells[1] = None
    cells[3] = {"bytes": None, "path": "gone.png"}
    file = tmp_path / "pictures.parquet"
    write_parquet(file, [{"_id": n, "image": cell} for n, cell in enumerate(cells)])
    rows = list(table_rows([file]))
    assert [row["_id"] for row in rows] == [0, 1, 2, 3, 4]
    assert [isinstance(row["image"], Deferred) for row in rows] == [
        True,
        False,
        True,
        False,
        True,
    ]
    assert [row["image"].read() for row in rows[::2]] == contents[::2]
    assert len({row["image"] for row in rows[::2]}) == 3


def test_rows_come_from_gzipped_lines_too(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write('{"text": "é"}\n\n{"text": "b"}\n')
    assert list(table_rows([tmp_path / "a.jsonl.gz"])) == [{"text": "é"}, {"text": "b"}]
    (tmp_path / "a.jsonl.gz").write_bytes(b"not gzip")
    with pytest.raises(
        ValueError, match=r"a\.jsonl\.gz cannot be read .*; fetch it again"
    ):
        list(table_rows([tmp_path / "a.jsonl.gz"]))
