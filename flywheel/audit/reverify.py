"""Judges attempts that taught again, in fresh sandboxes, and says where the verdict is another one."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from flywheel.audit.findings import Finding, Level
from flywheel.audit.taught import Taught
from flywheel.contracts import Verifier
from flywheel.judge import judge
from flywheel.store.reader import AttemptInfo, Reader
from flywheel.types import Outcome

JUDGED = ("solved", "failed", "tampered")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rechecked:
    """An attempt that taught and the outcomes of judging it again: once where it agreed, else twice."""

    info: AttemptInfo
    outcomes: tuple[Outcome, ...]

    @property
    def is_judged(self) -> bool:
        """Whether a verdict was reached."""
        return "infra_error" not in self.outcomes

    @property
    def agrees(self) -> bool:
        """Whether the verdict is the one that taught."""
        return self.is_judged and self.outcomes[0] == self.info.outcome


def reverify(
    reader: Reader, lessons: Taught, verifiers: Mapping[str, Verifier], *, sample: int | None, seed: int, threads: int
) -> list[Rechecked]:
    """Judge attempts that taught again, in order of writing.

    Args:
        reader: The store.
        lessons: The attempts that taught.
        verifiers: By environment; attempts of others are left out.
        sample: How many, drawn evenly over the run by `seed`; None: all.
        seed: Picks the sample.
        threads: How many at once.
    """
    # What never got to a verifier (`truncated`, a limit of the rollout's) has no verdict to repeat.
    usable = [
        info
        for info in reader.attempts(readable=True)
        if info.id in lessons.ids and info.env in verifiers and info.outcome in JUDGED and info.verifier == verifiers[info.env].name
    ]
    places = range(len(usable))
    chosen = places if sample is None or sample >= len(usable) else sorted(random.Random(seed).sample(places, sample))
    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(pool.map(lambda info: _again(reader, verifiers[info.env], info), [usable[at] for at in chosen]))


def verdict_findings(
    reader: Reader, lessons: Taught, checked: Sequence[Rechecked], verifiers: Mapping[str, Verifier], *, max_flaky: float
) -> list[Finding]:
    """Return what judging again says, and whether verifiers have changed since."""
    findings = []
    judged = [found for found in checked if found.is_judged]
    changed = [found for found in judged if not found.agrees]
    broken = [found for found in checked if not found.is_judged]
    if not checked:
        findings.append(Finding(level="warn", name="re-verified", text=f"no attempt that {lessons.how} could be judged again"))
    else:
        share = len(changed) / max(1, len(judged))
        flaky = [found for found in changed if len(set(found.outcomes)) > 1]
        kinds = Counter(f"{found.info.outcome} → {found.outcomes[0]} ({found.info.env}/{found.info.family})" for found in changed)
        text = f"{len(judged) - len(changed)} of {len(judged)} verdicts that {lessons.how} are the same again"
        if changed:
            text += f"; {share:.1%} changed: {', '.join(f'{n} × {kind}' for kind, n in kinds.most_common())}"
            text += f"; {len(flaky)} of them changed once more at a third look" if flaky else ""
        level: Level = "ok" if not changed else "warn" if share <= max_flaky else "fail"
        findings.append(Finding(level=level, name="re-verified", text=text, ids=tuple(found.info.id for found in changed)))
    if broken:
        text = f"{len(broken)} attempts could not be judged again for a fault that is nobody's"
        findings.append(Finding(level="warn", name="infra_error", text=text, ids=tuple(found.info.id for found in broken)))
    return findings + _versions(reader, verifiers)


def _again(reader: Reader, verifier: Verifier, info: AttemptInfo) -> Rechecked:
    experience = reader.experience(info.id)
    outcomes = [judge(verifier, experience.task, experience.trajectory).outcome]
    if outcomes[0] not in (info.outcome, "infra_error"):
        outcomes.append(judge(verifier, experience.task, experience.trajectory).outcome)
    return Rechecked(info=info, outcomes=tuple(outcomes))


def _versions(reader: Reader, verifiers: Mapping[str, Verifier]) -> list[Finding]:
    judged = "outcome IN ('solved', 'failed', 'tampered')"
    asked = f"SELECT env, verifier, verifier_version, count(*) FROM experiences WHERE {judged} GROUP BY 1, 2, 3"
    findings = []
    for env, name, version, count in reader.query(asked):
        now = verifiers.get(env)
        if now is None or (name, version) == (now.name, now.version):
            continue
        text = f"{count} attempts at {env} were judged by {name} {version}, and the verifier is {now.name} {now.version} now"
        findings.append(Finding(level="warn", name="verifier version", text=text))
    return findings or [Finding(level="ok", name="verifier version", text="everything was judged by the verifiers that are here now")]
