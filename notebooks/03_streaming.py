# %% [markdown]
# # 3. Streaming, chunk by chunk
#
# A stream is heard 640 ms at a time. Each chunk goes through encoder, phoneme head and adaptor once; its speech embeddings
# are put into the language model's cache, and the text is written anew behind them. This notebook looks at a session after
# every chunk: what is settled and what may still change, what is kept in memory, and where the time goes.

# %%
from IPython.display import HTML
from matplotlib import pyplot

from kit import viewing
from kit.decoding.engine import Engine
from kit.model.export import load_export
from kit.progress import track

viewing.style()
config = viewing.configuration("decoding=streaming")
data = viewing.data_of(config)
run = viewing.newest(config, "rl", "context_sft", "sft", "ia_sft")
engine = Engine(load_export(run.export), config.decoding)
print(f"stage {run.stage}, chunks of {engine.chunk.frames} frames of 40 ms, {engine.chunk.left} earlier ones visible")

# %% [markdown]
# ## What is told, and when
#
# Bold is settled: it will not change until the end of speech. The rest is provisional. Text is told only as far as the
# phonemes heard so far reach (`decoding.callbacks.trim`), because a language model that was trained on whole sentences
# likes to finish them. The last row is the final text: there the whole utterance was decoded once more by beam search, if
# the phoneme head doubted the greedy text.

# %%
cuts = sorted(data.cuts("test"), key=lambda cut: -cut.duration)
cut = cuts[len(cuts) // 8]
steps = viewing.chunk_by_chunk(engine, data.samples(cut))
rows = [[f"{step.second:.2f}", step.phonemes, step.settled, step.provisional] for step in steps]
HTML(
    viewing.player(data.samples(cut), cut.supervisions[0].text)
    + viewing.table(["second", "phonemes", "settled", "provisional"], rows)
)

# %% [markdown]
# ## What is kept
#
# The encoder's cache is a ring of keys and values a layer, and what the convolution saw last: it never grows, however long the
# stream. The language model's cache grows by a token for each 160 ms of speech, and is cut back to the prompt when the
# utterance ends.

# %%
figure, axes = pyplot.subplots(figsize=(9, 2.4))
seconds = [step.second for step in steps]
axes.step(seconds, [step.encoder / 1024 for step in steps], where="post", label="encoder")
axes.step(seconds, [step.llm / 1024 for step in steps], where="post", label="language model")
axes.set(xlabel="second of the stream", ylabel="KiB", ylim=(0, None), title="caches of one stream")
axes.legend()

# %% [markdown]
# ## Where the time goes
#
# Seconds of computing, by part, for each chunk of this utterance. *prefill* is the reading of new speech and of the prompt's end,
# *decode* writes the text; *final* is all that is done once the utterance has ended. The line is real time: a chunk that
# stays below it keeps up.

# %%
parts = list(dict.fromkeys(part for step in steps for part in step.seconds))
figure, axes = pyplot.subplots(figsize=(9, 3.2))
bottom = [0.0] * len(steps)
for place, part in enumerate(parts):
    heights = [1000 * step.seconds.get(part, 0.0) for step in steps]
    axes.bar(range(len(steps)), heights, bottom=bottom, label=part, color=pyplot.get_cmap("tab10")(place))
    bottom = [one + other for one, other in zip(bottom, heights, strict=True)]
axes.axhline(40 * engine.chunk.frames, color="0.4", linewidth=1, linestyle="--")
axes.set(xlabel="chunk (the last one: the end)", ylabel="ms of computing")
axes.legend(ncols=4, fontsize=8)

# %% [markdown]
# ## How much changes?
#
# Of all words told while utterances of the test part were under way, how many stood at their place in the final text? And how
# long does a text stay provisional? Fewer changes cost time: `decoding.stable` says how many chunks must agree before a word
# is settled (docs/results.md has the latencies of `python -m kit evaluate decoding=streaming`).

# %%
told, kept = [], []
for one in track(cuts[:: max(1, len(cuts) // 8)][:8], "streams"):
    seen = viewing.chunk_by_chunk(engine, data.samples(one))
    final = seen[-1].final or ""
    for step in seen[:-1]:
        text = step.settled + step.provisional
        told.append(len(text))
        kept.append(sum(a == b for a, b in zip(text, final, strict=False)))
share = 100 * sum(kept) / max(1, sum(told))
print(f"of {sum(told)} characters told on the way, {share:.1f} % stood at their place in the end")

# %% [markdown]
# **Next:** [names that nobody trained on](04_hotwords.ipynb).
