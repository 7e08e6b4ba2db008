"""Rerankers: what reads a question and a passage together. One library a file, loaded when it is used."""

from tarragon.rerankers.loading import load_reranker

__all__ = ["load_reranker"]
