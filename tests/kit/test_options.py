import os

import pytest

from kit.errors import UsageError
from kit.options import choose, share, whole_number
from kit.processors import processors


def test_options_have_their_defaults_or_what_is_given():
    assert choose("walk", {"far": "1", "fast": ""}, ["far=2=3", "fast=x", "fast="]) == {"far": "2=3", "fast": ""}


@pytest.mark.parametrize(
    ("defaults", "override", "sentence"),
    [
        ({"far": "1"}, "fa=2", "unknown option fa of walk; did you mean far?"),
        ({"far": "1", "x": ""}, "quick=2", "unknown option quick of walk; far, x"),
        ({}, "quick=2", "unknown option quick of walk; it has none"),
    ],
)
def test_unknown_options(defaults, override, sentence):
    with pytest.raises(UsageError) as caught:
        choose("walk", defaults, [override])
    assert str(caught.value) == sentence


def test_whole_numbers():
    assert whole_number("n", "12") == 12 and whole_number("n", "0", least=0) == 0
    for written in ("0", "-1", "1.5", "", "x", "²"):
        with pytest.raises(UsageError, match=f"n={written} must be a whole number from 1 up"):
            whole_number("n", written)


def test_shares():
    assert (share("p", "0.98"), share("p", ".5"), share("p", "1"), share("p", "1.0")) == (0.98, 0.5, 1.0, 1.0)
    for written in ("0", "0.0", "1.1", "-0.5", "", "x", "1e-1", "nan"):
        with pytest.raises(UsageError, match=f"p={written} must be a number above 0 and up to 1"):
            share("p", written)


def test_processors():
    assert 1 <= processors() <= (os.cpu_count() or 1)
