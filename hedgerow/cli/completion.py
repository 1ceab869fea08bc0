"""`hedgerow completion`: what a shell needs to complete commands, options and names of people."""

from __future__ import annotations

from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from hedgerow.cli import output
from hedgerow.cli.session import Settings, pass_settings
from hedgerow.errors import HedgerowError
from hedgerow.sdk import Context

_HOW = {
    "bash": 'eval "$(hedgerow completion bash)"',
    "zsh": 'eval "$(hedgerow completion zsh)"',
    "fish": "hedgerow completion fish | source",
}


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@pass_settings
def completion(settings: Settings, shell: str) -> None:
    """Prints the completion script of a SHELL.

    \b
    bash, in ~/.bashrc:                   eval "$(hedgerow completion bash)"
    zsh, in ~/.zshrc:                     eval "$(hedgerow completion zsh)"
    fish, in ~/.config/fish/config.fish:  hedgerow completion fish | source
    """
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"there is no completion for {shell}")
    root = click.get_current_context().find_root().command
    script = made(root, {}, "hedgerow", "_HEDGEROW_COMPLETE").source()
    if settings.as_json:
        output.print_json({"shell": shell, "use": _HOW[shell], "script": script})
    else:
        click.echo(script)


def people(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Returns who logged in on this machine, for `--as`."""
    try:
        named = ctx.params.get("context")
        users = Context.load(Path(named) if named else None).folder / "users"
    except HedgerowError:
        return []
    known = sorted(path.name for path in users.iterdir() if path.is_dir()) if users.is_dir() else []
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]
