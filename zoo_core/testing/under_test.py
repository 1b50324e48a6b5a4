"""The model under test: untrained, with values or shapes alone; its inputs by its task, and what it gives."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from zoo_core.build.construct import construct
from zoo_core.build.get import get
from zoo_core.contract.anatomy import Anatomy, Head
from zoo_core.contract.card import Card
from zoo_core.errors import NotSupported, UsageError
from zoo_core.registry.zoo import current_zoo
from zoo_core.surgery.metadata import anatomy_of
from zoo_core.testing.findings import NotChecked, only_shapes, require
from zoo_core.testing.process import files_left, random_states, watched, without_network
from zoo_core.utils.duplicate import duplicate
from zoo_core.utils.hooks import removing
from zoo_core.utils.random_state import seeded

_IMAGE = 3
"""Numbers of an input_size that has channels, rows and columns."""

_SMALL_SIDE = 64
_FEW_FRAMES = 16
"""Of a video model that takes no smaller images than it was designed for: S3D has clips of 128 frames."""
_SMALL_SIDES = {"optical_flow": 128}  # RAFT compares maps of an eighth of the image on four levels
_BOX = (8.0, 8.0, 40.0, 40.0)
_LABEL = 1


def example(card: Card, batch: int = 2) -> Tensor:
    """A batch of noise as small as the model under test takes: 64 pixels a side, or the size it was designed for.

    Of a video of that size, 16 frames at most, where it takes so few.

    Args:
        card: The model.
        batch: How many images.

    Returns:
        ``[batch, C, H, W]``, with frames before the rows for a video. :func:`arguments` makes of it what the model is
        called with.
    """
    channels, *sides = card.input_size
    most = _SMALL_SIDES.get(card.task, _SMALL_SIDE)
    small = tuple(min(side, most) for side in sides)
    short = (*(min(frames, _FEW_FRAMES) for frames in sides[:-2]), *sides[-2:])
    device = "meta" if by_shapes(card) else "cpu"
    with seeded(0):
        tries = [
            torch.randn(batch, channels, *size, device=device) for size in dict.fromkeys((small, short, tuple(sides)))
        ]
    return next((x for x in tries[:-1] if _takes(card, x)), tries[-1])


def arguments(card: Card, images: Tensor, *, train: bool = False) -> tuple[Any, ...]:
    """Arguments of ``forward`` for a model under test and a batch of images, by its task.

    A detector is given a list of images, and what is in them while it trains; optical flow is given two images at a
    time, of which the second differs from the first in its last channel. Any other model is given the batch.

    Args:
        card: The model.
        images: ``[N, C, H, W]``.
        train: Whether the model is in train mode.

    Example:
        >>> import zoo_core as zoo
        >>> [x.shape for x in arguments(zoo.info("torchvision/raft_small"), torch.zeros(2, 3, 128, 128))]
        [torch.Size([2, 3, 128, 128]), torch.Size([2, 3, 128, 128])]
    """
    if card.task in DETECTORS:
        return ([*images], [_detector_target(card, image) for image in images]) if train else ([*images],)
    if card.task == "optical_flow":
        later = images.clone()
        later[:, -1] += 1
        return images, later
    return (images,)


def inputs_of(card: Card, batch: int = 2, *, train: bool = False) -> tuple[Any, ...]:
    """What to call a model under test with: :func:`arguments` for its :func:`example`."""
    return arguments(card, example(card, batch), train=train)


def _detector_target(card: Card, image: Tensor) -> dict[str, Tensor]:
    """Target for a detector under test: one object in an image, with all that it could be taught of it."""
    left, top, right, bottom = _BOX
    mask = torch.zeros(1, *image.shape[-2:], dtype=torch.uint8)
    mask[:, int(top) : int(bottom), int(left) : int(right)] = 1
    target = {"boxes": torch.tensor([_BOX]), "labels": torch.tensor([_LABEL]), "masks": mask}
    path = anatomy_of(model_under_test(card)).keypoints
    if path:
        count = cast("nn.ConvTranspose2d", model_under_test(card).get_submodule(path)).out_channels
        target["keypoints"] = torch.tensor([(left + right) / 2, (top + bottom) / 2, 1]).expand(1, count, 3).clone()
    return target


_sizes: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], bool]] = WeakKeyDictionary()


def _takes(card: Card, x: Tensor) -> bool:
    """Whether a model under test runs on images of this size, found by running it once."""
    model, size = model_under_test(card), tuple(x.shape[1:])
    known = _sizes.setdefault(model, {})
    if size not in known:
        try:
            with torch.no_grad():
                duplicate(model)(*arguments(card, x[:1]))  # a Swin of transformers keeps the smaller windows it takes
            known[size] = True
        except (RuntimeError, ValueError, AssertionError):  # how models say that an image is too small for them
            known[size] = False
    return known[size]


SHAPES_ABOVE = 300_000_000
"""Parameters beyond which a model is looked at without values: copies of it would fill the memory of a laptop."""
DETECTORS = ("detection", "keypoints")
"""The tasks of models that are given a list of images, and choose among boxes by their values."""
_FEW_PIXELS = {"min_size": 128, "max_size": 256}
_shapes_above: ContextVar[int] = ContextVar("shapes_above", default=SHAPES_ABOVE)


@contextmanager
def shapes_above(parameters: int) -> Iterator[None]:
    """Inside the block, models under test of more parameters than this are checked by their shapes alone.

    They are built without initial values and moved to torch's meta device: their memory is never touched, and paths,
    channels, strides, gradients and shapes are what they would be. What needs values is not checked. Detectors of up to
    300 million parameters keep their values in any case: which boxes go on to the next layer depends on them.

    Args:
        parameters: The most that a model with values may have; 0 checks every model by its shapes.

    Example:
        >>> import zoo_core as zoo
        >>> with shapes_above(0):
        ...     model_under_test(zoo.info("tiny/glyphnet")).fc.weight.is_meta
        True
    """
    token = _shapes_above.set(parameters)
    try:
        yield
    finally:
        _shapes_above.reset(token)


def by_shapes(card: Card) -> bool:
    """Whether this model is under test without values."""
    limit = _shapes_above.get()
    if card.task in DETECTORS and limit >= 0:
        limit = max(limit, SHAPES_ABOVE)
    return (card.parameters or 0) > limit


def need_values(card: Card) -> None:
    """Raise :class:`NotChecked` where the model under test has no values."""
    if by_shapes(card):
        only_shapes(card.id)
        limit = f"{_shapes_above.get():,} parameters" if _shapes_above.get() > 0 else "no parameters at all"
        raise NotChecked(f"{card.id} is looked at by its shapes alone, as all models of more than {limit}")


def need_stages(card: Card, anatomy: Anatomy) -> None:
    """Skip a model under test without stages, or that is not called with one batch of images."""
    if card.task in DETECTORS or card.task == "optical_flow" or len(card.input_size) < _IMAGE:
        raise NotChecked(f"{card.id} is not called with one batch of images")
    if not anatomy.stages:
        raise NotChecked(f"{card.id} has no stages")


class Built(NamedTuple):
    """First build of a model under test: what it changed in the process, so that a check can say so.

    Attributes:
        changes: What it changed, in words.
        files: The files that it left, in words.
        states: The states of Python's and numpy's random generators after it.
    """

    changes: tuple[str, ...]
    files: tuple[str, ...]
    states: dict[str, object]


_built: WeakKeyDictionary[nn.Module, Built] = WeakKeyDictionary()
_failed: dict[str, str] = {}
"""Models that could not be built, with the reason: one check says it, and the others have nothing to look at."""


def built_with(model: nn.Module) -> Built:
    """What building did to the process, as noted when the model under test was built."""
    return _built[model]


def model_under_test(card: Card) -> nn.Module:
    """An untrained model of this card in eval mode, always with the same parameters. Copy it before changing it.

    Args:
        card: What to build.

    Raises:
        NonConformance: Building it needs a network.
        FamilyUnavailable: Its library is missing, or its constructor fails.
        NotChecked: One of these was raised before, by another check of this model.
    """
    if card.id in _failed:
        raise NotChecked(f"{card.id} could not be looked at: {_failed[card.id]}")
    try:
        return _model_under_test(card.id, shapes=by_shapes(card))
    except Exception as error:
        _failed[card.id] = str(error).partition("\n")[0]
        raise


def forget() -> None:
    """Give back the memory of the last model under test."""
    _model_under_test.cache_clear()
    _failed.clear()
    gc.collect()  # a frozen or adapted copy holds itself in a cycle, and the next model may need its memory


@lru_cache(maxsize=1)
def _model_under_test(name: str, *, shapes: bool) -> nn.Module:
    """Build a model under test without a network, and note what that changes in the process."""
    with without_network() as attempts:
        try:
            with suppress(Exception):  # which the build below reports; what it imports may set what it likes
                card = current_zoo().resolve(name)[0]
                current_zoo().member(card.family).builder(card)
            ignored = warnings.catch_warnings(action="ignore", category=UserWarning)  # of ways of initializing
            with watched(imports=True) as changes, files_left() as files, ignored:
                model = _build_without_values(name) if shapes else _with_values(name)
        finally:
            require(
                not attempts,
                f"{name}: its constructor asks the network for {', '.join(attempts)}; it must build untrained without "
                "one: the weights are zoo's to fetch",
            )
    _built[model] = Built(tuple(changes), tuple(files), random_states())
    return model.eval()


def _build_without_values(name: str) -> nn.Module:
    """A model under test without values, on the meta device."""
    card = current_zoo().resolve(name)[0]
    return construct(card, card.options, values=False).to("meta")


def _with_values(name: str) -> nn.Module:
    """A model under test with values; a detector enlarges its images less than usual."""
    card = current_zoo().resolve(name)[0]
    try:  # detectors enlarge what they are given to 800 pixels a side, unless their constructor is told otherwise
        model = get(name, weights=None, seed=0, options=_FEW_PIXELS if card.task in DETECTORS else None)
    except UsageError:
        model = get(name, weights=None, seed=0)
    _draw_zeros(model)
    return model


def _draw_zeros(model: nn.Module) -> None:
    """Build a model under test so that its scores depend on its input: randomize a new head that is all zeros."""
    known = dict(model.named_modules())
    layers = [known[head.path] for head in anatomy_of(model).heads if head.path in known]
    with torch.no_grad(), seeded(0):
        for parameter in (each for layer in layers for each in layer.parameters() if not each.any()):
            nn.init.normal_(parameter, std=0.1)


def tensors(output: object) -> Iterator[Tensor]:
    """The tensors in what a model under test gives: itself, or those of a tuple, a mapping or an output object."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for item in output.values():
            yield from tensors(item)
    elif isinstance(output, list | tuple):
        for item in output:
            yield from tensors(item)
    elif hasattr(output, "__dict__"):
        yield from tensors(vars(output))


