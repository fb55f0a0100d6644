"""Play an exported policy with onnxruntime and Gymnasium alone: python play_onnx.py policy.onnx."""

import json
import sys

import gymnasium
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
facts = session.get_modelmeta().custom_metadata_map
limit, arguments = int(facts.get("time_limit", 1000)), json.loads(facts.get("env_args", "{}"))
env = gymnasium.make(facts["task"], max_episode_steps=limit, **arguments)
obs, _ = env.reset(seed=0)
total, ended = 0.0, False
while not ended:
    (action,) = session.run(["action"], {"obs": obs[None].astype("float32")})
    obs, reward, terminated, truncated, _ = env.step(action[0])
    total, ended = total + float(reward), terminated or truncated
print(f"{facts['task']}: return {total:.3f}")
