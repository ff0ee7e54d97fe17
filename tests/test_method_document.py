"""Every file and test that docs/method.md names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "method.md").read_text()


def test_every_test_it_names_exists() -> None:
    sources = "".join(file.read_text() for file in ROOT.glob("tests/**/test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert len(named) > 20
    assert not {name for name in named if f"def {name}(" not in sources}


def test_every_file_it_names_exists() -> None:
    files = set(re.findall(r"`((?:blocks|recipes|tests)/[\w/]+\.py)", TEXT))
    assert len(files) > 15
    assert not {file for file in files if not (ROOT / file).is_file()}
