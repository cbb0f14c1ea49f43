"""The canonical written form of a sentence: what the recognizer is trained to write and what it is scored on.

Its alphabet is closed: Han characters, the letters a to z, the apostrophe inside a word and the space. Everything else
is either spelled in it (numbers, diacritics, full-width forms) or dropped (punctuation, other scripts).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise

# CJK unified ideographs with their extensions A to H, the unified ones among the compatibility forms, and the zero.
HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\ufa0e-\ufa29\U00020000-\U000323af"
WORD = r"[a-z]+(?:'[a-z]+)*"
_UNIT = re.compile(rf"[{HAN}]|{WORD}")
_TOKEN = re.compile(
    rf"(?P<han>[{HAN}]+)|(?P<latin>{WORD})"
    r"|(?P<ordinal>[0-9]{1,12})(?:st|nd|rd|th)(?![a-z0-9])"
    r"|(?P<minus>(?<!\w)-)?(?P<number>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)*)(?P<percent>%)?"
)
_HAS_HAN = re.compile(rf"[{HAN}]")
_HAS_LATIN = re.compile(r"[a-z\u00c0-\u024f\uff21-\uff3a\uff41-\uff5a]", re.IGNORECASE)

# Letters that Unicode does not decompose into a plain one and a mark, and the signs that are typed as an apostrophe.
_LETTERS = {"ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ı": "i"}
_APOSTROPHES = dict.fromkeys("\u2018\u2019\u201b\u02bc\u02b9\u2032\u0060", "'")
_PLAIN = str.maketrans({**_LETTERS, **_APOSTROPHES, "\u2212": "-"})
# Control, format (bidirectional marks among them), surrogate, private and unassigned characters; line breaks.
_UNSPEAKABLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
_ACUTE = "\u00b4"  # an apostrophe for many; NFKC would turn it into a space and a mark

_DIGITS = "零一二三四五六七八九"
_LONGEST_NUMBER = 12  # more digits than this are an identifier: read one by one


def normalize(text: str) -> str:
    """The canonical form of `text`; idempotent, and "" when nothing of it can be spoken.

    NFKC, lower case, no diacritics, no punctuation; numbers as words in the language of the nearest letters (English
    if there are none); one space between Latin words, none elsewhere: "播放 Rihanna 的 “Shape of You”！" becomes
    "播放rihanna的shape of you".
    """
    return _join(list(_spoken_units(_fold(text))))


def units(text: str) -> list[str]:
    """Han characters and Latin words of a normalized text: the units of the mixed error rate."""
    return _UNIT.findall(text)


def places(text: str) -> list[tuple[str, int, int]]:
    """The units of any text, each with where it begins and ends; none if lower case has another length."""
    lowered = text.lower()
    if len(lowered) != len(text):
        return []
    return [(unit[0], *unit.span()) for unit in _UNIT.finditer(lowered)]


def replaced(text: str, start: int, end: int, other: str) -> str:
    """A text with something else in place of [start, end); a space where Latin letters would touch."""
    before, after = text[:start], text[end:]
    left = " " if before[-1:].isascii() and before[-1:].isalnum() and other[:1].isascii() else ""
    right = " " if after[:1].isascii() and after[:1].isalnum() and other[-1:].isascii() else ""
    return before + left + other + right + after


def printable(text: str) -> str:
    """The text in one line: composed (NFC), without control characters, with single spaces and none outside."""
    if not text.isprintable():
        kept = (" " if c.isspace() else "" if unicodedata.category(c) in _UNSPEAKABLE else c for c in text)
        text = "".join(kept)
    return unicodedata.normalize("NFC", " ".join(text.split()))


def language_of(text: str) -> str:
    """One of "zh", "en" and "mixed" by the scripts in `text`, normalized or not; "en" if it has neither script."""
    han, latin = _HAS_HAN.search(text), _HAS_LATIN.search(text)
    if han and latin:
        return "mixed"
    return "zh" if han else "en"


def _fold(text: str) -> str:
    """Lower case without compatibility forms, diacritics and invisible format characters."""
    text = unicodedata.normalize("NFKC", text.replace(_ACUTE, "'")).lower()
    text = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    return "".join(_fold_character(c) for c in text) if not text.isascii() else text


def _fold_character(character: str) -> str:
    if character.isdecimal():
        return str(unicodedata.decimal(character))  # digits of every script
    return "" if unicodedata.category(character) in ("Mn", "Cf") else character


def _join(words: list[str]) -> str:
    """Spaces between neighboring Latin words only."""
    if not words:
        return ""
    gaps = (" " if left[-1].isascii() and right[0].isascii() else "" for left, right in pairwise(words))
    return words[0] + "".join(gap + word for gap, word in zip(gaps, words[1:], strict=True))


def _spoken_units(text: str) -> Iterator[str]:
    tokens = list(_TOKEN.finditer(text))
    for token, mandarin in zip(tokens, _spoken_in_mandarin(tokens), strict=True):
        if token["han"] or token["latin"]:
            yield token[0]
        elif token["ordinal"]:
            yield from _english(int(token["ordinal"]), "ordinal")
        elif mandarin:
            yield _mandarin_reading(token)
        else:
            yield from _english_reading(token)


def _spoken_in_mandarin(tokens: list[re.Match[str]]) -> list[bool]:
    """For every token whether the nearest letters are Han; of two at one distance the following ones count."""
    before = _distances(tokens)
    after = _distances(tokens[::-1])[::-1]
    return [min(right, left, key=lambda side: side[0])[1] for left, right in zip(before, after, strict=True)]


def _distances(tokens: list[re.Match[str]]) -> list[tuple[float, bool]]:
    """(distance to the nearest letters that come earlier in the list, whether these are Han) of every token."""
    result: list[tuple[float, bool]] = []
    nearest: re.Match[str] | None = None
    for token in tokens:
        if nearest is None:
            result.append((float("inf"), False))
        else:
            gap = max(token.start() - nearest.end(), nearest.start() - token.end())
            result.append((gap, nearest["han"] is not None))
        if token["han"] or token["latin"]:
            nearest = token
    return result


def _parts(token: re.Match[str]) -> tuple[str, list[str]]:
    """The whole number and what follows each point: "1,234.5" gives "1234" and ["5"]."""
    whole, *rest = token["number"].replace(",", "").split(".")
    return whole, rest


def _digit_by_digit(digits: str) -> bool:
    return len(digits) > _LONGEST_NUMBER or (len(digits) > 1 and digits[0] == "0")


def _mandarin_reading(token: re.Match[str]) -> str:
    whole, rest = _parts(token)
    reading = _mandarin_digits(whole) if _digit_by_digit(whole) else mandarin_number(int(whole))
    reading += "".join("点" + _mandarin_digits(digits) for digits in rest)
    return ("负" if token["minus"] else "") + ("百分之" if token["percent"] else "") + reading


def _mandarin_digits(digits: str) -> str:
    return "".join(_DIGITS[int(digit)] for digit in digits)


def mandarin_number(number: int) -> str:
    """A whole number, 0 <= number < 10^12, as it is spoken in Mandarin: 23 is 二十三, 2005 is 两千零五."""
    if number == 0:
        return "零"
    reading, skipped = "", False
    for power, name in ((8, "亿"), (4, "万"), (0, "")):
        group, number = divmod(number, 10**power)
        if group:
            zero = "零" if reading and (skipped or group < 1000) else ""
            reading += zero + ("两" if group == 2 and name else _mandarin_group(group)) + name
        skipped = not group
    return reading[1:] if reading.startswith("一十") else reading


def _mandarin_group(number: int) -> str:
    """1 to 9999."""
    reading, skipped = "", False
    for power, name in ((3, "千"), (2, "百"), (1, "十"), (0, "")):
        digit, number = divmod(number, 10**power)
        if digit:
            zero = "零" if reading and skipped else ""
            reading += zero + ("两" if digit == 2 and name == "千" else _DIGITS[digit]) + name
        skipped = not digit
    return reading


def _english_reading(token: re.Match[str]) -> list[str]:
    whole, rest = _parts(token)
    words = ["minus"] if token["minus"] else []
    words += _english_digits(whole) if _digit_by_digit(whole) else _english(int(whole), "cardinal")
    for digits in rest:
        words += ["point", *_english_digits(digits)]
    return words + (["percent"] if token["percent"] else [])


def _english_digits(digits: str) -> list[str]:
    return [_english(int(digit), "cardinal")[0] for digit in digits]


def _english(number: int, kind: str) -> list[str]:
    from num2words import num2words  # it loads fifty languages: only when a text has digits

    return re.findall(WORD, num2words(number, lang="en", to=kind))
