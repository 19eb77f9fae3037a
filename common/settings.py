"""NAME=VALUE on the command line sets the constants of a script and of the modules it uses, for one run.

The constants at the top of each module are the only list of options: this finds them by their capital names,
holds a new value to the type of the old one, and prints them for --help.
"""

import ast
import contextlib
import difflib
import functools
import inspect
import io
import math
import os
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path
from types import ModuleType


class UserError(ValueError):
    """A mistake that its user can mend; the message says what, where and what to do, in a line or two.

    A ValueError, so that programs that load the networks by torch.hub can catch it by a name of theirs.
    """


def run(main: Callable[..., None], *modules: ModuleType, takes_paths: bool = False) -> None:
    """Runs a script's main with the command line's constants; a user's own mistake ends it in one line.

    modules: whose constants the script takes beside its own; takes_paths: main is given the list of the other
    arguments.
    """
    modules = (sys.modules["__main__"], *modules)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no UTF-8
    if {"-h", "--help"} & set(sys.argv[1:]):
        show(help_text(*modules))
        return
    try:
        paths = [a for a in sys.argv[1:] if takes_paths and not a.startswith("-") and not is_setting(a)]
        check_paths(paths, *modules)
        set_constants([a for a in sys.argv[1:] if a not in paths], *modules)
        main(*([paths] if takes_paths else []))
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")


def show(text: str) -> None:
    """Prints it; a reader that has seen enough, such as `head`, is no error."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_setting(argument: str) -> bool:
    name, equals, _ = argument.partition("=")
    return bool(equals) and name.isupper() and name.isidentifier()


def check_paths(paths: list[str], *modules: ModuleType) -> None:
    """Raises UserError for one that is no file, but would be a constant if it were in capitals."""
    for path in paths:
        name, equals, value = path.partition("=")
        if equals and any(name.upper() in constants(module) for module in modules) and not os.path.exists(path):
            raise UserError(f"{path}: constants are written in capitals, {name.upper()}={value}")


def set_constants(settings: list[str], *modules: ModuleType) -> None:
    """Sets constants, NAME=VALUE each, in every module of `modules` that has one of that name.

    Raises UserError for an unknown name, with the near ones, and for a value of another type.
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        owners = [module for module in modules if name in constants(module)]
        if not (equals and owners):
            names = {n for module in modules for n in constants(module)}
            near = difflib.get_close_matches(name.upper(), names, n=4, cutoff=0.5) or sorted(names)
            raise UserError(f"{setting}: no such constant; NAME=VALUE with a NAME such as {', '.join(near)}")
        for module in owners:
            setattr(module, name, parse(name, text, getattr(module, name)))


def parse(name: str, text: str, default: object) -> object:
    """`text` as a value of default's type; a tuple is written with commas: 1,6 or segnet,segnet_dsc."""
    if isinstance(default, tuple):
        if not default:
            raise UserError(f"{name} is empty at the top of its module; edit it there")
        parts = [part.strip() for part in text.strip("(),").split(",")]
        return tuple(parse(name, part, default[0]) for part in parts if part)
    if isinstance(default, str):
        return os.path.expanduser(text)  # ~, which some shells leave to us
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # the kinds that it documents
        value = text
    if type(value) is int and abs(value) >= 2**63:
        raise UserError(f"{name}={text[:30]}: a number of at most 63 bits")
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise UserError(f"{name}={text}: expected {type(default).__name__}, as in {name}={default}")
    return value


def typed(value: object) -> str:
    """A constant's value as it is given on a command line."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def check(
    values: dict[str, object], choices: dict[str, tuple[str, ...]], ranges: dict[str, tuple[float, float]]
) -> None:
    """Raises UserError for the first constant in `values` that is none of its choices, or out of its range.

    Each entry of a tuple is checked; an empty tuple is refused.
    """
    for name, allowed in (*choices.items(), *ranges.items()):
        entries = values[name] if isinstance(values[name], tuple) else (values[name],)
        if not entries:
            raise UserError(f"{name} is empty; give at least one")
        for entry in entries:
            if name in choices and entry not in allowed:
                raise UserError(f"{name}={entry}: there are {', '.join(allowed)}")
            if name in ranges and not allowed[0] <= entry <= allowed[1]:
                bounds = (
                    f"from {allowed[0]:g} to {allowed[1]:g}" if allowed[1] < math.inf else f"at least {allowed[0]:g}"
                )
                raise UserError(f"{name}={entry}: {name} is {bounds}")


def constants(module: ModuleType) -> dict[str, object]:
    """All constants that a module itself assigns, not those that it imports, by name; those that fit on a line."""
    found = {name: vars(module)[name] for name, _ in assignments(module.__file__)}
    return {name: value for name, value in found.items() if is_plain(value)}


def is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(is_plain(entry) and not isinstance(entry, tuple) for entry in value)
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and "\n" not in value)


def defaults(module: ModuleType) -> dict[str, object]:
    """The constants' values as the module's source has them, whatever the command line says."""
    found = {}
    for name, node in assignments(module.__file__):
        with contextlib.suppress(ValueError):  # computed, and so no option
            found[name] = ast.literal_eval(node.value)
    return found


@functools.cache
def assignments(file: str) -> list[tuple[str, ast.Assign]]:
    """The top-level assignments to names in capitals, as they stand in a source file."""
    nodes = [node for node in ast.parse(Path(file).read_text(encoding="utf-8")).body if isinstance(node, ast.Assign)]
    named = [(target.id, node) for node in nodes for target in node.targets if isinstance(target, ast.Name)]
    return [(name, node) for name, node in named if name.isupper()]


def help_text(*modules: ModuleType) -> str:
    """What --help prints: the first module's docstring, and the constants of all, in their titled groups."""
    script = modules[0]
    parts = [inspect.getdoc(script) or "", "", "NAME=VALUE sets a constant for one run; -h and --help print this."]
    for module in modules:
        groups = groups_of(module)
        if groups:
            parts += ["", f"Constants of {Path(module.__file__).name}"]
        for title, lines in groups.items():
            parts += ["", *([f"  {title}"] if title else []), *(f"    {line}" for line in lines)]
    return "\n".join(parts)


def groups_of(module: ModuleType) -> dict[str, list[str]]:
    """A module's constants as lines "NAME=VALUE  comment", by the title of the comment above them."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    lines = source.splitlines()
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    known, found = constants(module), {}
    for name, node in assignments(module.__file__):
        if name not in known:
            continue
        top = node.lineno - 1  # the last line above this one that is no line of its group
        while top > 0 and lines[top - 1].strip() and not lines[top - 1].startswith("#"):
            top -= 1
        title = []
        while top > 0 and lines[top - 1].startswith("#"):
            title.insert(0, comments[top])
            top -= 1
        shown = typed(known[name])
        shown = f"{name}={shown if len(shown) < 60 else shown[:56] + ' ...'}"
        comment = comments.get(node.end_lineno, "") or comments.get(node.lineno, "")
        found.setdefault(" ".join(title), []).append(f"{shown:32}  {comment}".rstrip())
    return found
