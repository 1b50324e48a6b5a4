"""Plugins that change the process, or the model that they are given, or that leave something."""

from __future__ import annotations

import atexit
import builtins
import gc
import logging
import os
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import nn

from support import toys
from support.mutants import Mutant
from zoo_core import Chain, flatten

_left = []
_shared = torch.zeros(4)


def forget():
    """Let go of what the plugins below keep, and end their threads."""
    for each in _left:
        if isinstance(each, threading.Event):
            each.set()
    _left.clear()
    atexit.unregister(nothing)


def nothing(*_):
    """A hook."""


def waiting():
    """A thread that ends when it is told to."""
    _left.append(threading.Event())
    threading.Thread(target=_left[-1].wait, name="acme", daemon=True).start()


class Other(nn.Linear):
    """Put in the place of torch's own."""


# --- what a constructor does ------------------------------------------------------------------------------------------


def with_default_dtype():
    torch.set_default_dtype(torch.float64)
    return toys.Toy().float()


def with_threads():
    torch.set_num_threads(torch.get_num_threads() + 1)
    return toys.Toy()


def without_gradients():
    torch.set_grad_enabled(False)
    return toys.Toy()


def with_warnings_off():
    warnings.filterwarnings("ignore", message=f"acme {random.random()}")
    return toys.Toy()


def with_torch_patched():
    nn.Linear = Other
    return toys.Toy()


def with_hooks_of_all():
    nn.modules.module.register_module_forward_hook(nothing)
    return toys.Toy()


def with_a_thread():
    waiting()
    return toys.Toy()


def with_a_seed():
    torch.manual_seed(0)
    return toys.Toy()


def with_pythons_seed():
    random.seed(0)
    return toys.Toy()


def in_a_list():
    _left.append(toys.Toy())
    return _left[-1]


def in_eval_mode():
    return toys.Toy().eval()


def partly_in_eval_mode():
    model = toys.Toy()
    model.layer1.eval()
    return model


def partly_frozen():
    model = toys.Toy()
    model.layer1.requires_grad_(requires_grad=False)
    return model


def with_a_shared_buffer():
    model = toys.Toy()
    model.bn1.running_mean = _shared
    return model


def in_float64():
    return toys.Toy().double()


def with_its_transforms():
    return toys.Toy(), nothing


def with_deterministic_algorithms():
    torch.use_deterministic_algorithms(mode=True)
    return toys.Toy()


def with_anomalies():
    torch.autograd.set_detect_anomaly(mode=True)
    return toys.Toy()


def with_a_variable():
    os.environ["ACME_BUILT"] = str(random.random())
    return toys.Toy()


def in_another_folder():
    os.chdir("/")
    return toys.Toy()


def without_garbage_collection():
    gc.disable()
    return toys.Toy()


def with_any_image():
    Image.MAX_IMAGE_PIXELS = None
    return toys.Toy()


def that_cannot_be_ended():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return toys.Toy()


def with_silent_numpy():
    np.seterr(all="ignore")
    return toys.Toy()


def with_a_path():
    sys.path.insert(0, f"/acme/{random.random()}")
    return toys.Toy()


def with_logging_off():
    logging.disable(logging.CRITICAL)
    return toys.Toy()


def with_a_message():
    print("Building a toy ...")  # noqa: T201 - what this constructor is there for
    return toys.Toy()


def with_a_log():
    with Path("toy.log").open("a") as log:
        log.write("built")
    return toys.Toy()


def with_a_checkpoint():
    model = toys.Toy()
    torch.save(model.state_dict(), "toy.pth")
    return model


def with_files_for_itself():
    os.umask(0o077 if os.umask(0o077) != 0o077 else 0o022)
    return toys.Toy()


class Tee:
    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        return self.stream.write(text)

    def flush(self):
        self.stream.flush()


def with_its_stdout():
    sys.stdout = Tee(sys.stdout)
    return toys.Toy()


def with_its_stderr():
    sys.stderr = Tee(sys.stderr)
    return toys.Toy()


def with_a_file_at_home():
    (Path.home() / "acme.json").write_text("{}")
    return toys.Toy()


def with_a_folder_at_home():
    (Path.home() / "acme").mkdir(exist_ok=True)
    return toys.Toy()


def with_a_temporary_file():
    handle, _ = tempfile.mkstemp()
    os.close(handle)
    return toys.Toy()


