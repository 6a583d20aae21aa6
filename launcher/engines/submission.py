"""A job's way through an engine: it is written, checked, submitted, followed, cancelled."""

import shlex
import signal
import sys
import time
from collections.abc import Mapping

from launcher.data.sources import check_named
from launcher.engines.engine import (
    ELSEWHERE,
    FINAL_STATES,
    STATE_TITLES,
    Engine,
    EngineError,
    EngineName,
    Foreground,
    JobStatus,
    Renderer,
    engine_named,
)
from launcher.engines.job import PLAN_NAME, Job, Rendered
from launcher.lifecycle.begin import check_data_of
from launcher.lifecycle.preflight import needed_disk_bytes, require_software
from launcher.lifecycle.resume import check_nothing_to_resume, interrupted_plan
from launcher.run.read_plan import plan_text
from launcher.run.run_directory import RunDirectory, check_may_run_in, create
from launcher.storage.json_files import read_json, write_json
from planner.base.errors import InvalidRequestError
from planner.base.output_file import write_whole
from planner.base.phrases import Joined, Phrase
from planner.base.printable import print_text

ASK_SECONDS = 2.0
"""Seconds between two questions to an engine about a job that is followed."""


def dry_run_text(engine: Renderer, job: Job) -> str:
    """Return every file that would be written, and the commands that would submit them."""
    rendered = engine.render(job)
    parts: list[str] = [Phrase("run directory: {directory}", directory=job.directory)]
    for name, text in rendered.files.items():
        parts += [f"{job.folder / name}:", text.rstrip("\n")]
    parts += [Phrase("submit:"), *(f"  {shlex.join(command)}" for command in rendered.commands)]
    return Joined("\n", [*parts, ""])


def run_job(name: EngineName, job: Job, *, dry_run: bool, detach: bool) -> int:
    """Submit a job and follow it, or run it in the foreground; return an exit code.

    ``dry_run`` only prints it, and ``detach`` does not follow it. Raise ``EngineError`` if the
    engine refuses it.
    """
    engine = engine_named(name)
    if dry_run:
        check_data_of(job.plan, elsewhere=not engine.is_like_here(job))
        print_text(dry_run_text(engine, job), end="")
        return 0
    if detach and isinstance(engine, Foreground):
        raise InvalidRequestError(
            Phrase("--on {name} has no jobs to detach from: leave --detach out", name=name)
        )
    rendered = engine.render(job)
    check_may_run_in(job.directory)
    run = RunDirectory(job.directory)
    check_no_job(run)
    needed_bytes = require_runnable(job, run, like_here=engine.is_like_here(job))
    create(job.directory, needed_bytes=needed_bytes)
    write_files(job, rendered)
    problems = engine.problems(rendered, job.folder)
    if problems:
        raise EngineError(
            Phrase(
                "{name} refuses {folder}: {problems}",
                name=name,
                folder=job.folder,
                problems=Joined("; ", problems),
            )
        )
    if isinstance(engine, Foreground):
        return engine.run(job, rendered)
    job_id = engine.submit(rendered, job.folder)
    write_json(run.job, {"engine": name, "id": job_id})
    print_text(
        Phrase("{name}: job {job_id}, {folder}", name=name, job_id=job_id, folder=job.folder)
    )
    return 0 if detach else follow(run)


def require_runnable(job: Job, run: RunDirectory, *, like_here: bool) -> int:
    """Return the bytes of disk that a run needs here.

    Raise ``InvalidRequestError`` for what its nodes would refuse, as far as it can be known:
    ``like_here`` says that they have this machine's files and packages.
    """
    start = job.start
    if not (start.resume or start.begin_or_resume):
        check_nothing_to_resume(run)
    if not (start.resume and like_here):
        check_named(job.plan.data, elsewhere=not like_here)
    if not like_here:
        return 0
    if start.resumes(run):
        interrupted_plan(job.plan, run)
    require_software(job.plan)
    return needed_disk_bytes(job.plan)


