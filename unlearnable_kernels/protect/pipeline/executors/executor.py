"""Where chunks are rendered; each of the modules beside this one has a function ``execute`` that does it."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

from unlearnable_kernels.errors import UserError
from unlearnable_kernels.protect.pipeline.chunk import C, Chunk, R, Rendering, Result, Work
from unlearnable_kernels.protect.pipeline.executors import local
from unlearnable_kernels.protect.pipeline.executors.process import default_workers
from unlearnable_kernels.protect.pipeline.plan import Plan
from unlearnable_kernels.protect.pipeline.staging import Staging

NAMES = ("local", "ray")


@dataclass(frozen=True)
class Executor:
    """What renders chunks.

    Attributes:
        name: "local", for processes of this machine, or "ray", for tasks of a Ray cluster.
        workers: How many at a time, 0 for none but this process; by default one for each core,
            and none in a daemon, which may not start any.
        address: Of the Ray cluster; by default the one that RAY_ADDRESS names, otherwise one is started here.

    Raises:
        UserError: A value is not one of these.
    """

    name: str = "local"
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise UserError(f"workers must be 0 or more, not {self.workers}")
        if self.name not in NAMES:
            raise UserError(f"executor must be one of {', '.join(NAMES)}, not {self.name!r}")
        if self.name == "ray" and self.workers == 0:
            raise UserError("workers must be 1 or more with executor ray, not 0")
        if self.address is not None and self.name != "ray":
            raise UserError("an address goes with executor ray")

    def execute(
        self, rendering: Rendering, chunks: Sequence[Chunk], plan: Plan, staging: Staging
    ) -> Generator[Result, None, None]:
        """Render ``chunks``, yielding each result as soon as it is there, in any order.

        Raises:
            UserError: As each ``execute`` does.
        """
        if self.name == "ray" and chunks:
            from unlearnable_kernels.protect.pipeline.executors import ray

            held = staging.folder / "rendering"
            return ray.execute(rendering, chunks, self.workers, self.address, held, plan.made_on)
        workers = self.workers
        if workers is None:
            # Where there is nothing to decode or encode, starting a process takes longer than the work.
            idle = not rendering.source.is_encoded and not plan.writer.encodes
            workers = 0 if idle or len(chunks) == 1 else default_workers()
        workers = min(workers, len(chunks))
        return local.execute(rendering, chunks, workers, staging.lock, plan.made_on)

    def each(self, work: Work[C, R], items: Iterable[C]) -> Generator[R, None, None]:
        """Do ``work`` on each of ``items``, which needs no plan, as ``execute`` does on chunks."""
        if self.name == "ray":
            from unlearnable_kernels.protect.pipeline.executors import ray

            return ray.execute(work, items, self.workers, self.address, None, {})
        workers = default_workers() if self.workers is None else self.workers
        return local.execute(work, items, workers, None)
