# %% [markdown]
# # 6. RL: what hypotheses are worth, group by group
#
# Cross-entropy teaches each next token. What counts in the end is the whole text: is it right, is it as long as what was
# said, are the names there? The stage `rl` lets the model write several hypotheses of each utterance by chance, says what
# each is worth, and makes those better than their group likelier (GRPO). Here are such groups, drawn from the model that
# you have, before a step of RL was taken.

# %%
from IPython.display import HTML
from matplotlib import pyplot

from kit import viewing
from kit.rl.rewards import accuracy, hallucination

viewing.style()
config = viewing.configuration("stage=rl", "stage.rewards.acoustic.weight=0.5")
data = viewing.data_of(config)
run = viewing.newest(config, "context_sft", "sft", "ia_sft")
(batch, *_) = data.probe(8)
groups = viewing.groups(config, data, run.export, batch)
print(f"{len(groups)} utterances, {len(groups[0].texts)} hypotheses each, from stage {run.stage}")

# %% [markdown]
# ## The rewards
#
# *accuracy* falls with the character error rate, *hallucination* is -1 for what is much too long or much too short; both need
# the transcript. *context* asks for keywords. *acoustic* is this kit's own and needs no transcript: how well the phoneme head
# explains the audio by the text.

# %%
figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 2.6))
said = "打开天窗然后导航到外滩"
wrong = [said[: len(said) - cut] for cut in range(len(said))]
left.plot([100 * cut / len(said) for cut in range(len(said))], [accuracy(text, said) for text in wrong], ".-")
left.set(title="accuracy: exp(-2 CER)", xlabel="character error rate, %", ylim=(0, 1.05))
sizes = range(0, 3 * len(said))
right.step([size / len(said) for size in sizes], [hallucination("啊" * size, said) for size in sizes], where="post")
right.set(title="hallucination", xlabel="length, times what was said")

# %% [markdown]
# ## One group
#
# The hypotheses of one utterance, the best first. The *advantage* is what moves the model: how much better than the mean
# of its group a hypothesis is, in deviations of the group. A group in which all are worth the same teaches nothing.

# %%
widest = max(range(len(groups)), key=lambda place: max(groups[place].totals) - min(groups[place].totals))
group = groups[widest]
order = sorted(range(len(group.texts)), key=lambda place: -group.totals[place])
names = list(group.rewards)
rows = [
    [group.texts[at], *(group.rewards[name][at] for name in names), group.totals[at], group.advantages[at]]
    for at in order
]
cut = batch.cuts[widest]
HTML(
    viewing.player(data.samples(cut), f"said: {batch.texts[widest]}")
    + viewing.table(["written", *names, "sum", "advantage"], rows)
)

# %% [markdown]
# ## All groups
#
# A dot a hypothesis, a line at the mean of its group. Where the dots of a group lie together, the model is sure, rightly or not.

# %%
figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3))
for place, each in enumerate(groups):
    left.plot([place] * len(each.totals), each.totals, "o", alpha=0.5, color=f"C{place % 10}")
    mean = sum(each.totals) / len(each.totals)
    left.plot([place - 0.3, place + 0.3], [mean, mean], color=f"C{place % 10}")
left.set(title="sum of rewards", xlabel="utterance", xticks=range(len(groups)))
for name in names:
    spread = [max(each.rewards[name]) - min(each.rewards[name]) for each in groups]
    right.plot(spread, ".-", label=name)
right.set(title="largest difference within a group", xlabel="utterance", xticks=range(len(groups)))
right.legend()

# %% [markdown]
# ## Does the acoustic reward know what is right?
#
# It has never seen the transcript. Each dot is a hypothesis: its accuracy against how well the phoneme head explains the audio by it.

# %%
figure, axes = pyplot.subplots(figsize=(9, 2.8))
axes.plot(
    [value for each in groups for value in each.rewards["acoustic"]],
    [value for each in groups for value in each.rewards["accuracy"]],
    "o",
    alpha=0.4,
)
axes.set(xlabel="acoustic", ylabel="accuracy")

# %% [markdown]
# `python -m kit fit stage=rl stage.after=sft` takes the steps; MLflow then has the rewards, how alike hypotheses are, the divergence
# from where it began, and a table of what fixed utterances turn into. **Next:** [something of your own](07_your_own.ipynb).
