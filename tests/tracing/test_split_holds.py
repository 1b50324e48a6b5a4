"""The split of a traced network holds in train mode, in other dtypes and for images of other sizes than its example."""

from types import MethodType

import pytest
import torch
from torch import nn
from torch.nn import functional

import zoo_core as zoo

X = torch.randn(2, 3, 32, 32)


class Net(nn.Module):
    """Two convolutions and a head."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Linear(16, 5)

    def maps(self, x):
        return self.b(self.a(x).relu())

    def forward(self, x):
        return self.fc(self.maps(x).mean((2, 3)))


class Noisy(Net):
    """Drops samples' maps when it trains, by numbers that are always made on the CPU."""

    def maps(self, x):
        x = super().maps(x)
        return x * (torch.rand(len(x), 1, 1, 1) > 0.5) if self.training else x


class Pads(Net):
    """Pads images to a multiple of eight, and cuts that off again."""

    def maps(self, x):
        more = -x.shape[-1] % 8
        x = super().maps(functional.pad(x, (0, more, 0, more)))
        return x[..., :-1] if more else x


class Recurrent(Net):
    """Starts from a state in the dtype of its input."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(16, 16, batch_first=True)

    def forward(self, x):
        state = torch.zeros(1, len(x), 16, dtype=x.dtype)
        return self.fc(self.rnn(self.maps(x).flatten(2).transpose(1, 2), state)[0][:, -1])


def parts(kind):
    torch.manual_seed(0)
    model = zoo.adopt(kind().eval(), example=X)
    return model, zoo.split(model)


def test_what_only_runs_in_train_mode_runs_in_the_parts():
    model, (backbone, head) = parts(Noisy)
    model.train()
    torch.manual_seed(1)
    wanted = model(X)
    torch.manual_seed(1)
    torch.testing.assert_close(head(backbone(X)), wanted)


def test_images_of_another_size_are_padded_in_the_parts():
    model, (backbone, head) = parts(Pads)
    x = X[..., :30, :30]
    torch.testing.assert_close(head(backbone(x)), model(x))


def test_tensors_that_forward_makes_are_of_the_dtype_that_the_model_has_now():
    model, (backbone, head) = parts(Recurrent)
    model.double()
    torch.testing.assert_close(head(backbone(X.double())), model(X.double()))


class Inner(nn.Module):
    """Stages in a module of its own, whose forward calls another of its methods."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(nn.Conv2d(w, 2 * w + 2, 3, 2, 1) for w in (3, 8, 18))

    def middle(self, x):
        return self.stages[1](x)

    def forward(self, x):
        return self.stages[2](self.middle(self.stages[0](x).relu()).relu()).relu()


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = Inner(), nn.Linear(38, 4)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


class OtherInner(Inner):
    def middle(self, x):
        return self.stages[1](x * 3)


OTHER_CODE = {
    "a class": lambda body: setattr(body, "__class__", OtherInner),
    "a forward": lambda body: setattr(body, "forward", MethodType(lambda self, x: Inner.forward(self, x * 2), body)),
    "a method": lambda body: setattr(body, "middle", MethodType(OtherInner.middle, body)),
    "a hook": lambda body: body.register_forward_hook(lambda _module, _args, output: output * 2),
    "a hook before": lambda body: body.register_forward_pre_hook(lambda _module, args: (args[0] * 2,)),
}


@pytest.mark.parametrize("change", OTHER_CODE.values(), ids=OTHER_CODE)
def test_other_code_of_a_module_around_stages_is_run(change):
    x = torch.randn(2, 3, 32, 32)
    model = zoo.adopt(Outer().eval(), example=x)
    before = model(x)
    change(model.body)
    assert not torch.allclose(model(x), before)
    backbone, head = zoo.split(model)
    assert torch.equal(head(backbone(x)), model(x))
