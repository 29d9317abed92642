"""Packing and padding, and what recurrent layers do beside their values: derivatives, checks, dropout, devices."""

import copy
import pickle

import numpy as np
import pytest

import tensorlib as tl
from tensorlib import nn
from tensorlib.autograd import gradcheck, gradgradcheck
from tensorlib.nn.utils import rnn

SEQUENCES = [tl.tensor([[1.0, 2.0]]), tl.tensor([[3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]), tl.tensor([[9.0, 0.0]] * 2)]


def test_padding_on_either_side_and_back():
    first = [s[:, 0] for s in SEQUENCES]
    assert rnn.pad_sequence(first).tolist() == [[1, 3, 9], [0, 5, 9], [0, 7, 0]]
    padded = rnn.pad_sequence(first, batch_first=True, padding_value=-1, padding_side="left")
    assert padded.tolist() == [[-1, -1, 1], [3, 5, 7], [-1, 9, 9]]
    back = rnn.unpad_sequence(rnn.pad_sequence(SEQUENCES), tl.tensor([1, 3, 2]))
    assert all(tl.equal(a, b) for a, b in zip(back, SEQUENCES, strict=True))


def test_packed_rows_lie_step_by_step_longest_first():
    packed = rnn.pack_sequence(SEQUENCES, enforce_sorted=False)
    assert packed.batch_sizes.tolist() == [3, 2, 1]
    assert packed.sorted_indices.tolist() == [1, 2, 0] and packed.unsorted_indices.tolist() == [2, 0, 1]
    assert packed.data.tolist() == [[3, 4], [9, 0], [1, 2], [5, 6], [9, 0], [7, 8]]
    padded, lengths = rnn.pad_packed_sequence(packed, batch_first=True, padding_value=-1.0, total_length=4)
    assert padded.shape == (3, 4, 2) and lengths.tolist() == [1, 3, 2]
    assert padded[0].tolist() == [[1, 2], [-1, -1], [-1, -1], [-1, -1]]
    assert all(tl.equal(a, b) for a, b in zip(rnn.unpack_sequence(packed), SEQUENCES, strict=True))


def test_packed_sequence_converts_its_data_and_moves_with_its_permutations():
    packed = rnn.pack_sequence(SEQUENCES, enforce_sorted=False)
    assert packed.to(tl.float32) is packed and packed.cpu() is packed and not packed.is_cuda
    for name, dtype in (("double", tl.float64), ("half", tl.float16), ("long", tl.int64), ("byte", tl.uint8)):
        made = getattr(packed, name)()
        assert type(made) is rnn.PackedSequence and made.data.dtype is dtype
        assert made.sorted_indices.tolist() == packed.sorted_indices.tolist()
    moved = packed.to("interpret")
    assert str(moved.data.device) == str(moved.sorted_indices.device) == str(moved.unsorted_indices.device)
    assert moved.batch_sizes.device.type == "cpu" and tl.equal(moved.cpu().data, packed.data)
    data, sizes, *_ = packed
    assert rnn.PackedSequence((data, sizes)).unsorted_indices is None
    with pytest.raises(ValueError, match="batch_sizes should always be on CPU"):
        rnn.PackedSequence(data, sizes.to("interpret"))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: rnn.pack_sequence(SEQUENCES), RuntimeError, "must be sorted in decreasing order"),
        (lambda: rnn.pack_padded_sequence(tl.ones(3, 2), [2, 0]), RuntimeError, "greater than 0"),
        (lambda: rnn.pack_padded_sequence(tl.ones(3, 2), [4, 1]), RuntimeError, "at most its 3 steps"),
        (lambda: rnn.pack_padded_sequence(tl.ones(3, 2), [3]), RuntimeError, r"got 1 \(batch_size=2\)"),
        (lambda: rnn.pack_padded_sequence(tl.ones(0, 2), [1, 1]), RuntimeError, "Cannot pack empty"),
        (lambda: rnn.pack_padded_sequence(tl.ones(3, 2), [[3, 2]]), RuntimeError, "1D CPU int64 tensor, but got 2D"),
        (lambda: rnn.pad_sequence([]), RuntimeError, "empty list"),
        (lambda: rnn.pad_sequence(3), RuntimeError, "Expected iterable"),
        (lambda: rnn.pad_sequence(SEQUENCES, padding_side="top"), RuntimeError, "one of left, right"),
        (lambda: rnn.pad_packed_sequence(rnn.pack_sequence(SEQUENCES[:1]), total_length=0), ValueError, "at least"),
        (lambda: nn.LSTM(3, 4)(tl.ones(2, 5, 2)), RuntimeError, "Expected 3, got 2"),
        (lambda: nn.LSTM(3, 4)(tl.ones(2)), ValueError, "LSTM: Expected input to be 2D or 3D, got 1D"),
        (lambda: nn.LSTM(3, 4)(tl.ones(0, 5, 3)), RuntimeError, "sequence length to be larger than 0"),
        (lambda: nn.GRU(3, 4)(tl.ones(2, 5, 3, dtype=tl.float64)), ValueError, "does not match weight dtype"),
        (lambda: nn.GRU(3, 4)(tl.ones(2, 5, 3), tl.ones(1, 5, 4).double()), RuntimeError, "must have the same dtype"),
        (lambda: nn.GRU(3, 4)(tl.ones(2, 5, 3), tl.ones(1, 2, 4)), RuntimeError, r"\(1, 5, 4\), got \[1, 2, 4\]"),
        (lambda: nn.GRU(3, 4)(tl.ones(2, 5, 3), tl.ones(1, 4)), RuntimeError, "hx should also be 3-D but got 2-D"),
        (
            lambda: nn.LSTM(3, 4)(tl.ones(2, 3), (tl.ones(1, 4), tl.ones(1, 1, 4))),
            RuntimeError,
            r"should also be 2-D but got \(2-D, 3-D\)",
        ),
        (lambda: nn.LSTM(3, 4, proj_size=4), ValueError, "smaller than hidden_size"),
        (lambda: nn.GRU(3, 4, proj_size=2), ValueError, "only supported for LSTM"),
        (lambda: nn.RNN(3, 4, nonlinearity="sin"), ValueError, "Unknown nonlinearity 'sin'"),
        (lambda: nn.GRU(3, 0), ValueError, "hidden_size must be greater than zero"),
        (lambda: nn.GRU(3, 4, 2, True, 1), TypeError, "batch_first should be of type bool, got: int"),
        (lambda: nn.LSTM(3, 4, 2, dropout=1.5), ValueError, r"number in range \[0, 1\]"),
        (lambda: nn.LSTMCell(3, 4)(tl.ones(2, 2)), RuntimeError, "got 2 expected 3"),
        (lambda: nn.GRUCell(3, 4)(tl.ones(2, 3), tl.ones(1, 4)), RuntimeError, "batch size 2 doesn't match hidden0"),
        (lambda: nn.RNNCell(3, 4)(tl.ones(2, 3), tl.ones(2, 5)), RuntimeError, "hidden_size: got 5, expected 4"),
        (lambda: nn.RNNCell(3, 4)(tl.ones(2, 3, 1)), ValueError, "1D or 2D, got 3D"),
        (lambda: tl.gru(tl.ones(1, 1, 1), tl.ones(1, 1, 1), []), TypeError, "invalid combination of arguments"),
        (
            lambda: tl.lstm(tl.ones(1, 1, 1), [tl.ones(1, 1, 1)], [], True, 1, 0.0, False, False, False),
            RuntimeError,
            "expects two hidden states",
        ),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_dropout_with_one_layer_warns():
    with pytest.warns(UserWarning, match="num_layers greater than 1"):
        nn.GRU(3, 4, dropout=0.5)


