"""Paraphrases of queries, by a small table of English phrases."""

from __future__ import annotations

import random
import re

# a = b: either may stand for the other; a > b: only b for a, as b has other meanings too.
_PAIRS = """
next to = beside; in front of > before; on top of = atop; close to = near; a lot of = lots of
a group of > several; a number of > several; a couple of > two; a pair of > two
a bunch of > several; a picture of > a photo of; a photograph of > a photo of
an image of > a picture of; made of > made from; made out of > made from; with no = without
in the middle of = amid; because of = due to; as well as > and also; talking on > speaking on
looking at > gazing at; gazing at > looking at; filled with = full of
getting ready to > preparing to; about to > ready to; sitting on = seated on
lying on > resting on; laying on > resting on; sitting at = seated at; sitting in = seated in
standing in > stood in; standing on > stood on; holding up > raising; covered in = covered with
dressed in > wearing; in order to > to; is able to > can; has to > must; needs to > must
have to > must; what is = what's; do not = don't; does not = doesn't; is not = isn't
are not = aren't; cannot = can't; it is = it's; there is = there's; that is > that's
how do you > how does one; why is > for what reason is; difference between > distinction between
at least > no less than; for example = for instance; consists of > is made up of; large = big
big > large; huge = enormous; tiny > very small; rapidly = quickly; beautiful > lovely
kids = children; kid = child; man = guy; men = guys; woman = lady; women = ladies
person > individual; baby = infant; puppy > young dog; kitten > young cat; bike = bicycle
bikes = bicycles; motorcycle = motorbike; motorcycles = motorbikes; cars > automobiles
car > automobile; plane > airplane; airplane > aeroplane; planes > airplanes; tv = television
couch = sofa; rug = carpet; street > road; forest > woods; store > shop; meadow > field
ocean > sea; garbage = trash; telephone > phone; cellphone = mobile phone
cell phone = mobile phone; sweater = jumper; sneakers > running shoes; picture > image
photo > photograph; pictures > images; photos > photographs; sandwich > filled roll
veggies = vegetables; assorted > various; various > different; several > a few; many > numerous
nearly = almost; underneath > below; beneath > under; inside > within; begins > starts
begin > start; purchase > buy; obtain > get; requires > needs; assists > helps
jumping > leaping; jumps > leaps; walking > strolling; strolling > walking; throwing > tossing
tossing > throwing; smiling > grinning; contains > holds; happens > occurs; occurs > happens
occur > happen; important > essential; difficult > hard; simple > easy; entire > whole
vacant > empty; colorful = colourful; color = colour; gray = grey; comfortable > comfy
durable > hard-wearing; lightweight > light to carry; stylish = fashionable; elegant > graceful
rainy > wet; snowy > snow-covered; cloudy = overcast; wooden > timber
"""


def _table() -> dict[str, str]:
    table: dict[str, str] = {}
    for left, sign, right in re.findall(r"([\w' -]+?) ([=>]) ([\w' -]+)", _PAIRS):
        table.setdefault(left.strip(), right.strip())
        if sign == "=":
            table.setdefault(right.strip(), left.strip())
    return table


_OTHERS = _table()
_KNOWN = re.compile(
    r"\b(?:(an?)( ))?("
    + "|".join(map(re.escape, sorted(_OTHERS, key=len, reverse=True)))
    + r")\b",
    re.IGNORECASE,
)


def paraphrase(text: str) -> str:
    """Put two in three of the phrases that the table knows into other words, but at least one.

    The same text always becomes the same. A text without such a phrase is returned unchanged.
    """
    matches = list(_KNOWN.finditer(text))
    draw = random.Random(text)
    drawn = [match for match in matches if draw.random() < 2 / 3]
    for match in reversed(drawn or matches[:1]):
        article = match[1] or ""
        space = match[2] or ""
        phrase = match[3]
        other = _OTHERS[phrase.lower()]
        if article:
            article = article[0] + ("n" if other[0] in "aeiou" else "")
        elif phrase[0].isupper():
            other = other[0].upper() + other[1:]
        text = text[: match.start()] + article + space + other + text[match.end() :]
    return text
