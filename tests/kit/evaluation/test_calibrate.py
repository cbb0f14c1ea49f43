"""Calibration counts the hints that there would be, on utterances as streams hear them, and says what to set."""

import random

import pytest
import torch
from hearing import head, sounds
from small import small_config, small_recognizer
from streams import database
from strings import INVENTORY

from kit.cli import main
from kit.decoding.callbacks import Utterance
from kit.decoding.hybrid_hotwords import HybridHotwords
from kit.errors import KitError
from kit.evaluation import calibrate as calibration
from kit.evaluation import listening
from kit.evaluation.calibrate import LOOSE, calibrate, judge
from kit.evaluation.hints import Names
from kit.model.export import save_export
from kit.retrieval.calibrate import curve, in_hundredths
from kit.retrieval.database import Database
from kit.retrieval.hybrid import search_in
from kit.retrieval.phonetics import costs
from kit.text.keywords import occurs
from kit.text.normalize import normalize
from kit.text.phonemes import PhonemeInventory

SPLIT = "train"  # the largest


class Ear:
    """In place of a recognizer: hears what the labels of a data module say, now and then wrongly."""

    inventory, device = INVENTORY, torch.device("cpu")

    def __init__(self, data, split=SPLIT, errors=0.08):
        self._batches, self.config = {}, data.config.model
        dataloader, draw = data.part_dataloader, random.Random(0)
        self.heard = {}  # utterance -> (T, V)
        for batch in dataloader(split):
            for row, cut in enumerate(batch.cuts):
                said = batch.phonemes[row, : batch.phoneme_lengths[row]].tolist()
                self.heard[cut.id] = head(said, mistakes(draw, said, errors))

    def of(self, batch):
        self.ids = [cut.id for cut in batch.cuts]
        return batch

    def encode(self, features, lengths, chunk):
        rows = [self.heard[one] for one in self.ids]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])

    def phoneme_head(self, frames):
        return frames


def mistakes(draw, said, errors):
    """Some phonemes taken for others, with more or less of the right one left."""
    found = {}
    for place, symbol in enumerate(said):
        if draw.random() < errors:
            other = int(costs(INVENTORY)[symbol].argsort(kind="stable")[draw.randint(1, 3)])
            found[place] = {other: 1.0, symbol: draw.choice([0.5, 0.05, 1e-4])}
    return found


@pytest.fixture(scope="module")
def data(corpus):
    return corpus.data(small_config(cache=corpus.cache))


@pytest.fixture
def ear(data, monkeypatch):
    """An ear that knows which batch it hears."""
    found = Ear(data)
    dataloader = data.part_dataloader
    monkeypatch.setattr(listening, "track", lambda batches, label: map(found.of, batches))
    monkeypatch.setattr(data, "part_dataloader", lambda split: dataloader(split))
    return found


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """A database of the names that are said, and many that only sound so."""
    draw, said = random.Random(0), sorted({name for cut in data.cuts(SPLIT) for name in data.entities(cut)})
    names = {name: () for name in said}
    for number in range(300):
        sound = bytearray(sounds(draw.choice(said)))
        for _ in range(2):
            sound[draw.randrange(len(sound))] = draw.randrange(1, len(INVENTORY))
        names[f"{chr(0x4E00 + number)}{chr(0x5E00 + number)}"] = INVENTORY.decode(sound)
    return database(tmp_path_factory.mktemp("names"), names, dense=True)


def config(*overrides):
    return small_config("decoding=streaming", f"split={SPLIT}", *overrides)


def test_what_is_counted_is_what_decoding_with_a_margin_does(data, ear, folder):
    """Hints and names found, against the callback itself, at several margins."""
    search = search_in(Database.open(folder), INVENTORY, LOOSE)
    judged = judge(ear, data, config(), search)
    points, names = curve(judged.hints, judged.names), Names(data, SPLIT)
    assert judged.utterances == len(data.cuts(SPLIT)) and len(points) > 5
    assert min(evidence for evidence, _ in judged.hints) >= LOOSE
    for margin in (LOOSE, 0.0, 2.0, 6.0):
        made = HybridHotwords(folder, margin=margin, most=100, homophones=100)
        made.prepare(INVENTORY)
        hints, right, found = 0, 0, 0
        for cut in data.cuts(SPLIT):
            text, told = normalize(cut.supervisions[0].text), hinted(made, ear.heard[cut.id])
            hints += len(told)
            right += sum(occurs(hint, text) or sounds(hint) in sounds(text) for hint in told)
            found += len(set(names.said(cut, text)) & set(told))
        assert sum(evidence >= margin for evidence, _ in judged.hints) == pytest.approx(hints, abs=2)
        assert sum(right for evidence, right in judged.hints if evidence >= margin) == pytest.approx(right, abs=2)
        assert sum(evidence >= margin for evidence in judged.names) == pytest.approx(found, abs=2)


def hinted(made, log_probs):
    utterance = Utterance(0, 0.0, INVENTORY)
    made.start(utterance)
    for chunk in log_probs.split(16):
        utterance.log_probs.append(chunk)
        made.chunk(utterance)
    return list(made.hints(utterance))


