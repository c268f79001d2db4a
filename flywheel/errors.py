"""The errors that flywheel raises on purpose.

A wrong answer is data (a verdict), never an exception. `InfraError` is the only way to say that something broke which is
nobody's fault; whoever runs an environment or a verifier turns it into the outcome ``infra_error``.
"""

import traceback
from pathlib import Path


def described(error: BaseException) -> str:
    """Return what an exception says and where it was raised: for code that is not ours, whose author looks for the line."""
    said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    return f"{said} ({Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name})" if frames else said


class FlywheelError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(FlywheelError):
    """The recipe or the machine can't run what was asked; found before anything starts.

    Args:
        problems: One message for each thing that is wrong, each saying what was got, what was expected and what to do.
    """

    def __init__(self, *problems: str) -> None:
        self.problems: tuple[str, ...] = problems
        super().__init__("\n".join(problems))


class InferenceError(FlywheelError):
    """A serving engine failed, or what it serves is not what was trained."""


class StoreError(FlywheelError):
    """The run folder or the journal can't be read or written."""


class InfraError(FlywheelError):
    """Something broke that is not the policy's doing: the attempt is retried and then leaves its group."""


class SandboxError(InfraError):
    """A sandbox could not be started, or died."""


class VerifierError(InfraError):
    """A verifier broke on an answer; no verdict was reached."""


class RunStopped(FlywheelError):  # noqa: N818 - not an error: somebody asked for it
    """The run was asked to stop (Ctrl-C, SIGTERM): finish what is at hand, write a checkpoint and leave."""


class NotRelabelledError(FlywheelError):
    """A relabeller can make nothing of an attempt. The message says why in a few words that hold nothing of the attempt: it is counted."""
