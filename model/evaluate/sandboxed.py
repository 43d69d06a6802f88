"""Shuts itself in and runs one program: the inside of model.evaluate.sandbox, which starts it.

Runs alone, on Python's own library. It is the first process of new namespaces (mounts, processes,
network, IPC, host name) and stays as it is: when it is killed, all of its namespace dies, whatever
the program has done to be overlooked. Its only child does, in this order:

    a root of its own   /tmp (memory, writable) and Python's libraries (read-only); nothing else
    limits              memory, processor time, file size, open files, no further process or thread
    privileges          another user or none, no capability, none to be gained
    the program         exec; the token is written only when it has run to its end

Output: "ready\\n" once it is shut in, then the token. Any other first line says what failed.
"""

import ctypes
import json
import os
import resource
import sys
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
AT_RECURSIVE, SYS_MOUNT_SETATTR = 0x8000, 442
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 4, 24, 38
CAPABILITY_VERSION_3 = 0x20080522
NOBODY = 65534

libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """Call a function of the C library. Raises OSError where it fails."""
    given = [a.encode() if isinstance(a, str) else a for a in arguments]
    if getattr(libc, name)(*given) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", str(arguments[0]))


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """mount(2)."""
    call("mount", source, target, kind, ctypes.c_ulong(flags), options or None)


class MountAttributes(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def make_read_only(path: str) -> None:
    """Make a mount read-only, with all that is mounted below it (Linux 5.12 or newer)."""
    attributes = MountAttributes(set=MS_RDONLY | MS_NOSUID | MS_NODEV)
    call(
        "syscall",
        ctypes.c_long(SYS_MOUNT_SETATTR),
        ctypes.c_int(-100),  # AT_FDCWD: the path is absolute
        path,
        ctypes.c_uint(AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )


def shut_in(root: str, shown: list[str], bytes_of_tmp: int) -> None:
    """Make `root` the root of this process, with the folders `shown` read-only and a /tmp."""
    os.umask(0o022)  # its user must read what this one makes
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=256,mode=755")
    for folder in filter(Path.is_dir, map(Path, shown)):
        real = folder.resolve()
        target = Path(root + str(real))
        target.mkdir(parents=True, exist_ok=True)
        if not any(target.iterdir()):
            mount(str(real), str(target), None, MS_BIND | MS_REC)
            make_read_only(str(target))
        if folder.is_symlink():
            Path(root + str(folder)).symlink_to(real)
    Path(root + "/tmp").mkdir()
    options = f"size={bytes_of_tmp},nr_inodes=256,mode=1777"
    mount("tmpfs", root + "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
    mount("none", root, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)
    os.chdir(root)
    call("pivot_root", ".", ".")
    call("umount2", ".", MNT_DETACH)
    os.chdir("/tmp")


def limit(memory: int, seconds: int, file_bytes: int) -> None:
    """Set limits that nobody here can raise."""
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_AS, memory),
    ):
        resource.setrlimit(kind, (value, value))


def give_up_privileges(*, change_user: bool) -> None:
    """Give up every capability, for good; change_user: become the user nobody, too."""
    for number in range(64):
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    if change_user:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    call("capset", ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()))
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def check_alone() -> None:
    """Raise OSError if a process or a network is left to this one."""
    try:
        child = os.fork()
    except OSError:
        child = -1
    if child == 0:
        os._exit(0)
    if child > 0:
        raise OSError(0, "the number of processes cannot be limited here")
    if (os.getpid(), os.getppid()) != (2, 1):
        raise OSError(0, "the process is not in a namespace of its own")


def main() -> None:
    """Run the program that standard input holds, and answer on standard output."""
    answer = os.dup(1)
    job = json.load(sys.stdin)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(null, number)
    call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)  # the program must not trace this process
    program = os.fork()
    if program:
        os.close(answer)
        os.waitpid(program, 0)
        os._exit(0)
    try:
        shut_in(job["root"], job["shown"], job["file_bytes"])
        limit(job["memory"], job["seconds"], job["file_bytes"])
        give_up_privileges(change_user=job["change_user"])
        check_alone()
    except (OSError, ValueError, AttributeError) as error:
        os.write(answer, f"{error}\n".encode())
        os._exit(3)
    os.environ.clear()
    os.environ.update(HOME="/tmp", TMPDIR="/tmp", LANG="C.UTF-8")
    os.dup2(null, 2)
    os.close(null)
    os.write(answer, b"ready\n")
    run(job.pop("program"), answer, job.pop("token").encode())


def run(program: str, answer: int, token: bytes) -> None:
    """Run a program; write the token if it ends without an error."""
    try:
        exec(compile(program, "<program>", "exec", dont_inherit=True), {})
    except BaseException:  # also SystemExit: tests behind it have not run
        os._exit(1)
    os.write(answer, token)
    os._exit(0)


if __name__ == "__main__":
    main()