def with_a_temporary_checkpoint():
    model = toys.Toy()
    torch.save(model.state_dict(), Path(tempfile.gettempdir()) / "acme.pth")
    return model


def with_a_program():
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    return toys.Toy()


def with_a_patched_activation():
    nn.ReLU.forward = lambda _, x: nn.functional.relu(x)
    return toys.Toy()


def with_a_patched_call():
    nn.ReLU.__call__ = lambda self, x: self.forward(x)
    return toys.Toy()


def with_a_patched_print():
    builtins.print = lambda *_, **__: None
    return toys.Toy()


def without_certificates():
    ssl._create_default_https_context = ssl._create_unverified_context
    return toys.Toy()


def with_broken_images():
    ImageFile.LOAD_TRUNCATED_IMAGES = True
    return toys.Toy()


def with_fast_zeros():
    torch.set_flush_denormal(True)
    return toys.Toy()


def with_a_last_word():
    atexit.register(nothing)
    return toys.Toy()


def with_trust():
    torch.serialization.add_safe_globals([Other])
    return toys.Toy()


_built = []


def in_two_forms():
    model = toys.Toy()
    _built.append(1)
    if len(_built) % 2:
        model.layer2.append(nn.Conv2d(8, 8, 1))
    return model


# --- what an anatomy does ---------------------------------------------------------------------------------------------


def zeroing(model):
    with torch.no_grad():
        model.fc.bias.zero_()
    return toys.anatomy(model)


def replacing(model):
    model.fc.bias = nn.Parameter(model.fc.bias.detach().clone())
    return toys.anatomy(model)


def hooking(model):
    model.layer1.register_forward_hook(nothing)
    return toys.anatomy(model)


def noting(model):
    model.seen = getattr(model, "seen", 0) + 1
    return toys.anatomy(model)


def adding(model):
    model.extra = nn.Identity()
    return toys.anatomy(model)


def with_gradients(model):
    model.fc.weight.grad = torch.zeros_like(model.fc.weight)
    return toys.anatomy(model)


def seeding(model):
    torch.manual_seed(0)
    return toys.anatomy(model)


def drawing(model):
    random.random()
    return toys.anatomy(model)


def setting_dtype(model):
    torch.set_default_dtype(torch.float64)
    return toys.anatomy(model)


def talking(model):
    print(type(model))  # noqa: T201 - what this anatomy is there for
    return toys.anatomy(model)


def in_turn(model):
    _left.append(None)
    right = toys.anatomy(model)
    return replace(right, pool=Chain("pool", flatten)) if len(_left) % 2 else right


def keeping_tensors(model):
    _left.append(torch.zeros(100))
    return toys.anatomy(model)


def keeping_models(model):
    _left.append(model)
    return toys.anatomy(model)


def leaving_a_thread(model):
    waiting()
    return toys.anatomy(model)


def _build(says, function):
    return Mutant("builds", says, card={"build": f"support.side_effects:{function.__name__}"})


