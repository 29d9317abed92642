"""Trees of tuples, lists and dicts: taken apart into their leaves and put together again."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

__all__ = [
    "SUPPORTED_NODES", "GetAttrKey", "LeafSpec", "MappingKey", "NodeDef", "PyTree", "SequenceKey", "TreeSpec",
    "key_get", "keystr", "register_pytree_node", "tree_all", "tree_all_only", "tree_any", "tree_any_only",
    "tree_flatten", "tree_flatten_with_path", "tree_is_leaf", "tree_iter", "tree_leaves", "tree_leaves_with_path",
    "tree_map", "tree_map_", "tree_map_only", "tree_map_with_path", "tree_structure", "tree_unflatten",
]  # fmt: skip

#: Says of a node that it is to be taken as a leaf.
IsLeaf = Callable[[Any], bool] | None
PyTree = Any


class TreeSpec:
    """The structure of a tree: what its nodes are, without the leaves."""

    __slots__ = ("children_specs", "context", "num_leaves", "type")

    def __init__(self, type: Any, context: Any, children_specs: Sequence[TreeSpec]) -> None:
        self.type = type  # None for a leaf
        self.context = context
        self.children_specs = list(children_specs)
        self.num_leaves: int = 1 if type is None else sum(c.num_leaves for c in self.children_specs)

    @property
    def num_children(self) -> int:
        """How many children its root has."""
        return len(self.children_specs)

    @property
    def num_nodes(self) -> int:
        """How many nodes it has, leaves among them."""
        return 1 + sum(child.num_nodes for child in self.children_specs)

    def children(self) -> list[TreeSpec]:
        """The structures of the root's children."""
        return list(self.children_specs)

    def child(self, index: int) -> TreeSpec:
        """The structure of one of them."""
        return self.children_specs[index]

    def is_leaf(self) -> bool:
        """Whether the tree is a single leaf."""
        return self.type is None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TreeSpec):
            return NotImplemented
        mine, theirs = self.context, other.context
        return self.type is other.type and mine == theirs and self.children_specs == other.children_specs

    def __hash__(self) -> int:
        return hash((self.type, self.num_leaves))

    def __repr__(self) -> str:
        if self.type is None:
            return "*"
        keys = f"{self.context}, " if self.context is not None else ""
        return f"TreeSpec({self.type.__name__}, {keys}[{', '.join(map(repr, self.children_specs))}])"


class NodeDef(NamedTuple):
    """How objects of a class are nodes: taken apart into (children, context), put together, with keys of children."""

    type: Any
    flatten_fn: Callable[[Any], Any]
    unflatten_fn: Callable[[Any, Any], Any]
    flatten_with_keys_fn: Callable[[Any], Any] | None = None


#: {class: NodeDef} of what is no leaf; named tuples are under ``namedtuple``.
SUPPORTED_NODES: dict[Any, NodeDef] = {}


def register_pytree_node(
    cls: type, flatten_fn: Callable[[Any], Any], unflatten_fn: Callable[[Any, Any], Any], *,
    flatten_with_keys_fn: Callable[[Any], Any] | None = None, **names: Any,
) -> None:  # fmt: skip
    """Have objects of a class be nodes: ``flatten_fn`` gives (children, context), ``unflatten_fn`` takes these.

    ``flatten_with_keys_fn`` gives ([(key, child)], context), for trees with paths.
    """
    if cls in SUPPORTED_NODES:
        raise ValueError(f"{cls} is already registered as pytree node.")
    SUPPORTED_NODES[cls] = NodeDef(cls, flatten_fn, unflatten_fn, flatten_with_keys_fn)


_register_pytree_node = register_pytree_node


class SequenceKey(NamedTuple):
    """The child ``tree[idx]``."""

    idx: int

    def __str__(self) -> str:
        return f"[{self.idx!r}]"

    def get(self, sequence: Any) -> Any:
        """That child."""
        return sequence[self.idx]


class MappingKey(NamedTuple):
    """The child ``tree[key]`` of a dict."""

    key: Any

    def __str__(self) -> str:
        return f"[{self.key!r}]"

    def get(self, mapping: Any) -> Any:
        """That child."""
        return mapping[self.key]


