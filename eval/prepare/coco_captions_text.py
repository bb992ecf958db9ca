"""Captions of COCO's 2017 validation images, and people's ratings of their similarity.

Parekh et al. (2021), "Crisscrossed Captions": graded similarity of captions, of one image and of
several.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

from .images import write_rows

# Images whose captions are kept for evaluation.
_RESERVED = """
285 785 872 885 1000 1268 1296 1993 2149 2153 2473 2592 3501 3553 5001 6012 6723 6818 7281 7511 7574
7991 8021 8690 8762 8844 9483 10092 10707 11149 11511 12062 12120 12280 12667 13004 20247 30213
41888 58636 62554 75612 98261 99053 116479 117425 122745 126107 160012 161044 165518 183709 189775
199055 205401 214753 215245 215778 226111 229358 229997 249025 252219 252332 255165 262440 269314
286994 290843 297343 301421 303818 329323 331352 347254 349860 359219 361919 369771 377575 397133
403353 403385 405279 418281 419312 423617 427034 431848 434204 456496 458045 458054 460229 463690
475678 475732 500663 511321 511599 519208 551780 553664 555705 557172 565776 565778 568290 577932
"""
_COLUMNS = ("sentence1", "sentence2", "score", "split", "sampling", "image1", "image2")


def convert_coco_captions_text(source: Path, target: Path) -> None:
    """annotations/captions_val2017.json and data/sts_*.csv -> captions.jsonl and cxc_sts.tsv.

    Keeps the pairs whose captions are both of these images.
    """
    content = json.loads(
        (source / "annotations/captions_val2017.json").read_text(encoding="utf-8")
    )
    captions: dict[int, tuple[int, str]] = {}
    for annotation in content["annotations"]:
        text = " ".join(annotation["caption"].split())
        captions[annotation["id"]] = (annotation["image_id"], text)
    of_image: dict[int, list[str]] = {}
    for image, text in captions.values():
        of_image.setdefault(image, []).append(text)
    reserved = set(map(int, _RESERVED.split()))
    write_rows(
        target / "captions.jsonl",
        (
            {
                "coco_id": number,
                "captions": of_image[number],
                "in_coco_open": number in reserved,
            }
            for number in sorted(of_image)
        ),
    )
    lines = ["\t".join(_COLUMNS)]
    for split in ("val", "test"):
        with (source / f"data/sts_{split}.csv").open(
            encoding="utf-8", newline=""
        ) as file:
            for row in csv.DictReader(file):
                left, right = (
                    captions.get(int(row[side].rpartition(":")[2]))
                    for side in ("caption1", "caption2")
                )
                if left and right:
                    pair = (
                        left[1],
                        right[1],
                        row["agg_score"],
                        split,
                        row["sampling_method"],
                        left[0],
                        right[0],
                    )
                    lines.append("\t".join(map(str, pair)))
    (target / "cxc_sts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copy(source / "LICENSE", target / "LICENSE.cxc.txt")
