"""The jobs of a sweep as a table: status, score, and why one failed."""

import shlex
from pathlib import Path

from segtrain.report.text import score_text, table
from segtrain.runs.claim import is_held
from segtrain.runs.sweep import SweepJob

LINE = 118  # columns
SHORTEST = 30  # of a reason


def jobs_table(jobs: list[SweepJob], folder: Path) -> str:
    """A row a job, in order; below it what to do next."""
    rows = []
    for job in jobs:
        best = job.result.best
        score = f"{best['monitor']} {score_text(best['value'], job.result.unit)}" if best else ""
        reason = (job.result.error or "").split("\n")[0]
        status = job.result.status or "not started"
        if status == "running" and not is_held(job.folder):
            status, reason = "killed", "its process has ended"
        rows.append([job.folder.name, status, score, reason])
    before = sum(max(len(row[column]) for row in rows) + 3 for column in range(3)) if rows else 0
    for row in rows:
        row[3] = row[3][: max(LINE - before, SHORTEST)]
    done = sum(job.result.status == "finished" for job in jobs)
    title = f"{done} of {len(jobs)} jobs finished in {folder}"
    named = shlex.quote(str(folder))
    hint = f"`segtrain compare {named}`" + (f", `segtrain resume {named}` for the others" if done < len(jobs) else "")
    return f"{table(['job', 'status', 'best', 'reason'], rows, title, left=('status', 'best', 'reason'))}\n\n{hint}"
