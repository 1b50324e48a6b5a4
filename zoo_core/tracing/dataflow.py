"""What depends on what in one recorded pass: ancestors, and the tensors through which everything passes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoo_core.tracing.recording import Op, Recording

_NAMES = """
relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardsigmoid hardtanh softplus prelu threshold sigmoid tanh
softmax log_softmax logsigmoid softmin clamp clip exp log neg abs nan_to_num normalize
dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout
flatten unflatten view reshape squeeze unsqueeze permute transpose t movedim moveaxis swapaxes contiguous expand
expand_as view_as reshape_as ravel clone to float half double bfloat16 type detach type_as getitem get select narrow
chunk split unbind tensor_split pad roll index_select
cat concat concatenate stack hstack vstack add radd iadd sum mean max amax min amin
mul rmul imul div truediv rtruediv true_divide idiv itruediv sub rsub isub
avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d lp_pool2d adaptive_avg_pool1d adaptive_avg_pool2d
adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d interpolate upsample pixel_shuffle
"""
HARMLESS = frozenset(_NAMES.split())
"""Functions through which the scores of a head may go, and an input on its way to the stem."""

_PRODUCTS = frozenset(name for name in HARMLESS if name.lstrip("ri") in {"mul", "div", "truediv", "true_divide", "sub"})
"""Of those, the ones that only a number or a constant may go into beside the scores."""


@dataclass(frozen=True, eq=False)
class Dataflow:
    """What depends on what in one recorded pass."""

    recording: Recording

    @cached_property
    def from_input(self) -> frozenset[int]:
        """Numbers of the tensors that depend on what the model was given."""
        result = set(self.recording.inputs)
        for op in self.recording.ops:
            if any(value in result for value in op.inputs):
                result.update(op.outputs)
        return frozenset(result)

    @cached_property
    def parameters(self) -> dict[int, frozenset[str]]:
        """For each tensor that is computed from parameters alone, which."""
        result: dict[int, frozenset[str]] = {}
        for op in self.recording.ops:
            if not any(value in self.from_input for value in op.inputs):
                names = frozenset(op.parameters).union(*(result.get(value, ()) for value in op.inputs))
                result.update(dict.fromkeys(op.outputs, names))
        return result

    def parameters_of(self, op: Op) -> list[str]:
        """Names of the parameters that an op uses, directly or after something was computed from them."""
        names = dict.fromkeys(op.parameters)
        for value in op.inputs:
            names |= dict.fromkeys(sorted(self.parameters.get(value, ())))
        return list(names)

    def moving(self, op: Op) -> list[int]:
        """Those of the tensors that went in which depend on the model's input."""
        return [value for value in op.inputs if value in self.from_input]

    def passes(self, op: Op) -> bool:
        """Whether scores go through this op as they are, class by class: an activation, a pool, a sum, a reshape."""
        return op.name in HARMLESS and not (op.name in _PRODUCTS and len(self.moving(op)) > 1)

    def ancestors(self, values: Iterable[int], stop: Iterable[int] = ()) -> set[int]:
        """Numbers of the ops that tensors were computed by, not looking beyond those in ``stop``."""
        ends, result, todo = {*stop}, set[int](), [*values]
        while todo:
            value = todo.pop()
            number = self.recording.producer.get(value)
            if value in ends or number is None or number in result:
                continue
            result.add(number)
            todo += self.recording.ops[number].inputs
        return result

    def cuts(self, outputs: Iterable[int]) -> list[int]:
        """The tensors through which everything passes on its way to some outputs, in the order they were made."""
        ends = [value for value in outputs if value in self.from_input]
        used = self.ancestors(ends)
        last: dict[int, int] = {}
        for number in sorted(used):
            last.update(dict.fromkeys(self.moving(self.recording.ops[number]), number))
        last.update(dict.fromkeys(ends, len(self.recording.ops)))
        live = {value for value in self.recording.inputs if value in last}
        result = [*live] if len(live) == 1 else []
        for number in sorted(used):
            op = self.recording.ops[number]
            live = {value for value in live if last[value] > number}
            live |= {value for value in op.outputs if last.get(value, -1) > number and value in self.from_input}
            if len(live) == 1 and (value := next(iter(live))) not in result:
                result.append(value)
        return result
