"""FireRedASR-AED's encoder in ours: against a forward pass written here, on a checkpoint of its layout."""

import argparse
import math
import os
import struct

import pytest
import torch
import torch.nn.functional as F

from kit.cli import main
from kit.config import compose
from kit.errors import KitError
from kit.model import firered
from kit.model.encoder import Chunk
from kit.model.export import load_export
from kit.model.firered import our_name, read_checkpoint, their_name, translated
from kit.model.recognizer import Recognizer

DIM, HEADS, LAYERS, KERNEL, BINS = 24, 3, 2, 7, 80
SHAPE = [
    "model=firered_l",
    f"model.encoder.dim={DIM}",
    f"model.encoder.heads={HEADS}",
    f"model.encoder.layers={LAYERS}",
    f"model.encoder.kernel={KERNEL}",
]


def layout():
    """Names and shapes of a checkpoint, as the public code makes them."""
    shapes = {}
    inner = "encoder.input_preprocessor"
    shapes[f"{inner}.conv.0"] = [(32, 1, 3, 3), (32,)]
    shapes[f"{inner}.conv.2"] = [(32, 32, 3, 3), (32,)]
    shapes[f"{inner}.out"] = [(DIM, 32 * 19), (DIM,)]
    norm = [(DIM,), (DIM,)]
    for layer in range(LAYERS):
        block = f"encoder.layer_stack.{layer}"
        for half in ("ffn1", "ffn2"):
            shapes[f"{block}.{half}.net.0"] = norm
            shapes[f"{block}.{half}.net.1"] = [(4 * DIM, DIM), (4 * DIM,)]
            shapes[f"{block}.{half}.net.4"] = [(DIM, 4 * DIM), (DIM,)]
        for name in ("w_qs", "w_ks", "w_vs", "fc", "linear_pos"):
            shapes[f"{block}.mhsa.{name}"] = [(DIM, DIM)]
        for name in ("layer_norm_q", "layer_norm_k", "layer_norm_v"):
            shapes[f"{block}.mhsa.{name}"] = norm
        shapes[f"{block}.conv.pre_layer_norm"] = norm
        shapes[f"{block}.conv.pointwise_conv1"] = [(4 * DIM, DIM, 1)]
        shapes[f"{block}.conv.depthwise_conv"] = [(2 * DIM, 1, KERNEL)]
        shapes[f"{block}.conv.batch_norm"] = [(2 * DIM,), (2 * DIM,)]
        shapes[f"{block}.conv.pointwise_conv2"] = [(DIM, 2 * DIM, 1)]
        shapes[f"{block}.layer_norm"] = norm
    named = {
        f"{name}.{kind}": s for name, pair in shapes.items() for kind, s in zip(("weight", "bias"), pair, strict=False)
    }
    for layer in range(LAYERS):
        for bias in ("pos_bias_u", "pos_bias_v"):
            named[f"encoder.layer_stack.{layer}.mhsa.{bias}"] = (HEADS, DIM // HEADS)
    return named


def sinusoids(size):
    """(1, 2 size - 1, DIM) of the distances size - 1 down to -(size - 1), as a plain loop."""
    rows = []
    for distance in range(size - 1, -size, -1):
        angles = [distance * math.exp(-math.log(10000.0) * k / DIM) for k in range(0, DIM, 2)]
        rows.append([value for angle in angles for value in (math.sin(angle), math.cos(angle))])
    return torch.tensor(rows)[None]


@pytest.fixture(scope="module")
def state():
    draw = torch.Generator().manual_seed(0)
    made = {name: 0.3 * torch.randn(shape, generator=draw) for name, shape in layout().items()}
    for name in made:
        if "norm" in name or ".net.0." in name:
            made[name] += name.endswith("weight")
    made["encoder.positional_encoding.pe"] = sinusoids(200)
    made["decoder.tgt_word_emb.weight"] = torch.randn(30, DIM, generator=draw)
    return made


@pytest.fixture(scope="module")
def stats():
    draw = torch.Generator().manual_seed(1)
    mean, deviation = 12 + torch.randn(BINS, generator=draw), 2 + torch.rand(BINS, generator=draw)
    return mean.double(), deviation.double()


@pytest.fixture(scope="module")
def checkpoint(state, stats, tmp_path_factory):
    folder = tmp_path_factory.mktemp("firered")
    torch.save(
        {"args": argparse.Namespace(d_model=DIM, n_head=HEADS), "model_state_dict": state}, folder / "model.pth.tar"
    )
    mean, deviation = stats
    frames, sums = 1000.0, torch.zeros(2, BINS + 1, dtype=torch.double)
    sums[0, :-1], sums[1, :-1], sums[0, -1] = mean * frames, (deviation**2 + mean**2) * frames, frames
    head = b"global \0BDM \4" + struct.pack("<i", 2) + b"\4" + struct.pack("<i", BINS + 1)
    (folder / "cmvn.ark").write_bytes(head + sums.numpy().tobytes())
    return folder / "model.pth.tar"


@pytest.fixture(scope="module")
def export(checkpoint, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "firered"
    assert main(["import", "firered-aed", str(checkpoint), f"out={out}", *SHAPE]) == 0
    return out


def plain_forward(state, features):
    """(T, F) normalized features of one utterance to (T', D), by the definitions, without anything of the kit."""

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def feed_forward(x, name):
        hidden = linear(norm(x, f"{name}.net.0"), f"{name}.net.1")
        return linear(hidden * torch.sigmoid(hidden), f"{name}.net.4") + x

    def attention(x, name):
        frames, width = len(x), DIM // HEADS
        q, k, v = (
            linear(norm(x, f"{name}.layer_norm_{one}"), f"{name}.w_{one}s").view(frames, HEADS, width) for one in "qkv"
        )
        position = linear(sinusoids(frames)[0], f"{name}.linear_pos").view(-1, HEADS, width)
        score = torch.empty(HEADS, frames, frames)
        for i in range(frames):
            for j in range(frames):
                at = position[frames - 1 - (i - j)]
                by_content = ((q[i] + state[f"{name}.pos_bias_u"]) * k[j]).sum(-1)
                by_distance = ((q[i] + state[f"{name}.pos_bias_v"]) * at).sum(-1)
                score[:, i, j] = (by_content + by_distance) / math.sqrt(width)
        mixed = torch.einsum("hij,jhd->ihd", score.softmax(-1), v)
        return linear(mixed.reshape(frames, DIM), f"{name}.fc") + x

    def convolution(x, name):
        y = F.conv1d(norm(x, f"{name}.pre_layer_norm").T[None], state[f"{name}.pointwise_conv1.weight"])
        y = F.glu(y, dim=1)
        y = F.conv1d(y, state[f"{name}.depthwise_conv.weight"], padding=KERNEL // 2, groups=2 * DIM)
        y = norm(y.transpose(1, 2), f"{name}.batch_norm")
        y = (y * torch.sigmoid(y)).transpose(1, 2)
        return F.conv1d(y, state[f"{name}.pointwise_conv2.weight"])[0].T + x

    x = F.pad(features, (0, 0, 0, 6))[None, None]
    for place in (0, 2):
        name = f"encoder.input_preprocessor.conv.{place}"
        x = torch.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2))
    x = linear(x[0].transpose(0, 1).flatten(1), "encoder.input_preprocessor.out")
    for layer in range(LAYERS):
        name = f"encoder.layer_stack.{layer}"
        x = 0.5 * x + 0.5 * feed_forward(x, f"{name}.ffn1")
        x = convolution(attention(x, f"{name}.mhsa"), f"{name}.conv")
        x = norm(0.5 * x + 0.5 * feed_forward(x, f"{name}.ffn2"), f"{name}.layer_norm")
    return x


@torch.no_grad()
def test_the_encoder_computes_what_theirs_does(export, state, stats):
    """From Kaldi's energies of 16-bit samples on, in a batch with shorter utterances beside it."""
    encoder = load_export(export).encoder
    draw = torch.Generator().manual_seed(2)
    lengths = torch.tensor([61, 40, 7])
    ours = 2 * torch.randn(3, 61, BINS, generator=draw) - 9
    found, sizes, _ = encoder(ours, lengths)
    assert sizes.tolist() == [16, 10, 2]
    mean, deviation = stats
    for row, (length, size) in enumerate(zip(lengths.tolist(), sizes.tolist(), strict=True)):
        theirs = ((ours[row, :length].double() + math.log(32768.0**2) - mean) / deviation).float()
        torch.testing.assert_close(found[row, :size], plain_forward(state, theirs), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_it_streams_what_it_computes_whole(export):
    encoder = load_export(export).encoder
    features = 2 * torch.randn(1, 90, BINS, generator=torch.Generator().manual_seed(3)) - 9
    chunk = Chunk(4, 2)
    whole, _, _ = encoder(features, torch.tensor([90]), chunk)
    streamed, _ = encoder.stream(features, encoder.start(chunk), final=True)
    torch.testing.assert_close(streamed, whole, atol=1e-4, rtol=1e-4)


def test_the_export_is_an_encoder_with_its_features(export):
    made = load_export(export)
    assert made.parts == ("encoder",) and made.config.features.high == 8000
    from kit.audio.features import LogMel

    assert LogMel(**made.config.features).bins == BINS


def test_the_shape_is_that_of_the_published_weights():
    """710 M, and every name of the layout has its counterpart: none is left over on either side."""
    config = compose(["model=firered_l"]).model
    assert (config.encoder.dim, config.encoder.heads, config.encoder.layers, config.encoder.kernel) == (
        1280,
        20,
        16,
        33,
    )
    with torch.device("meta"):
        encoder = Recognizer(config, ("encoder",)).encoder
    assert sum(parameter.numel() for parameter in encoder.parameters()) == pytest.approx(710e6, rel=0.005)
    small = Recognizer(compose(SHAPE).model, ("encoder",))
    own = {name for name in small.state_dict() if name not in ("encoder.mean", "encoder.scale")}
    assert {our_name(name) for name in layout()} == own
    assert {their_name(name) for name in own} == set(layout())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda state: state.pop("encoder.layer_stack.1.mhsa.fc.weight"),
            "missing: encoder.layer_stack.1.mhsa.fc.weight",
        ),
        (lambda state: state.update({"encoder.extra": torch.zeros(2)}), "surplus: encoder.extra (2,)"),
        (lambda state: state.update({"other.weight": torch.zeros(1)}), "surplus: other.weight (1,)"),
        (
            lambda state: state.update({"encoder.layer_stack.2.layer_norm.weight": torch.zeros(DIM)}),
            "surplus: encoder.layer_stack.2.layer_norm.weight",
        ),
        (
            lambda state: state.update({"encoder.layer_stack.0.mhsa.fc.weight": torch.zeros(DIM, 5)}),
            f"of another shape: encoder.layer_stack.0.mhsa.fc.weight ({DIM},5) instead of ({DIM},{DIM})",
        ),
        (
            lambda state: state.update(
                {"encoder.layer_stack.0.conv.pointwise_conv1.weight": torch.zeros(4 * DIM, DIM, 3)}
            ),
            "of another shape: encoder.layer_stack.0.conv.pointwise_conv1.weight",
        ),
    ],
)
def test_what_does_not_fit_is_named(state, change, told, capsys, tmp_path):
    wrong = dict(state)
    change(wrong)
    ours = Recognizer(compose(SHAPE).model, ("encoder",)).state_dict()
    with pytest.raises(KitError, match=r"does not fit the model section: tensors 1 ") as caught:
        translated(wrong, ours, tmp_path / "model")
    assert told in capsys.readouterr().err and told.split(": ")[1].split(" ")[0] in str(caught.value)


