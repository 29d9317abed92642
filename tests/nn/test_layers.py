"""Every layer beside PyTorch's stored results: outputs, gradients, buffers, state_dict keys and repr."""

import copy
from pathlib import Path

import numpy as np
import pytest
from layer_cases import CASES, name_of, run

import tensorlib
from tensorlib import nn

EXPECTED = np.load(Path(__file__).with_name("expected.npz"))
NAMES: dict[int, list[str]] = {}
for key in EXPECTED.files:
    number, name = key.split("/", 1)
    NAMES.setdefault(int(number), []).append(name)


@pytest.mark.filterwarnings("ignore:kl_div. reduction 'mean'", "ignore:Implicit dimension choice")
@pytest.mark.parametrize("number", range(len(CASES)), ids=name_of)
def test_layer_agrees_with_pytorch(number):
    """Outputs and gradients within float32 rounding of PyTorch's, names and repr exactly."""
    found = run(nn, CASES[number], tensorlib.tensor, lambda t: t.detach().numpy().copy())
    assert sorted(found) == sorted(NAMES[number])
    for name, value in found.items():
        want = EXPECTED[f"{number}/{name}"]
        if value.dtype.kind in "US":
            assert value.tolist() == want.tolist()
        else:
            assert value.shape == want.shape and value.dtype == want.dtype, name
            np.testing.assert_allclose(value, want, rtol=2e-5, atol=1e-5, err_msg=name)


