"""``save`` and ``load``: every kind of value comes back, memory stays shared, files are whole, damage is an error."""

from __future__ import annotations

import collections
import gc
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tensorlib as T
from tensorlib import nn
from tensorlib.errors import CheckpointError

Point = collections.namedtuple("Point", "x y")


def again(value: Any, **kwargs: Any) -> Any:
    """The value after a file."""
    file = io.BytesIO()
    T.save(value, file)
    file.seek(0)
    return T.load(file, **kwargs)


def same(a: Any, b: Any) -> bool:
    """Equal in value and kind, inside too."""
    if type(a).__name__ != type(b).__name__:
        return False
    if isinstance(a, T.Tensor):
        flags = a.requires_grad == b.requires_grad and (a.stride() == b.stride() or not a.numel())
        return flags and same(a.numpy(force=True), b.numpy(force=True))
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, T.Generator):
        return same(a.get_state(), b.get_state())
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return bool(a == b)


VALUES = {
    "none": None, "bools": [True, False], "ints": [0, -1, 2**63 - 1, -(2**63), 2**63, -(10**40)],
    "floats": [0.1, -0.0, 1e-320, math.inf, -math.inf, math.nan], "complex": [1 - 2j, complex(math.inf, -0.0)],
    "text": ["", "ü\u2028\x00", "\ud800", '"\\'], "bytes": [b"", b"\x00\xff", b"x" * 5000],
    "bytearrays": [bytearray(b"ab"), bytearray(999)],
    "list": [[], [[1], 2]], "tuple": [(), (1, (2,))], "set": {1, "a", (2, 3)}, "frozenset": frozenset({1}),
    "dict": {1: "int", 2.5: "float", None: 0, (1, "a"): 1, b"k": 2, False: 3}, "empty keys": {"": {"": 1}},
    "ordered": collections.OrderedDict(b=1, a=2), "counter": collections.Counter("aab"),
    "default": collections.defaultdict(list, {"k": [1]}), "named": Point(1, Point(2, 3)), "size": T.Size([2, 3]),
    "dtypes": [T.bfloat16, T.float32], "devices": [T.device("cpu"), T.device("cuda:1")],
    "scalars": [np.float64(2.5), np.int8(-3), np.bool_(True), np.complex64(1j)],
    "arrays": [np.arange(6).reshape(2, 3), np.array(2.5), np.zeros((0, 2))], "generator": T.Generator().manual_seed(5),
    "kinds": [{"tensor": 1}, {"dict": {}}, {"int": "ff"}],
}  # fmt: skip


@pytest.mark.parametrize("name", list(VALUES))
def test_values(name: str) -> None:
    found = again(VALUES[name])
    assert same(found, VALUES[name])
    assert again({"deep": [VALUES[name]]})["deep"] is not None
    if name == "default":
        assert found["new"] == []


