"""The outlines of the demo's products to wear and to carry."""

from collections.abc import Callable

from .shapes import Patch, box, ellipse, rounded, smooth, turned


def t_shirt() -> list[Patch]:
    neck = ellipse(50, 15, 11, 10, 180, 0)
    return [
        Patch(
            "body",
            [
                *neck,
                *rounded(
                    [
                        (61, 15),
                        (74, 19),
                        (94, 42),
                        (81, 53),
                        (72, 44),
                        (72, 87),
                        (28, 87),
                        (28, 44),
                        (19, 53),
                        (6, 42),
                        (26, 19),
                        (39, 15),
                    ],
                    3,
                ),
            ],
        ),
        Patch("trim", ellipse(50, 15, 11, 10, 0, 180), 3.2),
        Patch("seam", [(28, 44), (30, 28)], 1),
        Patch("seam", [(72, 44), (70, 28)], 1),
    ]


def sweater() -> list[Patch]:
    return [
        Patch(
            "body",
            rounded(
                [
                    (38, 16),
                    (62, 16),
                    (77, 22),
                    (90, 80),
                    (77, 83),
                    (71, 48),
                    (71, 84),
                    (29, 84),
                    (29, 48),
                    (23, 83),
                    (10, 80),
                    (23, 22),
                ],
                4,
            ),
        ),
        Patch("seam", [(29, 50), (31, 30)], 1.2),
        Patch("seam", [(71, 50), (69, 30)], 1.2),
        Patch(
            "trim",
            rounded([(10, 76), (24, 79), (22.5, 88), (8, 85)], 2),
        ),
        Patch(
            "trim",
            rounded([(90, 76), (76, 79), (77.5, 88), (92, 85)], 2),
        ),
        Patch("trim", box(28, 81, 72, 90, 2)),
        Patch("trim", box(37, 10, 63, 20, 4)),
    ]


def dress() -> list[Patch]:
    return [
        Patch(
            "body",
            rounded(
                [
                    (35, 8),
                    (40, 8),
                    (44, 20),
                    (56, 20),
                    (60, 8),
                    (65, 8),
                    (67, 26),
                    (61, 44),
                    (86, 88),
                    (14, 88),
                    (39, 44),
                    (33, 26),
                ],
                3,
            ),
        ),
        Patch("seam", [(44, 50), (32, 86)], 1),
        Patch("seam", [(56, 50), (68, 86)], 1),
        Patch("trim", box(38, 42, 62, 48, 2)),
        Patch("trim", [(15, 87), (85, 87)], 2.6),
    ]


def sock() -> list[Patch]:
    return [
        Patch(
            "body",
            rounded(
                [
                    (34, 12),
                    (60, 12),
                    (60, 52),
                    (82, 66),
                    (89, 76),
                    (84, 88),
                    (50, 88),
                    (36, 80),
                    (33, 66),
                ],
                9,
            ),
        ),
        Patch(
            "trim",
            rounded([(70, 59), (82, 66), (89, 76), (84, 88), (68, 88)], 8),
        ),
        Patch(
            "trim",
            smooth(
                [
                    (34, 62),
                    (44, 68),
                    (48, 80),
                    (44, 85),
                    (37, 79),
                    (33, 70),
                ]
            ),
        ),
        Patch("trim", box(32, 9, 62, 21, 3)),
    ]


def mitten() -> list[Patch]:
    return [
        Patch(
            "body",
            smooth(
                [
                    (33, 66),
                    (31, 40),
                    (36, 18),
                    (50, 9),
                    (63, 16),
                    (68, 36),
                    (72, 42),
                    (80, 32),
                    (89, 35),
                    (86, 50),
                    (70, 64),
                    (68, 70),
                ]
            ),
        ),
        Patch(
            "seam",
            smooth([(68, 36), (66, 46), (68, 52)], closed=False),
            1.2,
        ),
        Patch("trim", box(30, 66, 71, 88, 5)),
        *(Patch("seam", [(x, 69), (x, 86)], 0.9) for x in (37, 44, 51, 58, 65)),
    ]


def beanie() -> list[Patch]:
    return [
        Patch("cream", ellipse(50, 17, 10, 10)),
        Patch(
            "body",
            smooth(
                [
                    (17, 66),
                    (20, 42),
                    (34, 26),
                    (50, 22),
                    (66, 26),
                    (80, 42),
                    (83, 66),
                    (50, 70),
                ]
            ),
        ),
        Patch("trim", box(12, 62, 88, 84, 7)),
        *(Patch("seam", [(x, 65), (x, 82)], 0.9) for x in range(20, 84, 8)),
    ]


def cap() -> list[Patch]:
    return [
        Patch(
            "trim",
            smooth(
                [
                    (58, 62),
                    (78, 58),
                    (97, 70),
                    (92, 77),
                    (74, 74),
                    (52, 74),
                ]
            ),
        ),
        Patch(
            "body",
            [
                *ellipse(44, 64, 34, 38, 180, 360),
                *smooth(
                    [(78, 64), (66, 70), (44, 73), (22, 70), (10, 64)],
                    closed=False,
                ),
            ],
        ),
        Patch(
            "seam",
            smooth([(44, 26), (36, 44), (34, 72)], closed=False),
            1,
        ),
        Patch(
            "seam",
            smooth([(44, 26), (58, 42), (64, 70)], closed=False),
            1,
        ),
        Patch("trim", ellipse(44, 26, 4, 2.6)),
    ]


