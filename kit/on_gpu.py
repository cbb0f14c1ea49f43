"""All that needs a GPU, in one script: `python -m kit.on_gpu [FOLDER]`; results go to FOLDER (default bench).

Kernels first (`kernels.on_gpu`), then sessions: correctness before speed. No network is needed; beside torch and triton
the packages of a plain installation are.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable
from typing import cast

import numpy as np
import torch

from kernels import on_gpu as kernels_on_gpu
from kit.bench_streaming import bench
from kit.config import compose
from kit.decoding.decoder import Decoder, Work
from kit.decoding.engine import Engine
from kit.decoding.events import Event, Final, Partial
from kit.model.recognizer import Recognizer
from kit.retrieval.dense import on_device
from kit.retrieval.embedding import DIM
from kit.rl.policy import Prompts, score
from kit.rl.rollout import Local
from kit.text.tokens import train_tokenizer

DEVICE = torch.device("cuda")
NAMES = 1 << 20
_PLAIN = [f"decoding.callbacks.{name}=null" for name in ("endpoint", "gate", "trim", "veto", "splice", "timing")]


def _recognizer() -> Recognizer:
    """The tiny model with weights so large that its texts vary."""
    torch.manual_seed(0)
    recognizer = Recognizer(compose(["model=tiny"]).model, tokenizer=train_tokenizer(["打开天窗", "hello"] * 3, 600))
    for parameter in recognizer.llm.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    torch.nn.init.normal_(cast(torch.nn.Linear, recognizer.adaptor.layers[2]).weight, std=0.5)
    return recognizer.to(DEVICE).eval()


def check_graphs() -> str:
    """The decode step as a CUDA graph writes what it writes without one, while the cache grows."""
    recognizer = _recognizer()
    speech = [torch.randn(size, recognizer.llm_width, device=DEVICE) for size in (3, 90, 300)]
    texts = []
    for graphed in (True, False):
        decoder = Decoder(recognizer, len(speech), 60)
        decoder.end = -1
        if not graphed:
            decoder.graphed = None
        works = [Work(row, heard, recognizer.tail_ids()) for row, heard in enumerate(speech)]
        texts.append([one.ids for (one,) in decoder.run(works)])
    assert texts[0] == texts[1]
    return f"{sum(map(len, texts[0]))} tokens"


def check_streams() -> str:
    """Streams that are stepped together get the texts, partial and final, that each gets alone."""
    recognizer = _recognizer()
    decoding = compose(["decoding=streaming", "decoding.max_tokens=12", "decoding.beam=1", *_PLAIN]).decoding
    draw = torch.Generator().manual_seed(0)
    heard = [0.1 * torch.randn(16000 + 9000 * index, generator=draw) for index in range(8)]
    alone = []
    for samples in heard:
        session = Engine(recognizer, decoding).session()
        alone.append(_text(session.push(samples) + session.finish()))
    engine = Engine(recognizer, decoding, len(heard))
    sessions = [engine.session() for _ in heard]
    for session, samples in zip(sessions, heard, strict=True):
        session.feed(samples)
        session.end()
    while engine.step():
        pass
    assert [_text(session.take()) for session in sessions] == alone
    return f"{len(heard)} streams"


def check_names() -> str:
    """The names whose embeddings are nearest, among a million on the device, are those that the CPU finds."""
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((NAMES, DIM), np.float32)
    queries = vectors[:64] + 0.3 * draw.standard_normal((64, DIM), np.float32)
    search = on_device(vectors, str(DEVICE))
    far, rows = search(queries, 4)
    begin = time.perf_counter()
    search(queries, 4)
    spent = 1e3 * (time.perf_counter() - begin)
    expected = ((queries[:, None].astype(np.float64) - vectors[rows]) ** 2).sum(-1)
    assert (rows[:, 0] == np.arange(64)).all()
    assert np.allclose(far, expected, rtol=0.02, atol=0.05)
    return f"64 of {NAMES}, {spent:.2f} ms"


@torch.no_grad()
def check_rollout() -> str:
    """Hypotheses are drawn by replayed graphs with the probabilities of the training pass, twice the same."""
    recognizer, tokens = _recognizer(), 40
    speech = torch.randn(8, 60, recognizer.llm_width, device=DEVICE)
    prompts = Prompts.of(recognizer, speech, torch.tensor([60, 3, 25, 40, 1, 9, 30, 50]), None)
    rollouts, seeds = Local(recognizer, tokens), list(range(8))
    first = rollouts.sample(prompts, 8, 0.9, seeds)
    begin = time.perf_counter()
    again = rollouts.sample(prompts, 8, 0.9, seeds)
    spent = time.perf_counter() - begin
    assert torch.equal(first.ids, again.ids) and torch.equal(first.log_probs, again.log_probs)
    now, _ = score(recognizer.llm, prompts, again, 0.9)
    worst = float((now - again.log_probs).abs().max())
    assert worst < 1e-3, worst
    return f"{int(again.lengths.sum())} tokens in {spent:.2f} s, log-probabilities {worst:.0e} apart"


def _text(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Partial | Final)]


CHECKS: dict[str, Callable[[], str]] = {
    "decode step as a graph": check_graphs,
    "streams together": check_streams,
    "names that sound alike": check_names,
    "hypotheses by chance": check_rollout,
}


def main() -> int:
    """Kernels, checks of sessions, their benchmark with the 2.3 B shape."""
    failed = kernels_on_gpu.main()
    if not torch.cuda.is_available():
        return failed
    for name, check in CHECKS.items():
        try:
            result = "ok      " + check()
        except Exception:  # one broken part must not hide what the others do
            failed = 1
            result = "FAILED  " + traceback.format_exc(limit=-3)
        print(f"{name:<26}{result}", flush=True)
    folder = sys.argv[1] if len(sys.argv) > 1 else "bench"
    bench(["model=nim4", "streams=1,16,64", "device=cuda", "chunks=20", f"out={folder}"])
    return failed


if __name__ == "__main__":
    sys.exit(main())
