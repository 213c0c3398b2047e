"""The examples with a window, in Tk and Qt, on displays that nobody sees. Run by `make test-gui`."""
