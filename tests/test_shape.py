"""The shape of the code: sizes and names that the house rules promise."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted([*ROOT.glob("backupd/**/*.py"), *ROOT.glob("cli/**/*.py")])


def test_modules_stay_small() -> None:
    """No module is longer than 500 lines."""
    assert {str(m): n for m in MODULES if (n := len(m.read_text().splitlines())) > 500} == {}


def test_functions_stay_small() -> None:
    """No function is longer than 60 lines without its docstring."""
    long = []
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.FunctionDef):
                doc = ast.get_docstring(node, clean=False)
                lines = (node.end_lineno or 0) - node.lineno - (len(doc.splitlines()) if doc else 0)
                if lines > 60:
                    long.append(f"{module.name}:{node.name} {lines}")
    assert long == []


def test_names_say_something() -> None:
    """No module or package is called utils, helpers, common, misc or manager."""
    empty = {"util", "utils", "helper", "helpers", "common", "misc", "manager"}
    assert [str(m) for m in MODULES if empty & {m.stem, m.parent.name}] == []


def test_top_level_holds_only_the_known_folders() -> None:
    """Only backupd, cli, policies, deploy and tests stand at the top."""
    folders = {
        p.name
        for p in ROOT.iterdir()
        if p.is_dir() and not p.name.startswith(".") and p.name not in {"backupd-demo", "build", "dist"}
    }
    assert folders <= {"backupd", "cli", "policies", "deploy", "tests"}