def scores_of(model: nn.Module, *given: Any) -> Tensor:
    """The scores in the output of a model under test; the first of them where it gives several."""
    return next(tensors(anatomy_of(model).scores_in(model(*given))))


def same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two outputs of models under test are equal bit for bit; on the meta device their shapes, as is noted."""
    if ours.is_meta:
        only_shapes("values")
    return ours.shape == theirs.shape and (ours.is_meta or torch.equal(ours, theirs))


def parameters_used(model: nn.Module, result: Tensor) -> dict[str, nn.Parameter]:
    """The parameters of a model under test that an output was computed with, by name: those in its graph.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> [*parameters_used(model, model[1](model[0](torch.ones(1, 2)).detach()))]
        ['1.weight', '1.bias']
    """
    used = leaves_of([result.grad_fn])
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in used}


def leaves_of(nodes: Iterable[Any], stop: Iterable[Any] = ()) -> set[int]:
    """The ids of the tensors that autograd's nodes of a model under test lead back to, not looking beyond ``stop``."""
    seen, waiting, result = {*stop}, [*nodes], set[int]()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [each for each, _ in node.next_functions]
        if hasattr(node, "variable"):
            result.add(id(node.variable))
    return result


class Call(NamedTuple):
    """Shapes of what a module in a model under test is given in a forward pass, and of its output: first of each."""

    given: torch.Size
    made: torch.Size


