"""Runs a command as locked up as a service: `python sandbox.py JSON COMMAND ...`, where JSON is a `Sandbox`.

What systemd and container engines do to a process before it starts is done here by the same system calls, in the same
order: namespaces, mounts, capabilities, user, system call filter. It needs root, and ends with NOT_POSSIBLE where the
machine does not let even root do it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import struct
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyseccomp

NOT_POSSIBLE = 77

_CLONE_NEWNS, _CLONE_NEWPID = 0x20000, 0x20000000
_MS_NOSUID, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4096, 16384, 1 << 18
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _READ_ONLY = 442, -100, 0x8000, 1
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_MOST_CAPABILITIES = 64
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_MOST_FAMILIES = 46
_NEW_NAMESPACES = (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)

_PASSED_ON = [getattr(signal, f"SIG{name}") for name in ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2")]
_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass
class Sandbox:
    """What is taken from a command. Each field stands for directives of systemd.exec(5), options of `docker run`.

    system_calls: all that may be made; others are answered with refused_with, an error number, or end the process
        where it is 0. Empty: all.
    refused_calls: these are answered with EPERM, as other sandboxes do.
    denied: names of DENIALS, each a small filter of its own.
    families: address families of sockets; empty: all.
    read_only: every file system is, but those in `own` (folders that lead to others: where they are seen, and where
        they are), and the empty ones in `empty`.
    """

    system_calls: list[str] = field(default_factory=list)
    refused_with: int = errno.EPERM
    refused_calls: list[str] = field(default_factory=list)
    denied: list[str] = field(default_factory=list)
    families: list[int] = field(default_factory=list)
    read_only: bool = False
    own: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    private_devices: bool = False
    shared_memory: bool = True
    only_processes_in_proc: bool = False
    first_process: bool = False
    user: int | None = None
    capabilities: bool = True
    new_privileges: bool = True
    open_files: int | None = None
    umask: int | None = None
    folder: str | None = None
    closed: list[int] = field(default_factory=list)

    def command(self, *command: str) -> list[str]:
        """The command line that runs this command in here."""
        return [sys.executable, str(Path(__file__)), json.dumps(asdict(self)), *command]


def main(sandbox: Sandbox, command: list[str]) -> None:
    """Become the command, locked up; never returns."""
    try:
        _namespaces(sandbox)
        _mounts(sandbox)
    except OSError as error:
        sys.stderr.write(f"no sandbox on this machine: {error}\n")
        os._exit(NOT_POSSIBLE)
    if sandbox.folder is not None:
        os.chdir(sandbox.folder)
    if sandbox.umask is not None:
        os.umask(sandbox.umask)
    if sandbox.open_files is not None:
        # Only the first of all processes may have more than this machine gives us.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(sandbox.open_files, most),) * 2)
    _rights(sandbox)
    if sandbox.first_process:
        # Not before: another user has no such wish any more.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _filters(sandbox)
    for descriptor in sandbox.closed:
        os.close(descriptor)
    os.execvp(command[0], command)


def _checked(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _namespaces(sandbox: Sandbox) -> None:
    if sandbox.first_process:
        _checked(_libc.unshare(_CLONE_NEWPID))
        if child := os.fork():
            _stand_for(child)
    if sandbox.read_only or sandbox.first_process or sandbox.private_devices or sandbox.empty:
        _checked(_libc.unshare(_CLONE_NEWNS))
        _mount("none", "/", "", _MS_REC | _MS_PRIVATE)


def _stand_for(child: int) -> None:
    """Pass on every signal, and end as the child ends, as the client of a container engine does."""
    for number in _PASSED_ON:
        signal.signal(number, lambda number, _: os.kill(child, number))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(status if status >= 0 else 128 - status)


def _mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    _checked(_libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()))


def _mounts(sandbox: Sandbox) -> None:
    # Opened before anything hides them.
    own = {place: os.open(folder, os.O_PATH) for place, folder in sandbox.own.items()}
    if sandbox.read_only:
        _read_only("/", recursive=True)
    if sandbox.first_process or sandbox.only_processes_in_proc:
        _mount("proc", "/proc", "proc", 0, "subset=pid,hidepid=invisible" if sandbox.only_processes_in_proc else "")
    if sandbox.private_devices:
        _devices(sandbox)
    for folder in sandbox.empty:
        if Path(folder).is_dir():
            _mount("tmpfs", folder, "tmpfs", _MS_NOSUID, "mode=1777")
    for place, descriptor in own.items():
        # A folder in a file system that is to be seen by nobody else.
        _mount("tmpfs", str(Path(place).parent), "tmpfs", 0, "mode=755")
        Path(place).mkdir()
        _mount(f"/proc/self/fd/{descriptor}", place, "", _MS_BIND)
        _read_only(place, on=False)
        if sandbox.user is not None:
            os.chown(place, sandbox.user, sandbox.user)
        os.close(descriptor)


def _read_only(place: str, *, on: bool = True, recursive: bool = False) -> None:
    wanted = struct.pack("=QQQQ", _READ_ONLY if on else 0, 0 if on else _READ_ONLY, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    _checked(_libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, place.encode(), flags, wanted, len(wanted)))


def _devices(sandbox: Sandbox) -> None:
    _mount("tmpfs", "/dev", "tmpfs", _MS_NOSUID, "mode=755")
    mask = os.umask(0)
    for name, (major, minor) in _DEVICES.items():
        os.mknod(f"/dev/{name}", 0o020666, os.makedev(major, minor))
    os.umask(mask)
    if sandbox.shared_memory:
        Path("/dev/shm").mkdir()
        _mount("tmpfs", "/dev/shm", "tmpfs", _MS_NOSUID, "mode=1777")


def _rights(sandbox: Sandbox) -> None:
    if not sandbox.capabilities:
        for number in range(_MOST_CAPABILITIES):
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    if sandbox.user is not None:
        # Another user than root has no capabilities either.
        os.setgroups([])
        os.setresgid(*[sandbox.user] * 3)
        os.setresuid(*[sandbox.user] * 3)
    if not sandbox.new_privileges or sandbox.system_calls or sandbox.refused_calls or sandbox.denied:
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


Rule = tuple[int, str, list[Any]]


def _arg(*values: Any) -> Any:
    return pyseccomp.Arg(*values)


def _masked(place: int, mask: int) -> Any:
    return _arg(place, pyseccomp.MASKED_EQ, mask, mask)


def _simply(*names: str) -> list[Rule]:
    return [(errno.EPERM, name, []) for name in names]


DENIALS: dict[str, list[Rule]] = {
    # src/shared/seccomp-util.c of systemd 252, by the directive's name.
    "MemoryDenyWriteExecute": [
        (errno.EPERM, "mmap", [_masked(2, 6)]),
        (errno.EPERM, "mprotect", [_masked(2, 4)]),
        (errno.EPERM, "pkey_mprotect", [_masked(2, 4)]),
        (errno.EPERM, "shmat", [_masked(2, 0o100000)]),
    ],
    "LockPersonality": [(errno.EPERM, "personality", [_arg(0, pyseccomp.NE, 0)])],
    "RestrictRealtime": [(errno.EPERM, "sched_setscheduler", [_arg(1, pyseccomp.EQ, n)]) for n in (1, 2, 6)],
    "RestrictNamespaces": [
        (errno.ENOSYS, "clone3", []),
        *_simply("setns"),
        *((errno.EPERM, call, [_masked(0, flag)]) for call in ("clone", "unshare") for flag in _NEW_NAMESPACES),
    ],
    "RestrictSUIDSGID": [
        (errno.ENOSYS, "openat2", []),
        (errno.ENOSYS, "fchmodat2", []),
        *(
            (errno.EPERM, call, [_masked(place, bit)])
            for call, place in {"chmod": 1, "fchmod": 1, "fchmodat": 2, "mkdir": 1, "mkdirat": 2}.items()
            for bit in (0o4000, 0o2000)
        ),
    ],
    "ProtectClock": _simply("clock_settime", "settimeofday", "adjtimex", "clock_adjtime"),
    "ProtectHostname": _simply("sethostname", "setdomainname"),
    "ProtectKernelLogs": _simply("syslog"),
    "ProtectKernelModules": _simply("init_module", "finit_module", "delete_module"),
}


def _filters(sandbox: Sandbox) -> None:
    # The kernel takes the strictest answer of all filters. The list of what is allowed comes last, for it may not allow
    # the others.
    rules = [rule for name in sandbox.denied for rule in DENIALS[name]] + _simply(*sandbox.refused_calls)
    if sandbox.families:
        others = set(range(_MOST_FAMILIES)) - set(sandbox.families)
        rules += [(errno.EAFNOSUPPORT, "socket", [_arg(0, pyseccomp.EQ, family)]) for family in others]
    if rules:
        denials = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
        for number, name, arguments in rules:
            _add(denials, pyseccomp.ERRNO(number), name, arguments)
        denials.load()
    if sandbox.system_calls:
        otherwise = pyseccomp.ERRNO(sandbox.refused_with) if sandbox.refused_with else pyseccomp.KILL_PROCESS
        allowed = pyseccomp.SyscallFilter(otherwise)
        for name in sandbox.system_calls:
            _add(allowed, pyseccomp.ALLOW, name, [])
        allowed.load()


def _add(filter_: Any, action: int, name: str, arguments: list[Any]) -> None:
    try:
        filter_.add_rule(action, name, *arguments)
    except OSError:
        # Another architecture's, or newer than this libseccomp.
        if arguments:
            raise


if __name__ == "__main__":
    main(Sandbox(**json.loads(sys.argv[1])), sys.argv[2:])
