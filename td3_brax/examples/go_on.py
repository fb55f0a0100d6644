"""Train until it is good enough, look, and train on.

python -m td3_brax.examples.go_on
"""

import td3_brax


def good_enough(report: dict) -> bool:
    """Whether the greedy return is; a report without an evaluation has none."""
    return report.get("eval/return_mean", 0) > 900


if __name__ == "__main__":
    run = td3_brax.fit(env="InvertedPendulum-v5", eval_every=16_384, callback=good_enough)
    print("good enough after", run.reports[-1]["env_steps"], "steps")

    # From its whole state, replay included, for 100,000 steps more.
    run = td3_brax.fit(resume=run.out, total_env_steps=run.reports[-1]["env_steps"] + 100_000)
    print("and then:", run.reports[-1]["eval/return_mean"])
