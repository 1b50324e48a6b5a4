"""Every error zoo raises, in one tree.

Each also *is* the builtin a caller would expect, so ``except KeyError`` around a look-up still works::

    ZooError
    ├── UsageError (ValueError)              the call cannot be done as it is written; the CLI exits with 2
    │   ├── UnknownArgument (TypeError)      a keyword that the function does not take
    │   ├── UnknownModel (KeyError)          no installed family has that name
    │   ├── UnknownFamily (KeyError)         no plugin contributes that family
    │   ├── UnknownTag (KeyError)            the model has no weights with that tag
    │   ├── UnknownPart (KeyError)           no stage, module or parameter of the model has that name
    │   ├── HeadMismatch                     a head that does not fit its site
    │   ├── NotSupported                     this model cannot do that; the message says which can
    │   └── NotAZooModel (TypeError)         a module that zoo knows nothing about
    ├── PluginError                          a plugin did something wrong
    │   ├── DuplicatePlugin                  two distributions claim one plugin or family name
    │   ├── FamilyUnavailable (ImportError)  the family is known, but its library or plugin does not load
    │   ├── CatalogError (ValueError)        a catalogue record is malformed
    │   └── AnatomyError (ValueError)        an anatomy that does not fit the model it describes
    ├── ImageError (ValueError)              an image cannot be read, or is none
    └── WeightsError (OSError)               the weights could not be had, trusted or used
        ├── FetchError (ConnectionError)     every source failed
        ├── Offline                          ZOO_OFFLINE is set and the file is not in the cache
        ├── DigestMismatch (ValueError)      the bytes are not the ones that were promised
        ├── Untrusted                        nothing says what the bytes should be
        ├── LicenseRefused (PermissionError) a licence is not among those that were accepted
        ├── LockError (ValueError)           zoo.lock is malformed, or is not what it should be
        ├── Unreadable (ValueError)          the file is not a state dict that can be read safely
        ├── LoadMismatch (ValueError)        tensors missing, unexpected or of another shape
        └── CacheError                       the cache folder cannot be used

A message has up to six lines: what happened, what was expected, what was got, what was done about it, the likely
cause, and the next step. Its values are attributes, for programs.
"""

from __future__ import annotations

from pathlib import Path

from zoo_core.text import presentable, redacted, visible, with_uv_for_pip


class ZooError(Exception):
    """The base of every error that zoo raises on purpose.

    Args:
        summary: What happened, in one line without a full stop.
        expected: What would have been right.
        got: What was there instead.
        done: What zoo did about it, such as what it removed or retried.
        cause: The likely cause.
        hint: The next step to take.
        **values: Kept as attributes, so that a program need not read the text.

    Example:
        >>> print(ZooError("no such model: 'resnet19'", hint="did you mean 'resnet18'?", name="resnet19"))
        no such model: 'resnet19'
          next step: did you mean 'resnet18'?
    """

    def __init__(
        self,
        summary: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        done: str | None = None,
        cause: str | None = None,
        hint: str | None = None,
        **values: object,
    ) -> None:
        hint = with_uv_for_pip(hint) if hint else hint
        lines = {"expected": expected, "got": got, "done": done, "likely cause": cause, "next step": hint}
        parts = {"expected": expected, "got": got, "done": done, "cause": cause, "hint": hint}
        self.parts = {name: visible(redacted(text)) if text else text for name, text in parts.items()}
        self.summary = visible(redacted(summary))
        whole = "\n".join([summary, *(f"  {label}: {text}" for label, text in lines.items() if text)])
        self.message = visible(redacted(whole))
        super().__init__(self.message)
        for name, value in values.items():
            setattr(self, name, presentable(value))

    def __str__(self) -> str:
        # KeyError would print the repr of its argument, and OSError would look for an errno.
        return self.message


class UsageError(ZooError, ValueError):
    """Raised where a call cannot be done as it is written."""


class UnknownArgument(UsageError, TypeError):
    """Raised for a keyword that the function does not take. Attributes: ``argument``, ``matches``."""


