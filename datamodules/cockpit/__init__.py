"""The embedded default corpus: bilingual in-car commands, spoken by eSpeak NG from grammars and lists of names."""

from datamodules.cockpit.corpus import build, recipe

__all__ = ["build", "recipe"]
