"""YAML as we read and write it: the core schema of YAML 1.2, and no silent misreading.

Only `true` and `false` are booleans: `on`, `yes` and `n` are texts, as are `12:30`, `1_000` and
`2026-11-30`, and `010` is ten. A key that is written twice is an error, and so is `{a:b}`, which
YAML reads as the key "a:b" without a value.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import Any

import yaml

_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# https://yaml.org/spec/1.2.2/#103-core-schema: tag, pattern, first characters
_CORE_SCHEMA = [
    ("null", r"(?:|~|null|Null|NULL)", ["", "~", "n", "N"]),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)", list("tTfF")),
    ("int", r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)", list("-+0123456789")),
    (
        "float",
        r"(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))",
        list("-+.0123456789"),
    ),
    ("merge", r"<<", ["<"]),  # of YAML 1.1, for `<<: *anchor`
]


def read_yaml(path: Path) -> Any:
    """Read a YAML file; None for one without any content.

    Raises ValueError, naming file and line, for what is not YAML, and for what is not UTF-8 (or
    UTF-16 with its mark).
    """
    return parse_yaml(_decode(path.read_bytes(), str(path)), str(path))


def parse_yaml(text: str, source: str) -> Any:
    """Parse a YAML text; None where it is empty.

    source: the file, for messages. Raises ValueError, naming the line, for what is not YAML.
    """
    value, _ = _parse(text, f"{source}, line ", "")
    return value


def parse_value(text: str) -> Any:
    """Parse a YAML text of one line, such as follows the = of an override.

    Raises ValueError, without a place, for what is not YAML, and where `#` begins a comment: it
    would be lost.
    """
    value, rest = _parse(text, "", "column ")
    if rest:
        raise ValueError(
            f"what comes from {rest[:20]!r} on is a comment in YAML; put the text in quotes"
        )
    return value


def dump_yaml(values: Any) -> str:
    """Write YAML that `parse_yaml` and readers of YAML 1.1 read alike; keys keep their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _parse(text: str, line: str, column: str) -> tuple[Any, str]:
    """Parse a text into its value and what follows it."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, text.strip()
        return loader.construct_document(node), text[node.end_mark.index :].strip()
    except yaml.YAMLError as error:
        raise ValueError(_describe(error, line, column)) from None


def _describe(error: yaml.YAMLError, line: str, column: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None)
    context = getattr(error, "context", None)
    if isinstance(error, _Refused) and mark is not None:
        return f"{line}{mark.line + 1}: {problem}" if line else str(problem)
    if mark is None or problem is None:
        reason = " ".join(str(error).split())
        source = line.partition(",")[0] if line else "the value"
        return f"{source} is not YAML: {reason}"
    reason = f"{problem}, {context}" if context else problem
    if line:
        return f"{line}{mark.line + 1} is not YAML: {reason}"
    return f"{column}{mark.column + 1} is not YAML: {reason}; put a text in quotes"


def _decode(content: bytes, source: str) -> str:
    encoding = next(
        (name for mark, name in _BYTE_ORDER_MARKS.items() if content.startswith(mark)),
        "utf-8",
    )
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{source}, line {line} is not UTF-8 (byte 0x{content[error.start]:02x}); "
            "save the file as UTF-8."
        ) from None


class _Refused(yaml.MarkedYAMLError):
    """What YAML allows and we do not."""


class _Loader(yaml.SafeLoader):
    # As in the parent, a class attribute.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                where = (
                    f", in lines {lines[key.value]} and {line}"
                    if line != lines[key.value]
                    else ""
                )
                problem = f"the key {key.value!r} is written twice{where}; keep one."
                raise _Refused(problem=problem, problem_mark=key.start_mark)
            lines[key.value] = line
            if node.flow_style and _is_left_out(value):
                raise _Refused(
                    problem=_advice_on_value(key.value), problem_mark=key.start_mark
                )
        return node


def _is_left_out(value: yaml.Node) -> bool:
    """Whether a key has no value, not even a null."""
    return (
        isinstance(value, yaml.ScalarNode) and value.value == "" and value.style is None
    )


def _advice_on_value(key: str) -> str:
    name, colon, rest = key.partition(":")
    if colon and rest:
        return (
            f"{{{key}}} has the one key {key!r} and no value; write a blank after the colon, "
            f"{{{name}: {rest}}}, or put the text in quotes."
        )
    return (
        f"{{{key}}} is a mapping whose key {key!r} has no value; put a text in quotes, "
        f"'{{{key}}}', or write a value."
    )


def _construct_int(_loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text: str = node.value
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    return int(text[2:] if base != 10 else text, base)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would not read as a text."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as in the parent
        first: list(resolvers)
        for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


for _tag, _pattern, _first in _CORE_SCHEMA:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"{_pattern}$"), _first
        )  # type: ignore[no-untyped-call]
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
