"""The words for the demo's products: kinds, colours, patterns, materials and scenes.

A product's identity is its kind, colour and pattern. Each of them has several names, so that a
model has to learn that a navy rucksack is a dark blue backpack. No two entries of a table share a
name, and no scene or material names a colour, kind or pattern: otherwise a query could have two
right answers.
"""

from typing import NamedTuple

Rgb = tuple[int, int, int]


class Kind(NamedTuple):
    """One kind of product."""

    names: tuple[str, ...]
    category: str
    materials: tuple[str, ...]
    price: tuple[int, int]  # the cheapest and the dearest, in dollars


class Colour(NamedTuple):
    """One colour: its names, its paint, and the ink of the patterns printed on it."""

    names: tuple[str, ...]
    paint: Rgb
    ink: Rgb


class Pattern(NamedTuple):
    """One pattern, as adjectives ("a striped mug") and as what follows "with" ("a mug with
    stripes").
    """

    names: tuple[str, ...]
    motifs: tuple[str, ...]


KINDS: dict[str, Kind] = {
    "mug": Kind(
        ("mug", "coffee mug", "coffee cup"),
        "Kitchen",
        ("ceramic", "metal", "glass"),
        (8, 24),
    ),
    "teapot": Kind(("teapot", "tea jug"), "Kitchen", ("ceramic", "metal"), (24, 68)),
    "bowl": Kind(
        ("bowl", "salad bowl", "serving bowl"),
        "Kitchen",
        ("ceramic", "wood", "glass"),
        (12, 38),
    ),
    "plate": Kind(
        ("plate", "dinner plate", "dish"),
        "Kitchen",
        ("ceramic", "plastic", "metal"),
        (6, 28),
    ),
    "bottle": Kind(
        ("bottle", "water bottle", "flask"),
        "Kitchen",
        ("metal", "glass", "plastic"),
        (14, 36),
    ),
    "vase": Kind(("vase", "urn"), "Home", ("ceramic", "glass"), (18, 75)),
    "lamp": Kind(
        ("lamp", "table lamp", "bedside light"),
        "Home",
        ("paper", "cotton", "silk"),
        (28, 120),
    ),
    "cushion": Kind(
        ("cushion", "pillow", "throw pillow"),
        "Home",
        ("cotton", "velvet", "wool"),
        (14, 48),
    ),
    "armchair": Kind(
        ("armchair", "easy chair", "reading chair"),
        "Home",
        ("velvet", "leather", "cotton"),
        (160, 480),
    ),
    "watering can": Kind(
        ("watering can", "garden can"), "Garden", ("metal", "plastic"), (15, 42)
    ),
    "t-shirt": Kind(("t-shirt", "tee"), "Clothing", ("cotton", "silk"), (12, 38)),
    "sweater": Kind(
        ("sweater", "pullover", "jumper"), "Clothing", ("wool", "cotton"), (32, 95)
    ),
    "dress": Kind(
        ("dress", "summer dress", "frock"),
        "Clothing",
        ("cotton", "silk", "velvet"),
        (36, 140),
    ),
    "sock": Kind(("sock", "knee sock"), "Clothing", ("wool", "cotton"), (5, 18)),
    "mitten": Kind(
        ("mitten", "glove", "winter glove"), "Clothing", ("wool", "leather"), (14, 45)
    ),
    "beanie": Kind(
        ("beanie", "bobble hat", "winter hat"),
        "Accessories",
        ("wool", "cotton"),
        (12, 36),
    ),
    "cap": Kind(("cap", "baseball cap"), "Accessories", ("cotton", "canvas"), (14, 38)),
    "umbrella": Kind(
        ("umbrella", "brolly"), "Accessories", ("nylon", "cotton"), (18, 60)
    ),
    "tie": Kind(("tie", "necktie"), "Accessories", ("silk", "wool"), (18, 70)),
    "sneaker": Kind(
        ("sneaker", "trainer", "running shoe"),
        "Shoes",
        ("canvas", "leather", "nylon"),
        (45, 130),
    ),
    "boot": Kind(
        ("boot", "ankle boot", "hiking boot"),
        "Shoes",
        ("leather", "plastic", "velvet"),
        (55, 190),
    ),
    "backpack": Kind(
        ("backpack", "rucksack", "school bag"),
        "Bags",
        ("canvas", "leather", "nylon"),
        (35, 140),
    ),
    "handbag": Kind(
        ("handbag", "purse", "shoulder bag"),
        "Bags",
        ("leather", "canvas", "velvet"),
        (40, 220),
    ),
    "suitcase": Kind(
        ("suitcase", "trolley case"), "Bags", ("plastic", "metal", "leather"), (70, 260)
    ),
    "guitar": Kind(("guitar", "acoustic guitar"), "Leisure", ("wood",), (110, 460)),
    "kite": Kind(("kite", "toy kite"), "Leisure", ("nylon", "paper", "silk"), (12, 48)),
    "tent": Kind(("tent", "camping tent"), "Leisure", ("nylon", "canvas"), (80, 320)),
    "notebook": Kind(
        ("notebook", "journal", "writing pad"), "Leisure", ("paper", "leather"), (6, 32)
    ),
}

