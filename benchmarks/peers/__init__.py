"""One module a peer. What a peer measures is imported by its clients only: whoever lists the peers imports none."""
