"""The fast path against the plain form: values, gradients of every order and direction, and where it does not apply."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lossrag.models.max_over_time import covers, dense, margin, max_over_time, max_over_time_by_segment


def problem(sizes=(5, 3, 7), filters=(4, 6, 3), documents=6, length=17, width=5, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sides = margin(sizes)
    words = torch.randn(documents, length + 2 * sides, width, generator=generator, dtype=dtype)
    if sides:
        words[:, :sides] = words[:, -sides:] = 0
    weights = [
        torch.randn(count, width, size, generator=generator, dtype=dtype)
        for count, size in zip(filters, sizes, strict=True)
    ]
    return [tensor.requires_grad_() for tensor in (words, *weights)]


def fast_form(words, *weights):
    assert covers(words, weights)
    return max_over_time(words, weights)


def dense_form(words, *weights):
    return dense(words, weights)


def assert_equal(got, expected, tolerance=1e-12):
    for a, b in zip(got, expected, strict=True):
        error, scale = (a - b).detach().abs().max(), b.detach().abs().max()
        assert float(error) <= tolerance * (1 + float(scale))


@settings(deadline=None, max_examples=40)
@given(
    sizes=st.lists(st.sampled_from([1, 3, 5, 7, 9]), min_size=1, max_size=3),
    documents=st.integers(1, 9),
    length=st.integers(1, 12),
    width=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_values_and_gradients(sizes, documents, length, width, seed):
    filters = [1 + (seed + i) % 3 for i in range(len(sizes))]
    inputs = problem(sizes, filters, documents, length, width, seed=seed)
    fast, plain = fast_form(*inputs), dense_form(*inputs)
    assert_equal([fast], [plain])
    cotangent = torch.randn(plain.shape, dtype=plain.dtype, generator=torch.Generator().manual_seed(seed))
    assert_equal(torch.autograd.grad(fast, inputs, cotangent), torch.autograd.grad(plain, inputs, cotangent))


def test_float32_to_one_part_in_1e5():
    inputs = problem(filters=(16, 16, 16), documents=40, length=60, width=30, dtype=torch.float32)
    cotangent = torch.randn(40, 48, generator=torch.Generator().manual_seed(1))
    fast, plain = fast_form(*inputs), dense_form(*inputs)
    assert float(((fast - plain).norm() / plain.norm()).detach()) <= 1e-5
    pairs = zip(
        torch.autograd.grad(fast, inputs, cotangent), torch.autograd.grad(plain, inputs, cotangent), strict=True
    )
    assert all(float((a - b).norm() / b.norm()) <= 1e-5 for a, b in pairs)


def test_many_blocks_of_documents(monkeypatch):
    inputs = problem(documents=11)
    expected = fast_form(*inputs)
    gradients = torch.autograd.grad(expected.square().sum(), inputs)
    monkeypatch.setattr("lossrag.models.max_over_time.BLOCK_BYTES", 6000)
    monkeypatch.setattr("lossrag.models.winning_windows.BLOCK_BYTES", 6000)
    assert_equal([fast_form(*inputs)], [expected])
    assert_equal(torch.autograd.grad(fast_form(*inputs).square().sum(), inputs), gradients)


@pytest.mark.parametrize("moving", ["all", "words", "weights"])
def test_forward_mode(moving):
    inputs = [tensor.detach() for tensor in problem()]
    tangents = [torch.randn_like(tensor) for tensor in inputs]
    if moving == "words":
        tangents[1:] = [torch.zeros_like(t) for t in tangents[1:]]
    if moving == "weights":
        words, weights = inputs[0], inputs[1:]
        got = torch.func.jvp(lambda *w: fast_form(words, *w), tuple(weights), tuple(tangents[1:]))
        expected = torch.func.jvp(lambda *w: dense_form(words, *w), tuple(weights), tuple(tangents[1:]))
    else:
        got = torch.func.jvp(fast_form, tuple(inputs), tuple(tangents))
        expected = torch.func.jvp(dense_form, tuple(inputs), tuple(tangents))
    assert_equal(got, expected)


def test_second_backward_pass_takes_the_dense_form():
    inputs = problem()

    def penalty(form):
        gradients = torch.autograd.grad(form(*inputs).square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), inputs)

    assert_equal(penalty(fast_form), penalty(dense_form))


@pytest.mark.parametrize("wanted", [[0], [1], [2, 3]])
def test_only_what_is_asked_for(wanted):
    inputs = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(problem())]
    leaves = [inputs[i] for i in wanted]
    fast = torch.autograd.grad(fast_form(*inputs).square().sum(), leaves)
    assert_equal(fast, torch.autograd.grad(dense_form(*inputs).square().sum(), leaves))


def test_tied_windows_give_the_same_weight_gradients():
    """A document that repeats itself: dense autograd splits the gradient, the fast path gives it to the first."""
    inputs = problem(sizes=(3,), filters=(4,), documents=2, length=8)
    with torch.no_grad():
        inputs[0][:, 5:9] = inputs[0][:, 1:5].clone()
    fast = torch.autograd.grad(fast_form(*inputs).square().sum(), inputs[1:])
    assert_equal(fast, torch.autograd.grad(dense_form(*inputs).square().sum(), inputs[1:]))


def test_bfloat16_is_near(monkeypatch):
    words, *weights = problem(dtype=torch.float32)
    exact = dense_form(words, *weights)
    for path in (True, False):
        near = max_over_time(words, weights, torch.bfloat16)
        assert near.dtype == torch.float32
        assert 0 < float(((near - exact).norm() / exact.norm()).detach()) < 0.01
        gradients = torch.autograd.grad(near.sum(), [words, *weights])
        assert all(g.dtype == torch.float32 and bool(torch.isfinite(g).all()) for g in gradients)
        if path:
            monkeypatch.setattr("lossrag.models.max_over_time.covers", lambda *_: False)


class TestPlainPath:
    def test_even_kernel_sizes(self):
        inputs = problem(sizes=(4, 2), filters=(3, 3))
        assert not covers(inputs[0], inputs[1:])
        assert torch.equal(max_over_time(inputs[0], inputs[1:]), dense_form(*inputs))

    def test_other_devices(self):
        words, weight = torch.zeros(2, 9, 3, device="meta"), torch.zeros(4, 3, 3, device="meta")
        assert not covers(words, [weight])
        assert max_over_time(words, [weight]).shape == (2, 4)

    def test_no_documents(self):
        assert max_over_time(torch.zeros(0, 9, 3), [torch.zeros(4, 3, 3)]).shape == (0, 4)


@pytest.mark.parametrize("sizes", [[2, 2, 2], [1, 3, 2], [6]])
@pytest.mark.parametrize("plain", [False, True])
def test_segments_keep_their_gradients_apart(sizes, plain, monkeypatch):
    words, *weights = problem(documents=6)
    copies = [w.detach().expand(len(sizes), *w.shape).requires_grad_() for w in weights]
    if plain:
        monkeypatch.setattr("lossrag.models.max_over_time.covers", lambda *_: False)
    pooled = max_over_time_by_segment(words, copies, sizes)
    assert_equal([pooled], [dense_form(words, *weights)])
    by_copy = torch.autograd.grad(pooled.square().sum(), [words, *copies])
    start = 0
    for segment, size in enumerate(sizes):
        part = words[start : start + size]
        alone = torch.autograd.grad(dense_form(part, *weights).square().sum(), [words, *weights])
        assert_equal([g[segment] for g in by_copy[1:]], alone[1:])
        assert_equal([by_copy[0][start : start + size]], [alone[0][start : start + size]])
        start += size


def test_segments_in_forward_mode_and_a_second_backward_pass():
    words, *weights = [t.detach() for t in problem(documents=5)]
    sizes = [2, 3]

    def fast(words, *copies):
        return max_over_time_by_segment(words, copies, sizes)

    def plain(words, *copies):
        parts = words.split(sizes)
        return torch.cat([dense(part, [copy[s] for copy in copies]) for s, part in enumerate(parts)])

    inputs = (words, *[w.expand(2, *w.shape).clone() for w in weights])
    tangents = tuple(torch.randn(t.shape, dtype=t.dtype) for t in inputs)
    assert_equal(torch.func.jvp(fast, inputs, tangents), torch.func.jvp(plain, inputs, tangents))
    leaves = [t.clone().requires_grad_() for t in inputs]

    def penalty(form):
        gradients = torch.autograd.grad(form(*leaves).square().sum(), leaves, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), leaves)

    assert_equal(penalty(fast), penalty(plain))
