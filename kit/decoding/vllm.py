"""A vLLM server over HTTP: prompts go there as embeddings, tokens and their log-probabilities come back.

The kit needs no package for it; vLLM lives in an environment of its own, perhaps on another machine:

    vllm serve FOLDER --enable-prompt-embeds --logprobs-mode processed_logprobs

It serves a folder that the kit wrote. Tested against a small server that speaks the same protocol, not against vLLM.
"""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from kit.errors import KitError
from kit.files import write_atomic

WEIGHTS = "model.safetensors"
TALKS = 16  # requests at a time; the server batches them
_SHOWN = 200  # characters of an answer that a message quotes


@dataclass(frozen=True)
class Written:
    """What the LLM wrote.

    Attributes:
        ids: tokens, the end among them unless it was cut off.
        scores: log-probability of each.
    """

    ids: list[int]
    scores: list[float]


class Client:
    """Asks a server for texts.

    Args:
        url: of the server, without /v1.
        timeout: seconds to wait for an answer.
        start: the command that starts it, for messages.
        patience: the key of the configuration that has `timeout`.
    """

    def __init__(self, url: str, timeout: float, start: str, patience: str) -> None:
        self.url, self.timeout = str(url).rstrip("/"), timeout
        self.start, self.patience = f"start it with {start}", patience
        self.model = ""

    def find(self, fits: Callable[[Path], bool], wanted: Path) -> None:
        """Take the model that is served, which must come from the right folder.

        Args:
            fits: whether a folder, as the server names it, is the right one.
            wanted: for the message.

        Raises:
            KitError: there is no server, or it serves something else: says how to start it.
        """
        known = self.ask("/v1/models")
        served = [one for one in known.get("data", []) if isinstance(one, dict)]
        for one in served:
            if fits(Path(str(one.get("root") or one.get("id")))):
                self.model = str(one["id"])
                return
        names = ", ".join(str(one.get("id")) for one in served) or "nothing"
        raise KitError(f"the server {self.url} serves {names}, not {wanted}; {self.start}")

    def complete(self, prompt: Tensor, end: int, max_tokens: int, **chance: float) -> list[Written]:
        """What the LLM writes behind a prompt.

        Args:
            prompt: (n, E) embeddings.
            end: the token that ends a text.
            chance: `n` texts, `temperature` and `seed`; without it the most probable text.

        Raises:
            KitError: the server refuses, or its answer lacks something.
        """
        asked = {"n": 1, "temperature": 0.0, **chance, "max_tokens": max_tokens}
        plain = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}  # not those of the model's folder
        told = {"stop_token_ids": [end], "logprobs": 1, "return_token_ids": True}
        content = {"model": self.model, "prompt_embeds": encoded(prompt), **asked, **plain, **told}
        answer = self.ask("/v1/completions", content)
        try:
            choices = sorted(answer["choices"], key=lambda choice: choice["index"])
            found = [Written(list(one["token_ids"]), list(one["logprobs"]["token_logprobs"])) for one in choices]
            stopped = [one["finish_reason"] == "stop" for one in choices]
        except (KeyError, TypeError) as error:
            raise KitError(
                f"{self.url} does not tell tokens and their log-probabilities ({quoted(answer)}); "
                "take a vLLM that knows return_token_ids"
            ) from error
        self._check(found, stopped, end, int(asked["n"]))
        return found

    def _check(self, found: Sequence[Written], stopped: Sequence[bool], end: int, count: int) -> None:
        if len(found) != count or any(not one.ids or len(one.ids) != len(one.scores) for one in found):
            raise KitError(f"{self.url} gave {len(found)} hypotheses of {count}, or some without log-probabilities")
        if any(whole and one.ids[-1] != end for one, whole in zip(found, stopped, strict=True)):
            raise KitError(f"{self.url} leaves out the token that ends a text; take a vLLM whose token_ids have it")

    def ask(self, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send JSON, or nothing, and read the JSON of the answer.

        Raises:
            KitError: there is no server or answer, or it is an error: says how to start the server.
        """
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise KitError(f"{self.url}{path} answers {error.code}: {quoted(error.read())}; {self.start}") from error
        except TimeoutError as error:
            raise KitError(f"{self.url}{path} did not answer in {self.timeout:g} s; raise {self.patience}") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise KitError(f"{self.url} cannot be reached in {self.timeout:g} s; {self.start}") from error
            raise KitError(f"there is no vLLM server at {self.url} ({reason}); {self.start}") from error
        return self._read(path, text)

    def _read(self, path: str, text: bytes) -> dict[str, Any]:
        try:
            found = json.loads(text) if text.strip() else {}
        except ValueError as error:
            raise KitError(f"{self.url}{path} answers no JSON: {quoted(text)}; {self.start}") from error
        return found if isinstance(found, dict) else {}


def serve_command(folder: Path) -> str:
    """What starts a server on a folder."""
    return f"vllm serve {folder} --enable-prompt-embeds --logprobs-mode processed_logprobs"


def encoded(prompt: Tensor) -> str:
    """Embeddings as vLLM takes them: a tensor by torch.save, which it reads with weights_only, in base64."""
    buffer = io.BytesIO()
    torch.save(prompt.contiguous().clone(), buffer)
    return base64.b64encode(buffer.getvalue()).decode()


def quoted(answer: Any) -> str:
    """The beginning of an answer, in one line."""
    text = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else json.dumps(answer)
    return " ".join(text.split())[:_SHOWN]


def write_model(folder: Path, config: Any, architecture: str, tokenizer: Any, tensors: Mapping[str, Tensor]) -> None:
    """Everything that a server needs to begin.

    Args:
        config: of transformers.
        architecture: name of the model's class there.
        tensors: by the names that they have there; that of an output layer that is tied is left out.
    """
    config.architectures = [architecture]
    config.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    write_weights(folder, config, tensors)


def write_weights(folder: Path, config: Any, tensors: Mapping[str, Tensor]) -> None:
    """The weights alone, whole or not at all."""
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    kept = {name: one.detach().cpu().contiguous() for name, one in tensors.items() if name not in tied}
    write_atomic(folder / WEIGHTS, lambda file: file.write(save(kept, {"format": "pt"})))
