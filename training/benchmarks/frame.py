"""Measure variants of the same work, each in a process of its own, in turn and round by round.

Every process is started and warmed up once. In a round each process has a turn, so that a machine that becomes slower
or faster does so for all; every other round goes in the opposite order. The processor time that anything else takes
during a turn is noted, and a round that was disturbed is repeated.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import multiprocessing
import os
import signal
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing import resource_tracker

import psutil

from training.command_line import hidden_stderr
from training.launch import ending_with_parent
from training.measure import process_memory

# The CPU is measured: networks of other libraries are not placed on a GPU by themselves, ours are.
CPU = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}  # without the messages of TensorFlow
WARM_UP = 2  # steps before the first round: the first traces and compiles
DISTURBED = 0.15  # cores that others may use during a turn


@dataclass(frozen=True)
class Variant:
    """One way to do some work.

    Attributes:
        name: Its name in tables.
        build: A function of a module that returns the step: a function without arguments that does the work once and
            returns when it is done.
        arguments: The arguments of `build`.
        environment: Environment variables that its process starts with.
        needs: Modules that must be installed. They are imported before `build` is called, and do not count in the
            memory that is reported.
    """

    name: str
    build: Callable
    arguments: dict = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    def missing(self):
        """Return the modules that it needs and that are not installed."""
        return [module for module in self.needs if importlib.util.find_spec(module) is None]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast one variant is as another; the median of the rounds' ratios is compared with `at_least`.

    Attributes:
        variant, other: Names of the variants.
        at_least: The target; None if there is none.
        alternatives: Names of further variants; the one with the least median is compared.
    """

    variant: str
    other: str
    at_least: float | None = None
    alternatives: tuple[str, ...] = ()

    def __str__(self):
        if self.alternatives:
            return f"fastest of {', '.join((self.variant, *self.alternatives))} / {self.other}"
        return f"{self.variant} / {self.other}"

    def values(self, seconds):
        """Return the ratio of each round."""
        measured = [name for name in (self.variant, *self.alternatives) if name in seconds]
        fastest = min(measured, key=lambda name: statistics.median(seconds[name]))
        return [other / own for own, other in zip(seconds[fastest], seconds[self.other], strict=True)]

    def holds(self, value):
        """Return whether a value reaches the target."""
        return self.at_least is None or value >= self.at_least

    @property
    def target(self):
        """The target as text."""
        return "" if self.at_least is None else f"at least {self.at_least:g}"


@dataclass(frozen=True)
class Limit:
    """How many seconds a variant takes, or takes longer than another.

    Attributes:
        variant: Name of the variant.
        at_most: The target in seconds.
        other: Name of the variant whose time is subtracted, if any.
    """

    variant: str
    at_most: float
    other: str | None = None

    def __str__(self):
        return f"{self.variant} - {self.other}, s" if self.other else f"{self.variant}, s"

    def values(self, seconds):
        """Return the seconds of each round."""
        own = seconds[self.variant]
        return [a - b for a, b in zip(own, seconds[self.other], strict=True)] if self.other else own

    def holds(self, value):
        """Return whether a value reaches the target."""
        return value <= self.at_most

    @property
    def target(self):
        """The target as text."""
        return f"at most {self.at_most:g}"


@dataclass(frozen=True)
class Group:
    """Variants that are measured together.

    Attributes:
        title: What all of them do.
        variants: The variants.
        comparisons: Ratios and Limits.
        unit: images/s, ms or s, per step.
        images: Images per step, for images/s.
        repeated: Whether a turn repeats the step for some seconds, after one that does not count; otherwise it is one
            step, which may return its own seconds.
    """

    title: str
    variants: tuple[Variant, ...]
    comparisons: tuple[Ratio | Limit, ...] = ()
    unit: str = "images/s"
    images: int = 1
    repeated: bool = True


