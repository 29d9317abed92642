"""PyTorch's checkpoints: what torch.save wrote is read exactly, and nothing that a pickle can do is done."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tensorlib as T
from tensorlib import nn
from tensorlib.errors import CheckpointError

HERE = Path(__file__).resolve().parent
FILES = sorted(path.stem for path in HERE.glob("*.pt"))


def tensors(value: Any, path: str) -> dict[str, np.ndarray]:
    """The numbers of every tensor inside."""
    if isinstance(value, T.Tensor):
        return {path: value.numpy(force=True).astype(np.complex128 if value.is_complex() else np.float64)}
    found: dict[str, np.ndarray] = {}
    if isinstance(value, dict):
        for key, part in value.items():
            found |= tensors(part, f"{path}:{key}")
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            found |= tensors(part, f"{path}:{i}")
    return found


@pytest.mark.parametrize("how", ["path", "mmap", "file", "bytes"])
@pytest.mark.parametrize("name", FILES)
def test_the_numbers_are_those_of_torch(name: str, how: str) -> None:
    path = HERE / f"{name}.pt"
    if how == "bytes":
        found = T.load(io.BytesIO(path.read_bytes()))
    elif how == "file":
        with open(path, "rb") as file:
            found = T.load(file)
    else:
        found = T.load(path, mmap=how == "mmap")
    with np.load(HERE / "expected.npz") as expected:
        wanted = {key: expected[key] for key in expected.files if key.split(":")[0] == name}
    got = tensors(found, name)
    assert got.keys() == wanted.keys()
    for key, array in wanted.items():
        assert got[key].shape == array.shape, key
        assert np.array_equal(got[key], array), key


def test_there_are_files() -> None:
    assert {"resnet", "training", "transformer", "legacy", "dtypes", "layouts", "values"} <= set(FILES)


def test_values() -> None:
    found = T.load(HERE / "values.pt")
    assert found == {
        "none": None, "true": True, "int": -3, "big": 1 << 70, "float": 2.5, "inf": float("inf"), "text": "ü",
        "bytes": b"\x00\xff", "bytearray": bytearray(b"ab"), "complex": 1 - 2j, "list": [1, [2]],
        "tuple": (1, (2, 3), ()), "set": {1, 2}, "frozenset": frozenset("ab"), "ordered": OrderedDict(b=1, a=2),
        "counter": Counter("aab"), "defaultdict": {"k": [1]}, 5: "int key", (1, 2): "tuple key",
        "size": (2, 3), "dtype": T.bfloat16, "device": T.device("cuda", 1),
    }  # fmt: skip
    kinds = {"ordered": OrderedDict, "counter": Counter, "defaultdict": defaultdict, "size": T.Size, "true": bool}
    assert all(type(found[key]) is kind for key, kind in kinds.items())
    assert found["defaultdict"]["new"] == []


def test_dtypes_layouts_and_shared_memory() -> None:
    for name, tensor in T.load(HERE / "dtypes.pt").items():
        assert tensor.dtype is getattr(T, name), name
    found = T.load(HERE / "layouts.pt")
    assert found["transposed"].stride() == (1, 6) and found["expanded"].stride() == (0, 0)
    assert found["channels_last"].stride() == (24, 1, 8, 2) and found["stepped"].stride() == (12, 2)
    found["whole"][1, 3] = 99
    assert found["row"][3] == 99 and found["transposed"][3, 1] == 99 and found["again"][1, 3] == 99
    parameter, frozen, leaf = T.load(HERE / "parameters.pt")
    assert type(parameter) is type(frozen) is nn.Parameter and type(leaf) is T.Tensor
    assert (parameter.requires_grad, frozen.requires_grad, leaf.requires_grad) == (True, False, True)


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)


def resnet() -> Any:
    parts = {"stem": nn.Conv2d(3, 4, 3), "block1": Block(4), "block2": Block(4), "head": nn.Linear(4, 3)}
    return nn.Sequential(OrderedDict(parts))


def test_models_and_optimizers_take_them() -> None:
    model = resnet()
    state = T.load(HERE / "resnet.pt")
    assert state._metadata["block1.bn1"] == {"version": 2}
    assert str(model.load_state_dict(state)) == "<All keys matched successfully>"
    training = T.load(HERE / "training.pt")
    model.load_state_dict(training["model"])
    optimizer = T.optim.AdamW(model.parameters(), lr=0.5)
    scheduler = T.optim.lr_scheduler.StepLR(optimizer, 2)
    optimizer.load_state_dict(training["optimizer"])
    scheduler.load_state_dict(training["scheduler"])
    assert optimizer.param_groups[0]["lr"] == 0.01 and scheduler.last_epoch == 1
    first = next(model.parameters())
    exp_avg = training["optimizer"]["state"][0]["exp_avg"]
    assert (optimizer.state[first]["exp_avg"] == exp_avg).all() and exp_avg.any()
    tied = T.load(HERE / "transformer.pt")
    assert tied["head.weight"].data_ptr() == tied["embed.weight"].data_ptr()
    momentum = T.optim.SGD([nn.Parameter(T.zeros(3))], lr=0.1, momentum=0.9)
    momentum.load_state_dict(T.load(HERE / "sgd.pt"))
    assert (next(iter(momentum.state.values()))["momentum_buffer"] == 1).all()


# ------------------------------------------------------------------------------------------------------ by hand


def archive(pickled: bytes, storages: dict[str, bytes] | None = None, compress: bool = False, **more: bytes) -> bytes:
    """A zip checkpoint."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED) as out:
        out.writestr("archive/data.pkl", pickled)
        for key, data in (storages or {}).items():
            out.writestr(f"archive/data/{key}", data)
        for name, data in more.items():
            out.writestr(f"archive/{name}", data)
    return file.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def tensor(
    kind: str = "FloatStorage", count: int = 4, offset: int = 0, size: tuple[int, ...] = (2, 2),
    stride: tuple[int, ...] = (2, 1), key: str = "0", location: str = "cpu", metadata: bytes = b"",
) -> bytes:  # fmt: skip
    """The opcodes of a tensor, as torch writes them."""
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text(location) + number(count) + b"tQ"
    dims = [b"(" + b"".join(map(number, sizes)) + b"t" for sizes in (size, stride)]
    return (b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + dims[0] + dims[1]
            + b"\x89ccollections\nOrderedDict\n)R" + metadata + b"tR")  # fmt: skip


