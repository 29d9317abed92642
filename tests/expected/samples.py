"""Calls of the public composites that declare no samples: what they are compared with PyTorch on."""

from __future__ import annotations

from tensorlib._samples import Draw, Sample, between, bools, distinct, draw, ints, resolve, values
from tensorlib.op import composites


def n(*shape: int) -> Draw:
    """Normal numbers, where a parameter takes numbers as well as tensors."""
    return Draw(shape)


#: On both sides of every bend of the activations, and at them.
BENDS = values([-7.0, -3.5, -3.0, -1.0, -0.75, -0.5, -0.0, 0.0, 0.25, 0.5, 1.0, 3.0, 6.0, 7.0])
ELEMENTWISE = [draw(n(3, 4)), draw(BENDS), draw(n()), draw(n(0, 3)), draw(Draw((4, 5), layout="transposed"))]
DIVISIONS = [draw(n(3, 4), between(1, 4, 3, 4)), draw(n(3, 1), between(1, 4, 4)), draw(n(5), -2.5),
             draw(n(0, 2), between(1, 4, 2))]  # fmt: skip
PAIRS = [draw(n(3, 4), n(3, 4)), draw(n(3, 1), n(4)), draw(n(5), 2.5), draw(n(0, 2), n(2)), draw(n(), n())]


def attributes(samples: list[Sample], **attrs: object) -> list[Sample]:
    """The samples with attributes."""
    return [draw(*s.args, **{**s.attrs, **attrs}) for s in samples]


def losses(input: Draw, target: Draw, *more: Sample, **attrs: object) -> list[Sample]:
    """A loss of one pair under each reduction."""
    return [*[draw(input, target, reduction=r, **attrs) for r in ("mean", "sum", "none")], *more]


_PROBABILITY = between(0.05, 0.95, 4, 3)
_INDEX = Draw((3,), "values", values=[2, 0, 1], dtype="int64", grad=False)
_MATRIX = Draw((2, 3), "values", values=[[0, 2, 1], [3, 1, 2]], dtype="int64", grad=False)
_CLASSES = ints(6, low=0, high=5)

