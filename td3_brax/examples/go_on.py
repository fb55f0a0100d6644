"""Train until the policy is good enough, look at the result, and train further.

python -m td3_brax.examples.go_on
"""

import td3_brax


def good_enough(report: dict) -> bool:
    """Return whether the greedy return is high enough. Reports without an evaluation have none."""
    return report.get("eval/return_mean", 0) > 900


if __name__ == "__main__":
    run = td3_brax.fit(env="InvertedPendulum-v5", eval_every=16_384, callback=good_enough)
    print("good enough after", run.reports[-1]["env_steps"], "environment steps")

    # Resume from the whole state, including the replay, for 100,000 more environment steps.
    run = td3_brax.fit(resume=run.out, total_env_steps=run.reports[-1]["env_steps"] + 100_000)
    print("greedy return at the end:", run.reports[-1]["eval/return_mean"])
