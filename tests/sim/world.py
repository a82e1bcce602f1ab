"""The simulated cluster and its model server: jobs wait, load, serve and end; requests find a job or wait for one."""

from __future__ import annotations

import heapq
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

from .people import DAY, Ask, Life, Sleep, life

# requests that one job answers at the same time; more wait within vLLM
CAPACITY = 16
STARTUP_S, STARTUP_SPREAD = 300.0, 0.2
TICK_S = 60.0
# a person whose answer was cut asks again after this time; one who waits longer than this gives up
AGAIN_S = 30.0
PATIENCE_S = 3600.0


@dataclass
class SimJob:
    """One job. Times are seconds; None: not yet."""

    name: str
    gpus: int
    walltime_s: float
    submitted: float
    begin: float | None = None
    replaces: str | None = None
    start: float | None = None
    ready: float | None = None
    ended: float | None = None
    leaving_since: float | None = None
    last_request_end: float | None = None
    # open streams: request number -> when it began
    streams: dict[int, float] = field(default_factory=dict)
    serving_s: float = 0.0
    busy_since: float = 0.0

    @property
    def accepts(self) -> bool:
        """Whether it takes requests."""
        return self.ready is not None and self.ended is None and self.leaving_since is None


@dataclass
class SimRequest:
    """One request of one person."""

    number: int
    person: int
    asked: float
    service_s: float
    served_by: SimJob | None = None


@dataclass
class Outcome:
    """What a simulation counts."""

    gpu_s: float = 0.0
    serving_gpu_s: float = 0.0
    waits: list[float] = field(default_factory=list)
    # answers that the end of a job cut, and requests whose people gave up
    cut: int = 0
    gave_up: int = 0
    jobs: int = 0
    # stretches of (start, ready, end, GPUs) of jobs, for the picture
    spans: list[tuple[float, float | None, float, int]] = field(default_factory=list)


# one queue wait in seconds, drawn from a distribution
Waits = Callable[[random.Random], float]


class Strategy(ABC):
    """What keeps the model there."""

    name = ""

    @abstractmethod
    def tick(self, world: World) -> None:
        """Act; called every TICK_S, and when a request waits or a job changes."""

    def job_ended(self, world: World, job: SimJob) -> None:
        """Learn that a job has reached its walltime."""
        return


