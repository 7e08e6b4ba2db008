"""Speed, measured beside a peer in the same run. See ``benchmarks/README.md``."""
