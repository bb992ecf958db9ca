"""The page of the API says what the description says, and as text."""

from __future__ import annotations

from typing import Any

from starlette.testclient import TestClient

from unimodal.serve.page.reference import read_sections, render

SPEC: dict[str, Any] = {
    "info": {"title": "<b>shop</b>", "description": "One.\n\nTwo."},
    "paths": {
        "/v1/things": {
            "post": {
                "tags": ["things"],
                "description": "Make <script>things</script>",
                "parameters": [
                    {"name": "k", "required": True, "schema": {"type": "integer"}}
                ],
                "requestBody": {
                    "content": {
                        "application/json": {
                            "schema": {"$ref": "#/components/schemas/Thing"}
                        }
                    }
                },
                "responses": {"200": {"description": "A thing"}},
            }
        }
    },
    "components": {
        "schemas": {
            "Thing": {
                "required": ["name"],
                "properties": {
                    "name": {"type": "string"},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "size": {
                        "anyOf": [{"enum": ["S", "M"]}, {"type": "null"}],
                        "default": "S",
                    },
                },
            }
        }
    },
}


def test_a_key_has_its_type_and_whether_it_is_required() -> None:
    (section,) = read_sections(SPEC)
    (operation,) = section.operations
    assert (section.title, operation.method, operation.path) == (
        "things",
        "POST",
        "/v1/things",
    )
    assert [(field.name, field.facts) for field in operation.body] == [
        ("name", "string, required"),
        ("tags", "list of (string)"),
        ("size", "S | M, default 'S'"),
    ]
    assert [field.facts for field in operation.parameters] == ["integer, required"]
    assert operation.answers == {"200": "A thing"}


def test_what_a_description_holds_is_shown_as_text() -> None:
    page = render(SPEC, style="td > b {}")
    assert "&lt;b&gt;shop&lt;/b&gt;" in page
    assert "<script" not in page
    assert "<p>Two.</p>" in page
    assert "<style>td > b {}</style>" in page


def test_the_style_is_allowed_by_its_hash(client: TestClient) -> None:
    assert (
        "style-src 'sha256-" in client.get("/docs").headers["content-security-policy"]
    )
