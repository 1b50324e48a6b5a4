"""From a recipe to a model without values: count the memory of it, construct, then repeat every act of surgery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from zoo_core.build.construct import construct
from zoo_core.contract.card import Card
from zoo_core.errors import UnknownFamily, UnknownModel, Unreadable, ZooError
from zoo_core.recipe.edits import from_plain, repeat
from zoo_core.recipe.edits_by_hand import may_be_set
from zoo_core.registry.zoo import current_zoo
from zoo_core.utils.device import on_the_cpu
from zoo_core.utils.random_state import seeded

if TYPE_CHECKING:
    from zoo_core.recipe.record import Recipe

_SPARE = 1 << 26
"""Elements beside those of the file: heads that were replaced, position tables, the batch that proves a new head."""
_TIMES = 4
"""How often the elements of the file may be allocated: a parameter, its initial values, and a copy of them."""
_SPARE_TENSORS = 20_000
_TIMES_TENSORS = 50
_LASTING = frozenset(
    f"aten::{name}"
    for name in (
        *("empty", "zeros", "ones", "full", "rand", "randn", "randint", "empty_strided", "eye", "repeat", "new_empty"),
        *("new_zeros", "new_ones", "new_full", "new_empty_strided", "arange", "linspace", "randperm"),
    )
)
"""Operations that make the tensors of layers, which stay; what all others give in a forward is soon free again."""
_BY_VALUES = frozenset(
    (
        *("aten::_local_scalar_dense", "aten::equal", "aten::nonzero", "aten::masked_select", "aten::_unique2"),
        *("aten::unique_dim", "aten::unique_consecutive", "aten::_is_all_true", "aten::_is_any_true"),
        "aten::where",  # with a condition alone: its other overloads have names of their own
        "torchvision::nms",
    )
)
"""Operations whose result is as large as values say, and never larger than their arguments are together."""
_RESIZING = {"aten::resize_", "aten::resize_as_"}
_ATTENTION = {"aten::_native_multi_head_attention": 4, "aten::_transformer_encoder_layer_fwd": 2}
"""Operations that hold all weights of attention while they run, and at which argument the number of heads is."""


class Limit(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Limit of the memory in which a recipe rebuilds its model: an operation with too large a result is refused.

    Args:
        name: Of the model, for the message.
        tensors: What the file of the save holds.
        own_code: Whether modules of the user's own code run, which may have operations whose size is not known before
            they run. They are let through then: what they are given is within the limit.

    Example:
        >>> with Limit("tiny/glyphnet", {"weight": torch.zeros(3)}):
        ...     head = torch.nn.Linear(64, 10**9)
        Traceback (most recent call last):
        ...
        zoo_core.errors.Unreadable: the recipe of tiny/glyphnet makes far larger tensors than its save holds
        ...
    """

    def __init__(self, name: str, tensors: Mapping[str, Tensor], *, own_code: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self._name = name
        self._own_code = own_code
        self._refused: Unreadable | None = None
        self._elements = _SPARE + _TIMES * sum(tensor.numel() for tensor in tensors.values())
        self._tensors = _SPARE_TENSORS + _TIMES_TENSORS * len(tensors)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        try:
            size = self._result_size(func, args, kwargs)
        except Exception as error:
            if self._own_code:
                return func(*args, **kwargs)
            if not isinstance(error, NotImplementedError):  # the operation itself fails, as it may in a run on trial
                raise
            self._refuse(f"{_name(func)}, an operation whose size is not known before it runs", error)
        if size > self._elements:
            self._refuse(f"{size:,} elements where {self._elements:,} may still come")
        if _name(func) in _LASTING:
            self._elements -= size
            self._tensors -= 1
        if self._tensors < 0:
            self._refuse("more tensors than any model of this size has")
        return func(*args, **kwargs)

    def __exit__(self, *raised: object) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]  # as above
        if self._refused and raised[1] is not self._refused:  # a forward on trial may fail, and this goes with it
            raise self._refused

    def _result_size(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """How many elements an operation makes, from a run of it on tensors without values."""
        schema = func._schema  # type: ignore[attr-defined]  # noqa: SLF001 - how torch describes an operation
        has_out = any(each.is_out for each in schema.arguments)
        if schema.name not in _RESIZING and all(each.alias_info for each in schema.returns) and not has_out:
            return 0  # a view, or one of the arguments
        if func.name() in _BY_VALUES:  # type: ignore[attr-defined]  # as above
            return sum(each.numel() * each.dim() for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor))
        if schema.name == "aten::repeat_interleave":
            return int(args[0].sum())
        if schema.name == "aten::allclose":  # its answer is no tensor, and needs values
            return (_without_values(args[0]) - _without_values(args[1])).numel()
        fixed = {"device": torch.device("meta"), "pin_memory": None, "generator": None}
        said = {each.name: fixed[each.name] for each in schema.arguments if each.kwarg_only and each.name in fixed}
        plain, named = tree_map_only(Tensor, _without_values, (_with_masks_counted(schema.name, args), kwargs))
        result = func(*plain, **{**named, **said})
        sizes = [each.numel() for each in tree_leaves(result) if isinstance(each, Tensor)]
        if schema.name in _ATTENTION:
            batch, tokens = args[0].shape[:2]
            sizes.append(batch * tokens**2 * args[_ATTENTION[schema.name]])
        return max(sizes, default=0)

    def _refuse(self, got: str, error: Exception | None = None) -> NoReturn:
        self._refused = Unreadable(
            f"the recipe of {self._name} makes far larger tensors than its save holds",
            got=got,
            done="it was stopped before they were allocated",
            cause="recipe.json was changed by hand",
        )
        raise self._refused from error


