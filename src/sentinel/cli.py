"""The command `sentinel`: serve, dev, doctor, replay, dead-letters, governance."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys

from sentinel import __version__
from sentinel.config import ConfigError, Settings, load_settings, settings_warnings
from sentinel.governance.service import arguments as governance_arguments
from sentinel.invocation import invocation

WRONG_START = 2
_INTERRUPTED = 130

_FIRST_STEPS = """\
to try it, without any setting:        {sentinel} dev
in earnest, with settings (README.md): {sentinel} doctor, then {sentinel} serve
"""


def entry() -> None:
    """Run the command that this process was started for, and end with its exit status.

    Without the interpreter's own way of ending: pyreqwest's threads, at work on a connection that has failed, abort a
    process whose interpreter is about to go (SIGABRT in PyGILState_Release, pyreqwest 0.15). All else is closed then.
    """
    status = main()
    # Whoever read our output may have left.
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    os._exit(status)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status: 0 all well, 1 something is not, 2 a wrong start."""
    parser = _parser()
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        getattr(options, "of", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.run is None:
        parser.print_help(sys.stderr)
        parser.exit(WRONG_START)
    # Until a command has something to end in good order: an import that is interrupted may go on as if it were not.
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    try:
        return int(options.run(options) or 0)
    except ConfigError as error:
        print("Sentinel cannot start. These settings are wrong:", file=sys.stderr)
        for mistake in error.mistakes:
            print(f"  - {mistake}", file=sys.stderr)
        return WRONG_START
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sentinel",
        description="An AI proxy that admits, counts, relays and reports.",
        epilog=_FIRST_STEPS.format(sentinel=invocation()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=None)
    parser.add_argument("--version", action="version", version=f"sentinel {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    commands.add_parser("serve", help="serve, with settings from the environment and .env").set_defaults(run=_serve)
    dev = commands.add_parser("dev", help="serve with an embedded store and simulators for what is not set")
    dev.add_argument(
        "--data", default=".sentinel", metavar="DIR", help="folder for the store's data, token and log (.sentinel)"
    )
    dev.add_argument("--logs", action="store_true", help="log to this terminal instead of DIR/sentinel.log")
    dev.add_argument("--simulators", action="store_true", help="only the simulators, reachable from outside")
    dev.add_argument(
        "--provider",
        action="append",
        default=[],
        metavar="VENDOR",
        help="whose habits the simulated provider has: openai, azure, anthropic, gemini, vllm or openrouter; given "
        "twice, those of the second one, too",
    )
    dev.set_defaults(run=_dev)
    doctor = commands.add_parser("doctor", help="check settings, Redis, Zion and the provider, and say what to do")
    doctor.add_argument("--dead-letters", action="store_true", help="list the usage that Zion refused")
    doctor.set_defaults(run=_doctor)
    config = commands.add_parser("config", help="what is in force")
    parts = config.add_subparsers(required=True, metavar="ACTION")
    show = parts.add_parser("show", help="all settings, and the providers of SENTINEL_CONFIG, without secrets")
    show.set_defaults(run=_show_config)
    commands.add_parser("replay", help="send the dead letters to Zion again").set_defaults(run=_replay)
    letters = commands.add_parser("dead-letters", help="what to do with usage that Zion refused")
    actions = letters.add_subparsers(required=True, metavar="ACTION")
    delete = actions.add_parser("delete", help="never bill it: it counts against its users' limits no more")
    which = delete.add_mutually_exclusive_group(required=True)
    which.add_argument("ids", nargs="*", default=[], metavar="ID", help="as `sentinel doctor --dead-letters` prints it")
    which.add_argument("--all", action="store_true", help="all that there is")
    delete.set_defaults(run=_delete_letters)
    governance = commands.add_parser("governance", help="plans, users, keys and usage for those without Zion")
    governance.set_defaults(run=_governance)
    governance_arguments.add_commands(governance)
    return parser


def _serve(_: argparse.Namespace) -> int:
    settings = load_settings()
    _check_outside(settings)
    _warn(settings)
    from sentinel.server import serve  # noqa: PLC0415 (a wrong start must not wait for imports)

    return serve.serve(settings, "sentinel.app:from_environment")


def _check_outside(settings: Settings) -> None:
    """Find out now what config.py cannot know.

    That is whether the disk takes usage, the HTTP library our certificates, OpenTelemetry its variables, and whether
    Redis or that folder is somebody else's.
    """
    from sentinel.app import check_ownership, check_tracing  # noqa: PLC0415 (see above)
    from sentinel.cache.installation import Installation  # noqa: PLC0415 (see above)
    from sentinel.usage.spool_files import writable  # noqa: PLC0415 (see above)
    from sentinel.zion.client import http_client  # noqa: PLC0415 (see above)

    if reason := writable(settings.spool_dir):
        raise ConfigError([f"SPOOL_DIR: {reason}"])
    http_client(settings.zion_egress)
    check_tracing()
    check_ownership(settings, Installation(settings.zion_api_url))


def _warn(settings: Settings) -> None:
    for warning in settings_warnings(settings):
        print(f"Warning: {warning}.", file=sys.stderr)


def _dev(options: argparse.Namespace) -> int:
    from sentinel.dev import command  # noqa: PLC0415 (needs the extra `dev`)

    if options.simulators:
        return command.simulate(options.provider)
    return command.run(options.data, logs_here=options.logs, providers=options.provider)


def _governance(options: argparse.Namespace) -> int:
    if options.operation is None:
        options.of.print_help(sys.stderr)
        return WRONG_START
    try:
        from sentinel.governance.service import commands  # noqa: PLC0415 (needs the extra `governance`)
    except ModuleNotFoundError as error:
        if (error.name or "sentinel").startswith("sentinel"):
            raise
        print(f"{error.name} is not installed: install Sentinel with its extra `governance`", file=sys.stderr)
        return WRONG_START
    return commands.run(options)


def _doctor(options: argparse.Namespace) -> int:
    from sentinel import doctor  # noqa: PLC0415 (see above)
    from sentinel.app import check_tracing  # noqa: PLC0415 (see above)
    from sentinel.observability import logs  # noqa: PLC0415 (see above)

    settings = load_settings()
    check_tracing()
    logs.configure("error", fd=2)
    return asyncio.run(doctor.dead_letters(settings) if options.dead_letters else doctor.check(settings))


def _show_config(_: argparse.Namespace) -> int:
    from sentinel import config_show  # noqa: PLC0415 (see above)
    from sentinel.config import load_providers  # noqa: PLC0415 (see above)

    settings = load_settings()
    print("\n".join(config_show.lines_of(settings, load_providers(settings))))
    return 0


def _delete_letters(options: argparse.Namespace) -> int:
    from sentinel import doctor  # noqa: PLC0415 (see above)
    from sentinel.observability import logs  # noqa: PLC0415 (see above)

    settings = load_settings()
    logs.configure("error", fd=2)
    return asyncio.run(doctor.delete_letters(settings, None if options.all else options.ids))


def _replay(_: argparse.Namespace) -> int:
    from sentinel import doctor  # noqa: PLC0415 (see above)
    from sentinel.observability import logs  # noqa: PLC0415 (see above)

    settings = load_settings()
    logs.configure("error", fd=2)
    return asyncio.run(doctor.replay(settings))
