import pytest
import torch
from small import LLAMA, TEXTS, small_recognizer

from kit.config import compose
from kit.model.info import describe, parameter_counts
from kit.model.recognizer import PARTS, Recognizer
from kit.text.phonemes import PhonemeInventory


def loss_in_one_piece(recognizer, speech, lengths, texts, hints):
    """Each row by itself, the whole prompt in one pass of transformers' own loss, no cache, no padding."""
    table = recognizer.llm.get_input_embeddings()
    total, count = 0.0, 0
    for row, text in enumerate(texts):
        prefix = recognizer.prompt.prefix_ids(recognizer.tokenizer)
        suffix = recognizer.prompt.suffix_ids(recognizer.tokenizer, hints[row] if hints else ())
        answer = recognizer.prompt.answer_ids(recognizer.tokenizer, text)
        heard = speech[row, : lengths[row]]
        inputs = torch.cat([table(torch.tensor(prefix)), heard, table(torch.tensor(suffix + answer))])
        labels = torch.tensor([-100] * (len(inputs) - len(answer)) + answer)
        loss = recognizer.llm(inputs_embeds=inputs[None], labels=labels[None]).loss
        total, count = total + loss * len(answer), count + len(answer)
    return total / count


@pytest.mark.parametrize("hints", [None, [["外滩"], [], ["hello", "天窗"], [], []]])
@pytest.mark.parametrize("kind", [(), (LLAMA,)])
def test_text_loss_and_gradients_equal_the_plain_way(kind, hints):
    """The shared prefix cache and the padding change no number."""
    recognizer = small_recognizer(PARTS, 0, *kind)
    lengths = torch.tensor([7, 3, 5, 1, 0])
    results = []
    for way in (Recognizer.text_loss, loss_in_one_piece):
        speech = torch.randn(5, 7, 32, generator=torch.Generator().manual_seed(1)).requires_grad_()
        recognizer.zero_grad()
        loss = way(recognizer, speech, lengths, TEXTS, hints)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in recognizer.llm.named_parameters()}
        results.append((loss.detach(), speech.grad, gradients))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-6, rtol=1e-4)
    for name, gradient in results[1][2].items():
        torch.testing.assert_close(results[0][2][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_text_without_speech():
    recognizer = small_recognizer()
    nothing = torch.zeros(2, 0, 32)
    loss = recognizer.text_loss(nothing, torch.zeros(2, dtype=torch.long), TEXTS[:2])
    expected = loss_in_one_piece(recognizer, nothing, [0, 0], TEXTS[:2], None)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_a_text_is_tokenized_once():
    recognizer = small_recognizer(("llm",))
    assert recognizer.text_ids(TEXTS[0]) is recognizer.text_ids(TEXTS[0])
    assert recognizer.text_ids(TEXTS[0])[-1] == recognizer.tokenizer.eos_token_id


def test_only_the_wanted_parts_are_built():
    recognizer = small_recognizer(("encoder", "phoneme_head"))
    assert {name.split(".")[0] for name, _ in recognizer.named_parameters()} == {"encoder", "phoneme_head"}
    assert recognizer.phoneme_head.out.out_features == len(PhonemeInventory.default())


def test_the_real_shape_has_the_papers_size():
    """2.3 B in all, counted in seconds without making it; Qwen3-1.7B has 1,720,574,976 parameters."""
    config = compose(["model=nim4"])
    counts = parameter_counts(config.model)
    assert counts["llm"] == 1_720_574_976
    assert sum(counts.values()) == pytest.approx(2.3e9, rel=0.02)
    assert 515e6 < counts["encoder"] < 615e6
    assert "total" in describe(config)
