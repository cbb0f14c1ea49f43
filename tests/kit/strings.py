"""Made-up phoneme strings and databases of them, for the tests of hotword retrieval."""

import random
import time

from kit.retrieval.build import build
from kit.text.phonemes import PhonemeInventory

INVENTORY = PhonemeInventory.default()
SYMBOLS = len(INVENTORY)


def said(symbols):
    """The string of symbols with spaces between them."""
    return bytes(INVENTORY.encode(symbols.split()))


def made_up(count, seed, shortest=6, longest=14, symbols=SYMBOLS):
    """So many different strings, in no order."""
    rng, found = random.Random(seed), {}
    while len(found) < count:
        found[bytes(rng.choices(range(1, symbols), k=rng.randint(shortest, longest)))] = None
    return list(found)


def one_wrong(string, rng):
    """A string with one of its phonemes taken for any other."""
    place = rng.randrange(len(string))
    other = rng.choice([symbol for symbol in range(1, SYMBOLS) if symbol != string[place]])
    return string[:place] + bytes([other]) + string[place + 1 :]


def database_of(folder, strings, dense=True):
    """A database of names that are said so."""
    lines = (f"n{place}\t\t\t{' '.join(INVENTORY.decode(string))}\n" for place, string in enumerate(strings))
    path = folder.parent / f"{folder.name}.tsv"
    path.write_text("".join(lines), "utf-8")
    return build(path, folder, INVENTORY, dense=dense)


def wait_for(condition):
    """Come back when it holds, in 20 seconds at most."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
