"""Sessions over a small random model whose texts vary."""

import pytest
import torch
from small import small_config, small_recognizer

from kit.audio.features import LogMel
from kit.decoding.callbacks import DecodingCallback
from kit.decoding.engine import Engine
from kit.decoding.events import Final, Partial
from kit.model.recognizer import PARTS
from kit.retrieval import embedding
from kit.retrieval.build import build
from kit.text.phonemes import PhonemeInventory


def recognizer(seed=4, *overrides):
    model = small_recognizer(PARTS, seed, *overrides)
    torch.manual_seed(seed)
    for parameter in model.llm.parameters():  # at its usual size a random model repeats its last token for ever
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.normal_(model.adaptor.layers[2].weight, std=0.3)
    torch.nn.init.normal_(model.phoneme_head.out.weight, std=2.0)
    return model


def listener(seed=4):
    """A recognizer that hears something else in almost every frame."""
    model = recognizer(seed)
    with torch.inference_mode():
        features = LogMel()(noise(4))[None]
        frames, _ = model.encode(features, torch.tensor([features.shape[1]]))
        model.phoneme_head.out.bias -= model.phoneme_head(frames).mean((0, 1))
    return model


PLAIN = ["decoding=streaming", "decoding.max_tokens=8", "decoding.beam=1"] + [
    f"decoding.callbacks.{name}=null" for name in ("endpoint", "gate", "trim", "veto", "splice", "guard", "timing")
]


def engine(*overrides, model=None, sessions=1, hotwords=None, **options):
    """Without callbacks unless `overrides` bring some back."""
    found = [f"hotwords={hotwords}"] if hotwords else []
    return Engine(model or recognizer(), small_config(*PLAIN, *overrides, *found).decoding, sessions, **options)


def noise(seconds, seed=0, level=0.1):
    draw = torch.Generator().manual_seed(seed)
    return level * torch.randn(round(16000 * seconds), generator=draw)


def pushed(session, samples, seed):
    """All events of a stream cut at random, the end included."""
    draw, at, events = torch.Generator().manual_seed(seed), 0, []
    while at < len(samples):
        size = int(torch.randint(1, 20000, (), generator=draw))
        events += session.push(samples[at : at + size])
        at += size
    return events + session.finish()


def finals(events):
    return [event for event in events if isinstance(event, Final)]


def partials(events):
    return [event for event in events if isinstance(event, Partial)]


def heard_by(session, samples):
    """The phonemes that a session hears in a stream."""
    keep = _Phonemes()
    session.callbacks.append(keep)
    pushed(session, samples, seed=0)
    return keep.found


class _Phonemes(DecodingCallback):
    def final(self, utterance, event):
        self.found = list(utterance.phonemes)
        return event


def database(folder, names, dense=False):
    """A database of hotwords: of texts, or of texts with their phonemes as symbols; the map of its index is coarse."""
    given = names if isinstance(names, dict) else dict.fromkeys(names, ())
    lines = ["\t".join((name, "", "", " ".join(symbols))) for name, symbols in given.items()]
    (folder / "names.tsv").write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "EXAMPLES", 2000)
        build(folder / "names.tsv", folder / "db", PhonemeInventory.default(), dense=dense)
    return folder / "db"
