"""The modules of the three packages, what each imports, and what each asserts, read from their syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("taba_core", "cluster", "workflows")


@cache
def modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the packages below `root` by its dotted name; a package is its `__init__.py`."""
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    return {module_name(file, root): file for file in files}


def module_name(file: Path, root: Path = ROOT) -> str:
    return ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports_of(file: Path, root: Path = ROOT) -> frozenset[str]:
    """Dotted names of what a file imports, anywhere in it: in functions, in classes and for type checkers too.

    `from package import name` counts as `package.name` where that is a module, else as `package`; relative imports are
    resolved.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, file, root)
            names = {alias.name: f"{base}.{alias.name}" for alias in node.names}
            found |= {dotted if dotted in modules(root) else base for dotted in names.values()}
    return frozenset(found)


def _base(node: ast.ImportFrom, file: Path, root: Path) -> str:
    if not node.level:
        return node.module or ""
    package = module_name(file, root).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    above = package[: len(package) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def files_below(place: str, root: Path = ROOT) -> list[Path]:
    """The files of a package or of one module, given as a path from the root."""
    path = root / place
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def circle_of_imports(root: Path = ROOT) -> list[str]:
    """Modules that import one another in a circle, first and last the same; empty if there is none."""
    graph = {
        name: imports_of(file, root) & modules(root).keys() - {name} for name, file in modules(root).items()
    }
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(graph[name]):
            if circle := walk(other, [*path, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(graph) if (circle := walk(name, []))), [])


def properties(root: Path = ROOT) -> frozenset[str]:
    """Names under which reading an attribute runs code: those of all properties of the packages."""
    kinds = {"property", "cached_property"}
    return frozenset(
        node.name
        for file in modules(root).values()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
        and any(ast.unparse(decorator).split(".")[-1] in kinds for decorator in node.decorator_list)
    )


PURE = {"isinstance", "issubclass", "callable", "len", "all", "any", "type", "set", "sorted"}


def work_in_asserts(file: Path, names_of_properties: frozenset[str]) -> Iterator[str]:
    """Asserts of a file whose condition calls a function that is not `PURE`, reads a property, or assigns."""
    for node in ast.walk(ast.parse(file.read_text())):
        if not isinstance(node, ast.Assert):
            continue
        for part in ast.walk(node.test):
            called = isinstance(part, ast.Call) and ast.unparse(part.func) not in PURE
            read = isinstance(part, ast.Attribute) and part.attr in names_of_properties
            if called or read or isinstance(part, ast.NamedExpr | ast.Await | ast.Yield):
                yield f"{file.name}:{node.lineno}: {ast.unparse(node)}"
                break


def functions_of_more_than(count: int, file: Path) -> list[str]:
    """Functions of a file that take more than `count` parameters, `self` and `cls` apart."""
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            given = node.args
            names = [each.arg for each in (*given.posonlyargs, *given.args)]
            own = len(names) - (names[:1] in (["self"], ["cls"]))
            taken = own + len(given.kwonlyargs) + bool(given.vararg) + bool(given.kwarg)
            if taken > count:
                found.append(f"{file.name}:{node.lineno}: {getattr(node, 'name', 'lambda')} takes {taken}")
    return found
