# %% [markdown]
# # 2. What the encoder learns
#
# `pretrain` teaches encoder and phoneme head to say which phonemes were spoken, by CTC. This notebook looks into the run
# that you have: what the head gives out, frame by frame; how spiky that is; how the representation settles while
# training; and how far the later stages move it.

# %%
from IPython.display import HTML
from matplotlib import pyplot

from kit import viewing
from kit.evaluation.listening import hear
from kit.model.encoder import Chunk
from kit.model.export import load_export

viewing.style()
config = viewing.configuration("stage=pretrain")
data = viewing.data_of(config)
run = viewing.newest(config, "pretrain")
recognizer = load_export(run.export, viewing.HEAD)
inventory = recognizer.inventory

# %% [markdown]
# ## Phonemes over time
#
# The rows are the symbols with the most probability in this utterance, in the order in which they come. CTC wants the
# string, not the times: a symbol may light up for a single frame, and the blank (not drawn) takes the rest.

# %%
heard = list(hear(recognizer, data.probe(24)))
one = sorted(heard, key=lambda listened: len(listened.phonemes))[len(heard) // 2]
symbols = viewing.busiest(one.log_probs, 16)
figure, (upper, lower) = pyplot.subplots(2, 1, figsize=(9, 4.6), height_ratios=(3, 1), sharex=True)
seconds = len(one.log_probs) * 0.04
upper.imshow(one.log_probs[:, symbols].exp().T, extent=(0, seconds, len(symbols), 0), vmin=0, vmax=1)
upper.set_yticks([place + 0.5 for place in range(len(symbols))], inventory.decode(symbols), fontsize=8)
upper.set(title=f"{one.cut.id}: probability of a phoneme")
places = [frame * 0.04 for frame in range(len(one.log_probs))]
lower.plot(places, one.log_probs[:, 0].exp(), color="0.5")
lower.set(xlabel="seconds", ylabel="blank", ylim=(0, 1.05))
print("said: ", one.text)
print("as:   ", " ".join(inventory.decode(one.phonemes)))

# %% [markdown]
# ## How spiky?
#
# *Blank* is the share of frames in which the blank is likeliest, *sure* the share in which the likeliest symbol has more
# than 0.9, *width* how many frames a symbol lasts. A head that is sure of blanks leaves little for later stages to read;
# CR-CTC is said to flatten the spikes (`stage.loss.consistency`, study `cr_ctc`). Streaming sees less of the future:
# the same utterances under 640 ms chunks stand beside.

# %%
streamed = list(hear(recognizer, data.probe(24), Chunk(16, 4)))
rows = []
for way, listened in {"whole": heard, "640 ms": streamed}.items():
    found = [viewing.spikes(each.log_probs) for each in listened]
    shares = [sum(getattr(each, name) for each in found) / len(found) for name in ("blank", "sure", "width")]
    rows.append([way, *shares])
HTML(viewing.table(["heard", "blank", "sure", "width in frames"], rows))

# %% [markdown]
# ## How training went
#
# The CTC loss falls, and the encoder changes less and less from look to look. What is compared is the *representation*:
# linear CKA between the frames that the encoder makes of the same dev utterances now and at the last reference. 1 means the
# same up to rotation and scale. Below 0.975 the encoder is published for the stages that follow, and becomes the reference.

# %%
figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 2.8))
left.plot(*viewing.curve(run, "train/ctc"))
left.set(title="CTC loss of training", xlabel="step", ylabel="nats a phoneme", ylim=(0, None))
steps, values = viewing.curve(run, "cka")
right.plot(steps, values, ".-")
right.axhline(config.stage.callbacks.watch.threshold, color="0.6", linestyle="--", linewidth=1)
right.set(title="CKA to the reference", xlabel="step")

# %% [markdown]
# The published encoders compared with each other. Neighbors are alike, and the last ones are nearly the same: from there
# on pre-training only polishes, so an adaptor that learned on an earlier encoder can go over to the next one. That is what
# IA-SFT relies on.

# %%
folders = viewing.encoders(run)
matrix = viewing.cka_matrix(folders, data.probe(12))
figure, axes = pyplot.subplots(figsize=(1.5 + 0.6 * len(folders), 1 + 0.5 * len(folders)))
picture = axes.imshow(matrix, vmin=float(matrix.min()), vmax=1, cmap="viridis")
axes.set_xticks(range(len(folders)), folders, rotation=45, ha="right")
axes.set_yticks(range(len(folders)), folders)
axes.set(title="linear CKA between encoders, by step")
for row, line in enumerate(matrix):
    for column, value in enumerate(line):
        color = "k" if value > 0.3 * matrix.min() + 0.7 else "w"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=7)

# %% [markdown]
# ## Drift: with IA-SFT, and without
#
# When everything is trained together (`sft`), gradients from the language model reach the encoder and move it away from
# what pre-training made of it. `dev/drift` is CKA to that encoder: 1 is no drift. IA-SFT aligns the language model to the
# encoder first, without gradients into it, so that less is left to move. Drawn are all runs of `sft` here whose encoder comes
# from the pre-training above. `make run` leaves one, after IA-SFT; the other comes of an adaptor aligned to the same encoder,
# and joint SFT straight away:
#
# ```
# python -m kit fit stage=align stage.snapshot=null
# python -m kit fit stage=sft stage.after=align upstream=runs/default/align/RUN
# ```
#
# `python -m kit study name=ia_sft` trains both with three seeds, and the same number of steps.

# %%
figure, axes = pyplot.subplots(figsize=(9, 2.8))
kinds = {"ia_sft": ("after IA-SFT", "C0"), "align": ("without (joint SFT)", "C1")}
for began, each in viewing.tuned(config, "sft", run):
    label, color = kinds.get(began, (f"after {began}", "0.5"))
    known = label in axes.get_legend_handles_labels()[1]
    axes.plot(*viewing.curve(each, "dev/drift"), ".-", color=color, label=None if known else label)
axes.set(title="CKA to the encoder of pre-training, over sft", xlabel="step")
if axes.lines:
    axes.legend()
else:
    print("no run of sft comes from this pre-training yet; train one: make run")

# %% [markdown]
# **Next:** [the same encoder in a stream](03_streaming.ipynb).
