"""What the documentation says is true: snippets run, references are whole."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

import eventstore.errors
import projections.errors

ROOT = Path(__file__).parent.parent


def snippets():
    for file in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        if file.name == "design.md":
            continue  # the contract sketches, it does not run
        for n, block in enumerate(re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL)):
            yield pytest.param(file.name, block, id=f"{file.name}-{n}")


@pytest.mark.parametrize(("name", "block"), list(snippets()))
def test_snippets_run_as_they_stand(name, block, tmp_path):
    """Each in a process and a folder of its own; what it prints is what its last comment says."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EVENTSTORE_") or k == "EVENTSTORE_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    for line in re.findall(r"# prints: (.*)", block):
        assert line in done.stdout


def test_the_readme_is_short_and_its_example_is_too():
    """150 lines; twelve lines of code."""
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 150
    first = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert len([line for line in first.splitlines() if line.strip()]) <= 12


def test_every_promise_names_the_test_that_proves_it():
    """And that test exists."""
    text = (ROOT / "README.md").read_text()
    promises = re.findall(
        r"^\d\. .*?(?=^\d\. |^$)", text.split("## What it promises")[1].split("##")[0], re.DOTALL | re.MULTILINE
    )
    assert len(promises) >= 4
    for promise in promises:
        named = re.findall(r"`(tests/\w+\.py)(?:::(\w+))?`", promise)
        assert named, promise
        for file, test in named:
            assert f"def {test}" in (ROOT / file).read_text(), (file, test)


def test_every_error_is_in_the_error_page():
    """With its place in the tree."""
    page = (ROOT / "docs" / "errors.md").read_text()
    for module in (eventstore.errors, projections.errors):
        for name in module.__all__:
            assert re.search(rf"\b{name}\b", page), name


def reference():
    """The command line's reference, from the commands themselves."""
    from eventstore.cli.app import app as first
    from projections.cli.app import app as second
    from projections.demo import demo

    if not any(command.name == "demo" for command in first.registered_commands):
        first.command("demo")(demo)
    yield "# Command line\n"
    yield "Made from the commands themselves; `eventstore COMMAND --help` says the same.\n"
    yield "The address comes from `--url` or `EVENTSTORE_URL`, the schema from `--schema` or `EVENTSTORE_SCHEMA`."
    yield "`--json` prints one document a line. Progress bars go to standard error, and only to a terminal.\n"
    yield "| exit code | meaning |\n| --- | --- |"
    for code, meaning in (
        (0, "done"),
        (1, "something unforeseen: please report it"),
        (2, "wrong use, input or configuration"),
        (3, "a conflict: nothing was written"),
        (4, "the stored data contradict themselves"),
        (5, "transient: try again"),
        (6, "`doctor` found warnings, and no error"),
        (7, "`doctor` found errors"),
        (130, "interrupted"),
    ):
        yield f"| {code} | {meaning} |"
    for name, app in (("eventstore", first), ("projections", second)):
        yield from describe(name, typer.main.get_command(app))


def describe(path, command):
    children = getattr(command, "commands", None)
    if children:
        for name in sorted(children):
            yield from describe(f"{path} {name}", children[name])
        return
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join(
        f"{(p.metavar or p.name).upper()}" if p.required else f"[{(p.metavar or p.name).upper()}]" for p in arguments
    )
    yield f"\n## {path}\n\n`{path} {usage}`".rstrip() if usage else f"\n## {path}\n\n`{path}`"
    yield f"\n{(command.help or '').strip()}\n"
    rows = [((p.metavar or p.name).upper(), p.help or "", "") for p in arguments]
    rows += [(", ".join([*p.opts, *p.secondary_opts]), p.help or "", default_of(p)) for p in options]
    yield "| option | meaning | default |\n| --- | --- | --- |"
    for names, meaning, default in rows:
        yield f"| `{names}` | {meaning.replace('|', '/')} | {default} |"


def default_of(parameter):
    default = parameter.default
    if default in (None, "", False, ()) or not isinstance(default, (str, int, float)):
        return ""
    return f"`{default}`"


def test_the_command_line_reference_is_what_the_commands_say():
    """Delete docs/cli.md to write it anew."""
    text = "\n".join(reference()) + "\n"
    file = ROOT / "docs" / "cli.md"
    if not file.exists():
        file.write_text(text)
    assert file.read_text() == text