def test_the_table_and_the_margin_to_set(data, ear, folder, monkeypatch, capsys):
    monkeypatch.setattr(calibration, "load_export", lambda export, parts: ear)
    monkeypatch.setattr(calibration, "PRECISIONS", (0.3, 0.5))
    opened = Database.open(folder)
    judged = judge(ear, data, config(), search_in(opened, INVENTORY, LOOSE))
    precision = round(max(point.precision for point in curve(judged.hints, judged.names)) - 0.01, 2)
    capsys.readouterr()
    calibrate(config(), "export", data, opened, precision)
    out, err = capsys.readouterr()
    titles, *rows = [line.split("\t") for line in out.splitlines()]
    assert titles == ["precision", "margin", "hints an utterance", "names found"]
    assert [row[0] for row in rows] == ["0.3", "0.5", f"{precision:g}"]
    assert f"for a precision of {precision:g}: retrieval=hybrid retrieval.margin={float(rows[-1][1]):g}" in err
    for wanted, margin, hints, share in rows:
        there = [right for evidence, right in judged.hints if evidence >= float(margin)]
        assert sum(there) >= float(wanted) * len(there) > 0
        for lower in {evidence for evidence, _ in judged.hints if evidence < float(margin)}:
            more = [right for evidence, right in judged.hints if evidence >= lower]
            assert sum(more) < float(wanted) * len(more)
        assert hints == f"{len(there) / judged.utterances:.2f}"
        found = sum(evidence >= float(margin) for evidence in judged.names)
        assert share == f"{100 * found / len(judged.names):.1f} %"


def test_evidence_is_told_so_that_the_margin_holds_as_it_is_written(data, ear, folder):
    judged = judge(ear, data, config(), search_in(Database.open(folder), INVENTORY, LOOSE))
    assert all(in_hundredths(evidence + 1e-6) == evidence for evidence, _ in judged.hints)


def test_a_name_in_a_longer_one_is_no_hint_of_its_own(data, tmp_path, monkeypatch):
    """As little as it is one in decoding."""
    texts = {cut.id: normalize(cut.supervisions[0].text) for cut in data.cuts(SPLIT)}
    longest = max(texts.values(), key=len)
    inner, outer = sounds(longest)[4:10], sounds(longest)[2:16]
    names = {"内": INVENTORY.decode(inner), "外": INVENTORY.decode(outer)}
    ear = Ear(data, errors=0.0)
    monkeypatch.setattr(listening, "track", lambda batches, label: map(ear.of, batches))
    for given in (names, {"内": names["内"]}):
        search = search_in(Database.open(database(tmp_path, given, dense=True)), INVENTORY, LOOSE)
        judged = judge(ear, data, config(), search)
        made = HybridHotwords(tmp_path / "db", margin=LOOSE)
        made.prepare(INVENTORY)
        assert len(judged.hints) == sum(len(hinted(made, one)) for one in ear.heard.values()) > 0


def test_no_margin_may_be_good_enough(data, ear, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "load_export", lambda export, parts: ear)
    nobody = Database.open(database(tmp_path, ["某某某某某某"], dense=True))
    with pytest.raises(KitError, match=r"no margin has a precision of 0.98 on \d+ utterances; take more utterances"):
        calibrate(config(), "export", data, nobody, 0.98)


def test_a_database_of_another_inventory_is_refused(data, folder, monkeypatch):
    stranger = Ear(data)
    stranger.inventory = PhonemeInventory(INVENTORY.symbols[:-1])
    monkeypatch.setattr(calibration, "load_export", lambda export, parts: stranger)
    with pytest.raises(KitError, match="built with another phoneme inventory"):
        calibrate(config(), "export", data, Database.open(folder), 0.98)


# The command


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "export"
    save_export(small_recognizer(("encoder", "phoneme_head")), folder, {})
    return folder


@pytest.mark.parametrize("split", [SPLIT, "null"])
def test_the_command_from_export_to_answer(corpus, folder, export, capsys, split):
    """A model that was never trained hears nothing right."""
    line = [f"checkpoint={export}", f"cache={corpus.cache}", "data.hours=0.01", f"split={split}"]
    assert main(["hotwords", "calibrate", str(folder), "precision=0.9", *line]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == ["precision\tmargin\thints an utterance\tnames found"]
    assert "kit: no margin has a precision of 0.9" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("line", "code", "answer"),
    [
        ([], 2, "python -m kit hotwords calibrate DB"),
        (["none"], 2, "none is no hotword database"),
        (["plain"], 1, "no index for names that sound alike"),
        (["DB", "precision=0"], 2, "precision=0 must be a number above 0 and up to 1, such as 0.98"),
        (["DB", "precision=1.1"], 2, "precision=1.1 must be"),
        (["DB", "precision=x"], 2, "precision=x must be"),
        (["DB", "precision=nan"], 2, "precision=nan must be"),
        (["DB", "precison=0.9"], 2, "unknown key precison"),
        (["DB", "checkpoint=none"], 2, "none"),
        (["DB", "runs=none"], 2, "no finished run in none"),
        (["DB", "checkpoint=EXPORT", "split=nothing"], 2, "data=cockpit has no part 'nothing'"),
    ],
)
def test_wrong_use_is_one_sentence(corpus, folder, export, tmp_path, capsys, monkeypatch, line, code, answer):
    monkeypatch.chdir(tmp_path)
    if line[:1] == ["plain"]:
        database(tmp_path, ["静安寺公园"]).rename("plain")
    capsys.readouterr()
    places = {"DB": str(folder), "checkpoint=EXPORT": f"checkpoint={export}"}
    more = [f"cache={corpus.cache}", "data.hours=0.01"] * any("DB" in word for word in line)
    assert main(["hotwords", "calibrate", *(places.get(word, word) for word in line), *more]) == code
    out, err = capsys.readouterr()
    assert out == "" and answer in err and "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("kit: ")]) == 1
