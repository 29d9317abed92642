"""Containers: the list and dictionary behaviour of PyTorch's."""

from collections import OrderedDict

import pytest

import tensorlib
from tensorlib import nn


def kinds(modules):
    """Class names."""
    return [type(m).__name__ for m in modules]


def test_sequential():
    """Index, slice, assignment, deletion with renumbering, append, insert, extend, +, *."""
    m = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert m(tensorlib.ones(4, 2)).shape == (4, 1) and len(m) == 3 and m[-1] is m[2]
    assert kinds(m[1:]) == ["ReLU", "Linear"] and list(m[1:]._modules) == ["1", "2"]
    m[1] = nn.Tanh()
    assert kinds(m) == ["Linear", "Tanh", "Linear"]
    del m[1]
    assert list(m.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    m.append(nn.Sigmoid()).insert(1, nn.ReLU())
    assert kinds(m) == ["Linear", "ReLU", "Linear", "Sigmoid"] and list(m._modules) == ["0", "1", "2", "3"]
    m.insert(-1, nn.Tanh())
    assert kinds(m) == ["Linear", "ReLU", "Linear", "Tanh", "Sigmoid"]
    assert type(m.pop(3)) is nn.Tanh and len(m) == 4
    assert kinds(m + nn.Sequential(nn.ReLU())) == [*kinds(m), "ReLU"] and len(m) == 4
    m += nn.Sequential(nn.Tanh())
    assert len(m) == 5 and len(m.extend([nn.ReLU(), nn.ReLU()])) == 7
    assert kinds(nn.Sequential(nn.ReLU()) * 2) == kinds(2 * nn.Sequential(nn.ReLU())) == ["ReLU", "ReLU"]
    named = nn.Sequential(OrderedDict(a=nn.ReLU(), b=nn.Tanh()))
    assert named.b is named[1]
    for act, error in (
        (lambda: m[7], IndexError),
        (lambda: m.insert(9, nn.ReLU()), IndexError),
        (lambda: m.insert(0, 3), AssertionError),
        (lambda: m + nn.ReLU(), ValueError),
        (lambda: m * 0, ValueError),
        (lambda: m * 1.5, TypeError),
    ):
        with pytest.raises(error):
            act()


def test_module_list():
    """A list whose modules are registered; repeats are folded in the text."""
    m = nn.ModuleList([nn.Linear(1, 1), nn.ReLU()])
    m.append(nn.ReLU()).extend([nn.Tanh()])
    m.insert(0, nn.Sigmoid())
    assert kinds(m) == ["Sigmoid", "Linear", "ReLU", "ReLU", "Tanh"] and list(m.state_dict()) == ["1.weight", "1.bias"]
    assert kinds(m[1:3]) == ["Linear", "ReLU"] and type(m[1:3]) is nn.ModuleList and m[-1] is m[4]
    del m[1:3]
    assert kinds(m) == ["Sigmoid", "ReLU", "Tanh"] and list(m._modules) == ["0", "1", "2"]
    m[0] = nn.ReLU()
    assert kinds(m + iter([nn.ELU()])) == ["ReLU", "ReLU", "Tanh", "ELU"] and type(m.pop(2)) is nn.Tanh
    m += [nn.Tanh()]
    assert repr(m) == "ModuleList(\n  (0-1): 2 x ReLU()\n  (2): Tanh()\n)" and repr(nn.ModuleList()) == "ModuleList()"
    with pytest.raises(TypeError, match="iterable, but got int"):
        m.extend(3)
    with pytest.raises(IndexError, match="index 5 is out of range"):
        _ = m[5]


def test_module_dict():
    """A dictionary whose modules are registered, in order of insertion."""
    m = nn.ModuleDict({"b": nn.ReLU(), "a": nn.Linear(1, 1)})
    m["c"] = nn.Tanh()
    m.update([("d", nn.ELU())])
    assert list(m) == list(m.keys()) == ["b", "a", "c", "d"] and "a" in m and len(m) == 4
    assert list(m.state_dict()) == ["a.weight", "a.bias"] and kinds(m.values()) == ["ReLU", "Linear", "Tanh", "ELU"]
    assert type(m.pop("c")) is nn.Tanh and dict(m.items())["d"] is m["d"]
    del m["b"]
    with pytest.raises(ValueError, match="has length 3; 2 is required"):
        m.update([(1, 2, 3)])
    with pytest.raises(TypeError, match="iterable of key/value pairs"):
        m.update(3)
    m.clear()
    assert len(m) == 0


def test_parameter_list():
    """Tensors become parameters; other values are kept."""
    m = nn.ParameterList([tensorlib.ones(2), nn.Parameter(tensorlib.zeros(3))])
    m.append(tensorlib.ones(1)).extend(["text"])
    assert len(m) == 4 and len(list(m.parameters())) == 3 and isinstance(m[0], nn.Parameter) and m[-1] == "text"
    assert list(m.state_dict()) == ["0", "1", "2"] and type(m[1:]) is nn.ParameterList and len(m[1:]) == 3
    m[0] = tensorlib.zeros(2)
    assert m[0].tolist() == [0.0, 0.0] and len(list(m)) == 4
    assert repr(m).splitlines()[1].strip().startswith("(0): Parameter containing: [") and "of size 2]" in repr(m)
    with pytest.raises(TypeError, match="iterable, but got Tensor"):
        m.extend(tensorlib.ones(2))
    with pytest.raises(RuntimeError, match="should not be called"):
        m(1)


def test_parameter_dict():
    """Plain dictionaries are added in the order of their sorted keys, OrderedDicts and pairs in their own."""
    m = nn.ParameterDict({"b": tensorlib.ones(2), "a": tensorlib.zeros(1)})
    assert list(m) == ["a", "b"] and list(m.state_dict()) == ["a", "b"] and isinstance(m["a"], nn.Parameter)
    m.update(OrderedDict(z=tensorlib.ones(1), y=tensorlib.ones(1)))
    assert list(m.keys()) == ["a", "b", "z", "y"] and list(reversed(m)) == ["y", "z", "b", "a"]
    assert m.setdefault("a", 3) is m["a"] and m.get("q", 5) == 5 and "q" not in m
    assert m.popitem()[0] == "y" and m.pop("z").tolist() == [1.0]
    other = m | nn.ParameterDict({"c": tensorlib.ones(1)})
    assert list(other) == ["a", "b", "c"] and other["a"] is m["a"] and list(m) == ["a", "b"]
    m |= {"d": tensorlib.ones(1)}
    assert len(m.copy()) == 3 and list(m.fromkeys(["x"], 1.0).items()) == [("x", 1.0)]
    with pytest.raises(TypeError, match="not a string"):
        m[3] = tensorlib.ones(1)
    del m["d"]
    m.clear()
    assert len(m) == 0 and list(m.parameters()) == []