@pytest.mark.parametrize("layer", [nn.LSTM(2, 3, proj_size=2), nn.LSTM(2, 3), nn.GRU(2, 3), nn.RNN(2, 3)],
                         ids=["LSTM-projected", "LSTM", "GRU", "RNN"])  # fmt: skip
def test_first_and_second_derivatives_of_packed_sequences(layer):
    layer = copy.deepcopy(layer).double()
    names = [name for name, _ in layer.named_parameters()]
    x = tl.randn(3, 2, 2, dtype=tl.float64, requires_grad=True)

    def run(x, *weights):
        packed = rnn.pack_padded_sequence(x, [2, 3], enforce_sorted=False)
        out, state = tl.func.functional_call(layer, dict(zip(names, weights, strict=True)), (packed,))
        return (out.data, *(state if isinstance(state, tuple) else (state,)))

    inputs = (x, *layer.parameters())
    assert gradcheck(run, inputs)
    assert gradgradcheck(run, inputs, atol=1e-4)


def test_a_packed_batch_is_each_sequence_alone():
    layer = nn.LSTM(2, 3, 2, bidirectional=True)
    out, (h, c) = layer(rnn.pack_sequence(SEQUENCES, enforce_sorted=False))
    for i, (sequence, rows) in enumerate(zip(SEQUENCES, rnn.unpack_sequence(out), strict=True)):
        alone, (h_alone, c_alone) = layer(sequence)
        assert tl.allclose(rows, alone, atol=1e-6)
        assert tl.allclose(h[:, i], h_alone, atol=1e-6) and tl.allclose(c[:, i], c_alone, atol=1e-6)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_a_layer_is_its_cell_step_by_step(name):
    layer, cell = getattr(nn, name)(3, 4), getattr(nn, f"{name}Cell")(3, 4)
    cell.load_state_dict({key.removesuffix("_l0"): value for key, value in layer.state_dict().items()})
    x, state = tl.randn(5, 2, 3), None
    out, _ = layer(x)
    for t in range(5):
        state = cell(x[t], state)
        assert tl.allclose(state[0] if name == "LSTM" else state, out[t], atol=1e-6)


