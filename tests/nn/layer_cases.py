"""The layers that are compared with PyTorch: name, arguments, inputs. No tensor library is imported here.

Arrays come from NumPy's RandomState, whose streams never change, so that only outputs need storing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

_draws = np.random.RandomState(0)


class Case(NamedTuple):
    """``getattr(nn, layer)(*args, **options)(*inputs, **call)``; arrays anywhere become tensors."""

    layer: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    inputs: tuple[Any, ...]  # arrays, and tuples of them
    call: dict[str, Any]


def normal(*shape: int) -> np.ndarray:
    """Standard normal float32."""
    return _draws.standard_normal(shape).astype(np.float32)


def uniform(*shape: int) -> np.ndarray:
    """Uniform float32 within (0.05, 0.95)."""
    return _draws.uniform(0.05, 0.95, shape).astype(np.float32)


def integers(*values: Any) -> np.ndarray:
    """Given int64."""
    return np.array(values, np.int64)


CASES: list[Case] = []


def add(
    layer: str, *args: Any, inputs: tuple[np.ndarray, ...], call: dict[str, Any] | None = None, **options: Any
) -> None:
    """Append one case."""
    CASES.append(Case(layer, args, options, inputs, call or {}))


add("Linear", 3, 4, inputs=(normal(2, 5, 3),))
add("Linear", 3, 4, bias=False, inputs=(normal(3),))
add("Bilinear", 3, 4, 2, inputs=(normal(5, 3), normal(5, 4)))
add("Identity", 7, inputs=(normal(2, 3),))
add("Flatten", inputs=(normal(2, 3, 4),))
add("Flatten", 0, 1, inputs=(normal(2, 3, 4),))
add("Unflatten", 1, (2, 3), inputs=(normal(2, 6),))
add("Embedding", 7, 3, inputs=(integers([1, 2], [6, 1]),))
add("Embedding", 7, 3, padding_idx=-5, inputs=(integers([1, 2], [3, 2]),))
add("Embedding", 7, 3, max_norm=0.5, inputs=(integers(1, 3, 3),))
add("Embedding", 7, 3, padding_idx=0, max_norm=0.4, norm_type=1.0, inputs=(integers([1, 0], [5, 1]),))
add("Embedding", 4, 2, scale_grad_by_freq=True, inputs=(integers(1, 3, 3),))
add("Conv1d", 2, 4, 3, inputs=(normal(2, 2, 6),))
add("Conv1d", 4, 6, 2, stride=2, padding=1, dilation=2, groups=2, inputs=(normal(1, 4, 9),))
add("Conv2d", 2, 4, 3, inputs=(normal(2, 2, 6, 5),))
add("Conv2d", 4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, bias=False,
    inputs=(normal(1, 4, 7, 6),))  # fmt: skip
add("Conv2d", 2, 3, 3, padding="same", inputs=(normal(2, 2, 5, 4),))
add("Conv2d", 2, 3, (2, 4), padding="same", dilation=(1, 2), inputs=(normal(1, 2, 7, 8),))
add("Conv2d", 2, 3, 3, padding="valid", inputs=(normal(2, 5, 4),))
add("MaxPool2d", 2, inputs=(normal(2, 3, 5, 5),))
add("MaxPool2d", 3, 2, 1, ceil_mode=True, inputs=(normal(1, 2, 6, 6),))
add("MaxPool1d", 3, 2, 1, inputs=(normal(2, 3, 8),))
add("AvgPool1d", 3, 2, 1, ceil_mode=True, inputs=(normal(2, 3, 8),))
add("AdaptiveMaxPool2d", (2, 3), inputs=(normal(2, 2, 5, 7),))
add("AvgPool2d", 2, inputs=(normal(2, 3, 5, 5),))
add("AvgPool2d", (3, 2), (2, 1), 1, count_include_pad=False, inputs=(normal(1, 2, 6, 5),))
add("AdaptiveAvgPool2d", 1, inputs=(normal(2, 3, 5, 4),))
add("AdaptiveAvgPool2d", (3, None), inputs=(normal(2, 2, 7, 4),))
add("AdaptiveAvgPool2d", (4, 3), inputs=(normal(2, 7, 5),))
add("LayerNorm", 5, inputs=(normal(3, 2, 5),))
add("LayerNorm", (4, 5), bias=False, inputs=(normal(2, 4, 5),))
add("LayerNorm", [5], elementwise_affine=False, eps=1e-3, inputs=(normal(3, 5),))
add("RMSNorm", 5, inputs=(normal(3, 5),))
add("RMSNorm", (4, 5), eps=1e-3, elementwise_affine=False, inputs=(normal(2, 4, 5),))
add("GroupNorm", 2, 4, inputs=(normal(2, 4, 3, 2),))
add("GroupNorm", 4, 4, affine=False, inputs=(normal(2, 4, 5),))
add("InstanceNorm1d", 3, inputs=(normal(2, 3, 5),))
add("InstanceNorm2d", 3, affine=True, track_running_stats=True, inputs=(normal(2, 3, 4, 2),))
add("InstanceNorm2d", 3, affine=True, inputs=(normal(3, 4, 2),))
add("BatchNorm1d", 4, inputs=(normal(5, 4),))
add("BatchNorm1d", 4, momentum=None, inputs=(normal(3, 4, 5),))
add("BatchNorm2d", 3, affine=False, inputs=(normal(2, 3, 4, 2),))
add("BatchNorm2d", 3, track_running_stats=False, eps=1e-2, inputs=(normal(2, 3, 4, 2),))
for name in (
    "CELU",
    "Hardshrink",
    "Softshrink",
    "Tanhshrink",
    "ELU",
    "GELU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "Mish",
    "PReLU",
    "ReLU",
    "ReLU6",
    "SELU",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Softsign",
    "Tanh",
):
    add(name, inputs=(normal(3, 4) * 3,))
add("GELU", "tanh", inputs=(normal(3, 4),))
add("GLU", 0, inputs=(normal(4, 3),))
add("LeakyReLU", 0.2, inputs=(normal(5),))
add("PReLU", 4, inputs=(normal(3, 4),))
add("ELU", 0.7, inputs=(normal(5),))
add("Hardtanh", -0.5, 0.7, inputs=(normal(5),))
add("Softplus", 2.0, 3.0, inputs=(normal(5) * 3,))
add("CELU", 0.7, inputs=(normal(5),))
add("Threshold", 0.1, 20.0, inputs=(normal(5),))
add("Hardshrink", 0.2, inputs=(normal(5),))
add("Softmin", 1, inputs=(normal(3, 4),))
add("Softmax", 1, inputs=(normal(3, 4),))
add("Softmax", inputs=(normal(2, 3, 4),))
add("LogSoftmax", 0, inputs=(normal(3, 4),))
for reduction in ("mean", "sum", "none"):
    for name in ("L1Loss", "MSELoss", "SmoothL1Loss", "HuberLoss", "BCELoss", "BCEWithLogitsLoss", "KLDivLoss"):
        add(name, reduction=reduction, inputs=(uniform(3, 4), uniform(3, 4)))
    for name in ("CrossEntropyLoss", "NLLLoss"):
        add(name, normal(4) ** 2, ignore_index=1, reduction=reduction, inputs=(normal(5, 4), integers(0, 1, 3, 2, 2)))
add("SmoothL1Loss", beta=0.3, inputs=(normal(3, 4), normal(3, 4)))
add("HuberLoss", delta=0.3, inputs=(normal(3, 4), normal(3, 4)))
add("CrossEntropyLoss", label_smoothing=0.1, inputs=(normal(3, 4, 2), integers([0, 1], [3, 3], [2, 0])))
add("CrossEntropyLoss", inputs=(normal(3, 4), uniform(3, 4)))
add("BCEWithLogitsLoss", uniform(4), pos_weight=uniform(4) * 3, inputs=(normal(3, 4), uniform(3, 4)))

_hide = np.array([[0, 0, 0, 0, 1]] * 2, bool)
_causal = np.triu(np.ones((4, 4), bool), 1)
for options in ({}, {"bias": False}, {"kdim": 3, "vdim": 6}, {"add_bias_kv": True, "add_zero_attn": True}):
    for call in ({}, {"need_weights": False, "key_padding_mask": _hide},
                 {"average_attn_weights": False, "attn_mask": normal(4, 4, 5)}):  # fmt: skip
        _kv = normal(5, 2, options.get("kdim", 8)), normal(5, 2, options.get("vdim", 8))
        add("MultiheadAttention", 8, 2, inputs=(normal(4, 2, 8), *_kv), call=call, **options)
_x = normal(2, 4, 8)
add("MultiheadAttention", 8, 4, batch_first=True, inputs=(_x, _x, _x), call={"attn_mask": _causal})
add("MultiheadAttention", 8, 4, batch_first=True, inputs=(_x, _x, _x),
    call={"attn_mask": _causal, "is_causal": True, "need_weights": False})  # fmt: skip
_y = normal(4, 8)
add("MultiheadAttention", 8, 2, inputs=(_y, _y, _y))

for mode in ("reflect", "replicate", "circular"):
    add("Conv1d", 2, 4, 3, padding="same", padding_mode=mode, dilation=2, inputs=(normal(2, 2, 6),))
    add("Conv2d", 2, 3, (3, 2), 2, (2, 1), padding_mode=mode, inputs=(normal(2, 5, 4),))
add("Conv3d", 4, 6, (2, 1, 3), (1, 2, 1), (1, 0, 2), (1, 1, 2), groups=2, inputs=(normal(2, 4, 3, 4, 5),))
add("Conv3d", 2, 3, 2, padding="same", padding_mode="circular", bias=False, inputs=(normal(2, 3, 3, 2),))
add("ConvTranspose1d", 2, 4, 3, inputs=(normal(2, 2, 5),))
add("ConvTranspose1d", 4, 6, 3, 2, 1, 1, 2, False, 2, inputs=(normal(4, 5),))
add("ConvTranspose2d", 2, 3, (3, 2), (2, 3), inputs=(normal(2, 2, 3, 4),), call={"output_size": [8, 11]})
add("ConvTranspose2d", 4, 2, 4, 2, 1, groups=2, inputs=(normal(4, 3, 2),), call={"output_size": [2, 7, 5]})
add("ConvTranspose3d", 2, 4, 2, 2, 1, 1, inputs=(normal(1, 2, 2, 3, 2),))
for dims in (1, 2, 3):
    _image = normal(2, 3, *(7, 6, 5)[:dims])
    add(f"MaxPool{dims}d", 3, 2, 1, 1, True, True, inputs=(_image,))
    add(f"AvgPool{dims}d", 2, ceil_mode=True, count_include_pad=False, padding=1, inputs=(_image,))
    add(f"LPPool{dims}d", 2, 2, ceil_mode=True, inputs=(_image,))
    add(f"AdaptiveAvgPool{dims}d", 3, inputs=(_image,))
    add(f"AdaptiveMaxPool{dims}d", 3, return_indices=True, inputs=(_image[0],))
    add(f"MaxUnpool{dims}d", 2, inputs=(normal(1, 2, *(2,) * dims), np.arange(2 << dims).reshape(1, 2, *(2,) * dims)))
add("MaxUnpool2d", 3, 2, 1, inputs=(normal(1, 2, 2), integers([[0, 3], [7, 8]])), call={"output_size": (3, 3)})
add("AvgPool3d", 2, divisor_override=3, inputs=(normal(1, 2, 4, 3, 2),))
add("FractionalMaxPool2d", 2, (3, 2), return_indices=True, _random_samples=uniform(2, 3, 2),
    inputs=(normal(2, 3, 6, 5),))  # fmt: skip
add("FractionalMaxPool3d", (2, 1, 2), output_ratio=0.6, _random_samples=uniform(1, 2, 3), inputs=(normal(2, 5, 6, 4),))
_later = np.triu(np.ones((4, 4), bool), 1)  # what a causal mask hides
_padded = np.array([[False, False, False, True], [False, False, True, True]])
add("TransformerEncoderLayer", 8, 2, 16, 0.0, inputs=(normal(4, 2, 8),))
add("TransformerEncoderLayer", 8, 2, 16, 0.0, "gelu", norm_first=True, bias=False, inputs=(normal(4, 8),))
add("TransformerEncoderLayer", 8, 4, 16, 0.0, batch_first=True, layer_norm_eps=1e-3, inputs=(normal(2, 4, 8),),
    call={"src_mask": _later, "src_key_padding_mask": _padded})  # fmt: skip
add("TransformerDecoderLayer", 8, 2, 16, 0.0, inputs=(normal(4, 2, 8), normal(3, 2, 8)))
add("TransformerDecoderLayer", 8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True,
    inputs=(normal(2, 3, 8), normal(2, 4, 8)), call={"memory_key_padding_mask": _padded})  # fmt: skip
add("Transformer", 8, 2, 2, 2, 16, 0.0, inputs=(normal(4, 2, 8), normal(3, 2, 8)))
add("Transformer", 8, 2, 1, 1, 16, 0.0, "gelu", batch_first=True, norm_first=True, bias=False,
    inputs=(normal(2, 4, 8), normal(2, 4, 8)),
    call={"tgt_mask": _later, "src_key_padding_mask": _padded, "memory_key_padding_mask": _padded})  # fmt: skip

for dims in (1, 2, 3):
    shape = (2, 3, 4)[:dims]
    for kind in ("Reflection", "Replication", "Circular", "Zero"):
        add(f"{kind}Pad{dims}d", 1, inputs=(normal(1, 2, *(n + 1 for n in shape)),))
    add(f"ConstantPad{dims}d", (1, 2, 0, -1, 2, 1)[: 2 * dims], 1.5, inputs=(normal(1, 2, *shape),))
add("ReflectionPad2d", (1, 0, 2, 1), inputs=(normal(2, 3, 4),))
add("Upsample", 7, inputs=(normal(1, 2, 4),))
add("Upsample", scale_factor=(2, 1.5), mode="bilinear", inputs=(normal(1, 2, 3, 4),))
add("UpsamplingNearest2d", scale_factor=2, inputs=(normal(1, 2, 3, 2),))
add("UpsamplingBilinear2d", (4, 5), inputs=(normal(1, 2, 3, 2),))
add("Fold", (4, 5), (2, 3), inputs=(normal(1, 12, 9),))
add("Unfold", 2, stride=2, padding=1, inputs=(normal(1, 2, 4, 4),))
add("PixelShuffle", 2, inputs=(normal(1, 4, 2, 3),))
add("PixelUnshuffle", 2, inputs=(normal(1, 1, 4, 6),))
add("ChannelShuffle", 2, inputs=(normal(1, 4, 2),))
add("CosineSimilarity", inputs=(normal(3, 4), normal(3, 4)))
add("PairwiseDistance", 1.0, keepdim=True, inputs=(normal(3, 4), normal(3, 4)))
add("RReLU", 0.25, 0.25, inputs=(normal(3, 4),))
add("Softmax2d", inputs=(normal(2, 3, 2, 2),))
add("LocalResponseNorm", 3, 0.1, inputs=(normal(2, 5, 3),))
add("BatchNorm3d", 3, inputs=(normal(2, 3, 2, 2, 2),))
add("InstanceNorm3d", 3, affine=True, track_running_stats=True, inputs=(normal(2, 3, 2, 2, 2),))
add("EmbeddingBag", 7, 3, inputs=(integers([1, 2], [6, 1]),))
add("EmbeddingBag", 7, 3, mode="sum", padding_idx=1, include_last_offset=True,
    inputs=(integers(1, 2, 6, 1), integers(0, 1, 4), normal(4)))  # fmt: skip
add("EmbeddingBag", 7, 3, mode="max", inputs=(integers(1, 2, 6, 1), integers(0, 3)))
add("PoissonNLLLoss", inputs=(normal(3, 2), integers([1, 2], [0, 1], [4, 3])))
add("GaussianNLLLoss", full=True, inputs=(normal(3, 2), normal(3, 2), uniform(3, 2)))
add("HingeEmbeddingLoss", 0.5, inputs=(normal(3), integers(1, -1, 1)))
add("SoftMarginLoss", inputs=(normal(3), integers(1, -1, 1)))
add("MultiLabelMarginLoss", inputs=(normal(2, 3), integers([0, -1, 1], [2, 1, -1])))
add("MultiLabelSoftMarginLoss", weight=np.float32([1, 2, 0.5]), inputs=(normal(2, 3), integers([0, 1, 1], [1, 1, 0])))
add("CosineEmbeddingLoss", 0.1, inputs=(normal(3, 4), normal(3, 4), integers(1, -1, 1)))
add("MarginRankingLoss", 0.5, reduction="none", inputs=(normal(3), normal(3), integers(1, -1, 1)))
add("MultiMarginLoss", 2, 0.7, inputs=(normal(2, 3), integers(0, 2)))
add("TripletMarginLoss", swap=True, inputs=(normal(3, 4), normal(3, 4), normal(3, 4)))
add("TripletMarginWithDistanceLoss", margin=2.0, inputs=(normal(3, 4), normal(3, 4), normal(3, 4)))
add("CTCLoss", reduction="sum", inputs=(normal(6, 2, 4), integers([1, 2], [3, 1]), integers(6, 5), integers(2, 1)))
add("NLLLoss2d", inputs=(normal(2, 3, 2, 2), integers([[0, 1], [2, 0]], [[1, 1], [2, 2]])))
add("LinearCrossEntropyLoss", 4, 5, out_features=(2,), bias=True, inputs=(normal(2, 4), integers([0, 4], [2, 2])))
add("AdaptiveLogSoftmaxWithLoss", 16, 20, [5, 10], inputs=(normal(6, 16), integers(0, 4, 5, 9, 10, 19)))

for name in ("RNN", "LSTM", "GRU"):
    _states: list[Any] = [normal(*shape) for shape in ((4, 2, 4), (1, 4), (2, 4))]
    if name == "LSTM":
        _states = [(h, h[::-1].copy()) for h in _states]
    add(name, 3, 4, inputs=(normal(5, 2, 3),))
    add(name, 3, 4, 2, bidirectional=True, batch_first=True, inputs=(normal(2, 3, 3), _states[0]))
    add(name, 3, 4, bias=False, inputs=(normal(3, 3), _states[1]))
    add(f"{name}Cell", 3, 4, inputs=(normal(2, 3), _states[2]))
    add(f"{name}Cell", 3, 4, False, inputs=(normal(3),))
add("RNN", 3, 4, nonlinearity="relu", inputs=(normal(5, 2, 3),))
add("RNNCell", 3, 4, nonlinearity="relu", inputs=(normal(2, 3), normal(2, 4)))
add("LSTM", 3, 4, 2, proj_size=2, bidirectional=True, inputs=(normal(3, 2, 3), (normal(4, 2, 2), normal(4, 2, 4))))


def name_of(number: int) -> str:
    """The test's name."""
    return f"{number}-{CASES[number].layer}"


