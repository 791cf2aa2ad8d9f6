"""Prints the signatures of architecture.md from the code: `python docs/architecture.py` writes them anew.

A place for them begins with `<!-- code: NAMES -->` and ends with `<!-- end of code -->`. A name is
`path/in/grokscope.py:function`, or `..:Class`, of which fields and public methods are printed too; further
names of the same file need no path.
"""

import ast
import re
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
PAGE, SOURCE = HERE / "architecture.md", HERE.parent / "src" / "grokscope"
PLACE = re.compile(r"<!-- code: (.*?) -->\n.*?<!-- end of code -->", re.DOTALL)
WIDTH = 120
Function = ast.FunctionDef | ast.AsyncFunctionDef


def filled(page: str) -> str:
    """The page with every place filled from the code."""
    return PLACE.sub(lambda place: _place(place[1]), page)


def _place(names: str) -> str:
    lines: list[str] = []
    path = ""
    for name in names.split():
        file, colon, name = name.rpartition(":")
        if colon and file != path:
            path = file
            lines.append(f"# {path}")
        lines += _shown(path, name)
    return "\n".join([f"<!-- code: {names} -->", "```python", *lines, "```", "<!-- end of code -->"])


def _shown(path: str, name: str) -> list[str]:
    for node in ast.parse((SOURCE / path).read_text()).body:
        if isinstance(node, Function | ast.ClassDef) and node.name == name:
            return _class(node) if isinstance(node, ast.ClassDef) else _lines(_signature(node), node)
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        if isinstance(target, ast.Name) and target.id == name:
            kind = f": {ast.unparse(node.annotation)}" if isinstance(node, ast.AnnAssign) else ""
            return [f"{name}{kind}"]
    raise LookupError(f"{path} has no {name}.")


def _class(node: ast.ClassDef) -> list[str]:
    bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    fields, methods = [], []
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and not ast.unparse(one.target).startswith("_"):
            fields.append(f"{ast.unparse(one.target)}: {ast.unparse(one.annotation)}")
        elif isinstance(one, Function) and not one.name.startswith("_"):
            is_property = any("property" in ast.unparse(mark) for mark in one.decorator_list)
            value = f"{one.name}: {ast.unparse(one.returns)}" if is_property and one.returns else ""
            fields.append(value) if value else methods.append(_signature(one).removeprefix("def "))
    members = ["; ".join(part) for part in (fields, methods) if part]
    wrapped = [line for part in members for line in textwrap.wrap(part, WIDTH - 4)]
    return [*_lines(f"class {node.name}{bases}", node), *(f"    {line}" for line in wrapped)]


def _signature(node: Function) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    given = ast.unparse(node.args).removeprefix("self, ").removeprefix("cls, ")
    return f"def {node.name}({'' if given in ('self', 'cls') else given}){returns}"


def _lines(signature: str, node: Function | ast.ClassDef) -> list[str]:
    """The signature, and the first sentence that stands with it."""
    said = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ")
    first = textwrap.wrap(f"{said.split('. ')[0].rstrip('.')}.", WIDTH - 6) if said else []
    return [
        *textwrap.wrap(signature, WIDTH, subsequent_indent="        "),
        *(f"    # {line}" for line in first),
    ]


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
