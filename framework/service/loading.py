"""The search for the app that `worker run MODULE` names."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from pathlib import Path
from types import ModuleType

from framework.model.errors import UsageError, WorkerError
from framework.service.app import WorkerApp


def load_app(target: str) -> type[WorkerApp]:
    """Return the most derived WorkerApp of a module, or the one that `module:Name` names.

    Puts the working directory first on the import path.

    Raises:
        UsageError: there is no such module, or it has no app or several most derived ones; the message lists them.
        WorkerError: an error that the service's own declarations raise.
    """
    here = os.getcwd()
    if here not in sys.path[:1]:
        sys.path.insert(0, here)
    name, _, wanted = target.partition(":")
    _refuse_path(name)
    module = _import(name)
    apps = apps_in(module)
    if wanted:
        return _named(module, wanted)
    leaves = [app for app in apps if not any(other is not app and issubclass(other, app) for other in apps)]
    if len(leaves) == 1:
        return leaves[0]
    if leaves:
        listed = ", ".join(f"{name}:{app.__name__}" for app in leaves)
        raise UsageError(f"{name} has {len(leaves)} WorkerApps, none derived from the others: choose one of {listed}")
    hint = _hint(module) or ": a service is a subclass of framework.WorkerApp"
    raise UsageError(f"{name} has no WorkerApp{hint}")


def apps_in(module: ModuleType) -> list[type[WorkerApp]]:
    """Return the WorkerApp subclasses among a module's attributes, each once."""
    found: dict[int, type[WorkerApp]] = {}
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, WorkerApp) and value is not WorkerApp:
            found[id(value)] = value
    return list(found.values())


def _refuse_path(name: str) -> None:
    if name.endswith(".py") or "/" in name or os.sep in name:
        dotted = name.removesuffix(".py").removeprefix("./").strip("/").replace("/", ".")
        raise UsageError(f"{name} is a path: write {dotted} (searched from {os.getcwd()})")
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{name!r} is no module name: write it as package.module")


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(f"no module {error.name} (searched from {os.getcwd()})") from None
        _refuse_namesake(name, error)
        raise UsageError(f"{name} imports {error.name}, which is not installed") from error
    except WorkerError:
        raise
    except Exception as error:
        if isinstance(error, ImportError):
            _refuse_namesake(name, error)
        raise UsageError(f"{name} cannot be imported: {type(error).__name__}: {error} ({innermost(error)})") from error


def _refuse_namesake(name: str, error: ImportError) -> None:
    """Raise UsageError if an import has missed a package `framework` of the service's own, which has this library's
    name."""
    ours = Path(sys.modules["framework"].__path__[0])
    theirs = next((path for path in (Path("framework"), Path("framework.py")) if path.exists()), None)
    if (error.name or "").partition(".")[0] == "framework" and theirs is not None and not theirs.samefile(ours):
        raise UsageError(
            f"{name} imports from framework, which is this library here: {theirs.absolute()} has the same name and "
            "cannot be imported beside it: rename it"
        ) from error


def innermost(error: BaseException) -> str:
    """Return `file:line` where an error was raised; frames without a file (`<frozen os>`) do not count.

    A syntax error is where the text is wrong, not where it was compiled.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    found, trace = "?", error.__traceback__
    while trace:
        if not trace.tb_frame.f_code.co_filename.startswith("<"):
            found = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _named(module: ModuleType, wanted: str) -> type[WorkerApp]:
    app = getattr(module, wanted, None)
    if isinstance(app, type) and issubclass(app, WorkerApp) and app is not WorkerApp:
        return app
    there = ", ".join(found.__name__ for found in apps_in(module)) or "none"
    raise UsageError(f"{module.__name__}:{wanted} is no WorkerApp; {module.__name__} has {there}")


def _hint(module: ModuleType) -> str:
    """Return a hint that names apps one level below the module; submodules that cannot be imported are ignored."""
    for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
        child = f"{module.__name__}.{info.name}"
        try:
            apps = apps_in(importlib.import_module(child))
        except Exception:
            continue
        if apps:
            listed = ", ".join(app.__name__ for app in apps)
            return f"; {child} has {listed}: worker run {child}"
    return ""
