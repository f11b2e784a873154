"""The `sqlr1` command."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from sqlr1 import plan, tracking
from sqlr1.evaluate import command as score
from sqlr1.records import InputError


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run one sub-command. Exit code 1 and one line on bad input."""
    parser = argparse.ArgumentParser(prog="sqlr1", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    score.add_parser(commands)
    plan.add_parser(commands)
    tracking.add_parser(commands)
    args = parser.parse_args(argv)
    sys.stdout.reconfigure(errors="backslashreplace")  # names in a benchmark's files need not be fit to print
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s: %(message)s")
    try:
        args.run(args)
        sys.stdout.flush()
    except InputError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # `| head`: nobody reads any more; nor may Python's last flush complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
