"""What a judged process was refused: the limit behind an error, so that a result can say which one was hit."""

import _thread
import errno
import mmap

LIMIT_OF_ERRNO = {errno.ENOSPC: "disk", errno.EFBIG: "disk", errno.EDQUOT: "disk", errno.EMFILE: "files", errno.ENFILE: "files"}
DEFAULT_STACK_BYTES = 8 * 2**20
EXIT_STATUS = {"memory": 71, "disk": 72, "files": 73, "processes": 74}


def limit_of(error: BaseException) -> str | None:
    """Return the limit that an uncaught error speaks of, or None; who raises one for nothing says that it failed."""
    kind = type(error)
    if issubclass(kind, MemoryError):
        return "memory"
    if kind is OSError:
        return LIMIT_OF_ERRNO.get(getattr(error, "errno", 0) or 0)
    if kind is RuntimeError and error.args == ("can't start new thread",):
        return "processes" if _has_room_for_a_stack() else "memory"
    return None


def _has_room_for_a_stack() -> bool:
    """Whether there is memory for the stack of one more thread: the kernel's refusal does not say what was lacking."""
    try:
        mmap.mmap(-1, _thread.stack_size() or DEFAULT_STACK_BYTES).close()
    except (OSError, ValueError, OverflowError, MemoryError):
        return False
    return True
