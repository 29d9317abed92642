"""x[...] and x[...] = y beside stored PyTorch results, on the CPU and through the kernels."""

import json
from pathlib import Path

import indexing_cases
import numpy as np
import pytest

import tensorlib as L
import tensorlib.nn.functional as F
from tensorlib.errors import DimError, ShapeError

STORED = json.loads(Path(__file__).with_name("indexing.json").read_text())
KINDS = {"IndexError": IndexError, "ValueError": ValueError, "TypeError": TypeError, "RuntimeError": RuntimeError}
#: Every third also runs in the interpreter, which is slow. A method's index has to be on the device already.
DEVICES = [("cpu", t) for t in indexing_cases.READ] + [("interpret", t) for t in indexing_cases.READ[::3]]
WRITES = [("cpu", t) for t in indexing_cases.WRITE]
WRITES += [("interpret", t) for t in [t for t in indexing_cases.WRITE if t.startswith("x[")][::3]]


def leaves(device="cpu"):
    x = L.arange(24, dtype=L.float64).reshape(2, 3, 4).to(device).requires_grad_()
    v = (L.arange(12, dtype=L.float64).reshape(3, 4) / 8 - 0.5).to(device).requires_grad_()
    return x, v


def weights(t):
    return L.arange(1, t.numel() + 1, dtype=L.float64).reshape(t.shape).to(t.device)


def flat(t):
    return t.detach().cpu().reshape(-1).tolist()


@pytest.mark.parametrize(("device", "text"), DEVICES)
def test_reading_is_as_in_pytorch(device, text):
    x, _ = leaves(device)
    out = eval(text, {"x": x, "L": L})
    out.backward(weights(out))
    shape, values, grad = STORED["read"][text]
    assert list(out.shape) == shape
    assert flat(out) == values
    assert flat(x.grad) == grad


@pytest.mark.parametrize(("device", "text"), WRITES)
def test_writing_is_as_in_pytorch(device, text):
    leaf, v = leaves(device)
    x = leaf * 1
    exec(text, {"x": x, "L": L, "v": v})
    (x * x).backward(weights(x))
    values, grad_x, grad_v = STORED["write"][text]
    assert flat(x) == values
    assert flat(leaf.grad) == grad_x
    assert (None if v.grad is None else flat(v.grad)) == grad_v


@pytest.mark.parametrize("text", indexing_cases.WRITE)
def test_writing_without_history_is_the_same(text):
    """The direct way to NumPy gives what the recorded one gives."""
    with L.no_grad():
        leaf, v = leaves()
        x = leaf * 1
        before = x._writes
        exec(text, {"x": x, "L": L, "v": v})
    assert flat(x) == STORED["write"][text][0]
    assert before is None or x._writes[0] > 0


@pytest.mark.parametrize("text", indexing_cases.FAIL)
def test_errors_are_of_the_same_kind(text):
    with pytest.raises(KINDS[STORED["fail"][text]]):
        eval(text, {"x": leaves()[0] * 1, "L": L})


def test_messages_name_the_place():
    x = L.zeros(2, 3)
    with pytest.raises(DimError, match=r"index 5 is out of bounds for dimension 1 with size 3"):
        x[0, 5]
    with pytest.raises(DimError, match=r"index -4 is out of bounds for dimension 1 with size 3"):
        x[:, [0, -4]]
    with pytest.raises(DimError, match=r"too many indices for tensor of dimension 2"):
        x[0, 0, 0]
    with pytest.raises(ShapeError, match=r"value tensor of shape \[5\] cannot be broadcast to indexing result"):
        x[[0]] = L.zeros(5)


