"""Hotwords: names by their sound, in lists of any size, found in what is heard."""
