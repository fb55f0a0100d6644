"""Play a trained policy in the real Gymnasium environment. The policy needs only NumPy.

python -m td3_brax.examples.play_in_gymnasium RUN
"""

import sys

import gymnasium

import td3_brax

if __name__ == "__main__":
    policy = td3_brax.load_policy(sys.argv[1])
    # Policies of version 0.1.0 do not store the task's options.
    limit, args = policy.meta.get("time_limit"), policy.meta.get("env_args", {})
    env = gymnasium.make(policy.env, max_episode_steps=limit, **args)
    obs = env.reset(seed=0)[0]
    total, ended = 0.0, False
    while not ended:
        action = policy.predict(obs)[0]
        obs, reward, terminated, truncated = env.step(action)[:4]
        total, ended = total + float(reward), terminated or truncated
    print(f"{policy.env}: return {total:,.0f}")