def test_other_sinusoids_are_another_model(state):
    wrong = {**state, "encoder.positional_encoding.pe": state["encoder.positional_encoding.pe"].flip(1)}
    with pytest.raises(KitError, match="is no table of sinusoids as ours"):
        translated(wrong, Recognizer(compose(SHAPE).model, ("encoder",)).state_dict(), "model")


def test_their_table_of_positions_is_ours_to_its_end():
    table = torch.zeros(1, 9999, 64)
    distance = torch.arange(4999, -5000, -1.0)[:, None]
    rate = torch.exp(torch.arange(0, 64, 2).float() * -(math.log(10000.0) / 64))
    table[0, :, 0::2], table[0, :, 1::2] = torch.sin(distance * rate), torch.cos(distance * rate)
    firered._check_positions(table, "model")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("was-executed",)


def test_a_checkpoint_that_wants_code_to_run_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model_state_dict": {"a": torch.zeros(1)}, "args": Evil()}, "evil.pth.tar")
    with pytest.raises(KitError, match="cannot be read as weights alone .*nothing in it was executed"):
        read_checkpoint(tmp_path / "evil.pth.tar")
    assert not (tmp_path / "was-executed").exists()


def test_other_files(tmp_path, state):
    from safetensors.torch import save_file

    save_file(state, tmp_path / "model.safetensors")
    found = read_checkpoint(tmp_path / "model.safetensors")
    assert found.keys() == state.keys()
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_checkpoint(tmp_path / "old.pth").keys() == state.keys()
    torch.save({"model_state_dict": {}}, tmp_path / "empty")
    (tmp_path / "noise").write_bytes(b"no checkpoint")
    (tmp_path / "noise.safetensors").write_bytes(b"no checkpoint")
    for name, told in (
        ("none", "is no file"),
        ("empty", "holds no tensors by name"),
        ("noise", "cannot be read as weights alone"),
        ("noise.safetensors", "cannot be read .*copy it again"),
    ):
        with pytest.raises(KitError, match=told):
            read_checkpoint(tmp_path / name)


