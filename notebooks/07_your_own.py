# %% [markdown]
# # 7. A stage, data and a retriever of your own, from nothing
#
# Nothing here changes the kit. Three modules and three YAMLs in a folder of your own, and `configs=FOLDER`; on a command line it
# would be `PYTHONPATH=my python -m kit fit stage=smooth data=folder configs=my/configs`.

# %%
import sys
from pathlib import Path

import soundfile
from IPython.display import HTML
from matplotlib import pyplot

from kit import viewing
from kit.decoding.hotwords import ExactHotwords
from kit.evaluation.listening import hear
from kit.fit import fit, quiet
from kit.model.export import load_export
from kit.runs import Run

viewing.style()
config = viewing.configuration()
corpus = viewing.data_of(config)
mine = Path(config.cache).resolve() / "notebooks" / "my"
(mine / "configs").mkdir(parents=True, exist_ok=True)
sys.path.insert(0, str(mine))


def write(name, text):
    """A file of one's own."""
    path = mine / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.lstrip(), "utf-8")


# %% [markdown]
# ## Data
#
# A data module says where its utterances are, as Lhotse cuts with a text. Features, labels, batches and resuming are the base's.
# This one reads a folder with a text file beside each recording. To have such a folder, some utterances of the corpus are
# written into one.

# %%
write(
    "my_data.py",
    '''
from pathlib import Path

from lhotse import CutSet, Recording, SupervisionSegment

from datamodules.base import SpeechData


class Folder(SpeechData):
    """FOLDER/train, FOLDER/dev, FOLDER/test with a.wav and a.txt, b.wav and b.txt ..."""

    def load_cuts(self, split):
        files = sorted(Path(self.config.data.folder, split).glob("*.wav"))
        return CutSet.from_cuts(self.cut(file) for file in files)

    def test_parts(self):
        return ["test"]

    @staticmethod
    def cut(file):
        recording = Recording.from_file(file)
        cut = recording.to_cut()
        text = file.with_suffix(".txt").read_text("utf-8").strip()
        language = "en" if text.isascii() else "zh"
        cut.supervisions = [
            SupervisionSegment(file.stem, recording.id, 0.0, recording.duration, text=text, language=language)
        ]
        return cut
''',
)
write(
    "configs/data/folder.yaml",
    """
_target_: my_data.Folder
name: folder
folder: ???
buckets: 12
workers: 0
evaluation_seconds: 90
""",
)
recordings = mine / "recordings"
for part, count in (("train", 24), ("dev", 8), ("test", 8)):
    (recordings / part).mkdir(parents=True, exist_ok=True)
    for cut in list(corpus.cuts(part))[:count]:
        soundfile.write(recordings / part / f"{cut.id}.wav", corpus.samples(cut).numpy(), 16000)
        (recordings / part / f"{cut.id}.txt").write_text(cut.supervisions[0].text, "utf-8")
own = [f"configs={mine / 'configs'}", "data=folder", f"data.folder={recordings}"]
data = viewing.data_of(viewing.configuration("stage=pretrain", *own))
HTML(
    viewing.table(
        ["part", "utterances", "first text"],
        [[part, len(data.cuts(part)), data.cuts(part)[0].supervisions[0].text] for part in ("train", "dev", "test")],
    )
)

# %% [markdown]
# ## A stage
#
# A stage is a class with a `loss` and a YAML. This one is `pretrain` that is punished for being too sure: the head's output is
# pulled a little towards its own mean over the utterance, so that the spikes of [notebook 2](02_what_the_encoder_learns.ipynb)
# get flatter. What it returns beside `loss` becomes a curve.