SAMPLES: dict[str, list[Sample]] = {
    "zeros": [draw(2, 3), draw(()), draw(0, 2)],
    "ones": [draw(2, 3), draw((4,))],
    "full": [draw((2, 3), 2.5), draw((), 7), draw((3,), True)],
    "zeros_like": [draw(n(2, 3)), draw(ints(3))],
    "ones_like": [draw(n(2, 3)), draw(bools(3))],
    "full_like": [draw(n(2, 3), 2.5), draw(ints(3), 2)],
    "arange": [draw(5), draw(1, 7, 2), draw(1.0, 0.0, -0.25), draw(0)],
    "linspace": [draw(-1.0, 2.0, 7), draw(3, 3, 1), draw(0, 1, 0)],
    "eye": [draw(3), draw(2, 4), draw(4, 2)],
    "tril_indices": [draw(3, 4), draw(4, 3, offset=1)],
    "triu_indices": [draw(3, 4), draw(4, 3, offset=-1)],
    "rsub": [*PAIRS, *attributes(PAIRS[:1], alpha=2)],
    "div": [*DIVISIONS[:1], *attributes(DIVISIONS, rounding_mode="trunc"),
            *attributes(DIVISIONS, rounding_mode="floor"), *DIVISIONS[1:], draw(n(3, 4), n(3, 4)), draw(n(), n())],
    "positive": ELEMENTWISE,
    "isposinf": [*ELEMENTWISE, draw(values([float("inf"), -float("inf"), float("nan")]))],
    "isneginf": [*ELEMENTWISE, draw(values([float("inf"), -float("inf"), float("nan")]))],
    "isclose": [draw(values([1.0, 1.0, 0.0]), values([1.0, 1.1, 1e-9])), draw(n(3, 1), n(4), rtol=0.5, atol=0.1),
                draw(values([float("nan")]), values([float("nan")]), equal_nan=True)],
    "allclose": [draw(values([1.0, 2.0]), values([1.0, 2.0])), draw(n(3), n(3)), draw(n(3), n(3), atol=10.0)],
    "equal": [draw(values([1.0, 2.0]), values([1.0, 2.0])), draw(n(3), n(3)), draw(n(3), n(4))],
    "where": [draw(bools(3, 4), n(3, 4), n(3, 4)), draw(bools(3, 1), n(4), 2.5), draw(bools(4), 1.5, n(3, 4)),
              draw(bools(3, 4))],
    "clamp_min": [draw(n(3, 4), 0.25), draw(n(3, 4), n(4)), draw(distinct(5), -1.0)],
    "clamp_max": [draw(n(3, 4), 0.25), draw(n(3, 4), n(4)), draw(distinct(5), -1.0)],
    "masked_fill": [draw(n(3, 4), bools(3, 4), 2.5), draw(n(3, 4), bools(4), n()), draw(n(0, 4), bools(4), 0)],
    "nan_to_num": [draw(values([float("nan"), 1.5])), draw(n(3, 4)),
                   draw(values([float("nan"), float("inf"), -float("inf")]), nan=1.0, posinf=2.0, neginf=-2.0)],
    "deg2rad": ELEMENTWISE,
    "rad2deg": ELEMENTWISE,
    "round": [*ELEMENTWISE, draw(n(3, 4), decimals=2), draw(values([125.0, 135.0, -125.0]), decimals=-1),
              draw(values([0.5, 1.5, 2.5, -0.5]))],
    "relu": ELEMENTWISE,
    "hardtanh": [*ELEMENTWISE, draw(n(3, 4), min_val=-0.5, max_val=2.0)],
    "relu6": ELEMENTWISE,
    "leaky_relu": [*ELEMENTWISE, draw(n(3, 4), negative_slope=0.3)],
    "prelu": [draw(n(2, 3, 4), n(3)), draw(n(3, 4), n(1)), draw(n(5), n(1))],
    "threshold": attributes(ELEMENTWISE, threshold=0.25, value=-2.0),
    "elu": [*ELEMENTWISE, draw(n(3, 4), alpha=0.5)],
    "selu": ELEMENTWISE,
    "celu": [*ELEMENTWISE, draw(n(3, 4), alpha=0.5)],
    "gelu": [*ELEMENTWISE, *attributes(ELEMENTWISE, approximate="tanh")],
    "silu": ELEMENTWISE,
    "mish": ELEMENTWISE,
    "glu": [draw(n(3, 4)), draw(n(4, 3), dim=0), draw(n(2, 6, 3), dim=1), draw(n(0, 4))],
    "hardsigmoid": ELEMENTWISE,
    "hardswish": ELEMENTWISE,
    "tanhshrink": ELEMENTWISE,
    "softshrink": [*ELEMENTWISE, draw(n(3, 4), lambd=1.0)],
    "view_as": [draw(n(3, 4), n(2, 6)), draw(n(0, 4), n(4, 0))],
    "reshape_as": [draw(n(3, 4), n(2, 6)), draw(Draw((3, 4), layout="transposed"), n(12))],
    "expand_as": [draw(n(3, 1), n(3, 4)), draw(n(), n(2, 2))],
    "broadcast_tensors": [draw(n(3, 1), n(4)), draw(n(2), n(2)), draw(n(), n(0, 2))],
    "atleast_1d": [draw(n()), draw(n(3)), draw(n(), n(2))],
    "atleast_2d": [draw(n()), draw(n(3)), draw(n(2, 3))],
    "atleast_3d": [draw(n()), draw(n(3)), draw(n(2, 3)), draw(n(2, 3, 4))],
    "as_strided": [draw(n(12), (3, 2), (4, 1)), draw(n(3, 4), (2, 2), (4, 1), 1), draw(n(5), (3, 3), (1, 1))],
    "index_put_": [draw(n(4, 3), [_INDEX], n(3, 3)), draw(n(4, 3), [_INDEX], n(3, 3), accumulate=True)],
    "index_add_": [draw(n(4, 3), 0, _INDEX, n(3, 3)), draw(n(2, 4), 1, _INDEX, n(2, 3), alpha=2)],
    "index_copy_": [draw(n(4, 3), 0, _INDEX, n(3, 3)), draw(n(2, 4), -1, _INDEX, n(2, 3))],
    "index_fill_": [draw(n(4, 3), 0, _INDEX, 2.5), draw(n(2, 4), 1, _INDEX, -1.0)],
    "scatter_": [draw(n(2, 4), 1, _MATRIX, n(2, 3)), draw(n(4, 3), 0, _MATRIX, n(2, 3)),
                 draw(n(2, 4), 1, _MATRIX, 2.5)],
    "scatter_add_": [draw(n(2, 4), 1, _MATRIX, n(2, 3)), draw(n(4, 3), 0, _MATRIX, n(2, 3))],
    "pow": [draw(between(0.1, 3, 3, 4), n(3, 4)), draw(n(3, 4), 2), draw(n(3, 4), 3), draw(n(5), 0), draw(n(5), -2),
            draw(between(0.1, 3, 5), 0.5), draw(between(0.1, 3, 5), -1.5), draw(2.0, n(5)), draw(n(0, 2), 3),
            draw(values([0.0, 0.0, 1.0, -2.0]), values([0.0, 2.0, 0.0, 3.0]))],
    "float_power": [draw(between(0.1, 3, 3, 4), n(3, 4)), draw(n(3, 4), 2), draw(2.0, n(5)), draw(ints(4, low=1), 2)],
    "mse_loss": losses(n(4, 3), n(4, 3), draw(n(4, 3), n(4, 3), reduction="sum")),
    "l1_loss": losses(n(4, 3), n(4, 3)),
    "smooth_l1_loss": [*losses(n(4, 3), n(4, 3)), *losses(n(4, 3), n(4, 3), beta=0.5)],
    "huber_loss": [*losses(n(4, 3), n(4, 3)), *losses(n(4, 3), n(4, 3), delta=0.5)],
    "kl_div": [*losses(between(-3, 0, 4, 3), _PROBABILITY),
               *losses(between(-3, 0, 4, 3), between(-3, 0, 4, 3), log_target=True),
               draw(between(-3, 0, 4, 3), _PROBABILITY, reduction="batchmean")],
    "binary_cross_entropy": [*losses(_PROBABILITY, Draw((4, 3), "uniform", 0, 1, grad=False)),
                             draw(_PROBABILITY, Draw((4, 3), "uniform", 0, 1, grad=False), Draw((3,), grad=False))],
    "binary_cross_entropy_with_logits": [
        *losses(n(4, 3), between(0, 1, 4, 3)),
        draw(n(4, 3), between(0, 1, 4, 3), Draw((3,), "uniform", 0.5, 2, grad=False)),
        draw(n(4, 3), between(0, 1, 4, 3), None, None, None, "mean", Draw((3,), "uniform", 0.5, 2, grad=False)),
        draw(values([-100.0, 100.0, 0.0]), values([0.0, 1.0, 0.5])),
    ],
    "nll_loss": [*losses(n(6, 5), _CLASSES), draw(n(6, 5), _CLASSES, ignore_index=2),
                 draw(n(6, 5), _CLASSES, Draw((5,), "uniform", 0.5, 2, grad=False)),
                 draw(n(2, 5, 3), ints(2, 3, low=0, high=5)),
                 draw(n(5), Draw((), "integers", 0, 5, "int64", grad=False))],
    "cross_entropy": [*losses(n(6, 5), _CLASSES), draw(n(6, 5), _CLASSES, ignore_index=2),
                      draw(n(6, 5), _CLASSES, Draw((5,), "uniform", 0.5, 2, grad=False)),
                      *losses(n(6, 5), _CLASSES, label_smoothing=0.1), draw(n(2, 5, 3), ints(2, 3, low=0, high=5)),
                      draw(n(6, 5), between(0, 1, 6, 5)), draw(n(5), Draw((), "integers", 0, 5, "int64", grad=False))],
    "clone": ELEMENTWISE,
    "rand": [draw(2, 3), draw((4,)), draw(0)],
    "randn": [draw(2, 3), draw((4,)), draw(0)],
    "randint": [draw(5, (2, 3)), draw(-2, 3, (4,))],
    "randperm": [draw(9), draw(0)],
    "rand_like": [draw(n(2, 3))],
    "randn_like": [draw(n(2, 3))],
    "randint_like": [draw(n(2, 3), 9), draw(ints(4), -2, 3)],
    "normal": [draw(n(2, 3), between(0.5, 1, 2, 3)), draw(0.0, 1.0, (2, 3))],
    "bernoulli": [draw(between(0, 1, 3, 4)), draw(n(3, 4), p=0.25)],
    "uniform_": [draw(n(3, 4))],
    "normal_": [draw(n(3, 4)), draw(n(3), 2.0, 0.5)],
    "random_": [draw(n(3, 4))],
    "bernoulli_": [draw(n(3, 4)), draw(n(3), 0.25)],
    "exponential_": [draw(n(3, 4)), draw(n(3), 2.0)],
    "dropout": [draw(n(3, 4)), draw(n(3, 4), p=0.25), draw(n(3, 4), training=False), draw(n(3, 4), p=0.0)],
    "alpha_dropout": [draw(n(3, 4), training=True), draw(n(3, 4))],
    "dropout1d": [draw(n(2, 3, 4)), draw(n(2, 3, 4), training=False)],
    "dropout2d": [draw(n(2, 3, 4, 2)), draw(n(2, 3, 4, 2), training=False)],
}  # fmt: skip

#: Public composites that no call is compared of, and why.
WITHOUT: dict[str, str] = {
    "empty": "its elements are undefined",
    "empty_like": "its elements are undefined",
    "tensor": "takes Python data: tests/tensor",
    "as_tensor": "takes Python data: tests/tensor",
    "from_numpy": "takes a NumPy array: tests/tensor",
    "_where_method": "where() under the method's order of arguments",
    "_as_view": "view() under the method's order of arguments",
    "broadcast_shapes": "takes shapes, no tensors",
}


def install() -> None:
    """Give the composites these samples, as if they had declared them."""
    for name, samples in SAMPLES.items():
        made = composites.get(name)
        if made is not None and not made.samples:
            made.samples = resolve(samples, made.signature)