@pytest.mark.parametrize("kind", T._dtypes.ALL, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5,), (2, 3, 4)])
def test_tensors(kind: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    t = (T.arange(math.prod(shape)).reshape(shape) % 5).to(kind)
    T.save(t, tmp_path / "t")
    for found in (again(t), T.load(tmp_path / "t"), T.load(tmp_path / "t", mmap=True)):
        assert found.dtype is kind and same(found, t)


def test_layouts() -> None:
    x = T.randn(2, 3, 4)
    for t in (x.permute(2, 0, 1), x.mT, T.ones(1).expand(5, 3), T.ones(3, 1).expand(3, 4), x.permute(0, 2, 1)[:1]):
        assert same(again(t), t)
    for t in (x[:, ::2], x[1:, 1:, 1:], T.from_numpy(np.arange(5.0)[::-1])):  # gaps are not kept
        assert (again(t) == t).all() and again(t).is_contiguous()


def test_shared_memory_stays_shared() -> None:
    x = T.randn(4, 6)
    saved = {"whole": x, "tied": x, "row": x[1], "column": x[:, 2], "transposed": x.T, "int": x.view(T.int32)}
    saved["other"] = x.clone()
    found = again(saved)
    assert found["whole"] is found["tied"]
    found["whole"][1, 2] = 99
    assert found["row"][2] == 99 and found["column"][1] == 99 and found["transposed"][2, 1] == 99
    assert found["int"][1, 2] == T.tensor(99.0).view(T.int32) and found["other"][1, 2] != 99
    parts = again([x[:3], x[2:], T.ones(1)])  # neither holds the other
    parts[0][2, 0] = 7
    assert parts[1][0, 0] == 7
    pair = again({"a": x.numpy(), "b": x})
    pair["a"][0, 0] = 5
    assert pair["b"][0, 0] == 5
    mixed = T.zeros(4, dtype=T.bool)
    a, b = again([mixed[:3], mixed[1:]])
    a[1] = True
    assert b[0]
    c = T.ones(4, dtype=T.complex128)
    a, b = again([c[:3], c[1:]])
    a[1] = 3j
    assert b[0] == 3j


def test_parameters_modules_and_optimizers(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    model[2].weight = nn.Parameter(model[0].weight.detach().T.clone())
    optimizer = T.optim.Adam(model.parameters(), lr=0.1)
    scheduler = T.optim.lr_scheduler.StepLR(optimizer, 1)
    for _ in range(2):
        model(T.randn(5, 3)).square().sum().backward()
        optimizer.step()
        scheduler.step()
    T.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
            "parameter": model[0].weight, "leaf": T.ones(2, requires_grad=True)}, tmp_path / "x")  # fmt: skip
    found = T.load(tmp_path / "x")
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    assert str(other.load_state_dict(found["model"])) == "<All keys matched successfully>"
    assert found["model"]._metadata == model.state_dict()._metadata
    resumed = T.optim.Adam(other.parameters(), lr=0.5)
    resumed.load_state_dict(found["optimizer"])
    assert same(resumed.state_dict(), optimizer.state_dict())
    assert list(found["optimizer"]["state"]) == list(range(6))
    other_scheduler = T.optim.lr_scheduler.StepLR(resumed, 1)
    other_scheduler.load_state_dict(found["scheduler"])
    assert other_scheduler.get_last_lr() == scheduler.get_last_lr()
    assert type(found["parameter"]) is nn.Parameter and found["parameter"].requires_grad
    assert found["leaf"].requires_grad and found["leaf"].is_leaf
    frozen, buffer = again([nn.Parameter(T.ones(2), requires_grad=False), nn.Buffer(T.ones(2), persistent=False)])
    assert type(frozen) is nn.Parameter and not frozen.requires_grad
    assert type(buffer) is nn.Buffer and buffer.persistent is False


def test_other_readers_find_the_tensors_by_their_path(tmp_path: Path) -> None:
    model = nn.Linear(2, 3)
    T.save({"model": model.state_dict(), "list": [T.ones(2)], 3: T.zeros(1), "__metadata__": T.ones(1)}, tmp_path / "x")
    with safetensors.safe_open(tmp_path / "x", "np") as file:
        assert set(file.keys()) == {"model.weight", "model.bias", "list.0", "3", "__metadata__#1"}
        assert np.array_equal(file.get_tensor("model.weight"), model.weight.detach().numpy())
        assert file.metadata()["format"] == "tensorlib.save/1"
    T.io.save_file({"a": np.arange(3)}, tmp_path / "plain")
    assert same(T.load(tmp_path / "plain"), {"a": T.arange(3)})


class Thing:
    pass


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"a": [1, {"net": nn.Linear(1, 1)}]}, r"obj\['a'\]\[1\]\['net'\] is a tensorlib.nn.linear.Linear.*state_dict"),
        ((Thing(),), r"obj\[0\] is a .*Thing"),
        ({"f": len}, r"obj\['f'\] is a builtins.builtin_function"),
        ({Thing: 1}, "the key .* of obj is a builtins.type"),
        (np.array(["a"]), "obj is an array of dtype <U1"),
        ([np.array([None])], r"obj\[0\] is an array of dtype object"),
        (np.datetime64(1, "s"), "numpy.datetime64"),
        (collections.defaultdict(lambda: 1), "defaultdict of"),
        (type("Sub", (dict,), {})(), "Sub"),
        (range(3), "builtins.range"),
    ],
)  # fmt: skip
def test_what_cannot_be_saved_is_named_by_its_place(value: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=match):
        T.save(value, tmp_path / "x")
    assert not os.listdir(tmp_path)


def test_cycles_and_depth() -> None:
    loop: list[Any] = []
    loop.append({"a": loop})
    with pytest.raises(CheckpointError, match=r"obj\[0\]\['a'\] contains itself"):
        again(loop)
    deep: Any = []
    for _ in range(190):
        deep = [deep]
    assert same(again(deep), deep)
    for _ in range(50):
        deep = [deep]
    with pytest.raises(CheckpointError, match="nested deeper than 200 levels"):
        again(deep)
    part = [T.ones(1)]
    assert same(again([part, part]), [part, part])


