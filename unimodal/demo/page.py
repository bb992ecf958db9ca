"""The demo's page: the scores and a dozen searches, in one HTML file that needs nothing else, light
or dark.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from PIL import Image

from .results import Result, ResultGroup

EXPLANATIONS = {
    "text → image": "A customer's words, found among images. No image has any text with it.",
    "image → text": "An image, found among descriptions.",
    "image → image": "A product drawn again, from another angle and in another place, found among the "
    "pictures.",
    "text → text": "A customer's words, found among descriptions.",
}

STYLE = """
:root { color-scheme: light dark;
  --page: #f6f4f0; --card: #ffffff; --ink: #24211d; --quiet: #6b655c; --line: #e2ddd4; --right: #16713d;
  --right-soft: #e3f3e8; --accent: #b0501e; --soft: #f0ece4; }
@media (prefers-color-scheme: dark) { :root {
  --page: #171614; --card: #22201d; --ink: #ece8e1; --quiet: #a39c91; --line: #38352f; --right: #6fd396;
  --right-soft: #1d3325; --accent: #f0a070; --soft: #2b2824; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 0 20px 64px; }
.showcase { display: grid; grid-template-columns: repeat(12, 1fr); gap: 4px; padding: 4px; background: var(--card); }
.showcase img { width: 100%; display: block; border-radius: 4px; }
h1 { font-size: clamp(1.7rem, 4vw, 2.5rem); line-height: 1.15; margin: 36px 0 8px; letter-spacing: -0.02em; }
h2 { font-size: 1.35rem; margin: 48px 0 2px; }
p { margin: 0 0 12px; max-width: 46em; }
.quiet { color: var(--quiet); }
dl.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 24px 0; }
dl.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
dt { color: var(--quiet); font-size: 0.85rem; }
dd { margin: 0; font-size: 1.3rem; font-weight: 650; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 10px 16px; border-bottom: 1px solid var(--line); }
th { font-size: 0.85rem; color: var(--quiet); font-weight: 600; white-space: nowrap; }
tr:last-child td { border-bottom: 0; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.value { font-weight: 650; }
.search { display: grid; grid-template-columns: 210px 1fr; gap: 20px; margin-top: 16px; padding: 16px;
  background: var(--card); border: 1px solid var(--line); border-radius: 14px; }
.query { align-self: start; }
.query .label { font-size: 0.8rem; color: var(--quiet); margin-bottom: 6px; }
.query blockquote { margin: 0; padding: 12px 14px; background: var(--soft); border-left: 3px solid var(--accent);
  border-radius: 0 10px 10px 0; font-size: 1.05rem; overflow-wrap: anywhere; }
.query img { width: 100%; max-width: 210px; border-radius: 10px; display: block; outline: 3px solid var(--accent); }
.query .rank { margin-top: 10px; font-size: 0.85rem; }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 10px; align-content: start; }
ol.pictures { grid-template-columns: repeat(5, 1fr); }
li { border: 1px solid var(--line); border-radius: 10px; overflow: hidden; background: var(--card); }
li.right { border: 2px solid var(--right); background: var(--right-soft); }
li img { width: 100%; display: block; }
li .words { padding: 8px 10px 10px; font-size: 0.85rem; line-height: 1.35; }
ol.texts .words { padding: 10px 14px; font-size: 0.95rem; }
li .title { font-weight: 600; overflow-wrap: anywhere; }
li .meta { color: var(--quiet); font-size: 0.8rem; margin-top: 4px; }
ol.pictures .meta span { display: block; }
ol.texts .meta span + span::before { content: " · "; color: var(--quiet); }
.badge { font-weight: 700; color: var(--right); }
footer { margin-top: 48px; color: var(--quiet); font-size: 0.85rem; }
@media (max-width: 760px) { .search { grid-template-columns: 1fr; } .showcase { grid-template-columns: repeat(6, 1fr); }
  ol.pictures { grid-template-columns: repeat(2, 1fr); } }
"""


def write_page(
    path: Path,
    *,
    title: str,
    introduction: str,
    groups: Sequence[ResultGroup],
    scores: Sequence[Mapping[str, object]],
    facts: Mapping[str, str],
    showcase: Sequence[tuple[str, Image.Image]] = (),
    footer: str = "",
) -> None:
    """Write the page to `path`. All texts are escaped; images are embedded.

    groups: the searches, those of one direction after each other (`build_groups`).
    scores: a row a measurement: "task", "metric", "value", "chance", "baseline"; numbers, texts, or
        None for a dash.
    facts: what to know at a glance, such as {"products": "1,024", "training": "92 s"}.
    showcase: titles and images for the head of the page (`draw_showcase`).
    """
    sections = [
        _section(direction, list(searches))
        for direction, searches in groupby(groups, lambda group: group.direction)
    ]
    html = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{_showcase(showcase)}
<main>
<h1>{escape(title)}</h1>
<p>{escape(introduction)}</p>
{_facts(facts)}
{_scores(scores)}
{"".join(sections)}
<footer>{escape(footer)}</footer>
</main>
</body>
</html>
"""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")


def _showcase(images: Sequence[tuple[str, Image.Image]]) -> str:
    if not images:
        return ""
    return (
        "<div "
        f'class="showcase">{"".join(_image(image, name) for name, image in images)}</div>'
    )


def _facts(facts: Mapping[str, str]) -> str:
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f'<dl class="facts">{tiles}</dl>'


def _scores(scores: Sequence[Mapping[str, object]]) -> str:
    rows = "".join(
        f"<tr><td>{escape(str(row['task']))}</td><td>{escape(str(row['metric']))}</td>"
        f'<td class="number value">{_number(row["value"])}</td><td class="number">{_number(row.get("chance"))}</td>'
        f'<td class="number">{_number(row.get("baseline"))}</td></tr>\n'
        for row in scores
    )
    return f"""<h2>Scores</h2>
<div class="scroll"><table>
<thead><tr><th>Task</th><th>Metric</th><th class="number">Score</th><th class="number">Chance</th>
<th class="number">Baseline</th></tr></thead>
<tbody>{rows}</tbody></table></div>"""


def _number(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else escape(str(value))


def _section(direction: str, searches: list[ResultGroup]) -> str:
    explanation = escape(EXPLANATIONS.get(direction, ""))
    blocks = "".join(_search(group) for group in searches)
    return (
        f"<h2>{escape(direction.capitalize())}</h2>\n<p "
        f'class="quiet">{explanation}</p>\n{blocks}'
    )


def _search(group: ResultGroup) -> str:
    if isinstance(group.query, str):
        query = f"<blockquote>{escape(group.query)}</blockquote>"
    else:
        query = _image(group.query, "the image that was searched with")
    rank = (
        "the right product came first"
        if group.right_rank == 1
        else f"the right product came at rank {group.right_rank}"
    )
    shape = (
        "pictures" if group.results and group.results[0].image is not None else "texts"
    )
    return f"""<div class="search">
<div class="query"><div class="label">searched with</div>{query}<div class="rank quiet">{rank}</div></div>
<ol class="{shape}">{"".join(_result(result) for result in group.results)}</ol>
</div>
"""


def _result(result: Result) -> str:
    """A card; the right one says so in words and has a thicker frame, so that nobody needs to see
    its colour.
    """
    image = "" if result.image is None else _image(result.image, result.title)
    text = f"<div>{escape(result.text)}</div>" if result.image is None else ""
    verdict = f"<span>{'same ' + ' and '.join(result.shared) if result.shared else 'another product'}</span>"
    if result.right:
        verdict = '<span class="badge">✓ right</span>'
    return (
        f'<li class="{"right" if result.right else "other"}">{image}<div class="words">'
        f'<div class="title">{escape(result.title)}</div>{text}'
        f'<div class="meta">{verdict}<span>similarity {result.similarity:.2f}</span>'
        f"<span>${result.price:.2f}</span></div></div></li>"
    )


def _image(image: Image.Image, alternative: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{encoded}" alt="{escape(alternative)}">'
