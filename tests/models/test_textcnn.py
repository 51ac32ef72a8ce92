"""TextCNN against the formula in a plain loop."""

from __future__ import annotations

import pytest
import torch

from lossrag import ConfigError
from lossrag.models import ENCODERS, TextCNN


def plain(model: TextCNN, tokens: torch.Tensor) -> torch.Tensor:
    """relu(max over positions of (filter . window + bias)), one document and one filter at a time."""
    rows = []
    widest = max(convolution.kernel_size[0] // 2 for convolution in model.convolutions)
    for document in tokens:
        words = model.embedding.weight[document]
        features = []
        for convolution in model.convolutions:
            size = convolution.kernel_size[0]
            # behind the end as many empty windows as the widest kernel has, for every text
            padded = torch.nn.functional.pad(words, (0, 0, size // 2, 2 * widest + 1))
            for weight, bias in zip(convolution.weight, convolution.bias, strict=True):
                starts = range(len(padded) - size + 1)
                values = [(weight.T * padded[i : i + size]).sum() + bias for i in starts]
                features.append(torch.stack(values).max().relu())
        rows.append(torch.stack(features))
    return torch.stack(rows)


def test_forward_is_the_formula():
    torch.manual_seed(0)
    vectors = torch.randn(11, 4, dtype=torch.float64)  # row 0 becomes zero
    model = TextCNN(vectors, (3, 5), filters=3, dropout=0.0).double()
    tokens = torch.randint(11, (2, 9))
    assert model.features == 6
    assert torch.allclose(model(tokens), plain(model, tokens))


@pytest.mark.parametrize("beside", [0, 1, 2, 3, 7, 40])
@pytest.mark.parametrize("sizes", [(3, 5, 7), (1,), (2, 4)])
def test_features_of_a_text_are_its_own_whatever_stands_beside_it(beside, sizes):
    torch.manual_seed(0)
    model = TextCNN(torch.randn(30, 6), sizes, filters=20, dropout=0.0)
    text = torch.randint(1, 30, (1, 9))
    longer = torch.cat([torch.nn.functional.pad(text, (0, beside)), torch.randint(1, 30, (1, 9 + beside))])
    assert torch.allclose(model(text)[0], model(longer)[0], atol=1e-6)


def test_the_suites_vectors_are_not_written_into():
    vectors = torch.ones(3, 2)
    model = TextCNN(vectors, trainable=True)
    with torch.no_grad():
        model.embedding.weight.zero_()
    assert vectors.sum() == 6


@pytest.mark.parametrize("trainable", [True, False])
def test_padding_takes_no_gradient(trainable):
    model = TextCNN(torch.ones(3, 2), trainable=trainable)
    model(torch.tensor([[1, 2, 0, 0]])).sum().backward()
    gradient = model.embedding.weight.grad
    if trainable:
        assert gradient[0].abs().sum() == 0
        assert gradient[1:].abs().sum() > 0
    else:
        assert gradient is None


def test_dropout_only_in_training():
    torch.manual_seed(0)
    model = TextCNN(torch.randn(5, 3), filters=50, dropout=0.5)
    tokens = torch.tensor([[1, 2, 3, 4]])
    assert (model(tokens) == 0).float().mean() > (model.eval()(tokens) == 0).float().mean()
    assert torch.equal(model(tokens), model(tokens))


@pytest.mark.parametrize("options", [{"kernel_sizes": ()}, {"kernel_sizes": (0,)}, {"filters": 0}])
def test_impossible_sizes(options):
    with pytest.raises(ConfigError, match="at least one kernel size"):
        TextCNN(torch.ones(2, 2), **options)


def test_options_refuse_the_wrong_suite_and_dropout():
    with pytest.raises(ConfigError, match="choose mlp"):
        ENCODERS["textcnn"]().build(None, (64,))
    with pytest.raises(ConfigError, match=r"TextCNNOptions: dropout must be in \[0, 1\), got 1"):
        ENCODERS["textcnn"](dropout=1.0)
    assert ENCODERS["textcnn"](filters=2).build(torch.ones(3, 2), ()).features == 6
