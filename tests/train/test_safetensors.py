"""The safetensors format beside the reference implementation, and against every kind of damage."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tensorlib.errors import CheckpointError
from tensorlib.io import load_file, save_file
from tensorlib.io.safetensors import DTYPES


def _arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = [(), (0,), (1,), (3,), (2, 3), (2, 0, 4), (5, 1, 2)]
    arrays = {}
    for i, (name, dtype) in enumerate(DTYPES.items()):
        shape = shapes[i % len(shapes)]
        raw = random.integers(0, 2 if dtype == np.bool_ else 256, (*shape, dtype.itemsize), dtype=np.uint8)
        arrays[f"layer.{name}"] = np.ascontiguousarray(raw).view(dtype).reshape(shape)
    return arrays


def _same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a
    )


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(_arrays(), path, {"note": "größer", "empty": ""})
    arrays, metadata = load_file(path)
    assert _same(arrays, _arrays())
    assert metadata == {"note": "größer", "empty": ""}
    assert all(array.flags.writeable for array in arrays.values())
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_no_tensors(tmp_path: Path) -> None:
    save_file({}, tmp_path / "x")
    assert load_file(tmp_path / "x") == ({}, {})


def test_strided_arrays_are_written_in_row_major_order(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    save_file({"t": x.T, "s": x[::2, ::-3]}, tmp_path / "x")
    arrays, _ = load_file(tmp_path / "x")
    assert np.array_equal(arrays["t"], x.T)
    assert np.array_equal(arrays["s"], x[::2, ::-3])


def test_the_reference_reads_what_we_write(tmp_path: Path) -> None:
    save_file(_arrays(), tmp_path / "x", {"a": "b"})
    with safetensors.safe_open(tmp_path / "x", "np") as file:
        assert file.metadata() == {"a": "b"}
        assert set(file.keys()) == set(_arrays())
    for name, entry in safetensors.deserialize((tmp_path / "x").read_bytes()):
        array = _arrays()[name]
        assert (entry["dtype"], tuple(entry["shape"])) == (name.removeprefix("layer."), array.shape)
        assert bytes(entry["data"]) == array.tobytes()


def test_we_read_what_the_reference_writes(tmp_path: Path) -> None:
    arrays = {name: a for name, a in _arrays().items() if a.dtype.isbuiltin == 1 or name == "layer.BF16"}
    safetensors.numpy.save_file(arrays, tmp_path / "x", {"k": "v"})
    found, metadata = load_file(tmp_path / "x")
    assert _same(found, arrays)
    assert metadata == {"k": "v"}


def test_unknown_dtype_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'x' of dtype complex128"):
        save_file({"x": np.zeros(2, np.complex128)}, tmp_path / "x")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "x"
    save_file({"x": np.zeros(3)}, path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(OSError, match="No space left"):
            save_file({"x": np.ones(3)}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x"]


def _file(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "0 bytes, fewer than the 8"),
        (b"\x01" * 7, "7 bytes, fewer than the 8"),
        (_file({}, length=3), "states a header of 3 bytes"),
        (_file({}, length=2**63), "states a header of 9223372036854775808 bytes"),
        (_file({}, length=200_000_000), "states a header of 200000000 bytes"),
        (_file(b"[]"), "neither a safetensors file nor a PyTorch checkpoint"),
        (b"PK\x03\x04" + bytes(30), "a zip archive, as PyTorch's checkpoints are"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "neither a safetensors file nor a PyTorch checkpoint: it begins with"),
        (bytes(8), "its header is empty"),
        (_file(b"{"), "not JSON"),
        (_file(b'{"a":\xff}'), "not JSON"),
        (_file(b'{"a":' + b"[" * 100_000), "not JSON"),
        (_file(b'{"a":NaN}'), "NaN"),
        (_file(b'{"a":1,"a":1}'), "twice"),
        (_file(b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)), "twice"),
        (_file({"__metadata__": {"a": 1}}), "not a table of text"),
        (_file({"__metadata__": []}), "not a table of text"),
        (_file({"a": 1}), "not described"),
        (_file({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), "not described"),
        (_file({"a": _entry() | {"more": 1}}, bytes(8)), "not described"),
        (_file({"a": _entry("F33")}, bytes(8)), "'F33'; known are"),
        (_file({"a": _entry(["F32"])}, bytes(8)), "known are"),
        (_file({"a": _entry("F4")}, bytes(8)), "'F4'; known are"),
        (_file({"a": _entry(shape=[-2])}, bytes(8)), "shape"),
        (_file({"a": _entry(shape=[2.0])}, bytes(8)), "shape"),
        (_file({"a": _entry(shape=[True, 2])}, bytes(8)), "shape"),
        (_file({"a": _entry(shape="2")}, bytes(8)), "shape"),
        (_file({"a": _entry(shape=[1] * 65, offsets=[0, 4])}, bytes(4)), "shape"),
        (_file({"a": _entry(shape=[2**62, 2**62])}, bytes(8)), "claims bytes 0 to 8"),
        (_file({"a": _entry(shape=[0, 2**62, 2**62], offsets=[0, 0])}), "whole safetensors"),
        (_file({"a": _entry(offsets=[8, 0])}, bytes(8)), "offsets"),
        (_file({"a": _entry(offsets=[0])}, bytes(8)), "offsets"),
        (_file({"a": _entry(offsets=[0, 8, 16])}, bytes(8)), "offsets"),
        (_file({"a": _entry(offsets=[0, 4])}, bytes(8)), "claims bytes 0 to 4 where 0 to 8"),
        (_file({"a": _entry(offsets=[8, 16])}, bytes(16)), "where 0 to 8 was expected"),
        (_file({"a": _entry(), "b": _entry(offsets=[4, 12])}, bytes(12)), "where 8 to 16 was expected"),
        (_file({"a": _entry(), "b": _entry(offsets=[12, 20])}, bytes(20)), "where 8 to 16 was expected"),
        (_file({"a": _entry()}, bytes(7)), "describes 8 bytes of data and it holds 7"),
        (_file({"a": _entry()}, bytes(9)), "describes 8 bytes of data and it holds 9"),
        (_file({"a": _entry("BOOL", offsets=[0, 2])}, b"\x00\x02"), "neither true nor false"),
    ],
)
def test_what_the_format_does_not_allow(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(CheckpointError, match=match) as raised:
        load_file(tmp_path / "x")
    assert str(tmp_path / "x") in str(raised.value)


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*none: No such file"):
        load_file(tmp_path / "none")
    with pytest.raises(CheckpointError, match="Is a directory"):
        load_file(tmp_path)


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_an_error_or_still_a_valid_file(tmp_path: Path, data: st.DataObject) -> None:
    """Bits flipped, ends cut and bytes inserted: CheckpointError or arrays, never another exception."""
    path = tmp_path / "x"
    save_file({"a": np.arange(4, dtype=np.float32), "b": np.ones((2, 1), bool)}, path, {"k": "v"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del content[max(at, 1) :]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    path.write_bytes(content)
    try:
        arrays, metadata = load_file(path)
    except CheckpointError:
        return
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    assert all(isinstance(value, str) for value in metadata.values())
