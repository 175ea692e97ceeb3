"""Masks that trainers keep beside pictures. They are told by their names, never by what they show."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fusion.intake.names import last, plain, stem

FOLDERS = {"mask", "masks", "_mask", "_masks", "masklabel", "masklabels", "alpha_masks", "segmentation_masks"}
ENDING = re.compile(r"(.+?)[-_. ](?:masklabel|condlabel|masks?)")


def is_folder(name: str) -> bool:
    """Whether a folder is called as those of masks are."""
    return plain(name) in FOLDERS


def among(names: Sequence[str], there: Sequence[str] = ()) -> set[str]:
    """Names of masks: `a-masklabel.png` or `a_mask.png` beside `a.png`, and folders of masks beside other pictures."""
    stems = {plain(stem(name)) for name in (*names, *there)}
    found = {name for name in names if (mark := ENDING.fullmatch(plain(stem(name)))) and mark[1] in stems}
    inside = {name for name in names if any(is_folder(part) for part in name.split("/")[:-1])}
    others = {plain(stem(last(name))) for name in (*names, *there) if name not in inside}
    return found | {name for name in inside if _bare(name) in others}


def _bare(name: str) -> str:
    """The stem of the picture that a mask in a folder of masks belongs to."""
    own = plain(stem(last(name)))
    mark = ENDING.fullmatch(own)
    return mark[1] if mark else own
