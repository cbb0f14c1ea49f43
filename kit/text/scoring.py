"""Normalization before scoring: which differences between two texts are no errors. A plugin, `normalization=NAME`.

Training labels are written by `kit.text.normalize.normalize` and by nothing here.
"""

from __future__ import annotations

import re
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from kit.errors import KitError
from kit.text.normalize import HAN, normalize
from kit.text.numerals import one_spelling

_UNIT = re.compile(rf"[{HAN}]|[^\s{HAN}]+")
_LATIN = re.compile(r"[a-z\u00c0-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a]", re.IGNORECASE)
_HAN_CHARACTER = re.compile(f"[{HAN}]")

# What is said without meaning anything, and is written by nobody who means something by it: 额, 啊, 哦, "er" and "ah"
# are words as well, 唔 is one in Cantonese.
_FILLER = re.compile(r"[呃嗯呣]|(?<![a-z'])(?:uhh?|uhm|umm?|erm|hmm?|mmm?)(?![a-z'])")
# Behind a number: in Mandarin, in English one and many.
UNITS = {
    "°c": ("摄氏度", "degree celsius", "degrees celsius"),
    "°f": ("华氏度", "degree fahrenheit", "degrees fahrenheit"),
    "°": ("度", "degree", "degrees"),
    "km/h": ("公里每小时", "kilometer per hour", "kilometers per hour"),
    "mph": ("英里每小时", "mile per hour", "miles per hour"),
    "km": ("公里", "kilometer", "kilometers"),
    "cm": ("厘米", "centimeter", "centimeters"),
    "mm": ("毫米", "millimeter", "millimeters"),
    "kg": ("公斤", "kilogram", "kilograms"),
}
# Before a number.
CURRENCIES = {"$": ("美元", "dollar", "dollars"), "€": ("欧元", "euro", "euros"), "¥": ("元", "yuan", "yuan")}

_NUMBER = r"\d+(?:,\d{3})*(?:\.\d+)?"
_MEASURED = re.compile(rf"({_NUMBER})\s?({'|'.join(map(re.escape, UNITS))})(?![a-z])")
_PRICE = re.compile(rf"([{''.join(CURRENCIES)}])\s?({_NUMBER})")
_DATE = re.compile(r"(?<![\d.,/-])((?:19|20)\d\d)([-/.])(0?[1-9]|1[0-2])\2(0?[1-9]|[12]\d|3[01])(?![\d.,/-]*\d)")
_TIME = re.compile(r"(?<![\d:])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\d:])")
_TELEPHONE = re.compile(
    r"(?<![\d.,-])(?:\+86[- ]?)?(1[3-9]\d[- ]\d{4}[- ]\d{4}|0\d{2,3}-\d{7,8}|\d{3}-\d{3}-\d{4}|\d{3}-\d{4})(?![\d-])"
)
_NOON = re.compile(r"\b([ap])\.\s?m\b\.?")
_LETTER = re.compile(rf"[a-z{HAN}]")


def units(text: str) -> list[str]:
    """Han characters, and what stands between them and white space: of a text in any script what is scored."""
    return _UNIT.findall(text)


class Normalization(ABC):
    """Writes texts that mean the same the same way. A subclass says how (`spell`).

    Words in scripts that `spell` does not know stay where they are, so that none falls out of a denominator.

    Attributes:
        about: what it does, in a line, for reports.
    """

    about: str

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, text: str) -> str:
        """The text as it is scored; "" only where it has no letter and no digit."""
        return _around_foreign(self.spell, text)

    @abstractmethod
    def spell(self, text: str) -> str:
        """A text of Han characters, Latin letters, digits and signs."""


class Untouched(Normalization):
    """The text as it is written; only the kind of white space does not count."""

    about = "nothing but white space"

    def __call__(self, text: str) -> str:
        """The text with single spaces."""
        return self.spell(text)

    def spell(self, text: str) -> str:
        """The text with single spaces."""
        return " ".join(text.split())


class Basic(Normalization):
    """The form that training labels have: `kit.text.normalize.normalize`."""

    about = "case, punctuation, width, diacritics, spacing; digits as words"

    def spell(self, text: str) -> str:
        """The canonical form."""
        return normalize(text)


class Light(Normalization):
    """The canonical form, without fillers and with numbers, dates, times and units spelled one way."""

    about = "case, punctuation, width, diacritics, spacing, fillers; numbers, dates, times and units spelled one way"

    def spell(self, text: str) -> str:
        """The canonical form of what is meant; a text of nothing but fillers keeps them."""
        spoken = normalize(signs_as_words(text))
        return one_spelling(without_fillers(spoken) or spoken)


