"""Scores into the run of an experiment tracker, beside the curves of the training that made the model.

One function for each tracker, in its own words; fairseq logs the training itself, under the same names of runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec

from eval.summary import Summary
from metro_t0.errors import UserError, unknown

Log = Callable[[str, Mapping[str, float], int], None]


def metrics_of(summary: Summary) -> dict[str, float]:
    """Accuracy of each task, its mean over the templates, and the average over the tasks."""
    scores = {task.name: task.score for task in summary.tasks}
    if summary.is_complete:  # the mean of a part is another quantity
        scores["mean"] = summary.average
    return {f"{summary.task_set}/{name}": score.value for name, score in scores.items()}


def _tensorboard(place: str, metrics: Mapping[str, float], update: int) -> None:
    """place: the --tensorboard-logdir of the training; the scores are its run `eval`."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(f"{place}/eval") as writer:
        for name, value in metrics.items():
            writer.add_scalar(name, value, update)


def _wandb(place: str, metrics: Mapping[str, float], update: int) -> None:
    """place: PROJECT/ID. The x axis is a metric of its own, since a run refuses steps that lie behind its last one."""
    import wandb

    project, id = _two(place, "wandb:PROJECT/ID")
    with wandb.init(project=project, id=id, resume="allow") as run:
        run.define_metric("eval/update")
        run.define_metric("eval/*", step_metric="eval/update")
        run.log({"eval/update": update, **{f"eval/{name}": value for name, value in metrics.items()}})


def _trackio(place: str, metrics: Mapping[str, float], update: int) -> None:
    """place: PROJECT/NAME."""
    import trackio

    project, name = _two(place, "trackio:PROJECT/NAME")
    trackio.init(project=project, name=name, resume="allow")
    trackio.log({f"eval/{name}": value for name, value in metrics.items()}, step=update)
    trackio.finish()


def _mlflow(place: str, metrics: Mapping[str, float], update: int) -> None:
    """place: the run's id, in the store that MLFLOW_TRACKING_URI names."""
    import mlflow

    with mlflow.start_run(run_id=place):
        mlflow.log_metrics({f"eval/{name}": value for name, value in metrics.items()}, step=update)


TRACKERS: dict[str, Log] = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio, "mlflow": _mlflow}


def _two(place: str, form: str) -> tuple[str, str]:
    first, _, second = place.rpartition("/")
    if not first or not second:
        raise UserError(f"--to: write {form}")
    return first, second


def log_scores(to: str, summary: Summary, update: int) -> dict[str, float]:
    """Log what `metrics_of` gives to `TRACKER:PLACE`.

    Raises `UserError` for another tracker, a missing package and what the tracker refuses.
    """
    tracker, _, place = to.partition(":")
    if tracker not in TRACKERS:
        raise unknown("tracker", tracker, TRACKERS)
    if not place:
        raise UserError(f"--to {to}: write {tracker}:PLACE")
    if find_spec(tracker) is None:
        raise UserError(f"--to {to}: its package is not installed (pip install {tracker})")
    metrics = metrics_of(summary)
    try:
        TRACKERS[tracker](place, metrics, update)
    except UserError:
        raise
    except Exception as error:  # of whichever tracker
        raise UserError(f"--to {to}: {tracker} refuses ({type(error).__name__}: {error})") from None
    return metrics
