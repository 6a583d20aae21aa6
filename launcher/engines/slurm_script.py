"""The batch script of a plan. No function has side effects.

Slurm runs it on the first node, and srun runs ``launch`` once on every node. What may end it early
(read: sbatch(1), scancel(1), slurm.conf(5) of 22.05; tried on it in tests/launcher/slurm):

    time limit      only the script gets the signal (--signal=B:USR1), and passes it on
    preemption      with a GraceTime every launch gets a signal, and the script too if
                    preempt_send_user_signal is set; without one Slurm requeues at once, and
                    KillWait is the time to save
    scancel         every launch gets a signal, and KillWait is the time to save

Launch saves and stops at its first SIGTERM, in all three cases. A job that ends by itself while it
is preempted counts as ended for Slurm, so the script requeues it; a cancelled job stays ended. A
job whose time limit leaves no time for a checkpoint is not requeued.
"""

import shlex
from collections.abc import Iterator

from launcher.engines.job import PLAN_NAME, Job, node_command
from launcher.engines.slurm_settings import SlurmSettings, gpus_in
from launcher.run.checkpoints import CONTENTS
from launcher.run.run_directory import RunDirectory
from planner.base.errors import InvalidRequestError
from planner.base.phrases import Phrase
from planner.base.units import MIB, ceil_div

SCRIPT_NAME = "job.sh"
OUTPUT_NAME = "slurm-{}.out"
"""Name of a job's output, with the place of its number."""

LAUNCHING_BYTES = 270 * MIB
"""Resident memory of launch (45 MiB) and of torch elastic's agent (225 MiB), which run beside the
ranks; measured with torch 2.13 on Linux x86-64."""

_SCRIPT = """\
#!/bin/bash
# Written by launch. Submit it with sbatch.
{directives}

set -euo pipefail

# One word of what Slurm says about this job.
word() {{
  scontrol --oneliner show job "$SLURM_JOB_ID" | sed -n "s/.* $1=\\([^ ]*\\).*/\\1/p"
}}

preempted() {{
  local since
  since=$(word PreemptTime)
  [[ -n $since && $since != None ]]
}}

newest_checkpoint() {{
  find {checkpoints} -name {contents} 2>/dev/null | sort --version-sort | tail -n 1
}}

warned=
signalled=
trap 'warned=yes signalled=yes; scancel --signal=TERM "$SLURM_JOB_ID" || true' USR1
trap 'signalled=yes' TERM

before=$(newest_checkpoint || true)
{endpoint}srun {srun} \\
  {command} &
step=$!
# A signal ends wait, not the step; wait gives an ended step's code again.
while
  signalled=
  code=0
  wait "$step" || code=$?
  [[ -n $signalled ]]
do :; done

if [[ $code == 0 ]]; then
  exit 0
fi
again=
if preempted; then
  again=preempted
elif [[ -n $warned ]]; then
  if [[ $(newest_checkpoint || true) == "$before" ]]; then
    echo "job $SLURM_JOB_ID: the time limit came before a checkpoint: give more --with time" >&2
    exit 1
  fi
  again="at its time limit"
fi
if [[ -n $again && $(word JobState) == RUNNING ]]; then
  echo "job $SLURM_JOB_ID: $again; it waits for its next turn"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""

_ENDPOINT = """\
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
address=$(scontrol --oneliner show node "$head" | sed -n 's/.* NodeAddr=\\([^ ]*\\).*/\\1/p')
# Sixteen ports a job, below those that Linux gives away; the next ones if somebody listens there.
port=$((15000 + 16 * (SLURM_JOB_ID % 1024)))
while (: < "/dev/tcp/$address/$port") 2> /dev/null; do port=$((port + 16)); done
[[ $address != *:* ]] || address="[$address]"
"""


def script(job: Job, settings: SlurmSettings) -> str:
    """Return the text of the batch script."""
    run = RunDirectory(job.directory)
    several = job.plan.parallel.num_nodes > 1
    command = node_command(job, plan_file=str(job.folder / PLAN_NAME), directory=str(job.directory))
    return _SCRIPT.format(
        directives="\n".join(directives(job, settings)),
        checkpoints=shlex.quote(str(run.checkpoints)),
        contents=CONTENTS,
        endpoint=_ENDPOINT if several else "",
        srun=shlex.join(srun_options(job, settings)),
        command=shlex.join(command) + (' --rdzv-endpoint "$address:$port"' if several else ""),
    )


def directives(job: Job, settings: SlurmSettings) -> Iterator[str]:
    """Give the ``#SBATCH`` lines."""
    parallel, prediction = job.plan.parallel, job.plan.prediction
    num_bytes = prediction.host_ram_bytes + LAUNCHING_BYTES
    gpus = parallel.gpus_per_node if job.plan.hardware.device == "cuda" else 0
    options: dict[str, str | int | None] = {
        "job-name": job.name,
        "nodes": parallel.num_nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": cpus_per_task(job, settings),
        "mem": settings.mem or f"{ceil_div(num_bytes, MIB)}M",
        "gpus-per-node": gpus if gpus and gpus_in(settings.gres) is None else None,
        "gres": settings.gres,
        "partition": settings.partition,
        "account": settings.account,
        "qos": settings.qos,
        "reservation": settings.reservation,
        "constraint": settings.constraint,
        "exclude": settings.exclude,
        "time": settings.time,
        "signal": f"B:USR1@{settings.warning}",
        "open-mode": "append",
        "output": str(job.folder).replace("%", "%%") + "/" + OUTPUT_NAME.format("%j"),
        "chdir": str(job.working_directory),
        "export": settings.export,
    }
    yield "#SBATCH --requeue"
    for name, value in options.items():
        if value is not None:
            yield f"#SBATCH {quoted(f'--{name}={value}')}"


def quoted(option: str) -> str:
    """Return an option as sbatch reads it from a line.

    Raise ``InvalidRequestError`` for what it cannot read, as a backslash in a path.
    """
    if not option.isprintable() or "\\" in option:
        raise InvalidRequestError(
            Phrase(
                "Slurm cannot read {option!r}: use a name of printable characters without "
                "backslashes",
                option=option,
            )
        )
    return option if shlex.quote(option) == option else '"' + option.replace('"', '\\"') + '"'


def cpus_per_task(job: Job, settings: SlurmSettings) -> int:
    """Return the cores of a node: one per rank, which reads its data itself, and one for launch."""
    return settings.cpus_per_task or job.plan.parallel.gpus_per_node + 1


def srun_options(job: Job, settings: SlurmSettings) -> list[str]:
    """Return srun's options. Since 22.05 it does not inherit ``--cpus-per-task``.

    Slurm is not to end the other nodes' launches, because they end themselves.
    """
    nodes = job.plan.parallel.num_nodes
    return [
        *(f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"),
        f"--cpus-per-task={cpus_per_task(job, settings)}",
        *("--export=ALL", "--kill-on-bad-exit=0", "--wait=0"),
    ]
