"""The soak: requests of every kind, many at a time, for as long as one likes; nothing is lost, doubled or left behind.

    python -m tests.soak --seconds 120
    python -m tests.soak --requests 200000 --at-once 64 --seed 7

`server` is a process of its own, and writes down every body that came whole. `kinds` are the requests; each says what
the server must have of it. `audit` holds the two against each other when all is over. `meter` samples memory,
descriptors and threads, and says when they grow.
"""
