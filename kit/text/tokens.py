"""Text tokens of the language model: byte-level BPE with Qwen's specials, trained here or loaded with a real model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import KitError
from kit.text.normalize import HAN

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT, IM_START, IM_END = SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# How Qwen cuts text before it merges bytes (tokenizer.json of Qwen3).
_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = 256
_HAN_SHARE = 0.75  # of the merges, at most: what is left is for Latin words
_MIN_FREQUENCY = 2  # a word seen once is better spelled: its own token would never be learned


def train_tokenizer(lines: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn a vocabulary of at most `vocab_size` tokens, specials included; the same lines give the same vocabulary.

    A Han character is always cut from its neighbors, and is one token if it occurs in `lines` and the vocabulary has
    room (about 1.3 merges a character; the most frequent first). Any text is kept exactly: what was not seen is
    spelled in bytes.

    Raises:
        KitError: `vocab_size` does not even hold the bytes and the specials.
    """
    room = vocab_size - _BYTES - len(SPECIALS)
    if room < 0:
        raise KitError(f"a vocabulary of {vocab_size} is too small; take at least {_BYTES + len(SPECIALS)} tokens")
    lines = list(lines)
    # Han characters and words never meet in one piece, so their merges can be learned one after the other.
    han = _learn(lines, _pieces(("[^{}]+", "removed"), ("[{}]", "isolated")), int(room * _HAN_SHARE), 1)
    words = _learn(lines, _pieces(("[{}]", "removed"), (_WORD, "isolated")), room - len(han), _MIN_FREQUENCY)
    return _tokenizer(dict.fromkeys(han + words))


def _pieces(*splits: tuple[str, str]) -> PreTokenizer:
    """Cut by each (pattern, behavior) in turn, then write bytes as the printable characters of GPT-2."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    cuts = [Split(Regex(pattern.replace("{}", HAN)), behavior) for pattern, behavior in splits]
    return Sequence([*cuts, ByteLevel(add_prefix_space=False, use_regex=False)])


def _learn(lines: Sequence[str], pieces: PreTokenizer, merges: int, frequency: int) -> list[tuple[str, str]]:
    """At most so many merges of byte-pair encoding, in order."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pieces
    trainer = BpeTrainer(
        vocab_size=_BYTES + merges,
        min_frequency=frequency,
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _tokenizer(merges: Iterable[tuple[str, str]]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    merges = list(merges)
    alphabet = sorted(ByteLevel.alphabet())
    tokens = dict.fromkeys(alphabet + [left + right for left, right in merges])
    backend = Tokenizer(BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = _pieces(("[{}]", "isolated"), (_WORD, "isolated"))
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIALS))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[IM_START],
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(path_or_hub_name: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder (`save_pretrained`), or the one of a model on the hub such as "Qwen/Qwen3-1.7B".

    Raises:
        KitError: nothing is found under that name, or it is no fast tokenizer.
    """
    from transformers import AutoTokenizer

    name = str(path_or_hub_name)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever the files or the network do: there are a dozen kinds
        raise _not_loaded(name) from error
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise KitError(f"the tokenizer {name} has no tokenizer.json; save it with a current version of transformers")
    return tokenizer


def _not_loaded(name: str) -> KitError:
    if Path(name).exists():
        return KitError(f"{name} holds no tokenizer that can be read; export the model again or name another folder")
    return KitError(
        f"cannot load the tokenizer {name}: no folder has this name and the model hub does not give it; "
        "check the name and the connection, or name a folder that holds the tokenizer"
    )


def encode_plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token numbers of `text` in which nothing is special: "<|im_end|>" is spelled in characters."""
    # The stages of the tokenizer one by one, without the one that looks for added tokens.
    backend = tokenizer.backend_tokenizer  # type: ignore[attr-defined]
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    pieces = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer else [(text, None)]
    return [token.id for piece, _ in pieces for token in backend.model.tokenize(piece)]
