"""Building a model without drawing its initial values, which takes longer than all the rest of it."""

from torch.overrides import TorchFunctionMode

DRAWS = {"normal_", "uniform_", "kaiming_normal_", "kaiming_uniform_"}


class WithoutRandomNumbers(TorchFunctionMode):
    """Zeros where a tensor would get random numbers, by its own methods or by those of ``torch.nn.init``.

    Functions of ``torch.nn.init`` come here as a whole, and what they call does not. What is drawn is not left as it
    is: ``trunc_normal_`` draws until it likes what it sees.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in DRAWS:
            return (args[0] if args else kwargs["tensor"]).data.zero_()
        return func(*args, **kwargs)
