"""Tests in the places where the library is run: WSGI servers, gevent. Run by `make test-places`; see `places.py`."""
