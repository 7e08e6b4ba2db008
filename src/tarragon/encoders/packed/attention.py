"""Attention within each text of a packed batch.

On CUDA in half precision one call of torch's variable-length attention. Elsewhere one call for each run of neighbours
of equal length; batches are sorted by length, so that runs are long where texts are short, and a call costs little
beside the arithmetic of a long text.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from tarragon.encoders.packed.layout import Packed, Run

BLOCK = 256
"""Tokens whose window is looked at together: the mask of a block is small, and what is outside costs nothing."""


class Reach(NamedTuple):
    """How many tokens before and after itself a token sees; -1: all."""

    before: int = -1
    after: int = -1


EVERYTHING = Reach()
CAUSAL = Reach(-1, 0)


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, reach: Reach = EVERYTHING
) -> torch.Tensor:
    """Scaled dot-product attention, shape ``(tokens, heads × dimensions)``.

    Args:
        query: Shape ``(tokens, heads, dimensions)``.
        key: The same, or with fewer heads, each of which serves several neighbouring ones of the query.
        value: As the key.
        packed: Which tokens are a text.
        reach: What a token sees of its text.
    """
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _variable_length(query, key, value, packed, reach).flatten(1)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    runs = [
        _within(*(run.view(part).transpose(1, 2) for part in (query, key, value)), run=run, reach=reach)
        for run in packed.runs()
    ]
    flat = [states.transpose(1, 2).flatten(0, 1).flatten(1) for states in runs]
    return flat[0] if len(flat) == 1 else torch.cat(flat)


def _variable_length(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packed: Packed, reach: Reach
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    offsets, longest = packed.offsets, packed.longest
    grouped: dict[str, Any] = (
        {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
    )  # earlier torch does not know it
    made = varlen_attn(query, key, value, offsets, offsets, longest, longest, window_size=reach, **grouped)
    assert isinstance(made, torch.Tensor)  # the sums of exponentials are not asked for
    return made


def _within(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, run: Run, reach: Reach) -> torch.Tensor:
    """Of one run, shape ``(texts, heads, length, dimensions)``."""
    sees_back = reach.before < 0 or reach.before >= run.length - 1
    sees_on = reach.after < 0 or reach.after >= run.length - 1
    if sees_back and (sees_on or reach.after == 0):
        return scaled_dot_product_attention(query, key, value, is_causal=not sees_on)
    blocks = []
    for start in range(0, run.length, BLOCK):
        end = min(start + BLOCK, run.length)
        first = 0 if reach.before < 0 else max(0, start - reach.before)
        last = run.length if reach.after < 0 else min(run.length, end + reach.after)
        seen = _mask(range(start, end), range(first, last), reach, query.device)
        part = query[:, :, start:end], key[:, :, first:last], value[:, :, first:last]
        blocks.append(scaled_dot_product_attention(*part, attn_mask=seen))
    return torch.cat(blocks, dim=2)


def _mask(queries: range, keys: range, reach: Reach, device: torch.device) -> torch.Tensor:
    """True where a token of ``queries`` sees one of ``keys``."""
    ahead = torch.arange(keys.start, keys.stop, device=device) - torch.arange(
        queries.start, queries.stop, device=device
    ).unsqueeze(1)
    seen = torch.ones_like(ahead, dtype=torch.bool)
    if reach.before >= 0:
        seen &= ahead >= -reach.before
    if reach.after >= 0:
        seen &= ahead <= reach.after
    return seen
