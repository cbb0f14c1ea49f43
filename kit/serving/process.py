"""`python -m kit.serving.process HANDLE`: an engine process, which the front starts, watches and ends.

It gets the configuration as its first message over the socket that it inherited, and ends when that is closed, so that
it does not outlive the front. What it prints goes to standard error.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.serving.wire import Gone, Inbox, Message, pack

_IDLE = 0.02  # seconds between two looks at hotwords that are being pronounced


def main() -> int:
    """Serve the front until it goes away; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for the front, which ends its engines
    os.dup2(2, 1)
    return run(socket.socket(fileno=int(sys.argv[1])))


def run(connection: socket.socket) -> int:
    """The same over any socket, in this process."""
    inbox = Inbox(connection)
    messages: list[Message] = []
    try:
        while not messages:
            messages = inbox.take(None)
        (content, _), *rest = messages
        try:
            host = _host(content)
        except KitError as error:
            connection.sendall(pack({"kind": "failed", "message": str(error)}))
            return 1
        connection.sendall(pack({"kind": "ready", "late": 0.0}))
        _serve(host, connection, inbox, rest)
    except (Gone, ConnectionError):
        pass
    return 0


def _serve(host: Any, connection: socket.socket, inbox: Inbox, messages: list[Message]) -> None:
    while True:
        for message in messages:
            if message[0]["kind"] == "ping":
                connection.sendall(pack({"kind": "pong", "late": host.late.seconds()}))
            else:
                _pass_on(host, *message)
        if host.busy:
            turn = host.turn()
            said = [[one.stream, one.content, one.latency, one.last] for one in turn.said]
            content = {"kind": "turn", "said": said, "taken": list(turn.taken.items()), "seconds": turn.seconds}
            connection.sendall(pack({**content, "late": host.late.seconds()}))
        messages = inbox.take(0.0 if host.busy else _IDLE if host.expecting else None)


def _pass_on(host: Any, content: dict[str, Any], payload: bytes) -> None:
    from kit.serving.host import Options

    kind, stream = content["kind"], content["stream"]
    if kind == "audio":
        host.put(stream, payload, content["at"])
    elif kind == "ask":
        host.ask(stream, content["what"], content["at"])
    elif kind == "change":
        host.change(stream, content["add"], content["remove"])
    elif kind == "open":
        host.open(stream, Options(**content["options"]))
    elif kind == "drop":
        host.drop(stream)
    else:
        raise ValueError(f"the front sent a message of an unknown kind, {kind}")


def _host(content: dict[str, Any]) -> Any:
    """What the first message describes.

    Raises:
        KitError: the export cannot be loaded, or does not fit to the configuration.
    """
    import torch
    from omegaconf import OmegaConf

    from kit.decoding.engine import Engine
    from kit.model.export import load_export
    from kit.model.recognizer import PARTS
    from kit.retrieval.sounds import sounds_of
    from kit.serving.host import Host

    torch.set_num_threads(int(content["threads"]))
    config = OmegaConf.create(content["config"])
    recognizer = load_export(Path(content["export"]), PARTS).eval()
    device = device_of(str(content["device"]), int(content["index"]))
    if device.type == "cuda":
        recognizer.to(device, torch.bfloat16)
    streams = int(config.serving.streams)
    engine = Engine(recognizer, config.decoding, streams, max_batch=streams)
    whole = Engine(recognizer, offline(config.decoding), max_batch=4)
    for one in (engine, whole):
        _warm(one)
    if recognizer.inventory.kind == "phonemes":
        sounds_of(["warm", "热"], recognizer.inventory)  # the dictionaries are read once, and now
    return Host(engine, whole, int(config.serving.most_hotwords))


def _warm(engine: Any) -> None:
    """Compute once what all streams will: the first time takes seconds. A callback that cannot be had is told here."""
    import torch

    session = engine.session()
    session.push(0.1 * torch.randn(32000, generator=torch.Generator().manual_seed(0)))
    session.finish()
    session.close()


def device_of(name: str, index: int) -> Any:
    """Where the engine of this number computes: of several GPUs each has its own.

    Raises:
        KitError: there is no such device.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    if not count:
        raise KitError(f"serving.device={name}, but torch finds no GPU here; take serving.device=cpu")
    return torch.device(name if ":" in name else f"cuda:{index % count}")


def offline(decoding: Any) -> Any:
    """The same decoding, endpoints included, where each utterance is one chunk."""
    from omegaconf import open_dict

    whole = decoding.copy()
    with open_dict(whole):
        whole.chunk, whole.left, whole.partials = 0, -1, False
    return whole


if __name__ == "__main__":
    sys.exit(main())
