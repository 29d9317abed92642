"""What a tensor says of itself, and the writes that take no operator."""

from __future__ import annotations

import pytest

import tensorlib as torch


def test_queries() -> None:
    """Functions and methods of one name agree."""
    x = torch.zeros(2, 3)
    assert torch.numel(x) == 6 and torch.is_floating_point(x) and torch.is_signed(x)
    assert torch.is_nonzero(torch.tensor(2)) and not torch.is_nonzero(torch.tensor([0.0]))
    assert torch.is_same_size(x, torch.ones(2, 3)) and not x.is_same_size(x.t())
    assert torch.get_device(x) == -1 and x.is_cpu and not (torch.is_inference(x) or x.is_pinned() or x.is_shared())
    assert x[1:, 1:].storage_offset() == 4 and x.is_set_to(x.view(2, 3)) and not x.is_set_to(x.clone())
    for bad in (x, x[:0]):
        with pytest.raises(RuntimeError, match="ambiguous"):
            torch.is_nonzero(bad)


def test_resize_keeps_what_fits() -> None:
    """The same memory while it is large enough, else a copy with the old elements in front."""
    x = torch.arange(6)
    y = x.resize_(2, 2)
    assert y is x and x.tolist() == [[0, 1], [2, 3]]
    assert x.resize_((3, 3)).shape == (3, 3) and x.reshape(-1)[:4].tolist() == [0, 1, 2, 3]
    assert torch.resize_as_(x, torch.empty(2)).tolist() == [0, 1]
    with pytest.raises(RuntimeError, match="require grad"):
        torch.zeros(2, requires_grad=True).resize_(3)


def test_elementwise_python() -> None:
    """apply_, map_ and map2_ call Python for each element."""
    x = torch.arange(3.0)
    assert x.apply_(lambda v: v + 1).tolist() == [1, 2, 3]
    assert x.map_(torch.full((3,), 2.0), lambda a, b: a * b).tolist() == [2, 4, 6]
    assert x.map2_(x, x, lambda a, b, c: a - b + c).tolist() == [2, 4, 6]
    with pytest.raises(RuntimeError, match="requires grad"):
        torch.zeros(2, requires_grad=True).apply_(abs)


def test_fill_diagonal() -> None:
    """The diagonal, and with wrap the diagonals below it; gradients stay elsewhere."""
    assert torch.zeros(5, 2).fill_diagonal_(1, wrap=True).tolist() == [[1, 0], [0, 1], [0, 0], [1, 0], [0, 1]]
    assert torch.zeros(3, 3, 3).fill_diagonal_(2).sum() == 6
    x = torch.ones(2, 2, requires_grad=True)
    (x * 3).fill_diagonal_(0).sum().backward()
    assert x.grad.tolist() == [[0, 3], [3, 0]]
    with pytest.raises(RuntimeError, match="equal length"):
        torch.zeros(2, 3, 3).fill_diagonal_(1)


def test_functions_that_write() -> None:
    """fill_, zero_, detach_, as_strided_: the tensor itself is returned."""
    x = torch.ones(4)
    assert torch.fill_(x, 3) is x and x.sum() == 12 and torch.zero_(x) is x and x.sum() == 0
    y = torch.ones(2, requires_grad=True) * 2
    assert torch.detach_(y) is y and not y.requires_grad
    assert torch.as_strided_(torch.arange(4), (2, 2), (1, 2)).tolist() == [[0, 2], [1, 3]]


def test_numbers_that_do_not_fit_are_refused() -> None:
    """As PyTorch: negative numbers count from the top in unsigned integers, floats lose their fraction."""
    assert torch.zeros(1, dtype=torch.uint8).fill_(-1).item() == 255
    assert torch.zeros(1, dtype=torch.int8).fill_(3.7).item() == 3
    small = torch.zeros(2, dtype=torch.int8)
    yes = torch.tensor([True, False])
    writes = [
        lambda: small.fill_(300), lambda: small.masked_fill(yes, 128), lambda: torch.where(yes, small, 300),
        lambda: torch.full((2,), 300, dtype=torch.int8), lambda: small.__setitem__(0, 300),
        lambda: small.index_fill(0, torch.tensor([0]), 300), lambda: small.scatter(0, torch.tensor([0]), 300),
    ]  # fmt: skip
    for write in writes:
        with pytest.raises(RuntimeError, match="without overflow"):
            write()


def test_places_out_of_range_are_both_kinds_of_error() -> None:
    """gather and scatter raise RuntimeError in PyTorch, the others IndexError: here one error is both."""
    x, i = torch.zeros(2), torch.tensor([2])
    for kind in (IndexError, RuntimeError):
        for call in (
            lambda: x.gather(0, i), lambda: x.scatter(0, i, 1.0), lambda: x.index_select(0, i), lambda: x.take(i),
        ):  # fmt: skip
            with pytest.raises(kind, match="out of bounds"):
                call()


def test_uint8_condition_warns() -> None:
    """where() still takes it."""
    with pytest.warns(UserWarning, match="uint8"):
        assert torch.where(torch.tensor([1, 0], dtype=torch.uint8), torch.ones(2), 5.0).tolist() == [1, 5]


def test_memory_of_others() -> None:
    """frombuffer shares a buffer's memory; the strided factories lay memory out as told."""
    raw = bytearray(b"\1\0\0\0\2\0\0\0")
    x = torch.frombuffer(raw, dtype=torch.int32)
    x[0] = 7
    assert x.tolist() == [7, 2] and raw[0] == 7
    assert torch.frombuffer(raw, dtype=torch.uint8, count=2, offset=4).tolist() == [2, 0]
    with pytest.raises(ValueError, match="multiple of element size"):
        torch.frombuffer(bytearray(3), dtype=torch.int16)
    assert torch.empty_strided((2, 3), (1, 2)).stride() == (1, 2)
    assert torch.empty_permuted((2, 3, 4), (1, 0, 2)).stride() == (4, 8, 1)
    with pytest.warns(UserWarning, match="deprecated"):
        assert torch.range(1, 2, 0.5).tolist() == [1, 1.5, 2]
