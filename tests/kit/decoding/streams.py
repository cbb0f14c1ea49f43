"""Sessions over a small random model whose texts vary."""

import torch
from small import small_config, small_recognizer

from kit.decoding.engine import Engine
from kit.decoding.events import Final, Partial


def recognizer(seed=4):
    model = small_recognizer(seed=seed)
    torch.manual_seed(seed)
    for parameter in model.llm.parameters():  # at its usual size a random model repeats its last token for ever
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    torch.nn.init.normal_(model.adaptor.layers[2].weight, std=0.3)
    torch.nn.init.normal_(model.phoneme_head.out.weight, std=2.0)
    return model


PLAIN = ["decoding=streaming", "decoding.max_tokens=8", "decoding.beam=1"] + [
    f"decoding.callbacks.{name}=null" for name in ("endpoint", "gate", "trim", "veto", "timing")
]


def engine(*overrides, model=None, sessions=1, **options):
    """Without callbacks unless `overrides` bring some back."""
    return Engine(model or recognizer(), small_config(*PLAIN, *overrides).decoding, sessions, **options)


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
