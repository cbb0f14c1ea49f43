"""Numbers of a normalized text spelled one way, so that 二零二四, 两千零二十四 and 2024 are the same words.

Both languages by the same rule: what reads as one number is taken for its digits, and these are spelled again. Left
alone is what is no number for sure: a single numeral (一些, 三里屯, "one"), two in a row (三四个, "one two"), and what
is no well-formed number (万一, 千万, 两三百).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from kit.text.normalize import english_words, mandarin_number

_LONGEST = 12  # digits that are spelled as a number; longer is an identifier
_SIGNIFICANT = 6  # digits but the zeros at the end; a number with more is an identifier, such as a telephone number

_DIGITS = "零一二三四五六七八九"
_TENS = {"十": 10, "百": 100, "千": 1000}
_GROUPS = {"万": 10**4, "亿": 10**8}
_NUMERAL = re.compile(r"(点)?([零〇一二三四五六七八九十百千万亿幺]{2,})")
_HALF = re.compile(r"(?<=[一二三四五六七八九十])点半(?!点)")
_MINUTES = re.compile(
    r"(?<=[一二三四五六七八九十])点([二三四五]?十[一二三四五六七八九]?)(?![一二三四五六七八九十百千万亿分])"
)


def one_spelling(text: str) -> str:
    """A text of `kit.text.normalize.normalize` with its numbers spelled one way; idempotent."""
    text = text.replace("两", "二")  # 2个 does not say which
    text = _NUMERAL.sub(lambda found: (found[1] or "") + _mandarin(found[2], bool(found[1])), text)
    text = _MINUTES.sub(r"点\1分", _HALF.sub("点三十分", text))
    return re.sub(r"[a-z'][a-z' ]*", lambda found: _english(found[0]), text)


def _as_number(digits: str) -> bool:
    """Whether digits are spelled as a number, not one by one."""
    return digits[0] != "0" and len(digits) <= _LONGEST and len(digits.rstrip("0")) <= _SIGNIFICANT


# --- Mandarin ---------------------------------------------------------------------------------------------------------


def _mandarin(numeral: str, decimals: bool) -> str:
    """One spelling of a run of numerals; `decimals` are read one by one."""
    plain = numeral.replace("〇", "零").replace("幺", "一")
    if not set(plain) & (_TENS.keys() | _GROUPS.keys()):
        identifier = "幺" in numeral or (len(plain) > 2 and not decimals)
        return _spelled_in_mandarin("".join(str(_DIGITS.index(one)) for one in plain)) if identifier else numeral
    value = _value(plain)
    return numeral if value is None or decimals else _spelled_in_mandarin(str(value))


def _spelled_in_mandarin(digits: str) -> str:
    if _as_number(digits):
        return mandarin_number(int(digits)).replace("两", "二")
    return "".join(_DIGITS[int(digit)] for digit in digits)


def _value(numeral: str) -> int | None:
    """What a numeral with units stands for, 一百五 for 150 among them; None if it is not well-formed."""
    total = section = 0
    least = group = 10**12  # units must fall
    digit: int | None = None
    after_zero = False
    for one in numeral:
        if one in _DIGITS:
            if digit is not None and (digit or one == "零"):
                return None
            digit, after_zero = _DIGITS.index(one), after_zero or one == "零"
        elif one in _TENS:
            unit = _TENS[one]
            if unit >= least or digit == 0 or (digit is None and (one != "十" or section)):
                return None
            section, least, digit, after_zero = section + (digit or 1) * unit, unit, None, False
        else:
            section += digit or 0
            if not section or _GROUPS[one] >= group:
                return None
            total, group = total + section * _GROUPS[one], _GROUPS[one]
            section, least, digit, after_zero = 0, group, None, False
    if digit == 0:
        return None
    short = least if least != 10**12 and not after_zero and least > 10 else 10  # 一百五 is short for 一百五十
    return total + section + (digit or 0) * short // 10


# --- English ----------------------------------------------------------------------------------------------------------

_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}


@cache
def _below_hundred() -> dict[tuple[str, ...], tuple[int, bool]]:
    """Words -> (number below a hundred, whether it is an ordinal)."""
    pairs = ((kind, number) for kind in ("cardinal", "ordinal") for number in range(100))
    return {tuple(english_words(number, kind)): (number, kind == "ordinal") for kind, number in pairs}


def _english(text: str) -> str:
    """One spelling of the numbers in Latin words; spaces at the ends stay."""
    words = text.split()
    if not set(words) & _any_numeral():
        return text
    found: list[str] = []
    at = 0
    while at < len(words):
        spelled, at = _identifier(words, at) or _year(words, at) or _number(words, at) or ([words[at]], at + 1)
        found += spelled
    return text[: len(text) - len(text.lstrip())] + " ".join(found) + text[len(text.rstrip()) :]


@cache
def _any_numeral() -> frozenset[str]:
    return frozenset(word for words in _below_hundred() for word in words) | {"hundred", *_SCALES}


def _small(words: Sequence[str], at: int) -> tuple[int, bool, int] | None:
    """(number below a hundred, whether it is an ordinal, where it ends) that begins at a word; None if none does."""
    for length in (2, 1):
        known = _below_hundred().get(tuple(words[at : at + length]))
        if known and at + length <= len(words):
            return *known, at + length
    return None


def _identifier(words: Sequence[str], at: int) -> tuple[list[str], int] | None:
    """Three single digits or more, "oh" among them, none of which belongs to a number before or behind."""
    end = at
    while end < len(words) and (_digit(words[end]) is not None or (words[end] == "oh" and end > at)):
        end += 1
    if end - at < 3:
        return None
    digits = [str(_digit(word) or 0) for word in words[at:end]]
    if set(words[end : end + 1]) & _any_numeral() or words[max(0, at - 1) : at] == ["point"]:
        return list(words[at:end]), end
    return _spelled_in_english("".join(digits)), end


def _digit(word: str) -> int | None:
    number, ordinal = _below_hundred().get((word,), (10, False))
    return number if number < 10 and not ordinal else None


def _year(words: Sequence[str], at: int) -> tuple[list[str], int] | None:
    """Two numbers of two digits each, "oh five" among them, and no third: "nineteen ninety nine", "ten thirty"."""
    first = _small(words, at)
    if first is None or first[1] or first[0] < 10:
        return None
    if words[first[2] : first[2] + 1] == ["oh"]:
        second = _small(words, first[2] + 1)
        fits = second is not None and second[0] < 10
    else:
        second = _small(words, first[2])
        fits = second is not None and second[0] >= 10
    if second is None or not fits or second[1] or set(words[second[2] : second[2] + 1]) & _any_numeral():
        return None
    return _spelled_in_english(f"{first[0]}{second[0]:02}"), second[2]


def _number(words: Sequence[str], at: int) -> tuple[list[str], int] | None:
    """A cardinal or an ordinal of any size, with or without "and"; "a hundred" is "one hundred"."""
    total, ordinal, end = 0, False, at
    least = 10**12
    while not ordinal:
        found = _below_thousand(words, end + (total > 0 and words[end : end + 1] == ["and"]))
        if found is None:
            break
        value, is_ordinal, behind = found
        scale = _SCALES.get(words[behind], 0) if behind < len(words) and not is_ordinal else 0
        if (scale or 1) >= least or (behind < len(words) and words[behind] == "hundred"):
            break
        total, end, ordinal = total + value * (scale or 1), behind + bool(scale), is_ordinal
        if not scale:
            break
        least = scale
    if end == at:
        return None
    return (list(words[at:end]) if total < 100 else _spelled_in_english(str(total), ordinal)), end


def _below_thousand(words: Sequence[str], at: int) -> tuple[int, bool, int] | None:
    """(number, whether it is an ordinal, where it ends); up to ninety nine hundred."""
    if words[at : at + 1] == ["a"] and at + 1 < len(words) and words[at + 1] in ("hundred", *_SCALES):
        found: tuple[int, bool, int] | None = (1, False, at + 1)
    else:
        found = _small(words, at)
    if found is None or found[1] or not found[0] or words[found[2] : found[2] + 1] != ["hundred"]:
        return found
    hundreds, behind = 100 * found[0], found[2] + 1
    rest = _small(words, behind + (words[behind : behind + 1] == ["and"]))
    if rest is None or not rest[0] or words[rest[2] : rest[2] + 1] == ["hundred"]:
        return hundreds, False, behind
    return hundreds + rest[0], rest[1], rest[2]


def _spelled_in_english(digits: str, ordinal: bool = False) -> list[str]:
    if ordinal or _as_number(digits):
        return [word for word in english_words(int(digits), "ordinal" if ordinal else "cardinal") if word != "and"]
    return [english_words(int(digit), "cardinal")[0] for digit in digits]