def umbrella() -> list[Patch]:
    hem = [
        point
        for left in (90, 70, 50, 30)
        for point in ellipse(left - 10, 52, 10, 6, 0, -180)
    ]
    return [
        Patch("metal", [(50, 6), (50, 80)], 2.6),
        Patch("wood", ellipse(57, 80, 7, 9, 180, 0), 4),
        Patch("body", [*ellipse(50, 52, 40, 40, 180, 360), *hem]),
        Patch(
            "seam",
            smooth([(50, 12), (36, 28), (30, 52)], closed=False),
            1.1,
        ),
        Patch("seam", [(50, 12), (50, 52)], 1.1),
        Patch(
            "seam",
            smooth([(50, 12), (64, 28), (70, 52)], closed=False),
            1.1,
        ),
    ]


def tie() -> list[Patch]:
    return turned(
        [
            Patch(
                "body",
                rounded(
                    [(43, 22), (57, 22), (68, 76), (50, 96), (32, 76)],
                    1.5,
                ),
            ),
            Patch("seam", [(43.5, 23), (56.5, 23)], 1.6),
            Patch(
                "trim",
                rounded([(37, 5), (63, 5), (58, 23), (42, 23)], 3),
            ),
        ],
        8,
    )


def sneaker() -> list[Patch]:
    return [
        Patch(
            "body",
            smooth(
                [
                    (11, 46),
                    (18, 40),
                    (34, 40),
                    (42, 45),
                    (54, 56),
                    (72, 61),
                    (88, 68),
                    (93, 80),
                    (50, 84),
                    (9, 80),
                    (9, 62),
                ]
            ),
        ),
        Patch(
            "cream",
            smooth([(78, 62), (90, 69), (95, 79), (82, 80), (74, 76)]),
        ),
        Patch(
            "trim",
            smooth([(8, 44), (18, 40), (20, 56), (18, 78), (8, 80)]),
        ),
        Patch("cream", box(7, 76, 96, 88, 5)),
        Patch("seam", [(9, 82), (94, 82)], 1),
        *(
            Patch("cream", [(x, y), (x + 6, y - 8)], 2.4)
            for x, y in ((40, 58), (48, 62), (56, 66))
        ),
    ]


def boot() -> list[Patch]:
    return [
        Patch(
            "body",
            rounded(
                [
                    (30, 12),
                    (60, 12),
                    (59, 48),
                    (80, 58),
                    (92, 68),
                    (92, 84),
                    (28, 84),
                ],
                8,
            ),
        ),
        Patch(
            "dark",
            rounded(
                [
                    (26, 80),
                    (94, 80),
                    (94, 91),
                    (52, 91),
                    (48, 87),
                    (44, 91),
                    (26, 91),
                ],
                2,
            ),
        ),
        Patch("trim", box(28, 10, 62, 22, 4)),
        *(Patch("cream", [(50, y), (60, y - 3)], 2.2) for y in (32, 39, 46)),
        Patch(
            "seam",
            smooth([(59, 50), (50, 56), (48, 80)], closed=False),
            1.2,
        ),
    ]


def backpack() -> list[Patch]:
    return [
        Patch("trim", ellipse(50, 15, 11, 9, 170, 370), 4.5),
        Patch("trim", box(14, 50, 30, 82, 6)),
        Patch("trim", box(70, 50, 86, 82, 6)),
        Patch(
            "body",
            rounded(
                [
                    (34, 12),
                    (66, 12),
                    (78, 30),
                    (78, 89),
                    (22, 89),
                    (22, 30),
                ],
                10,
            ),
        ),
        Patch(
            "seam",
            smooth(
                [
                    (23, 46),
                    (26, 34),
                    (38, 27),
                    (62, 27),
                    (74, 34),
                    (77, 46),
                ],
                closed=False,
            ),
            1.4,
        ),
        Patch("trim", box(31, 57, 69, 83, 5)),
        Patch("metal", [(34, 62), (66, 62)], 1.8),
        Patch("metal", [(62, 62), (62, 67)], 2.2),
    ]


def handbag() -> list[Patch]:
    return [
        Patch("wood", ellipse(50, 40, 19, 28, 180, 360), 4),
        Patch("body", rounded([(24, 38), (76, 38), (88, 87), (12, 87)], 8)),
        Patch(
            "trim",
            rounded([(24, 38), (76, 38), (78.5, 48), (21.5, 48)], 3),
        ),
        Patch("metal", box(45, 43, 55, 54, 2)),
    ]


def suitcase() -> list[Patch]:
    return [
        Patch("metal", [(39, 30), (39, 7), (61, 7), (61, 30)], 3),
        Patch("dark", ellipse(31, 89, 4, 4)),
        Patch("dark", ellipse(69, 89, 4, 4)),
        Patch("body", box(21, 25, 79, 88, 8)),
        *(Patch("seam", [(x, 28), (x, 85)], 1.1) for x in (35, 65)),
        *(
            Patch("trim", ellipse(x, y, 6.5, 6.5))
            for x, y in ((27, 31), (73, 31), (27, 82), (73, 82))
        ),
        Patch("dark", box(42, 21, 58, 27, 2)),
    ]


WARDROBE: dict[str, Callable[[], list[Patch]]] = {
    "t-shirt": t_shirt,
    "sweater": sweater,
    "dress": dress,
    "sock": sock,
    "mitten": mitten,
    "beanie": beanie,
    "cap": cap,
    "umbrella": umbrella,
    "tie": tie,
    "sneaker": sneaker,
    "boot": boot,
    "backpack": backpack,
    "handbag": handbag,
    "suitcase": suitcase,
}
