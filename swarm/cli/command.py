"""What every command shares: exit codes, where files live, how errors are said."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from swarm import __version__
from swarm.errors import AccessError, PeerError, RequestError, SwarmError, WeightsError

EXIT_FAILED = 1
EXIT_CANNOT = 2  # the request as it stands, or the swarm as it is now
EXIT_NO_SECRET = 3

DEFAULT_PORT = 7700
MOST_FILES = 65_536


def config_dir() -> Path:
    """Where the secret lies."""
    from platformdirs import user_config_path

    return user_config_path("swarm")


def state_dir() -> Path:
    """Where names' keys, remembered peers and histories lie."""
    from platformdirs import user_state_path

    return user_state_path("swarm")


def find_state(command: str) -> Path | None:
    """The same where something can be kept there, else None, and the user hears so: commands run without it."""
    directory = state_dir()
    error = why_unusable(directory)
    if error is None:
        return directory
    click.echo(f"{command}: nothing can be kept in {directory} ({error}); going on without", err=True)
    return None


def why_unusable(directory: Path) -> str | None:
    """What keeps files from being written there; None if nothing does."""
    from swarm.files import write_whole

    probe = directory / "probe"
    try:
        write_whole(probe, b"x" * 4096)
        probe.unlink()
    except OSError as error:
        return error.strerror or str(error)
    return None


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
    set_up_logging(os.environ.get("SWARM_LOG", "WARNING").upper())
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
    except Exception as error:  # a fault of ours: tracebacks are for those who ask for them
        logging.getLogger(__name__).debug("command ended", exc_info=True)
        said = f"{type(error).__name__}: {error}"
        click.echo(f"{command.name}: this is a fault in the program: {said}; SWARM_LOG=DEBUG shows where", err=True)
        sys.exit(EXIT_FAILED)
    sys.exit(code if isinstance(code, int) else 0)


class _Formatter(logging.Formatter):
    """One line a record; with the traceback only where everything is shown."""

    def formatException(self, ei: Any) -> str:  # noqa: N802
        if logging.getLogger().level <= logging.DEBUG:
            return super().formatException(ei)
        return f"{type(ei[1]).__name__}: {ei[1]}"


def set_up_logging(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])


def exit_code(error: SwarmError) -> int:
    if isinstance(error, WeightsError):
        return EXIT_FAILED
    if isinstance(error, RequestError | AccessError | PeerError):
        return EXIT_CANNOT
    return EXIT_FAILED


def raise_file_limit() -> None:
    """Each peer and each client takes a few descriptors; the usual limit of 1,024 is meant for programs that use select."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
