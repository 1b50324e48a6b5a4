"""Which kinds of models can be exported to which formats: tried on one model of each, and written down.

``python tests/support/exports.py`` tries those of ``kinds.txt`` that ``exports.tsv`` has no row for, the small ones
first, and writes the table of ``docs/EXPORT.md``. With names of models it tries these again.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import sys
import tempfile
from pathlib import Path

import torch

import zoo_core as zoo
from zoo_core.testing.under_test import example

FILE = Path(__file__).with_suffix(".tsv")
PAGE = Path(__file__).parents[2] / "docs" / "EXPORT.md"
FORMATS = ("pt2", "torchscript", "onnx", "openvino")
MOST = 140_000_000
"""Parameters of the largest model that is tried."""
FEWER_BLOCKS = {
    "timm/beit_base_patch16_224": {"depth": 2},
    "timm/davit_base_fl": {"depths": (1, 1, 1, 1)},
    "timm/deepseek_vit_412m": {"depth": 2},
    "timm/deepseek_vit_412m_enc": {"depth": 2},
    "timm/focalnet_huge_fl4": {
        "focal_levels": (4, 4, 4, 4),
        "layerscale_value": 1e-4,
        "use_overlap_down": True,
        "use_post_norm": True,
        "use_post_norm_in_modulation": True,
    },
    "timm/gemma4_vit_167m": {"depth": 2, "position_embedding_size": 256},  # a matrix of images times positions
    "timm/gemma4_vit_167m_enc": {"depth": 2, "position_embedding_size": 256},
    "timm/mobilenetv5_300m": {"channel_multiplier": 0.25},
    "timm/mobilenetv5_base": {"channel_multiplier": 0.25},
    "timm/mobilenetv5_300m_enc": {"channel_multiplier": 0.25},
    "timm/naflexvit_base_patch16_parfac_gap": {"depth": 2},
    "timm/naflexvit_base_patch16_siglip": {"depth": 2},
    "timm/qwen3_vit_88m": {"depth": 2},
    "timm/qwen3_vit_88m_enc": {"depth": 2},
    "timm/samvit_base_patch16": {"depth": 2, "global_attn_indexes": (1,)},
    "timm/samvit_base_patch16_224": {"depth": 2},
    "timm/vit_small_patch8_224": {"depth": 2},
}
"""Options of kinds whose smallest model is large: as many blocks, or as wide, as show what each of them does."""
NARROWER = {"timm/focalnet_huge_fl4": "timm/focalnet_tiny_srf"}
"""The model that is the same one with these options, where a kind's own builder takes no other depth or width."""
SMALLER_CLIPS = {"torchvision/mvit_v2_s": ({"temporal_size": 2, "spatial_size": (16, 16)}, (4, 64, 64))}
"""What an MViT keeps of the clips it is built for, set by hand, since its builder takes no size; and such clips."""
MOST_FRAMES = 16
FIELDS = ("model", "format", "verdict", "difference", "reason")
REFUSED_TASKS = ("detection", "keypoints", "optical_flow")
WORKS, REFUSED = "works", "refused"
_BEGIN, _END = "<!-- written by tests/support/exports.py -->", "<!-- end -->"


def tried(name, formats=FORMATS):
    """A row for each format: whether it works, the difference as a share of the largest output, or why not."""
    card = zoo.info(name)
    model = zoo.get(NARROWER.get(name, name), weights=None, seed=0, options=FEWER_BLOCKS.get(name))
    x = example(card)
    x = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) if x.is_meta else x  # of a card of 400M
    x = x if _frames(x) is None else x[:, :, : _frames(x)]
    if name in SMALLER_CLIPS:
        kept, (frames, *size) = SMALLER_CLIPS[name]
        vars(model.pos_encoding).update(kept)
        x = x[:, :, :frames, : size[0], : size[1]]
    alive = card.task in REFUSED_TASKS or _let_images_through(model, x)
    for to in formats:
        with tempfile.TemporaryDirectory() as folder:
            try:
                target = Path(folder, "model.xml" if to == "openvino" else "model")
                result = zoo.export(model, target, to=to, size=tuple(x.shape[-2:]), frames=_frames(x))
                verdict, difference = WORKS, f"{result.difference / result.largest:.0e}".replace("0e+00", "0")
                reason = "" if alive else "outputs hardly depend on the image"
            except zoo.ZooError as error:
                verdict, difference = REFUSED, ""
                reason = " ".join((error.parts.get("cause") or error.summary).split())[:160]
        yield dict(zip(FIELDS, (name, to, verdict, difference, reason), strict=True))
        gc.collect()


