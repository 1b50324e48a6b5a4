"""What a plugin contributes, as frozen data: a family, and where its catalogue and its anatomy are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """The models of one library, as contributed by one plugin.

    Attributes:
        name: What the family is called, as in ``family/name``.
        catalog: ``"package.module:function"`` that takes nothing and returns the cards. Importing that module must not
            import torch.
        anatomy: ``"package.module:function"`` that takes a built model and returns its :class:`~zoo_core.Anatomy`, or
            raises :class:`~zoo_core.AnatomyError` for a model of another library; None has it traced, as
            :func:`zoo_core.adopt` does, on images of the card's ``input_size``.
        requires: The distribution that the models come from, as pip spells it; ``""`` when the plugin holds them.
        index: ``"package.module:function"`` that takes nothing and returns the cards of the version of the library that
            is installed. It is called once, in a process of its own, where that is not the version in ``indexed``.
        indexed: ``"package.module:function"`` that takes nothing and returns the version of the library that
            ``catalog`` is of.
        tested: The versions of that distribution which the plugin was tested with, as pip spells them, such as
            ``">=1.0.20,<1.1"``. ``zoo plugins`` notes another one; it is used all the same.
        image_size: The constructor's option that says for which images position tables are made, such as
            ``"img_size"``; ``""`` when there is none. A file of other tables is built with what it needs.
        signatures: ``"package:file"`` of what the state dicts of its models look like, as ``zoo plugin signatures``
            writes it; ``zoo inspect`` recognizes by it which model a file is of.
        costs: ``"package:file"`` of what an image costs each model, as ``zoo plugin costs`` writes it; ``zoo list`` and
            ``zoo compare`` show it.
        parts: ``"package:file"`` of the heads and stages of its models, as ``zoo plugin parts`` writes it;
            ``zoo browse`` shows them.
        figures: Where the figures in ``Weights.metrics`` were published, such as an address; ``zoo info`` says so.
        exceptions: ``"package.module:mapping"`` of the expected failures, for the conformance kit: ``"check:model"``
            globs to the reasons.
        plain_options: Names of the constructor's arguments that a saved folder may set to a number, a boolean, None or
            a short word, such as ``("drop_rate", "img_size")``: those that say what the architecture is, and can make
            the library neither fetch nor open anything. ``zoo.load`` refuses others, unless the card has them.

    Example:
        >>> Family(name="acme", requires="acme-models", catalog="zoo_acme:cards", anatomy="zoo_acme:anatomy").name
        'acme'
    """

    name: str
    catalog: str
    anatomy: str | None = None
    requires: str = ""
    index: str = ""
    indexed: str = ""
    tested: str = ""
    image_size: str = ""
    signatures: str = ""
    costs: str = ""
    parts: str = ""
    figures: str = ""
    exceptions: str = ""
    plain_options: tuple[str, ...] = ()
