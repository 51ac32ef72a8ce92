"""Attention in float32 inside a CPU's bfloat16 autocast."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from models import BERT
from models.attention import Float32Attention, attention_for

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


def test_an_encoder_in_bfloat16_is_near_itself_and_attends_in_float32(tiny_bert, monkeypatch):
    encoder = BERT(tiny_bert, dropout=0.0).eval()
    exact, dtypes, attention = encoder(TOKENS), [], torch.nn.functional.scaled_dot_product_attention

    def spied(query, *rest, **options):
        dtypes.append(query.dtype)
        return attention(query, *rest, **options)

    monkeypatch.setattr("models.attention.attend", spied)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        near = encoder(TOKENS)
        near.float().sum().backward()
    assert set(dtypes) == {torch.float32}
    assert len(dtypes) == encoder.body.config.num_hidden_layers
    torch.testing.assert_close(near.float(), exact, rtol=0.1, atol=0.1)
    assert all(parameter.grad is not None for parameter in encoder.parameters())