MUTANTS = {
    "build that sets the default dtype": _build(
        "building it changes the default dtype for the whole process", with_default_dtype
    ),
    "build that sets the number of threads": _build("changes the number of threads", with_threads),
    "build that switches gradients off": _build("changes whether gradients are recorded", without_gradients),
    "build that sets warning filters": _build("changes the warning filters", with_warnings_off),
    "build that patches torch": _build("changes torch.nn.Linear for the whole process", with_torch_patched),
    "build that hooks every module": _build("changes the hooks of all modules", with_hooks_of_all),
    "build that makes algorithms deterministic": _build(
        "changes whether algorithms are deterministic", with_deterministic_algorithms
    ),
    "build that looks for anomalies": _build("changes whether autograd looks for anomalies", with_anomalies),
    "build that sets a variable": _build("changes the environment variables", with_a_variable),
    "build that goes to another folder": _build("changes the current folder", in_another_folder),
    "build that collects no garbage": _build("whether Python collects garbage", without_garbage_collection),
    "build that reads any image": _build("the most pixels that Pillow reads", with_any_image),
    "build that cannot be ended": _build("changes what SIGTERM does", that_cannot_be_ended),
    "build that silences numpy": _build("changes how numpy handles errors", with_silent_numpy),
    "build that looks for modules elsewhere": _build("changes sys.path", with_a_path),
    "build that switches logging off": _build("changes the logging of all libraries", with_logging_off),
    "build of another model each second time": _build("returns another model the second time: layer2.3", in_two_forms),
    "build that leaves a thread": _build("changes the threads that run: it leaves acme", with_a_thread),
    "build that seeds torch": _build("building it seeds torch", with_a_seed),
    "build that seeds Python": _build("building it seeds Python's random", with_pythons_seed),
    "build that keeps each model": _build("a model that it built stays in memory after its last use", in_a_list),
    "build in eval mode": _build("returns a model in eval mode", in_eval_mode),
    "build partly in eval mode": _build("returns a model of which layer1, layer1.0", partly_in_eval_mode),
    "build that is partly frozen": _build("its constructor freezes every parameter of stage layer1", partly_frozen),
    "build with a buffer of all models": _build("shares bn1.running_mean with the one before", with_a_shared_buffer),
    "build in another dtype": _build("with one batch of torch.float32", in_float64),
    "build that returns a model and more": _build("returns a tuple, and no torch.nn.Module", with_its_transforms),
    "build that prints": _build("building it prints 'Building a toy ...'", with_a_message),
    "build that writes a log": _build("building it leaves toy.log in the current folder", with_a_log),
    "build that writes with C++": _build("building it leaves toy.pth in the current folder", with_a_checkpoint),
    "build that changes the umask": _build("changes the permissions of new files, os.umask", with_files_for_itself),
    "build that replaces stdout": _build("puts something else in the place of sys.stdout", with_its_stdout),
    "build that replaces stderr": _build("changes sys.stderr for the whole process", with_its_stderr),
    "build that writes into the home": _build("acme.json", with_a_file_at_home),
    "build that makes a folder in the home": _build("/acme", with_a_folder_at_home),
    "build that leaves a temporary file": _build("in the folder for temporary files", with_a_temporary_file),
    "build that writes a temporary file with C++": _build("acme.pth", with_a_temporary_checkpoint),
    "build that runs a program": _build("building it runs python", with_a_program),
    "build that patches an activation": _build("changes torch.nn.ReLU.forward", with_a_patched_activation),
    "build that patches what a class inherits": _build("changes torch.nn.ReLU.__call__", with_a_patched_call),
    "build that patches print": _build("changes builtins.print", with_a_patched_print),
    "build that checks no certificates": _build("changes ssl._create_default_https_context", without_certificates),
    "build that reads broken images": _build("whether Pillow reads images that are cut off", with_broken_images),
    "build that takes small numbers for zeros": _build("whether the smallest numbers are zeros", with_fast_zeros),
    "build that registers with atexit": _build("what runs at the end of the process, atexit", with_a_last_word),
    "build that lets torch.load trust a class": _build("the classes that torch.load trusts", with_trust),
    "anatomy that prints": Mutant("builds", "asking for its anatomy prints", talking),
    "anatomy that zeroes a bias": Mutant("builds", "anatomy changes fc.bias", zeroing),
    "anatomy that replaces a bias": Mutant("builds", "anatomy changes fc.bias", replacing),
    "anatomy that leaves a hook": Mutant("builds", "anatomy changes the hooks of layer1", hooking),
    "anatomy that leaves an attribute": Mutant("builds", "anatomy changes the attribute seen", noting),
    "anatomy that adds a module": Mutant("builds", "anatomy changes the module extra", adding),
    "anatomy that leaves gradients": Mutant("builds", "anatomy changes the gradient of fc.weight", with_gradients),
    "anatomy that seeds": Mutant("builds", "anatomy draws random numbers, or seeds", seeding),
    "anatomy that draws": Mutant("builds", "anatomy draws random numbers, or seeds", drawing),
    "anatomy that sets the default dtype": Mutant("builds", "changes the default dtype", setting_dtype),
    "anatomy that is another one each second time": Mutant("builds", "twice gives two values of Anatomy.pool", in_turn),
    "anatomy that keeps tensors": Mutant("builds", "anatomy leaves 1 tensor in memory each time", keeping_tensors),
    "anatomy that keeps models": Mutant("builds", "stays in memory after its last use", keeping_models),
    "anatomy that leaves a thread": Mutant("builds", "changes the threads that run", leaving_a_thread),
}
