"""Where PyTorch keeps an operator whose place or name differs, and what is not compared with it, and why."""

from __future__ import annotations

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
    "poisson": "draws from another stream: tests/ops/test_special.py",
    "binomial": "draws from another stream: tests/ops/test_special.py",
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
    "from_numpy": "takes a NumPy array: tests/tensor",
    "_where_method": "where() under the method's order of arguments",
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
