# %% [markdown]
# # 5. Kernels: what a chunk sees, and what it costs
#
# A streaming encoder may not look at the whole utterance: each frame sees its own chunk and some chunks before it. That is a
# mask of blocks. Who computes all pairs and throws most of them away pays for the whole square; the kernels here compute
# the band only.

# %%
import csv
from pathlib import Path

import torch
from IPython.display import HTML
from matplotlib import pyplot

from kernels.benchmark import run, suite, write
from kernels.chunk_attention import chunk_attention, chunk_mask
from kernels.chunk_attention.reference import chunk_attention_reference
from kernels.chunk_attention.tiles import layout
from kit import viewing

viewing.style()
config = viewing.configuration()

# %% [markdown]
# ## The mask
#
# Dark: what a query (row) sees. Chunks of 16 frames (640 ms) with 4 chunks before them, as `decoding=streaming` has it;
# training draws both by chance (`stage.chunks=dynamic`), so that one encoder serves all latencies.

# %%
figure, axes = pyplot.subplots(1, 3, figsize=(9, 3))
lengths = torch.tensor([120])
for panel, (chunk, left) in zip(axes, ((16, 4), (16, -1), (8, 2)), strict=True):
    mask = chunk_mask(120, 120, lengths, chunk, left)[0]
    panel.imshow(mask, cmap="Blues", vmin=-0.3, vmax=1.6, aspect="equal")
    before = "all" if left < 0 else left
    panel.set(title=f"chunk {chunk}, {before} before: {100 * mask.float().mean():.0f} %", xlabel="key", ylabel="query")

# %% [markdown]
# ## The tiles
#
# The CPU path cuts the queries into blocks of whole chunks and gives each block its window of keys: a batch of small dense
# products, each of the same shape. Time and memory grow with the length, not with its square. The same numbers come out as by the
# definition:

# %%
torch.manual_seed(0)
shape = (1, 120, 4, 36)
q, k, v = (torch.randn(shape) for _ in range(3))
table, u, w = torch.randn(5 * 16 + 15, 4, 36), torch.randn(4, 36), torch.randn(4, 36)
fast = chunk_attention(q, k, v, table, u, w, lengths, chunk=16, left=4, far=5 * 16 - 1)
slow = chunk_attention_reference(*(x.double() for x in (q, k, v, table, u, w)), lengths, 16, 4, 5 * 16 - 1)
print(f"largest difference from the definition: {float((fast - slow).abs().max()):.1e}")

figure, axes = pyplot.subplots(figsize=(9, 2.4))
sizes = range(100, 3001, 100)
axes.plot([size * 0.04 for size in sizes], [size**2 / 1e6 for size in sizes], color="0.6", label="all pairs")
plans = [layout(size, size, 16, 4) for size in sizes]
tiled = [plan.count * plan.block * plan.window / 1e6 for plan in plans]
axes.plot([size * 0.04 for size in sizes], tiled, label="tiles")
axes.set(xlabel="seconds of audio", ylabel="million scores a head", title="scores that are computed")
axes.legend()

# %% [markdown]
# ## The benchmark
#
# `python -m kit bench chunk_attention` checks every provider against the definition in double, then times them in turns and adds
# rows to `bench/chunk_attention.csv`. If there is such a file it is read here, otherwise a short run makes some rows once (a
# quarter of a second a provider, so only the order of magnitude counts).

# %%
path = Path("bench/chunk_attention.csv")
if not path.exists():
    path = Path(config.cache) / "notebooks" / "chunk_attention.csv"
if not path.exists():
    write(run(suite("chunk_attention"), torch.device("cpu"), 0.25, "forward"), path)
with open(path, encoding="utf-8", newline="") as file:
    rows = [row for row in csv.DictReader(file) if row["ms_50"]]
HTML(
    viewing.table(
        ["case", "provider", "ms", "times as fast as eager", "error"],
        [[row["case"], row["provider"], float(row["ms_50"]), float(row["speedup"]), row["error"][:8]] for row in rows],
    )
)

# %% [markdown]
# ## The roofline
#
# Every case has the bytes and the operations that it cannot do without. Their ratio says what limits it: left of the bend memory,
# right of it arithmetic. The roof drawn here is measured on this machine, now: a copy for the bandwidth, a matrix product for the
# arithmetic. A point far below the roof leaves something on the table: for small cases the calls themselves, for large ones
# the scores that have to pass through memory.

# %%
bandwidth, arithmetic = viewing.measured_roof()
figure, axes = pyplot.subplots(figsize=(9, 4))
reach = torch.logspace(-1, 4, 60)
roof = torch.minimum(reach * bandwidth, torch.tensor(arithmetic)) / 1e9
axes.plot(reach, roof, color="0.4", label=f"roof: {bandwidth / 1e9:.0f} GB/s, {arithmetic / 1e9:.0f} GFLOP/s")
for place, provider in enumerate(dict.fromkeys(row["provider"] for row in rows)):
    chosen = [row for row in rows if row["provider"] == provider]
    intensity = [float(row["gflops"]) / float(row["gbytes"]) for row in chosen]
    speed = [float(row["gflops"]) / float(row["ms_50"]) * 1e3 for row in chosen]
    axes.plot(intensity, speed, "o^sDv"[place % 5], label=provider, alpha=0.8)
axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="GFLOP/s reached")
axes.legend()

# %% [markdown]
# **Next:** [rewards of whole hypotheses](06_rewards.ipynb). docs/benchmarks.md has the tables with commit and machine, GPU included.
