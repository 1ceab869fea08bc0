"""The `hedgerow` command: what people need to bring data, train, serve, explain and audit, without writing code."""


def main() -> int:
    """Runs the command; the entry point of the installed script."""
    from hedgerow.cli.__main__ import main as run

    return run()
