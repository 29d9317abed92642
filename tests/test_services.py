"""Parts of PyTorch around the tensors: futures, processes, the hub, ``__torch_function__``, private names in use."""

from __future__ import annotations

import hashlib
import importlib
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

import tensorlib as tl
from tensorlib import futures, hub, multiprocessing, nn, overrides, serialization
from tensorlib.profiler import profile

# ------------------------------------------------------------------------------------------------- __torch_function__


class Half:
    """Stands for half of a tensor in ``add``, ``max`` and ``cat``."""

    def __init__(self, value: tl.Tensor) -> None:
        self.value = value

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in (tl.add, tl.max, tl.cat, tl.sum):
            return NotImplemented

        def whole(x: Any) -> Any:
            return x.value / 2 if isinstance(x, Half) else [whole(y) for y in x] if isinstance(x, list) else x

        return func(*map(whole, args), **{k: whole(v) for k, v in (kwargs or {}).items()})


class Third(Half):
    """Says what it was asked."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func, types, args, kwargs or {}


def test_objects_take_part_in_functions() -> None:
    x, h = tl.ones(3), Half(tl.full((3,), 4.0))
    for three in (tl.add(x, h), tl.add(h, x), x + h, h + x, x.add(h)):
        assert tl.equal(three, tl.full((3,), 3.0))
    assert tl.max(h).item() == 2 and tl.cat([x, h]).tolist() == [1, 1, 1, 2, 2, 2]
    assert tl.sum(h, dim=0, keepdim=True).tolist() == [6]
    with pytest.raises(TypeError, match=r"no implementation found for 'mul' .*Half"):
        tl.mul(x, h)
    with pytest.raises(TypeError, match="must be Tensor"):
        tl.add(x, object())


def test_the_object_gets_the_public_function_and_the_arguments() -> None:
    x, h, t = tl.ones(3), Half(tl.ones(3)), Third(tl.ones(3))
    func, types, args, kwargs = tl.where(x > 0, t, h)
    assert func is tl.where and types == (Third, Half) and args[1:] == (t, h) and kwargs == {}
    func, types, args, kwargs = tl.softmax(t, -1, dtype=tl.float64)
    assert func is tl.softmax and types == (Third,) and args == (t, -1, tl.float64)


def test_overrides_of_ones_own_functions() -> None:
    def shown(x: Any, *, twice: bool = False) -> str:
        return "plain"

    public = overrides.wrap_torch_function(lambda x, twice=False: (x,))(shown)
    t = Third(tl.ones(1))
    assert public(tl.ones(1)) == "plain" and public(t, twice=True) == (public, (Third,), (t,), {"twice": True})
    assert overrides.has_torch_function((1, [t])) and overrides.has_torch_function_unary(t)
    assert not overrides.has_torch_function_variadic(tl.ones(1), 2, nn.Parameter(tl.ones(1)))
    assert overrides.is_tensor_like(t) and overrides.is_tensor_like(tl.ones(1)) and not overrides.is_tensor_like(3)
    assert overrides.resolve_name(tl.linalg.svd) == "torch.linalg.svd" and overrides.resolve_name(shown) is None
    assert tl.sum in overrides.get_overridable_functions()["torch"]
    assert overrides.is_tensor_method_or_property(tl.Tensor.reshape)
    assert not overrides.is_tensor_method_or_property(shown)
    assert overrides.handle_torch_function(tl.mul, (t,), t, 2)[2] == (t, 2)


# ------------------------------------------------------------------------------------------------------------ futures


def test_futures() -> None:
    f: futures.Future[int] = tl.Future()
    seen: list[int] = []
    f.add_done_callback(lambda own: seen.append(own.value()))
    later, wrong = f.then(lambda own: own.wait() + 1), f.then(lambda own: own.wait() / 0)
    with pytest.raises(RuntimeError, match="not done"):
        f.value()
    threading.Timer(0.01, f.set_result, (3,)).start()
    assert f.wait() == 3 and futures.wait_all([f, later]) == [3, 4] and f.done()
    with pytest.raises(ZeroDivisionError):
        futures.wait_all([f, wrong])
    with pytest.raises(RuntimeError, match="once"):
        f.set_result(4)
    assert futures.collect_all([]).wait() == [] and futures.collect_all([f]).wait() == [f] and seen == [3]
    with pytest.raises(AssertionError, match="not an Exception"):
        futures.Future().set_exception(3)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- processes


def _write(rank: int, folder: str) -> None:
    Path(folder, str(rank)).write_text(str(tl.ones(rank + 1).sum().item()))


def _fail(rank: int) -> None:
    if rank:
        raise ValueError("of the second")


def test_spawn(tmp_path: Path) -> None:
    multiprocessing.start_processes(_write, (str(tmp_path),), nprocs=2, start_method="fork")
    assert [(tmp_path / str(i)).read_text() for i in range(2)] == ["1.0", "2.0"]
    with pytest.raises(multiprocessing.ProcessRaisedException, match="of the second") as raised:
        multiprocessing.start_processes(_fail, nprocs=2, start_method="fork")
    assert raised.value.error_index == 1
    assert multiprocessing.get_sharing_strategy() in multiprocessing.get_all_sharing_strategies()
    assert multiprocessing.Process and multiprocessing.cpu_count() > 0
    with pytest.raises(ValueError, match="sharing_strategy"):
        multiprocessing.set_sharing_strategy("none")


# ---------------------------------------------------------------------------------------------------------------- hub

_HUBCONF = '''
dependencies = ["torch", "math"]
import hub_of_a_test_helper
import tensorlib as torch

def linear(size, bias=True):
    """A layer."""
    return torch.nn.Linear(size, hub_of_a_test_helper.WIDTH, bias=bias)
'''


def test_hub_loads_from_a_folder(tmp_path: Path) -> None:
    (tmp_path / "hubconf.py").write_text(_HUBCONF)
    (tmp_path / "hub_of_a_test_helper.py").write_text("WIDTH = 4")
    model = hub.load(tmp_path, "linear", 3, source="local", bias=False)
    assert model.weight.shape == (4, 3) and model.bias is None
    assert hub.list(tmp_path) == ["linear"] and hub.help(tmp_path, "linear") == "A layer."
    with pytest.raises(RuntimeError, match="Cannot find callable other"):
        hub.load(str(tmp_path), "other", source="local")
    with pytest.raises(NotImplementedError, match="source='local'"):
        hub.load("owner/name", "linear")
    with pytest.raises(ValueError, match="Unknown source"):
        hub.load(tmp_path, "linear", source="web")
    with pytest.raises(FileNotFoundError, match=r"hubconf\.py"):
        hub.load(tmp_path / "none", "linear", source="local")
    (tmp_path / "hubconf.py").write_text('dependencies = ["of_no_package"]')
    with pytest.raises(RuntimeError, match="Missing dependencies: of_no_package"):
        hub.list(tmp_path)


def test_hub_keeps_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_chosen", {})
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    assert hub.get_dir() == str(tmp_path / "home" / "hub")
    hub.set_dir(tmp_path / "own")
    source = tmp_path / "model.safetensors"
    tl.save({"x": tl.arange(3)}, source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    named = source.rename(tmp_path / f"model-{digest[:8]}.safetensors")
    for _ in range(2):  # the second time the file that is kept
        assert hub.load_state_dict_from_url(named.as_uri(), progress=False, check_hash=True)["x"].tolist() == [0, 1, 2]
    assert (tmp_path / "own" / "checkpoints" / named.name).exists()
    with pytest.raises(RuntimeError, match="invalid hash"):
        hub.download_url_to_file(named.as_uri(), str(tmp_path / "copy"), "0" * 8, progress=False)
    assert not (tmp_path / "copy").exists() and not list(tmp_path.glob("*.partial"))


# --------------------------------------------------------------------------------------------------- names in use


def test_private_and_older_names() -> None:
    assert tl.torch is tl and tl._C._get_tracing_state() is None and tl._dynamo.list_backends() == []
    tl._dynamo.reset(), tl._C._log_api_usage_once("x"), tl._dynamo.mark_dynamic(tl.ones(1), 0), tl._dynamo.graph_break()
    with pytest.raises(AttributeError, match=r"tensorlib\.op"):
        tl._C._functions  # noqa: B018
    assert issubclass(tl.jit.ScriptModule, nn.Module) and tl.jit.trace_module(3, {}) == 3
    assert tl.optim.lr_scheduler._LRScheduler is tl.optim.lr_scheduler.LRScheduler
    assert importlib.import_module("tensorlib.utils.data._utils.collate").default_collate([1, 2]).tolist() == [1, 2]
    assert not isinstance(tl.ones(1), tl.cuda.FloatTensor) and repr(tl.cuda.LongTensor).endswith("cuda.LongTensor'>")
    assert tl.get_autocast_cpu_dtype() is tl.bfloat16 and not tl.is_autocast_cpu_enabled()
    assert tl.distributed.Backend("NCCL") == tl.distributed.Backend.NCCL == "nccl"
    with serialization.safe_globals([dict]):
        assert serialization.get_safe_globals() == [dict]
    assert serialization.get_safe_globals() == [] and serialization.load is tl.load
    tl.testing.assert_allclose(tl.ones(2), [1.0, 1.0 + 1e-5])
    with pytest.raises(AssertionError):
        tl.testing.assert_allclose(tl.ones(2), [1.0, 1.1])


def test_scatter_and_gather() -> None:
    scattering = importlib.import_module("tensorlib.nn.parallel").scatter_gather
    x = tl.arange(6).view(3, 2)
    parts = scattering.scatter((x, {"a": [x, 1]}), ["cpu", "cpu"])
    assert [p[0].tolist() for p in parts] == [[[0, 1], [2, 3]], [[4, 5]]] and parts[1][1]["a"][1] == 1
    assert tl.equal(scattering.gather(parts, "cpu")[1]["a"][0], x)
    assert len(scattering.scatter(x[:1], ["cpu", "cpu"])) == 1


def test_shapes_stay_sizes_and_views_that_repeat_nothing_can_be_written() -> None:
    shape = tl.broadcast_shapes((3, 1), (2,))
    assert all(type(s) is tl.Size for s in (shape, shape * 2, 2 * shape, (1,) + shape, shape + (1,), shape[1:]))  # noqa: RUF005
    assert shape.numel() == 6
    x = tl.zeros(3)
    x.expand(1, 3).contiguous()[0, 1] = 5
    y = tl.zeros(())
    tl.broadcast_tensors(y, y)[0].fill_(3)
    assert x.tolist() == [0, 5, 0] and y.item() == 3
    with pytest.raises(RuntimeError, match="single memory location"):
        tl.zeros(1).expand(2).fill_(1)


def test_weights_of_a_recurrent_layer_can_be_put_in_place() -> None:
    layer = nn.GRU(2, 3)
    doubled = [2 * w for w in layer._flat_weights]
    layer._flat_weights = doubled
    assert layer.weight_ih_l0 is doubled[0] and layer(tl.ones(4, 2))[0].grad_fn is not None


class _Gate(nn.Module):
    act = tl.sigmoid
    conv = tl.nn.functional.conv2d

    def forward(self, x: Any, w: Any) -> Any:
        return self.act(self.conv(x, weight=w))


def test_operators_in_a_module_class_are_no_methods() -> None:
    x, w = tl.randn(1, 2, 4, 4), tl.randn(3, 2, 3, 3)
    assert tl.equal(_Gate()(x, w), nn.functional.conv2d(x, w).sigmoid())


def test_more_of_assert_close() -> None:
    x = tl.ones(2, 3)
    tl.testing.assert_close(x, tl.ones(3, 2).t(), check_layout=False, allow_subclasses=False)
    with pytest.raises(AssertionError, match="strides"):
        tl.testing.assert_close({"x": x}, {"x": tl.ones(3, 2).t()}, check_stride=True)
    with pytest.raises(AssertionError, match=r"^here: assert_close"):
        tl.testing.assert_close(x, x + 1, msg=lambda text: f"here: {text}")
    with pytest.raises(AssertionError, match="Parameter"):
        tl.testing.assert_close(nn.Parameter(x), x, allow_subclasses=False)
    assert not tl.onnx.is_in_onnx_export()


def test_profile_of_memory_flops_and_lines() -> None:
    layer, x = nn.Linear(8, 4), tl.ones(16, 8)
    with profile(profile_memory=True, with_flops=True, with_stack=True) as p:
        layer(x)
        (x + 1).sum()
    linear, add = (next(e for e in p.events() if e.name == name) for name in ("linear", "add"))
    assert linear.flops == 2 * 16 * 8 * 4 and linear.cpu_memory_usage == 16 * 4 * 4 and add.flops == 0
    assert add.stack[0].endswith("test_profile_of_memory_flops_and_lines") and "test_services.py" in add.stack[0]
    table = p.key_averages(group_by_stack_n=1).table(sort_by="flops")
    assert table.index("linear") < table.index("add") and "Total MFLOPs" in table and "256 b" in table
    with profile() as plain:
        layer(x)
    assert "MFLOPs" not in plain.key_averages().table() and plain.events()[0].stack == ()


# ------------------------------------------------------------------------- what libraries around PyTorch's core import


def test_storages_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(8)))
    private = tl.UntypedStorage.from_file(path, shared=False, nbytes=8)
    part = tl.asarray(private[2:6], dtype=tl.uint8)
    part[0] = 9
    assert private.tolist() == [0, 1, 9, 3, 4, 5, 6, 7] and path.read_bytes()[2] == 2 and private[2] == 9
    shared = tl.UntypedStorage.from_file(str(path), shared=True, nbytes=12)
    shared[11] = 7
    assert path.read_bytes()[8:] == bytes([0, 0, 0, 7]) and len(shared) == 12
    with pytest.raises(RuntimeError, match="has 12 bytes: 20 were asked for"):
        tl.UntypedStorage.from_file(path, nbytes=20)
    x = tl.arange(4.0)[1:]
    assert tl.asarray(x.untyped_storage()[4:8], dtype=tl.uint8).view(tl.float32).item() == 1
    assert x.untyped_storage().clone() != x.untyped_storage() == x.untyped_storage().cpu()
    assert tl.UntypedStorage(5).nbytes() == 5
    with pytest.raises(RuntimeError, match="its bytes are on meta"):
        tl.ones(2, device="meta").untyped_storage().tolist()


def test_devices_that_are_not_here() -> None:
    assert not tl.xpu.is_available() and tl.xpu.device_count() == 0 == tl.xpu.memory_allocated()
    assert not tl.mps.is_available() and tl.mps.device_count() == 0
    tl.xpu.manual_seed_all(1), tl.xpu.empty_cache(), tl.mps.manual_seed(1)
    for call in (tl.xpu.synchronize, tl.xpu.current_device, tl.mps.empty_cache):
        with pytest.raises(RuntimeError, match="no such device"):
            call()


def test_marks_of_tracers() -> None:
    @tl.fx.wrap
    def one() -> int:
        return 1

    assert tl.fx.wrap("len") == "len" and one() == 1
    with pytest.raises(RuntimeError, match="callable or string"):
        tl.fx.wrap(3)
    with pytest.raises(NotImplementedError, match=r"fx\.GraphModule: programs are not traced"):
        tl.fx.symbolic_trace(nn.Linear(1, 1))
    assert not isinstance(nn.Linear(1, 1), tl.fx.GraphModule) and not isinstance(tl.ones(1), tl.fx.Proxy)
    with pytest.raises(NotImplementedError, match="emit_nvtx: nothing is emitted"), tl.autograd.profiler.emit_nvtx():
        pass
    with tl.autograd.profiler.emit_itt(enabled=False):
        pass
    assert not isinstance(nn.Linear(1, 1), tl._dynamo.OptimizedModule)
    assert tl._dynamo.assume_constant_result(one)() == 1 and tl._dynamo.mark_static_address(tl.ones(1)) is None
    index = importlib.import_module("tensorlib._dynamo._trace_wrapped_higher_order_op").TransformGetItemToIndex
    x = tl.arange(6).view(2, 3)
    with index():
        read = tl.vmap(tl.vmap(lambda i, j: x[i, j], (None, 0)), (0, None))
        assert tl.equal(read(tl.arange(2), tl.arange(3)), x)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("reverse", [False, True])
def test_scans_of_any_function(n: int, reverse: bool) -> None:
    scan = importlib.import_module("tensorlib._higher_order_ops").associative_scan
    rates, inputs = tl.rand(2, n, dtype=tl.float64, requires_grad=True), tl.rand(2, n, dtype=tl.float64)
    _, found = scan(lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]), (rates, inputs), -1, reverse=reverse)
    state, states = tl.zeros(2, dtype=tl.float64), []
    for i in reversed(range(n)) if reverse else range(n):
        state = state * rates[:, i] + inputs[:, i]
        states.append(state)
    expected = tl.stack(states[::-1] if reverse else states, 1)
    tl.testing.assert_close(found, expected)
    if n > 1:
        tl.testing.assert_close(tl.autograd.grad(found.sum(), rates), tl.autograd.grad(expected.sum(), rates))
    with pytest.raises(ValueError, match="one length along dim"):
        scan(lambda a, b: a, (rates, inputs[:, 1:]), 1)


def test_paths_in_trees() -> None:
    tree = importlib.import_module("tensorlib.utils._pytree")
    nest = {"a": [1, (2, 3)], "b": None}
    pairs = tree.tree_leaves_with_path(nest)
    assert [tree.keystr(path) for path, _ in pairs] == ["['a'][0]", "['a'][1][0]", "['a'][1][1]", "['b']"]
    assert tree.key_get(nest, pairs[2][0]) == 3
    assert tree.tree_map_with_path(lambda path, x: len(path), nest) == {"a": [2, (3, 3)], "b": 1}
    assert tree.tree_leaves(nest, is_leaf=lambda x: isinstance(x, tuple)) == [1, (2, 3), None]
    assert tree.tree_map_only(int, lambda x: -x, nest) == {"a": [-1, (-2, -3)], "b": None}
    assert tree.tree_all_only(int, lambda x: x > 0, nest) and not tree.tree_any_only(int, lambda x: x > 3, nest)


def test_what_optimizers_are_written_with() -> None:
    module = importlib.import_module("tensorlib.optim.optimizer")

    class Plain(module.Optimizer):  # type: ignore[misc, name-defined]
        def __init__(self, params: Any, differentiable: bool = False) -> None:
            super().__init__(params, {"differentiable": differentiable})

        @module._use_grad_for_differentiable
        def step(self) -> bool:
            return tl.is_grad_enabled()

    class Wrapper(module.Optimizer):  # type: ignore[misc, name-defined]
        """Around another, without what ``Optimizer.__init__`` makes."""

        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def step(self) -> Any:
            return self.inner.step()

    weight = nn.Parameter(tl.ones(1))
    assert Wrapper(Plain([weight])).step() is False
    assert not Plain([weight]).step() and Plain([weight], differentiable=True).step()
    assert module._get_value(tl.tensor(3.0)) == 3 and module._dispatch_sqrt(4.0) == 2
    assert module._default_to_fused_or_foreach([weight], False) == (False, False)
    a, b = tl.ones(1), tl.ones(1, dtype=tl.float64)
    groups = module.Optimizer._group_tensors_by_device_and_dtype([[a, b, a], [], [b, b, b]], with_indices=True)
    lists, places = groups[a.device, tl.float32]
    assert len(groups) == 2 and places == [0, 2] and [len(x) for x in lists] == [2, 0, 2]
    real = [tl.ones(2, dtype=tl.complex64), a]
    module._view_as_real(real)
    assert real[0].shape == (2, 2) and real[1] is a


def test_grids_of_one_process() -> None:
    dist: Any = tl.distributed
    split = importlib.import_module("tensorlib.distributed.tensor")
    try:
        mesh = dist.init_device_mesh("cpu", (1, 1), mesh_dim_names=("data", "model"))
        assert dist.is_initialized() and not dist.is_available()
        assert (mesh.shape, mesh.size(), mesh.get_rank(), mesh.get_coordinate()) == ((1, 1), 1, 0, [0, 0])
        assert mesh["data"].ndim == 1 and mesh["data"].get_group().size() == 1 and mesh == mesh["data", "model"]
        with pytest.raises(KeyError, match="Invalid mesh_dim_names"):
            mesh["other"]
        for call in (lambda: dist.init_device_mesh("cpu", (2, 1)), lambda: dist.device_mesh.DeviceMesh("cpu", [0, 1])):
            with pytest.raises(NotImplementedError, match="a group has one"):
                call()
        with pytest.raises(NotImplementedError, match="use the tensor itself"):
            split.distribute_tensor(tl.ones(1), mesh, [split.Shard(0)])
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    shard, whole = split.Shard(1), split.Replicate()
    assert shard == split.Shard(1) != split.Shard(0) and shard.is_shard(1) and not shard.is_shard(0)
    assert whole.is_replicate() and whole and split.Partial().is_partial("sum") and not shard.is_partial()
    assert not isinstance(tl.ones(1), split.DTensor)


def test_longer_paths_and_modes() -> None:
    path = importlib.import_module("tensorlib.nn.parallel.distributed")
    assert path.DistributedDataParallel is nn.parallel.DistributedDataParallel
    assert importlib.import_module("tensorlib.nn.parallel.data_parallel").DataParallel is nn.DataParallel
    linear, two = nn.Linear(2, 2), tl.ones(2)
    assert nn.parallel.replicate(linear, ["cpu"]) == [linear]
    assert tl.equal(nn.parallel.parallel_apply([linear], [two])[0], linear(two))
    lists = importlib.import_module("tensorlib.jit.annotations").List
    assert lists is list and tl.jit.annotations.BroadcastingList2[int] == list[int] and tl.ScriptModule is not None
    assert callable(nn.parallel.data_parallel) and importlib.import_module("tensorlib._ops").ops is tl.ops
    with pytest.raises(NotImplementedError, match="not handed to modes"), overrides.TorchFunctionMode():
        pass


def test_count_of_operations(capsys: pytest.CaptureFixture[str]) -> None:
    count = importlib.import_module("tensorlib.utils.flop_counter").FlopCounterMode
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), tl.ones(5, 4, requires_grad=True)
    with count(display=False) as counter:
        y = model(x)
    assert counter.get_total_flops() == 2 * 5 * (4 * 8 + 8 * 3)  # as PyTorch's
    with counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 5 * (4 * 8 + 8 * 3)
    assert set(counter.get_flop_counts()["Global"]) == {"matmul", "_gram"} and not capsys.readouterr().out
    with count() as counter:
        nn.functional.scaled_dot_product_attention(tl.ones(1, 2, 3, 4), tl.ones(1, 2, 5, 4), tl.ones(1, 2, 5, 4))
    assert counter.get_total_flops() == 2 * 2 * (2 * 3 * 5 * 4) and "% Total" in capsys.readouterr().out


def test_shared_memory(tmp_path: Path) -> None:
    x = tl.arange(4.0)
    assert not x.is_shared() and x.share_memory_() is x and x.is_shared() and x.tolist() == [0, 1, 2, 3]
    model = nn.Linear(2, 1, bias=False).share_memory()
    assert model.weight.is_shared() and isinstance(model.weight, nn.Parameter)
    with pytest.raises(NotImplementedError, match="this is a view"):
        tl.ones(4)[1:].share_memory_()
    for how in ("fork", "spawn"):
        with tl.no_grad():
            x.zero_(), model.weight.zero_()
        multiprocessing.start_processes(_adds_one, (x, model), nprocs=2, start_method=how)
        assert x.tolist() == [1, 1, 0, 0] and model.weight.tolist() == [[1, 1]]
    sent = multiprocessing.get_context("spawn").SimpleQueue()
    sent.put(x)
    back = sent.get()
    back[3] = 5
    assert x[3] == 5 and not tl.ones(2).is_shared()


def _adds_one(rank: int, x: tl.Tensor, model: nn.Linear) -> None:
    x[rank] += 1
    with tl.no_grad():
        model.weight[0, rank] += 1


def test_entries_of_an_archive() -> None:
    path = Path(__file__).parent / "io" / "training.pt"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    reader = tl.PyTorchFileReader(path)
    assert len(reader.get_all_records()) == len(names) and reader.has_record("data.pkl")
    assert reader.get_record("data.pkl")[:1] == b"\x80" and not reader.has_record("other")
    size = reader.get_record_size("data/0")
    assert reader.get_storage_from_record("data/0", size, tl.uint8).shape == (size,)
    with pytest.raises(RuntimeError, match="has no entry 'other'"):
        reader.get_record("other")
    with pytest.raises(RuntimeError, match=f"has {size} bytes"):
        reader.get_storage_from_record("data/0", size + 1, tl.uint8)
    with pytest.raises(FileNotFoundError):
        tl.PyTorchFileReader("/absent.pt")
    with pytest.raises(RuntimeError, match="no archive"):
        tl.PyTorchFileReader(__file__)


def test_limits_as_pytorch_writes_them() -> None:
    assert repr(tl.finfo(tl.float16)) == (
        "finfo(resolution=0.001, min=-65504, max=65504, eps=0.000976562, smallest_normal=6.10352e-05, "
        "tiny=6.10352e-05, dtype=float16)"
    )
    kinds = tl.float64, tl.float32, tl.bfloat16, tl.float8_e4m3fn
    assert [tl.finfo(kind).resolution for kind in kinds] == [1e-15, 1e-6, 0.01, 1]
