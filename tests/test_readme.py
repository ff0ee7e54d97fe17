"""The README's code runs, and its links and commands exist; so do the links of docs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES += [*ROOT.glob("docs/*.md"), ROOT / "docs" / "studies" / "README.md"]
COMPOSED, TRAINED = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def run(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {})


def test_the_composed_agent_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run(COMPOSED)
    printed = capsys.readouterr().out
    assert re.fullmatch(r"slack -?\d+\.\d\d, feasible: (True|False)\n", printed)


def test_the_trained_agent_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(TRAINED)
    printed = capsys.readouterr().out
    assert re.search(r"^\d+ policy violations, see \S*runs/cvar_stein$", printed, re.MULTILINE)
    assert (tmp_path / "runs" / "cvar_stein" / "summary.json").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    text = page.read_text()
    scripts = re.findall(r"python ((?:recipes|benchmarks)/[\w/]+\.py)", text)
    assert not [script for script in scripts if not (ROOT / script).is_file()]
    for module in re.findall(r"python -m ((?:recipes|blocks)[\w.]+)", text):
        file = ROOT / module.replace(".", "/")
        assert (file / "__main__.py").is_file() or file.with_suffix(".py").is_file(), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