class GetAttrKey(NamedTuple):
    """The child ``tree.name`` of a named tuple, or of an object of a class that is a node."""

    name: str

    def __str__(self) -> str:
        return f".{self.name}"

    def get(self, obj: Any) -> Any:
        """That child."""
        return getattr(obj, self.name)


def keystr(kp: tuple[Any, ...]) -> str:
    """A path as Python would write it: "['a'][0].b"."""
    return "".join(map(str, kp))


def key_get(obj: Any, kp: tuple[Any, ...]) -> Any:
    """What is at a path."""
    for key in kp:
        obj = key.get(obj)
    return obj


def _dict_flatten(d: dict[Any, Any]) -> tuple[list[Any], list[Any]]:
    """(children, context) of a dict: for registered classes that are dicts."""
    return list(d.values()), list(d)


def _dict_unflatten(values: Any, context: Any) -> dict[Any, Any]:
    """The dict of children and context."""
    return dict(zip(context, values, strict=True))


def _dict_flatten_with_keys(d: dict[Any, Any]) -> tuple[list[tuple[MappingKey, Any]], list[Any]]:
    """([(key, child)], context) of a dict: for registered classes that are dicts."""
    return [(MappingKey(key), value) for key, value in d.items()], list(d)


_DICTS = (dict, OrderedDict, defaultdict)
LEAF = TreeSpec(None, None, ())


def LeafSpec() -> TreeSpec:
    """The structure of a leaf."""
    return LEAF


