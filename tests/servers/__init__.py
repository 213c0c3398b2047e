"""Tests against real servers, which they start themselves. Run by `make test-servers`; see `farm.py`."""
