"""Head sites of timm's models, held against what timm's own constructor makes of another number of classes.

Everything here runs on the meta device: shapes are real, values are not, and the largest model costs no memory.
"""

from __future__ import annotations

import pickle
from functools import lru_cache

import pytest
import timm
import torch
from torch import Tensor, nn
from zoo_timm import combined_heads

import zoo_core as zoo
from zoo_core import errors

NINE = 9
BATCH = 2

OF_EVERY_LAYOUT = (
    # linear: at the root, or within a head after a norm, an MLP, a pool or an attention
    *("test_resnet", "test_vit", "test_convnext", "shvit_s1", "inception_next_atto", "caformer_s18", "vgg11"),
    *("mvitv2_tiny", "efficientvit_b0", "efficientvit_m0", "cpubone_nano", "lowformer_b0", "resnet50_clip"),
    # a place without a layer
    *("vit_small_patch14_dinov2", "samvit_base_patch16", "sam2_hiera_tiny", "naflexvit_base_patch16_siglip"),
    *("deepseek_vit_412m", "deepseek_vit_412m_align", "qwen3_vit_88m"),
    # a convolution on the pooled map
    *("dla46_c", "dpn48b", "resnetv2_18"),
    # several
    *("levit_128s", "levit_384_s8", "repvit_m0_9", "iformer_t", "iformer_m_distilled", "pit_ti_distilled_224"),
    *("deit_tiny_distilled_patch16_224", "efficientformer_l1", "swiftformer_xs", "volo_d1_224", "crossvit_9_240"),
    *("efficientvim_m1", "efficientvim_m1_dist"),
)

ENCODERS = tuple(name for name in timm.list_models() if name.endswith("_enc"))
CLASSIFIERS = tuple(name for name in timm.list_models() if name not in ENCODERS)


def build(name: str, **options: object) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **options).eval()


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def integers(model: nn.Module) -> dict[str, int]:
    return {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) is int
    }


class Traced:
    """One model, its head swapped for nine classes and its backbone frozen, and what happened when it ran then."""

    def __init__(self, name: str, **options: object) -> None:
        self.theirs = build(name, num_classes=NINE)
        self.model = zoo.adopt(build(name, **options), family="timm")
        self.before = shapes(self.model)
        zoo.swap_head(self.model, NINE)
        zoo.freeze(self.model, "backbone")
        self.anatomy = zoo.anatomy(self.model)
        self.given = {site.path: self._calls(site.path) for site in self.anatomy.heads}
        self.features = self._features()
        self.scores: Tensor = self.model(torch.empty(BATCH, *timm.get_pretrained_cfg(name).input_size, device="meta"))
        self.scores.sum().backward()

    def _calls(self, path: str) -> list[torch.Size]:
        calls: list[torch.Size] = []
        self.model.get_submodule(path).register_forward_pre_hook(lambda _, args: calls.append(args[0].shape))
        return calls

    def _features(self) -> list[object]:
        """Everything that forward is given by ``forward_features``; a second run of the trunk would cost as much."""
        found: list[object] = []
        library = self.model.forward_features

        def recorded(*args: object, **options: object) -> object:
            found.append(library(*args, **options))
            return found[-1]

        self.model.forward_features = recorded
        return found

    def under_heads(self, names: object) -> set[str]:
        return {name for name in names if name.startswith(tuple(f"{site.path}." for site in self.anatomy.heads))}


@lru_cache(maxsize=1)
def traced(name: str) -> Traced:
    return Traced(name)


def check_tensors(found: Traced) -> None:
    """The state dict is the one that the library makes of nine classes, and only the heads differ from before."""
    after = shapes(found.model)
    assert after == shapes(found.theirs)
    changed = {name for name in after.keys() | found.before.keys() if after.get(name) != found.before.get(name)}
    assert changed
    assert changed == found.under_heads(changed)


def check_counts(found: Traced) -> None:
    """Every integer is the one that the library writes down for nine classes."""
    assert integers(found.model) == integers(found.theirs)


def check_scores(found: Traced) -> None:
    """Forward passes through every head once, with as many features as the site says, to nine scores."""
    assert found.scores.shape == (BATCH, NINE)
    for site in found.anatomy.heads:
        assert len(found.given[site.path]) == 1
        shape = found.given[site.path][0]
        assert shape[1 if site.kind == "conv" else -1] == site.in_features


def check_gradients(found: Traced) -> None:
    """They reach every parameter of the heads, and no other."""
    names = dict(found.model.named_parameters())
    assert {name for name, parameter in names.items() if parameter.grad is not None} == found.under_heads(names)


def check_split(found: Traced) -> None:
    """Forward calls the features once, and pool and classify take it from there, in shapes that fit."""
    model, anatomy = found.model, found.anatomy
    (features,) = found.features
    model.forward_features = lambda _: features
    pooled = anatomy.pool(model, anatomy.features(model, None))
    (main, *others) = anatomy.heads
    if not others:
        assert pooled.shape == found.given[main.path][0]
    scores = anatomy.classify(model, pooled) if anatomy.classify else model.get_submodule(main.path)(pooled)
    assert scores.shape == (BATCH, NINE)


CHECKS = (check_tensors, check_counts, check_scores, check_gradients, check_split)
each_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("check_"))


ON_FEATURES = ("test_vit", "swin_tiny_patch4_window7_224", "samvit_base_patch16", "deepseek_vit_412m", "qwen3_vit_88m")


@pytest.mark.parametrize("name", ON_FEATURES)
def test_a_head_on_the_features_is_given_channels_whatever_order_the_axes_have(name):
    model = zoo.adopt(build(name), family="timm", name=name)
    channels = model.num_features
    zoo.swap_head(model, NINE, at="features")
    assert zoo.anatomy(model).main.in_features == channels


@each_check
@pytest.mark.parametrize("name", OF_EVERY_LAYOUT)
def test_a_swap_makes_what_the_library_makes_of_nine_classes(name, check):
    check(traced(name))


@pytest.mark.full
@each_check
@pytest.mark.parametrize("name", [name for name in CLASSIFIERS if name not in OF_EVERY_LAYOUT])
def test_a_swap_makes_what_the_library_makes_of_nine_classes_in_every_model(name, check):
    check(traced(name))


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_has_no_head_and_says_which_model_has_one(name):
    model = zoo.adopt(build(name, num_classes=NINE), family="timm")  # it accepts the number in silence
    with pytest.raises(errors.NotSupported, match=r"the same name without _enc"):
        zoo.swap_head(model, NINE)
    assert timm.is_model(name.removesuffix("_enc"))


@pytest.mark.parametrize(("name", "scores_tokens"), [("resnet50_clip", [True]), ("volo_d1_224", [False, True])])
def test_a_head_with_batch_norms_knows_where_it_is_given_tokens(name, scores_tokens):
    head = zoo.mlp_head(9, hidden=(8,), batch_norm=True)
    model = zoo.get(f"timm/{name}", weights=None, head=head, device="meta").eval()
    assert [site.tokens for site in zoo.anatomy(model).heads] == scores_tokens
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 9)


def test_a_model_pickled_by_version_0_1_finds_what_combines_its_scores():
    old = pickle.loads(b"czoo_timm.heads\nAveraged\n.")  # as such a pickle names it
    assert old is combined_heads.Averaged