def check_no_job(run: RunDirectory) -> None:
    """Raise ``InvalidRequestError`` if the run directory has a job that waits or runs."""
    if not run.job.is_file():
        return
    engine, job_id = submitted(run)
    try:
        status = engine.status(job_id)
    except EngineError:
        return  # the engine has forgotten it
    if status.state in ("waiting", "running"):
        raise InvalidRequestError(
            Phrase(
                "{path} has a job that is {state}, {job_id}: launch --follow {path} shows "
                "it, launch --cancel {path} ends it",
                path=run.path,
                state=STATE_TITLES[status.state],
                job_id=job_id,
            )
        )


def require_engine(options: Mapping[str, object]) -> None:
    """Raise ``InvalidRequestError`` if one of these options is set, which only engines read."""
    for option, value in options.items():
        if value:
            raise InvalidRequestError(
                Phrase("{option} needs --on {engines}", option=option, engines="|".join(ELSEWHERE))
            )


def write_files(job: Job, rendered: Rendered) -> None:
    """Write the plan and the rendered files into the job's folder."""
    job.folder.mkdir(parents=True, exist_ok=True)
    files = {PLAN_NAME: plan_text(job.plan), **rendered.files}
    for file_name, text in files.items():
        write_whole(job.folder / file_name, text)


def follow(run: RunDirectory) -> int:
    """Print the job's own lines until it ends, and return the training's exit code.

    Ctrl-C leaves the job running, and says how to follow it again.
    """
    engine, job_id = submitted(run)
    offset, before = 0, JobStatus(state="unknown")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            now = engine.status(job_id)
            if (now.state, now.detail) != (before.state, before.detail):
                words = Phrase("job"), job_id, STATE_TITLES[now.state], now.detail
                print_text(Joined(" ", filter(None, words)))
            before = now
            text, offset = engine.log(job_id, run.path / "job", offset)
            print_text(text, end="")
            sys.stdout.flush()
            if now.state in FINAL_STATES:
                return exit_code(now)
            time.sleep(ASK_SECONDS)
    except KeyboardInterrupt:
        print_text(
            Phrase(
                "the job continues: launch --follow {path} shows it again, launch --cancel "
                "{path} ends it",
                path=run.path,
            ),
            file=sys.stderr,
        )
        return 0


def exit_code(status: JobStatus) -> int:
    """Return the exit code of a job that has ended: the training's if it is known, else 0 or 1."""
    if status.exit_code is not None:
        return status.exit_code
    return 0 if status.state == "finished" else 1


def cancel(run: RunDirectory) -> None:
    """Ask the run's job to stop."""
    engine, job_id = submitted(run)
    engine.cancel(job_id)
    print_text(Phrase("job {job_id} has been asked to stop", job_id=job_id))


def submitted(run: RunDirectory) -> tuple[Engine, str]:
    """Return the engine that has the run's job, and the job's id there.

    Raise ``InvalidRequestError`` if the run was not submitted.
    """
    if not run.job.is_file():
        raise InvalidRequestError(
            Phrase(
                "{path} was not submitted to an engine: submit with launch plan.yaml --on slurm",
                path=run.path,
            )
        )
    content = read_json(run.job)
    engine = engine_named(content["engine"])
    assert isinstance(engine, Engine)
    return engine, str(content["id"])


def settings_of(options: list[str]) -> dict[str, str]:
    """Return the keys and values of ``--with KEY=VALUE``; raise ``InvalidRequestError``."""
    settings = {}
    for setting in options:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise InvalidRequestError(
                Phrase(
                    "--with {setting}: write KEY=VALUE, for example --with partition=gpu",
                    setting=setting,
                )
            )
        if key in settings:
            raise InvalidRequestError(Phrase("--with {key} is set twice: set it once", key=key))
        settings[key] = value
    return settings
