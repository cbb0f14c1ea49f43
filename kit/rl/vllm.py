"""Rollout by a vLLM server: prompts go there as embeddings over HTTP, weights through a folder that both can read.

The kit needs no package for it; vLLM lives in an environment of its own:

    VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --enable-prompt-embeds --logprobs-mode processed_logprobs

Of vLLM's ways to take new weights, reloading its own folder (`/collective_rpc`, `reload_weights`) is the one that works
on any device, between machines that share a disk, and without importing vLLM here. Tested against a small server that
speaks the same protocol, not against vLLM itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from kit.decoding.vllm import TALKS, Client, serve_command, write_model, write_weights
from kit.errors import UsageError
from kit.files import check_writable
from kit.model.lora import merged
from kit.model.recognizer import Recognizer
from kit.rl.policy import Prompts, Samples
from kit.rl.rollout import Rollouts


class Server(Rollouts):
    """A vLLM server that was started on `folder`, where this process writes the LLM.

    Args:
        url: of the server, without /v1.
        folder: for configuration, tokenizer and weights; made now if need be, so that the server can be started on it.
        timeout: seconds to wait for an answer.

    Raises:
        KitError: the folder cannot be written; there is no server, or it serves something else: says how to start it.
    """

    def __init__(
        self, recognizer: Recognizer, max_tokens: int, url: str, folder: str | None, timeout: float = 120.0
    ) -> None:
        super().__init__(recognizer, max_tokens)
        if folder is None:
            raise UsageError("stage.rollout.engine=vllm: give stage.rollout.folder, where the server finds the LLM")
        self.folder = Path(folder).expanduser().resolve()
        start = f"VLLM_SERVER_DEV_MODE=1 {serve_command(self.folder)}"
        self.client = Client(url, timeout, start, "stage.rollout.timeout")
        check_writable(self.folder)
        llm = recognizer.llm
        write_model(self.folder, llm.config, type(llm).__name__, recognizer.tokenizer, merged(llm))
        self.client.find(lambda root: root.expanduser().resolve() == self.folder, self.folder)

    def sample(self, prompts: Prompts, group: int, temperature: float, seeds: Sequence[int]) -> Samples:
        """See `Rollouts.sample`; one request an utterance."""
        table = self.recognizer.llm.get_input_embeddings()
        with torch.no_grad():
            before = table(torch.tensor(list(prompts.prefix), dtype=torch.long, device=prompts.speech.device))
            last = table(torch.tensor(prompts.last(), device=prompts.speech.device))
            rows = [
                torch.cat([before, row, end[None]]).float().cpu()
                for row, end in zip(prompts.rows(table), last, strict=True)
            ]

        def drawn(row: torch.Tensor, seed: int) -> list[tuple[list[int], list[float]]]:
            found = self.client.complete(row, self.end, self.max_tokens, n=group, temperature=temperature, seed=seed)
            return [(one.ids, one.scores) for one in found]

        with ThreadPoolExecutor(TALKS) as pool:
            return self.samples(list(pool.map(drawn, rows, seeds)), prompts.speech)

    def synchronize(self) -> None:
        """Write the weights and let the server read them; what it remembers of prompts is forgotten."""
        write_weights(self.folder, self.recognizer.llm.config, merged(self.recognizer.llm))
        self.client.ask("/collective_rpc", {"method": "reload_weights", "timeout": self.client.timeout})
        self.client.ask("/reset_prefix_cache", {})
