"""NAME=VALUE on the command line sets the constants of a script and of the modules it uses, for one run.

The constants at the top of each module are the only list of options: this finds them by their capital names
and holds a new value to the type of the old one.
"""

import ast
import difflib
import os
import sys
from collections.abc import Callable
from types import ModuleType


class UserError(Exception):
    """A mistake that its user can mend; the message says what, where and what to do, in a line or two."""


def set_from_command_line(*modules: ModuleType) -> None:
    """Sets constants from sys.argv, in every module of `modules` that has one of that name.

    Raises UserError for an unknown name, with the near ones, and for a value of another type.
    """
    for argument in sys.argv[1:]:
        name, equals, text = argument.partition("=")
        owners = [module for module in modules if is_constant(name, vars(module).get(name))]
        if not (equals and owners):
            names = {n for module in modules for n, value in vars(module).items() if is_constant(n, value)}
            near = difflib.get_close_matches(name.upper(), names, n=4, cutoff=0.5) or sorted(names)
            raise UserError(f"{argument}: no such constant; NAME=VALUE with a NAME such as {', '.join(near)}")
        for module in owners:
            setattr(module, name, parse(name, text, getattr(module, name)))


def is_constant(name: str, value: object) -> bool:
    return name.isupper() and isinstance(value, (bool, int, float, str, tuple))


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
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise UserError(f"{name}={text}: expected {type(default).__name__}, as in {name}={default}")
    return value


def constants(module: ModuleType) -> dict[str, object]:
    """All constants of a module, by name."""
    return {name: value for name, value in vars(module).items() if is_constant(name, value)}


def run(main: Callable[[], None], *modules: ModuleType) -> None:
    """Runs a script's main with the command line's constants; a user's own mistake ends it in one line."""
    try:
        set_from_command_line(sys.modules["__main__"], *modules)
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")
