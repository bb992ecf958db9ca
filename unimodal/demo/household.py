"""The outlines of the demo's products for the house, the garden and the holidays."""

from collections.abc import Callable

from .shapes import Patch, box, ellipse, rounded, smooth, turned


def mug() -> list[Patch]:
    return [
        Patch("trim", ellipse(70, 52, 15, 17, -95, 95), 7),
        Patch("body", rounded([(20, 24), (72, 24), (69, 85), (23, 85)], 8)),
        Patch("trim", ellipse(46, 25, 26, 7)),
        Patch("inside", ellipse(46, 25.5, 23, 5)),
    ]


def teapot() -> list[Patch]:
    return [
        Patch("trim", ellipse(74, 54, 15, 17, -100, 100), 6),
        Patch(
            "trim",
            smooth(
                [
                    (30, 70),
                    (18, 54),
                    (6, 38),
                    (15, 35),
                    (26, 46),
                    (34, 52),
                ]
            ),
        ),
        Patch(
            "body",
            smooth(
                [
                    (50, 33),
                    (70, 39),
                    (79, 57),
                    (70, 78),
                    (50, 84),
                    (30, 78),
                    (21, 57),
                    (30, 39),
                ]
            ),
        ),
        Patch("trim", box(36, 81, 64, 87)),
        Patch("trim", ellipse(50, 36, 17, 11, 180, 360)),
        Patch("seam", ellipse(50, 35, 18, 4, 0, 180), 1.4),
        Patch("trim", ellipse(50, 22, 5, 5)),
    ]


def bowl() -> list[Patch]:
    return [
        Patch("trim", box(37, 78, 63, 87)),
        Patch("body", ellipse(50, 40, 40, 42, 0, 180)),
        Patch("trim", ellipse(50, 40, 40, 9)),
        Patch("inside", ellipse(50, 40.5, 36, 6.5)),
    ]


def plate() -> list[Patch]:
    return [
        Patch("body", ellipse(50, 50, 40, 40)),
        Patch("trim", ellipse(50, 50, 38.5, 38.5), 3),
        Patch("seam", ellipse(50, 50, 26, 26), 1.6),
        Patch("seam", ellipse(50, 50.8, 24.5, 24.5), 0.8),
    ]


def bottle() -> list[Patch]:
    return [
        Patch(
            "body",
            rounded(
                [
                    (42, 16),
                    (58, 16),
                    (58, 30),
                    (68, 42),
                    (68, 88),
                    (32, 88),
                    (32, 42),
                    (42, 30),
                ],
                6,
            ),
        ),
        Patch("metal", box(40, 8, 60, 20, 3)),
        Patch("seam", [(40, 20.5), (60, 20.5)], 1.4),
        Patch("trim", box(32, 78, 68, 88, 5)),
    ]


def vase() -> list[Patch]:
    return [
        Patch(
            "wood",
            smooth([(50, 30), (46, 16), (36, 4)], closed=False),
            1.8,
        ),
        Patch(
            "wood",
            smooth([(51, 30), (56, 18), (66, 6)], closed=False),
            1.8,
        ),
        Patch(
            "wood",
            smooth([(50, 30), (51, 14), (49, 2)], closed=False),
            1.8,
        ),
        *(
            Patch("cream", ellipse(x, y, 2.6, 2.6))
            for x, y in (
                (36, 5),
                (41, 11),
                (49, 3),
                (51, 12),
                (66, 7),
                (60, 12),
            )
        ),
        Patch(
            "body",
            smooth(
                [
                    (40, 28),
                    (60, 28),
                    (58, 36),
                    (72, 54),
                    (66, 78),
                    (58, 87),
                    (42, 87),
                    (34, 78),
                    (28, 54),
                    (42, 36),
                ]
            ),
        ),
        Patch("trim", ellipse(50, 28, 12, 3.6)),
        Patch("inside", ellipse(50, 28.3, 9.5, 2.4)),
    ]


def lamp() -> list[Patch]:
    return [
        Patch("wood", [(50, 54), (50, 82)], 4),
        Patch("wood", ellipse(50, 84, 19, 5)),
        Patch("body", rounded([(34, 12), (66, 12), (84, 58), (16, 58)], 3)),
        Patch("trim", [(34, 13), (66, 13)], 2.4),
        Patch("trim", [(17, 57), (83, 57)], 2.8),
    ]


def cushion() -> list[Patch]:
    return [
        Patch(
            "body",
            smooth(
                [
                    (12, 18),
                    (30, 24),
                    (50, 25),
                    (70, 24),
                    (88, 18),
                    (83, 36),
                    (82, 52),
                    (83, 68),
                    (88, 86),
                    (70, 80),
                    (50, 79),
                    (30, 80),
                    (12, 86),
                    (17, 68),
                    (18, 52),
                    (17, 36),
                ]
            ),
        ),
        Patch(
            "seam",
            smooth([(12, 18), (24, 32), (30, 40)], closed=False),
            0.8,
        ),
        Patch(
            "seam",
            smooth([(88, 18), (76, 32), (70, 40)], closed=False),
            0.8,
        ),
        Patch(
            "seam",
            smooth([(12, 86), (24, 72), (30, 66)], closed=False),
            0.8,
        ),
        Patch(
            "seam",
            smooth([(88, 86), (76, 72), (70, 66)], closed=False),
            0.8,
        ),
    ]


