import numpy as np
import pytest
import soundfile
import torch
from small import TEXTS, small_config, small_recognizer

from kit.decoding.offline import generate, recognize, transcribe_files
from kit.errors import KitError
from kit.model.export import save_export


@torch.inference_mode()
def greedy_by_hand(recognizer, speech, size, limit, hints=()):
    """One row, the whole sequence anew for every token."""
    table, tokenizer = recognizer.llm.get_input_embeddings(), recognizer.tokenizer
    prompt = recognizer.prompt
    ids = []
    while len(ids) < limit:
        after = torch.tensor(prompt.suffix_ids(tokenizer, hints) + ids)
        inputs = torch.cat([table(torch.tensor(prompt.prefix_ids(tokenizer))), speech[:size], table(after)])
        best = int(recognizer.llm(inputs_embeds=inputs[None]).logits[0, -1].argmax())
        if best == tokenizer.eos_token_id:
            break
        ids.append(best)
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.mark.parametrize("hints", [None, [["外滩"], [], ["hello"]]])
def test_generation_in_a_batch_equals_the_slow_way(hints):
    recognizer = small_recognizer(seed=4)
    torch.manual_seed(0)
    for parameter in recognizer.llm.parameters():  # at its usual size a random model repeats its last token for ever
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    speech, lengths = 3 * torch.randn(3, 6, 32), torch.tensor([6, 2, 4])
    with torch.inference_mode():
        decoding = small_config("decoding.max_tokens=12", "decoding.beam=1").decoding
        together = generate(recognizer, speech, lengths, decoding, hints)
    alone = [
        greedy_by_hand(recognizer, row, size, 12, hints[index] if hints else ())
        for index, (row, size) in enumerate(zip(speech, lengths.tolist(), strict=True))
    ]
    assert together == alone
    assert any(together)


def test_a_batch_gives_what_its_rows_give():
    recognizer = small_recognizer(seed=4)
    config = small_config("decoding.max_tokens=8")
    features, lengths = torch.randn(3, 150, 80), torch.tensor([150, 90, 40])
    together = recognize(recognizer, features, lengths, config.decoding)
    for row, size in enumerate(lengths.tolist()):
        alone = recognize(recognizer, features[row : row + 1, :size], lengths[row : row + 1], config.decoding)
        assert alone[0] == together[row]


def test_bad_files_do_not_stop_the_good_ones(tmp_path):
    save_export(small_recognizer(), tmp_path / "export", {})
    config = small_config("decoding.max_tokens=4", "decoding.max_seconds=3")
    tone = 0.1 * np.sin(np.arange(16000) / 20)
    soundfile.write(tmp_path / "good.wav", tone, 16000)
    soundfile.write(tmp_path / "stereo.flac", np.stack([tone, tone], 1), 44100)
    soundfile.write(tmp_path / "long.wav", np.tile(tone, 5), 16000)
    soundfile.write(tmp_path / "short.wav", tone[:100], 16000)
    soundfile.write(tmp_path / "empty.wav", tone[:0], 16000)
    soundfile.write(tmp_path / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    (tmp_path / "text.wav").write_text(TEXTS[0])
    names = ["good.wav", "missing.wav", "long.wav", "short.wav", "empty.wav", "nan.wav", "text.wav", "stereo.flac"]
    results = dict(transcribe_files([tmp_path / name for name in names], tmp_path / "export", config))
    bad = {path.name for path, result in results.items() if isinstance(result, KitError)}
    assert bad == set(names) - {"good.wav", "stereo.flac", "long.wav"}
    for path, result in results.items():
        if isinstance(result, KitError):
            assert path.name in str(result)
            assert len(str(result).splitlines()) == 1
