"""Which code of the package a script uses, and one short hash of what that code does.

A workflow engine sees when a script changes, not when the package that the script imports does. A rule
that carries this fingerprint reruns when any module changes that its script can reach, and only then.
Comments, docstrings and layout do not count. Imports are read from the source, nothing is executed. A
constant text that is the dotted name of a module counts as an import, because tables of implementations
hold such names for ``importlib``; names that are put together from parts are not seen.
"""

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from avfusion.files import sha256

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")  # a dotted name


@dataclass(frozen=True)
class Module:
    """One source file: the names that it imports or may import, and a hash of what it does."""

    imports: frozenset[str]
    texts: frozenset[str]
    digest: str


def fingerprint(script: str | Path, package: str | Path, sources: Mapping[str, Path] | None = None) -> str:
    """Hash of all code of `package` that `script` can reach, as 16 hexadecimal digits.

    Args:
        script: Python file; its own code is not part of the hash.
        package: folder of the package, such as ``src/avfusion``.
        sources: further folders by the module that they belong to, such as ``{"avfusion.ops": "csrc"}``;
            all files in them count once that module is reached.
    """
    package = Path(package)
    total = hashlib.sha256()
    for name, path in sorted(closure(script, package).items()):
        total.update(f"{name} {_read(path).digest}\n".encode())
        for file in _files((sources or {}).get(name)):
            total.update(f"{file.name} {sha256(file)}\n".encode())
    return total.hexdigest()[:16]


def closure(script: str | Path, package: str | Path) -> dict[str, Path]:
    """Modules of `package` that `script` reaches by imports, at any depth and inside functions too.

    Returns:
        File by dotted module name. The ``__init__`` of every enclosing package is among them, because
        importing a module runs it.
    """
    package = Path(package)
    found: dict[str, Path] = {}
    pending = list(_modules(_read(Path(script)).imports, package))
    while pending:
        name, path = pending.pop()
        if name not in found:
            found[name] = path
            pending.extend(_modules(_absolute(_read(path).imports, name, path) | _read(path).texts, package))
    return found


def third_party(script: str | Path, package: str | Path) -> set[str]:
    """Top-level names of everything outside `package` that `script` can come to import."""
    files = [Path(script), *closure(script, package).values()]
    names = {name.split(".")[0] for file in files for name in _read(file).imports if not name.startswith(".")}
    return names - {Path(package).name}


def _modules(imports: frozenset[str], package: Path) -> Iterator[tuple[str, Path]]:
    """Modules of the package among `imports`, with the packages around them. Names of functions fall out."""
    for name in imports:
        parts = name.split(".")
        if parts[0] != package.name:
            continue
        for depth in range(1, len(parts) + 1):
            base = package.joinpath(*parts[1:depth])
            for path in (base / "__init__.py", base.with_suffix(".py")):
                if path.is_file() and (depth > 1 or path.name == "__init__.py"):
                    yield ".".join(parts[:depth]), path
                    break


def _absolute(imports: frozenset[str], module: str, path: Path) -> frozenset[str]:
    """`imports` of a module with the leading dots of relative ones resolved."""
    around = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    names = set()
    for name in imports:
        level = len(name) - len(name.lstrip("."))
        base = around[: len(around) - level + 1] if level else []
        names.add(".".join(filter(None, [*base, name.lstrip(".")])))
    return frozenset(names)


@cache
def _read(path: Path) -> Module:
    tree = ast.parse(path.read_bytes(), filename=str(path))
    imports = frozenset(_imports(tree))
    texts = frozenset(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and NAME.fullmatch(node.value)
    )
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [child for child in node.body if not _is_text(child)] or [ast.Pass()]
    # The text that `unparse` writes stays the same over versions of Python; `ast.dump` does not.
    return Module(imports, texts, hashlib.sha256(ast.unparse(tree).encode()).hexdigest())


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            # What is imported may be a module of its own; `_modules` knows.
            separator = "" if base.endswith(".") else "."
            yield from (f"{base}{separator}{alias.name}" for alias in node.names)
        elif not _is_type_checking(node):
            yield from _imports(node)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _files(folder: Path | None) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder else []
