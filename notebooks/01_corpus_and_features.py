# %% [markdown]
# # 1. The corpus, and what the encoder gets of it
#
# `make run` learns from a corpus that is made on your machine: sentences from grammars and lists of names, spoken by
# eSpeak NG in many voices. It is small enough to look at as a whole, and it comes with something that recordings rarely
# have: the time of every phoneme.

# %%
from collections import Counter

import torch
from IPython.display import HTML
from matplotlib import pyplot

from datamodules.augmentation import alignment
from kit import viewing
from kit.audio.augmentation import SpecAugment
from kit.text.normalize import normalize

viewing.style()
config = viewing.configuration("stage=pretrain")
data = viewing.data_of(config)

# %% [markdown]
# ## Who says what
#
# Three kinds of utterances: Mandarin, English, and Mandarin with English names in it. Those of `test` have sentences and
# voices that training never hears; those of `unseen` also have names that occur nowhere in training. That is why the
# error rates of the two are told apart everywhere.

# %%
rows = []
for part in ("train", "dev", *data.test_parts()):
    cuts = list(data.cuts(part))
    languages = Counter(cut.supervisions[0].language for cut in cuts)
    speakers = {cut.supervisions[0].speaker for cut in cuts}
    names = {name for cut in cuts for name in data.entities(cut) or ()}
    minutes = sum(cut.duration for cut in cuts) / 60
    counts = [languages[language] for language in ("zh", "en", "mixed")]
    rows.append([part, len(cuts), *counts, f"{minutes:.1f}", len(speakers), len(names)])
HTML(viewing.table(["part", "utterances", "zh", "en", "mixed", "minutes", "voices", "names"], rows))

# %%
cuts = sorted(data.cuts("test"), key=lambda cut: cut.id)[:: max(1, len(data.cuts("test")) // 4)][:4]
HTML("".join(viewing.player(data.samples(cut), cut.supervisions[0].text) for cut in cuts))

# %% [markdown]
# ## How long
#
# Batches are filled up to a number of seconds (`stage.batch_seconds`), with utterances of about the same length, because
# a batch is as long as its longest row. The second figure shows what that saves: the share of each batch that is padding,
# beside the same utterances in batches of random order.

# %%
durations = torch.tensor([cut.duration for cut in data.cuts("train")])
figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 2.8))
for language in ("zh", "en", "mixed"):
    seconds = [cut.duration for cut in data.cuts("train") if cut.supervisions[0].language == language]
    left.hist(seconds, bins=24, alpha=0.6, label=language)
left.set(title="utterances of training", xlabel="seconds", ylabel="utterances")
left.legend()

loader = iter(data.train_dataloader())
batches = [next(loader) for _ in range(12)]
padding = [1 - float(batch.lengths.sum()) / batch.features[..., 0].numel() for batch in batches]
drawn = [durations[torch.randperm(len(durations))[: len(batch)]] for batch in batches]
at_random = [1 - float(row.sum() / (row.max() * len(row))) for row in drawn]
right.plot([100 * share for share in at_random], ".-", color="0.6", label="in random order")
right.plot([100 * share for share in padding], ".-", label="by length")
right.set(title="padding", xlabel="batch", ylabel="%", ylim=(0, None))
right.legend()

# %% [markdown]
# ## What the encoder sees
#
# 80 log-mel energies every 10 ms. The encoder makes a frame of 40 ms out of four of them. Below: one utterance with its
# phonemes at their times, as the synthesizer gave them. `pretrain` may use these times at its beginning
# (`stage.loss.kick_start`), which is worth a lot of steps; CTC itself needs no times.

# %%
cut = cuts[0]
features = viewing.log_mel(data, cut)
figure, axes = pyplot.subplots(figsize=(9, 3))
axes.imshow(features.T, origin="lower", extent=(0, len(features) / 100, 0, features.shape[1]))
for item in alignment(cut):
    axes.axvline(item.start, color="w", linewidth=0.4, alpha=0.6)
    axes.text(item.start + item.duration / 2, 82, item.symbol, ha="center", va="bottom", fontsize=7, rotation=60)
axes.set(xlabel="seconds", ylabel="mel bin")
axes.set_title(f"{cut.id}", pad=28)
print(cut.supervisions[0].text, "->", normalize(cut.supervisions[0].text))

# %% [markdown]
# The encoder keeps the mean and the deviation of every bin over the training set and normalizes with them; an export
# carries them along.

# %%
mean, deviation = data.normalization()
figure, axes = pyplot.subplots(figsize=(9, 2.2))
axes.fill_between(range(len(mean)), mean - deviation, mean + deviation, alpha=0.25)
axes.plot(mean)
axes.set(xlabel="mel bin", ylabel="log energy", title="mean and deviation over the training set")

# %% [markdown]
# ## What training makes of it
#
# SpecAugment hides stripes of time and frequency (they become 0, the mean), another vocal tract is imitated by a stretch of
# the frequency axis, and the level changes. Every time an utterance comes up, it looks different. `augmentation=paper`
# adds speed, rooms, silence and noise to the audio itself.

# %%
torch.manual_seed(1)
normalized = ((features - mean) / deviation)[None]
augment = SpecAugment(**config.stage.augment)
figure, axes = pyplot.subplots(1, 3, figsize=(9, 2.4), sharey=True)
pictures = {"as it is": normalized} | {
    f"draw {number}": augment(normalized, torch.tensor([len(features)])) for number in (1, 2)
}
for panel, (title, picture) in zip(axes, pictures.items(), strict=True):
    panel.imshow(picture[0].T, origin="lower", vmin=-3, vmax=3)
    panel.set(title=title, xlabel="frame of 10 ms")

# %% [markdown]
# **Next:** [what the encoder learns from this](02_what_the_encoder_learns.ipynb).
