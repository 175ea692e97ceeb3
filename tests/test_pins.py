"""What faces strangers is at or beyond the version that mends its known advisories: as pinned, and in the range that pyproject.toml allows.

Looked up on 2026-11-27. Raise a line here with the next advisory.
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

REPOSITORY = Path(__file__).parents[1]
MENDED = {
    "starlette": "1.3.1",  # CVE-2026-54283 (a form's limits are ignored), -54282 (a path names another host), -48710 (so does Host)
    "python-multipart": "0.0.30",  # CVE-2026-53539, -42561 (headers of parts without end), -40347, -24486
    "pillow": "12.3.0",  # CVE-2026-54058 to -54060, -59197 to -59199 (decoders), -40192
    "urllib3": "2.7.0",  # CVE-2026-44431, -44432
    "gradio": "6.7.0",  # CVE-2026-28414 to -28416
}


@pytest.mark.parametrize("name,first", MENDED.items())
def test_no_pin_lies_before_the_version_that_mends_it(name, first):
    pins = dict(line.split("==") for line in (REPOSITORY / "constraints.txt").read_text().splitlines() if "==" in line)
    assert Version({key.lower(): value for key, value in pins.items()}[name]) >= Version(first)


@pytest.mark.parametrize("name", ["starlette", "python-multipart", "pillow", "gradio"])
def test_no_older_one_is_allowed(name):
    listed = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    asked = {found.name.lower(): found.specifier for found in map(Requirement, listed)}
    first = Version(MENDED[name])
    before = Version(f"{first.major}.{first.minor}.{first.micro - 1}" if first.micro else f"{first.major}.{first.minor - 1}.99")
    assert before not in asked[name] and first in asked[name] or name == "gradio" and before not in asked[name]
