# %% [markdown]
# # 4. Hotwords: names that nobody trained on
#
# A small language model writes names that it knows. The phoneme head has no such habit: it hears sounds. So names are kept
# by their sound, what is heard of them becomes a hint in the prompt, and the language model writes it as the list does. Here
# are the three steps on the way, each with what it is good for: an automaton that finds what was heard exactly, an index for
# what was heard nearly so, and the audio as the judge of both.

# %%
from pathlib import Path

from IPython.display import HTML
from matplotlib import pyplot

from kit import viewing
from kit.decoding.hotwords import ExactHotwords
from kit.decoding.hybrid_hotwords import HybridHotwords
from kit.errors import KitError
from kit.evaluation.listening import hear
from kit.files import write_text
from kit.retrieval.build import build
from kit.text.keywords import occurs
from kit.text.phonemes import phonemize
from kit.text.similar import distance

viewing.style()
config = viewing.configuration("decoding=streaming")
data = viewing.data_of(config)
recognizer = viewing.listener(config)
inventory = recognizer.inventory

# %% [markdown]
# ## A list, and a database of it
#
# All names of the corpus, those of the part `unseen` among them, which occur nowhere in training. In a list they are text;
# in the database they stand under the phonemes that they are said with.

# %%
folder = Path(config.cache) / "notebooks"
names = sorted({*data.keywords(["train"]), *data.keywords(["unseen"])})
write_text(folder / "names.tsv", "".join(f"{name}\n" for name in names))
database = build(folder / "names.tsv", folder / "names.db", inventory, workers=1)
print(f"{len(names)} names under {database.keys} phoneme strings")
rows = [[name, " ".join(phonemize(name))] for name in names[:: max(1, len(names) // 6)][:6]]
HTML(viewing.table(["name", "phonemes"], rows))

# %% [markdown]
# ## What the head hears of a name
#
# Take an utterance with a name in it, and compare the greedy phonemes with those of the name. Where they are all the same, a
# search for exact matches (an Aho-Corasick automaton over all strings) finds it in microseconds, however many names there
# are. With one wrong phoneme it finds nothing.

# %%
heard = [one for one in hear(recognizer, data.probe(40, "unseen")) if data.entities(one.cut)]
rows = []
for one in heard[:8]:
    (name, *_) = data.entities(one.cut)
    _, phonemes = viewing.hints_by_chunk(ExactHotwords(), one.log_probs, inventory)
    rows.append([one.text, name, " ".join(phonemize(name)), " ".join(inventory.decode(phonemes))])
HTML(viewing.table(["said", "name", "its phonemes", "heard"], rows))

# %% [markdown]
# ## Exact, and hybrid
#
# `retrieval=exact` is that automaton. `retrieval=hybrid` also looks up every stretch of phonemes among the names that *sound
# like it* (dense vectors of phoneme strings), compares the nearest phoneme by phoneme, and then asks the audio: how much
# probability do the frames give to just this string? What is left over is weighed against how often such sounds are said by
# chance. A name is *found* if it was said and is a hint in the end, *wrong* is a hint that was not said.

# %%
ways = {
    "exact: the automaton": lambda: ExactHotwords(folder / "names.db"),
    "dense, without the audio": lambda: HybridHotwords(folder / "names.db", margin=-1e9, verify=False),
    "dense, verified by the audio": lambda: HybridHotwords(folder / "names.db"),
}
hints = {
    way: [viewing.hints_by_chunk(make(), one.log_probs, inventory)[0] for one in heard] for way, make in ways.items()
}
rows = []
for way, found in hints.items():
    said = [(name, chunks[-1]) for one, chunks in zip(heard, found, strict=True) for name in data.entities(one.cut)]
    hit = sum(name in last for name, last in said)
    wrong = sum(not occurs(hint, one.text) for one, chunks in zip(heard, found, strict=True) for hint in chunks[-1])
    rows.append([way, f"{hit} of {len(said)}", f"{wrong} in {len(heard)} utterances"])
HTML(viewing.table(["way", "found", "wrong"], rows))

# %% [markdown]
# ## When a hint comes
#
# Chunk by chunk (640 ms): a hint appears when its last phonemes are there, and a better one may take its place. The
# prompt's end is read anew with every chunk, so a late hint costs nothing.

# %%
longest = max(range(len(heard)), key=lambda place: len(hints["dense, verified by the audio"][place]))
one, chunks = heard[longest], hints["dense, verified by the audio"][longest]
print("said:", one.text)
HTML(viewing.table(["second", "hints"], [[f"{0.64 * (at + 1):.2f}", ", ".join(row)] for at, row in enumerate(chunks)]))

# %% [markdown]
# ## How near is near?
#
# Distances between the names of the list, by the sound of their phonemes (0: the same, 1: nothing in common). Names below
# about 0.2 are those that a noisy head takes for each other; there the language model and the context have to decide.

# %%
sounds = [phonemize(name) for name in names]
some = list(range(0, len(names), max(1, len(names) // 150)))
nearest = [min(distance(sounds[at], sounds[other]) for other in some if sounds[other] != sounds[at]) for at in some]
figure, axes = pyplot.subplots(figsize=(9, 2.4))
axes.hist(nearest, bins=30)
axes.set(xlabel="distance to the nearest other name", ylabel="names")

# %% [markdown]
# ## A listening test
#
# With a whole recognizer (`sft` or later): the same audio, decoded without hotwords and with `retrieval=hybrid`. Listen, and
# judge for yourself.

# %%
try:
    texts = viewing.with_and_without(config, data, folder / "names.db", [one.cut for one in heard[:4]])
except KitError as missing:
    texts = []
    print(missing)
HTML(
    "".join(
        viewing.player(data.samples(one.cut), f"said: {one.text} | without: {plain} | with: {helped}")
        for one, (plain, helped) in zip(heard, texts, strict=False)
    )
)

# %% [markdown]
# **Next:** [what the kernels do](05_kernels.ipynb). docs/hotwords.md has the formats, the figures for a million names, and how to
# choose a margin.