def _frames(x):
    """How many frames a clip is tried with, None for images: 128 of them, as S3D takes, cost minutes a format."""
    return min(x.shape[2], MOST_FRAMES) if x.ndim == 5 else None


@torch.no_grad()
def _let_images_through(model, x):
    """Whether outputs differ from image to image, after noise on every parameter and a batch for its batch norms.

    A scale of zeros hides what it multiplies, and the signal of an untrained GoogLeNet dies on its way to the head.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator).to(parameter))
    norms = [each for each in model.modules() if isinstance(each, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches, of which there is one
    if norms:
        with contextlib.suppress(ValueError):  # a norm over one value of a channel, in a batch of such small images
            model.train()(x)
    scores = zoo.anatomy(model.eval()).scores_in(model(x))
    scores = next(iter(scores.values())) if isinstance(scores, dict) else scores
    return bool((scores[0] - scores[1]).abs().max() > 1e-3 * scores.abs().max())


def rows():
    """What was written down."""
    with FILE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def write(found):
    """Write the rows down, in the order of ``kinds.txt``."""
    from support.kinds import of_each_kind

    order = {name: i for i, name in enumerate(of_each_kind())}
    found = sorted(found, key=lambda row: (order.get(row["model"], len(order)), FORMATS.index(row["format"])))
    with FILE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


def page(text, found):
    """The page with the table of these rows in it."""
    before, _, rest = text.partition(_BEGIN)
    return f"{before}{_BEGIN}\n{_table(found)}\n{_END}{rest.partition(_END)[2]}"


def _table(found):
    cells = {(row["model"], row["format"]): row for row in found}
    lines = ["| model | " + " | ".join(FORMATS) + " |", "|---" * (len(FORMATS) + 1) + "|"]
    reasons = {}
    for name in dict.fromkeys(row["model"] for row in found):
        each = (_cell(cells.get((name, to)), reasons) for to in FORMATS)
        smaller = FEWER_BLOCKS.get(name) or SMALLER_CLIPS.get(name, ({},))[0]
        options = ", ".join(f"{key}={value}" for key, value in smaller.items())
        built = f"{name} as {NARROWER[name]}" if name in NARROWER else name
        lines.append(f"| {built}{f', {options}' if options else ''} | " + " | ".join(each) + " |")
    return "\n".join([*lines, "", *(f"{number}. {reason}" for reason, number in reasons.items())])


def _cell(row, reasons):
    if row is None:
        return "-"
    if row["verdict"] == WORKS and not row["reason"]:
        return row["difference"]
    number = reasons.setdefault(row["reason"].replace("|", "/").replace("<", "&lt;"), len(reasons) + 1)
    return f"{row['difference'] or REFUSED} ({number})"


def main(names):
    from support.kinds import of_each_kind

    found = rows() if FILE.exists() else []
    there = {(row["model"], row["format"]) for row in found}
    size = {name: zoo.info(name).parameters or 0 for name in of_each_kind()}
    for name in names or sorted(size, key=size.get):
        formats = [to for to in FORMATS if names or (name, to) not in there]
        if not names and size[name] > MOST and name not in FEWER_BLOCKS:
            continue
        try:
            for row in tried(name, formats):
                found = [each for each in found if (each["model"], each["format"]) != (name, row["format"])] + [row]
                sys.stderr.write(" ".join(row.values()) + "\n")
                write(found)
        except Exception as error:  # noqa: BLE001 - the next model is tried
            sys.stderr.write(f"{name}: {type(error).__name__}: {str(error)[:200]}\n")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(sys.argv[1:])
