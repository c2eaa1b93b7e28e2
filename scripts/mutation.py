"""Do the tests notice a changed line? A sample of mutants of the core modules against the fast tests of their rooms.

    python -m venv mutation
    mutation/bin/pip install cosmic-ray==8.7.0              # in an environment of its own
    nice python scripts/mutation.py --tool mutation/bin --output runs/mutation

Every mutant is one changed operator, number, condition or decorator in a copy of the committed files. Mutants are
sampled at random with a fixed seed. OUTPUT/NAME.txt lists the survivors with their difference; a second run computes
what is missing. Expect 5 to 10 seconds of one core per mutant, and a minute for those of hf/convert.py.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from metro_t0.command import Parser, run
from metro_t0.errors import UserError
from metro_t0.files import write_text

SEED = 0
RANKING_TESTS = (
    'tests/eval/test_rank_scores.py tests/eval/test_every_model_class.py -k "(rank_scores and (t5- or bart or shared '
    'or equal or length)) or prophetnet or t5gemma2 or greedy"'
)


@dataclass(frozen=True)
class Target:
    """A module or package, the tests that are to notice its mutants, and how many of those are tried."""

    path: str
    tests: str
    sample: int = 20
    seconds: int = 300
    """After which a mutant's tests count as failed."""


TARGETS = {
    "ranking": Target("eval/ranking.py", RANKING_TESTS),
    "mixing": Target("metro_t0/prompts/mixing.py", "tests/finetune/test_prompt_mixing.py"),
    "units": Target("metro_t0/data/units.py", "tests/data/test_units.py"),
    "objectives": Target("metro_t0/objectives", "tests/objectives"),
    "modeling": Target("metro_t0/modeling", "tests/modeling"),
    "convert": Target("metro_t0/hf/convert.py", "tests/hf/test_hf_convert.py", sample=6, seconds=900),
}


def main() -> int:
    """Run the chosen targets and print a line per target."""
    parser = Parser(description=__doc__)
    parser.add_argument("--tool", type=Path, required=True, help="bin directory of the environment of cosmic-ray")
    parser.add_argument("--output", type=Path, required=True, help="directory of the sessions and the survivors")
    parser.add_argument("--only", choices=TARGETS, nargs="+", default=list(TARGETS), help="targets")
    options = parser.parse_args()

    def body() -> None:
        tool, output = options.tool.resolve(), options.output.resolve()
        if not (tool / "cosmic-ray").is_file():
            raise UserError(f"{tool}/cosmic-ray: no such file; install cosmic-ray in an environment of its own")
        tree = output / "tree"
        if not tree.is_dir():
            archive = subprocess.run(["git", "archive", "HEAD"], capture_output=True, check=True).stdout
            with tarfile.open(fileobj=BytesIO(archive)) as files:
                files.extractall(tree, filter="data")
        for name in options.only:
            print(test_mutants(name, TARGETS[name], tool, output, tree), flush=True)

    return run("mutation", body)


def test_mutants(name: str, target: Target, tool: Path, output: Path, tree: Path) -> str:
    """Sample, test and report the mutants of a target; returns the line for the person."""
    config, session = output / f"{name}.toml", output / f"{name}.sqlite"
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}

    def call(command: str, *arguments: str) -> str:
        started = [str(tool / command), *arguments]
        done = subprocess.run(started, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"{command}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
        return done.stdout

    if not session.is_file():
        # Annotations are not evaluated: a changed | in them is no mutant.
        settings = {
            "module-path": target.path, "timeout": float(target.seconds), "excluded-modules": ["**/__init__.py"],
            "test-command": f"{sys.executable} -m pytest -q -x -p no:cacheprovider {target.tests}",
        }  # fmt: skip
        lines = ["[cosmic-ray]", *(f"{key} = {json.dumps(value)}" for key, value in settings.items())]
        lines += ["[cosmic-ray.distributor]", 'name = "local"', "[cosmic-ray.filters.operators-filter]"]
        lines.append('exclude-operators = ["core/ReplaceBinaryOperator_BitOr_.*", "core/.*_BitOr"]')
        write_text(config, "\n".join(lines) + "\n")
        call("cosmic-ray", "init", str(config), str(session))
        call("cr-filter-operators", str(session), str(config))
        keep_sample(session, target.sample)
    call("cosmic-ray", "exec", str(config), str(session))
    write_text(output / f"{name}.txt", call("cr-report", str(session), "--show-diff", "--surviving-only"))
    with sqlite3.connect(session) as database:
        outcomes = dict(database.execute("select test_outcome, count(*) from work_results group by 1"))
    return f"{target.path}: {outcomes}; survivors in {output / name}.txt"


def keep_sample(session: Path, count: int) -> None:
    """Leave `count` of the mutants that no filter took out in a session, chosen by their place in the code."""
    with sqlite3.connect(session) as database:
        left = database.execute(
            "select job_id from mutation_specs where job_id not in (select job_id from work_results) "
            "order by module_path, operator_name, occurrence"
        ).fetchall()
        kept = {job for (job,) in random.Random(SEED).sample(left, min(count, len(left)))}
        everything = [job for (job,) in database.execute("select job_id from work_items")]
        for table in ("work_results", "mutation_specs", "work_items"):
            gone = [(job,) for job in everything if job not in kept]
            database.executemany(f"delete from {table} where job_id = ?", gone)


if __name__ == "__main__":
    raise SystemExit(main())
