"""Transformers run on texts that lie end to end, without padding, with the weights that transformers has loaded.

The libraries pad a batch to its longest text; sentence-transformers cannot do otherwise for a cross-encoder. Here a
batch is one row of tokens (`layout`): what looks at one token at a time runs over the row, and attention within each
text (`attention`). One file a family: `bert` (BERT, RoBERTa, XLM-R, CamemBERT), `modernbert`, `qwen3`; `heads` for
rerankers and learned sparse vectors. Any other model, and one of these with something unknown in it, runs its own
forward: `packed_model` gives None.

On the CPU in single precision the weights are laid out once for oneDNN (`linear`): on an AMD EPYC with AVX-512 it
multiplies 2.3 times as fast as the library that torch asks by default (475 against 205 GFLOP/s on two cores).
"""

from tarragon.encoders.packed.choosing import Forward, packed_classifier, packed_masked_lm, packed_model
from tarragon.encoders.packed.layout import Packed, pack

__all__ = ["Forward", "Packed", "pack", "packed_classifier", "packed_masked_lm", "packed_model"]
