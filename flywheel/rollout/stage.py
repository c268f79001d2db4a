"""Where environments run: a bounded number of threads, reused instances and a deadline on every step.

The threads are daemons, one a call: a step that never returns costs its attempt, not a place in a pool or the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from typing import Any

from flywheel.config import EnvironmentConfig, Recipe
from flywheel.contracts import Verifier
from flywheel.errors import ConfigError, FlywheelError, InfraError, described
from flywheel.registry import resolve
from flywheel.tasks.source import environment_class
from flywheel.tool_env import ToolEnv

_log = logging.getLogger(__name__)


class Stage:
    """The environments and verifiers of a run, by environment name.

    Args:
        recipe: The resolved recipe.

    Raises:
        ConfigError: an unknown environment or verifier, or an environment that nothing judges.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._deadline_s = recipe.rollout.step_deadline_s
        self._places = asyncio.Semaphore(recipe.rollout.env_threads)
        self._idle: dict[str, list[Any]] = defaultdict(list)
        self._make: dict[str, Callable[[], Any]] = {}
        self.verifiers: dict[str, Verifier] = {}
        classes = {section: environment_class(section, config) for section, config in recipe.environments.items()}
        if problems := clashes(recipe, classes):
            raise ConfigError(*problems)
        for section, config in recipe.environments.items():
            cls = classes[section]
            name = getattr(cls, "name", section)
            if name in self._make:
                continue
            self._make[name] = environment_maker(cls, config)
            self.verifiers[name] = _verifier(section, cls, config)

    @contextlib.asynccontextmanager
    async def environment(self, name: str) -> AsyncIterator[Any]:
        """Lend an environment; one that failed inside the block is thrown away, not lent again."""
        env = self._idle[name].pop() if self._idle[name] else await self.call(self._make[name])
        yield env
        self._idle[name].append(env)

    async def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a blocking function in a thread, when one of ``rollout.env_threads`` places is free.

        Raises:
            InfraError: the deadline passed, counted from the function's start; its thread is left to end by itself.
        """
        async with self._places:
            future = asyncio.wrap_future(_started(lambda: function(*args, **kwargs)))
            try:
                # Not wait_for: a TimeoutError that the function itself raises is another matter.
                done, _ = await asyncio.wait([future], timeout=self._deadline_s)
            finally:
                future.cancel()  # does nothing to one that is done
        if done:
            return future.result()
        what = getattr(function, "__qualname__", repr(function))
        raise InfraError(f"{what} took longer than rollout.step_deadline_s = {self._deadline_s}")

    def close(self) -> None:
        """Close every environment and verifier; what breaks over it can't harm what is done."""
        for part in (*(env for idle in self._idle.values() for env in idle), *self.verifiers.values()):
            try:
                getattr(part, "close", lambda: None)()
            except Exception as error:  # noqa: BLE001 - plug-in code
                _log.warning("closing %s raised %s", type(part).__name__, described(error))


def clashes(recipe: Recipe, classes: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with sections of one environment: they share it, so only their tasks may differ.

    Args:
        recipe: The resolved recipe.
        classes: The class of each section.
    """
    problems, staged = [], dict[str, tuple[str, Any]]()
    for section, cls in classes.items():
        name = getattr(cls, "name", section)
        told = cls, recipe.environments[section].model_dump(include={"verifier", "verifier_kwargs", "solved_threshold", "kwargs"})
        first, before = staged.setdefault(name, (section, told))
        if before != told:
            problems.append(
                f"environments.{section}: environment {name!r} is already used by environments.{first} with another class, verifier, "
                "solved_threshold or kwargs; say the same in both, or keep one"
            )
    return problems


def _started(work: Callable[[], Any]) -> Future[Any]:
    """Return the future of `work`, which runs in a thread of its own that no one has to wait for."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            future.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - a plug-in's sys.exit() would end the event loop
            future.set_exception(RuntimeError(f"it raised {error!r}"))
        else:
            future.set_result(result)

    future.set_running_or_notify_cancel()
    threading.Thread(target=run, name="flywheel-env", daemon=True).start()
    return future


def environment_classes(recipe: Recipe) -> dict[str, Any]:
    """Return the classes of a recipe's environments, by environment name."""
    classes = ((section, environment_class(section, config)) for section, config in recipe.environments.items())
    return {getattr(cls, "name", section): cls for section, cls in classes}


def environment_maker(cls: Any, config: EnvironmentConfig) -> Callable[[], Any]:
    """Return what makes environments of a class, as a recipe's section of it says."""
    judged_here: Mapping[str, Any] = {"judge": False} if isinstance(cls, type) and issubclass(cls, ToolEnv) else {}
    return lambda: cls(**{**config.kwargs, **judged_here})


def _verifier(section: str, cls: Any, config: EnvironmentConfig) -> Verifier:
    name = config.verifier or getattr(cls, "verifier", None)
    if name is not None:
        where = f"environments.{section}.verifier"
        try:
            verifier: Verifier = resolve("verifiers", name)(**config.verifier_kwargs)
        except FlywheelError:
            raise
        except Exception as error:  # plug-in code
            raise ConfigError(f"{where}: making {name!r} raised {described(error)}; mend it, or its verifier_kwargs") from error
        if not isinstance(verifier, Verifier):
            raise ConfigError(f"{where}: {name!r} makes {verifier!r}, expected name, version, verify and close (flywheel/contracts.py)")
        return verifier
    threshold = config.solved_threshold if config.solved_threshold is not None else getattr(cls, "solved_threshold", None)
    if threshold is None:
        raise ConfigError(
            f"environments.{section}: it has no verifier, so its own rewards would be trusted; "
            f"say environments.{section}.solved_threshold (solved = return ≥ it), or name a verifier"
        )
    trusting: Verifier = resolve("verifiers", "env_reward")(threshold)
    return trusting
