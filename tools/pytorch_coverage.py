"""docs/pytorch.md: every documented name of PyTorch, and whether it is here. Called by tools/generate.py.

The names are in docs/pytorch_names.txt (made by tools/pytorch_names.py). What is absent has a reason in ABSENT, or this
fails. ``python tools/pytorch_coverage.py`` prints the totals, and the reasons that nothing needs any more.
"""

from __future__ import annotations

import importlib
import sys
import textwrap
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "expected")]

import numpy as np  # noqa: E402
from names import INTENDED  # noqa: E402

import tensorlib  # noqa: E402
from tensorlib import _core  # noqa: E402
from tensorlib.errors import TensorlibError  # noqa: E402
from tensorlib.op import Composite, Op, declared, names_in  # noqa: E402
from tensorlib.testing import calls  # noqa: E402
from tensorlib.testing.cases import Case  # noqa: E402

NAMES = ROOT / "docs" / "pytorch_names.txt"

#: Whole parts of PyTorch that are one line here.
PARTS: dict[str, str] = {
    "torch.distributed": "groups of one process (tensorlib.distributed); no communication backend yet, so that "
    "`is_available()` is False",
    "torch.fx, torch.export, torch.onnx, torch.package": "graphs of programs: models here are Python; of `torch.fx` "
    "there is `wrap`, and the classes by which programs tell what was traced",
    "torch.sparse, torch.nested, torch.masked": "strided tensors only",
    "torch.ao, torch.quantization": "no quantised tensors",
    "torch.mps, torch.xpu, torch.mtia": "Triton has no such target; `torch.mps` and `torch.xpu` say so to programs",
    "torch.monitor": "services around PyTorch's own processes",
    "torch.multiprocessing": "Python's own, with `spawn`; `share_memory_` and `share_memory` share tensors, others are "
    "copied from process to process",
    "torch.utils.cpp_extension, torch.utils.tensorboard, torch.utils.model_zoo": "tools around PyTorch",
}

#: Full names that are here only to refuse: they count as absent.
REFUSED = {"torch.autograd.profiler.emit_itt", "torch.autograd.profiler.emit_nvtx"}

#: Full names, with * and ?, -> why they are absent. The first that matches counts.
ABSENT: dict[str, str] = {}


def _absent(reason: str, names: str) -> None:
    ABSENT.update(dict.fromkeys(names.split(), reason))


_absent(
    "sparse and nested layouts: strided tensors only",
    """torch.*sparse_*  torch.sspaddmm torch.smm torch.hspmm torch.jagged torch.*indices_copy torch.values_copy
    torch.Tensor.*indices torch.Tensor.values torch.Tensor.*sparse* torch.Tensor.coalesce torch.Tensor.is_coalesced
    torch.Tensor.dense_dim torch.Tensor.sspaddmm torch.Tensor.smm torch.Tensor.to_padded_tensor
    torch.Tensor.is_nested torch.optim.SparseAdam""",
)
_absent(
    "quantised tensors and integers of fewer than 8 bits",
    """torch.*quantize* torch.q?int* torch.qint* torch.bit torch.bits* torch.int? torch.uint?
    torch.Tensor.q_* torch.Tensor.qscheme torch.Tensor.int_repr
    torch.float4_e2m1fn_x2""",
)
_absent("float8 formats that NVIDIA's and AMD's current matrix units do not share",
        "torch.float8_e4m3fnuz torch.float8_e5m2fnuz torch.float8_e8m0fnu")  # fmt: skip
