"""The sentences of the demo's shop and its customers: captions, titles, descriptions and queries.

Every kind of text has wordings for training and held-out wordings for the texts of test products.
A held-out wording is a new sentence of known words: each word occurs in a training wording (a test
checks it), since a model cannot know the meaning of a word that it has never seen.

Slots: {kind} {colour} {pattern} {motif} {material} {scene} {budget}. "a(n)" becomes "a" or "an".
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

from .words import COLOURS, KINDS, MATERIALS, PATTERNS, SCENES


class Wordings(NamedTuple):
    """The sentences for one kind of text."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


CAPTIONS = Wordings(
    train=(
        "a(n) {colour} {pattern} {kind}",
        "a photo of a(n) {pattern} {kind} in {colour}",
        "a picture of a(n) {colour} {kind} with {motif}",
        "this {kind} is {colour} and has {motif}",
        "{pattern} {colour} {kind} made of {material}",
        "a(n) {material} {kind}, {pattern}, in {colour}, {scene}",
        "close-up of a(n) {colour} {material} {kind} with {motif}",
        "a(n) {kind} {scene}: {colour} {material} with {motif}",
        "product photo: {kind}, colour {colour}, pattern {pattern}",
        "the {colour} {kind} here is {pattern}",
        "one {pattern} {kind} {scene}, the colour is {colour}",
        "you can see a(n) {colour} {kind} {scene}, it has {motif}",
        "we see one {material} {kind} with {motif}, all in {colour}",
        "a new {kind} in {colour} from our shop, {pattern} {material}",
    ),
    held_out=(
        "here we see a(n) {pattern} {kind}, the colour is {colour}",
        "{scene} you can see one {colour} {kind}, it has {motif}",
        "photo of our new {kind}: {material}, {colour}, {pattern}",
        "close-up {scene}: a(n) {kind} with {motif} in {colour}",
        "this is a(n) {pattern} {colour} {material} {kind}",
        "a product picture, one {colour} {kind} made of {material} with {motif}",
    ),
)

TITLES = Wordings(
    train=(
        "{pattern} {material} {kind}, {colour}",
        "{colour} {kind} with {motif}",
        "{kind} in {colour}, {pattern}",
        "the {pattern} {kind} in {colour} {material}",
        "{material} {kind}: {motif} on {colour}",
    ),
    held_out=(
        "{colour} {pattern} {kind} in {material}",
        "{kind} with {motif}, {colour} {material}",
    ),
)

QUERIES = Wordings(
    train=(
        "{colour} {pattern} {kind}",
        "{kind} {colour} {pattern}",
        "{pattern} {kind} in {colour}",
        "looking for a(n) {pattern} {kind} in {colour} under ${budget}",
        "i need a(n) {colour} {kind} with {motif}",
        "where can i buy a(n) {colour} {kind}, {pattern} please",
        "do you have a(n) {kind} with {motif}, best in {colour}?",
        "show me {colour} {material} {kind} {pattern}",
        "{kind} with {motif} {colour} below ${budget}",
        "gift for my sister: {pattern} {colour} {kind}",
        "want to buy {colour} {kind} {pattern} cheap",
        "is there any {material} {kind} in {colour} with {motif}",
        "best {pattern} {kind}, colour {colour}, less than ${budget}",
        "my brother would like a(n) {colour} {kind} that is {pattern}",
        "i am searching a birthday gift, a(n) {kind} in {colour} with {motif}",
        "please find me the {pattern} {kind} in {colour}",
    ),
    held_out=(
        "i am looking for the best {colour} {kind} with {motif}",
        "any {pattern} {kind} in {colour} below ${budget}?",
        "birthday gift for my brother, {kind}, {colour}, {pattern}",
        "please show me a(n) {kind} that is {colour} with {motif}",
        "where is a cheap {pattern} {colour} {kind}",
        "my sister would like a(n) {kind} with {motif} in {colour}, less than ${budget}",
        "need {colour} {material} {kind} {pattern}",
    ),
)

# A description has three sentences: what the product is, what it is made of, what it is for.
OPENERS = Wordings(
    train=(
        "Meet our {pattern} {kind} in {colour}.",
        "A(n) {colour} {kind} with {motif} that you will love every day.",
        "This {kind} comes in {colour} and wears {motif} with pride.",
        "Say hello to a(n) {pattern} {colour} {kind}.",
        "Bring home a(n) {kind} with {motif}, in a fine {colour}.",
        "Our {colour} {kind} is {pattern} and full of charm.",
        "New in the shop: the {kind} in {colour}, {pattern} and ready to go.",
        "You wanted a(n) {pattern} {kind}, here it is in {colour}.",
        "With {motif} on {colour}, this {kind} makes every day brighter.",
        "The {kind} that we love most: {colour}, {pattern}, made to last.",
    ),
    held_out=(
        "Here is the {pattern} {kind} that you wanted, in a fine {colour}.",
        "Our new {kind} wears {motif} and comes in {colour}.",
        "Say hello to {colour}: a(n) {kind} with {motif}, full of charm.",
        "Love every day with this {colour} {kind}, {pattern} and ready to go.",
    ),
)

