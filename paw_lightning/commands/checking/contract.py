"""Whether an environment keeps the contract of `TextEnv`, found out by playing it."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from paw_lightning.commands.checking.findings import Finding, failure, ok, warning
from paw_lightning.commands.checking.location import described
from paw_lightning.commands.checking.probe import Answer, Breach, Trace, begin_probe, choose, play_probe, step
from paw_lightning.envs.base import FAILURES, TextEnv

SPLITS = ("train", "val", "test")
TASKS = 3
SLOW = 5.0
"""Seconds of a first episode after which one task has to do."""


def check_contract(factory: Callable[[str], TextEnv], max_steps: int, max_return: float | None = None) -> list[Finding]:
    """Build and play the environment of every split; `max_return`: R_max where the settings state it."""
    envs: dict[str, TextEnv] = {}
    findings = [_build(factory, split, envs) for split in SPLITS]
    findings = [f for f in findings if f.level != "ok"] or [ok("splits", f"built for {', '.join(SPLITS)}")]
    try:
        if "train" in envs:
            findings += _check_play(factory, envs, max_steps, max_return)
    except Breach as breach:
        findings.append(breach.finding)
    finally:
        findings += [problem for env in envs.values() if (problem := _close(env)) is not None]
    return findings


def _build(factory: Callable[[str], TextEnv], split: str, envs: dict[str, TextEnv]) -> Finding:
    try:
        env = envs[split] = factory(split)
        count = env.num_tasks
    except FAILURES as error:
        envs.pop(split, None)
        return failure("splits", f"the environment cannot be built for the split {split!r}: {described(error)}")
    if count is not None and (not isinstance(count, int) or count < 1):
        return failure("num_tasks", f"num_tasks of {split} is {count!r}; wanted 1 or more, or None for no end")
    return ok("splits", split)


def _close(env: TextEnv) -> Finding | None:
    try:
        env.close()
    except FAILURES as error:
        return warning("close", f"{type(env).__name__}.close() raised {described(error, type(env))}")
    return None


def _check_play(
    factory: Callable[[str], TextEnv], envs: dict[str, TextEnv], max_steps: int, max_return: float | None
) -> list[Finding]:
    """All that takes playing. Raises Breach where the environment cannot be played on."""
    env, start = envs["train"], time.perf_counter()
    traces = [play_probe(env, 0, max_steps)]
    tasks = list(range(TASKS if time.perf_counter() - start < SLOW else 1))
    traces += [play_probe(env, task, max_steps) for task in tasks[1:]]
    turns = sum(len(trace.answers) for trace in traces)
    findings = [ok("answers", f"{turns} steps of {len(traces)} train tasks, every answer of the right types")]
    determinism = _check_determinism(factory, traces, max_steps)
    findings.append(determinism)
    findings.append(_check_splits(envs, traces, max_steps))
    findings.append(_check_tasks(env, traces))
    findings += _check_reward(traces, max_return)
    findings.append(_check_commands(traces))
    if determinism.level == "ok":  # else nobody could tell what peeking changed
        findings.append(_check_peek(env, traces[0]))
    return findings


def _check_determinism(factory: Callable[[str], TextEnv], traces: list[Trace], steps: int) -> Finding:
    """Another instance plays the same tasks in the opposite order; every episode has to be the same."""
    other = factory("train")
    try:
        for trace in reversed(traces):
            again = play_probe(other, trace.task_seed, steps)
            if (where := difference(trace, again)) is not None:
                return failure(
                    "determinism",
                    f"two instances, the same seed ({trace.task_seed}) and the same actions: {where}. Draw all chance "
                    'from the seed and options["episode_seed"] of reset, and keep nothing of the episode before',
                )
    finally:
        _close(other)
    return ok("determinism", f"two instances answer alike on {len(traces)} tasks, in either order")


def difference(one: Trace, other: Trace) -> str | None:
    """The first difference of two episodes, in words; None where they are equal."""
    if one.task != other.task:
        return f"the tasks are {one.task!r} and {other.task!r}"
    pairs = zip([one.start, *one.answers], [other.start, *other.answers], strict=False)
    for turn, (a, b) in enumerate(pairs):
        if a != b:
            name = next(name for name in Answer.__dataclass_fields__ if getattr(a, name) != getattr(b, name))
            return f"at turn {turn} `{name}` is {_short(getattr(a, name))} and {_short(getattr(b, name))}"
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_splits(envs: dict[str, TextEnv], traces: list[Trace], steps: int) -> Finding:
    """Validation has to play other tasks than training."""
    if "val" not in envs:
        return failure("unseen tasks", "val cannot be built, so nothing can be compared with train")
    first = envs["val"]
    same = all(
        (trace.start, trace.task) == ((probe := begin_probe(first, trace.task_seed)).start, probe.task)
        for trace in traces
    )
    if same and difference(traces[0], play_probe(first, traces[0].task_seed, steps)) is None:
        return warning(
            "unseen tasks",
            f"seeds 0 to {len(traces) - 1} are the same tasks in train and val: success would be measured on tasks "
            "that were trained on. `split` has to change which task a seed stands for",
        )
    return ok("unseen tasks", "the same seeds are other tasks in val than in train")


def _check_tasks(env: TextEnv, traces: list[Trace]) -> Finding:
    """Different seeds are different tasks, and a finite split starts over."""
    count = env.num_tasks
    starts = {(trace.task, trace.start.observation) for trace in traces}
    if len(starts) == 1 and len(traces) > 1 and count != 1:
        return warning("num_tasks", f"seeds 0 to {len(traces) - 1} begin with one text: are they different tasks?")
    if count is None:
        return ok("num_tasks", "None: a task for every seed")
    over = begin_probe(env, count)
    if (over.task, over.start) != (traces[0].task, traces[0].start):
        return warning(
            "num_tasks", f"num_tasks is {count}, and seed {count} is another task than seed 0; wanted it to start over"
        )
    return ok("num_tasks", f"{count} train tasks")


def _check_reward(traces: list[Trace], max_return: float | None) -> list[Finding]:
    """R_max is stated and never exceeded; `won` is stated, and an episode that is won has a reward."""
    findings = []
    stated = [trace.max_reward if max_return is None else max_return for trace in traces]
    best = max(traces, key=lambda trace: trace.total)
    for trace, most in zip(traces, stated, strict=True):
        if most is not None and trace.total > most + 1e-6:
            text = f"task {trace.task_seed} paid {trace.total:g}, above its R_max {most:g}; state the largest return"
            findings.append(failure("max_reward", f"{text} as info['max_reward'] or reward_balance.max_return"))
            break
    else:
        if None in stated:
            text = "reset's info has no max_reward: reward_balance needs it there or as reward_balance.max_return"
            findings.append(warning("max_reward", text))
        else:
            findings.append(ok("max_reward", f"R_max {stated[0]:g}; the probe's best return is {best.total:g}"))
    return [*findings, _check_won(traces, stated)]


def _check_won(traces: list[Trace], stated: Sequence[float | None]) -> Finding:
    if all(trace.won is None for trace in traces):
        return warning(
            "won", f"won was never in info, in {len(traces)} episodes: if it never is, success will be 0 for ever"
        )
    for trace, most in zip(traces, stated, strict=True):
        if trace.ended and not trace.won and most is not None and most > 0 and trace.total >= most:
            return warning("won", f"task {trace.task_seed} paid its R_max {most:g} and info['won'] never was true")
        if trace.won and trace.total <= 0:
            return warning("won", f"task {trace.task_seed} was won with a return of {trace.total:g}")
    return ok("won", f"stated; {sum(bool(trace.won) for trace in traces)} of {len(traces)} probes won")


def _check_commands(traces: list[Trace]) -> Finding:
    answers = [answer for trace in traces for answer in (trace.start, *trace.answers[:-1])]
    listed = [answer.admissible for answer in answers if answer.admissible is not None]
    if not listed and traces[0].tools:
        names = ", ".join(tool["function"]["name"] for tool in traces[0].tools)
        return ok("tools", f"{names}; the probe calls them with made-up arguments")
    if not listed:
        return ok("commands", "no admissible_commands: the probe plays words of the observations")
    if not all(listed):
        return warning("commands", "admissible_commands was empty in mid-episode: nothing can be done there")
    return ok("commands", f"{min(map(len, listed))} to {max(map(len, listed))} admissible commands at a time")


def _check_peek(env: TextEnv, trace: Trace) -> Finding:
    """Looking at another action first must change nothing of the episode, random numbers included."""
    rng = random.Random("peek")
    again = begin_probe(env, trace.task_seed)
    latest = again.start
    try:
        for action in trace.actions:
            env.peek(choose(latest.admissible, latest.observation, rng, again.tools))
            seen = env.peek(action)
            latest = step(env, again, action)
            if seen != latest.observation:
                return failure(
                    "peek", f"peek({action!r}) said {_short(seen)}, and step then {_short(latest.observation)}"
                )
    except NotImplementedError:
        return ok("peek", "not there; only target_control.targets: wrong_action needs it")
    except FAILURES as error:
        if isinstance(error, Breach):
            raise
        return failure("peek", f"{type(env).__name__}.peek raised {described(error, type(env))}")
    where = difference(trace, again)
    if where is not None:
        return failure("peek", f"after peeking the same actions give another episode: {where}; copy what peek changes")
    return ok("peek", "answers as step does and changes nothing")
