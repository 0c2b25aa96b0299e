"""A missing tool: a skip at home, an error where tools are required; no test decides that for itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.needs import REQUIRE, lacking, missing, missing_of_all, need

TESTS = Path(__file__).resolve().parent
ABSENT = "no-such-program-of-jitvm"
CONFTEST = (TESTS / "conftest.py").read_text(encoding="utf-8")
MARKED = f"""
import pytest
from tests.needs import needs

@pytest.fixture
def costly():
    raise AssertionError("made before the tool was looked for")

@needs({ABSENT!r})
def test_marked(costly):
    pass

@needs("python3")
def test_there():
    pass
"""


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    assert missing("python3", tmp_path / "there") == []
    assert missing(ABSENT, "python3", tmp_path / "gone", tmp_path) == [ABSENT, str(tmp_path / "gone"), str(tmp_path)]


def test_a_missing_tool_skips_where_none_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REQUIRE, raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"needs {ABSENT}"):
        need("python3", ABSENT)
    with pytest.raises(pytest.skip.Exception, match="another version"):
        lacking("another version")


def test_a_missing_tool_is_an_error_where_all_are_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE, "1")
    need("python3")
    with pytest.raises(pytest.fail.Exception, match=f"needs {ABSENT}.*{REQUIRE}"):
        need("python3", ABSENT)
    with pytest.raises(pytest.fail.Exception, match="another version"):
        lacking("another version")


@pytest.mark.parametrize(
    ("required", "outcome"), [("", {"passed": 1, "skipped": 1}), ("1", {"passed": 1, "errors": 1})]
)
def test_the_mark_comes_before_fixtures(
    required: str, outcome: dict[str, int], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REQUIRE, required)
    monkeypatch.setattr("tests.needs.missing_of_all", list)
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\nmarkers =\n    needs: as in the project")
    pytester.makepyfile(MARKED)
    pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest").assert_outcomes(**outcome)


def test_a_session_does_not_start_without_what_is_required(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(REQUIRE, "1")
    monkeypatch.setenv("PATH", str(pytester.path))
    assert "gdb" in missing_of_all()
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("def test_nothing(): pass")
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    assert result.ret == 3
    result.stderr.fnmatch_lines([f"*{REQUIRE} is set and these are missing: gcc,*"])


def test_no_test_skips_by_itself() -> None:
    called = re.compile(r"\bpytest\.(skip|importorskip|mark\.skip|mark\.skipif)\b")
    mine = {path for path in TESTS.rglob("*.py") if called.search(path.read_text(encoding="utf-8"))}
    assert {path.name for path in mine - {Path(__file__).resolve()}} == {"needs.py"}
