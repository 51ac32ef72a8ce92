"""Attention in float32 inside a CPU's bfloat16 autocast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from lossrag.models import BERT
from lossrag.models.bert import Float32Attention, attention_for

TOKENS = torch.tensor([[1, 5, 6, 2], [1, 7, 2, 0], [1, 2, 0, 0]])


def test_within_it_attention_is_that_of_float32():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, generator=generator).bfloat16().requires_grad_() for _ in range(3))
    mask = torch.tensor([True, True, True, False, True]).expand(5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16), Float32Attention():
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        assert F.linear(q, q[0, 0]).dtype == torch.bfloat16
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected.bfloat16())
    (gradient,) = torch.autograd.grad(found.float().sum(), q)
    assert gradient.dtype == torch.bfloat16
    assert gradient.abs().sum() > 0


def test_it_is_for_the_autocast_of_a_cpu():
    assert not isinstance(attention_for(torch.zeros(1)), Float32Attention)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert isinstance(attention_for(torch.zeros(1)), Float32Attention)
        assert not isinstance(attention_for(torch.zeros(1, device="meta")), Float32Attention)


class Spy(TorchFunctionMode):
    """Notes the dtypes that attention is called with, after what the modes within it made of them."""

    def __init__(self):
        super().__init__()
        self.dtypes = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.scaled_dot_product_attention:
            self.dtypes.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


def test_an_encoder_in_bfloat16_is_near_itself_and_attends_in_float32(tiny_bert):
    encoder = BERT(tiny_bert, dropout=0.0).eval()
    exact = encoder(TOKENS)
    with torch.autocast("cpu", dtype=torch.bfloat16), Spy() as spy:
        near = encoder(TOKENS)
    near.float().sum().backward()
    assert set(spy.dtypes) == {torch.float32}
    assert len(spy.dtypes) == encoder.body.config.num_hidden_layers
    torch.testing.assert_close(near.float(), exact, rtol=0.1, atol=0.1)
    assert all(parameter.grad is not None for parameter in encoder.parameters())
