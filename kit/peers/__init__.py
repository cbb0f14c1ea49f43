"""Other recognizers, as programs that `python -m kit evaluate system=COMMAND` can ask: `python -m kit.peers.NAME`."""