_absent("complex32: NumPy has none", "torch.complex32 torch.chalf torch.Tensor.chalf")
_absent(
    "symbolic shapes: sizes are Python's ints",
    "torch.SymBool torch.SymFloat torch.SymInt torch.sym_* torch.cond torch.while_loop",
)
_absent(
    "TorchScript and its runtime",
    """torch.ScriptFunction torch.import_ir_module* torch.parse_* torch.merge_type_from_type_comment
    torch.unify_type_list torch.fork torch.wait torch.AggregationType torch.DispatchKey torch.Tag
    torch.compiled_with_cxx11_abi torch.init_num_threads torch.get_device_module torch.legacy_contiguous_format
    torch.thread_safe_generator torch.random.thread_safe_generator""",
)
_absent(
    "devices that Triton does not reach",
    """torch.Tensor.is_ipu torch.Tensor.ipu torch.Tensor.is_maia torch.Tensor.is_mkldnn torch.Tensor.to_mkldnn
    torch.Tensor.is_mtia torch.Tensor.mtia torch.Tensor.is_vulkan torch.Tensor.is_xla torch.Tensor.xpu
    torch.nn.Module.ipu torch.nn.Module.mtia torch.nn.Module.xpu""",
)
_absent(
    "removed by PyTorch: raises there",
    "torch.Tensor.eig torch.Tensor.lstsq torch.Tensor.solve torch.Tensor.symeig torch.Tensor.reinforce",
)
_absent(
    "deprecated by PyTorch in favour of another name that is here",
    """torch.Tensor.resize
    torch.Tensor.resize_as torch.Tensor.volatile torch.autograd.Function.saved_variables
    torch.autograd.NestedIOFunction torch.autograd.function.NestedIOFunction
    torch.autograd.gradcheck.get_numerical_jacobian torch.cuda.memory_cached
    torch.cuda.max_memory_cached torch.cuda.reset_max_memory_*""",
)
_absent(
    "typed storages: a tensor's memory is reached through numpy() or DLPack, its address by untyped_storage()",
    """torch.is_storage torch.Tensor.storage_type torch.from_file
    torch.Tensor.const_data_ptr torch.Tensor.is_distributed""",
)
_absent("named dimensions", "torch.Tensor.name")
_absent(
    "the dispatcher's own hooks: a new operator is declared with tensorlib.op, its gradient beside it",
    """torch.library.* torch.overrides.* torch.nn.functional.has_torch_function* torch.autograd.has_torch_function
    torch.Tensor.module_load torch.Tensor.as_subclass torch.nn.Module.dump_patches
    torch.func.debug_unwrap torch.func.functionalize torch.func.rearrange torch.Tensor.grad_dtype torch.Tensor.index
    torch.Tensor.slice_inverse torch.autograd.enforce_grad_layout_policy
    torch.autograd.is_view_replay_enabled torch.autograd.kineto_available torch.autograd.function.BackwardCFunction
    torch.autograd.function.FunctionMeta torch.autograd.Function.* torch.autograd.graph.set_*
    torch.autograd.graph.region_activation_memory_budget torch.optim.swap_in_optimizer_params_and_state
    torch.nn.factory_kwargs torch.utils.checkpoint.*""",
)
_absent("compilation records below autograd: nothing of Dynamo's to steer", "torch.compiler.* torch.nn.Module.compile")
_absent(
    "there is one allocator, the library's own; TENSORLIB_NO_MEMORY_CACHING=1 switches its cache off",
    """torch.cuda.CUDAPluggableAllocator torch.cuda.change_current_allocator torch.cuda.caching_allocator_enable
    torch.cuda.caching_allocator_disabled""",
)
_absent(
    "NVIDIA's libraries: the driver's interface alone is used",
    "torch.cuda.cudart torch.cuda.check_error torch.cuda.current_blas_handle torch.cuda.current_solver_handle",
)
_absent(
    "sensors and other processes of a GPU: nvidia-smi, rocm-smi, or the package nvidia-ml-py",
    """torch.cuda.clock_rate torch.cuda.device_memory_used torch.cuda.list_gpu_processes torch.cuda.memory_usage
    torch.cuda.power_draw torch.cuda.temperature torch.cuda.utilization""",
)
_absent("parts of a GPU as one of their own: the driver's MPS and MIG do that", "torch.cuda.GreenContext")
_absent("what a processor can do: `tensorlib doctor` and NumPy say it", "torch.cpu.get_capabilities")
_absent("a graph's replays take their numbers from the generators themselves", "torch.Generator.graphsafe_*")
_absent(
    "cuDNN's, cuBLAS's and MKL's own switches: none of them is used",
    "torch.backends.cuda.* torch.backends.cudnn.* torch.backends.mkl.verbose",
)
_absent("nothing is compiled to TorchScript: what its decorators mark runs as Python", "torch.jit.*")
_absent(
    "what steers PyTorch's own profiling libraries: the profiler is the library's own",
    "torch.profiler.* torch.autograd.profiler.*",
)
_absent(
    "attention has one implementation a device",
    """torch.nn.attention.activate_flash_attention_impl torch.nn.attention.current_flash_attention_impl
    torch.nn.attention.list_flash_attention_impls torch.nn.attention.register_flash_attention_impl
    torch.nn.attention.restore_flash_attention_impl""",
)
_absent("data pipes, deprecated by PyTorch", "torch.utils.data.IterDataPipe torch.utils.data.MapDataPipe")
_absent("randomised eigensolver", "torch.lobpcg")


