"""A line of code does one thing that a reader can name: counted by syntax tree, not by taste."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = ("unimodal", "training", "eval")
MAX_NODES = (
    8.0  # per code line: httpx has 6.2, torchtitan 6.1, sentence-transformers 7.1
)
MAX_COLUMNS = 100
NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
LITERALS = (ast.List, ast.Tuple, ast.Dict, ast.Set, ast.Constant)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def docstrings(tree: ast.AST) -> list[ast.Expr]:
    """Strings that stand as statements: of modules, classes, functions and fields."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]


def num_nodes(tree: ast.AST) -> int:
    """Nodes of a syntax tree without docstrings, of which each is a statement and a constant."""
    return sum(1 for _ in ast.walk(tree)) - 2 * len(docstrings(tree))


def code_lines(source: str, tree: ast.AST) -> set[int]:
    """Numbers of the lines that hold a token which is neither comment nor docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for docstring in docstrings(tree):
        assert docstring.end_lineno is not None
        lines.difference_update(range(docstring.lineno, docstring.end_lineno + 1))
    return lines


def tuple_assignments(tree: ast.AST) -> Iterator[int]:
    """Lines that assign several values at once; unpacking one value and a swap are fine."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Tuple):
            continue
        for target in node.targets:
            if isinstance(target, ast.Tuple):
                given = {ast.unparse(value) for value in node.value.elts}
                if given != {ast.unparse(name) for name in target.elts}:
                    yield node.lineno


def nested_comprehensions(tree: ast.AST) -> Iterator[int]:
    for node in ast.walk(tree):
        if isinstance(node, COMPREHENSIONS) and any(
            isinstance(inner, COMPREHENSIONS)
            for inner in ast.walk(node)
            if inner is not node
        ):
            yield node.lineno


def code_laid_out_by_hand(source: str, tree: ast.Module) -> Iterator[int]:
    """Lines with `fmt: skip` that are not a literal table of data."""
    marked = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and "fmt: skip" in token.string
    }
    tables: set[int] = set()
    for node in ast.walk(tree):
        value = getattr(node, "value", None)
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(
            value, LITERALS
        ):
            tables.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    yield from sorted(marked - tables)


def places(folders: tuple[str, ...], offence: str) -> list[str]:
    """FILE:LINE of every offence in the folders."""
    found = []
    for path in sources(*folders):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        lines: Iterator[int]
        if offence == "tuple assignment":
            lines = tuple_assignments(tree)
        elif offence == "nested comprehension":
            lines = nested_comprehensions(tree)
        elif offence == "fmt: skip":
            lines = code_laid_out_by_hand(source, tree)
        else:
            text = source.splitlines()
            lines = (n for n, line in enumerate(text, 1) if len(line) > MAX_COLUMNS)
        found += [f"{path.relative_to(ROOT)}:{line}" for line in sorted(set(lines))]
    return found


def test_a_code_line_has_few_nodes() -> None:
    nodes = 0
    lines = 0
    for path in sources(*PROGRAMS):
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        nodes += num_nodes(tree)
        lines += len(code_lines(source, tree))
    assert nodes / lines <= MAX_NODES


@pytest.mark.parametrize(
    "offence", ["tuple assignment", "nested comprehension", "fmt: skip"]
)
def test_the_programs_have_no(offence: str) -> None:
    assert places(PROGRAMS, offence) == []


def test_no_line_is_over_100_columns() -> None:
    assert places((*PROGRAMS, "tests"), "line") == []


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("a, b = x, y", 1),
        ("a, b = b, a", 0),
        ("a, b = pair", 0),
        ("a = x, y", 0),
        ("(a, b), c = x, y", 1),
    ],
)
def test_a_tuple_assignment_is_told_from_unpacking(code: str, count: int) -> None:
    assert len(list(tuple_assignments(ast.parse(code)))) == count


@pytest.mark.parametrize(
    ("code", "count"),
    [
        ("[[y for y in x] for x in z]", 1),
        ("[x for x in (y for y in z)]", 1),
        ("[y for x in z for y in x]", 0),
    ],
)
def test_a_nested_comprehension_is_found(code: str, count: int) -> None:
    assert len(list(nested_comprehensions(ast.parse(code)))) == count


def test_docstrings_and_comments_do_not_count() -> None:
    lines = [
        '"""Doc."""',
        "# comment",
        "x = 1",
        "class A:",
        '    """Doc."""',
        "    y: int",
    ]
    source = "\n".join([*lines, '    """Doc."""', ""])
    tree = ast.parse(source)
    assert code_lines(source, tree) == {3, 4, 6}
    bare = ast.parse("x = 1\nclass A:\n    y: int")
    assert num_nodes(tree) == num_nodes(bare)