class WeText(Normalization):
    """WeTextProcessing's rules for Mandarin or English, then the canonical form and the same spelling of numbers.

    Args:
        language: "auto" (Mandarin where a text has Han characters), "zh" or "en".

    Raises:
        KitError: the package is not there.
    """

    about = "WeTextProcessing, then case, punctuation, width, spacing, fillers; numbers spelled one way"

    def __init__(self, name: str, language: str = "auto") -> None:
        super().__init__(name)
        if language not in ("auto", "zh", "en"):
            raise ValueError(f"language is {language!r}; write auto, zh or en")
        self.language = language
        self._makers = _wetext()
        self._made: dict[str, Callable[[str], str]] = {}

    def spell(self, text: str) -> str:
        """What WeTextProcessing reads aloud, in canonical form."""
        language = self.language if self.language != "auto" else "zh" if _HAN_CHARACTER.search(text) else "en"
        if language not in self._made:
            self._made[language] = self._makers[language]().normalize
        spoken = normalize(self._made[language](text)) if text.strip() else ""
        return one_spelling(without_fillers(spoken) or spoken)


def _wetext() -> dict[str, Callable[[], Any]]:
    try:
        from tn.chinese.normalizer import Normalizer as Mandarin
        from tn.english.normalizer import Normalizer as English
    except ImportError as error:
        raise KitError("normalization=wetext needs the package WeTextProcessing; install nim4-kit[wetext]") from error
    return {"zh": Mandarin, "en": English}


def without_fillers(text: str) -> str:
    """A canonical text without what is said while thinking."""
    return normalize(_FILLER.sub("", text))


def signs_as_words(text: str) -> str:
    """Dates, times, units, prices and telephone numbers as they are said, digits left as they are."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = _TELEPHONE.sub(lambda found: re.sub(r"\D", "", found[1]), text)
    text = _NOON.sub(r"\1m", text)
    for pattern, words in ((_DATE, _date), (_TIME, _time), (_PRICE, _price), (_MEASURED, _measured)):
        text = pattern.sub(words, text)
    return text


def _date(found: re.Match[str]) -> str:
    year, month, day = found[1], int(found[3]), int(found[4])
    return f"{year}年{month}月{day}日" if _in_mandarin(found) else found[0]  # the order of English ones is unknown


def _time(found: re.Match[str]) -> str:
    hour, minute, second = (None if part is None else int(part) for part in found.groups())
    if not _in_mandarin(found):
        return f"{hour} o'clock" if not minute and second is None else found[0]
    return f"{hour}点" + (f"{minute}分" if minute or second else "") + (f"{second}秒" if second else "")


def _price(found: re.Match[str]) -> str:
    return _counted(found, found[2], CURRENCIES[found[1]])


def _measured(found: re.Match[str]) -> str:
    return _counted(found, found[1], UNITS[found[2]])


def _counted(found: re.Match[str], number: str, names: tuple[str, str, str]) -> str:
    mandarin, one, many = names
    return f"{number}{mandarin}" if _in_mandarin(found) else f"{number} {one if number == '1' else many} "


def _in_mandarin(found: re.Match[str]) -> bool:
    """Whether the nearest letter around a match is Han; of two at one distance the following one counts."""
    text = found.string
    before, after = _LETTER.search(text[: found.start()][::-1]), _LETTER.search(text, found.end())
    left = before.start() if before else len(text)
    right = after.start() - found.end() if after else len(text)
    nearest = after if right <= left else before
    return nearest is not None and not nearest[0].isascii()


# --- other scripts ----------------------------------------------------------------------------------------------------


def foreign(text: str) -> list[str]:
    """The words of a text in other scripts than Han and Latin."""
    return [part for part in _split_foreign(text)[1::2] if part]


def _around_foreign(spell: Callable[[str], str], text: str) -> str:
    parts = _split_foreign(text)
    if len(parts) == 1:
        return spell(text)
    done = [part.casefold() if place % 2 else spell(part) for place, part in enumerate(parts)]
    return " ".join(part for part in done if part)


def _split_foreign(text: str) -> list[str]:
    """Known and foreign stretches in turns, known ones first; a single one where nothing is foreign."""
    if text.isascii():
        return [text]
    parts, inside = [""], False
    for character in unicodedata.normalize("NFC", text):
        mark = unicodedata.category(character)[0] == "M" and inside
        if (_foreign_letter(character) or mark) != inside:
            parts.append("")
            inside = not inside
        parts[-1] += character
    return parts if len(parts) == 1 or not inside else [*parts, ""]


def _foreign_letter(character: str) -> bool:
    if unicodedata.category(character)[0] != "L" or character.isascii():
        return False
    plain = unicodedata.normalize("NFKC", character)
    return not (_LATIN.match(plain) or _HAN_CHARACTER.match(plain) or plain.isascii())
