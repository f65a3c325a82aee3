"""Turns parse errors of the command line into errors with a problem, a cause and a fix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from typer.exceptions import TyperException

from traitcli.errors import UserError, suggest

RENAMED = {"--tokens": "--max-new-tokens"}
"""Options of earlier versions, and their names now."""
_SECTIONS = {"model": "model.id", "judge": "judge.backend", "method": "vector.method"}
"""Sections of the configuration that people type as an option, and the key that they mean."""
_CHOICES = re.compile(r".* is not one of (.+)", re.DOTALL)
"""How Typer lists the values of an option."""


def usage_error(error: TyperException, arguments: Sequence[str]) -> UserError:
    """The error for a parse error of Typer; `arguments` are what the user typed.

    Typer keeps the classes of its parse errors private, so their attributes are looked up by name.
    """
    # Not above, because pydantic takes long to load, and --help does not need it.
    from pydantic import ValidationError

    from traitcli.faults import expected

    context: Any = getattr(error, "ctx", None)
    see_help = f"see {context.command_path if context else 'traitcli'} --help"
    if hasattr(error, "possibilities"):
        return _unknown_option(error, context, arguments, see_help)

    # Typer words both in one sentence: "Invalid value for '--seed': Input should be …".
    problem, *rest = re.split(r"[:.] ", error.format_message().rstrip("."), maxsplit=1)
    detail = _lower_first("".join(rest).removeprefix("Value error, "))
    fault = error.__cause__
    if invalid := re.fullmatch("Invalid value for '(.+)'", problem):
        value = _typed_value(invalid[1], arguments)
        problem = f"invalid {invalid[1]} {value}".rstrip()
        if choices := _CHOICES.fullmatch(detail):
            known = choices[1].split("'")[1::2]
            detail = f"expected {', '.join(known[:-1])} or {known[-1]}, got {value!r}"
            return UserError(problem, cause=detail, fix=suggest(value, known) or see_help)
        if isinstance(fault, ValidationError):
            detail = f"{expected(fault.errors())}, got {value!r}"
    # A suggestion is what to do, so it is the fix and not the cause.
    if detail.startswith("did you mean"):
        return UserError(_lower_first(problem), fix=detail)
    return UserError(_lower_first(problem), cause=detail, fix=see_help)


def _unknown_option(error: Any, context: Any, arguments: Sequence[str], see_help: str) -> UserError:
    """An option that the command lacks: it was renamed, is misspelled, or belongs to another."""
    option, renamed = error.option_name, RENAMED.get(error.option_name, "")
    # A renamed option is suggested only by a command that has it under its new name.
    known = {name for parameter in context.command.params for name in parameter.opts}
    problem = f"no option {option}"
    takes_text = any(parameter.name == "prompt" for parameter in context.command.params)
    if renamed in known:
        fix = f"use {renamed} {_typed_value(option, arguments)}".rstrip()
        return UserError(problem, cause=f"it was renamed to {renamed}", fix=fix)
    takes_settings = any(parameter.name == "overrides" for parameter in context.command.params)
    if takes_settings and (keys := _settings_named(option, context.info_name)):
        value = _typed_value(option, arguments) or "VALUE"
        fix = " or ".join(f"--set {key}={value}" for key in keys)
        return UserError(problem, cause="it is a setting", fix=fix)
    if error.possibilities:
        return UserError(problem, fix=f"did you mean {error.possibilities[0]}?")
    owners = sorted(_commands_with(renamed or option, context.find_root()))
    cause = f"it is an option of {' and '.join(owners)}" if owners else ""
    if renamed and owners:
        cause = f"it was renamed to {renamed}, an option of {' and '.join(owners)}"
    if takes_text and not cause:
        # A prompt may begin with a dash, as a list does.
        see_help = f"{see_help}; if it is the prompt, write -- before it"
    return UserError(problem, cause=cause, fix=see_help)


def _settings_named(option: str, command: str) -> list[str]:
    """The keys of settings with the name of an option; those of the command's section first."""
    from traitcli.settings import setting_keys

    name = option.lstrip("-").replace("-", "_")
    name = _SECTIONS.get(name, name)
    keys = [key for key in setting_keys() if key == name or key.endswith(f".{name}")]
    return [key for key in keys if key.startswith(f"{command}.")] or keys


def _commands_with(option: str, root: Any) -> Iterator[str]:
    """The commands that have an option, as a user types them."""
    waiting = [(root.command_path, root.command)]
    while waiting:
        path, command = waiting.pop()
        for name, one in getattr(command, "commands", {}).items():
            waiting.append((f"{path} {name}", one))
        if any(option in parameter.opts for parameter in command.params):
            yield path


def _typed_value(option: str, arguments: Sequence[str]) -> str:
    """The value that follows an option, as the user typed it; "" if there is none."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == option:
            return following
        if argument.startswith(f"{option}="):
            return argument.removeprefix(f"{option}=")
    return ""


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
