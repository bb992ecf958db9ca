"""`/docs`: the OpenAPI description as one page, drawn here, because the usual ones load their
script from elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI, Response

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: light-dark(#0b57d0, #8ab4f8) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem }
h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; text-transform: capitalize }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .6rem 0; padding: .2rem 1rem }
summary { cursor: pointer; padding: .5rem 0 }
summary b { display: inline-block; min-width: 3.5rem; color: var(--accent) }
summary span { opacity: .7; margin-left: .8rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem } caption { text-align: left; font-weight: 600 }
th, td { border-top: 1px solid var(--line); padding: .35rem .6rem .35rem 0; text-align: left; vertical-align: top }
th { font-weight: 500; width: 14rem } a { color: var(--accent) }
"""
_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action "
    "'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}


def reference_router(app: FastAPI) -> APIRouter:
    """The page of this app's operations."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs() -> Response:
        return Response(
            render(app.openapi()),
            media_type="text/html; charset=utf-8",
            headers=HEADERS,
        )

    return router


def render(spec: Mapping[str, Any]) -> str:
    """An OpenAPI description -> HTML."""
    title = escape(spec["info"]["title"])
    about = escape(spec["info"].get("description", ""))
    parts = [
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{STYLE}</style></head><body><h1>{title}</h1>",
        *(f"<p>{paragraph}</p>" for paragraph in about.split("\n\n")),
        '<p>For programs: <a href="/openapi.json">openapi.json</a></p>',
    ]
    tags: dict[str, list[str]] = {}
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["other"])[0]
            tags.setdefault(tag, []).append(
                "".join(_operation(method, path, operation, spec))
            )
    for tag, drawn in tags.items():
        parts += [f"<h2>{escape(tag)}</h2>", *drawn]
    return "".join([*parts, "</body></html>"])


def _operation(
    method: str, path: str, operation: Mapping[str, Any], spec: Mapping[str, Any]
) -> Iterator[str]:
    about = operation.get("description") or operation.get("summary", "")
    yield f"<details><summary><b>{method.upper()}</b> <code>{escape(path)}</code>"
    yield f"<span>{escape(about)}</span></summary>"
    if operation.get("parameters"):
        yield "<table><caption>Parameters</caption>"
        for one in operation["parameters"]:
            yield _row(
                one["name"], one.get("schema", {}), one.get("required", False), spec
            )
        yield "</table>"
    body = (
        operation.get("requestBody", {})
        .get("content", {})
        .get("application/json", {})
        .get("schema")
    )
    if body:
        schema = _resolved(body, spec)
        yield "<table><caption>Body, as JSON</caption>"
        for name, one in schema.get("properties", {}).items():
            yield _row(name, one, name in schema.get("required", ()), spec)
        yield "</table>"
    yield "<table><caption>Answers</caption>"
    for status, answer in operation.get("responses", {}).items():
        yield f"<tr><th><code>{escape(status)}</code></th><td>{escape(answer.get('description', ''))}</td></tr>"
    yield "</table></details>"


def _row(
    name: str, schema: Mapping[str, Any], required: bool, spec: Mapping[str, Any]
) -> str:
    default = schema.get("default")
    told = [escape(_kind(schema, spec))]
    told += (
        ["required"]
        if required
        else [f"default {escape(repr(default))}"]
        if default not in (None, "", [])
        else []
    )
    about = escape(schema.get("description", ""))
    return f"<tr><th><code>{escape(name)}</code></th><td>{', '.join(told)}<br>{about}</td></tr>"


def _kind(schema: Mapping[str, Any], spec: Mapping[str, Any]) -> str:
    schema = _resolved(schema, spec)
    if "anyOf" in schema:
        return " or ".join(
            dict.fromkeys(
                kind for one in schema["anyOf"] if (kind := _kind(one, spec)) != "null"
            )
        )
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    if schema.get("type") == "array":
        return f"list of ({_kind(schema.get('items', {}), spec)})"
    if schema.get("type") == "object" and schema.get("properties"):
        return "{" + ", ".join(schema["properties"]) + "}"
    return str(schema.get("type", "anything"))


def _resolved(schema: Mapping[str, Any], spec: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in schema:
        return schema
    found: Any = spec
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found  # type: ignore[no-any-return]  # JSON