def test_every_layer_has_a_case():
    """A layer without a comparison would go unnoticed."""
    layers = {n for n in nn.__all__ if isinstance(getattr(nn, n), type) and issubclass(getattr(nn, n), nn.Module)}
    dropouts = {"AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "FeatureAlphaDropout"}  # tested below
    dropouts |= {"SyncBatchNorm", "CrossMapLRN2d"}  # PyTorch's need a GPU, and are wrong at the border: tested below
    containers = {"DataParallel", "Module", "ModuleDict", "ModuleList", "ParameterDict",
                  "ParameterList", "Sequential", "TransformerDecoder", "TransformerEncoder"}  # fmt: skip
    containers |= {"RNNBase", "RNNCellBase"}  # what the recurrent layers have in common
    layers -= {n for n in layers if n.startswith("Lazy")}  # tests/nn/test_lazy.py
    assert layers - containers - dropouts == {case.layer for case in CASES}


def test_dropout_zeroes_and_scales():
    """Each element is 0 or x / (1 - p), about p of them 0; evaluation passes the input through."""
    tensorlib.manual_seed(0)
    layer = nn.Dropout(0.25)
    x = tensorlib.ones(100, 100)
    values = layer(x).numpy()
    np.testing.assert_allclose(np.unique(values), [0.0, 1 / 0.75], rtol=1e-6)
    assert abs((values == 0).mean() - 0.25) < 0.02
    layer.eval()
    assert np.array_equal(layer(x).numpy(), x.numpy())
    with pytest.raises(ValueError, match=r"between 0 and 1, but got 1\.5"):
        nn.Dropout(1.5)


def test_dropout_of_channels_and_alpha_dropout():
    """Whole channels are zero or scaled; AlphaDropout keeps mean and variance of a standard normal."""
    tensorlib.manual_seed(0)
    for layer, shape in ((nn.Dropout1d(0.5), (40, 5, 7)), (nn.Dropout2d(0.5), (40, 5, 3, 4))):
        values = layer(tensorlib.ones(*shape)).numpy().reshape(200, -1)
        assert (values == values[:, :1]).all() and set(np.unique(values)) == {0.0, 2.0}
        assert np.array_equal(layer.eval()(tensorlib.ones(*shape)).numpy(), np.ones(shape))
    values = nn.AlphaDropout(0.3)(tensorlib.randn(100_000)).numpy()
    assert abs(values.mean()) < 0.02 and abs(values.std() - 1) < 0.02


def test_max_pool_returns_indices():
    """Flat positions of the maxima in each plane, beside the values."""
    x = tensorlib.tensor([[[[1.0, 5.0, 2.0, 0.0], [3.0, 4.0, 9.0, 8.0]]]])
    values, indices = nn.MaxPool2d(2, return_indices=True)(x)
    assert values.tolist() == [[[[5.0, 9.0]]]] and indices.tolist() == [[[[1, 6]]]]


def test_implicit_softmax_dim_warns():
    """As PyTorch does."""
    with pytest.warns(UserWarning, match="Implicit dimension choice for log_softmax"):
        nn.LogSoftmax()(tensorlib.ones(2))


def test_default_initialisation_draws_weight_then_bias():
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) for both, in this order from one stream."""
    for layer, fan_in in ((nn.Linear, 16), (lambda *a: nn.Conv2d(*a, kernel_size=2), 64)):
        tensorlib.manual_seed(3)
        made = layer(16, 6)
        tensorlib.manual_seed(3)
        bound = 1 / np.sqrt(fan_in)
        weight = tensorlib.empty(*made.weight.shape).uniform_(-bound, bound)
        bias = tensorlib.empty(6).uniform_(-bound, bound)
        np.testing.assert_allclose(made.weight.detach().numpy(), weight.numpy(), rtol=1e-6)
        np.testing.assert_allclose(made.bias.detach().numpy(), bias.numpy(), rtol=1e-6)


def test_embedding_from_pretrained_is_frozen_and_shares_memory():
    """The given table is the weight itself."""
    table = tensorlib.arange(6, dtype=tensorlib.float32).reshape(3, 2)
    layer = nn.Embedding.from_pretrained(table)
    assert not layer.weight.requires_grad
    table[0, 0] = 9.0
    assert layer(tensorlib.tensor([0])).tolist() == [[9.0, 1.0]]
    assert nn.Embedding.from_pretrained(table, freeze=False).weight.requires_grad


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels must be divisible by groups"),
        (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, "out_channels must be divisible by groups"),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), ValueError, "but got padding_mode='mirror'"),
        (lambda: nn.ConvTranspose1d(3, 4, 3, padding_mode="reflect"), ValueError, 'Only "zeros" padding mode'),
        (
            lambda: nn.ConvTranspose1d(3, 4, 3, 2)(tensorlib.ones(1, 3, 4), output_size=[11]),
            ValueError,
            r"valid sizes range from \[9\] to \[10\]",
        ),
        (lambda: nn.FractionalMaxPool2d(2), ValueError, "either an output size, or a pooling ratio"),
        (lambda: nn.FractionalMaxPool3d(2, output_ratio=1.5), ValueError, "must be between 0 and 1"),
        (lambda: nn.Conv2d(3, 4, 3, padding="full"), ValueError, "Invalid padding string 'full'"),
        (lambda: nn.Conv2d(3, 4, 3, stride=2, padding="same"), ValueError, "not supported for strided"),
        (lambda: nn.Embedding(3, 2, padding_idx=3), AssertionError, "within num_embeddings"),
        (
            lambda: nn.InstanceNorm2d(3, affine=True)(tensorlib.ones(2, 4, 5, 5)),
            ValueError,
            r"num_features \(3\), but got: 4",
        ),
        (lambda: nn.MultiheadAttention(8, 3), AssertionError, "divisible by num_heads"),
        (lambda: nn.GroupNorm(3, 4), ValueError, r"num_channels \(4\) must be divisible by num_groups \(3\)"),
        (lambda: nn.BatchNorm2d(3)(tensorlib.ones(2, 3)), ValueError, r"expected 4D input \(got 2D input\)"),
        (lambda: nn.GroupNorm(2, 4)(tensorlib.ones(2, 3, 5)), RuntimeError, r"\(2, 3, 5\): expected \(n, 4"),
        (lambda: nn.Hardtanh(1.0, 0.0), AssertionError, "must be larger than min_val"),
        (lambda: nn.Unflatten(1, 4), TypeError, "must be tuple of ints"),
    ],
)
def test_errors(make, error, match):
    """Wrong arguments say what came and what was expected."""
    with pytest.raises(error, match=match):
        make()


def test_old_batchnorm_checkpoint_without_count_loads():
    """State saved before num_batches_tracked existed (no version) is still complete."""
    layer = nn.BatchNorm1d(3)
    state = {k: v for k, v in layer.state_dict().items() if k != "num_batches_tracked"}
    assert str(layer.load_state_dict(state)) == "<All keys matched successfully>"


def test_channel_dropouts_keep_whole_channels():
    tensorlib.manual_seed(0)
    x = tensorlib.ones(8, 16, 2, 2, 2)
    out = nn.Dropout3d(0.25)(x).flatten(2)
    assert set(np.unique(out.numpy())) == {0.0, np.float32(1 / 0.75)} and (out == out[..., :1]).all()
    out = nn.FeatureAlphaDropout(0.25)(x).flatten(2)
    assert len(np.unique(out.numpy())) == 2 and (out == out[..., :1]).all()
    assert nn.Dropout3d(0.25).eval()(x) is x


def test_sync_batch_norm_is_batch_norm_in_one_process():
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    x = tensorlib.randn(4, 2, 3, 3)
    made = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert type(made[1]) is nn.SyncBatchNorm and list(made.state_dict()) == list(model.state_dict())
    assert tensorlib.equal(made(x), model(x)) and tensorlib.equal(made[1].running_var, model[1].running_var)


def test_cross_map_norm_is_the_local_response_norm():
    x = tensorlib.randn(1, 5, 2, 2)
    assert tensorlib.equal(nn.CrossMapLRN2d(3, 0.1)(x), nn.LocalResponseNorm(3, 0.1)(x))
