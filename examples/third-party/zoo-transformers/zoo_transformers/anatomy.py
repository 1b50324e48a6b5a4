"""Building the image classifiers of transformers, and where their parts are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import AutoConfig, AutoModelForImageClassification

from zoo_core.plugin import Anatomy, AnatomyError, Chain, Head, Stage

if TYPE_CHECKING:
    from torch import Tensor, nn


def classifier(kind: str, **config: object) -> nn.Module:
    """The library's classifier of that model type, with random values: made from its configuration, without network."""
    library: Any = AutoModelForImageClassification
    model: nn.Module = library.from_config(AutoConfig.for_model(kind, **config))
    return model


def anatomy(model: Any) -> Anatomy:  # noqa: ANN401 - the classes of transformers share no typed interface
    """Where head, stem and stages are, and how forward splits.

    Args:
        model: A ViT, DeiT, Swin or ConvNeXt for image classification.

    Raises:
        AnatomyError: It is of another type.

    Example:
        >>> found = anatomy(classifier("convnext", depths=[1, 1, 1, 1], num_labels=10))
        >>> found.main.path, [stage.stride for stage in found.stages]
        ('classifier', [4, 8, 16, 32])
    """
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind not in _KINDS:
        raise AnatomyError(f"{type(model).__name__} is not a classifier that this plugin knows", got=repr(kind))
    return _KINDS[kind](model, model.base_model_prefix)


def _vit(model: Any, body: str) -> Anatomy:  # noqa: ANN401
    config, twice = model.config, hasattr(model, "distillation_classifier")
    roles = {"cls_classifier": "main", "distillation_classifier": "distilled"} if twice else {"classifier": "main"}
    return Anatomy(
        heads=tuple(_head(model, path, role) for path, role in roles.items()),
        stem=(f"{body}.embeddings.patch_embeddings.projection",),
        stages=tuple(
            Stage(f"layer{i}", (f"{body}.layers.{i}",), channels=config.hidden_size, stride=config.patch_size)
            for i in range(config.num_hidden_layers)
        ),
        features=last_hidden_state,
        pool=Chain(two_tokens if twice else class_token),
        classify=mean_of_two if twice else None,
        layout="NLC",
        channel_attributes=("config.num_channels", f"{body}.embeddings.patch_embeddings.num_channels"),
        scores="logits",
    )


def _swin(model: Any, body: str) -> Anatomy:  # noqa: ANN401
    stages = []
    for i, depth in enumerate(model.config.depths):
        merging = [f"{body}.encoder.layers.{i - 1}.downsample"] if i else []
        blocks = [f"{body}.encoder.layers.{i}.blocks.{j}" for j in range(depth)]
        wide, stride = model.config.embed_dim * 2**i, model.config.patch_size * 2**i
        stages.append(Stage(f"stage{i + 1}", (*merging, *blocks), channels=wide, stride=stride, read=first))
    return Anatomy(
        heads=(_head(model, "classifier"),),
        stem=(f"{body}.embeddings.patch_embeddings.projection",),
        stages=tuple(stages),
        features=last_hidden_state,
        pool=Chain(mean_of_tokens),
        layout="NLC",
        channel_attributes=("config.num_channels",),
        scores="logits",
    )


def _convnext(model: Any, body: str) -> Anatomy:  # noqa: ANN401
    paths = [f"{body}.encoder.stages.{i}" for i in range(len(model.config.depths))]
    return Anatomy(
        heads=(_head(model, "classifier"),),
        stem=(f"{body}.embeddings.patch_embeddings",),
        stages=tuple(
            Stage(f"stage{i + 1}", (path,), channels=wide, stride=model.config.patch_size * 2**i)
            for i, (path, wide) in enumerate(zip(paths, model.config.hidden_sizes, strict=True))
        ),
        features=Chain(f"{body}.embeddings", *paths),
        pool=Chain(mean_of_places, f"{body}.layernorm"),
        channel_attributes=("config.num_channels", f"{body}.embeddings.num_channels"),
        scores="logits",
    )


_KINDS = {"vit": _vit, "deit": _vit, "swin": _swin, "convnext": _convnext}


def _head(model: Any, path: str, role: Any = "main") -> Head:  # noqa: ANN401
    layer = model.get_submodule(path)
    return Head(path, layer.in_features, layer.out_features, role=role, attributes=("num_labels", "config.num_labels"))


def last_hidden_state(model: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    """Images to tokens, ``[N, L, C]``, after the last norm."""
    found: Tensor = model.base_model(x).last_hidden_state
    return found


def class_token(tokens: Tensor) -> Tensor:
    """The first token."""
    return tokens[:, 0]


def two_tokens(tokens: Tensor) -> Tensor:
    """The class token and the distillation token, ``[N, 2, C]``."""
    return tokens[:, :2]


def mean_of_two(model: Any, pooled: Tensor) -> Tensor:  # noqa: ANN401
    """What a distilled DeiT returns: the mean of two heads, one on each token."""
    scores: Tensor = model.cls_classifier(pooled[:, 0]) + model.distillation_classifier(pooled[:, 1])
    return scores / 2


def mean_of_tokens(tokens: Tensor) -> Tensor:
    """Tokens to their mean, as Swin's pooler takes it."""
    return tokens.transpose(1, 2).mean(2)


def mean_of_places(features: Tensor) -> Tensor:
    """A map to its mean."""
    return features.mean((-2, -1))


def first(_model: Any, output: tuple[Tensor, ...]) -> Tensor:  # noqa: ANN401
    """The tokens in what a Swin block returns beside its attention."""
    return output[0]