@dataclass
class Result:
    """What was measured of a group.

    Attributes:
        group: The group.
        seconds: {variant: seconds per step in each round}.
        memory: {variant: MiB by which building and steps raised the peak memory of its process}.
        load: {variant: greatest number of cores that others used during a turn}.
        disturbed: Number of the rounds that were disturbed all the same.
        missing: {variant: modules that are not installed}.
        failed: {variant: the error}.
        notes: Further lines of text.
    """

    group: Group
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    load: dict[str, float] = field(default_factory=dict)
    disturbed: int = 0
    missing: dict[str, list[str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Turn:
    """A turn of a variant: seconds per step, MiB of memory so far, and the cores that others used meanwhile."""

    seconds: float
    memory: float
    load: float = 0.0


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Attributes:
        rounds: Rounds that count.
        seconds: Seconds of a turn; a step that takes longer is done once.
        only: Only groups with this text in their title are measured.
    """

    rounds: int = 5
    seconds: float = 3.0
    only: str = ""


class Failed(Exception):
    """A variant cannot be measured; the message says why."""


class Process:
    """The process of a variant.

    Args:
        variant: The variant.
    """

    def __init__(self, variant):
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(variant, other))
        with changed_environment(variant.environment | CPU):
            self.process.start()
        other.close()

    def answer(self):
        """Return the next answer of the process.

        Raises:
            Failed: The process raised an error or was killed.
        """
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise Failed("its process was killed; if memory ran out, close other programs and try again") from None
        if isinstance(answer, str):
            raise Failed(answer)
        return answer

    def turn(self, seconds, others_seconds):
        """Let the process repeat its step for some seconds, None for one step, and return the Turn."""
        started, before = time.perf_counter(), others_seconds(self.process.pid)
        with contextlib.suppress(BrokenPipeError):  # then `answer` says so
            self.connection.send((seconds,))
        turn = self.answer()
        others = others_seconds(self.process.pid) - before
        return dataclasses.replace(turn, load=max(others / (time.perf_counter() - started), 0.0))

    def end(self):
        """End the process, and those that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self.process.kill()
        self.process.join()


def serve(variant, connection):
    """Build a variant, warm it up, and do its step whenever the connection asks for it: the program of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the benchmark, which ends its processes
    if end_with_parent := ending_with_parent():  # even if it is killed
        end_with_parent()
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1), os.dup2(nothing, 2)
    try:
        for module in variant.needs:
            importlib.import_module(module)
        before = process_memory()
        step = variant.build(**variant.arguments)
        for _ in range(WARM_UP):
            step()
        connection.send(None)
        while True:
            (seconds,) = connection.recv()
            connection.send(Turn(seconds_per_step(step, seconds), process_memory() - before))
    except EOFError:  # the benchmark has ended
        pass
    except BaseException:
        connection.send(traceback.format_exc().strip().splitlines()[-1])
    os._exit(0)  # threads of a library may still compute


def seconds_per_step(step, seconds):
    """Return the mean seconds of a step that is repeated for some seconds, after one that does not count: the caches
    are other processes' by now. With None it is done once, and may return its own seconds."""
    if seconds is None:
        started = time.perf_counter()
        own = step()
        return own if isinstance(own, float) else time.perf_counter() - started
    step()
    count, started = 0, time.perf_counter()
    while (taken := time.perf_counter() - started) < seconds or not count:
        step()
        count += 1
    return taken / count


def others_seconds(pid):
    """Return the processor seconds so far of everything but a process and those that it has started."""
    times = psutil.cpu_times()
    busy = sum(getattr(times, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq", "steal"))
    process = psutil.Process(pid)
    for each in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            own = each.cpu_times()
            busy -= own.user + own.system + own.children_user + own.children_system
    return busy


@contextlib.contextmanager
def changed_environment(variables):
    """Set environment variables for a block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def measure(group, settings, others_seconds=others_seconds):
    """Measure the variants of a group in turn.

    A round with a turn in which others used more than `DISTURBED` cores is repeated, as long as no more than twice the
    rounds are measured; the least disturbed rounds count.

    Args:
        group: The group.
        settings: The Settings.
        others_seconds: A function (process number) -> the processor seconds so far of everything else.

    Returns:
        The Result.
    """
    result = Result(
        group, missing={variant.name: missing for variant in group.variants if (missing := variant.missing())}
    )
    seconds = settings.seconds if group.repeated else None
    with hidden_stderr():  # multiprocessing would report there what processes that are killed leave behind
        resource_tracker.ensure_running()
    with contextlib.ExitStack() as stack:
        processes = {}

        def of_each(function, names):
            """Return {variant: function(its process)}; a variant that fails is left out from then on."""
            values = {}
            for name in names:
                try:
                    values[name] = function(processes[name])
                except Failed as error:
                    result.failed[name] = str(error)
                    processes[name].end()
            for name in result.failed:
                processes.pop(name, None)
            return values

        for variant in group.variants:  # one after the other: building takes more memory than what is measured
            if variant.name not in result.missing:
                processes[variant.name] = Process(variant)
                stack.callback(processes[variant.name].end)
                of_each(Process.answer, [variant.name])
        rounds = []
        while processes and undisturbed(rounds) < settings.rounds and len(rounds) < 2 * settings.rounds:
            order = list(processes)[:: -1 if len(rounds) % 2 else 1]
            rounds.append(of_each(lambda process: process.turn(seconds, others_seconds), order))
        rounds = sorted(rounds, key=most_load)[: settings.rounds]
        for name in processes:
            turns = [turns[name] for turns in rounds]
            result.seconds[name] = [turn.seconds for turn in turns]
            result.memory[name] = max(turn.memory for turn in turns)
            result.load[name] = max(turn.load for turn in turns)
        result.disturbed = len(rounds) - undisturbed(rounds)
    return result


def most_load(turns):
    """Return the greatest load of a round, {variant: Turn}."""
    return max((turn.load for turn in turns.values()), default=0.0)


def undisturbed(rounds):
    """Return the number of rounds that nothing else disturbed."""
    return sum(most_load(turns) <= DISTURBED for turns in rounds)
