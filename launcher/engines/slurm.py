"""A plan as a Slurm job."""

import codecs
from pathlib import Path

from launcher.engines.engine import ENDED, EngineError, Look
from launcher.engines.job import Job, Rendered
from launcher.engines.settings import read_settings
from launcher.engines.slurm_client import ask, look_at, look_at_account, said
from launcher.engines.slurm_script import OUTPUT_NAME, SCRIPT_NAME, script
from launcher.engines.slurm_settings import SlurmSettings, check_settings
from planner.base.errors import did_you_mean

_FORGOTTEN = "Invalid job id"
_PARTITION = "#SBATCH --partition="


class Slurm:
    def render(self, job: Job) -> Rendered:
        settings = read_settings(SlurmSettings, "slurm", job.settings)
        check_settings(settings, job.plan)
        return Rendered(
            files={SCRIPT_NAME: script(job, settings)},
            commands=(("sbatch", "--parsable", SCRIPT_NAME),),
        )

    def problems(self, rendered: Rendered, folder: Path) -> list[str]:
        tried = ask("sbatch", "--test-only", SCRIPT_NAME, folder=folder)
        if tried.returncode == 0:
            return []
        return [said(tried), *unknown_partition(rendered)]

    def submit(self, rendered: Rendered, folder: Path) -> str:
        answer = ask(*rendered.commands[0], folder=folder)
        if answer.returncode != 0:
            raise EngineError(f"sbatch refuses {folder / SCRIPT_NAME}: {said(answer)}")
        return answer.stdout.strip().partition(";")[0]  # of several clusters it adds the name

    def look(self, job_id: str) -> Look:
        shown = ask("scontrol", "--oneliner", "show", "job", job_id)
        if shown.returncode == 0:
            return look_at(shown.stdout)
        if _FORGOTTEN not in shown.stderr:
            return Look(state="unknown", detail=said(shown))
        found = look_at_account(accounted(job_id))
        if found is None:
            raise EngineError(
                f"Slurm has forgotten job {job_id}: it ended a while ago and there is no "
                "accounting (sacct). Its output is in the job folder of the run directory"
            )
        return found

    def log(self, job_id: str, folder: Path, offset: int) -> tuple[str, int]:
        """A character that is not written whole yet is left for the next call."""
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
        """A job that runs is asked as any launch is, which leaves it the time to save.

        Plain scancel leaves KillWait, 30 s where nobody has set it.
        """
        look = self.look(job_id)
        if look.state in ENDED:
            raise EngineError(f"job {job_id} has ended already: {look.state}")
        options = [] if look.state == "waiting" else ["--signal=TERM"]
        answer = ask("scancel", *options, job_id)
        if answer.returncode != 0:
            raise EngineError(f"scancel refuses job {job_id}: {said(answer)}")


def unknown_partition(rendered: Rendered) -> list[str]:
    """What was meant by partitions that the cluster does not have."""
    lines = rendered.files[SCRIPT_NAME].splitlines()
    wanted = [line.removeprefix(_PARTITION) for line in lines if line.startswith(_PARTITION)]
    known = ask("sinfo", "--noheader", "--format=%R").stdout.split()
    return [
        f"no partition is named {name!r}. {did_you_mean(name, known)}"
        for name in ",".join(wanted).split(",")
        if known and name and name not in known
    ]


def accounted(job_id: str) -> str:
    """From Slurm's accounting; nothing where the cluster keeps none."""
    options = ("--noheader", "--parsable2", "--allocations", "--format=State,ExitCode")
    try:
        answer = ask("sacct", *options, f"--jobs={job_id}")
    except EngineError:
        return ""
    return answer.stdout if answer.returncode == 0 else ""


ENGINE = Slurm()
