"""Which models were trained to be cut, and what the cut keeps: with training, with a turn, with neither."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tarragon.contract import Prefix
from tarragon.encoders.matryoshka import trained_lengths
from tarragon.protocols import DenseEncoder, EncoderInput
from tarragon.sides import shorten
from tarragon.statistics import fit
from tarragon.types import FloatArray


@pytest.mark.parametrize(
    ("name", "lengths"),
    [
        ("nomic-ai/nomic-embed-text-v1.5", (64, 128, 256, 512)),
        ("/models/nomic-ai--modernbert-embed-base", (256,)),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", (256,)),
        ("openai:text-embedding-3-small", (256, 512)),
        ("Qwen/Qwen3-Embedding-0.6B", (64, 128, 256, 512)),
        ("static:minishlab/static-retrieval-mrl-en-v1", (64, 128, 256, 512)),
        ("all-MiniLM-L6-v2", ()),
        ("nomic-ai/nomic-embed-text-v1", ()),
        ("Snowflake/snowflake-arctic-embed-m", ()),
        ("text-embedding-ada-002", ()),
        ("", ()),
    ],
)
def test_lengths_are_known_by_name(name: str, lengths: tuple[int, ...]) -> None:
    assert trained_lengths(name) == lengths


def recall(vectors: FloatArray, queries: FloatArray, length: int, candidates: int, *, turned: bool) -> float:
    """Share of the true ten nearest among the first candidates of the short vectors."""
    axes = fit(vectors, length).axes if turned else None
    prefix = Prefix("", length, "", True, 1.0, 0.0, 0)
    short, asked = shorten(vectors, prefix, axes), shorten(queries, prefix, axes)
    truth = np.argsort(-queries @ vectors.T, axis=1)[:, :10]
    found = np.argsort(-asked @ short.T, axis=1)[:, :candidates]
    return float(np.mean([len(np.intersect1d(one, other)) / 10 for one, other in zip(truth, found, strict=True)]))


WORDS = {
    "who": ["the engineer on call", "a new customer", "the storage team", "every reader", "an old client"],
    "does": ["rotates", "restores", "copies", "reads", "loses"],
    "what": ["the signing key", "a backup of the database", "the invoice", "her travel booking", "a recipe for bread"],
    "when": ["at night", "within ten minutes", "once a year"],
}


def test_turned_onto_principal_axes_a_real_model_keeps_more(encoder: DenseEncoder) -> None:
    """MiniLM was not trained to be cut: a twelfth of its numbers, with and without a turn."""
    who, does, what, when = WORDS.values()
    texts = [f"{a} {b} {c} {d}" for a in who for b in does for c in what for d in when][::2]
    vectors = encoder.encode_documents([EncoderInput(text) for text in texts]).vectors
    queries = encoder.encode_queries([f"{b} {c} {d}" for b in does for c in what for d in when][::3]).vectors
    plain = recall(vectors, queries, 32, 20, turned=False)
    turned = recall(vectors, queries, 32, 20, turned=True)
    assert turned > plain + 0.05
    assert turned > 0.9
    assert recall(vectors, queries, 384, 10, turned=True) == 1.0, "a turn of all numbers changes nothing"


def trained(lengths: tuple[int, ...]) -> tuple[FloatArray, FloatArray]:
    """Vectors of 400 documents and 100 queries by a linear layer that has learned which belong together.

    The loss is that of multiple negatives, summed over the lengths to which the vectors are cut: Kusupati et al.,
    "Matryoshka Representation Learning", NeurIPS 2022. Both are noisy views of the same 24 numbers.
    """
    torch.manual_seed(0)
    meaning = torch.randn(2_000, 24)
    views = [meaning @ torch.randn(24, 48) + 1.5 * torch.randn(2_000, 48) for _ in range(2)]
    layers = [torch.nn.Linear(48, 32, bias=False) for _ in range(2)]
    optimizer = torch.optim.Adam([weight for layer in layers for weight in layer.parameters()], lr=5e-3)
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # steps this small are no faster with two, and much slower beside other work
    try:
        for step in range(300):
            rows = torch.arange(64) + 64 * (step % 25)
            asked, found = (layer(view[rows]) for layer, view in zip(layers, views, strict=True))
            loss = torch.zeros(())
            for length in lengths:
                one, other = (torch.nn.functional.normalize(part[:, :length], dim=1) for part in (asked, found))
                loss = loss + torch.nn.functional.cross_entropy(10 * one @ other.T, torch.arange(64))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    finally:
        torch.set_num_threads(before)
    asked, found = (
        torch.nn.functional.normalize(layer(view[1_600:]), dim=1) for layer, view in zip(layers, views, strict=True)
    )
    return found.detach().numpy(), asked[:100].detach().numpy()


def test_a_model_trained_to_be_cut_keeps_more_when_it_is_cut() -> None:
    """The same data, layer, seed and steps; only the loss has more lengths than the whole."""
    nested, whole = trained((4, 8, 32)), trained((32,))
    for length in (4, 8):
        kept = recall(*nested, length, 40, turned=False)
        assert kept > recall(*whole, length, 40, turned=False) + 0.05
    assert recall(*whole, 8, 40, turned=True) > recall(*whole, 8, 40, turned=False) + 0.05, "a turn mends some of it"