def armchair() -> list[Patch]:
    return [
        Patch("wood", [(24, 80), (21, 91)], 4),
        Patch("wood", [(76, 80), (79, 91)], 4),
        Patch("body", box(22, 14, 78, 66, 12)),
        Patch("body", box(25, 56, 75, 78, 4)),
        Patch("seam", [(26, 57), (74, 57)], 1.8),
        Patch("trim", box(26, 71, 74, 83, 3)),
        Patch("trim", box(11, 42, 30, 84, 8)),
        Patch("trim", box(70, 42, 89, 84, 8)),
        Patch("seam", ellipse(20.5, 51, 6, 6), 1),
        Patch("seam", ellipse(79.5, 51, 6, 6), 1),
    ]


def watering_can() -> list[Patch]:
    return [
        Patch("trim", ellipse(74, 58, 15, 19, -105, 105), 5),
        Patch("trim", ellipse(52, 40, 18, 20, 180, 360), 4.5),
        Patch("trim", [(38, 74), (12, 32)], 7),
        Patch("metal", [(5, 37), (19, 27)], 6),
        Patch("body", rounded([(34, 38), (72, 38), (77, 86), (30, 86)], 5)),
        Patch("trim", ellipse(53, 39, 19.5, 4.5)),
        Patch("inside", ellipse(53, 39.3, 16, 2.8)),
    ]


def guitar() -> list[Patch]:
    parts = [
        Patch(
            "body",
            smooth(
                [
                    (50, 38),
                    (65, 42),
                    (68, 53),
                    (65, 62),
                    (76, 74),
                    (74, 91),
                    (50, 98),
                    (26, 91),
                    (24, 74),
                    (35, 62),
                    (32, 53),
                    (35, 42),
                ]
            ),
        ),
        Patch("dark", ellipse(50, 60, 7.5, 7.5)),
        Patch("dark", box(39, 80, 61, 85, 1.5)),
        Patch("wood", box(46, 6, 54, 54, 1)),
        Patch("dark", rounded([(43, -8), (57, -8), (54, 8), (46, 8)], 2)),
        *(Patch("cream", [(x, -4), (x, 82)], 0.7) for x in (48, 50, 52)),
    ]
    lower = []
    for part in parts:
        lower.append(part._replace(points=[(x, y * 0.9 + 4) for x, y in part.points]))
    return turned(lower, 32)


def kite() -> list[Patch]:
    tail = smooth([(50, 74), (56, 80), (46, 86), (54, 92), (50, 98)], closed=False)
    bows = [
        Patch(
            "trim",
            [
                (x - 6, y - 3),
                (x + 6, y + 3),
                (x + 6, y - 3),
                (x - 6, y + 3),
            ],
        )
        for x, y in ((55, 80), (48, 87), (53, 94))
    ]
    return turned(
        [
            Patch("dark", tail, 1.2),
            *bows,
            Patch(
                "body",
                rounded([(50, 2), (82, 32), (50, 76), (18, 32)], 2),
            ),
            Patch("seam", [(50, 3), (50, 75)], 1.6),
            Patch("seam", [(19, 32), (81, 32)], 1.6),
        ],
        14,
    )


def tent() -> list[Patch]:
    return [
        Patch("wood", [(50, 20), (45, 10)], 2.6),
        Patch("wood", [(50, 20), (55, 10)], 2.6),
        Patch("body", rounded([(50, 16), (96, 86), (4, 86)], 3)),
        Patch("inside", rounded([(50, 44), (65, 86), (35, 86)], 1)),
        Patch("trim", rounded([(50, 42), (36, 86), (26, 86)], 1)),
        Patch("trim", rounded([(50, 42), (64, 86), (74, 86)], 1)),
        Patch("seam", [(50, 17), (50, 44)], 1.2),
    ]


def notebook() -> list[Patch]:
    return [
        Patch("cream", box(26, 15, 80, 88, 3)),
        Patch("body", box(23, 12, 76, 86, 4)),
        Patch("trim", box(23, 12, 32, 86, 3)),
        *(Patch("metal", [(18, y), (29, y)], 2.6) for y in range(18, 84, 8)),
        Patch("dark", [(69, 12), (69, 86)], 2),
    ]


HOUSEHOLD: dict[str, Callable[[], list[Patch]]] = {
    "mug": mug,
    "teapot": teapot,
    "bowl": bowl,
    "plate": plate,
    "bottle": bottle,
    "vase": vase,
    "lamp": lamp,
    "cushion": cushion,
    "armchair": armchair,
    "watering can": watering_can,
    "guitar": guitar,
    "kite": kite,
    "tent": tent,
    "notebook": notebook,
}
