"""Noto's emoji with their names and keywords in many languages, from Unicode's CLDR."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from .images import write_rows

LANGUAGES = (
    "en",
    "de",
    "fr",
    "es",
    "it",
    "pt",
    "pl",
    "nl",
    "ru",
    "ar",
    "hi",
    "ja",
    "zh",
    "ko",
    "tr",
    "vi",
    "th",
    "el",
    "ro",
    "sv",
)
KEYWORD_LANGUAGES = ("de", "fr", "es", "it", "pt", "pl", "nl", "ja", "zh", "ru", "ar")
_SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
_VARIATION = "\ufe0f"  # asks for the coloured form; CLDR lists most emoji without it

Annotations = dict[str, dict[str, list[str]]]


def convert_emoji_noto(source: Path, target: Path) -> None:
    """noto/png/72 and cldr/cldr-json -> emoji.jsonl and images/.

    Leaves out skin tones and emoji without a name in CLDR.
    """
    annotations = {
        language: _annotations(source / "cldr" / "cldr-json", language)
        for language in LANGUAGES
    }
    (target / "images").mkdir()
    rows = []
    for image in sorted((source / "noto" / "png" / "72").glob("emoji_u*.png")):
        number = image.stem.removeprefix("emoji_u")
        character = "".join(chr(int(code, 16)) for code in number.split("_"))
        known = {
            language: _of(character, annotations[language]) for language in LANGUAGES
        }
        if _SKIN_TONES & set(character) or "tts" not in known["en"]:
            continue
        names = {
            language: known[language]["tts"][0]
            for language in LANGUAGES
            if "tts" in known[language]
        }
        keywords = {
            language: known[language]["default"]
            for language in KEYWORD_LANGUAGES
            if known[language].get("default")
        }
        row = {
            "id": number,
            "char": character,
            "image": f"images/{number}.png",
            "name": names["en"],
            "keywords": known["en"].get("default", []),
            "names": names,
            "keywords_i18n": keywords,
            "skin_tone": False,
        }
        rows.append(row)
        shutil.copy(image, target / f"images/{number}.png")
    write_rows(target / "emoji.jsonl", rows)
    shutil.copy(
        source / "noto" / "LICENSE", target / "LICENSE.noto-emoji.Apache-2.0.txt"
    )
    shutil.copy(source / "cldr" / "LICENSE", target / "LICENSE.cldr.Unicode-3.0.txt")


def _annotations(folder: Path, language: str) -> Annotations:
    """Character -> tts: its name, default: its keywords."""
    found: Annotations = {}
    for package, key in (
        ("cldr-annotations-full", "annotations"),
        ("cldr-annotations-derived-full", "annotationsDerived"),
    ):
        file = folder / package / key / language / "annotations.json"
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        for character, values in content[key]["annotations"].items():
            found.setdefault(character, {}).update(values)
    return found


def _of(character: str, annotations: Annotations) -> dict[str, list[str]]:
    return (
        annotations.get(character)
        or annotations.get(character.replace(_VARIATION, ""))
        or {}
    )
