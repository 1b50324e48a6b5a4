"""A model whose beginning is on one device and whose end is on another, which runs all the same."""

from __future__ import annotations

import zoo_core as zoo


def spread(model, first, second):
    """Put the last stage and the heads on the second device, and have each layer fetch what it is given."""
    parts = zoo.anatomy(model)
    model.to(first)
    for path in (*parts.stages[-1].modules, *(site.path for site in parts.heads)):
        model.get_submodule(path).to(second)
    return follow(model)


def follow(model):
    """Have each layer take what it is given to where its parameters are; once more after layers were added."""
    for module in model.modules():
        if module._parameters and not module._forward_pre_hooks:
            module.register_forward_pre_hook(_fetch)
    return model


def _fetch(module, given):
    device = next(module.parameters()).device
    return tuple(each.to(device) for each in given)
