"""Bytes and launches: memory, compilation and the ways a kernel is run. Knows no tensor."""
