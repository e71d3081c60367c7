"""The folder train: installed it is the package kits.train, in a checkout train."""

import ast
from pathlib import Path

import train

FILES = sorted(Path(train.__file__).parent.rglob("*.py"))


def test_training_imports_itself_relatively_so_that_it_runs_under_both_names() -> None:
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            assert not [name for name in names if name.split(".")[0] == "train"], file


def test_what_augmentation_draws_needs_nothing_of_the_rest() -> None:
    for file in FILES:
        if file.parent.name == "lesions":
            tree = ast.parse(file.read_text(encoding="utf-8"))
            assert all(node.level < 2 for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)), file
