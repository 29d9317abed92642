"""Index expressions, tried on ours and (by ``make_indexing.py``) on PyTorch: ``x`` is arange(24) of shape (2, 3, 4)."""

READ = """
x[1]
x[-1, 2]
x[1, 0, 3]
x[:, 1:]
x[..., ::2]
x[..., 1, None]
x[None, 0, :, -2:]
x[1:1]
x[True]
x[False]
x[L.tensor(True), 0]
x[L.tensor(1)]
x[()]
x[[0, 1, 1]]
x[[[0, 1], [1, 0]]]
x[:, [2, 0]]
x[..., [1, 1, -1]]
x[L.tensor([[0], [1]])]
x[L.tensor([1, 0], dtype=L.int32)]
x[[0, 1], :, [1, 2]]
x[:, [0, 1], [1, 2]]
x[[0, 1], 0, [0, 1]]
x[0, :, [1, 2]]
x[[0], None, [1]]
x[[0], ..., [1]]
x[True, [0, 1]]
x[:, [[0], [2]], [1, 3]]
x[L.tensor([1, 0]), L.tensor(2)]
x[x > 10]
x[x[..., 0] > 3]
x[:, L.tensor([True, False, True])]
x[:, L.tensor([True, False, True]), [0, 1]]
x[0][x[0] > 5]
x[L.tensor([[True, False, True], [False, True, True]]), L.tensor([0, 1, 2, 3])]
x[1, L.tensor([True, False, True]), 1:3]
x[[slice(0, 1), 2]]
x[L.tensor(1):, L.tensor(0)]
x[[]]
x.T[[3, 0]]
x.transpose(0, 2)[1:, [0, 2], 1]
""".strip().splitlines()

WRITE = """
x[1] = 0.5
x[:, 1:] = v[1:]
x[..., 0] = v[1, :3]
x[0, 0, 0] = v[0, 0]
x[[1, 0]] = v
x[:, [0, 2], 1] = v[:2, :2]
x[0, [1, 2], [1, 2]] = v[0, 0]
x[x > 10] = 0.25
x[x > 10] = v[0, 1]
x[x[..., 0] > 3] = v[0]
x[L.tensor([True, False])] = v
x[:, L.tensor([True, False, True])] = v[:2]
x[None, ..., 2] = v[0, :3]
x[1, 1:] = v[1:].reshape(1, 1, 2, 4)
x.T[0, [0, 2]] = v[0, 0]
x[0] += v
x[:, [0, 1]] *= 2.0
x[1][0][2:] = v[0, 2:]
x.view(-1)[::5] = v[0, 0]
x.index_put_((L.tensor([0, 0]), L.tensor([1, 1])), v[:2], accumulate=True)
x.index_add_(1, L.tensor([2, 2, 0]), v.expand(2, 3, 4), alpha=3)
x.index_copy_(2, L.tensor([3, 1]), v[:, :2].expand(2, 3, 2))
x.index_fill_(1, L.tensor([0, -1]), 2.5)
x.scatter_(2, L.tensor([[[1, 0], [3, 2]]]), v[None, :2, :2].detach())
x.scatter_add_(1, L.tensor([[[0, 0, 2, 0]], [[1, 1, 1, 1]]]), v[None, :1].expand(2, 1, 4))
x.masked_scatter_(x > 12, v)
x.diagonal(0, 1, 2)[:] = v[:2, :3]
x.unfold(2, 2, 2)[..., 0] *= v[:2, 0].reshape(2, 1, 1)
""".strip().splitlines()

FAIL = """
x[2]
x[0, 3]
x[0, 0, 0, 0]
x[[2]]
x[:, [0, -4]]
x[[0, 1], [0, 1, 2]]
x[L.tensor([True, False, True])]
x[1.0]
x[L.tensor([1.0])]
x[::-1]
x[::0]
x[1.5:2]
x["a"]
x.__setitem__(2, 0)
x.__setitem__(slice(None, None, -1), 0)
x.__setitem__(([0, 1],), L.zeros(5, dtype=x.dtype))
x[..., L.tensor([0], dtype=L.int16)]
L.tensor(1.0)[0]
""".strip().splitlines()
