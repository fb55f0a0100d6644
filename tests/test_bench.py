"""``td3-brax bench``: counts against a stored baseline, what a rise looks like, timings in one run."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import pytest
from said import names
from test_run import exit_code
from toy import Toy

from td3_brax.commands.bench import aot, counted, graphs, peers, run, timed
from td3_brax.commands.bench.counts import compare, describe, module
from td3_brax.commands.bench.graphs import compile_and_count
from td3_brax.commands.bench.measure import product_flops, product_shapes
from td3_brax.config import Config
from td3_brax.runs.device import xla_flags

X = jax.ShapeDtypeStruct((256, 256), jnp.float32)


def three_times(body):
    return lambda x: jax.lax.scan(lambda c, _: (body(c), None), x, length=3)[0]


def submissions(fn, **settings):
    return compile_and_count(fn, (X,), **settings)[1]


def counts(fn):
    return describe(*compile_and_count(fn, (X,)), 1 << 30)


def chain(x):
    """More than a graph's least number of operations."""
    for _ in range(3):
        x = jnp.sort(jnp.tanh(x @ x), axis=0)
    return x


def test_submissions_of_graphs_and_loops():
    assert submissions(chain) == 1
    assert submissions(chain, options={"xla_gpu_enable_command_buffer": ""}) > 5
    assert 3 <= submissions(three_times(chain)) <= 6
    opened = submissions(lambda x: jax.lax.while_loop(lambda c: c.sum() < 0, chain, x))
    assert opened >= 3  # a pass, the question whether to go on, and the wait for the answer


LIST = """\
001: kCopy          [source       | next=002 (1)] kCopy
002: kWhile         [prev=001 (1) | next=000 (1)]
condition:
    003: kCustomKernel [source | sink] loop_compare_fusion
  body:
    000: kCommandBuffer [source | sink]
        004: kCustomKernel [source | sink] loop_add_fusion
        005: kWhile     [source | sink]
condition:
            006: kCustomKernel [source | sink] loop_compare_fusion
          body:
            007: kCustomKernel [source | sink] loop_add_fusion
    008: kCustomKernel [source | sink] loop_add_fusion
009: kConditional   [source | sink]
  false_branch:
    010: kCustomKernel [source | sink] loop_add_fusion
  true_branch:
    011: kAllReduceStart [source | sink]
    012: kAllReduceDone [source | sink]
"""


def test_the_compilers_list_is_read_by_its_indents():
    listed = graphs.read(LIST)
    assert [thunk.kind for thunk in listed] == ["Copy", "While", "Conditional"]
    assert graphs.submissions(listed, {2: 10, 5: 10}) == 1 + 10 * 2 + 3
    assert graphs.submissions(listed, {}) == 1 + (2 + 1 + 1) + 3


def test_a_compiler_that_tells_no_list(monkeypatch):
    monkeypatch.setattr(graphs, "THUNK_LISTS", ())
    assert submissions(chain) is None
    assert counts(chain)["host submissions"] is None


def test_the_users_flags_for_the_compiler_win():
    own = "--xla_gpu_autotune_level=4 --xla_gpu_enable_command_buffer=+WHILE"
    flags = xla_flags(own, deterministic=True).split()
    assert flags[:2] == own.split()
    names = [flag.partition("=")[0] for flag in flags]
    assert len(names) == len(set(names))
    assert "--xla_gpu_deterministic_ops=true" in flags
    assert "deterministic" not in xla_flags("", deterministic=False)


def test_flops_are_those_of_the_products():
    def program(x):
        return jax.grad(lambda w: jnp.tanh(x[:100] @ w).sum())(x).sum(), jnp.einsum(
            "bij,bkj->bik", x.reshape(4, 64, 256), x.reshape(4, 64, 256)
        )

    assert counts(program)["flops of matrix products"] == 2 * (2 * 100 * 256 * 256) + 4 * 2 * 64 * 64 * 256


def test_a_rise_is_told_with_the_module_that_made_it():
    before, now = counts(three_times(jnp.tanh)), counts(three_times(lambda x: jnp.tanh(x @ x) @ x))
    assert compare(before, before) == []
    rises = compare(now, before)
    assert any(line.startswith("device operations: ") for line in rises)
    assert any("tests/test_bench.py" in line for line in rises)
    assert not any("device operations" in line for line in compare(before, now))


def write(ring, row):
    return jax.lax.dynamic_update_slice(ring, row, (0, 0))


def rewrite(ring, row):
    return write(ring * 0.5, row)


def wait(ring, row):
    return write(ring, jax.lax.while_loop(lambda r: r.sum() < 0, lambda r: r + 1, row))