# %%
write(
    "my_stages.py",
    '''
from stages.pretrain import Pretrain


class Smooth(Pretrain):
    """CTC, and a penalty on the spikiness of the phoneme head."""

    def loss(self, batch):
        values = super().loss(batch)
        frames, lengths = self.recognizer.encode(batch.features, batch.lengths)
        log_probs = self.recognizer.phoneme_head(frames).float().log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
        values["loss"] = values["loss"] - self.config.stage.flat * entropy
        return {**values, "entropy": entropy}
''',
)
write(
    "configs/stage/smooth.yaml",
    """
defaults: [pretrain, _self_]
_target_: my_stages.Smooth
name: smooth
report: false
flat: 0.3            # weight of the entropy
callbacks:
  watch: null
""",
)
begin = viewing.newest(config, "pretrain")
few = [
    "trainer.max_steps=20",
    "trainer.validate_every=null",
    "trainer.log_every=2",
    "experiment=mine",
    "trainer.progress=false",
]
smooth = viewing.configuration("stage=smooth", f"init={begin.export}", *own, *few, "stage.optimizer.lr=5e-4")
export = fit(smooth, report=False)
steps, values = viewing.curve(Run(export.parent), "train/entropy")
figure, axes = pyplot.subplots(figsize=(9, 2.2))
axes.plot(steps, values, ".-")
axes.set(title="entropy of the head", xlabel="step", ylabel="nats")

# %% [markdown]
# What it did to the spikes, on the dev part. (Twenty steps on 24 utterances are a demonstration, no result; `study` compares
# arms over seeds.)

# %%
rows = []
for name, folder in {"before": begin.export, "after": export}.items():
    heard = list(hear(load_export(folder, viewing.HEAD), corpus.probe(24)))
    found = [viewing.spikes(one.log_probs) for one in heard]
    rows.append([name, *(sum(getattr(each, key) for each in found) / len(found) for key in ("blank", "sure", "width"))])
HTML(viewing.table(["head", "blank", "sure", "width in frames"], rows))

# %% [markdown]
# ## A retriever
#
# A way of finding hotwords is a subclass of `Hotwords` with `begin` (search this list from the utterance's beginning) and `find`
# (what was heard). This one forgives one wrong phoneme, wherever it is.

# %%
write(
    "my_retrieval.py",
    '''
from kit.decoding.hotwords import Hotwords
from kit.retrieval.exact import Match


class OneWrong(Hotwords):
    """Names that were heard with at most one phoneme taken for another."""

    tells_all = True

    def start(self, utterance):
        self.lists = {}
        super().start(utterance)

    def begin(self, lexicon, own):
        self.lists[own] = lexicon

    def find(self, utterance):
        heard = bytes(utterance.phonemes)
        for lexicon in self.lists.values():
            keys = range(lexicon.keys)
            yield lexicon, [match for key in keys for match in places(key, lexicon.phonemes(key), heard)]


def places(key, name, heard):
    for start in range(len(heard) - len(name) + 1):
        wrong = sum(one != other for one, other in zip(name, heard[start:], strict=False))
        if len(name) >= 4 and wrong <= 1:
            yield Match(key, start, start + len(name))
''',
)
from my_retrieval import OneWrong

write("names.tsv", "".join(f"{name}\n" for name in corpus.keywords(["unseen"])))
recognizer = viewing.listener(config)
heard = [one for one in hear(recognizer, corpus.probe(30, "unseen")) if corpus.entities(one.cut)]
rows = []
for name, make in {"exact": ExactHotwords, "one wrong": OneWrong}.items():
    with quiet():
        found = [
            viewing.hints_by_chunk(make(personal=mine / "names.tsv"), one.log_probs, recognizer.inventory)[0][-1]
            for one in heard
        ]
    said = [(word, hints) for one, hints in zip(heard, found, strict=True) for word in corpus.entities(one.cut)]
    rows.append([name, f"{sum(word in hints for word, hints in said)} of {len(said)}", sum(map(len, found))])
HTML(viewing.table(["way", "names found", "hints in all"], rows))

# %% [markdown]
# With `configs/retrieval/one_wrong.yaml` it takes part in `transcribe`, `stream` and `evaluate` as `retrieval=one_wrong`; docs/extend.md
# has it, and a kernel of your own as well.
