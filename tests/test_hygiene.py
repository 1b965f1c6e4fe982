"""What must not be in the code: unsafe loading, silent failures, promises, and large files."""

import ast
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = sorted([*(ROOT / "mm").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")])
LARGEST_BYTES = 100_000
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", "", ".json", ".sh", ".cfg"}
LIBRARY = [file for file in CODE if file.is_relative_to(ROOT / "mm")]
every_file = pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(ROOT)))


def nodes(file: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def called(node: ast.Call) -> str:
    """Dotted name of what is called, such as torch.load."""
    return ast.unparse(node.func)


@every_file
def test_nothing_is_pickled(file: Path) -> None:
    for node in nodes(file):
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & {"pickle", "dill", "joblib", "shelve"}
        elif isinstance(node, ast.ImportFrom):
            assert str(node.module).partition(".")[0] not in {"pickle", "dill", "joblib", "shelve"}
        elif isinstance(node, ast.Call):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert options.get("allow_pickle", "False") == "False", f"{file}:{node.lineno}"
            if called(node).endswith("torch.load"):
                assert options.get("weights_only") == "True", (
                    f"{file}:{node.lineno}: torch.load needs weights_only=True"
                )
            assert called(node) not in ("torch.save", "eval", "exec", "os.system"), f"{file}:{node.lineno}"


@every_file
def test_no_error_is_swallowed(file: Path) -> None:
    for node in nodes(file):
        if isinstance(node, ast.ExceptHandler):
            where = f"{file}:{node.lineno}"
            assert node.type is not None, f"{where}: a bare except"
            passes = all(isinstance(step, ast.Pass) for step in node.body)
            assert not (passes and ast.unparse(node.type) in ("Exception", "BaseException")), where


@every_file
def test_no_promises(file: Path) -> None:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        for word in ("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"):
            assert word not in line, f"{file}:{number}: do it, or write an issue"


@pytest.mark.parametrize("file", LIBRARY, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_library_does_not_print(file: Path) -> None:
    prints = [node.lineno for node in nodes(file) if isinstance(node, ast.Call) and called(node) == "print"]
    assert prints == [], f"{file}: use logging.getLogger(__name__)"


def tracked() -> list[Path]:
    """The files of the repository, also those that are about to be added."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_large_files() -> None:
    large = {str(file.relative_to(ROOT)): file.stat().st_size for file in tracked()}
    assert {name: size for name, size in large.items() if size > LARGEST_BYTES} == {}


def test_no_paths_of_one_machine() -> None:
    places = [f"/{place}/" for place in ("work", "root", "home/" + "user", "Users")]
    for file in tracked():
        if file.suffix in TEXT and file != Path(__file__):
            text = file.read_text(encoding="utf-8")
            assert not [place for place in places if place in text], file
