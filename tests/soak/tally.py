"""What came of the requests: counted by kind of request and class of outcome."""

import collections
import time

OK = "ok"


class Failure(Exception):
    """A class of outcome, and what is worth saying about this one."""

    def __init__(self, outcome, detail=""):
        super().__init__(outcome)
        self.outcome = outcome
        self.detail = detail


class Tally:
    def __init__(self):
        self.outcomes = collections.Counter()
        self.latencies = collections.defaultdict(list)
        self.examples = {}
        self.began = time.monotonic()

    def add(self, kind, outcome, seconds=None, detail=""):
        self.outcomes[kind, outcome] += 1
        if outcome == OK and seconds is not None:
            self.latencies[kind].append(seconds)
        elif outcome != OK:
            at = time.monotonic() - self.began
            self.examples.setdefault((kind, outcome), f"first at {at:.1f} s {detail}".rstrip())

    def failed(self, forgiven):
        """What must not have happened: (kind, outcome) -> count."""
        return {
            key: count
            for key, count in sorted(self.outcomes.items())
            if key[1] != OK and not forgiven(*key)
        }

    def table(self):
        kinds = sorted({kind for kind, _ in self.outcomes})
        lines = [f"{'requests':<14}{'ok':>9}{'failed':>8}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}  failures"]
        for kind in kinds:
            failures = {
                outcome: count
                for (other, outcome), count in self.outcomes.items()
                if other == kind and outcome != OK
            }
            times = sorted(self.latencies[kind])
            named = ", ".join(
                f"{outcome} x{count} ({self.examples[kind, outcome]})"
                for outcome, count in sorted(failures.items())
            )
            lines.append(
                f"{kind:<14}{self.outcomes[kind, OK]:>9}{sum(failures.values()):>8}"
                f"{share(times, 0.5):>9}{share(times, 0.99):>9}{share(times, 1.0):>9}  {named}"
            )
        return "\n".join(lines)


def share(times, part):
    """The value that `part` of the times do not exceed, in ms."""
    if not times:
        return "-"
    index = min(len(times) - 1, int(part * len(times)))
    return f"{times[index] * 1000:.1f}"
