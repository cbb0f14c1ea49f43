"""Rollout by a small server that speaks vLLM's protocol: embeddings in, tokens out, weights by its folder."""

from pathlib import Path

import pytest
import torch
from small import small_recognizer
from vllm_server import serving

from kit.config import compose
from kit.errors import KitError, UsageError
from kit.model.lora import adapt
from kit.rl.policy import Prompts, score
from kit.rl.rollout import engine
from kit.rl.vllm import Server


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path / "policy") as server:
        yield server


def client(server, recognizer, max_tokens=5, **options):
    return Server(recognizer, max_tokens, f"http://127.0.0.1:{server.server_port}", str(server.folder), **options)


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
        rollouts.client.ask("/nowhere", {})


def test_a_folder_must_be_given():
    options = compose(["stage=rl", "stage.rollout.engine=vllm"]).stage.rollout
    with pytest.raises(UsageError, match=r"give stage.rollout.folder"):
        engine(options, small_recognizer(), 5)