def test_arguments(tmp_path: Path) -> None:
    T.save([1], str(tmp_path / "x"))
    assert T.load(str(tmp_path / "x"), weights_only=True) == [1]
    with open(tmp_path / "x", "rb") as file:
        assert T.load(file) == [1]
        file.seek(0)
        with pytest.raises(ValueError, match="mmap=True"):
            T.load(file, mmap=True)
    assert T.load(tmp_path / "x", weights_only=False) == [1]
    with pytest.raises(TypeError, match="expected a path"):
        T.load(3)
    with pytest.raises(TypeError, match="expected a path"):
        T.save(3, 3)
    with pytest.raises(CheckpointError, match=r"cannot read .*none: No such file"):
        T.load(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        T.load(tmp_path / "none")
    missing = f"cannot write {tmp_path}/none/x: Parent directory {tmp_path}/none does not exist"
    for kind in (CheckpointError, RuntimeError, OSError):
        with pytest.raises(kind, match=missing):
            T.save(3, tmp_path / "none" / "x")
    with pytest.raises(NotADirectoryError) as raised:
        T.save(3, tmp_path / "x" / "y")
    assert raised.value.filename == str(tmp_path / "x" / "y")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder'$"):
        T.save(3, tmp_path / "folder")
    for junk in (b"some text, not a checkpoint", b"\x89PNG\r\n\x1a\n" + bytes(99)):
        (tmp_path / "junk").write_bytes(junk)
        with pytest.raises(CheckpointError, match="junk is neither a safetensors file nor a PyTorch checkpoint"):
            T.load(tmp_path / "junk")


class Stream(io.RawIOBase):
    """A file that cannot seek, and gives a few bytes at a time."""

    def __init__(self, content: bytes) -> None:
        self.inner = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.inner.readinto(memoryview(buffer)[:7])


def test_streams_and_positions() -> None:
    file = io.BytesIO()
    T.save({"a": T.arange(100)}, file)
    assert same(T.load(Stream(file.getvalue())), {"a": T.arange(100)})
    later = io.BytesIO(b"before" + file.getvalue())
    later.seek(6)
    assert same(T.load(later), {"a": T.arange(100)})


def test_map_location(tmp_path: Path) -> None:
    x = T.randn(3, 4, device="interpret")
    T.save({"x": x, "row": x[1], "host": T.ones(2)}, tmp_path / "x")
    found = T.load(tmp_path / "x")
    assert found["x"].device.type == "interpret" and found["host"].device.type == "cpu"
    assert same(found["x"].cpu(), x.cpu())
    for where in ("cpu", T.device("cpu"), {"interpret": "cpu"}, lambda t, location: t):
        assert {t.device.type for t in T.load(tmp_path / "x", where).values()} == {"cpu"}
    assert {t.device.type for t in T.load(tmp_path / "x", "interpret").values()} == {"interpret"}
    with pytest.raises(CheckpointError, match="belongs on 'cuda:0'"):
        T.load(tmp_path / "x", "cuda:0")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at mappings by /proc")
def test_mapped_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    T.save({"a": T.ones(1 << 20), "b": T.arange(10), "odd": T.ones(3, dtype=T.int8)}, path)
    before = path.read_bytes()
    found = T.load(path, mmap=True)
    assert str(path) in Path("/proc/self/maps").read_text()
    found["a"][5] = 7
    assert found["a"][:7].tolist() == [1, 1, 1, 1, 1, 7, 1]
    assert path.read_bytes() == before
    view = found["b"][2:]
    del found
    assert view.tolist() == list(range(2, 10))
    del view
    gc.collect()
    assert str(path) not in Path("/proc/self/maps").read_text()


# ------------------------------------------------------------------------------------------------------------ whole


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_kill_in_the_middle_of_save_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    code = f"""
import itertools, tensorlib as T
for i in itertools.count():
    T.save({{"i": i, "x": T.full((1 << 19,), i)}}, {str(path)!r})
    if not i: print("first", flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(T.__file__).parent.parent)}
    last = -1
    for delay in (0.0, 0.013, 0.031, 0.052, 0.07):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        found = T.load(path)
        assert (found["x"] == found["i"]).all()
        last = max(last, found["i"])
        assert set(os.listdir(tmp_path)) <= {"x", ".x.tmp"}
    assert last > 0
    T.save(1, path)
    assert os.listdir(tmp_path) == ["x"] and T.load(path) == 1


def _file(described: Any, **metadata: str) -> io.BytesIO:
    text = described if isinstance(described, str) else json.dumps(described)
    header = {"__metadata__": {"format": "tensorlib.save/1", "tensorlib": text} | metadata,
              "t": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}  # fmt: skip
    body = json.dumps(header).encode()
    return io.BytesIO(len(body).to_bytes(8, "little") + body + np.arange(4, dtype=np.float32).tobytes())


TENSOR = {"tensor": {"at": 0}}


def test_a_description_by_hand() -> None:
    made = {"object": [TENSOR], "memory": [["t", "float32", [2, 2], [2, 1], 0]]}
    assert T.load(_file(made))[0].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    "described",
    [
        "", "[", "[]", "3", {"object": 1}, "[" * 100_000,
        *({"object": value, "memory": []} for value in (
            {"tuple": 3}, {"nothing": 1}, {"a": 1, "b": 2}, {}, {"tensor": 1}, TENSOR, {"tensor": {"at": -1}},
            {"int": 5}, {"int": "zz"}, {"float": "1e9"}, {"complex": ["1"]}, {"bytes": "*"}, {"set": [[1]]},
            {"dict": [[1]]}, {"dict": [[[], 1]]}, {"dtype": "float3"}, {"device": "x"}, {"defaultdict": ["eval", {}]},
            {"namedtuple": ["a b", ["x"], [1]]}, {"namedtuple": ["A", ["class"], [1]]},
            {"namedtuple": ["A", ["x"], []]},
            {"namedtuple": ["A", ["__import__('os')"], [1]]}, {"Generator": ["cpu", "AA=="]},
            {"scalar": ["int8", "AAA="]},
            {"Counter": 5}, {"array": 0}, {"Size": ["a"]}, {"state_dict": [{}]}, {"bytes": 3},
        )),
        *({"object": TENSOR, "memory": [place]} for place in (
            [], ["u", "float32", [4], None, None], ["t", "float", [4], [1], 8], ["t", "float32", [5], None, None],
            ["t", "float32", [4], [0, 1], None], ["t", "float32", [4], [1], None],
            ["t", "float32", [2, 2], [0, 0], None],
            ["t", "float32", [4], [1], 4], ["t", "float32", [4], [1], -4], ["t", "float32", [4], [1], 2],
            ["t", "float32", [2**40], [1], 0], ["t", "float32", [-1], [1], 0], ["t", "float32", [4], [-1], 0],
            ["t", "float32", [4, 4], [1], 0], ["t", "bool", [16], [1], 0], ["t", "complex128", [2], [1], 0],
            ["t", "float32", [2.0], [1], 0], ["t", "float32", [4], [1], 1e300], ["t", "float32", [4], [1], "0"],
        )),
        *({"object": {"tensor": given}, "memory": [["t", "int32", [4], [1], 0]]} for given in (
            {"at": 0, "requires_grad": True}, {"at": 0, "class": "Module"}, {"at": 0, "device": "cuda:0"}, {"at": "0"},
            {"at": True, "class": ["Tensor"]},
        )),
    ],
)  # fmt: skip
def test_descriptions_that_cannot_be(described: Any) -> None:
    with pytest.raises(CheckpointError):
        T.load(_file(described))


def test_another_version() -> None:
    with pytest.raises(CheckpointError, match=r"its format is 'tensorlib\.save/9'"):
        T.load(_file({"object": 1, "memory": []}, format="tensorlib.save/9"))


@given(content=st.binary(max_size=200), size=st.integers(0, 2**64 - 1))
@settings(max_examples=200, deadline=None)
def test_garbage(content: bytes, size: int) -> None:
    for data in (content, size.to_bytes(8, "little") + content, size.to_bytes(8, "little") + b"{" + content):
        with pytest.raises(CheckpointError):
            T.load(io.BytesIO(data))


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_an_error_or_still_a_checkpoint(data: st.DataObject) -> None:
    x = T.arange(6.0).reshape(2, 3)
    file = io.BytesIO()
    T.save({"a": x, "v": x[0, 1:], "t": x.T.clone(), "n": [1, {2: (3, None)}], "b": T.tensor([True]), "s": {1}}, file)
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del content[max(at, 1) :]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    try:
        T.load(io.BytesIO(bytes(content)))
    except CheckpointError:
        pass
