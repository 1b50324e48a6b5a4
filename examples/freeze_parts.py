"""Say which parts of a network train: by depth, by name, by number of children, or from the end of a head."""

from torch import nn

import zoo_core as zoo


def trains(model: nn.Module) -> str:
    """The top-level parts that have something to train."""
    names = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names)) or "nothing"


model = zoo.get("resnet18", weights=None, head=zoo.mlp_head(9, hidden=(256, 128), batch_norm=True))

print("only the head:", trains(zoo.freeze(model)))
print("the last stage as well:", trains(zoo.unfreeze(model, "layer4")))

zoo.unfreeze(model)  # everything again
print("from layer3 on:", trains(zoo.freeze(model, until="layer3")))

zoo.unfreeze(model)
print("all but the first six children:", trains(zoo.freeze(model, "[:6]")))

zoo.unfreeze(zoo.freeze(model, "all"), "layer[34].*.bn*", "head")
print("the norms of two stages and the head:", trains(model))

zoo.unfreeze(zoo.freeze(model, "all"), "head", last=2)
print("the last two layers of a deep head:", [n for n, p in model.named_parameters() if p.requires_grad])
