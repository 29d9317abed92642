"""Where PyTorch keeps an operator whose place or name differs, and what is not compared with it, and why."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

#: Our name -> the path below ``torch``.
NAMES: dict[str, str] = {
    "vector_norm": "linalg.vector_norm",
    "embedding_bag": "nn.functional.embedding_bag",
    "_im2col": "nn.functional.unfold",
    "_softmax_of": "nn.functional.softmax",
    "_log_softmax_of": "nn.functional.log_softmax",
}

#: Our name -> why PyTorch has nothing to compare with.
NOT_IN_TORCH: dict[str, str] = {
    "scaled_grouped_mm": "PyTorch has it for GPUs only: tests/ops/test_quantized_products.py",
    "poisson": "draws from another stream: tests/ops/test_special.py",
    "binomial": "draws from another stream: tests/ops/test_special.py",
    "_weight_int8pack_mm": (
        "its kernel for CPUs ends the process where memory is not aligned; other values of it: "
        "tests/ops/test_quantized_products.py"
    ),
    **dict.fromkeys(
        ("_convert_weight_to_int4pack", "_weight_int4pack_mm"),
        "on CUDA only; held to the values of its kernel for CPUs: tests/ops/test_quantized_products.py",
    ),
    "linear_activation": "linear and an activation, each compared with PyTorch's: tests/ops/test_linalg.py",
    **dict.fromkeys(
        ("swiglu", "geglu", "add_rms_norm", "add_layer_norm", "rotary_embedding", "quantize_int8", "dequantize_int8"),
        "extensions, of operators that are compared with PyTorch's: tests/ops/test_transformer_parts.py",
    ),
    **dict.fromkeys(
        ("linalg_svd", "svd", "linalg_eigh", "linalg_eig"),
        "the signs of the vectors are LAPACK's own choice: tests/ops/test_decompositions.py",
    ),
}

#: (our name, label of the case) -> why PyTorch's value is not what is expected.
LEFT_OUT: dict[tuple[str, str], str] = {
    **{
        ("linalg_matrix_exp", f"sample {i}"): "PyTorch's gives arbitrary numbers for half types on the CPU"
        for i in range(2)
    },
    ("kron", "sample 1 transposed"): "PyTorch refuses some transposed operands there",
    ("take_along_dim", "sample 1 transposed"): "PyTorch refuses a transposed input there",
    ("_scaled_mm", "sample 1 strided"): "PyTorch reads a strided bias as if its numbers were neighbours",
    **{
        (name, f"sample {i} strided"): "PyTorch refuses operands whose last stride is not 1 there"
        for name in ("grouped_mm", "_grouped_mm") for i in range(2)
    },
    ("conv_tbc", "sample 0 transposed"): "PyTorch refuses a transposed weight there",
    ("as_strided_scatter", "sample 0"): "PyTorch's gradient of input is 0 where nothing was written",
    **dict.fromkeys(
        [("blackman_window", f"sample {i}") for i in range(5)],
        "PyTorch computes in float32, which leaves -3e-8 where the weight is 0",
    ),
    ("isin", "sample 1 transposed"): "PyTorch refuses transposed test elements there",
    **{
        (f"special_{name}", "special values"): "PyTorch returns uninitialised numbers for NaN, and overflows in float32"
        for name in (
            *(f"{shifted}chebyshev_polynomial_{k}" for shifted in ("", "shifted_") for k in "tuvw"),
            "hermite_polynomial_h", "hermite_polynomial_he", "laguerre_polynomial_l", "legendre_polynomial_p",
        )
    },
    **{
        (f"special_bessel_{name}", "special values"): "PyTorch's is off by 1e-3 of its value at 1e4 in float32"
        for name in ("j0", "j1", "y0", "y1")
    },
    ("special_airy_ai", "special values"): "PyTorch's is NaN where its phase overflows in float32",
    ("special_zeta", "special values"): "PyTorch's sum is 0 inf = NaN for a huge exponent",
    ("igamma", "special values"): "PyTorch's series for large operands is off by 1e-9 in float64",
    ("igammac", "special values"): "PyTorch's series for large operands is off by 1e-9 in float64",
    ("polygamma", "sample 1"): "PyTorch's second derivative of log gamma is off by 1e-9 in float64",
    ("polygamma", "sample 5"): "PyTorch's second derivative of log gamma is off by 1e-9 in float64",
    ("special_ndtr", "special values"): "PyTorch computes it in half precision",
    **{
        (f"special_{name}", f"sample {i}"): "PyTorch's float32 value is off by 1e-5; SciPy's: tests/ops/test_special.py"
        for name, i in (
            ("bessel_j0", 0), ("bessel_j1", 1), ("bessel_y0", 0), ("airy_ai", 0), ("ndtr", 0), ("ndtr", 1),
            ("chebyshev_polynomial_t", 0), ("chebyshev_polynomial_u", 0), ("shifted_chebyshev_polynomial_v", 3),
            ("shifted_chebyshev_polynomial_w", 3),
        )
    },
    ("digamma", "ties"): "PyTorch's gradient at a pole is the inverse of a rounding error",
    ("nextafter", "ties"): "PyTorch's gradient at equal operands is 0, though both sides have slope 1",
    ("multi_head_attention_forward", "sample 0 transposed"): "the gradient of the keys' bias is 0 but for rounding",
    ("erf", "special values"): "PyTorch's bfloat16 erf flushes small arguments to 0, its float32 one does not",
}

#: Public composites that no call is compared of, and why.
WITHOUT: dict[str, str] = {
    "empty": "its elements are undefined",
    "empty_like": "its elements are undefined",
    "tensor": "takes Python data: tests/tensor",
    "as_tensor": "takes Python data: tests/tensor",
    "asarray": "takes Python data: tests/tensor",
    "from_numpy": "takes a NumPy array: tests/tensor",
    "_where_method": "where() under the method's order of arguments",
    "_polygamma_method": "polygamma() under the method's order of arguments",
    "_as_view": "view() under the method's order of arguments",
    "broadcast_shapes": "takes shapes, no tensors",
    "multinomial": "draws from another stream: tests/ops/test_sorting.py",
    "range": "warns that it is deprecated: tests/ops/test_queries.py",
    "empty_strided": "its elements are undefined",
    "empty_permuted": "its elements are undefined",
    "new_empty_strided": "its elements are undefined",
    "frombuffer": "takes a buffer: tests/ops/test_queries.py",
    **dict.fromkeys(
        ("upsample", "upsample_nearest", "upsample_bilinear"),
        "warns that it is deprecated: tests/ops/test_vision.py",
    ),
    **dict.fromkeys(
        ("numel", "is_floating_point", "is_signed", "is_nonzero", "is_same_size", "is_inference",
         "get_device", "detach_", "fill_", "zero_", "resize_as_", "as_strided_"),
        "calls the method of its name: tests/ops/test_queries.py",
    ),
}

#: (operators, category of tools/compare_with_pytorch.py, pattern in what it says or in the call) -> why it is meant.
INTENDED: dict[tuple[str, str, str], str] = {
    ("*", "refused", r"ours DtypeError.*torch\.empty\("): "a dtype PyTorch too refuses as soon as there are elements",
    ("view_as_complex* complex polar", "refused", "float16"): "complex32: NumPy has none",
    ("conv* linalg_solve_triangular linear", "refused", "expected tensors of one dtype"): (
        "PyTorch takes some mixtures of dtypes, and reads one as another"
    ),
    ("as_strided*", "refused", "gradient needs a contiguous tensor"): "a gradient through other strides than C's",
    ("as_strided_scatter", "value", "strides"): "strides count in a contiguous copy here, in the input's order there",
    ("as_strided_scatter", "gradient", ""): "PyTorch's gradient of input is 0 where nothing was written",
    ("huber_loss binary_cross_entropy_with_logits", "dtype", ""): "PyTorch returns the narrower of two dtypes",
    ("rrelu*", "value", ""): "draws from another stream",
    ("binomial", "refused", "expected count"): "PyTorch gives 0 for counts below 0",
    ("dropout* alpha_dropout_ feature_alpha_dropout_", "version", ""): "what writes nothing may count as a write",
    ("linalg_eigvals linalg_lstsq linalg_lu* lu_solve", "refused", "inf|nan"): "what LAPACK makes of infinities",
    ("logcumsumexp", "gradient", "expected nan"): "the gradient at minus infinity is 0 here",
    ("*", "refused", "ours DtypeError.*not implemented for 'Complex"): "complex numbers there are refused here",
    ("*", "error type", "theirs RuntimeError: value cannot be converted"): "a complex number where a real one belongs",
    ("*", "accepted", "value cannot be converted"): "a complex number, or one that overflows, as an argument",
    ("*", "accepted", r"out=.*(dtype|scalar.?type|result)|(dtype|scalar.?type|result).*out="): (
        "out= takes every dtype that the result can be cast to"
    ),
    ("heaviside lerp cross linalg_cross bilinear prelu binomial", "accepted", "dtype|scalar type|Type promoting"): (
        "dtypes are promoted where PyTorch asks for one dtype"
    ),
    ("*", "accepted", r"must be Tensor, not (int|float|bool)"): "a number where PyTorch asks for a tensor",
    ("prod median nanmedian", "accepted", "NoneType"): "dim=None is every dimension",
    ("hardtanh*", "accepted", "unsigned type"): "a negative limit bounds no unsigned number",
    ("*", "accepted", "view size is not compatible"): "any strides are taken",
    ("grouped_mm _grouped_mm", "accepted", "Invalid strides|multiple of 16 bytes"): "any strides are taken",
    ("grouped_mm _grouped_mm", "accepted", "got Double"): "float64 is taken too",
    ("_scaled_mm", "value", r"bias=<strides"): "PyTorch reads a strided bias as if its numbers were neighbours",
    ("grouped_mm _grouped_mm", "value", "got 0.0"): "what belongs to no group is zero; PyTorch leaves it undefined",
    ("_int_mm", "value", "strides"): "PyTorch reads operands of some strides as others",
    ("*", "accepted", "is not differentiable with respect to argument"): "a weight may require grad",
    ("*", "accepted", "MKL FFT error|pin_memory=True requires"): "a limit of PyTorch's build",
    ("*", "accepted", "takes no keyword arguments|takes . positional argument"): "keywords are taken everywhere",
    ("special_* i0", "requires grad", r"ours \[True\]; theirs \[False\]"): "these have a gradient here",
    ("special_*", "value", ""): "PyTorch's float32 values of these are off by 1e-5, and NaN where n is huge",
    ("special_* digamma polygamma igamma igammac", "gradient", ""): "PyTorch's are off by 1e-9, and at poles",
    ("polygamma", "value", ""): "PyTorch's is off by 1e-9 in float64",
    ("eq ne lt le gt ge", "gradient", "None for ours"): "PyTorch's gradient of one in place is zeros, not None",
    ("eq ne lt le gt ge", "requires grad", r"_\("): "PyTorch makes integers require grad by a comparison in place",
    ("logical_*", "gradient", r"_\("): "PyTorch's gradient passes a logical operator in place as if it were not there",
    ("conj adjoint", "memory", "ours .False.; theirs .True."): "conjugation is computed, not marked for later",
    ("var_mean std_mean", "kind", ""): "named tuples, where PyTorch's tuples have no names",
    ("sort argsort topk kthvalue mode median nanmedian", "value", "argsort|value 1"): "which of equal elements it is",
    ("median nanmedian", "value", "strides .*0"): "PyTorch's median of an expanded tensor reads the wrong memory",
    ("embedding_bag", "gradient", "scale_grad_by_freq"): "PyTorch divides by the frequency of another index",
    ("cholesky_inverse cholesky_solve", "gradient", ""): (
        "PyTorch's gradient takes the other triangle of the factor to be zero, which it does not read"
    ),
    ("hardsigmoid", "gradient", ""): "PyTorch's 1/6 is a float32 number in float64 too",
    ("soft_margin_loss", "gradient", "uint8"): "PyTorch's -target wraps around in uint8",
    ("softsign", "gradient", "expected nan"): "the gradient at infinity is 0 here",
    ("nextafter", "gradient", ""): "PyTorch's gradient at equal operands is 0, though both sides have slope 1",
    ("bucketize searchsorted", "value", ""): "boundaries that are not sorted have no answer",
    ("ctc_loss lstm linalg_ldl_solve", "crash", "ended with"): "PyTorch's process ends on arguments that do not fit",
    ("binomial", "crash", "no answer"): "PyTorch's sampler does not end for NaN",
    ("put index_put index_copy scatter*", "value", ""): "which of several values for one place is kept is not defined",
    ("blackman_window", "value", "e-1. *, expected -2.98"): "PyTorch's -3e-8 where the weight is 0",
    ("cumsum cumprod", "value", "out="): "PyTorch accumulates in the dtype of out",
    ("addmm addmv addbmm baddbmm addr", "gradient", "None for ours"): "None with beta 0, where PyTorch's is zeros",
    ("pixel_unshuffle", "shape", "0"): "PyTorch leaves the shape of an empty tensor as it is",
    ("ctc_loss", "shape", "torch.ctc_loss"): "the signature is that of nn.functional.ctc_loss in both places",
    ("ctc_loss", "value", "torch.ctc_loss"): "the signature is that of nn.functional.ctc_loss in both places",
    ("lu", "kind", "get_infos"): "named in both forms, where PyTorch's method gives a plain tuple",
    ("cdist", "value", "expected nan"): "PyTorch's product of matrices makes NaN of infinities",
    ("unique_consecutive", "shape", ""): "PyTorch drops a return_inverse that is given by position",
    ("unique_consecutive", "value", ", True"): "PyTorch takes a return_inverse given by position for return_counts",
    ("unique unique_consecutive histogram histogramdd", "requires grad", ""): (
        "no derivative exists: PyTorch says so only in backward"
    ),
    ("adaptive_* conv* max_unpool* instance_norm", "refused", r"torch\.empty\("): (
        "shapes without elements, of which PyTorch takes some"
    ),
    ("pixel_unshuffle channel_shuffle", "memory", "ours .True.; theirs .False."): "a view where nothing moves",
    ("*_margin_loss", "value", r"torch\.empty\(.*|uninitialised"): "the mean of no elements is NaN",
}


def intended(operator: str, category: str, text: str, call: str) -> str | None:
    """Why a difference is meant, or None."""
    for (names, kind, pattern), reason in INTENDED.items():
        if kind == category and any(fnmatchcase(operator, n) for n in names.split()):
            if re.search(pattern, f"{text} | {call}"):
                return reason
    return None
