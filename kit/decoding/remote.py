"""The LLM in a vLLM server: encoder, phoneme head and adaptor compute here, texts are written there.

`decoding.llm.url` names the server and `decoding.llm.folder` where the LLM of the export is written for it. Here only
the table of its token embeddings is loaded. vLLM knows no beam search over embeddings, so where several hypotheses are
wanted they are the greedy one and others drawn by chance, with the same seeds each time; callbacks judge all of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from kit.decoding.beam import Continuation
from kit.decoding.decoder import Decoder, Work, Writer
from kit.decoding.stopwatch import Stopwatch
from kit.decoding.vllm import TALKS, Client, Written, serve_command, write_model
from kit.errors import KitError, UsageError
from kit.files import folder_once, write_text
from kit.model.export import ABOUT, TENSORS, load_export, read_about
from kit.model.llm import Embeddings, config_of
from kit.model.recognizer import Recognizer
from kit.text.tokens import load_tokenizer

OURS = "kit.json"  # in the server's folder: which export the LLM is from
_PLACES, _PIECE = 64, 1 << 16  # of the tensors that an export is known by


def load_recognizer(export: str | Path, decoding: DictConfig, parts: tuple[str, ...] | None = None) -> Recognizer:
    """The recognizer of an export as `decoding` wants it: whole, or without an LLM that a server has.

    Args:
        parts: as in `load_export`.

    Raises:
        KitError: as `load_export`; the server's folder is missing, holds another LLM, or cannot be written.
    """
    if not _url(decoding):
        return load_export(export, parts)
    if decoding.llm.folder is None:
        raise UsageError("decoding.llm.url: give decoding.llm.folder, where the server finds the LLM")
    put_llm(Path(export), Path(decoding.llm.folder).expanduser())
    return load_export(export, parts, far_llm=True)


def writer_for(recognizer: Recognizer, rows: int, decoding: DictConfig, watch: Stopwatch | None = None) -> Writer:
    """Who writes texts: the recognizer's own LLM, or the server that has it.

    Raises:
        KitError: the server is not there, or has another LLM.
    """
    far = isinstance(recognizer.llm, Embeddings)
    if far != bool(_url(decoding)):
        raise UsageError("decoding.llm.url is not for this command, whose LLM is in its own process; leave it out")
    if not far:
        return Decoder(recognizer, rows, decoding.max_tokens, watch)
    folder = Path(decoding.llm.folder).expanduser().resolve()
    client = Client(decoding.llm.url, decoding.llm.timeout, serve_command(folder), "decoding.llm.timeout")
    client.find(lambda root: root.name == folder.name, folder)  # another machine may have it under another path
    return RemoteDecoder(recognizer, rows, decoding.max_tokens, client, watch)


def _url(decoding: DictConfig) -> str | None:
    return (decoding.get("llm") or {}).get("url")


class RemoteDecoder:
    """Stands where `Decoder` does: keeps the speech of each row here, and sends it with each question.

    Args:
        recognizer: with the embeddings of the LLM and its tokenizer.
        rows: texts that fit at first.
        max_tokens: longest continuation.
        client: of a server that has the LLM.
        watch: where to count the seconds of "decode".
    """

    def __init__(
        self, recognizer: Recognizer, rows: int, max_tokens: int, client: Client, watch: Stopwatch | None = None
    ) -> None:
        self.client, self.max_tokens, self.watch = client, max_tokens, watch or Stopwatch()
        self.end, self.embed = recognizer.end, recognizer.llm.get_input_embeddings()
        self.prefix = self._embedded(recognizer.prompt.prefix_ids(recognizer.tokenizer))
        self.speech_read = self.tokens_read = 0
        self._speech: list[Tensor] = []
        self._pool = ThreadPoolExecutor(TALKS)
        self.enlarge(rows)

    def enlarge(self, rows: int) -> None:
        """Make room for so many texts."""
        self._speech += [self.prefix[:0]] * (rows - len(self._speech))

    def reset(self, row: int) -> None:
        """Forget a row's speech."""
        self._speech[row] = self.prefix[:0]

    @torch.inference_mode()
    def run(self, works: Sequence[Work]) -> list[list[Continuation]]:
        """Take the new speech of every work and, where a tail is given, ask what follows it; best first."""
        with self.watch("decode"):
            asked = [self._ask(work) for work in works]
            return [self._best([one.result() for one in answers]) for answers in asked]

    def _ask(self, work: Work) -> list[Future[list[Written]]]:
        """Send a work's questions."""
        heard = work.speech.float().cpu()
        self._speech[work.row] = torch.cat([self._speech[work.row], heard])
        self.speech_read += len(heard)
        if work.tail is None:
            return []
        self.tokens_read += len(work.tail)
        prompt = torch.cat([self.prefix, self._speech[work.row], self._embedded(work.tail)])
        asked = [self._pool.submit(self.client.complete, prompt, self.end, self.max_tokens)]
        if work.beam > 1:
            chance = {"n": work.beam - 1, "temperature": 1.0, "seed": len(prompt)}  # log-probabilities are at 1, too
            asked.append(self._pool.submit(self.client.complete, prompt, self.end, self.max_tokens, **chance))
        return asked

    def _best(self, answers: Sequence[Sequence[Written]]) -> list[Continuation]:
        """What is different among the answers, the most probable first."""
        found: dict[tuple[int, ...], Continuation] = {}
        for one in (one for answer in answers for one in answer):
            ids = one.ids[:-1] if one.ids[-1] == self.end else one.ids
            found.setdefault(tuple(ids), Continuation(sum(one.scores) / len(one.scores), ids))
        return sorted(found.values(), reverse=True)

    def _embedded(self, ids: Sequence[int]) -> Tensor:
        table = self.embed.weight
        with torch.inference_mode():
            return self.embed(torch.tensor(list(ids), dtype=torch.long, device=table.device)).float().cpu()


def put_llm(export: Path, folder: Path) -> None:
    """Write the LLM of an export as transformers has it, for a server; nothing is done where it lies already.

    Raises:
        KitError: the export has no LLM, or the folder has something else in it or cannot be written.
    """
    known = {"export": str(export.absolute()), "fingerprint": _fingerprint(export)}

    def fill(temporary: Path) -> None:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        config = config_of(read_about(export)["model"]["llm"]["config"])
        tensors = {name[4:]: one for name, one in load_file(export / TENSORS).items() if name.startswith("llm.")}
        architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config.model_type]
        write_model(temporary, config, architecture, load_tokenizer(str(export)), tensors)
        write_text(temporary / OURS, json.dumps(known, indent=1))

    if "llm" not in read_about(export)["parts"]:
        raise KitError(f"{export} has no llm; choose a later stage")
    folder_once(folder, fill)
    other = "give another decoding.llm.folder"
    try:
        about = json.loads((folder / OURS).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(f"{folder} is there and has no LLM that was put there; {other}") from error
    if about.get("fingerprint") != known["fingerprint"]:
        raise KitError(f"{folder} has the LLM of {about.get('export')}, not of {export}; {other}")


def _fingerprint(export: Path) -> str:
    """What an export is known by: its description, and pieces of its tensors from beginning to end."""
    try:
        state = sha256((export / ABOUT).read_bytes())
        with (export / TENSORS).open("rb") as file:
            size = file.seek(0, 2)
            for place in range(_PLACES):
                file.seek(max(0, size - _PIECE) * place // (_PLACES - 1))
                state.update(file.read(_PIECE))
    except OSError as error:
        raise KitError(f"{export} cannot be read ({error}); give the export folder of a finished run") from error
    return state.hexdigest()
