"""Claims: photos that several starts of a command take one by one, on any machines that see the folders."""

from collections.abc import Iterator, Sequence

from filelock import SoftFileLease, Timeout

from colorize.inference.jobs import Job

LEASE_S = 60.0  # a photo whose holder has not been heard of for so long is another's to take


class Claims:
    """Photos that are not done, of which each start holds those that it is at.

    A hidden file beside the result says who holds it; its holder renews it by a thread, so that what a machine held
    that is lost comes free again.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.left, self.done_elsewhere = list(jobs), 0
        self._leases: dict[Job, SoftFileLease] = {}

    def free(self) -> Iterator[Job]:
        """Take and yield the photos that are free, each when it is asked for; those that others hold are `left`."""
        left, self.left = self.left, []
        for job in left:
            lease = self._leases.get(job)  # which knows since when it has not seen the other renew its own
            if lease is None and not job.done():
                job.result.parent.mkdir(parents=True, exist_ok=True)
                path = job.result.with_name(f".{job.result.name}.claim")
                lease = self._leases[job] = SoftFileLease(path, lease_duration=LEASE_S, thread_local=False)
            try:
                if lease is not None:
                    lease.acquire(timeout=0)
            except Timeout:
                self.left.append(job)
                continue
            if job.done():  # by the other, before it gave the photo back
                self.done_elsewhere += 1
                self.release(job)
            else:
                yield job

    def release(self, job: Job) -> None:
        """Give a photo back, done or failed."""
        if (lease := self._leases.pop(job, None)) is not None:
            lease.release()

    def release_all(self) -> None:
        for job in list(self._leases):
            self.release(job)
