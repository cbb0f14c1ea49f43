"""Reinforcement learning: rollout, rewards and the objective of the stage `rl`."""
