"""Text for people: tables, pages, numbers, close matches; and foreign text without control characters or secrets."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# A path that was made of a URL has one slash after its scheme, and one without a scheme begins with two.
_USER = re.compile(r"(?:(?<=//)|(?<=\w\w:/))[^\s/?#'\"<>]*@")
_PIP = re.compile(r"(?<!uv )pip install (?:-\w+ )?(?:'[^']*'|[^\s,;']+)")
_QUERY = re.compile(r"((?:\w:/|\w\w:)/[^\s?#'\"<>()]+)[?#][^\s'\"<>()]*?(?=[:.,;]*(?:[\s'\"<>()]|$))")


def visible(text: str) -> str:
    r"""``text`` with control characters, which a terminal would obey, written as escapes; lines and tabs stay.

    Example:
        >>> print(visible("net\x1b]0;owned\x07"))
        net\x1b]0;owned\x07
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode("ascii"), text)


def table(rows: Sequence[Sequence[str]], *, columns: int | None = None, figures: range = range(0)) -> Iterator[str]:
    r"""Rows of words as lines of text, the first row their header.

    Args:
        rows: With as many cells each.
        columns: How wide lines may be. A first cell that is too long then has a line to itself, so that it can be
            copied, and last cells that do not fit are on a line below.
        figures: Which cells are numbers, set to the right.

    Example:
        >>> rows = [("model", "size", "licence"), ("net", "224", "mit"), ("a/very/long/name", "32", "mit")]
        >>> print(*table(rows, columns=20, figures=range(1, 2)), sep="\n")
        model  size  licence
        net     224  mit
        a/very/long/name
                 32  mit
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    count = len(widths)
    if columns is not None:
        least = max(len(rows[0][0]), min(widths[0], columns // 4))
        while count > 1 and least + sum(widths[1:count]) + 2 * (count - 1) > columns:
            count -= 1
        widths[0] = max(min(widths[0], columns - sum(widths[1:count]) - 2 * (count - 1)), least)
    for row in rows:
        first = row[0]
        if len(first) > widths[0]:
            yield visible(first)
            first = ""
        cells = [
            cell.rjust(width) if i in figures else cell.ljust(width)
            for i, (cell, width) in enumerate(zip([first, *row[1:count]], widths, strict=False))
        ]
        yield visible("  ".join(cells).rstrip())
        if any(row[count:]):
            yield visible(f"    {'  '.join(cell for cell in row[count:] if cell)}")


def redacted(text: str) -> str:
    """A text for people without the secrets in its URLs: neither what is before ``@``, nor queries and fragments.

    Example:
        >>> redacted("cannot reach https://me:secret@example.org/net.pth?token=abc: refused")
        'cannot reach https://example.org/net.pth: refused'
    """
    return _QUERY.sub(r"\1", _USER.sub("", text)) if "//" in text or ":/" in text else text


def presentable(value: object) -> object:
    """A value whose texts are for people, without secrets: in tuples, lists and dicts too; anything else as it is."""
    if type(value) is str:
        return redacted(value)
    if type(value) is tuple:
        return tuple(presentable(each) for each in value)
    if type(value) is list:
        return [presentable(each) for each in value]
    if type(value) is dict:
        return {presentable(key): presentable(each) for key, each in value.items()}
    return value


def html_table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], note: str = "") -> str:
    """A table as HTML text for a notebook; what names and notes contain is shown, and never read as HTML.

    Example:
        >>> html_table("models", ("name",), [("<b>",)])
        '<table><caption>models</caption><tr><th>name</th></tr><tr><td>&lt;b&gt;</td></tr></table>'
    """
    from html import escape

    def line(tag: str, cells: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(visible(cell))}</{tag}>' for cell in cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    after = f"<p>{escape(visible(note))}</p>" if note else ""
    return f"<table><caption>{escape(visible(caption))}</caption>{line('th', header)}{body}</table>{after}"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem }}
main {{ overflow-x: auto }} table {{ border-collapse: collapse }} caption {{ text-align: left; padding: .5rem 0 }}
td, th {{ padding: .25rem .75rem; text-align: left; border-bottom: 1px solid #8885; white-space: nowrap }}
</style></head>
<body><main tabindex="0"><h1>{title}</h1>
{body}
</main></body></html>
"""


def html_page(title: str, body: str) -> str:
    """Text for people as an HTML page that needs no other file, for light and dark mode and for phones.

    Args:
        title: Shown as the heading.
        body: HTML, which is not escaped.

    Example:
        >>> html_page("net", "<p>two layers</p>").count("<p>two layers</p>")
        1
    """
    from html import escape

    return _PAGE.format(title=escape(visible(title)), body=body)


def close_matches(name: str, known: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """The known names most like ``name``, best first; compared without regard to case.

    Example:
        >>> close_matches("resnet19", ["resnet18", "vgg16"])
        ('resnet18',)
    """
    import difflib

    by_lower = {item.lower(): item for item in known}
    result = difflib.get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.5)
    return tuple(by_lower[item] for item in result)


def did_you_mean(matches: tuple[str, ...], otherwise: str) -> str:
    """The text of a next step: the close matches if there are any, or else ``otherwise``."""
    return f"did you mean {' or '.join(repr(match) for match in matches)}?" if matches else otherwise


def first_few(texts: Sequence[str], most: int = 5) -> str:
    """The first few of some texts, such as names, and how many more there are.

    Example:
        >>> first_few(["conv1.weight", "bn1.weight", "bn1.bias"], 2)
        'conv1.weight, bn1.weight, and 1 more'
    """
    rest = len(texts) - most
    return ", ".join(texts[:most]) + (f", and {rest} more" if rest > 0 else "")


def with_uv_for_pip(text: str) -> str:
    """``text`` with its ``pip install`` commands as this environment takes them: by uv, where it has no pip.

    An environment that uv made has none, and the pip that a shell then finds installs into another one.

    Example:
        >>> with_uv_for_pip("zoo list names every model there is")
        'zoo list names every model there is'
    """
    if "pip install" not in text or _has_pip():
        return text
    import shlex
    from pathlib import Path

    prefix, here = Path(sys.prefix), Path.cwd()
    python = shlex.quote(str(prefix.relative_to(here) if prefix.is_relative_to(here) else prefix))
    return _PIP.sub(lambda command: f"uv {command[0]} --python {python}", text)


def _has_pip() -> bool:
    """Whether this environment has pip, so that a text may advise it."""
    # looking for the module would set off the import hook of setuptools
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("pip")
    except PackageNotFoundError:
        return False
    return True


def in_three_digits(number: float) -> str:
    """A number as text for people, without an exponent where it is not tiny.

    Example:
        >>> in_three_digits(1234.5), in_three_digits(0.01234), in_three_digits(2.0)
        ('1234', '0.0123', '2')
    """
    return f"{number:.0f}" if number >= 1000 else f"{number:.3g}"  # noqa: PLR2004 - from here on the decimals are noise


def human(size: int) -> str:
    """A number of bytes as text for people.

    Example:
        >>> human(46_830_571)
        '46.8 MB'
    """
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":  # noqa: PLR2004 - SI units
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def in_one_line(text: str) -> str:
    r"""A text of several lines, such as that of an error, in one line.

    Example:
        >>> in_one_line("cat.jpg: the file is damaged\n  next step: replace it")
        'cat.jpg: the file is damaged; next step: replace it'
    """
    return "; ".join(line.strip() for line in text.splitlines() if line.strip())
