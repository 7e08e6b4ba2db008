"""Offline evaluation: measure a retriever on your own questions, compare set-ups, gate a release.

Everything is there by its module; `golden`, `running`, `metrics` and `contrast` are where to begin. Nothing here is
loaded by ``import tarragon``.
"""
