"""Texts from a server are those of the LLM in this process; what is not as it must be is told with its mend."""

import dataclasses
from pathlib import Path

import pytest
import soundfile
import torch
from small import small_config
from streams import PLAIN, engine, finals, noise, partials, pushed, recognizer
from transformers import AutoModelForCausalLM
from vllm_server import serving

from kit.decoding.batches import Batches
from kit.decoding.decoder import Decoder, Work
from kit.decoding.engine import Engine
from kit.decoding.offline import recognize, transcribe_files
from kit.decoding.remote import load_recognizer, put_llm, writer_for
from kit.errors import KitError, UsageError
from kit.model.export import load_export, save_export
from kit.model.llm import Embeddings


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote") / "export"
    save_export(recognizer(), folder, {"run": "one"})
    return folder


@pytest.fixture
def server(tmp_path):
    with serving(tmp_path / "llm") as server:
        server.root = Path("/mnt/elsewhere/llm")  # another machine has the folder under another path
        yield server


def far(server, *overrides):
    """The decoding of a command that asks the server."""
    where = [f"decoding.llm.url=http://127.0.0.1:{server.server_port}/", f"decoding.llm.folder={server.folder}"]
    return small_config(*overrides, *where).decoding


GREEDY = ["decoding.max_tokens=6", "decoding.beam=1", "decoding.callbacks.veto=null"]


def test_only_the_embeddings_are_here_and_the_folder_has_the_llm(export, server):
    decoding = far(server, *GREEDY)
    here, whole = load_recognizer(export, decoding), load_export(export)
    assert isinstance(here.llm, Embeddings) and len(list(here.llm.parameters())) == 1
    assert here.parts == whole.parts and here.llm_width == whole.llm_width
    ids = torch.arange(5)
    assert torch.equal(here.llm.get_input_embeddings()(ids), whole.llm.get_input_embeddings()(ids))
    served = AutoModelForCausalLM.from_pretrained(server.folder).eval()
    assert type(served) is type(whole.llm)
    with torch.inference_mode():
        torch.testing.assert_close(served(ids[None]).logits, whole.llm(ids[None]).logits)
    before = (server.folder / "model.safetensors").stat()
    load_recognizer(export, decoding)
    assert (server.folder / "model.safetensors").stat() == before, "written once"


def test_texts_of_batches_hints_and_files_are_those_of_this_process(export, server, tmp_path):
    decoding, near = far(server, *GREEDY), small_config(*GREEDY).decoding
    here, whole = load_recognizer(export, decoding), load_export(export)
    features, lengths = torch.randn(3, 150, 80), torch.tensor([150, 90, 40])
    hints = [["外滩"], [], ["hello"]]
    found = recognize(here, features, lengths, decoding, hints)
    assert found == recognize(whole, features, lengths, near, hints)
    assert len({one.text for one in found}) > 1
    files = [tmp_path / f"{number}.wav" for number in range(3)]
    for number, path in enumerate(files):
        soundfile.write(path, noise(1 + 0.5 * number, number).numpy(), 16000)
    assert list(transcribe_files(files, export, small_config(*GREEDY, *told(decoding)))) == list(
        transcribe_files(files, export, small_config(*GREEDY))
    )


def told(decoding):
    return [f"decoding.llm.url={decoding.llm.url}", f"decoding.llm.folder={decoding.llm.folder}"]


def test_a_stream_says_the_same(export, server):
    decoding = far(server, *PLAIN)
    samples = noise(4, 5)
    near = pushed(engine(model=load_export(export)).session(), samples, seed=1)
    session = Engine(load_recognizer(export, decoding), decoding).session()
    for _ in range(2):  # what was heard is forgotten
        events = pushed(session, samples, seed=1)
        assert [(one.text, one.stable) for one in partials(events)] == [
            (one.text, one.stable) for one in partials(near)
        ]
        assert [one.text for one in finals(events)] == [one.text for one in finals(near)]
        assert partials(events)