def test_a_basic_index_is_a_view_and_an_advanced_one_is_not():
    x = L.zeros(3, 4)
    x[1][2] = 1.0
    x[:, 1:][0] += 2.0
    x[[0, 1]][0] = 9.0
    assert x.tolist() == [[0, 2, 2, 2], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert x[1]._base is x
    assert x[[1]]._base is None


def test_writes_are_seen_by_saved_values():
    x = L.ones(3).requires_grad_()
    y = x * 1
    z = y * y
    y[[0]] = 2.0
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        z.sum().backward()


def test_a_leaf_and_an_expanded_tensor_refuse_writes():
    x = L.zeros(3).requires_grad_()
    for index in (0, [0], x.detach() == 0):
        with pytest.raises(RuntimeError, match="leaf Variable"):
            x[index] = 1.0
    for index in (0, [0]):
        with pytest.raises(RuntimeError, match="single memory location"):
            L.zeros(1).expand(3)[index] = 1.0


@pytest.mark.parametrize("device", ["cpu", "interpret"])
def test_mask_of_nothing_and_of_everything(device):
    x = L.arange(6.0).reshape(2, 3).to(device)
    assert x[x < 0].shape == (0,)
    assert x[x >= 0].tolist() == [0, 1, 2, 3, 4, 5]
    x[x < 0] = 7.0
    assert x.sum().item() == 15


def test_gradient_of_a_gradient_through_an_index():
    x = L.tensor([1.0, 2.0, 3.0], dtype=L.float64).requires_grad_()
    y = x[[0, 0, 2]]
    (g,) = L.autograd.grad((y * y * y).sum(), [x], create_graph=True)
    assert g.tolist() == [6, 0, 27]
    (h,) = L.autograd.grad(g.sum(), [x])
    assert h.tolist() == [12, 0, 18]


@pytest.mark.parametrize("dtype", [L.bfloat16, L.float16])
def test_half_sums_are_made_in_float32(dtype):
    """1 + 1 + … in bfloat16 itself would stop at 256."""
    index = L.zeros(1000, dtype=L.int64)
    ones = L.ones(1000, dtype=dtype)
    assert L.zeros(2, dtype=dtype).index_add(0, index, ones)[0].item() == 1000
    assert L.zeros(2, dtype=dtype).scatter_add(0, index, ones)[0].item() == 1000
    assert L.zeros(2, dtype=dtype).index_put((index,), ones, accumulate=True)[0].item() == 1000
    w = L.zeros(2, 1, dtype=dtype).requires_grad_()
    F.embedding(index, w).sum().backward()
    assert w.grad[0].item() == 1000


def test_embedding_padding_row_and_frequency():
    index = L.tensor([0, 2, 2, 1, 2])
    for kwargs, want in (({"padding_idx": 2}, [1, 1, 0, 0]), ({"scale_grad_by_freq": True}, [1, 1, 1, 0])):
        for device in ("cpu", "interpret"):
            w = L.ones(4, 2).to(device).requires_grad_()
            F.embedding(index.to(device), w, **kwargs).sum().backward()
            assert w.grad.cpu()[:, 0].tolist() == want


def test_embedding_gradient_keeps_infinities_in_their_rows():
    w = L.zeros(3, 8).requires_grad_()
    index = L.arange(64) % 3
    g = L.ones(64, 8)
    g[0] = float("inf")
    F.embedding(index, w).backward(g)
    assert w.grad[0].isinf().all()
    assert w.grad[1:].isfinite().all()


def test_embedding_max_norm_scales_the_rows_that_are_read():
    w = L.full((3, 4), 2.0)
    F.embedding(L.tensor([1]), w, max_norm=1.0)
    np.testing.assert_allclose(w.numpy().sum(1), [8, 2, 8], rtol=1e-5)


@pytest.mark.parametrize("count", [5, 300])
def test_large_row_sums_agree_with_numpy(count):
    """The CPU adds rows in rounds, by a product or one by one, as the sizes ask; the sums are the same."""
    rng = np.random.default_rng(count)
    for rows, width in ((count, 3), (4 * count, 300), (count * 40, 16)):
        index = rng.integers(0, rows, count)
        g = rng.integers(-8, 8, (count, width)).astype(np.float32)
        want = np.zeros((rows, width), np.float32)
        np.add.at(want, index, g)
        x = L.zeros(rows, width).requires_grad_()
        x[L.tensor(index)].backward(L.tensor(g))
        np.testing.assert_array_equal(x.grad.numpy(), want)


def test_uint8_masks_warn():
    with pytest.warns(UserWarning, match="uint8"):
        assert L.arange(3)[L.tensor([1, 0, 1], dtype=L.uint8)].tolist() == [0, 2]
