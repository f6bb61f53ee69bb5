"""What every command shares: exit codes, where files live, how errors are said."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import click

from swarm import __version__
from swarm.errors import AccessError, PeerError, RequestError, SwarmError, WeightsError

EXIT_FAILED = 1
EXIT_CANNOT = 2  # the request as it stands, or the swarm as it is now
EXIT_NO_SECRET = 3

DEFAULT_PORT = 7700

# Several nodes may share a machine: OpenMP threads that spin for long steal each other's cores. So many spins bridge the
# gaps between a layer's operations and end before the batch's output has reached the next node.
OPENMP_SPINS = "10000"


def config_dir() -> Path:
    """Where the secret lies."""
    from platformdirs import user_config_path

    return user_config_path("swarm")


def state_dir() -> Path:
    """Where names' keys, remembered peers and histories lie."""
    from platformdirs import user_state_path

    return user_state_path("swarm")


def cache_dir() -> Path:
    """Where documents fetched from the swarm lie."""
    from platformdirs import user_cache_path

    return user_cache_path("swarm")


def default_secret_file() -> Path:
    return config_dir() / "secret"


def version_option(function: Callable[..., int | None]) -> Callable[..., int | None]:
    return click.version_option(__version__, prog_name="falcon-swarm")(function)


def run(command: click.Command) -> None:
    """Run a command as a program: errors of ours in one line on stderr, with the exit code that fits."""
    logging.basicConfig(
        level=os.environ.get("SWARM_LOG", "WARNING").upper(), format="%(levelname)s %(name)s %(message)s"
    )
    try:
        code = command.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SwarmError as error:
        click.echo(f"{command.name}: {error}", err=True)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(EXIT_FAILED)
    sys.exit(code if isinstance(code, int) else 0)


def exit_code(error: SwarmError) -> int:
    if isinstance(error, WeightsError):
        return EXIT_FAILED
    if isinstance(error, RequestError | AccessError | PeerError):
        return EXIT_CANNOT
    return EXIT_FAILED