@pytest.mark.parametrize(
    ("planted", "donated", "named"),
    [
        (write, (), "bytes not updated in place: 524,288, was 0"),
        (rewrite, (0,), "writes of large buffers: 1, was 0"),
        (wait, (0,), "loops of unknown length: 1, was 0"),
    ],
)
def test_what_is_planted_is_a_rise(planted, donated, named):
    ring, row = jax.ShapeDtypeStruct((256, 512), jnp.float32), jax.ShapeDtypeStruct((1, 512), jnp.float32)
    rows = 4 * 256 * 512 // 2

    def of(program, donate_argnums):
        return describe(*compile_and_count(program, (ring, row), donate_argnums=donate_argnums), rows)

    before, now = of(write, (0,)), of(planted, donated)
    before["bytes not updated in place"] -= 4 * 512  # the row is given, and given back to nobody
    now["bytes not updated in place"] -= 4 * 512
    assert named in compare(now, before)


def test_a_planted_callback_is_one_line(monkeypatch, capsys):
    def calls_python(*_):
        return aot.compile_for(lambda x: jax.pure_callback(lambda a: a, X, x), (X,))

    monkeypatch.setattr(run, "prepare_jax", lambda *_: None)
    monkeypatch.setattr(counted, "count_chunk", calls_python)
    assert run.main(["--compile_for", "h100"]) == 2
    error = capsys.readouterr().err
    assert "pure_callback" in error
    assert error.count("\n") == 1


def test_modules_are_named_by_package_and_file():
    assert module("/a/lib/python3.11/site-packages/mujoco/mjx/_src/solver.py") == "mujoco/mjx/_src/solver.py"
    assert module("/home/x/td3_brax/td3_brax/envs/vector.py") == "td3_brax/envs/vector.py"
    assert module("") == "the compiler's own"


def test_products_are_those_of_the_paper_update():
    config = Config(hidden_sizes=(256, 256), batch_size=256)
    shapes = product_shapes(config, 27, 8, 256)
    # Two updates: 3 + 2 * 3 for the targets, 2 * 2 * 8 for the critics, 3 + 5 + 6 for the actor.
    assert len(shapes) == 9 + 32 + 14
    assert not any(rounded for *_, rounded in shapes)
    layer = 2 * 256 * 256 * 256
    assert product_flops(config, 27, 8) > (2 + 4 + 12 + 5) * layer / 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--compile_for", "h10"], ["--compile_for=h10", "h100", "h100"]),
        (["--members", "0"], ["--members=0", "0"]),
        (["--baseline", "x.json"], ["--baseline=x.json", "--compile_for"]),
        (["--compile_for", "h100", "--peers"], ["--peers=True", "--compile_for"]),
        (["--compile_for", "h100", "--devices", "2"], ["--devices=2", "--compile_for"]),
        (["--json", "nowhere/at/all.json"], ["--json=nowhere/at/all.json"]),
        (["--compile_for", "h100", "--baseline", "nothing.json"], ["--baseline=nothing.json"]),
        (["--compile_for", "h100", "--baseline", __file__], [f"--baseline={__file__}"]),
        (["--hiden_sizes", "8"], ["--hiden_sizes", "hidden_sizes"]),
    ],
)
def test_bad_input_is_one_line_and_code_2(argv, said, capsys, monkeypatch):
    monkeypatch.setattr(run, "prepare_jax", lambda *_: None)
    assert exit_code(run.main, argv) == 2
    error = capsys.readouterr().err
    assert names(error, said), error
    assert error.count("\n") == 1


@pytest.mark.parametrize("factors", [(), pytest.param((2.0,), marks=pytest.mark.slow)])
def test_timings_of_all_parts_in_one_run(monkeypatch, capsys, factors):
    monkeypatch.setattr(timed, "make_task", lambda _: Toy(30.0))
    config = Config(env="ant", num_envs=8, batch_size=16, replay_capacity=1024, hidden_sizes=(8, 8))
    monkeypatch.setattr(timed, "REPEATS", 1)
    monkeypatch.setattr(timed, "FACTORS", factors)
    numbers = timed.run(config, 2, False, None)
    out = capsys.readouterr().out
    for part in ("physics", "collect", "insert", "sample", "update", "chunk"):
        assert part in out
    assert {row["part"] for row in numbers["parts"]} >= {"physics", "update", "chunk"}
    assert json.loads(json.dumps(numbers))["over"] == numbers["over"]
    sized = {"num_envs", "batch_size"} if factors else set()
    assert {point["of"] for point in numbers["over"]} == {"members"} | sized


def test_peers_that_are_not_there_are_named(monkeypatch):
    def absent(name):
        raise ImportError(f"No module named {name!r}")

    config = Config(env="ant", num_envs=8, batch_size=16, replay_capacity=1024, hidden_sizes=(8, 8))
    monkeypatch.setattr(peers, "steppers", lambda _: {})
    monkeypatch.setattr(peers.importlib, "import_module", absent)
    rows, missing = peers.run(config, Toy(30.0))
    assert rows == []
    assert [line.split("'s TD3")[0] for line in missing] == ["rejax", "SBX", "stable-baselines3"]
    assert missing[1] == "SBX's TD3 (No module named 'sbx')"


def test_the_table_of_counts_has_a_column_for_each_program():
    rows = counted.table({"ours": {"device operations": 12345, "flops": 1.5}, "other": {"flops": 2.5}})
    assert "12,345" in rows
    assert rows.splitlines()[0].split() == ["ours", "other"]