MAKES = Wordings(
    train=(
        "It is made of {material} by hand.",
        "The {material} feels good and lasts for years.",
        "We chose {material} of the best quality.",
        "Made from {material} in a small workshop.",
        "Good {material}, well made.",
        "All {material}, with care for every detail.",
        "The {material} is easy to clean and strong.",
    ),
    held_out=(
        "The {material} is of good quality and made with care.",
        "Strong {material} from a small workshop.",
        "We made it by hand, all in {material}.",
    ),
)

USES: dict[str, Wordings] = {
    "Kitchen": Wordings(
        (
            "Right for a long breakfast or a quick lunch.",
            "Safe in the dishwasher and lovely with friends.",
            "For family dinner and for guests.",
        ),
        ("For guests, for friends, or for a quick breakfast with the family.",),
    ),
    "Home": Wordings(
        (
            "It gives the living room a warm look.",
            "For quiet evenings in the bedroom.",
            "A lovely touch for any room.",
        ),
        ("A warm touch for the living room or the bedroom.",),
    ),
    "Garden": Wordings(
        (
            "Your plants will thank you for it.",
            "For the balcony and the garden bed.",
            "Light to carry, even when full of water.",
        ),
        ("Your balcony will thank you, even when it is full of plants.",),
    ),
    "Clothing": Wordings(
        (
            "Soft on the skin and easy to wash.",
            "It fits well at work and at the weekend.",
            "Wear it when the weather turns cool.",
        ),
        ("Wear it at work or at the weekend, it is easy to wash.",),
    ),
    "Accessories": Wordings(
        (
            "The last touch for your outfit.",
            "Packs small and goes with almost anything.",
            "Made for rain, wind and sun.",
        ),
        ("It goes with almost any outfit, in rain and in sun.",),
    ),
    "Shoes": Wordings(
        (
            "Walk all day without a sore foot.",
            "The sole grips on wet streets.",
            "Sold as a pair, of course.",
        ),
        ("Of course you can walk all day on wet streets.",),
    ),
    "Bags": Wordings(
        (
            "Room for a laptop, keys and a snack.",
            "Three pockets keep things in order.",
            "Ready for trains, planes and office days.",
        ),
        ("Three pockets keep your keys and laptop in order.",),
    ),
    "Leisure": Wordings(
        (
            "For weekend fun with the whole family.",
            "Good for beginners and for experts.",
            "Take it along to the park.",
        ),
        ("Take the whole family along, it is good for beginners and experts.",),
    ),
}

BUDGETS = (10, 20, 30, 40, 50, 75, 100, 150, 200, 300, 500)


class Subject(NamedTuple):
    """What a text is about."""

    kind: str
    colour: str
    pattern: str
    material: str
    background: str
    price: float


def say(template: str, subject: Subject, rng: random.Random) -> str:
    """Fill a template about the subject, with a random name for each attribute."""
    pattern = PATTERNS[subject.pattern]
    affordable = [budget for budget in BUDGETS if budget >= subject.price]
    text = template.format(
        kind=rng.choice(KINDS[subject.kind].names),
        colour=rng.choice(COLOURS[subject.colour].names),
        pattern=rng.choice(pattern.names),
        motif=rng.choice(pattern.motifs),
        material=rng.choice(MATERIALS[subject.material]),
        scene=rng.choice(SCENES[subject.background]),
        budget=affordable[0] if affordable else BUDGETS[-1],
    )
    return _with_articles(text)


def _with_articles(text: str) -> str:
    words = text.split(" ")
    for index, word in enumerate(words[:-1]):
        if word.lower() == "a(n)":
            has_vowel = words[index + 1][0].lower() in "aeiou"
            words[index] = word[0] + ("n" if has_vowel else "")
    return " ".join(words)


def captions(
    subject: Subject, count: int, held_out: bool, rng: random.Random
) -> list[str]:
    """`count` different sentences about the image."""
    templates = rng.sample(_choose(CAPTIONS, held_out), count)
    return [say(template, subject, rng) for template in templates]


def title(subject: Subject, held_out: bool, rng: random.Random) -> str:
    """The name of the product in the shop, its first letter a capital."""
    text = say(rng.choice(_choose(TITLES, held_out)), subject, rng)
    return text[0].upper() + text[1:]


def description(subject: Subject, held_out: bool, rng: random.Random) -> str:
    """Three sentences: what it is, what it is made of, what it is for."""
    parts = []
    for wordings in (OPENERS, MAKES, USES[KINDS[subject.kind].category]):
        template = rng.choice(_choose(wordings, held_out))
        parts.append(say(template, subject, rng))
    return " ".join(parts)


def query(subject: Subject, held_out: bool, rng: random.Random) -> str:
    """What a customer types."""
    return say(rng.choice(_choose(QUERIES, held_out)), subject, rng)


def _choose(wordings: Wordings, held_out: bool) -> Sequence[str]:
    return wordings.held_out if held_out else wordings.train
