"""The arrows of DESIGN: which room may import which, where `backward()` stands, and that `import mm` is light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1] / "mm"
GROUND = {
    *("features", "signal", "media", "video", "sound_files", "detection", "vocabulary"),
    *("config", "distributed", "files", "modes", "naming", "checks"),
}
MAY_IMPORT = {
    **{name: set[str]() for name in GROUND},
    "media": {"signal", "files"},
    "sound_files": {"media"},
    "detection": {"media"},
    "video": {"media", "signal", "detection", "files", "naming"},
    "checks": {"config"},
    "vocabulary": {"files"},
    **dict.fromkeys(("encoders", "heads", "losses", "metrics", "data", "engine", "index"), GROUND),
    "explain": GROUND | {"index"},
    "tasks": GROUND | {"encoders", "heads", "losses", "metrics", "data"},
    "app": GROUND | {"encoders", "heads", "losses", "metrics", "data", "engine", "index", "explain", "tasks"},
}
FILES = sorted(HOUSE.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(HOUSE).with_suffix("").parts[0]


def task(name: str) -> str:
    """retrieval, retrieval_data and retrieval_scores are one task."""
    return name.split("_")[0]


def imported_modules(file: Path) -> Iterator[str]:
    """Absolute dotted names of everything of ours that a file imports, at any depth of nesting."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: write the import in full, from mm."
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HOUSE)))
def test_arrows_point_one_way(file: Path) -> None:
    room = room_of(file)
    for module in imported_modules(file):
        if not module.startswith("mm."):
            continue
        other = module.split(".")[1]
        same_room = other == room and (room != "tasks" or task(file.stem) == task(module.split(".")[2]))
        allowed = same_room or module == "mm.__version__" or other in MAY_IMPORT.get(room, set())
        assert allowed, f"{file.relative_to(HOUSE.parent)} imports {module}: {room} may not enter {other}."


def test_backward_stands_in_one_file() -> None:
    calls = [
        file
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "backward"
    ]
    assert [file.relative_to(HOUSE).as_posix() for file in calls] == ["engine/loop.py"]


def test_only_config_imports_omegaconf() -> None:
    users = {file.name for file in FILES for module in imported_modules(file) if module.startswith("omegaconf")}
    assert users == {"config.py"}


def test_files_are_short() -> None:
    lengths = {str(file.relative_to(HOUSE)): len(file.read_text().splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


@pytest.mark.parametrize("module", ["mm", "mm.config"])
def test_import_is_light(module: str) -> None:
    code = f"import {module}, sys; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_index_imports_torch_before_faiss() -> None:
    code = "import sys, mm.index; names = list(sys.modules); print(names.index('torch') < names.index('faiss'))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "True"