class World:
    """A heap of events, and everything that they change."""

    def __init__(self, strategy: Strategy, people: int, days: int, seed: int, waits: Waits) -> None:
        self.strategy, self.days = strategy, days
        self.now, self.end = 0.0, days * DAY
        self.jobs: list[SimJob] = []
        self.queue_waits: list[float] = []
        self.startups: list[float] = []
        self.held: list[SimRequest] = []
        self.open: dict[int, SimRequest] = {}
        self.demand_at: float | None = None
        self.last_request_end: float | None = None
        self.high_since: float | None = None
        self.out = Outcome()
        self._waits = waits
        self._cluster = random.Random(f"cluster {seed}")
        self._homes: dict[int, SimJob] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order, self._numbers = count(), count()
        self._lives: list[Life] = [life(random.Random(f"person {seed} {n}"), days) for n in range(people)]
        self._acts = False

    def run(self) -> Outcome:
        """Simulate all days and return what was counted."""
        for person in range(len(self._lives)):
            self._resume(person)
        self.at(0.0, self._tick)
        while self._events and self._events[0][0] < self.end:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = self.end
        for job in list(self.jobs):
            self.end_job(job)
        return self.out

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Have something happen at that time."""
        heapq.heappush(self._events, (max(when, self.now), next(self._order), event))

    @property
    def waiting(self) -> int:
        """Requests that wait within vLLM: a job takes requests, and all its places are in use."""
        return len(self.held) if any(job.accepts for job in self.jobs) else 0

    def submit(self, walltime_s: float, gpus: int, begin: float | None = None, replaces: str | None = None) -> SimJob:
        """Put a job into the queue."""
        job = SimJob(f"job-{self.out.jobs}", gpus, walltime_s, self.now, begin, replaces)
        self.out.jobs += 1
        self.jobs.append(job)
        waited = self._waits(self._cluster)
        self.at(max(self.now, begin or 0.0) + waited, lambda: self._start(job, waited))
        return job

    def leave(self, job: SimJob, leaves: bool) -> None:
        """Stop or resume new requests to a job."""
        job.leaving_since = self.now if leaves else None
        if not leaves:
            self._dispatch()

    def end_job(self, job: SimJob) -> None:
        """End a job; the answers that are open on it are cut."""
        if job.ended is not None:
            return
        job.ended = self.now
        self.jobs.remove(job)
        cut = [self.open.pop(number) for number in job.streams]
        if job.streams:
            job.serving_s += self.now - job.busy_since
        job.streams.clear()
        if job.start is not None:
            self.out.gpu_s += (self.now - job.start) * job.gpus
            self.out.serving_gpu_s += job.serving_s * job.gpus
            self.out.spans.append((job.start, job.ready, self.now, job.gpus))
        for request in cut if self.now < self.end else ():
            self.out.cut += 1
            self.at(self.now + AGAIN_S, lambda r=request: self._ask(r.person, r.service_s))  # type: ignore[misc]

    def _tick(self) -> None:
        self._act()
        self.at(self.now + TICK_S, self._tick)

    def _act(self) -> None:
        """Let the strategy act, until it changes nothing more within this moment."""
        if self._acts:
            return
        self._acts = True
        high = self.waiting > 5 or any(len(job.streams) > 0.8 * CAPACITY for job in self.jobs)
        self.high_since = (self.high_since if self.high_since is not None else self.now) if high else None
        self.strategy.tick(self)
        self._acts = False

    def _start(self, job: SimJob, waited: float) -> None:
        if job.ended is None:
            job.start = self.now
            self.queue_waits.append(waited)
            took = STARTUP_S * self._cluster.lognormvariate(0, STARTUP_SPREAD)
            self.at(self.now + took, lambda: self._ready(job, took))
            self.at(self.now + job.walltime_s, lambda: self._walltime(job))

    def _ready(self, job: SimJob, took: float) -> None:
        if job.ended is None:
            job.ready = self.now
            self.startups.append(took)
            self._dispatch()
            self._act()

    def _walltime(self, job: SimJob) -> None:
        if job.ended is None:
            self.end_job(job)
            self.strategy.job_ended(self, job)
            self._act()

    def _resume(self, person: int) -> None:
        try:
            step = self._lives[person].send(self.now) if self.now else next(self._lives[person])
        except StopIteration:
            return
        if isinstance(step, Sleep):
            self.at(step.until, lambda: self._resume(person))
        elif isinstance(step, Ask):
            self._ask(person, step.service_s)

    def _ask(self, person: int, service_s: float) -> None:
        request = SimRequest(next(self._numbers), person, self.now, service_s)
        self.held.append(request)
        self._dispatch()
        if request.served_by is None:
            if not any(job.accepts for job in self.jobs):
                self.demand_at = self.now
            self.at(self.now + PATIENCE_S, lambda: self._give_up(request))
            self._act()

    def _give_up(self, request: SimRequest) -> None:
        if request.served_by is None and request in self.held:
            self.held.remove(request)
            self.out.gave_up += 1
            self.out.waits.append(self.now - request.asked)
            self._resume(request.person)

    def _dispatch(self) -> None:
        accepting = [job for job in self.jobs if job.accepts]
        while self.held and accepting:
            request = self.held[0]
            home = self._homes.get(request.person)
            least = min(accepting, key=lambda job: len(job.streams))
            job = home if home is not None and home.accepts and len(home.streams) < CAPACITY else least
            if len(job.streams) >= CAPACITY:
                return
            self.held.pop(0)
            self._homes[request.person] = request.served_by = job
            if not job.streams:
                job.busy_since = self.now
            job.streams[request.number] = self.now
            self.open[request.number] = request
            self.out.waits.append(self.now - request.asked)
            self.at(self.now + request.service_s, lambda r=request, j=job: self._answered(r, j))  # type: ignore[misc]

    def _answered(self, request: SimRequest, job: SimJob) -> None:
        if job.streams.pop(request.number, None) is None:
            return
        del self.open[request.number]
        job.last_request_end = self.last_request_end = self.now
        if not job.streams:
            job.serving_s += self.now - job.busy_since
            if job.leaving_since is not None:
                self._act()
        self._dispatch()
        self._resume(request.person)


def lognormal_waits(median_s: float, spread: float) -> Waits:
    """Return a distribution of queue waits."""
    return lambda rng: median_s * rng.lognormvariate(0, spread)


def measured_waits(seconds: Sequence[float]) -> Waits:
    """Return the distribution of measured waits."""
    return lambda rng: rng.choice(seconds)
