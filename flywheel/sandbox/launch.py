"""Runs outside the sandbox, just before it: a small program that prepares the process and becomes bubblewrap.

Started as ``python -I -S launch.py PROGRAM ARGUMENT…``; standard library only, because it runs before anything is set up.

It makes the sandbox the kernel's first choice when memory runs out. For root it also enters a user namespace in which two users
exist: 0, which bubblewrap needs to build the sandbox, and `NOBODY`, which the sandbox then becomes. Without that, model code
would be the host's root user without capabilities: owner of root's files, and exempt from the limit on processes.
"""

import ctypes
import os
import sys

NOBODY = 65534
CLONE_NEWUSER = 0x10000000


def enter_user_namespace() -> None:
    """Move this process into a user namespace that maps 0 and `NOBODY`; a forked helper, still outside, writes the maps."""
    target = os.getpid()
    ready_r, ready_w = os.pipe()
    helper = os.fork()
    if helper == 0:
        status = 1
        try:
            os.close(ready_w)
            if os.read(ready_r, 1):  # nothing where the namespace was refused
                for name in ("uid_map", "gid_map"):
                    with open(f"/proc/{target}/{name}", "w") as file:
                        file.write(f"0 0 1\n{NOBODY} {NOBODY} 1\n")
                status = 0
        finally:
            os._exit(status)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        sys.exit(f"can't create a user namespace: {os.strerror(ctypes.get_errno())}")
    os.write(ready_w, b"x")
    _, status = os.waitpid(helper, 0)
    if status != 0:
        sys.exit(f"can't map users 0 and {NOBODY} into the sandbox's user namespace")
    os.close(ready_r)
    os.close(ready_w)


def main() -> None:
    """Prepare and become the program."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass
    if os.getuid() == 0:
        enter_user_namespace()
    try:
        os.execv(sys.argv[1], sys.argv[1:])
    except OSError as error:
        sys.exit(f"can't run {sys.argv[1]}: {error.strerror}")


if __name__ == "__main__":
    main()
