"""The same work done by mapsto and by its peers, in one run, as a ratio: `python -m benchmarks`."""
