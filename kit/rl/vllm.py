"""Rollout by a vLLM server: prompts go there as embeddings over HTTP, weights through a folder that both can read.

The kit needs no package for it; vLLM lives in an environment of its own:

    VLLM_SERVER_DEV_MODE=1 vllm serve FOLDER --enable-prompt-embeds --logprobs-mode processed_logprobs

Of vLLM's ways to take new weights, reloading its own folder (`/collective_rpc`, `reload_weights`) is the one that works
on any device, between machines that share a disk, and without importing vLLM here. Tested against a small server that
speaks the same protocol, not against vLLM itself.
"""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from kit.errors import KitError, UsageError
from kit.files import check_writable, write_atomic
from kit.model.lora import merged
from kit.model.recognizer import Recognizer
from kit.rl.policy import Prompts, Samples
from kit.rl.rollout import Rollouts

WEIGHTS = "model.safetensors"
_TALKS = 16  # requests at a time; the server batches them
_SHOWN = 200  # characters of an answer that a message quotes


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
        self.url, self.folder, self.timeout = str(url).rstrip("/"), Path(folder).expanduser().resolve(), timeout
        check_writable(self.folder)
        self._write_model()
        self.model = self._find_model()

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
        asked = {"n": group, "temperature": temperature, "max_tokens": self.max_tokens}
        with ThreadPoolExecutor(_TALKS) as pool:
            found = list(pool.map(lambda row, seed: self._complete(row, {**asked, "seed": seed}), rows, seeds))
        return self.samples(found, prompts.speech)

    def synchronize(self) -> None:
        """Write the weights and let the server read them; what it remembers of prompts is forgotten."""
        self._write_weights()
        self._ask("/collective_rpc", {"method": "reload_weights", "timeout": self.timeout})
        self._ask("/reset_prefix_cache", {})

    def _complete(self, prompt: Tensor, asked: dict[str, Any]) -> list[tuple[list[int], list[float]]]:
        """Tokens and log-probabilities of the hypotheses for a prompt (n, E)."""
        plain = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}  # not those of the model's folder
        told = {"stop_token_ids": [self.end], "logprobs": 1, "return_token_ids": True}
        answer = self._ask(
            "/v1/completions", {"model": self.model, "prompt_embeds": encoded(prompt), **asked, **plain, **told}
        )
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            found = [(list(one["token_ids"]), list(one["logprobs"]["token_logprobs"])) for one in choices]
            stopped = [one["finish_reason"] == "stop" for one in choices]
        except (KeyError, TypeError) as error:
            raise KitError(
                f"{self.url} does not tell tokens and their log-probabilities ({_quoted(answer)}); "
                "take a vLLM that knows return_token_ids"
            ) from error
        self._check(found, stopped, asked["n"])
        return found

    def _check(self, found: Sequence[tuple[list[int], list[float]]], stopped: Sequence[bool], count: int) -> None:
        if len(found) != count or any(not ids or len(ids) != len(scores) for ids, scores in found):
            raise KitError(f"{self.url} gave {len(found)} hypotheses of {count}, or some without log-probabilities")
        if any(end and ids[-1] != self.end for (ids, _), end in zip(found, stopped, strict=True)):
            raise KitError(f"{self.url} leaves out the token that ends a text; take a vLLM whose token_ids have it")

    def _find_model(self) -> str:
        """The name of the model that is served, which must be the one in the folder."""
        known = self._ask("/v1/models")
        served = [one for one in known.get("data", []) if isinstance(one, dict)]
        for one in served:
            if Path(str(one.get("root") or one.get("id"))).expanduser().resolve() == self.folder:
                return str(one["id"])
        names = ", ".join(str(one.get("id")) for one in served) or "nothing"
        raise KitError(f"the server {self.url} serves {names}, not {self.folder}; {self._how()}")

    def _how(self) -> str:
        command = f"vllm serve {self.folder} --enable-prompt-embeds --logprobs-mode processed_logprobs"
        return f"start it with VLLM_SERVER_DEV_MODE=1 {command}"

    def _ask(self, path: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send JSON, or nothing, and read the JSON of the answer."""
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise KitError(f"{self.url}{path} answers {error.code}: {_quoted(error.read())}; {self._how()}") from error
        except TimeoutError as error:
            raise KitError(
                f"{self.url}{path} did not answer in {self.timeout:g} s; raise stage.rollout.timeout"
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise KitError(f"{self.url} cannot be reached in {self.timeout:g} s; {self._how()}") from error
            raise KitError(f"there is no vLLM server at {self.url} ({reason}); {self._how()}") from error
        return self._read(path, text)

    def _read(self, path: str, text: bytes) -> dict[str, Any]:
        try:
            found = json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise KitError(f"{self.url}{path} answers no JSON: {_quoted(text)}; {self._how()}") from error
        return found if isinstance(found, dict) else {}

    def _write_model(self) -> None:
        """Everything that a server needs to begin."""
        llm = self.recognizer.llm
        llm.config.architectures = [type(llm).__name__]
        llm.config.save_pretrained(str(self.folder))
        self.recognizer.tokenizer.save_pretrained(str(self.folder))
        self._write_weights()

    def _write_weights(self) -> None:
        llm = self.recognizer.llm
        tied = {"lm_head.weight"} if llm.config.tie_word_embeddings else set()
        tensors = {name: one.detach().cpu().contiguous() for name, one in merged(llm).items() if name not in tied}
        write_atomic(self.folder / WEIGHTS, lambda file: file.write(save(tensors, {"format": "pt"})))


def encoded(prompt: Tensor) -> str:
    """Embeddings as vLLM takes them: a tensor by torch.save, which it reads with weights_only, in base64."""
    buffer = io.BytesIO()
    torch.save(prompt.contiguous().clone(), buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def _quoted(answer: Any) -> str:
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else json.dumps(answer)
    return " ".join(text.split())[:_SHOWN]
