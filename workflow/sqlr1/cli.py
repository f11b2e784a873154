"""Train and score text-to-SQL models; `snakemake` runs the stages, these commands do the rest."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from sqlr1.records import InputError

# Only the module of the command that was asked for is imported; all of them for the list of commands.
COMMANDS = {
    "init": "sqlr1.init_command",
    "score": "sqlr1.evaluate.score_command",
    "compare": "sqlr1.evaluate.compare_command",
    "ask": "sqlr1.ask",
    "export": "sqlr1.export_command",
    "plan": "sqlr1.plan",
    "check": "sqlr1.check_command",
    "ui": "sqlr1.ui_command",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run one sub-command. Exit code 1 and one line on bad input."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="sqlr1", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in argv[:1] if argv[:1] and argv[0] in COMMANDS else COMMANDS:
        import_module(COMMANDS[name]).add_parser(commands)
    args = parser.parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # names in a benchmark's files need not be printable
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s: %(message)s")
    try:
        args.run(args)
        sys.stdout.flush()
    except InputError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # `| head`: nobody reads any more, and Python's last flush must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
