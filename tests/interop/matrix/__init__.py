"""The interop runner's table between network namespaces: `python -m interop.matrix`, or `make interop`."""
