"""`/docs`: the OpenAPI description as one page.

FastAPI's own pages load their script from another site.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeAlias

from fastapi import APIRouter, FastAPI, Response
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

Json: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """A parameter, or a key of a body."""

    name: str
    facts: str  # its type, and whether it is required
    about: str


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    about: str
    parameters: list[Field]
    body: list[Field]
    answers: dict[str, str]  # status -> its description


@dataclass(frozen=True)
class Section:
    """The operations with one tag."""

    title: str
    operations: list[Operation]


def reference_router(app: FastAPI) -> APIRouter:
    """/docs, the page of this app's operations."""
    router = APIRouter(include_in_schema=False)
    style = resources.files(__package__).joinpath("reference.css").read_text("utf-8")
    headers = _headers(style)

    @router.get("/docs")
    async def docs() -> Response:
        page = render(app.openapi(), style)
        return Response(page, media_type="text/html; charset=utf-8", headers=headers)

    return router


def _headers(style: str) -> dict[str, str]:
    """Headers that allow this style, and nothing else."""
    digest = hashlib.sha256(style.encode()).digest()
    policy = [
        "default-src 'none'",
        f"style-src 'sha256-{base64.b64encode(digest).decode()}'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return {
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
    }


def render(spec: Json, style: str) -> str:
    """The HTML page of an OpenAPI description."""
    environment = Environment(
        loader=PackageLoader("unimodal.serve.page", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("reference.html.j2")
    return template.render(
        title=spec["info"]["title"],
        paragraphs=spec["info"].get("description", "").split("\n\n"),
        sections=read_sections(spec),
        style=Markup(style),  # a file of this package
    )


def read_sections(spec: Json) -> list[Section]:
    """The operations of a description by tag, in its order."""
    sections: dict[str, Section] = {}
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            section = sections.setdefault(tag, Section(tag, []))
            section.operations.append(_read_operation(method, path, operation, spec))
    return list(sections.values())


def _read_operation(method: str, path: str, operation: Json, spec: Json) -> Operation:
    responses = operation.get("responses", {})
    return Operation(
        method=method.upper(),
        path=path,
        about=operation.get("description") or operation.get("summary", ""),
        parameters=_read_parameters(operation, spec),
        body=_read_body(operation, spec),
        answers={
            status: answer.get("description", "")
            for status, answer in responses.items()
        },
    )


def _read_parameters(operation: Json, spec: Json) -> list[Field]:
    return [
        _read_field(
            parameter["name"],
            parameter.get("schema", {}),
            parameter.get("required", False),
            spec,
        )
        for parameter in operation.get("parameters", ())
    ]


def _read_body(operation: Json, spec: Json) -> list[Field]:
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    if not schema:
        return []
    schema = _resolve(schema, spec)
    required = schema.get("required", ())
    return [
        _read_field(name, field, name in required, spec)
        for name, field in schema.get("properties", {}).items()
    ]


def _read_field(name: str, schema: Json, required: bool, spec: Json) -> Field:
    facts = _describe_type(schema, spec)
    default = schema.get("default")
    if required:
        facts += ", required"
    elif default not in (None, "", []):
        facts += f", default {default!r}"
    return Field(name, facts, schema.get("description", ""))


def _describe_type(schema: Json, spec: Json) -> str:
    """The type of a value in words."""
    schema = _resolve(schema, spec)
    kind = schema.get("type")
    if "anyOf" in schema:
        kinds = [_describe_type(option, spec) for option in schema["anyOf"]]
        return " or ".join(name for name in dict.fromkeys(kinds) if name != "null")
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if kind == "array":
        return f"list of ({_describe_type(schema.get('items', {}), spec)})"
    if kind == "object" and schema.get("properties"):
        return "{" + ", ".join(schema["properties"]) + "}"
    return str(kind or "anything")


def _resolve(schema: Json, spec: Json) -> Json:
    """The schema that a $ref points to."""
    if "$ref" not in schema:
        return schema
    target: Any = spec
    for key in schema["$ref"].removeprefix("#/").split("/"):
        target = target[key]
    return target  # type: ignore[no-any-return]  # JSON
