"""A small server that speaks vLLM's protocol: embeddings in, tokens out, weights by its folder.

It shares no code with the kit: it decodes what it is sent as vLLM does, and writes by plain forward passes.
"""

import base64
import io
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from transformers import AutoModelForCausalLM


class Fake(BaseHTTPRequestHandler):
    """The routes that are used, with the answers that vLLM documents for them."""

    def do_GET(self):
        if self.server.delay:
            time.sleep(self.server.delay)
        assert self.path == "/v1/models"
        self.answer({"data": [{"id": "policy", "root": str(self.server.root or self.server.folder)}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        self.server.calls.append((self.path, asked))
        if self.server.refusal:
            self.answer({"error": {"message": self.server.refusal}}, 400)
        elif self.path == "/v1/completions":
            with self.server.lock:
                self.server.model = self.server.model or load(self.server.folder)
            self.answer({"choices": self.server.spoil(complete(self.server.model, asked))})
        elif self.path == "/collective_rpc":
            assert asked["method"] == "reload_weights"
            self.server.model = load(self.server.folder)
            self.answer(None)
        elif self.path == "/reset_prefix_cache":
            self.answer(None)
        else:
            self.send_error(404)

    def answer(self, content, code=200):
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def complete(model, asked):
    assert asked["model"] == "policy"
    assert (asked["top_p"], asked["top_k"], asked["min_p"], asked["repetition_penalty"]) == (1.0, -1, 0.0, 1.0)
    prompt = torch.load(io.BytesIO(base64.b64decode(asked["prompt_embeds"], validate=True)), weights_only=True)
    assert prompt.ndim == 2 and prompt.dtype == torch.float32
    choices = []
    for index in range(asked["n"]):
        draw = torch.Generator().manual_seed(asked.get("seed", 0) + index)
        ids, scores = [], []
        while len(ids) < asked["max_tokens"] and ids[-1:] != asked["stop_token_ids"]:
            told = model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))
            logits = model(inputs_embeds=torch.cat([prompt, told])[None]).logits[0, -1]
            likely = (logits / (asked["temperature"] or 1)).log_softmax(-1)
            drawn = likely.exp().multinomial(1, generator=draw) if asked["temperature"] else likely.argmax()
            ids.append(int(drawn))
            scores.append(float(likely[ids[-1]]))
        reason = "stop" if ids[-1:] == asked["stop_token_ids"] else "length"
        told = {"index": index, "token_ids": ids, "logprobs": {"token_logprobs": scores}, "finish_reason": reason}
        choices.insert(0, told)  # in whatever order
    return choices


@contextmanager
def serving(folder):
    """Serves a folder from its first request on, as vLLM would have been started on it.

    What can be set: `folder`; `root`, as which the server knows it; `delay`, seconds; `spoil`, what becomes of choices;
    `refusal`, in place of texts.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    server.folder, server.calls, server.delay, server.refusal = folder, [], 0.0, None
    server.root = None
    server.spoil, server.model, server.lock = (lambda choices: choices), None, threading.Lock()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
