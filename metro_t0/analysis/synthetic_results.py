"""The printed results of Wu, Li and Liang (2022), and how much of the gap to natural pretraining they close.

`paper_tables` holds tables 4 to 9 of the paper, one number per row, as printed (percent).
"""

from __future__ import annotations

from collections.abc import Mapping

from metro_t0.paper_tables import printed_table

# Section 3.5 of the paper's appendix: a task counts with its first metric.
FIRST_METRICS = ("rouge1", "em")
RANDOM, PRETRAINED = "random_init", "pretrained_t5"
# Schemes of `init-stats` and starts of fine-tuning -> their names in the tables.
SCHEMES = {
    "full": "full_init",
    "per_param_mean_sd": "per_param_mean_sd",
    "per_param_scale": "per_param_scale",
    "across_layers_scale": "across_layers_scale",
    "per_layer_scale": "per_layer_scale",
    "whole_model_scale": "whole_model_scale",
    "pre_attention_norm_scale": "pre_attn_ln_per_param_scale",
    "attention_scale": "attention_per_param_scale",
    "pre_mlp_norm_scale": "pre_mlp_ln_per_param_scale",
    "mlp_scale": "mlp_per_param_scale",
}


def table(name: str) -> list[dict[str, str]]:
    """The rows of one printed table, as in `table6_main_five_seeds`."""
    header, rows = printed_table("synthetic_tasks", name)
    return [dict(zip(header, row, strict=True)) for row in rows]


def gap_closed(scores: Mapping[str, float], low: Mapping[str, float], high: Mapping[str, float]) -> float:
    """Percent of the way from `low` to `high` (task -> first metric), the mean over the tasks of `scores`."""
    shares = [100 * (score - low[task]) / (high[task] - low[task]) for task, score in scores.items()]
    return sum(shares) / len(shares)


def main_results() -> dict[str, dict[str, float]]:
    """Model -> task -> first metric, means over seeds where there are several (tables 6 and 7, six tasks).

    `set/per_param_mean_sd` is the model that starts from the means and deviations of the one pretrained on set.
    """
    found: dict[str, dict[str, float]] = {}
    for row in table("table6_main_five_seeds"):
        if row["metric"] in FIRST_METRICS:
            found.setdefault(row["model"], {})[row["task"]] = float(row["mean"])
    for row in table("table7_per_param_mean_sd_all_tasks"):
        if row["metric"] in FIRST_METRICS and row["scheme"] == "per_param_mean_sd":
            found.setdefault(f"{row['statistics_source']}/per_param_mean_sd", {})[row["task"]] = float(row["mean"])
    return found


def main_gaps() -> dict[str, float]:
    """Model -> percent of the gap between random initialization and T5's own pretraining that it closes."""
    results = main_results()
    low, high = results[RANDOM], results[PRETRAINED]
    return {model: gap_closed(scores, low, high) for model, scores in results.items()}


def kept_of_full(source: str) -> dict[str, float]:
    """Scheme -> percent of what copying all weights gains over random initialization that the scheme keeps.

    source: what the statistics are of (lime, set, identity). Table 5: the mean over CNNDM-10K and MTOP.
    """
    scores: dict[str, dict[str, float]] = {}
    for row in table("table5_init_schemes"):
        if row["metric"] in FIRST_METRICS and row["statistics_source"] in (source, ""):
            scores.setdefault(row["scheme"], {})[row["task"]] = float(row["value"])
    low, high = scores[RANDOM], scores["full_init"]
    return {own: gap_closed(scores[printed], low, high) for own, printed in SCHEMES.items()}
