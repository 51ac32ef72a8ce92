"""BERT against the plain call of the library it comes from."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import lossrag.models.bert
from lossrag import ConfigError, DataError
from lossrag.models import BERT, ENCODERS, MultiTaskModel, row_lookup

PIECES = torch.tensor([[2, 6, 9, 3, 0, 0], [2, 5, 7, 8, 12, 3], [2, 3, 0, 0, 0, 0]])
"""Ids of the encoder, padded with its own 0."""
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
TOKENS = (PIECES + 1) * MASK


def plain(folder, pooling: str) -> Tensor:
    import transformers  # as long as torch to import

    encoder = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden = encoder(input_ids=PIECES, attention_mask=MASK).last_hidden_state
    if pooling == "cls":
        return hidden[:, 0]
    return torch.stack([row[: int(mask.sum())].mean(0) for row, mask in zip(hidden, MASK, strict=True)])


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_features_are_those_of_the_library(tiny_bert, pooling):
    encoder = BERT(tiny_bert, pooling).eval()
    assert encoder.features == 16
    torch.testing.assert_close(encoder(TOKENS), plain(tiny_bert, pooling))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_padding_does_not_change_the_features(tiny_bert, pooling):
    encoder = BERT(tiny_bert, pooling).eval()
    wide = torch.nn.functional.pad(TOKENS, (0, 9))
    torch.testing.assert_close(encoder(wide), encoder(TOKENS))
    torch.testing.assert_close(encoder(TOKENS[:1, :4]), encoder(TOKENS)[:1])


def test_evaluation_in_blocks(tiny_bert, monkeypatch):
    encoder = BERT(tiny_bert).eval()
    whole = encoder(TOKENS)
    monkeypatch.setattr(lossrag.models.bert, "BLOCK_PIECES", 13)  # two rows
    with torch.no_grad():
        torch.testing.assert_close(encoder(TOKENS), whole.detach())
    assert whole.requires_grad


def test_the_model_starts_in_training_mode_and_depends_on_the_seed_alone(tiny_bert):
    heads = []
    for _ in range(2):
        torch.manual_seed(3)
        model = MultiTaskModel(lambda: BERT(tiny_bert), [2, 3])
        heads.append(model.heads[1].weight)
        torch.rand(5)
    assert torch.equal(*heads)
    assert all(module.training for module in model.modules())
    assert not torch.equal(model(TOKENS, 0), model(TOKENS, 0))  # dropout, inside and behind
    model.eval()
    assert torch.equal(model(TOKENS, 0), model(TOKENS, 0))


def test_nothing_is_trained_in_vain(tiny_bert):
    encoder = BERT(tiny_bert)
    encoder(TOKENS).sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())
    gradient = encoder.embedding.weight.grad
    assert gradient[0].abs().sum() == 0
    assert gradient[TOKENS.unique()[1:]].abs().sum() > 0


def test_a_frozen_encoder_does_not_move(tiny_bert):
    encoder = BERT(tiny_bert, dropout=0.0, frozen=True)
    model = MultiTaskModel(lambda: encoder, [2])
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    assert torch.equal(encoder(TOKENS), encoder(TOKENS))  # in training mode, but nothing is dropped inside
    model(TOKENS, 0).square().sum().backward()
    optimizer.step()
    assert encoder.shared_parameters() == []
    assert encoder.table is None
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())
    torch.testing.assert_close(encoder(TOKENS), plain(tiny_bert, "cls"))


def test_segments_keep_the_gradients_of_tasks_apart(tiny_bert):
    encoder = BERT(tiny_bert, dropout=0.0).eval()
    sizes, used = [1, 2], TOKENS.unique()[1:]
    parameters = encoder.shared_parameters()
    copies = [p.detach().expand(2, *p.shape).requires_grad_() for p in parameters[1:]]
    rows = encoder.table.detach()[used].expand(2, -1, -1).requires_grad_()
    features = encoder.forward_by_segment(TOKENS, sizes, [rows, *copies], row_lookup(used, len(encoder.table)))
    torch.testing.assert_close(features, encoder(TOKENS))
    found = torch.autograd.grad(features.square().sum(), [rows, *copies])
    for s, part in enumerate(torch.split(TOKENS, sizes)):
        alone = torch.autograd.grad(encoder(part).square().sum(), parameters)
        torch.testing.assert_close(found[0][s], alone[0][used])
        for both, each in zip(found[1:], alone[1:], strict=True):
            torch.testing.assert_close(both[s], each)


def test_forward_mode_is_the_slope(tiny_bert):
    """Losses are measured along a direction in forward mode, which the fused attention of the CPU lacks."""
    encoder = BERT(tiny_bert, "mean", dropout=0.0).eval().double()
    point = {name: value.detach().clone() for name, value in encoder.named_parameters()}
    torch.manual_seed(0)
    along = {name: torch.randn_like(value) for name, value in point.items()}

    def at(shift: float) -> Tensor:
        moved = {name: value + shift * along[name] for name, value in point.items()}
        return torch.func.functional_call(encoder, moved, (TOKENS,))

    with torch.no_grad():
        slope = (at(1e-6) - at(-1e-6)) / 2e-6
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        duals = {name: torch.autograd.forward_ad.make_dual(value, along[name]) for name, value in point.items()}
        found = torch.autograd.forward_ad.unpack_dual(torch.func.functional_call(encoder, duals, (TOKENS,))).tangent
    torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-6)


def test_options(tiny_bert):
    options = ENCODERS["bert"](pooling="mean", frozen=True, dropout=0.5)
    encoder = options.load(tiny_bert)
    assert (encoder.pooling, encoder.frozen, encoder.dropout.p) == ("mean", True, 0.5)
    assert not options.trainable_vectors
    assert ENCODERS["bert"]().trainable_vectors
    features = options.build(None, (16,)).eval()
    assert features.features == 16
    assert torch.equal(features(torch.ones(2, 16)), torch.ones(2, 16))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "clss"}, "did you mean 'cls'"),
        ({"dropout": 1.0}, "BertOptions: dropout"),
        ({"encoder_dropout": -0.1}, "BertOptions: encoder_dropout"),
        ({"encoder": ""}, "is empty"),
    ],
)
def test_impossible_options(options, words):
    with pytest.raises(ConfigError, match=words):
        ENCODERS["bert"](**options)


def test_a_suite_without_texts():
    with pytest.raises(ConfigError, match="reads word pieces"):
        ENCODERS["bert"]().build(torch.ones(3, 2), ())


def test_pooling_of_ones_own_loop(tiny_bert):
    with pytest.raises(ConfigError, match="choose from: cls, mean"):
        BERT(tiny_bert, "max")


def test_a_missing_extra_names_the_install_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"BERT needs transformers.*pip install .*\[bert\]'"):
        BERT(tmp_path)


def test_a_folder_that_is_no_encoder(tiny_bert, tmp_path):
    import transformers

    with pytest.raises(DataError, match="is no encoder of safetensors alone"):
        BERT(tmp_path)
    decoder = tmp_path / "t5"
    config = transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=1, vocab_size=9)
    transformers.T5Model(config).save_pretrained(decoder)
    with pytest.raises(DataError, match="a decoder"):
        BERT(decoder)


def test_weights_that_are_missing(tiny_bert, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(tiny_bert, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layer.0.output.dense.weight"))
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="lacks 1 weights"):
        BERT(folder)


def test_dropout_inside_the_encoder_can_be_set(tiny_bert):
    encoder = ENCODERS["bert"](dropout=0.0, encoder_dropout=0.0).load(tiny_bert)
    assert encoder.training
    assert torch.equal(encoder(TOKENS), encoder(TOKENS))
    kept = ENCODERS["bert"](dropout=0.0).load(tiny_bert)
    assert not torch.equal(kept(TOKENS), kept(TOKENS))
