"""A job's way through its engine: written, checked, submitted, followed, cancelled."""

import shlex
import signal
import sys
import time
from collections.abc import Mapping

from launcher.engines.engine import (
    ELSEWHERE,
    ENDED,
    Engine,
    EngineError,
    EngineName,
    Foreground,
    Look,
    Renderer,
    engine_named,
)
from launcher.engines.job import PLAN_NAME, Job, Rendered
from launcher.lifecycle.resume import check_nothing_to_resume
from launcher.run.read_plan import plan_text
from launcher.run.run_directory import RunDirectory, check_may_run_in, create
from launcher.storage.json_files import read_json, write_json
from planner.base.errors import InvalidRequestError
from planner.base.output_file import write_whole

ASK_SECONDS = 2.0
"""Seconds between two questions to an engine about a job that is followed."""


def dry_run_text(engine: Renderer, job: Job) -> str:
    """Every file that would be written, and the commands that would submit them."""
    rendered = engine.render(job)
    parts = [f"run directory: {job.directory}"]
    for name, text in rendered.files.items():
        parts += [f"{job.folder / name}:", text.rstrip("\n")]
    parts += ["submit:", *(f"  {shlex.join(command)}" for command in rendered.commands)]
    return "\n".join(parts) + "\n"


def run_job(name: EngineName, job: Job, *, dry_run: bool, detach: bool) -> int:
    """Submit and follow, or as much of it as was asked for; an exit code."""
    engine = engine_named(name)
    if dry_run:
        print(dry_run_text(engine, job), end="")
        return 0
    if detach and isinstance(engine, Foreground):
        raise InvalidRequestError(f"--on {name} takes no jobs: leave --detach out")
    rendered = engine.render(job)
    check_may_run_in(job.directory)
    run = RunDirectory(job.directory)
    check_no_job(run)
    if not job.resume:
        check_nothing_to_resume(run)
    create(job.directory, needed_bytes=0)
    write_files(job, rendered)
    found = engine.problems(rendered, job.folder)
    if found:
        raise EngineError(f"{name} refuses {job.folder}: {'; '.join(found)}")
    if isinstance(engine, Foreground):
        return engine.run(job, rendered)
    job_id = engine.submit(rendered, job.folder)
    write_json(run.job, {"engine": name, "id": job_id})
    print(f"{name}: job {job_id}, {job.folder}")
    return 0 if detach else follow(run)


def check_no_job(run: RunDirectory) -> None:
    """Refuse a second job in a run directory while the first one waits or runs."""
    if not run.job.is_file():
        return
    engine, job_id = submitted(run)
    try:
        look = engine.look(job_id)
    except EngineError:
        return  # the engine has forgotten it
    if look.state in ("waiting", "running"):
        raise InvalidRequestError(
            f"{run.path} has a job that is {look.state}, {job_id}: launch --follow {run.path} "
            f"shows it, launch --cancel {run.path} ends it"
        )


def require_engine(given: Mapping[str, object]) -> None:
    """Refuses what only an engine reads, where there is none."""
    for option, value in given.items():
        if value:
            raise InvalidRequestError(f"{option} goes with --on {'|'.join(ELSEWHERE)}")


def write_files(job: Job, rendered: Rendered) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    files = {PLAN_NAME: plan_text(job.plan), **rendered.files}
    for file_name, text in files.items():
        write_whole(job.folder / file_name, text)


def follow(run: RunDirectory) -> int:
    """Print the job's own lines until it ends; the training's exit code.

    Ctrl-C leaves the job alone, and says how to find it again.
    """
    engine, job_id = submitted(run)
    offset, before = 0, Look(state="unknown")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            now = engine.look(job_id)
            if (now.state, now.detail) != (before.state, before.detail):
                print(" ".join(filter(None, ("job", job_id, now.state, now.detail))))
            before = now
            text, offset = engine.log(job_id, run.path / "job", offset)
            sys.stdout.write(text)
            sys.stdout.flush()
            if now.state in ENDED:
                return exit_code(now)
            time.sleep(ASK_SECONDS)
    except KeyboardInterrupt:
        print(
            f"the job goes on: launch --follow {run.path} shows it again, "
            f"launch --cancel {run.path} ends it",
            file=sys.stderr,
        )
        return 0


def exit_code(ended: Look) -> int:
    if ended.exit_code is not None:
        return ended.exit_code
    return 0 if ended.state == "finished" else 1


def cancel(run: RunDirectory) -> None:
    engine, job_id = submitted(run)
    engine.cancel(job_id)
    print(f"job {job_id} is asked to stop")


def submitted(run: RunDirectory) -> tuple[Engine, str]:
    """The engine that has the run's job, and the job's name there."""
    if not run.job.is_file():
        raise InvalidRequestError(
            f"{run.path} was not submitted to an engine: launch plan.yaml --on slurm submits"
        )
    content = read_json(run.job)
    engine = engine_named(content["engine"])
    assert isinstance(engine, Engine)
    return engine, str(content["id"])


def settings_of(given: list[str]) -> dict[str, str]:
    """``--with KEY=VALUE``, as they were typed."""
    settings = {}
    for setting in given:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise InvalidRequestError(
                f"--with {setting}: write KEY=VALUE, for example --with partition=gpu"
            )
        if key in settings:
            raise InvalidRequestError(f"--with {key} is given twice: give it once")
        settings[key] = value
    return settings
