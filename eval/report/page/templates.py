"""The Jinja templates of the page. All values are escaped, and an unknown name is an error."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: str, **values: object) -> str:
    """Fill a template of this folder, such as "report.html.j2"."""
    return make_environment().get_template(template).render(**values)


def make_environment() -> Environment:
    """Find templates in this folder, installed or in the checkout."""
    environment = Environment(
        autoescape=True,
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # the points of a map: compact, and readable in any language
    environment.policies["json.dumps_kwargs"] = {
        "ensure_ascii": False,
        "separators": (",", ":"),
    }
    return environment