CREAM: Rgb = (250, 244, 228)
COLOURS: dict[str, Colour] = {
    "red": Colour(("red", "crimson", "scarlet"), (206, 32, 42), CREAM),
    "orange": Colour(("orange", "tangerine"), (242, 124, 22), CREAM),
    "yellow": Colour(
        ("yellow", "lemon", "sunny yellow"), (248, 208, 40), (255, 250, 236)
    ),
    "green": Colour(("green", "emerald", "grass green"), (46, 140, 62), CREAM),
    "turquoise": Colour(("turquoise", "teal", "aqua"), (20, 170, 164), CREAM),
    "sky blue": Colour(
        ("sky blue", "light blue", "baby blue"), (112, 182, 244), (246, 250, 255)
    ),
    "navy": Colour(("navy", "dark blue", "midnight blue"), (30, 48, 122), CREAM),
    "purple": Colour(("purple", "violet"), (122, 58, 170), CREAM),
    "pink": Colour(("pink", "rose", "blush pink"), (246, 132, 178), (255, 246, 240)),
    "brown": Colour(("brown", "chocolate", "chestnut"), (120, 74, 42), CREAM),
    "black": Colour(("black", "jet black"), (38, 38, 42), (236, 232, 224)),
    # Printed in silver: on white, an ink of any hue would look like that hue's own product.
    "white": Colour(("white", "ivory", "snow white"), (250, 249, 244), (158, 160, 168)),
}

PATTERNS: dict[str, Pattern] = {
    "plain": Pattern(("plain", "solid"), ("a plain finish", "no pattern")),
    "striped": Pattern(("striped", "stripy"), ("stripes", "broad stripes")),
    "checked": Pattern(("checked", "gingham"), ("checks", "a gingham pattern")),
    "dotted": Pattern(("dotted", "polka-dot", "spotted"), ("dots", "polka dots")),
    "zigzag": Pattern(("zigzag", "chevron"), ("zigzags", "a chevron pattern")),
    "floral": Pattern(("floral", "flowery"), ("flowers", "a floral print")),
    "starry": Pattern(("starry", "star-spangled"), ("stars", "golden stars")),
    "ombre": Pattern(("ombre", "faded"), ("a colour gradient", "an ombre fade")),
}

MATERIALS: dict[str, tuple[str, ...]] = {
    "ceramic": ("ceramic", "stoneware"),
    "metal": ("metal", "steel"),
    "glass": ("glass",),
    "plastic": ("plastic", "acrylic"),
    "wood": ("wood", "beech"),
    "leather": ("leather",),
    "canvas": ("canvas",),
    "cotton": ("cotton",),
    "wool": ("wool", "merino"),
    "silk": ("silk", "satin"),
    "velvet": ("velvet",),
    "nylon": ("nylon",),
    "paper": ("paper", "card"),
}

SCENES: dict[str, tuple[str, ...]] = {
    "studio": ("in a bright studio", "in the studio"),
    "table": ("on a wooden table", "on a table"),
    "bricks": ("in front of a brick wall", "against a brick wall"),
    "meadow": ("on a meadow", "in the grass"),
    "beach": ("at the beach", "in the sand"),
    "tiles": ("against kitchen tiles", "in front of kitchen tiles"),
    "linen": ("on a linen cloth", "on a cloth"),
    "window": ("by a sunny window", "by the window"),
    "marble": ("on a marble shelf", "on a shelf"),
}
