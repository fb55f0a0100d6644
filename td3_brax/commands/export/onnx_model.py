"""Convert a policy to an ONNX model. Needs the extra ``onnx``."""

from __future__ import annotations

import json
import math

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from td3_brax.policy import Policy, PolicyError
from td3_brax.runs.versions import __version__

OPSET, IR_VERSION = 13, 7
"""Versions of ONNX's operators and of its file format: those of ONNX 1.8 (2020)."""
TOLERANCE = 1e-5
"""Largest difference from the NumPy policy that is accepted, as a fraction of the action range."""
SAMPLES = 1024
"""Random observations that :func:`check` compares."""


def make_model(policy: Policy) -> onnx.ModelProto:
    """Make a model that does the same as :meth:`td3_brax.Policy.predict`.

    Its input ``obs`` is [batch, O] float32, its output ``action`` [batch, A] float32 in the task's units.
    Observations are normalised inside. The facts in :func:`metadata` are its ``metadata_props``.
    """
    constants: list[TensorProto] = []
    nodes = []

    def constant(name: str, value: np.ndarray | float) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def apply(operator: str, *inputs: str, to: str) -> str:
        nodes.append(helper.make_node(operator, list(inputs), [to], name=to))
        return to

    x = apply("Sub", "obs", constant("obs_mean", policy.obs_mean), to="centered")
    x = apply("Div", x, constant("obs_deviation", policy.obs_deviation), to="normalized")
    if math.isfinite(policy.obs_clip):
        bounds = constant("obs_low", -policy.obs_clip), constant("obs_high", policy.obs_clip)
        x = apply("Clip", x, *bounds, to="clipped")
    for i, (weight, bias) in enumerate(zip(policy.weights, policy.biases, strict=True)):
        x = apply("Relu", x, to=f"hidden_{i}") if i else x
        parameters = constant(f"weight_{i}", weight), constant(f"bias_{i}", bias)
        x = apply("Gemm", x, *parameters, to=f"layer_{i}")
    x = apply("Tanh", x, to="unit_action")
    low, high = policy.action_low, policy.action_high
    x = apply("Add", x, constant("one", 1.0), to="above_low")
    x = apply("Mul", x, constant("half_range", (high - low) / 2), to="scaled")
    x = apply("Add", x, constant("action_low", low), to="shifted")
    # Runtimes may approximate tanh, so that it passes 1 or -1 by a little.
    x = apply("Max", x, "action_low", to="at_least_low")
    apply("Min", x, constant("action_high", high), to="action")

    facts = metadata(policy)
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("obs", TensorProto.FLOAT, ["batch", len(policy.obs_mean)])],
        [helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", len(low)])],
        constants,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="td3-brax",
        producer_version=__version__,
        doc_string=f"Greedy TD3 policy of {policy.env}",
    )
    helper.set_model_props(model, facts)
    onnx.checker.check_model(model, full_check=True)
    return model


def metadata(policy: Policy) -> dict[str, str]:
    """Return what the model says about the policy; values that are not texts are JSON.

    ``version`` is the version of td3-brax that trained the policy. A fact that the policy's file does not
    have is left out.
    """
    names = ("env_args", "time_limit", "env_steps", "return_mean", "version")
    known = {name: policy.meta[name] for name in names if policy.meta.get(name) is not None}
    values = {
        "task": policy.env,
        "obs": "the task's observation, not normalised",
        "action": "in the task's units, from action_low to action_high",
        "obs_size": len(policy.obs_mean),
        "action_size": len(policy.action_low),
        "action_low": policy.action_low.tolist(),
        "action_high": policy.action_high.tolist(),
        **known,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def check(policy: Policy, model: bytes) -> float:
    """Compare ``model`` in onnxruntime with ``policy`` for random observations.

    Returns:
        the largest difference of an action, as a fraction of its range.
    Raises:
        PolicyError: a difference is larger than :data:`TOLERANCE` and float32's resolution of the action.
    """
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    noise = np.random.default_rng(0).normal(0, 3, (SAMPLES, len(policy.obs_mean)))
    obs = (policy.obs_mean + policy.obs_deviation * noise).astype(np.float32)
    action, expected = session.run(["action"], {"obs": obs})[0], policy.predict(obs)[0]
    differs, span = np.abs(action - expected), policy.action_high - policy.action_low
    resolution = np.spacing(np.maximum(np.abs(policy.action_low), np.abs(policy.action_high)))
    largest = float((differs / span).max())
    if not (differs <= TOLERANCE * span + 2 * resolution).all():
        raise PolicyError(
            f"the ONNX model differs from the policy by {largest:.1e} of the action range, more than "
            f"{TOLERANCE:g}; nothing was written"
        )
    return largest