def test_wrong_use_writes_nothing(checkpoint, export, tmp_path, capsys):
    line = ["import", "firered-aed", str(checkpoint)]
    assert main(line) == 2
    assert "where to" in capsys.readouterr().err
    assert main([*line, f"out={export}", *SHAPE]) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "model").write_bytes(checkpoint.read_bytes())
    assert main(["import", "firered-aed", str(tmp_path / "model"), f"out={tmp_path / 'out'}", *SHAPE]) == 2
    assert "there is no cmvn.ark or cmvn.txt beside" in capsys.readouterr().err
    cmvn = checkpoint.parent / "cmvn.ark"
    assert (
        main(
            [
                "import",
                "firered-aed",
                str(tmp_path / "model"),
                f"cmvn={cmvn}",
                f"out={tmp_path / 'out'}",
                *SHAPE,
                "model.encoder.layers=3",
            ]
        )
        == 1
    )
    assert "missing" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert main(["import", "firered", "x", "out=y"]) == 2
    assert "did you mean firered-aed?" in capsys.readouterr().err


def test_pre_training_goes_on_from_it(export, corpus):
    """With a head of its own, the imported normalization, and features made as theirs are."""
    from stages.pretrain import Pretrain

    config = compose([*SHAPE, "stage=pretrain", "data.hours=0.01", f"cache={corpus.cache}"])
    data = corpus.data(config)
    built = Pretrain.build(config, data, {"init": export})
    imported = load_export(export).encoder
    assert torch.equal(built.encoder.mean, imported.mean)
    assert torch.equal(built.encoder.blocks[0].attention.q.weight, imported.blocks[0].attention.q.weight)
    assert data.features["high"] == 8000
    frames = data.dataset("dev").store.of(data.cuts("dev")[0])
    assert torch.isfinite(built.encode(frames[None], torch.tensor([len(frames)]))[0]).all()
