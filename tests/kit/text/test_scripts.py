import pytest

from kit.text.scripts import foreign, scripts


@pytest.mark.parametrize(
    ("text", "han", "latin", "other"),
    [
        ("", 0, 0, 0),
        ("你好 world", 2, 1, 0),
        ("it's a co-op", 0, 3, 0),
        ("naïve Ångström ＡＢ", 0, 3, 0),
        ("播放shape of you吧", 3, 3, 0),
        ("こんにちは 3 日", 1, 0, 5),
        ("жизнь, 12!", 0, 0, 5),
        ("㐀𠀀", 2, 0, 0),
    ],
)
def test_scripts_are_counted(text, han, latin, other):
    assert scripts(text) == {"han": han, "latin": latin, "other": other}


@pytest.mark.parametrize(
    ("text", "language", "odd"),
    [
        ("导航到外滩", "zh", None),
        ("播放beat it吧", "zh", None),
        ("听beat it", "zh", "2 Latin words among 1 Han characters"),
        ("turn on the radio", "zh", "4 Latin words among 0 Han characters"),
        ("turn on the radio", "en", None),
        ("café déjà vu", "en", None),
        ("turn on 收音机", "en", "3 Han characters in English"),
        ("turn on the radio", "mixed", None),
        ("打开 radio", "mixed", None),
        ("打开 радио", "mixed", "5 letters are neither Han nor Latin"),
        ("한국어", "zh", "3 letters are neither Han nor Latin"),
        ("12 %", "en", None),
    ],
)
def test_what_is_odd_for_a_language(text, language, odd):
    assert foreign(text, language) == odd