def test_dropout_acts_between_layers_in_training_only():
    tl.manual_seed(0)
    layer = nn.RNN(1, 200, 2, "relu", dropout=0.25, bias=False)
    with tl.no_grad():
        layer.weight_ih_l0.fill_(1.0)
        layer.weight_hh_l0.zero_()
        layer.weight_ih_l1.copy_(tl.eye(200))
        layer.weight_hh_l1.zero_()
    out, _ = layer(tl.ones(20, 1, 1))
    np.testing.assert_allclose(np.unique(out.detach().numpy()), [0.0, 1 / 0.75], rtol=1e-6)
    assert abs((out == 0).float().mean() - 0.25) < 0.02
    assert (layer.eval()(tl.ones(20, 1, 1))[0] == 1).all()


def test_parameters_lie_in_lists_and_survive_copies():
    layer = nn.LSTM(3, 4, 2, bidirectional=True, proj_size=2)
    layer.flatten_parameters()
    assert [len(weights) for weights in layer.all_weights] == [5] * 4
    assert layer.all_weights[1][4] is layer.weight_hr_l0_reverse
    assert all((p.abs() <= 0.5).all() for p in layer.parameters())
    x = tl.randn(2, 1, 3)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert tl.equal(other(x)[0], layer(x)[0])
        other.weight_ih_l0 = nn.Parameter(tl.zeros(16, 3))
        assert other.all_weights[0][0] is other.weight_ih_l0 and not tl.equal(other(x)[0], layer(x)[0])


def test_layers_run_on_a_device():
    layer = nn.GRU(3, 4, 2, bidirectional=True)
    x = rnn.pack_sequence([tl.randn(2, 3), tl.randn(3, 3)], enforce_sorted=False)
    want, _ = rnn.pad_packed_sequence(layer(x)[0])
    got, _ = rnn.pad_packed_sequence(layer.to("interpret")(x.to("interpret"))[0])
    assert tl.allclose(got.cpu(), want, atol=1e-5)
