"""Softmax over very many classes: rare ones in clusters of their own, with smaller layers. Grave et al. 2017."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

from tensorlib._core import Tensor
from tensorlib.errors import ShapeError
from tensorlib.nn import functional as F
from tensorlib.nn.container import ModuleList, Sequential
from tensorlib.nn.linear import Linear
from tensorlib.nn.module import Module
from tensorlib.ops import cat

__all__ = ["AdaptiveLogSoftmaxWithLoss"]

_ASMoutput = namedtuple("_ASMoutput", ["output", "loss"])


class AdaptiveLogSoftmaxWithLoss(Module):
    """log P(target) and its negative mean. input (n, in_features) or (in_features,), target (n,) or ().

    Classes 0 … cutoffs[0] - 1 and one entry for each cluster are scored by ``head``; the classes of cluster i,
    cutoffs[i] … cutoffs[i + 1] - 1, by ``tail[i]``, through in_features // div_value^(i + 1) features.
    """

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        cutoffs = list(cutoffs)
        if not cutoffs:
            raise ValueError("cutoffs should be a sequence of length larger than 0")
        if (
            cutoffs != sorted(set(cutoffs))
            or min(cutoffs) <= 0
            or max(cutoffs) > n_classes - 1
            or any(int(c) != c for c in cutoffs)
        ):
            raise ValueError(
                "cutoffs should be a sequence of unique, positive integers sorted in an increasing order, where each "
                "value is between 1 and n_classes-1"
            )
        self.in_features, self.n_classes, self.cutoffs = in_features, n_classes, [*cutoffs, n_classes]
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size, self.n_clusters = self.cutoffs[0], len(self.cutoffs) - 1
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, bias=head_bias, device=device, dtype=dtype)
        self.tail = ModuleList()
        for i in range(self.n_clusters):
            hidden, size = int(in_features // div_value ** (i + 1)), self.cutoffs[i + 1] - self.cutoffs[i]
            self.tail.append(
                Sequential(
                    Linear(in_features, hidden, bias=False, device=device, dtype=dtype),
                    Linear(hidden, size, bias=False, device=device, dtype=dtype),
                )
            )

    def reset_parameters(self) -> None:
        """Draw all weights again."""
        self.head.reset_parameters()
        for cluster in self.tail:
            for layer in cluster.children():
                layer.reset_parameters()

    def forward(self, input_: Tensor, target_: Tensor) -> _ASMoutput:
        """(n, in_features), (n,) -> output (n,), the log-probabilities, and loss, their negative mean."""
        if target_.ndim > 1:
            raise ShapeError("0D or 1D target tensor expected, multi-target not supported")
        if input_.ndim != target_.ndim + 1:
            raise ShapeError(
                f"{target_.ndim}D target tensor expects {target_.ndim + 1}D input tensors, but found inputs with size "
                f"{tuple(input_.shape)}"
            )
        batched = target_.ndim == 1
        input: Any = input_ if batched else input_.unsqueeze(0)
        target: Any = target_ if batched else target_.unsqueeze(0)
        if input.shape[0] != target.shape[0]:
            raise ShapeError("Input and target should have the same size in the batch dimension.")
        if target.shape[0] and not 0 <= int(target.min().item()) <= int(target.max().item()) < self.n_classes:
            raise ShapeError(
                f"Target values should be in [0, {self.n_classes - 1}], but values in range [{target.min().item()}, "
                f"{target.max().item()}] were found. "
            )
        output = input.new_zeros((target.shape[0],))
        column = target.clamp(max=self.shortlist_size - 1)
        for i, cluster in enumerate(self.tail):
            low, high = self.cutoffs[i], self.cutoffs[i + 1]
            rows = ((target >= low) & (target < high)).nonzero().squeeze(1)
            if rows.shape[0]:
                scores = F.log_softmax(cluster(input.index_select(0, rows)), dim=1)
                chosen = scores.gather(1, (target.index_select(0, rows) - low).unsqueeze(1)).squeeze(1)
                output = output.index_copy(0, rows, chosen)
                column = column.index_fill(0, rows, self.shortlist_size + i)
        of_head = F.log_softmax(self.head(input), dim=1)
        output = output + of_head.gather(1, column.unsqueeze(1)).squeeze(1)
        loss = (-output).mean()
        return _ASMoutput(output if batched else output.squeeze(0), loss)

    def _all(self, input: Tensor, of_head: Tensor) -> Tensor:
        """Log-probabilities of every class from the head's scores."""
        head: Any = F.log_softmax(of_head, dim=1)
        parts = [head[:, : self.shortlist_size]]
        for i, cluster in enumerate(self.tail):
            parts.append(F.log_softmax(cluster(input), dim=1) + head[:, self.shortlist_size + i].unsqueeze(1))
        return cat(parts, 1)

    def log_prob(self, input: Tensor) -> Tensor:
        """(n, in_features) -> (n, n_classes), the log-probability of every class."""
        return self._all(input, self.head(input))

    def predict(self, input: Tensor) -> Tensor:
        """(n, in_features) -> (n,), the most probable class; clusters count where the head chooses one."""
        of_head = self.head(input)
        output: Any = of_head.argmax(1)
        rare = (output >= self.shortlist_size).nonzero().squeeze(1)
        if not rare.shape[0]:
            return output  # type: ignore[no-any-return]
        best: Any = self._all(input.index_select(0, rare), of_head.index_select(0, rare))  # type: ignore[attr-defined]
        return output.index_copy(0, rare, best.argmax(1))  # type: ignore[no-any-return]