def load(pickled: bytes, storages: dict[str, bytes] | None = None, **more: bytes) -> Any:
    return T.load(io.BytesIO(archive(b"\x80\x02" + pickled + b".", storages, **more)))


DATA = np.arange(4, dtype=np.float32).tobytes()


def test_by_hand() -> None:
    assert load(tensor(), {"0": DATA}).tolist() == [[0, 1], [2, 3]]
    assert load(tensor(offset=1, size=(3,), stride=(1,)), {"0": DATA}).tolist() == [1, 2, 3]


def test_big_endian() -> None:
    order = {"byteorder": b"big"}
    assert load(tensor(), {"0": np.arange(4, dtype=">f4").tobytes()}, **order).tolist() == [[0, 1], [2, 3]]
    complex_ = np.array([1 + 2j, 3], ">c8").tobytes()
    given = tensor("ComplexFloatStorage", 2, size=(2,), stride=(1,))
    assert load(given, {"0": complex_}, **order).tolist() == [1 + 2j, 3]
    half = tensor("BFloat16Storage", 2, size=(2,), stride=(1,))
    assert load(half, {"0": b"\x3f\x80\x40\x00"}, **order).tolist() == [1, 2]
    with pytest.raises(CheckpointError, match="byte order"):
        load(tensor(), {"0": DATA}, byteorder=b"middle")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"size": (3, 2)}, "claims elements 0 to 5 of memory that has 4"),
        ({"stride": (4, 1)}, "claims elements"),
        ({"offset": 1}, "claims elements 1 to 4"),
        ({"offset": -1}, "offset -1"),
        ({"stride": (-2, 1)}, "claims elements -2 to 1"),
        ({"size": (-1, 2)}, "shape"),
        ({"size": (2,)}, "strides"),
        ({"size": (2**62, 2**62), "stride": (0, 0)}, "shape"),
        ({"size": (0,), "stride": (1,), "offset": 5}, "begins at element 5 of 4"),
        ({"count": 5}, "storage '0' of 20 bytes is missing or has fewer"),
        ({"count": 2**61}, "missing or has fewer"),
        ({"count": -1}, "not described by"),
        ({"key": "7"}, "storage '7' of 16 bytes is missing"),
        ({"key": "../data.pkl"}, "missing"),
        ({"kind": "QUInt8Storage"}, r"names the global torch.QUInt8Storage"),
        ({"kind": "BoolStorage", "count": 16, "size": (16,), "stride": (1,)}, "neither true nor false"),
        ({"metadata": b"}" + text("fire") + b"\x88s"}, "metadata"),
        ({"location": "cuda:0"}, "pass map_location='cpu'"),
        ({"location": "nowhere"}, "pass map_location='cpu'"),
        ({"size": tuple([1] * 65), "stride": tuple([1] * 65)}, "shape"),
    ],
)  # fmt: skip
def test_tensors_that_cannot_be(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        load(tensor(**arguments), {"0": DATA})


def test_map_location() -> None:
    content = archive(b"\x80\x02" + tensor(location="cuda:0") + b".", {"0": DATA})
    seen = []

    def keep(t: Any, location: str) -> Any:
        seen.append(location)
        return t

    for where in ("cpu", T.device("cpu"), {"cuda:0": "cpu"}, keep, lambda t, location: "cpu"):
        assert T.load(io.BytesIO(content), map_location=where).tolist() == [[0, 1], [2, 3]]
    assert seen == ["cuda:0"]
    for where in (None, {"cuda:1": "cpu"}, lambda t, location: None):
        with pytest.raises(CheckpointError, match="saved on 'cuda:0'"):
            T.load(io.BytesIO(content), where)
    assert T.load(io.BytesIO(content), "interpret").device.type == "interpret"
    with pytest.raises(RuntimeError, match="unknown device"):
        T.load(io.BytesIO(content), "tpu")


class Evil:
    """Its unpickling makes a file."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, exec, open, getattr, print, __import__, type, pickle.loads])
def test_calls_are_refused_by_name_and_not_made(tmp_path: Path, function: Any, protocol: int) -> None:
    target = tmp_path / "made"
    arguments = {os.system: f"touch {target}", eval: f"open({str(target)!r}, 'w')", exec: f"open({str(target)!r}, 'w')",
                 open: str(target)}  # fmt: skip
    extra = ("w",) if function is open else ()
    pickled = pickle.dumps({"w": [Evil(function, arguments.get(function, "os"), *extra)]}, protocol)
    with pytest.raises(CheckpointError, match=rf"names the global \w+\.{function.__name__}: .*nothing was imported"):
        T.load(io.BytesIO(archive(pickled)))
    assert not target.exists()


@pytest.mark.parametrize(
    ("pickled", "match"),
    [
        (b"ctensorlib\nsave\n.", r"names the global tensorlib\.save"),
        (b"(ios\nsystem\n.", "opcode INST"),
        (b"(cos\nsystem\no.", "names the global os.system"),
        (b"\x82\x01.", "opcode EXT1"),
        (b"Pid\n.", "opcode PERSID"),
        (b"K\x01Q.", "not a storage"),
        (b"(" + text("module") + b"tQ.", "not a storage"),
        (b"ctorch\nfloat32\n)R.", "calls float32: refused"),
        (b"ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage: refused"),
        (b"cbuiltins\nlist\n)R.", "calls builtins.list: refused"),
        (b"}K\x01b.", "gives a state to a dict"),
        (b"ccollections\nOrderedDict\n)R}" + text("__class__") + b"K\x01sb.", "gives a state"),
        (b"]" + b"]K\x01s.", "fills a list as if it were a dict"),
        (b"}K\x01a.", "fills a dict as if it were a list"),
        (b"}]K\x01s.", "a key is of the type list"),
        (b"0.", "takes more"),
        (b"t.", "mark"),
        (b"h\x05.", "not a whole"),
        (b"", "not a whole"),
        (b"K\x01", "not a whole"),
        (b"\xff.", "not a whole"),
        (b"B\xff\xff\xff\x7f.", "not a whole"),
        (b"\x8e" + b"\xff" * 7 + b"\x7f.", "not a whole"),
        (b"\x8b\xff\xff\xff\x7f.", "not a whole"),
        (b"c_codecs\nencode\n" + text("a") + text("rot13") + b"\x86R.", "encoded as 'rot13'"),
        (b"ccollections\ndefaultdict\ncos\nsystem\n\x85R.", "names the global os.system"),
        (b"ccollections\ndefaultdict\nctorch\nSize\n\x85R.", "has the factory"),
        (b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\nctorch\nTensor\n)}tR.", "of the class"),
        (b"ctorch\nSize\n(]tR.", "not made of integers"),
        (b"ctorch._utils\n_rebuild_parameter\n(K\x01\x88NtR.", "not made of a tensor"),
        (b"ctorch.nn.modules.linear\nLinear\n)\x81.", r"torch\.nn\.modules\.linear\.Linear.*state_dict"),
        # A tuple of itself twice, 60 levels deep, has a hash that takes 2**60 steps.
        (b"}" + b"K\x01" + b"2\x86" * 60 + b"K\x01s.", "a key is a tuple"),
    ],
)  # fmt: skip
def test_malicious_and_broken_pickles(pickled: bytes, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        T.load(io.BytesIO(archive(b"\x80\x02" + pickled)))


def test_copies_are_paid_for() -> None:
    """A list of a thousand, made a set a thousand times, in a few kilobytes."""
    pickled = b"\x80\x02(" + b"K\x01" * 1000 + b"lq\x00"
    pickled += b"(" + b"cbuiltins\nset\nh\x00\x85R" * 1000 + b"l."
    with pytest.raises(CheckpointError, match="again and again"):
        T.load(io.BytesIO(archive(pickled)))


def test_archives_that_cannot_be(tmp_path: Path) -> None:
    whole = archive(b"\x80\x02" + tensor() + b".", {"0": DATA})
    with pytest.raises(CheckpointError, match="compressed"):
        T.load(io.BytesIO(archive(pickle.dumps(b"\x00" * 10_000_000), compress=True)))
    with pytest.raises(CheckpointError, match="TorchScript"):
        T.load(io.BytesIO(archive(b"\x80\x02N.", **{"constants.pkl": b"\x80\x02)."})))
    with pytest.raises(CheckpointError, match=r"0 entries data\.pkl"):
        T.load(io.BytesIO(whole.replace(b"data.pkl", b"data.pkk")))
    for cut in range(1, len(whole), 37):
        with pytest.raises(CheckpointError):
            T.load(io.BytesIO(whole[:cut]))
    directory = whole.index(b"PK\x01\x02")
    second = whole.index(b"PK\x01\x02", directory + 4)
    for at, value, match in [
        (second + 42, whole.index(b"PK\x03\x04") + 0, "overlap|not where|twice|missing"),  # two entries at one place
        (second + 42, len(whole) - 10, "Truncated|asked for|not where|not a whole"),
        (directory + 20, 2**31, "not a whole"),
        (directory + 24, 2**31, "not a whole"),
    ]:
        bad = bytearray(whole)
        bad[at : at + 4] = struct.pack("<I", value)
        with pytest.raises(CheckpointError, match=match):
            T.load(io.BytesIO(bytes(bad)))
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="bare pickle"):
        T.load(path)


def test_legacy_damage() -> None:
    content = (HERE / "legacy.pt").read_bytes()
    for cut in range(20, len(content), 501):
        with pytest.raises(CheckpointError):
            T.load(io.BytesIO(content[:cut]))


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_an_error_or_still_a_checkpoint(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["dtypes", "layouts", "values", "parameters", "sgd", "legacy"]))
    content = bytearray((HERE / f"{name}.pt").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(content) - 1, 1500)))
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