def calls_of(model: nn.Module, paths: Iterable[str], given: tuple[Any, ...]) -> dict[str, Call]:
    """What modules in a model under test are given and output in a forward pass, at the last call; none not called."""
    seen: dict[str, Call] = {}

    def note(path: str, x: tuple[Any, ...], made: object) -> None:
        shapes = [each.shape for each in tensors((x[0], made))]
        seen.pop(path, None)
        seen[path] = Call(shapes[0], shapes[1])

    hooks = (
        model.get_submodule(path).register_forward_hook(lambda _, x, made, path=path: note(path, x, made))
        for path in paths
    )
    with removing(hooks), torch.no_grad():
        model(*given)
    return seen


def main_of(card: Card, model: nn.Module) -> Head:
    """The main head site of a model under test; a finding or a refusal where its anatomy says none.

    Raises:
        NotSupported: There is none, for a reason that the anatomy gives.
        NonConformance: It gives none.
    """
    anatomy = anatomy_of(model)
    if anatomy.main is not None:
        return anatomy.main
    require(not anatomy.heads, f"{card.id}: none of its head sites has the role 'main'")
    require(bool(anatomy.headless), f"{card.id}: no head sites, and Anatomy.headless does not say why")
    raise NotSupported(f"{card.id} has no head", cause=anatomy.headless)


def inside(name: str, sites: Sequence[str]) -> bool:
    """Whether the tensor ``name`` of a model under test is inside one of its head sites, or of other modules."""
    return any(name.startswith(f"{site}.") for site in sites)


def noisy(card: Card) -> nn.Module:
    """A copy of the model under test, with noise on all that has values, so that a check shows what its split omits.

    A scale of ones and a gate of zeros hide that a split leaves them out. No number of a buffer gets a smaller one, for
    it may be a variance.
    """
    model = duplicate(model_under_test(card))
    if by_shapes(card):
        return model
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                noise = 0.02 * torch.randn(tensor.shape, generator=generator).to(tensor)
                tensor.add_(noise if isinstance(tensor, nn.Parameter) else noise.abs())
    return model