def _indexed(flatten: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """``flatten`` with keys by number."""

    def keyed(tree: Any) -> Any:
        children, context = flatten(tree)
        return [(SequenceKey(i), child) for i, child in enumerate(children)], context

    return keyed


def _deque_flatten(d: Any) -> tuple[list[Any], Any]:
    return list(d), d.maxlen


def _sequence_flatten(d: Any) -> tuple[list[Any], None]:
    return list(d), None


def _default_flatten(d: Any) -> tuple[list[Any], list[Any]]:
    return list(d.values()), [d.default_factory, list(d)]


def _named_flatten(d: Any) -> tuple[list[Any], type]:
    return list(d), type(d)


for _type, _flatten, _unflatten in (
    (tuple, _sequence_flatten, lambda values, context: tuple(values)),
    (list, _sequence_flatten, lambda values, context: list(values)),
    (deque, _deque_flatten, lambda values, context: deque(values, maxlen=context)),
):
    SUPPORTED_NODES[_type] = NodeDef(_type, _flatten, _unflatten, _indexed(_flatten))
SUPPORTED_NODES[dict] = NodeDef(dict, _dict_flatten, _dict_unflatten, _dict_flatten_with_keys)
SUPPORTED_NODES[OrderedDict] = NodeDef(
    OrderedDict, _dict_flatten, lambda values, context: OrderedDict(zip(context, values, strict=True)),
    _dict_flatten_with_keys,
)  # fmt: skip
SUPPORTED_NODES[defaultdict] = NodeDef(
    defaultdict, _default_flatten,
    lambda values, context: defaultdict(context[0], zip(context[1], values, strict=True)),
    lambda d: (_dict_flatten_with_keys(d)[0], _default_flatten(d)[1]),
)  # fmt: skip
SUPPORTED_NODES[namedtuple] = NodeDef(
    namedtuple, _named_flatten, lambda values, context: context(*values),
    lambda d: ([(GetAttrKey(name), x) for name, x in zip(d._fields, d, strict=True)], type(d)),
)  # fmt: skip


def _get_node_type(tree: Any) -> Any:
    """Under what ``SUPPORTED_NODES`` has an object, if it has: its class, or ``namedtuple``."""
    kind = type(tree)
    if kind not in SUPPORTED_NODES and isinstance(tree, tuple) and hasattr(kind, "_fields"):
        return namedtuple
    return kind


def _parts(tree: Any) -> tuple[Any, Any, list[Any]] | None:
    """(type, context, children) of a node; None for a leaf."""
    kind = _get_node_type(tree)
    node = SUPPORTED_NODES.get(kind)
    if node is None:
        return None
    children, context = node.flatten_fn(tree)
    return kind, context, list(children)


def tree_flatten(tree: Any, is_leaf: IsLeaf = None) -> tuple[list[Any], TreeSpec]:
    """(leaves from left to right, structure). None is a leaf, and what ``is_leaf`` says."""
    parts = None if is_leaf is not None and is_leaf(tree) else _parts(tree)
    if parts is None:
        return [tree], LEAF
    kind, context, children = parts
    leaves: list[Any] = []
    specs = []
    for child in children:
        found, spec = tree_flatten(child, is_leaf)
        leaves += found
        specs.append(spec)
    return leaves, TreeSpec(kind, context, specs)


def tree_unflatten(leaves: Any, treespec: TreeSpec) -> Any:
    """The inverse of ``tree_flatten``."""
    if isinstance(leaves, TreeSpec):
        leaves, treespec = treespec, leaves
    leaves = list(leaves)
    if len(leaves) != treespec.num_leaves:
        raise ValueError(
            f"tree_unflatten: {len(leaves)} leaves for a structure of {treespec.num_leaves}: {treespec}"
        )  # fmt: skip
    return _build(iter(leaves), treespec)


def _build(leaves: Any, spec: TreeSpec) -> Any:
    if spec.type is None:
        return next(leaves)
    children = [_build(leaves, child) for child in spec.children_specs]
    return SUPPORTED_NODES[spec.type].unflatten_fn(children, spec.context)


def _keyed(tree: Any) -> list[tuple[Any, Any]]:
    """(key, child) of a node's children."""
    kind = _get_node_type(tree)
    keyed = SUPPORTED_NODES[kind].flatten_with_keys_fn
    if keyed is None:
        raise ValueError(
            f"Did not find a flatten_with_keys_fn for type: {kind}. Please pass a flatten_with_keys_fn argument to "
            f"register_pytree_node."
        )
    return list(keyed(tree)[0])


def _with_paths(tree: Any, is_leaf: IsLeaf, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    if tree_is_leaf(tree, is_leaf):
        yield path, tree
        return
    for key, child in _keyed(tree):
        yield from _with_paths(child, is_leaf, (*path, key))


def tree_is_leaf(tree: Any, is_leaf: IsLeaf = None) -> bool:
    """Whether a tree is a single leaf."""
    return (is_leaf is not None and is_leaf(tree)) or _parts(tree) is None


def tree_structure(tree: Any, is_leaf: IsLeaf = None) -> TreeSpec:
    """The structure of a tree."""
    return tree_flatten(tree, is_leaf)[1]


def tree_leaves(tree: Any, is_leaf: IsLeaf = None) -> list[Any]:
    """The leaves from left to right."""
    return tree_flatten(tree, is_leaf)[0]


def tree_iter(tree: Any, is_leaf: IsLeaf = None) -> Iterator[Any]:
    """The leaves from left to right, one by one."""
    return iter(tree_leaves(tree, is_leaf))


def tree_flatten_with_path(
    tree: Any, is_leaf: IsLeaf = None
) -> tuple[list[tuple[tuple[Any, ...], Any]], TreeSpec]:
    """([(path, leaf)], structure): a path is a tuple of keys, which ``keystr`` writes."""
    return tree_leaves_with_path(tree, is_leaf), tree_structure(tree, is_leaf)


def tree_leaves_with_path(tree: Any, is_leaf: IsLeaf = None) -> list[tuple[tuple[Any, ...], Any]]:
    """(path, leaf) of each leaf."""
    return list(_with_paths(tree, is_leaf, ()))


def _aligned(tree: Any, rests: Sequence[Any], is_leaf: IsLeaf) -> tuple[list[Any], list[list[Any]], TreeSpec]:
    leaves, spec = tree_flatten(tree, is_leaf)
    others = [tree_flatten(rest, is_leaf) for rest in rests]
    for _, other in others:
        if other != spec:
            raise ValueError(f"tree_map: expected trees of one structure, got {spec} and {other}")
    return leaves, [found for found, _ in others], spec


def tree_map(func: Callable[..., Any], tree: Any, *rests: Any, is_leaf: IsLeaf = None) -> Any:
    """A tree of ``func`` of each leaf (and of the leaves of ``rests`` at the same places)."""
    leaves, others, spec = _aligned(tree, rests, is_leaf)
    return tree_unflatten([func(*xs) for xs in zip(leaves, *others, strict=True)], spec)


def tree_map_(func: Callable[..., Any], tree: Any, *rests: Any, is_leaf: IsLeaf = None) -> Any:
    """The tree itself, after ``func`` of each leaf."""
    leaves, others, _ = _aligned(tree, rests, is_leaf)
    for xs in zip(leaves, *others, strict=True):
        func(*xs)
    return tree


def tree_map_with_path(func: Callable[..., Any], tree: Any, *rests: Any, is_leaf: IsLeaf = None) -> Any:
    """``tree_map`` with ``func(path, leaf, …)``."""
    _, others, spec = _aligned(tree, rests, is_leaf)
    pairs = tree_leaves_with_path(tree, is_leaf)
    return tree_unflatten([func(*pair, *xs) for pair, *xs in zip(pairs, *others, strict=True)], spec)


def tree_any(pred: Callable[[Any], bool], tree: Any, is_leaf: IsLeaf = None) -> bool:
    """Whether ``pred`` holds for some leaf."""
    return any(map(pred, tree_leaves(tree, is_leaf)))


def tree_all(pred: Callable[[Any], bool], tree: Any, is_leaf: IsLeaf = None) -> bool:
    """Whether ``pred`` holds for every leaf."""
    return all(map(pred, tree_leaves(tree, is_leaf)))


def _only(kind: Any) -> Callable[[Any], bool]:
    """Whether a leaf is meant: of a class or one of several, or by a function that says so."""
    if isinstance(kind, (type, tuple)) or not callable(kind):
        return lambda x: isinstance(x, kind)
    return kind  # type: ignore[no-any-return]


def tree_map_only(
    type_or_types_or_pred: Any, /, func: Callable[[Any], Any], tree: Any, is_leaf: IsLeaf = None
) -> Any:
    """The tree with ``func`` of those leaves that are of a class, or of one of several, or that a function chooses."""
    meant = _only(type_or_types_or_pred)
    return tree_map(lambda x: func(x) if meant(x) else x, tree, is_leaf=is_leaf)


def tree_any_only(type_or_types: Any, /, pred: Callable[[Any], bool], tree: Any, is_leaf: IsLeaf = None) -> bool:
    """Whether ``pred`` holds for some leaf of a class, or of one of several."""
    return any(isinstance(x, type_or_types) and pred(x) for x in tree_leaves(tree, is_leaf))


def tree_all_only(type_or_types: Any, /, pred: Callable[[Any], bool], tree: Any, is_leaf: IsLeaf = None) -> bool:
    """Whether ``pred`` holds for every leaf of a class, or of one of several."""
    return all(pred(x) for x in tree_leaves(tree, is_leaf) if isinstance(x, type_or_types))


def broadcast_prefix(prefix: Any, spec: TreeSpec, is_leaf: Callable[[Any], bool]) -> list[Any] | None:
    """``prefix``, a tree that ends where ``spec`` may go on, as a value for each leaf of ``spec``; None: no prefix."""
    if is_leaf(prefix) or spec.type is None:
        return [prefix] * spec.num_leaves if is_leaf(prefix) else None
    parts = _parts(prefix)
    if parts is None or len(parts[2]) != spec.num_children:
        return None
    kind, context, children = parts
    if kind is not spec.type and not {kind, spec.type} <= {tuple, list}:
        return None
    if kind in _DICTS:
        keys = spec.context[1] if kind is defaultdict else spec.context
        if set(prefix) != set(keys):
            return None
        children = [prefix[key] for key in keys]
    elif context != spec.context:
        return None
    out: list[Any] = []
    for child, below in zip(children, spec.children_specs, strict=True):
        found = broadcast_prefix(child, below, is_leaf)
        if found is None:
            return None
        out += found
    return out