def test_several_hypotheses_are_distinct_true_and_the_greedy_one_is_among_them(export, server):
    decoding = far(server, "decoding.max_tokens=4")
    here, whole = load_recognizer(export, decoding), load_export(export)
    speech = torch.randn(5, whole.llm_width)
    work = Work(1, speech, here.tail_ids(["hello"]), beam=8)
    remote = writer_for(here, 2, decoding)
    (found,), again = remote.run([work]), remote.run([dataclasses.replace(work, speech=speech[:0])])
    assert found == again[0], "chance has seeds"
    ((greedy,),) = Decoder(whole, 2, 4).run([dataclasses.replace(work, beam=1)])
    assert tuple(greedy.ids) in {tuple(one.ids) for one in found}
    assert 1 < len({tuple(one.ids) for one in found}) == len(found) <= 8
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    for one in found:
        assert one.score == pytest.approx(mean_log_probability(whole, speech, work.tail, one.ids, 4), abs=1e-4)


@torch.inference_mode()
def mean_log_probability(model, speech, tail, ids, most):
    ids = [*ids, model.end][:most]
    table = model.llm.get_input_embeddings()
    before = table(torch.tensor(model.prompt.prefix_ids(model.tokenizer)))
    inputs = torch.cat([before, speech, table(torch.tensor([*tail, *ids]))])
    scores = model.llm(inputs_embeds=inputs[None]).logits[0].log_softmax(-1)
    return float(scores[-len(ids) - 1 : -1].gather(1, torch.tensor(ids)[:, None]).mean())


def test_a_beam_goes_through_the_callbacks(export, server):
    decoding = far(server, "decoding.max_tokens=6", "decoding.beam=4")
    found = Batches(Engine(load_recognizer(export, decoding), decoding)).transcribe([noise(1), noise(2, 1)])
    assert {number for ready in found for number, _ in ready} == {0, 1}
    assert {asked["n"] for path, asked in server.calls if path == "/v1/completions"} == {1, 3}


def test_what_the_server_refuses_is_quoted_with_the_command_that_starts_it(export, server):
    decoding = far(server, *GREEDY)
    batches = Batches(Engine(load_recognizer(export, decoding), decoding))
    server.refusal = "You must set `--enable-prompt-embeds` to input `prompt_embeds`."
    with pytest.raises(
        KitError, match=r"400: .*You must set .*; start it with vllm serve .*/llm --enable-prompt-embeds"
    ):
        list(batches.transcribe([noise(1)]))
    server.server_close()
    server.shutdown()
    with pytest.raises(KitError, match="there is no vLLM server at"):
        writer_for(load_recognizer(export, decoding), 1, decoding)


def test_a_server_of_something_else_is_told(export, server):
    decoding = far(server, *GREEDY)
    server.root = Path("/models/Qwen3-1.7B")
    with pytest.raises(KitError, match=r"serves policy, not .*/llm; start it with vllm serve .*/llm --enable"):
        Engine(load_recognizer(export, decoding), decoding)
    server.delay = 1.0
    decoding.llm.timeout = 0.2
    with pytest.raises(KitError, match=r"did not answer in 0\.2 s; raise decoding\.llm\.timeout"):
        Engine(load_recognizer(export, decoding), decoding)


def test_folders_that_do_not_fit_are_told(export, server, tmp_path):
    other = tmp_path / "other"
    save_export(recognizer(5), other, {"run": "one"})
    put_llm(export, server.folder)
    with pytest.raises(KitError, match=rf"has the LLM of {export}, not of {other}; give another decoding\.llm\.folder"):
        put_llm(other, server.folder)
    (tmp_path / "mine").mkdir()
    with pytest.raises(KitError, match="mine is there and has no LLM that was put there"):
        put_llm(export, tmp_path / "mine")
    with pytest.raises(UsageError, match=r"give decoding\.llm\.folder"):
        load_recognizer(export, small_config("decoding.llm.url=http://127.0.0.1:9").decoding)
    part = tmp_path / "part"
    save_export(recognizer(), part, {})
    (part / "export.json").write_text((part / "export.json").read_text().replace('"llm"\n', '"adaptor"\n', 1))
    with pytest.raises(KitError, match="has no llm; choose a later stage"):
        put_llm(part, tmp_path / "new")


def test_a_command_with_its_own_llm_says_that_it_does_not_ask(export, server):
    with pytest.raises(UsageError, match=r"decoding\.llm\.url is not for this command"):
        Engine(load_export(export), far(server, *GREEDY))