#: What programs meet besides single names, found by running public programs and PyTorch's own tests: what, here.
PROGRAMS: dict[str, str] = {
    "`torch.hub`": "`load` runs the `hubconf.py` of a folder (`source=\"local\"`); code is not fetched, files are",
    "fake tensors": "absent; device `meta` has shapes and dtypes without numbers",
    "`save` of a module or another object": "refused: `state_dict()` is what is saved, and `load` never unpickles; "
    "`weights_only=False` is taken and allows no more",
    "sparse gradients (`sparse=True` of embeddings, `sparse_grad`)": "the argument is taken, the gradient is dense",
    "`__torch_function__`": "asked of objects that are no tensors, after the function could not use them; not of "
    "subclasses of Tensor, whose results are plain Tensors",
    "`__torch_dispatch__`, `TorchFunctionMode`, `torch.ops.aten`": "absent; operators are declared with tensorlib.op",
    "`torch.library`": "operators of Python functions, with gradients, kernels by kind of device, shapes for `meta`; "
    "without dispatch keys for autograd, and nothing traces them",
    "transformers, diffusers, accelerate, timm, PyTorch Lightning": "run on tensorlib where it stands for torch in "
    "`sys.modules`: what they import of PyTorch's private names is here as far as they use it",
    "a second `backward` through a graph that keeps no values, as of `a + b`": "refused without `retain_graph=True`, "
    "where PyTorch refuses only if values were freed",
    "writing one element of an expanded tensor": "refused: its memory is shared by others",
    "strides of `channels_last`": "`contiguous(memory_format=)` gives the numbers; memory stays in the dims' order",
    "`grad_fn._saved_*`, `torch._C`, `torch._dynamo` and other private names": "absent, but for `torch._utils`' "
    "flattening, `torch._foreach_*`, hooks of all modules, and marks of tracing and compiling: there is none",
    "samples of gamma, Dirichlet and beta": "their gradients are by implicit reparameterisation of gammas; PyTorch's "
    "of Dirichlet is another unbiased one",
    "`profiler`": "times are the host's, from the end of one operator to the end of the next",
    "`autograd.Function` on integers": "outputs of integer dtypes never require grad",
    "`torch.distributed`": "one process; collectives with `async_op=True` give a Work that is done",
}


class Name(NamedTuple):
    """One documented name: where PyTorch documents it, and what became of it."""

    place: str
    name: str
    state: str  # done, composite, CPU only, absent
    reason: str = ""


def documented() -> Iterator[tuple[str, str]]:
    """(module, name) of the list, after its first line."""
    place = ""
    for line in NAMES.read_text().splitlines()[1:]:
        if line.startswith("["):
            place = line.strip("[]")
        else:
            yield from ((place, name) for name in line.split())


def version() -> str:
    """The PyTorch whose names these are."""
    return NAMES.read_text().partition("\n")[0].removeprefix("PyTorch ")


#: Whose attributes stand for a place: those of an instance.
_INSTANCES = {
    "torch.finfo": lambda: [tensorlib.finfo(tensorlib.float32)],
    "torch.iinfo": lambda: [tensorlib.iinfo(tensorlib.int32)],
    "torch.autograd.Function": lambda: [tensorlib.autograd.Function, tensorlib.autograd.function.FunctionCtx()],
    "torch.Generator": lambda: [tensorlib.default_generator],
}


def found_at(path: str) -> list[Any]:
    """What the place of a name is here."""
    if path in _INSTANCES:
        return _INSTANCES[path]()
    own = path.replace("torch", "tensorlib", 1)
    try:
        return [importlib.import_module(own)]
    except ImportError:
        module, _, name = own.rpartition(".")
        if not module:
            return []
        values = [getattr(place, name, None) for place in found_at(module.replace("tensorlib", "torch", 1))]
        return [v for v in values if v is not None]


_SPACES = {"torch": "function", "torch.Tensor": "method", "torch.nn.functional": "functional",
           "torch.linalg": "linalg", "torch.fft": "fft", "torch.special": "special"}  # fmt: skip


def operators() -> dict[tuple[str, str], Op | Composite]:
    """Every public operator by (place, name), in-place forms too."""
    made: dict[tuple[str, str], Op | Composite] = {}
    for m in declared():
        if not m.__module__.startswith("tensorlib."):
            continue
        for place, space in _SPACES.items():
            for name in names_in(m, space):
                made[place, name] = m
                if m.inplace:
                    made.setdefault((place, f"{name}_"), m)
    return made


