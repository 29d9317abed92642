"""Trees of tuples, lists and dicts: taken apart into their leaves and put together again."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

__all__ = [
    "TreeSpec",
    "register_pytree_node",
    "tree_all",
    "tree_any",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
    "tree_structure",
    "tree_unflatten",
]


class TreeSpec:
    """The structure of a tree: what its nodes are, without the leaves."""

    __slots__ = ("children", "context", "kind", "num_leaves")

    def __init__(self, kind: Any, context: Any, children: Sequence[TreeSpec]) -> None:
        self.kind = kind  # None for a leaf
        self.context = context
        self.children = tuple(children)
        self.num_leaves: int = 1 if kind is None else sum(c.num_leaves for c in self.children)

    def is_leaf(self) -> bool:
        """Whether the tree is a single leaf."""
        return self.kind is None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TreeSpec):
            return NotImplemented
        mine, theirs = self.context, other.context
        return self.kind is other.kind and mine == theirs and self.children == other.children

    def __hash__(self) -> int:
        return hash((self.kind, self.num_leaves))

    def __repr__(self) -> str:
        if self.kind is None:
            return "*"
        keys = f"{self.context}, " if self.context is not None else ""
        return f"TreeSpec({self.kind.__name__}, {keys}[{', '.join(map(repr, self.children))}])"


#: {class: (tree -> (children, context), (children, context) -> tree)} of what is neither tuple, list nor dict.
_REGISTERED: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {}


def register_pytree_node(
    cls: type, flatten_fn: Callable[[Any], Any], unflatten_fn: Callable[[Any, Any], Any], **names: Any
) -> None:
    """Have objects of a class be nodes: ``flatten_fn`` gives (children, context), ``unflatten_fn`` takes these."""
    if cls in _REGISTERED:
        raise ValueError(f"{cls} is already registered as pytree node.")
    _REGISTERED[cls] = (flatten_fn, unflatten_fn)


_DICTS = (dict, OrderedDict, defaultdict)
LEAF = TreeSpec(None, None, ())


def _parts(tree: Any) -> tuple[Any, Any, list[Any]] | None:
    """(class, context, children) of a node; None for a leaf."""
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind, None, list(tree)
    if kind in _DICTS:
        return kind, list(tree), list(tree.values())
    if kind is deque:
        return kind, tree.maxlen, list(tree)
    if isinstance(tree, tuple) and hasattr(kind, "_fields"):
        return kind, None, list(tree)
    if kind in _REGISTERED:
        children, context = _REGISTERED[kind][0](tree)
        return kind, context, list(children)
    return None


def tree_flatten(tree: Any) -> tuple[list[Any], TreeSpec]:
    """(leaves from left to right, structure). None is a leaf."""
    parts = _parts(tree)
    if parts is None:
        return [tree], LEAF
    kind, context, children = parts
    leaves: list[Any] = []
    specs = []
    for child in children:
        found, spec = tree_flatten(child)
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
    kind = spec.kind
    if kind is None:
        return next(leaves)
    children = [_build(leaves, child) for child in spec.children]
    if kind is tuple or kind is list:
        return kind(children)
    if kind is dict or kind is OrderedDict:
        return kind(zip(spec.context, children, strict=True))
    if kind is defaultdict:
        return defaultdict(None, zip(spec.context, children, strict=True))
    if kind is deque:
        return deque(children, maxlen=spec.context)
    if kind in _REGISTERED:
        return _REGISTERED[kind][1](children, spec.context)
    return kind(*children)


def tree_structure(tree: Any) -> TreeSpec:
    """The structure of a tree."""
    return tree_flatten(tree)[1]


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves from left to right."""
    return tree_flatten(tree)[0]


def tree_map(function: Callable[..., Any], tree: Any, *rests: Any) -> Any:
    """A tree of ``function`` of each leaf (and of the leaves of ``rests`` at the same places)."""
    leaves, spec = tree_flatten(tree)
    others = [tree_flatten(rest) for rest in rests]
    for _, other in others:
        if other != spec:
            raise ValueError(f"tree_map: expected trees of one structure, got {spec} and {other}")
    return tree_unflatten([function(*xs) for xs in zip(leaves, *(o[0] for o in others), strict=True)], spec)


def tree_any(predicate: Callable[[Any], bool], tree: Any) -> bool:
    """Whether ``predicate`` holds for some leaf."""
    return any(map(predicate, tree_leaves(tree)))


def tree_all(predicate: Callable[[Any], bool], tree: Any) -> bool:
    """Whether ``predicate`` holds for every leaf."""
    return all(map(predicate, tree_leaves(tree)))


def tree_map_only(kind: Any, function: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with ``function`` of those leaves that are of a class, or of one of several."""
    return tree_map(lambda x: function(x) if isinstance(x, kind) else x, tree)


def broadcast_prefix(prefix: Any, spec: TreeSpec, is_leaf: Callable[[Any], bool]) -> list[Any] | None:
    """``prefix``, a tree that ends where ``spec`` may go on, as a value for each leaf of ``spec``; None: no prefix."""
    if is_leaf(prefix) or spec.kind is None:
        return [prefix] * spec.num_leaves if is_leaf(prefix) else None
    parts = _parts(prefix)
    if parts is None or len(parts[2]) != len(spec.children):
        return None
    kind, context, children = parts
    if kind is not spec.kind and not {kind, spec.kind} <= {tuple, list}:
        return None
    if kind in _DICTS:
        if set(context) != set(spec.context):
            return None
        children = [prefix[key] for key in spec.context]
    out: list[Any] = []
    for child, below in zip(children, spec.children, strict=True):
        found = broadcast_prefix(child, below, is_leaf)
        if found is None:
            return None
        out += found
    return out
