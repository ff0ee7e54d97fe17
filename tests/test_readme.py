"""The README's own code runs, and its links and commands exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_composed_agent_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert re.fullmatch(r"slack -?\d+\.\d\d, feasible: (True|False)\n", printed)


def test_links_and_recipes_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    recipes = re.findall(r"python (recipes/\w+\.py)", README)
    assert links
    assert recipes
    for path in links + recipes:
        assert (ROOT / path).exists(), path


def test_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"^make (\w+)", README, flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