class UnknownModel(UsageError, KeyError):
    """Raised where no installed family has a model of that name. Attributes: ``name``, ``matches``."""


class UnknownFamily(UsageError, KeyError):
    """Raised where no plugin contributes that family. Attributes: ``family``, ``matches``."""


class UnknownTag(UsageError, KeyError):
    """Raised where the model has no weights with that tag. Attributes: ``tag``, ``tags``."""


class UnknownPart(UsageError, KeyError):
    """Raised where no stage, module or parameter of the model has that name. Attributes: ``part``, ``parts``."""


class HeadMismatch(UsageError):
    """Raised where a head does not fit its site. Attributes: ``path``, ``in_features``."""


class NotSupported(UsageError):
    """Raised where this model cannot do that; the message says why, and which can."""


class NotAZooModel(UsageError, TypeError):
    """Raised for a module that zoo knows nothing about."""


class PluginError(ZooError):
    """Raised where a plugin did something wrong. Attributes: ``plugin``."""


class DuplicatePlugin(PluginError):
    """Raised where two distributions claim one plugin or family name. Attributes: ``name``, ``claimants``."""


class FamilyUnavailable(PluginError, ImportError):
    """Raised for a known family whose library or plugin does not load. Attributes: ``family``."""


class CatalogError(PluginError, ValueError):
    """Raised where a catalogue record is malformed. Attributes: ``file``, ``line``."""


class AnatomyError(PluginError, ValueError):
    """Raised where an anatomy does not fit the model it describes.

    Example:
        >>> raise AnatomyError("Linear is not a model of acme", hint="write an Anatomy for it")
        Traceback (most recent call last):
        ...
        zoo_core.errors.AnatomyError: Linear is not a model of acme
          next step: write an Anatomy for it
    """


class ImageError(ZooError, ValueError):
    """Raised where an image cannot be read, or is none. Attributes: ``name``."""


class WeightsError(ZooError, OSError):
    """Raised where weights could not be had, trusted or used."""


class FetchError(WeightsError, ConnectionError):
    """Raised where every source failed. Attributes: ``attempts``, a tuple of ``(url, reason)``."""


class Offline(WeightsError):
    """Raised where ``ZOO_OFFLINE`` is set and the file is not in the cache."""


class DigestMismatch(WeightsError, ValueError):
    """Raised where bytes are not those promised. Attributes: ``expected_digest``, ``got_digest``, ``source``."""


class Untrusted(WeightsError):
    """Raised where nothing says what the bytes should be."""


class LicenseRefused(WeightsError, PermissionError):
    """Raised where a licence is not among those that were accepted. Attributes: ``licenses``, ``refused``."""


class LockError(WeightsError, ValueError):
    """Raised where ``zoo.lock`` is malformed, or is not what it should be. Attributes: ``file``, ``line``."""


class Unreadable(WeightsError, ValueError):
    """Raised for a file that is not a state dict that can be read safely. Attributes: ``path``."""


class LoadMismatch(WeightsError, ValueError):
    """Raised where tensors do not fit when loaded. Attributes: ``missing``, ``unexpected``, ``misshaped``."""


class CacheError(WeightsError):
    """Raised where the cache folder cannot be used. Attributes: ``path``."""


class ZooWarning(UserWarning):
    """A warning of something that zoo worked around, and that its user should know.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("error", ZooWarning)
        ...     warnings.warn("family 'acme' is passed over", ZooWarning)
        Traceback (most recent call last):
        ...
        zoo_core.errors.ZooWarning: family 'acme' is passed over
    """

    def __str__(self) -> str:
        return visible(redacted(super().__str__()))


def raised_in(error: BaseException) -> str:
    """Where an error, zoo's or not, was raised: file, line, text of the last line neither torch's nor zoo's, or empty.

    Args:
        error: That was raised by other code than zoo_core, such as a plugin.

    Example:
        >>> raised_in(ValueError("never raised"))
        ''
    """
    import traceback

    ours = str(Path(__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((ours, "<")) and "torch" not in Path(frame.filename).parts
    ]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
