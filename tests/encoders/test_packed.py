"""The packed forward against transformers' own, layer by layer, on random weights and ids."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    ModernBertForSequenceClassification,
    ModernBertModel,
    Qwen3Config,
    Qwen3ForSequenceClassification,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from tarragon.encoders.packed import pack, packed_classifier, packed_masked_lm, packed_model
from tarragon.encoders.packed.attention import BLOCK, CAUSAL, EVERYTHING, Reach, attend
from tarragon.encoders.packed.graphs import Graphs, filled, room_for
from tarragon.encoders.packed.library import agree, agree_on_scores, is_same

WORDS, HIDDEN, PADDING = 90, 48, 1
SHAPE = {"hidden_size": HIDDEN, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": WORDS}
LENGTHS = (37, 21, 21, 21, 9, 2, 1)


def bert(**settings):
    return BertConfig(**SHAPE, intermediate_size=96, max_position_embeddings=64, type_vocab_size=2, **settings)


def xlm_r(**settings):
    return XLMRobertaConfig(
        **SHAPE, intermediate_size=96, max_position_embeddings=64, type_vocab_size=1, pad_token_id=PADDING, **settings
    )


def modernbert(**settings):
    return ModernBertConfig(
        **SHAPE,
        intermediate_size=72,
        max_position_embeddings=64,
        local_attention=8,
        global_attn_every_n_layers=2,
        pad_token_id=PADDING,
        bos_token_id=2,
        eos_token_id=3,
        cls_token_id=2,
        sep_token_id=3,
        **settings,
    )


def qwen3(**settings):
    return Qwen3Config(
        **SHAPE,
        intermediate_size=72,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=64,
        pad_token_id=PADDING,
        bos_token_id=2,
        eos_token_id=3,
        **settings,
    )


FAMILIES = {
    "bert": (BertModel, bert),
    "bert, another activation": (BertModel, lambda: bert(hidden_act="gelu_new")),
    "xlm-r": (XLMRobertaModel, xlm_r),
    "modernbert": (ModernBertModel, modernbert),
    "modernbert with biases": (ModernBertModel, lambda: modernbert(attention_bias=True, mlp_bias=True, norm_bias=True)),
    "qwen3": (Qwen3Model, qwen3),
    "qwen3 with windows": (
        Qwen3Model,
        lambda: qwen3(use_sliding_window=True, sliding_window=6, max_window_layers=1, attention_bias=True),
    ),
}


def made(model, config, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    instance = model(config).to(dtype).eval()
    with torch.no_grad():  # biases begin at 0 and norms at 1, where mistakes would not show
        for parameter in instance.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return instance


def random_rows(seed=0, lengths=LENGTHS, low=PADDING + 1):
    rng = np.random.default_rng(seed)
    return [rng.integers(low, WORDS, length).astype(np.int32) for length in lengths]


def padded(rows, *, left=False):
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), PADDING)
    mask = torch.zeros_like(ids)
    for row, values in enumerate(rows):
        place = slice(width - len(values), width) if left else slice(0, len(values))
        ids[row, place] = torch.from_numpy(values).long()
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


def reference_states(model, rows):
    """Of every layer, each without the padding, shape ``(tokens, hidden)``."""
    features = padded(rows)
    with torch.inference_mode():
        states = model(**features, output_hidden_states=True).hidden_states
    return [layer[features["attention_mask"].bool()] for layer in states]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_states_are_those_of_the_reference(family):
    kind, config = FAMILIES[family]
    model, rows = made(kind, config()), random_rows()
    packed = packed_model(model)
    assert packed is not None
    with torch.inference_mode():
        states = packed(pack(rows, "cpu"))
    torch.testing.assert_close(states, reference_states(model, rows)[-1], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", ["bert", "xlm-r"])
def test_every_layer_is_that_of_the_reference(family):
    kind, config = FAMILIES[family]
    model, rows = made(kind, config()), random_rows(1)
    forward, batch = packed_model(model), pack(rows, "cpu")
    expected = reference_states(model, rows)
    with torch.inference_mode():
        states = forward.embed(batch)
        torch.testing.assert_close(states, expected[0], rtol=1e-4, atol=1e-5)
        for number, layer in enumerate(forward.layers, start=1):
            states = layer(expected[number - 1].clone(), batch)
            torch.testing.assert_close(states, expected[number], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["modernbert", "qwen3 with windows"])
def test_every_layer_of_those_with_rotary_positions(family):
    kind, config = FAMILIES[family]
    rows = random_rows(2)
    for layers in (1, 2, 3):
        settings = config()
        settings.num_hidden_layers = layers
        settings.layer_types = settings.layer_types[:layers]
        model = made(kind, settings)
        with torch.inference_mode():
            states = packed_model(model)(pack(rows, "cpu"))
        torch.testing.assert_close(states, reference_states(model, rows)[-1], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_stays_near(family):
    kind, config = FAMILIES[family]
    model, rows = made(kind, config(), dtype=torch.bfloat16), random_rows()
    with torch.inference_mode():
        states = packed_model(model)(pack(rows, "cpu")).float()
    expected = reference_states(made(kind, config()), rows)[-1]
    assert torch.nn.functional.cosine_similarity(states, expected, dim=1).min() >= 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_is_the_same_in_any_batch(family):
    kind, config = FAMILIES[family]
    forward = packed_model(made(kind, config()))
    rows = random_rows()
    with torch.inference_mode():
        together = forward(pack(rows, "cpu")).split([len(row) for row in rows])
        for row, states in zip(rows, together, strict=True):
            torch.testing.assert_close(forward(pack([row], "cpu")), states, rtol=1e-4, atol=2e-5)


def test_the_second_text_of_a_pair_has_its_own_type():
    model, rows = made(BertModel, bert()), random_rows()
    types = [(np.arange(len(row)) > len(row) // 2).astype(np.int32) for row in rows]
    features = padded(rows)
    wide = torch.zeros_like(features["input_ids"])
    wide[features["attention_mask"].bool()] = torch.from_numpy(np.concatenate(types)).long()
    with torch.inference_mode():
        expected = model(**features, token_type_ids=wide).last_hidden_state[features["attention_mask"].bool()]
        states = packed_model(model)(pack(rows, "cpu", types))
        without = packed_model(model)(pack(rows, "cpu"))
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=2e-5)
    assert not torch.allclose(states, without, atol=1e-3)


def test_the_paddings_own_token_in_a_text_has_the_paddings_position():
    model = made(XLMRobertaModel, xlm_r())
    rows = [np.array([5, PADDING, 6, 7, PADDING, 8], dtype=np.int32), np.array([9, 4], dtype=np.int32)]
    with torch.inference_mode():
        states = packed_model(model)(pack(rows, "cpu"))
    torch.testing.assert_close(states, reference_states(model, rows)[-1], rtol=1e-4, atol=2e-5)


def scored(model, rows):
    transformer, head = packed_classifier(model)
    batch = pack(rows, "cpu")
    return head(transformer(batch), batch)


# --- heads ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (BertForSequenceClassification, bert(num_labels=1)),
        (XLMRobertaForSequenceClassification, xlm_r(num_labels=1)),
        (ModernBertForSequenceClassification, modernbert(num_labels=1, classifier_pooling="cls")),
        (ModernBertForSequenceClassification, modernbert(num_labels=2, classifier_pooling="mean")),
        (Qwen3ForSequenceClassification, qwen3(num_labels=1)),
    ],
)
def test_scores_are_those_of_the_reference(kind, config):
    model, rows = made(kind, config), random_rows()
    with torch.inference_mode():
        scores = scored(model, rows)
        expected = model(**padded(rows)).logits
    assert scores.shape == (len(rows), config.num_labels)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_the_last_token_that_is_not_the_paddings_scores():
    model = made(Qwen3ForSequenceClassification, qwen3(num_labels=1))
    rows = [np.array([5, 6, PADDING, 7, PADDING], dtype=np.int32), np.array([9, 8], dtype=np.int32)]
    with torch.inference_mode():
        scores = scored(model, rows)
        expected = model(**padded(rows)).logits
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "config"),
    [(BertForMaskedLM, bert()), (XLMRobertaForMaskedLM, xlm_r()), (ModernBertForMaskedLM, modernbert())],
)
def test_the_vocabulary_is_weighed_as_by_the_reference(kind, config):
    model, rows = made(kind, config), random_rows()
    forward, head = packed_masked_lm(model)
    features = padded(rows)
    with torch.inference_mode():
        logits = head(forward(pack(rows, "cpu")))
        expected = model(**features).logits[features["attention_mask"].bool()]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=5e-5)


# --- attention --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "reach", [EVERYTHING, CAUSAL, Reach(3, 3), Reach(5, 0), Reach(0, 2), Reach(2, -1), Reach(BLOCK, BLOCK)]
)
@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_attention_is_the_formula(reach, key_heads):
    torch.manual_seed(0)
    rows = random_rows(lengths=(2 * BLOCK + 40, 7, 7, 1))
    packed = pack(rows, "cpu")
    tokens = sum(map(len, rows))
    query = torch.randn(tokens, 4, 8, dtype=torch.float64)
    key, value = (torch.randn(tokens, key_heads, 8, dtype=torch.float64) for _ in range(2))
    expected, start = [], 0
    for row in rows:
        part = slice(start, start + len(row))
        start += len(row)
        wide = [side[part].repeat_interleave(4 // key_heads, dim=1).transpose(0, 1) for side in (key, value)]
        scores = query[part].transpose(0, 1) @ wide[0].transpose(1, 2) / 8**0.5
        ahead = torch.arange(len(row)) - torch.arange(len(row)).unsqueeze(1)
        hidden = (ahead < -reach.before) & (reach.before >= 0) | (ahead > reach.after) & (reach.after >= 0)
        expected.append((scores.masked_fill(hidden, -torch.inf).softmax(-1) @ wide[1]).transpose(0, 1).flatten(1))
    torch.testing.assert_close(attend(query, key, value, packed, reach), torch.cat(expected))


# --- layout -----------------------------------------------------------------------------------------------------------
def test_what_is_packed_can_be_told_apart():
    rows = random_rows()
    packed = pack(rows, "cpu", [row % 2 for row in rows])
    flat = np.concatenate(rows)
    assert packed.ids.numpy().tolist() == flat.tolist()
    assert packed.types.numpy().tolist() == (flat % 2).tolist()
    assert packed.positions.tolist() == [place for row in rows for place in range(len(row))]
    assert packed.segments.tolist() == [text for text, row in enumerate(rows) for _ in row]
    assert [(run.start, run.texts, run.length) for run in packed.runs()] == [
        (0, 1, 37), (37, 3, 21), (100, 1, 9), (109, 1, 2), (111, 1, 1),
    ]  # fmt: skip
    states = torch.arange(len(flat), dtype=torch.float32).unsqueeze(1)
    places = np.split(np.arange(len(flat)), np.cumsum(LENGTHS)[:-1])
    assert packed.first(states).flatten().tolist() == [part[0] for part in places]
    assert packed.last(states).flatten().tolist() == [part[-1] for part in places]
    assert packed.mean(states).flatten().tolist() == [part.mean() for part in places]


# --- sizes that are recorded as graphs --------------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lengths", [LENGTHS, (16,), (5, 3), (1,) * 9, (60, 60, 60, 1, 60, 60)])
def test_what_fills_a_batch_changes_nothing_in_it(family, lengths):
    kind, config = FAMILIES[family]
    forward = packed_model(made(kind, config()))
    batch = pack(random_rows(lengths=lengths), "cpu")
    room = room_for(batch)
    full = filled(batch, room)
    assert len(full.ids) == sum(full.lengths) == int(full.offsets[-1]) == room.tokens
    assert len(full.offsets) == len(full.lengths) + 1 == room.places + 1
    assert full.offsets.diff().tolist() == list(full.lengths)
    with torch.inference_mode():
        states, alone = forward(full)[: len(batch.ids)], forward(batch)
    torch.testing.assert_close(states, alone, rtol=1e-4, atol=2e-5)


def test_a_batch_too_large_for_any_graph_is_not_filled():
    assert room_for(pack(random_rows(lengths=(8_193,)), "cpu")) is None
    assert room_for(pack(random_rows(lengths=(1,) * 129), "cpu")) is None
    assert room_for(pack(random_rows(lengths=(8_192,)), "cpu")) == (8_192, 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_replayed_graph_gives_the_models_own_states(family):
    kind, config = FAMILIES[family]
    forward = packed_model(made(kind, config(), dtype=torch.bfloat16).cuda())
    graphs = Graphs(forward)
    with torch.inference_mode():
        for seed, lengths in enumerate([(20, 9), (11, 11, 7), (29,), (20, 9)]):
            batch = pack(random_rows(seed, lengths), "cuda")
            torch.testing.assert_close(graphs(batch), forward(batch), rtol=2e-2, atol=2e-2)
    assert graphs._works


# --- what is not packed -----------------------------------------------------------------------------------------------
def test_another_family_is_not_packed():
    config = DistilBertConfig(vocab_size=WORDS, dim=HIDDEN, n_heads=4, n_layers=1, hidden_dim=64)
    assert packed_model(DistilBertModel(config)) is None


def test_an_adapter_is_not_overlooked():
    class Adapter(nn.Linear):
        pass

    model = made(BertModel, bert())
    model.encoder.layer[1].attention.self.query = Adapter(HIDDEN, HIDDEN)
    assert packed_model(model) is None


def test_positions_that_stretch_with_the_batch_are_not_packed():
    config = modernbert()
    for parameters in config.rope_parameters.values():
        parameters.update(rope_type="dynamic", factor=2.0)
    assert packed_model(ModernBertModel(config)) is None


# --- what is the same -------------------------------------------------------------------------------------------------
def test_rows_and_scores_that_differ_are_told_from_those_that_are_the_same():
    torch.manual_seed(0)
    rows = torch.randn(5, 48)
    assert agree(rows + 1e-6, rows)
    assert not agree(rows * 1.01, rows)
    assert not agree(rows[:4], rows)
    wrong = rows.clone()
    wrong[3, 7] += 0.1
    assert not agree(wrong, rows)
    scores = torch.full((32, 1), -11.0)
    assert agree_on_scores(scores + 1e-4, scores)
    one = scores.clone()
    one[5] += 0.1
    assert not agree_on_scores(one, scores)
    assert not agree_on_scores(scores * torch.nan, scores)
    assert not is_same(lambda: torch.ones(2, 0)[3], lambda: rows), "what cannot run is not the same"


def test_a_decoder_is_not_packed():
    assert packed_model(made(BertModel, bert(is_decoder=True))) is None