def _name(func: Callable[..., Any]) -> str:
    return str(func._schema.name)  # type: ignore[attr-defined]  # noqa: SLF001 - how torch names an operation


def _without_values(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def _with_masks_counted(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of an operation of a rebuild, to know the size of its result: masks become the indices they choose."""
    if name in {"aten::index", "aten::index_put"}:
        return (args[0], [each for index in args[1] for each in _as_indices(index)], *args[2:])
    return args


def _as_indices(index: Tensor | None) -> list[Tensor | None]:
    """Indices in place of a mask, for the size of a result while a recipe rebuilds a model; others as they are."""
    if index is None or index.dtype not in {torch.bool, torch.uint8}:
        return [index]
    chosen = int(index.count_nonzero())
    return [torch.empty(chosen, dtype=torch.long, device="meta") for _ in range(index.dim())]


def _allowed_options(
    card: Card, options: Mapping[str, Any], plain: tuple[str, ...], own: Mapping[str, Any]
) -> dict[str, Any]:
    """What a rebuild gives the constructor: the card's options, under the recipe's allowed ones, under the user's.

    Raises:
        Unreadable: The recipe has an option that neither the card nor the family allows.
    """
    refused = [
        name
        for name, value in options.items()
        if name not in own and not _of_the_card(card, name, value) and not (name in plain and may_be_set(value))
    ]
    if refused:
        name = refused[0]
        raise Unreadable(
            f"the recipe of {card.id} gives its constructor an option that a folder may not set: {name}",
            expected=f"options of the card, or numbers and short words for {', '.join(plain) or 'none'}",
            got=f"{name}={str(options[name])[:100]!r}",
            done="nothing was built",
            cause="an option can make a library fetch or open whatever it names, and the folder may be a stranger's",
            hint=f"where you know that it is right: zoo.load(folder, options={{{name!r}: ...}})",
        )
    return {**card.options, **options, **own}


def _of_the_card(card: Card, name: str, value: object) -> bool:
    """Whether an option is the card's own, so that a rebuild may take it although a recipe says it."""
    return any(
        name in known and _same_option(known[name], value)
        for known in (card.options, *(weights.options for weights in card.weights))
    )


def _same_option(known: object, value: object) -> bool:
    """Whether an option in a recipe to rebuild is the catalogue's own: both may differ in lists and tuples alone."""
    if isinstance(known, list | tuple) and isinstance(value, list | tuple):
        return len(known) == len(value) and all(map(_same_option, known, value))
    return type(known) is type(value) and known == value


def rebuild(
    recipe: Recipe,
    heads: Mapping[str, nn.Module] | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    filled: Callable[[nn.Module], None] | None = None,
    limit: Limit | None = None,
) -> nn.Module:
    """A model with the parts that the recipe says, on the CPU; its parameters have no values yet.

    The global random state stays as it was.

    Args:
        recipe: What a save says of the model.
        heads: Modules that only their own code can build, by the name of their head; ``"main"`` where there is one.
        options: What the user says of the constructor's options, whatever the recipe says of them.
        filled: Gives the parameters values as soon as the model is built.
        limit: What the recipe may allocate; None for one of our own making.

    Raises:
        UnknownModel: No installed family has it.
        FamilyUnavailable: The library of its family is not installed, or builds it no more.
        Unreadable: The recipe holds something that this zoo does not know.
        UsageError: A head has to be given and is not.
    """
    card, said = card_of(recipe), _options_in(recipe)
    chosen = options_of(recipe, options)
    limited = limit or nullcontext()
    trusted = all(name in (options or {}) or _of_the_card(card, name, value) for name, value in said.items())
    with following(recipe), on_the_cpu(), seeded(0):
        with nullcontext() if trusted else limited:
            model = construct(card, chosen, own=chosen, values=False)
        if filled is not None:
            filled(model)
        with limited:
            for edit in recipe.edits:
                model = repeat(model, edit, heads or {})
    return model


@contextmanager
def following(recipe: Recipe) -> Iterator[None]:
    """What torch or a library raises while a recipe rebuilds its model, as an error of zoo.

    Raises:
        Unreadable: Something was raised.
    """
    try:
        yield
    except (ZooError, MemoryError, torch.OutOfMemoryError):  # a lack of memory says nothing of the file
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and "can't allocate memory" in str(error):  # of the CPU
            raise MemoryError(str(error)) from error
        raise Unreadable(
            f"the recipe of {recipe.id} cannot be followed",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
            cause="it was changed by hand, or the library here is of another version",
        ) from error


def options_of(recipe: Recipe, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a rebuild may give the constructor of a library of what a recipe says.

    Args:
        recipe: What a save says of the model.
        own: What the user says, whatever the recipe says.

    Raises:
        UnknownModel: No installed family has it.
        Unreadable: The recipe has an option that a folder may not set.
    """
    card = card_of(recipe)
    plain = current_zoo().member(card.family).family.plain_options
    return _allowed_options(card, _options_in(recipe), plain, own or {})


def _options_in(recipe: Recipe) -> Mapping[str, Any]:
    """The options of the constructor in a recipe, for a rebuild."""
    said = from_plain(recipe.options)
    if not isinstance(said, Mapping):
        raise Unreadable(f"the options in the recipe of {recipe.id} are none", got=str(said)[:100])
    return said


def card_of(recipe: Recipe) -> Card:
    """The card of the model that a recipe rebuilds.

    Raises:
        UnknownModel: No family has it; for a registered one the message says what has to be registered.
    """
    try:
        return current_zoo().resolve(recipe.id)[0]
    except (UnknownFamily, UnknownModel) as error:
        if not recipe.registered:
            raise
        raise UnknownModel(
            f"{recipe.id} is not registered here",
            expected=f"@zoo.register({recipe.id!r}) to have run, which was over {recipe.registered} when it was saved",
            cause="it is a model of your own, and zoo imports nothing because a file says so",
            hint=f"import {recipe.registered.partition(':')[0]}, or register the same class or function again; on the "
            "command line, zoo --models FILE imports it",
            name=recipe.id,
            matches=(),
        ) from error
