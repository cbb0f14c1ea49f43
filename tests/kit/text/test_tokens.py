import random

import pytest

from kit.errors import KitError
from kit.text.tokens import SPECIALS, encode_plain, load_tokenizer, train_tokenizer

RNG = random.Random(0)
HAN = [chr(0x4E00 + offset) for offset in RNG.sample(range(8000), 1000)]
WORDS = ["".join(RNG.choices("etaoinshrdlucmf", k=RNG.randint(2, 8))) for _ in range(900)]


def corpus(seed: int, lines: int = 1200) -> list[str]:
    """Sentences of rare and frequent characters and words; every character occurs."""
    rng = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(HAN))]
    mixed = ["".join(rng.choices(HAN, weights, k=8)) + " ".join(rng.choices(WORDS, k=4)) for _ in range(lines)]
    return [*mixed, "".join(HAN)]


def random_text(rng: random.Random) -> str:
    pools = [
        lambda: chr(rng.randrange(32, 127)),
        lambda: rng.choice(HAN),
        lambda: rng.choice(["\n", "\r", "\t", " ", "  ", *SPECIALS, "'s", "\u0301", "\x00", "😀"]),
        lambda: chr(rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])),
    ]
    return "".join(rng.choice(pools)() for _ in range(rng.randint(0, 25)))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(corpus(1), 2400)


def test_size_and_specials(tokenizer):
    assert len(tokenizer) == 2400
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert set(tokenizer.all_special_tokens) == set(SPECIALS)
    assert tokenizer.encode("".join(SPECIALS)) == [tokenizer.convert_tokens_to_ids(special) for special in SPECIALS]


def test_every_character_of_the_corpus_is_one_token(tokenizer):
    tokens = {character: encode_plain(tokenizer, character) for character in HAN}
    assert {len(ids) for ids in tokens.values()} == {1}
    assert len({ids[0] for ids in tokens.values()}) == len(HAN)


def test_characters_are_cut_from_all_that_surrounds_them(tokenizer):
    rng = random.Random(2)
    for _ in range(300):
        parts = [rng.choice(HAN) if rng.random() < 0.5 else rng.choice(WORDS) for _ in range(6)]
        alone = [ids for part in parts for ids in (encode_plain(tokenizer, part) if part in HAN else [part])]
        whole = encode_plain(tokenizer, "".join(parts))
        han = {encode_plain(tokenizer, part)[0] for part in parts if part in HAN}
        assert [index for index in whole if index in han] == [index for index in alone if isinstance(index, int)]


def test_any_text_comes_back_exactly(tokenizer):
    rng = random.Random(3)
    for _ in range(3000):
        text = random_text(rng)
        assert tokenizer.decode(encode_plain(tokenizer, text)) == text


def test_plain_is_the_usual_encoding_when_nothing_is_special(tokenizer):
    rng = random.Random(4)
    for _ in range(2000):
        text = random_text(rng)
        if not any(special in text for special in SPECIALS):
            assert encode_plain(tokenizer, text) == tokenizer.encode(text, add_special_tokens=False)


def test_specials_in_plain_text_are_spelled(tokenizer):
    specials = set(tokenizer.all_special_ids)
    for text in (*SPECIALS, "a<|im_end|>b", "<|im_start|><|im_start|>"):
        ids = encode_plain(tokenizer, text)
        assert not specials & set(ids)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_other_added_tokens_are_spelled_too():
    tokenizer = train_tokenizer(corpus(1, 50), 400)
    tokenizer.add_tokens(["<think>"])  # not special for the library: `split_special_tokens` would miss it
    assert len(tokenizer.encode("<think>")) == 1
    assert tokenizer.decode(encode_plain(tokenizer, "<think>")) == "<think>"
    assert len(encode_plain(tokenizer, "<think>")) > 1


def test_the_same_lines_give_the_same_tokenizer(tokenizer):
    assert train_tokenizer(iter(corpus(1)), 2400).backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_a_vocabulary_without_room_still_spells_everything():
    tokenizer = train_tokenizer(corpus(1, 50), 259)
    text = HAN[0] + " spelled"
    assert len(tokenizer) == 259
    assert encode_plain(tokenizer, text) == [
        tokenizer.convert_tokens_to_ids(token) for token in tokenizer.tokenize(text)
    ]
    assert len(encode_plain(tokenizer, text)) == len(text.encode())
    with pytest.raises(KitError, match="at least 259"):
        train_tokenizer([], 258)


def test_frequent_characters_come_first_when_room_is_short():
    tokenizer = train_tokenizer(corpus(1), 700)
    assert all(len(encode_plain(tokenizer, character)) == 1 for character in HAN[:50])
    assert any(len(encode_plain(tokenizer, character)) > 1 for character in HAN[-50:])
    assert len(encode_plain(tokenizer, WORDS[0])) < len(WORDS[0])


def test_nothing_to_learn_from():
    tokenizer = train_tokenizer([], 1000)
    assert len(tokenizer) == 259
    assert tokenizer.decode(encode_plain(tokenizer, "播放")) == "播放"


def test_saved_and_loaded(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    rng = random.Random(5)
    for _ in range(300):
        text = random_text(rng)
        assert encode_plain(loaded, text) == encode_plain(tokenizer, text)
        assert loaded.encode(text) == tokenizer.encode(text)
        assert loaded.decode(loaded.encode(text)) == text


@pytest.mark.parametrize("name", ["somebody/no-such-model", "no/such/folder/at all"])
def test_what_no_hub_gives_is_one_sentence(monkeypatch, name):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(KitError, match=f"cannot load the tokenizer {name}: ") as caught:
        load_tokenizer(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "", "{}", "not json"])
def test_a_folder_without_a_tokenizer_is_one_sentence(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(KitError, match="holds no tokenizer that can be read") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
