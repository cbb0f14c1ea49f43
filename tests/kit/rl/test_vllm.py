"""The HTTP engine against a small server that speaks vLLM's protocol: embeddings in, tokens out, weights by its folder.

The server shares no code with the engine: it decodes what it is sent as vLLM does, and samples by plain forward passes.
"""

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from small import small_recognizer
from transformers import AutoModelForCausalLM

from kit.config import compose
from kit.errors import KitError, UsageError
from kit.model.lora import adapt
from kit.rl.policy import Prompts, score
from kit.rl.rollout import engine
from kit.rl.vllm import Server


class Fake(BaseHTTPRequestHandler):
    """The routes that are used, with the answers that vLLM documents for them."""

    def do_GET(self):
        if self.server.delay:
            time.sleep(self.server.delay)
        assert self.path == "/v1/models"
        self.answer({"data": [{"id": "policy", "root": str(self.server.folder)}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        self.server.calls.append((self.path, asked))
        if self.path == "/v1/completions":
            self.answer({"choices": self.server.spoil(complete(self.server.model, asked))})
        elif self.path == "/collective_rpc":
            assert asked["method"] == "reload_weights"
            self.server.model = load(self.server.folder)
            self.answer(None)
        elif self.path == "/reset_prefix_cache":
            self.answer(None)
        else:
            self.send_error(404)

    def answer(self, content):
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(200)
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
        draw = torch.Generator().manual_seed(asked["seed"] + index)
        ids, scores = [], []
        while len(ids) < asked["max_tokens"] and ids[-1:] != asked["stop_token_ids"]:
            told = model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))
            logits = model(inputs_embeds=torch.cat([prompt, told])[None]).logits[0, -1]
            likely = (logits / asked["temperature"]).log_softmax(-1)
            ids.append(int(likely.exp().multinomial(1, generator=draw)))
            scores.append(float(likely[ids[-1]]))
        reason = "stop" if ids[-1:] == asked["stop_token_ids"] else "length"
        told = {"index": index, "token_ids": ids, "logprobs": {"token_logprobs": scores}, "finish_reason": reason}
        choices.insert(0, told)  # in whatever order
    return choices


@pytest.fixture
def server(tmp_path):
    """Serves the folder from its first request on, as vLLM would have been started on it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    server.folder, server.calls, server.delay = tmp_path / "policy", [], 0.0
    server.spoil, server.model = (lambda choices: choices), None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def client(server, recognizer, max_tokens=5, **options):
    made = Server(recognizer, max_tokens, f"http://127.0.0.1:{server.server_port}", str(server.folder), **options)
    server.model = server.model or load(server.folder)
    return made


def prompts_of(recognizer):
    torch.manual_seed(0)
    speech = torch.randn(2, 4, recognizer.llm_width)
    return Prompts.of(recognizer, speech, torch.tensor([4, 2]), [["外滩"], []])


def test_samples_have_the_probabilities_of_the_training_pass(server):
    recognizer = small_recognizer()
    prompts = prompts_of(recognizer)
    samples = client(server, recognizer).sample(prompts, 3, 0.8, [5, 6])
    assert samples.ids.shape[:2] == (2, 3)
    now, _ = score(recognizer.llm, prompts, samples, 0.8)
    torch.testing.assert_close(now, samples.log_probs, atol=1e-4, rtol=0)
    asked = [content for path, content in server.calls if path == "/v1/completions"]
    assert sorted(content["seed"] for content in asked) == [5, 6]
    assert all(content["temperature"] == 0.8 and content["max_tokens"] == 5 for content in asked)


def test_weights_reach_the_server_after_a_step(server):
    recognizer = small_recognizer()
    prompts, rollouts = prompts_of(recognizer), client(server, recognizer)
    with torch.no_grad():
        recognizer.llm.get_input_embeddings().weight += 0.5 * torch.randn_like(
            recognizer.llm.get_input_embeddings().weight
        )
    stale = rollouts.sample(prompts, 3, 1.0, [5, 6])
    now, _ = score(recognizer.llm, prompts, stale, 1.0)
    assert (now - stale.log_probs).abs().max() > 0.1, "the mismatch that a stage would report"
    rollouts.synchronize()
    fresh = rollouts.sample(prompts, 3, 1.0, [5, 6])
    now, _ = score(recognizer.llm, prompts, fresh, 1.0)
    torch.testing.assert_close(now, fresh.log_probs, atol=1e-4, rtol=0)
    assert [path for path, _ in server.calls if "comp" not in path][-2:] == ["/collective_rpc", "/reset_prefix_cache"]


def test_adapters_are_merged_for_the_server(server):
    pytest.importorskip("peft")
    recognizer = small_recognizer()
    adapt(recognizer.llm, compose(["stage=rl", "stage.lora.rank=2"]).stage.lora)
    with torch.no_grad():
        for name, parameter in recognizer.llm.named_parameters():
            if ".lora_B." in name:
                parameter.normal_()
    prompts, rollouts = prompts_of(recognizer), client(server, recognizer)
    samples = rollouts.sample(prompts, 2, 1.0, [1, 2])
    torch.testing.assert_close(score(recognizer.llm, prompts, samples, 1.0)[0], samples.log_probs, atol=1e-4, rtol=0)


def test_an_absent_server_is_told_with_the_command_that_starts_it(tmp_path):
    message = r"there is no vLLM server at http://127.0.0.1:9 .*; start it with VLLM_SERVER_DEV_MODE=1 vllm serve"
    with pytest.raises(KitError, match=message):
        Server(small_recognizer(), 5, "http://127.0.0.1:9", str(tmp_path / "policy"))
    assert {path.name for path in (tmp_path / "policy").iterdir()} >= {"config.json", "model.safetensors"}


def test_a_slow_server_is_told(server):
    server.delay = 1.0
    with pytest.raises(KitError, match=r"did not answer in 0\.2 s; raise stage.rollout.timeout"):
        client(server, small_recognizer(), timeout=0.2)


def test_a_server_of_another_model_is_told(server):
    folder, server.folder = server.folder, Path("/models/other")
    with pytest.raises(KitError, match=rf"serves policy, not {folder}; start it with"):
        Server(small_recognizer(), 5, f"http://127.0.0.1:{server.server_port}", str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda choice: choice.pop("token_ids"), "does not tell tokens and their log-probabilities"),
        (lambda choice: choice.update(logprobs=None), "does not tell tokens and their log-probabilities"),
        (lambda choice: choice["logprobs"]["token_logprobs"].pop(), "or some without log-probabilities"),
        (lambda choice: choice.update(finish_reason="stop"), "leaves out the token that ends a text"),
    ],
)
def test_answers_that_lack_something_are_told(server, change, message):
    def spoil(choices):
        change(choices[0])
        return choices

    recognizer = small_recognizer()
    rollouts, server.spoil = client(server, recognizer, max_tokens=2), spoil
    with pytest.raises(KitError, match=message):
        rollouts.sample(prompts_of(recognizer), 2, 1.0, [1, 2])


def test_an_error_of_the_server_is_quoted(server):
    recognizer = small_recognizer()
    rollouts = client(server, recognizer)
    with pytest.raises(KitError, match=r"/nowhere answers 404: .*; start it with"):
        rollouts._ask("/nowhere", {})


def test_a_folder_must_be_given():
    options = compose(["stage=rl", "stage.rollout.engine=vllm"]).stage.rollout
    with pytest.raises(UsageError, match=r"give stage.rollout.folder"):
        engine(options, small_recognizer(), 5)