def without_kernel(made: Composite) -> bool:
    """Whether it calls an operator that has no kernel: its first samples are run, and who computes is listened to."""
    seen: list[Op] = []

    def observe(op: Op, *_: Any) -> None:
        seen.append(op)

    _core.observers.append(observe)
    _core.listening[0] += 1
    try:
        for sample in (made.samples or ())[:3]:
            for dtype in (np.float32, np.int64):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        calls.run(made, *Case("sample", sample).arguments(dtype))
                    break
                except TensorlibError:  # not of this dtype
                    continue
    finally:
        _core.listening[0] -= 1
        _core.observers.remove(observe)
    return any(op.kernel is None and not op.is_view for op in seen)


@cache
def state_of(made: Op | Composite) -> str:
    """done, composite or CPU only."""
    if isinstance(made, Composite):
        return "CPU only" if without_kernel(made) else "composite"
    return "done" if made.is_view or made.kernel is not None else "CPU only"


def unused() -> list[str]:
    """Reasons for single names that are here by now, or that PyTorch has no more."""
    absent = {f"{n.place}.{n.name}" for n in names() if n.state == "absent"}
    return [p for p in ABSENT if "*" not in p and "?" not in p and p not in absent]


def names() -> list[Name]:
    """Every documented name and its state. A name that is absent without a reason fails."""
    made, result, nowhere = operators(), [], []
    places = {p: found_at(p) for p, _ in documented()}
    for place, name in documented():
        m = made.get((place, name))
        if m is not None:
            result.append(Name(place, name, state_of(m)))
        elif any(hasattr(p, name) for p in places[place]) and f"{place}.{name}" not in REFUSED:
            result.append(Name(place, name, "done"))
        else:
            pattern = next((p for p in ABSENT if fnmatchcase(f"{place}.{name}", p)), None)
            if pattern is None:
                nowhere.append(f"{place}.{name}")
                continue
            result.append(Name(place, name, "absent", ABSENT[pattern]))
    if nowhere:
        raise SystemExit(f"docs/pytorch.md: absent without a reason in tools/pytorch_coverage.py: {' '.join(nowhere)}")
    return result


STATES = ("done", "composite", "CPU only", "absent")


def page() -> str:
    """docs/pytorch.md."""
    every = names()
    places = list(dict.fromkeys(n.place for n in every))
    lines = [f"""# PyTorch's names

Generated by `tools/generate.py`: every public name that PyTorch {version()} documents, by module, and whether it is
here under the same name. *Composite*: written with other operators that have kernels. *CPU only*: no kernel yet, its
own or that of an operator it calls; on a GPU it raises an error that names `.cpu()`. *Absent* names have a reason.
`tools/compare_with_pytorch.py` compares what is here with PyTorch; what differs on purpose is at the end.

| module | documented | done | composite | CPU only | absent |
|---|---|---|---|---|---|
"""]
    for place in [*places, ""]:
        here = [n for n in every if place in ("", n.place)]
        counts = " | ".join(str(sum(n.state == s for n in here)) for s in STATES)
        lines.append(f"| {f'`{place}`' if place else 'in all'} | {len(here)} | {counts} |\n")
    for place in places:
        lines.append(f"\n## {place}\n")
        here = [n for n in every if n.place == place]
        for state in STATES[:3]:
            chosen = [n.name for n in here if n.state == state]
            if chosen:
                lines.append(f"\n{_wrapped(f'**{state[:1].upper()}{state[1:]}**', chosen)}\n")
        for reason in dict.fromkeys(n.reason for n in here if n.state == "absent"):
            chosen = [n.name for n in here if n.reason == reason and n.state == "absent"]
            lines.append(f"\n{_wrapped(f'**Absent** ({reason})', chosen)}\n")
    lines.append("\n## Absent as a whole\n\n| part | reason |\n|---|---|\n")
    lines.extend(f"| `{'`, `'.join(part.split(', '))}` | {reason} |\n" for part, reason in PARTS.items())
    lines.append("\n## What programs meet\n\n| what | here |\n|---|---|\n")
    lines.extend(f"| {what} | {here} |\n" for what, here in PROGRAMS.items())
    lines.append("\n## What differs on purpose\n\n| operators | what | reason |\n|---|---|---|\n")
    for (who, category, _), reason in INTENDED.items():
        shown = "all" if who == "*" else ", ".join(f"`{n}`" for n in who.split())
        lines.append(f"| {shown} | {category} | {reason} |\n")
    return "".join(lines)


def _wrapped(head: str, chosen: list[str]) -> str:
    text = f"{head}: " + " ".join(f"`{n}`" for n in chosen)
    return "\n".join(textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False))


if __name__ == "__main__":
    text = page()
    print(text[: text.index("\n## ")])
    print("no longer needed:", *unused())
