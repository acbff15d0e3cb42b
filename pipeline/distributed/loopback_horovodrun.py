"""Horovod's launcher for ranks that are all on this host, with its rendezvous on the loopback alone:

    python -P -m pipeline.distributed.loopback_horovodrun --gloo -np 2 -H localhost:2 COMMAND …

Horovod's rendezvous server takes what anybody sends it and listens on all of the host's addresses, though ranks of one
host only ever ask it by 127.0.0.1. And Horovod writes the whole environment, passwords and all, into the command line
of each rank, which every user of the host can read; ranks of one host inherit it anyway.
"""

import os
import sys
from collections.abc import Callable
from typing import Any

LOOPBACK = "127.0.0.1"


def on_loopback(find_port: Callable[..., Any]) -> Callable[..., Any]:
    """Horovod's search for a free port, which then only ever tries addresses of the loopback."""
    return lambda make: find_port(lambda address: make((LOOPBACK, address[1])))


def without_inherited(commands: Callable[..., Any]) -> Callable[..., Any]:
    """Horovod's maker of the ranks' command lines, which then name only the variables that they do not inherit."""
    return lambda command, env: commands(
        command, {name: value for name, value in env.items() if os.environ.get(name) != value}
    )


def main() -> None:
    """Runs Horovod's own command line; does not return."""
    from horovod.runner import gloo_run
    from horovod.runner.http import http_server
    from horovod.runner.launch import run_commandline

    gloo_run._slot_info_to_command_fn = without_inherited(gloo_run._slot_info_to_command_fn)
    http_server.find_port = on_loopback(http_server.find_port)
    sys.exit(run_commandline())


if __name__ == "__main__":
    main()
