"""The engine ``slurm``: a plan as a batch job."""

import codecs
from pathlib import Path

from launcher.engines.engine import FINAL_STATES, STATE_TITLES, EngineError, JobStatus
from launcher.engines.job import Job, Rendered
from launcher.engines.settings import read_settings
from launcher.engines.slurm_client import accounted_status, refusal_text, run_slurm, shown_status
from launcher.engines.slurm_script import OUTPUT_NAME, SCRIPT_NAME, script
from launcher.engines.slurm_settings import SlurmSettings, check_settings
from planner.base.errors import did_you_mean
from planner.base.phrases import Phrase

_FORGOTTEN = "Invalid job id"
_PARTITION = "#SBATCH --partition="


class Slurm:
    """A Slurm cluster, through its own commands."""

    def is_like_here(self, job: Job) -> bool:
        """Return True: a cluster's nodes share its disk."""
        return True

    def render(self, job: Job) -> Rendered:
        """Return the batch script and the command that submits it."""
        settings = read_settings(SlurmSettings, "slurm", job.settings)
        check_settings(settings, job.plan)
        return Rendered(
            files={SCRIPT_NAME: script(job, settings)},
            commands=(("sbatch", "--parsable", SCRIPT_NAME),),
        )

    def problems(self, rendered: Rendered, folder: Path) -> list[str]:
        """Return what sbatch objects to in the script."""
        tried = run_slurm("sbatch", "--test-only", SCRIPT_NAME, folder=folder)
        if tried.code == 0:
            return []
        return [refusal_text(tried), *unknown_partition(rendered)]

    def submit(self, rendered: Rendered, folder: Path) -> str:
        """Submit the script, and return the job's number."""
        done = run_slurm(*rendered.commands[0], folder=folder)
        if done.code != 0:
            raise EngineError(
                Phrase(
                    "sbatch refuses {folder}: {reason}",
                    folder=folder / SCRIPT_NAME,
                    reason=refusal_text(done),
                )
            )
        return done.output.strip().partition(";")[0]  # behind it is the cluster's name, if several

    def status(self, job_id: str) -> JobStatus:
        """Return the job's state, from the controller or else from the accounting."""
        shown = run_slurm("scontrol", "--oneliner", "show", "job", job_id)
        if shown.code == 0:
            return shown_status(shown.output)
        if _FORGOTTEN not in shown.errors:
            return JobStatus(state="unknown", detail=refusal_text(shown))
        status = accounted_status(accounted(job_id))
        if status is None:
            raise EngineError(
                Phrase(
                    "Slurm has forgotten job {job_id}: it ended a while ago and there is no "
                    "accounting (sacct). Its output is in the job folder of the run directory",
                    job_id=job_id,
                )
            )
        return status

    def log(self, job_id: str, folder: Path, offset: int) -> tuple[str, int]:
        """Return what the job has printed since ``offset``, in bytes, and the next offset.

        A character that is not written whole yet is left for the next call.
        """
        try:
            with (folder / OUTPUT_NAME.format(job_id)).open("rb") as file:
                file.seek(offset)
                content = file.read()
        except FileNotFoundError:
            return "", offset
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(content)
        return text, offset + len(content) - len(decoder.getstate()[0])

    def cancel(self, job_id: str) -> None:
        """End a job that waits; send SIGTERM to one that runs, which leaves it the time to save.

        Plain scancel leaves KillWait, 30 s by default.
        """
        status = self.status(job_id)
        if status.state in FINAL_STATES:
            raise EngineError(
                Phrase(
                    "job {job_id} has already ended: {state}",
                    job_id=job_id,
                    state=STATE_TITLES[status.state],
                )
            )
        options = [] if status.state == "waiting" else ["--signal=TERM"]
        done = run_slurm("scancel", *options, job_id)
        if done.code != 0:
            raise EngineError(
                Phrase(
                    "scancel refuses job {job_id}: {reason}",
                    job_id=job_id,
                    reason=refusal_text(done),
                )
            )


def unknown_partition(rendered: Rendered) -> list[str]:
    """Return a sentence per partition that the cluster does not have."""
    lines = rendered.files[SCRIPT_NAME].splitlines()
    wanted = [line.removeprefix(_PARTITION) for line in lines if line.startswith(_PARTITION)]
    known = run_slurm("sinfo", "--noheader", "--format=%R").output.split()
    return [
        Phrase(
            "no partition is named {name!r}. {question}",
            name=name,
            question=did_you_mean(name, known),
        )
        for name in ",".join(wanted).split(",")
        if known and name and name not in known
    ]


def accounted(job_id: str) -> str:
    """Return sacct's line on a job; empty if the cluster keeps no accounting."""
    options = ("--noheader", "--parsable2", "--allocations", "--format=State,ExitCode")
    try:
        done = run_slurm("sacct", *options, f"--jobs={job_id}")
    except EngineError:
        return ""
    return done.output if done.code == 0 else ""


ENGINE = Slurm()