def run(nn: Any, case: Case, tensor: Any, to_numpy: Any) -> dict[str, np.ndarray]:
    """One forward and backward in training mode, one forward in evaluation mode: all that came out, as arrays."""

    def convert(value: Any) -> Any:
        return tensor(value) if isinstance(value, np.ndarray) else value

    draws = np.random.RandomState(len(CASES))
    layer = getattr(nn, case.layer)(
        *map(convert, case.args), **{name: convert(value) for name, value in case.options.items()}
    )
    for param in layer.parameters():
        param.data = tensor((draws.standard_normal(tuple(param.shape)) * 0.5).astype(np.float32))
    made: dict[int, Any] = {}  # the same array given twice is the same tensor: attention looks at identity

    def leaf(array: Any) -> Any:
        if isinstance(array, tuple):
            return tuple(map(leaf, array))
        if id(array) not in made:
            made[id(array)] = tensor(array)
            if array.dtype.kind == "f":
                made[id(array)].requires_grad_(True)
        return made[id(array)]

    inputs = [leaf(array) for array in case.inputs]
    call = {name: convert(value) for name, value in case.call.items()}

    def flat(values: Any) -> list[Any]:
        if isinstance(values, (tuple, list)):
            return [x for value in values for x in flat(value)]
        return [] if values is None else [values]

    found: dict[str, np.ndarray] = {}
    loss = 0.0
    for i, out in enumerate(flat(layer(*inputs, **call))):
        found[f"out{i}"] = to_numpy(out)
        loss = loss + (out * tensor(draws.standard_normal(tuple(out.shape)).astype(np.float32))).sum()
    loss.backward()  # type: ignore[attr-defined]
    for i, x in enumerate(flat(inputs)):
        if x.grad is not None:
            found[f"grad{i}"] = to_numpy(x.grad)
    for name, param in layer.named_parameters():
        if param.grad is not None:
            found[f"grad.{name}"] = to_numpy(param.grad)
    layer.eval()
    for i, out in enumerate(flat(layer(*inputs, **call))):
        found[f"eval{i}"] = to_numpy(out)
    for name, buffer in layer.named_buffers():
        found[f"buffer.{name}"] = to_numpy(buffer)
    found["keys"] = np.array(list(layer.state_dict()))
    found["repr"] = np.array(repr(layer).replace("NonDynamicallyQuantizableLinear", "Linear"))
    return found
