"""Training: pure functions of (static config, hyperparameters, data, position). Readable alone.

Shapes: N images, T trials side by side ("lanes"), S steps of an epoch, B images of a batch, K classes, E batches of an
evaluation.

A training run is a `Position` that `advance` moves forward; where it stands is data, so it can be kept and taken up again
anywhere. The batch order is drawn from (seed, epoch) and a step's randomness from (seed, step): there is no iterator and no
key to keep.
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax import convolution, models, summary, zoo
from cnn_jax.config import Trial, UsageError
from cnn_jax.data import UNIT, Dataset, Normalization

Hyper = dict[str, jax.Array]  # Trial.dynamic as arrays: seed, learning_rate, weight_decay, momentum
EVAL_BATCH = 128


# ------------------------------------------------------------------------------------------------------------- one step


@flax.struct.dataclass
class TrainState:
    """What a step changes: parameters, the model's other variables (batch statistics), the optimizer's state, steps done."""

    step: Any
    params: Any
    model_state: Any
    opt_state: Any


def optimizer(name: str, hyper: Mapping[str, Any]) -> optax.GradientTransformation:
    """The optimizer of a name in `config.OPTIMIZERS`; `hyper` may hold traced values, so one program serves all of them.

    Weight decay is decoupled in adamw (Loshchilov and Hutter 2019) and the gradient of an L2 penalty in the others.
    """
    rate, decay, momentum = hyper["learning_rate"], hyper["weight_decay"], hyper["momentum"]
    table: dict[str, Callable[[], optax.GradientTransformation]] = {
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(rate, weight_decay=decay),
        "sgd": lambda: optax.sgd(rate, momentum),
        "rmsprop": lambda: optax.rmsprop(rate, momentum=momentum),
    }
    # One vector instead of a tree: every rule above is elementwise, and the program compiles several times faster.
    rule = optax.flatten(table[name]())
    return rule if name == "adamw" else optax.chain(optax.add_decayed_weights(decay), rule)


def create_train_state(model: nn.Module, input_shape: tuple[int, ...], optimizer_name: str, seed: int) -> TrainState:
    """The state before the first step, as numpy arrays: initial values drawn from `seed`, nothing compiled."""
    variables = models.initial_variables(model, input_shape, seed)
    params = variables["params"]
    zero = dict.fromkeys(("learning_rate", "weight_decay", "momentum"), 0.0)
    shapes = jax.eval_shape(optimizer(optimizer_name, zero).init, params)
    # Every optimizer of the table starts from zeros (held by a test): no need to compile its init.
    opt_state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    model_state = {name: value for name, value in variables.items() if name != "params"}
    return TrainState(np.zeros((), np.int32), params, model_state, opt_state)


def as_floats(images: jax.Array, normalization: Normalization = UNIT) -> jax.Array:
    """uint8 0..255 -> float32, by default 0..1, the chapter's scaling."""
    return normalization(images)


def cross_entropy(logits_BK: jax.Array, labels_B: jax.Array) -> jax.Array:
    """-log softmax(logits)[label] of each image, in nats: float32 also for logits in bfloat16 or float16.

    optax.softmax_cross_entropy_with_integer_labels, with a comparison in place of its gather: the gradient of that is a
    scatter, a loop on CPU that takes longer to compile than the network's layers.
    """
    logits_BK = logits_BK.astype(jnp.promote_types(logits_BK.dtype, jnp.float32))
    shifted_BK = logits_BK - jax.lax.stop_gradient(logits_BK.max(-1, keepdims=True))
    own_BK = labels_B[:, None] == jnp.arange(logits_BK.shape[-1], dtype=labels_B.dtype)
    return jnp.log(jnp.exp(shifted_BK).sum(-1)) - jnp.where(own_BK, shifted_BK, 0).sum(-1)


def train_step(
    model: nn.Module,
    optimizer_name: str,
    state: TrainState,
    hyper: Hyper,
    images_BHWC: jax.Array,
    labels_B: jax.Array,
    count: jax.Array,
    normalization: Normalization = UNIT,
) -> tuple[TrainState, jax.Array]:
    """One step on the mean cross-entropy; also the sums over the batch of loss and of right answers, (2,).

    Only the first `count` images count: an epoch's last batch may be filled up. `normalization` converts the images, uint8.
    """
    key = jax.random.fold_in(jax.random.key(hyper["seed"]), state.step)

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        (logits_BK, _), changed = model.apply(
            {"params": params, **state.model_state},
            as_floats(images_BHWC, normalization),
            train=True,
            mutable=list(state.model_state),
            rngs={"dropout": key},
        )
        loss_B = jnp.where(real_B, cross_entropy(logits_BK, labels_B), 0)
        right_B = (jnp.argmax(logits_BK, -1) == labels_B) & real_B
        return loss_B.sum() / count, (changed, jnp.stack([loss_B, right_B.astype(loss_B.dtype)]).sum(-1))

    real_B = jnp.arange(labels_B.shape[0]) < count
    grads, (model_state, sums_2) = jax.grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimizer(optimizer_name, hyper).update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, model_state, opt_state), sums_2


def eval_step(
    model: nn.Module, variables: Any, images_BHWC: jax.Array, labels_B: jax.Array, normalization: Normalization = UNIT
) -> tuple[jax.Array, jax.Array]:
    """Loss (float32) and whether the answer is right (bool), for each image."""
    logits_BK, _ = model.apply(variables, as_floats(images_BHWC, normalization), train=False)
    return cross_entropy(logits_BK, labels_B), jnp.argmax(logits_BK, -1) == labels_B


# ----------------------------------------------------------------------------------------------------------- many steps


def epoch_order(seed: int, epoch: int, examples: int, batch_size: int) -> np.ndarray:
    """(S, B) int32: the batches of an epoch, drawn from (seed, epoch); the last one is filled up from the order's start."""
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, epoch)))).permutation(examples).astype(np.int32)
    return np.resize(order, (steps_per_epoch(examples, batch_size), batch_size))


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Every image is seen in every epoch: the last batch may be smaller."""
    return -(-examples // batch_size)


def train_steps(
    model: nn.Module,
    optimizer_name: str,
    state: TrainState,
    hyper: Hyper,
    sums_2S: jax.Array,
    images_NHWC: jax.Array,
    labels_N: jax.Array,
    order_SB: jax.Array,
    first: jax.Array,
    last: jax.Array,
    normalization: Normalization = UNIT,
) -> tuple[TrainState, jax.Array]:
    """Steps `first` to `last` (exclusive) of an epoch. `sums_2S` takes each step's sums of loss and right answers.

    The bounds are data, so that an epoch may be walked in pieces of any length by one program, with the same result.
    """
    examples, batch = labels_N.shape[0], order_SB.shape[1]

    def body(s: jax.Array, carry: tuple[TrainState, jax.Array]) -> tuple[TrainState, jax.Array]:
        state, sums_2S = carry
        unsigned = s.astype(jnp.uint32)  # for a signed index JAX would also handle those from the end
        indices_B = jax.lax.dynamic_index_in_dim(order_SB, unsigned, keepdims=False)
        count = jnp.minimum(batch, examples - s * batch)
        images_BHWC, labels_B = _at(images_NHWC, indices_B), _at(labels_N, indices_B)
        state, sums_2 = train_step(model, optimizer_name, state, hyper, images_BHWC, labels_B, count, normalization)
        return state, jax.lax.dynamic_update_index_in_dim(sums_2S, sums_2, unsigned, axis=1)

    return jax.lax.fori_loop(first, last, body, (state, sums_2S))


def _at(values_N: jax.Array, indices_B: jax.Array) -> jax.Array:
    """values_N[indices_B], of which we know that they are in bounds: no code to check it."""
    return values_N.at[indices_B].get(mode="promise_in_bounds")


def eval_batches(
    model: nn.Module,
    variables: Any,
    images_NHWC: jax.Array,
    labels_N: jax.Array,
    indices_EB: jax.Array,
    normalization: Normalization = UNIT,
) -> tuple[jax.Array, jax.Array]:
    """(E, B) losses and right answers of the images at `indices_EB`."""

    def evaluate(indices_B: jax.Array) -> tuple[jax.Array, jax.Array]:
        return eval_step(model, variables, _at(images_NHWC, indices_B), _at(labels_N, indices_B), normalization)

    return jax.lax.map(evaluate, indices_EB)


def over_lanes(function: Callable, lanes: int, in_axes: tuple[int | None, ...]) -> Callable:
    """`function` with a leading trial axis on the arguments marked 0 in `in_axes`, and on every result.

    One lane is the function itself, not a vmap over one: a batched product of one is slower on CPU.
    """
    if lanes > 1:
        return jax.vmap(function, in_axes=in_axes)

    def single(*args: Any) -> Any:
        first = [arg if axis is None else jax.tree.map(lambda a: a[0], arg) for arg, axis in zip(args, in_axes, strict=True)]
        return jax.tree.map(lambda a: a[None], function(*first))

    return single


# ------------------------------------------------------------------------------------------------------------- programs


@dataclasses.dataclass(frozen=True)
class DeviceData:
    """A data set in a device's memory: training images, and the images to be judged on (validation, then test)."""

    train_images: jax.Array
    train_labels: jax.Array
    eval_images: jax.Array
    eval_labels: jax.Array
    validation: int  # how many of the eval images are validation images
    input_shape: tuple[int, ...]
    num_classes: int
    mesh: Mesh | None = None  # of the devices that share the images of every batch; None: one device
    normalization: Normalization = UNIT  # of the images, training and evaluation alike

    @classmethod
    def put(cls, data: Dataset, devices: Sequence[jax.Device] = ()) -> "DeviceData":
        """Copies the arrays to the device; to each of several, which then share the images of every batch."""
        mesh = Mesh(np.array(devices), ("batch",)) if len(devices) > 1 else None

        def put(array: np.ndarray) -> jax.Array:
            if mesh is None:
                return jax.device_put(np.ascontiguousarray(array), devices[0] if devices else None)
            return _spread(array, NamedSharding(mesh, PartitionSpec()))

        return cls(
            put(data.train_images),
            put(data.train_labels),
            put(np.concatenate([data.validation_images, data.test_images])),
            put(np.concatenate([data.validation_labels, data.test_labels])),
            len(data.validation_labels),
            data.info.input_shape,
            data.info.num_classes,
            mesh,
            data.normalization,
        )

    def divided(self, indices: np.ndarray) -> Any:
        """Indices (..., B) as the programs take them: the batch axis divided over the devices."""
        return indices if self.mesh is None else _spread(indices, _division(self.mesh, indices.shape))


def _division(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """The last axis divided over the devices; whole on each if it cannot be divided evenly."""
    return NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - 1), None if shape[-1] % mesh.size else "batch"))


def _spread(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """The array on the devices of all processes; each process has the whole of it and gives its own devices their part."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


@dataclasses.dataclass(frozen=True)
class Program:
    """A bucket's compiled programs: `train` is `train_steps`, `evaluate` is `eval_batches`, for `lanes` trials at a time."""

    model: nn.Module
    lanes: int
    train: Callable
    evaluate: Callable
    eval_batches: int
    compile_seconds: float


def compile_program(trial: Trial, lanes: int, data: DeviceData) -> Program:
    """Compiles what all trials with the `static` of `trial` share. Raises UsageError if batch or model do not fit the data."""
    start = time.perf_counter()
    model = models.build(trial.model, data.input_shape, data.num_classes)
    name, batch = trial.train.optimizer, trial.train.batch_size
    states = _stack([create_train_state(model, data.input_shape, name, trial.seed)] * lanes)
    hyper = _hyper([trial] * lanes)
    steps = steps_per_epoch(len(data.train_labels), batch)
    sums = jax.ShapeDtypeStruct((lanes, 2, steps), jnp.float32)
    order = jax.ShapeDtypeStruct((lanes, steps, batch), jnp.int32)
    index = jax.ShapeDtypeStruct((), jnp.int32)
    # One program evaluates any number of images, in pieces of at most 16 batches.
    judged = max(data.validation, len(data.eval_labels) - data.validation)
    pieces = jax.ShapeDtypeStruct((min(16, -(-judged // EVAL_BATCH)), EVAL_BATCH), jnp.int32)

    def train(state, hyper, sums, images, labels, order, first, last):  # type: ignore[no-untyped-def]
        return train_steps(model, name, state, hyper, sums, images, labels, order, first, last, data.normalization)

    def evaluate(variables, images, labels, indices):  # type: ignore[no-untyped-def]
        return eval_batches(model, variables, images, labels, indices, data.normalization)

    placed: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    if data.mesh is not None:
        # Values are whole on every device, the batch is divided: XLA then adds up the gradients of the parts.
        whole = NamedSharding(data.mesh, PartitionSpec())
        placed = (
            {"in_shardings": (whole,) * 5 + (_division(data.mesh, order.shape), whole, whole), "out_shardings": whole},
            {"in_shardings": (whole,) * 3 + (_division(data.mesh, pieces.shape),), "out_shardings": whole},
        )
    trained = jax.jit(over_lanes(train, lanes, (0, 0, 0, None, None, 0, None, None)), donate_argnums=(0, 2), **placed[0])
    judged_by = jax.jit(over_lanes(evaluate, lanes, (0, None, None, None)), **placed[1])
    with convolution.at_most(design(data)):
        lowered = (
            trained.lower(states, hyper, sums, data.train_images, data.train_labels, order, index, index),
            judged_by.lower(_variables(states), data.eval_images, data.eval_labels, pieces),
        )
    train_program, eval_program = (_compile(program, _compiler_options(trial, data)) for program in lowered)
    return Program(model, lanes, train_program, eval_program, pieces.shape[0], time.perf_counter() - start)


# Multiply-accumulates of training, forward only, below which a program is compiled quickly: some seconds of one core.
_SHORT = 1e11


def _compiler_options(trial: Trial, data: DeviceData) -> dict[str, Any]:
    """Settings of XLA for a program. A function of the trial alone, so that its numbers are too.

    Without its MLIR emitters XLA's CPU compiler takes half the time, 0.8 s in place of 1.4, and its own code runs
    slower. That is worth it for a short training of a network whose layers are all in C: 0 to 9 % of its time.
    """
    spec = zoo.spec(trial.model, data.input_shape, data.num_classes)
    if design(data) != "native" or not isinstance(spec, tuple) or not models.is_in_c(spec):
        return {}
    work = summary.describe(trial.model, data.input_shape, data.num_classes).macs * len(data.train_labels) * trial.train.epochs
    return {"xla_cpu_use_fusion_emitters": False} if work < _SHORT else {}


def _compile(lowered: jax.stages.Lowered, options: dict[str, Any]) -> Callable:
    """Compiles with those options, or without them under an XLA that does not know them."""
    if options:
        with contextlib.suppress(RuntimeError):
            return lowered.compile(compiler_options=options)
    return lowered.compile()


def design(data: DeviceData) -> str:
    """How convolutions of programs for `data` are done: one of `convolution.DESIGNS`."""
    with convolution.at_most("native" if data.mesh is None else "xla"):
        return convolution.design()


def _variables(state: TrainState) -> dict[str, Any]:
    return {"params": state.params, **state.model_state}


def _stack(states: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *states)


def _hyper(trials: Sequence[Trial]) -> dict[str, np.ndarray]:
    rows = [trial.dynamic for trial in trials]
    return {key: np.array([row[key] for row in rows], np.int32 if key == "seed" else np.float32) for key in rows[0]}


# ------------------------------------------------------------------------------------------------------------- positions


@dataclasses.dataclass(frozen=True)
class Position:
    """How far some trials are: their states after `step` steps, and what was measured on the way. Leading axis: trials."""

    state: TrainState
    sums_T2S: Any  # per step of the epoch under way: sums of loss and right answers
    step: int
    history: tuple[dict[str, list[float | None]], ...]  # per finished epoch: curves' values, a list over trials
    diverged: tuple[int | None, ...]  # step whose loss was not finite
    train_seconds: float
    right_TV: np.ndarray  # bool, answers to the validation images at the end of the last whole epoch

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as named arrays, for a checkpoint."""
        leaves = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves((self.state, self.sums_T2S)))}
        rest = {"step": self.step, "history": self.history, "diverged": self.diverged, "train_seconds": self.train_seconds}
        return {**leaves, "rest": np.frombuffer(json.dumps(rest).encode(), np.uint8), "validation": self.right_TV}

    def restored(self, arrays: Mapping[str, np.ndarray]) -> "Position":
        """The position that `arrays` were made of; self gives the structure. Raises ValueError if they do not fit."""
        old, treedef = jax.tree.flatten((self.state, self.sums_T2S))
        try:
            new = [arrays[f"leaf{i}"] for i in range(len(old))]
            rest, right_TV = json.loads(arrays["rest"].tobytes()), arrays["validation"]
        except KeyError as error:
            raise ValueError(f"checkpoint lacks {error}") from None
        if any(a.shape != b.shape or a.dtype != b.dtype for a, b in zip([*new, right_TV], [*old, self.right_TV], strict=True)):
            raise ValueError("checkpoint of another shape")
        state, sums = jax.tree.unflatten(treedef, new)
        past, diverged = tuple(rest["history"]), tuple(rest["diverged"])
        return Position(state, sums, rest["step"], past, diverged, rest["train_seconds"], right_TV)


def start(program: Program, trials: Sequence[Trial], data: DeviceData) -> Position:
    """The position before the first step."""
    name = trials[0].train.optimizer
    states = _stack(
        [create_train_state(program.model, data.input_shape, name, trial.seed) for trial in _filled(program, trials)]
    )
    steps = steps_per_epoch(len(data.train_labels), trials[0].train.batch_size)
    sums_T2S, right_TV = np.zeros((program.lanes, 2, steps), np.float32), np.zeros((len(trials), data.validation), bool)
    return Position(states, sums_T2S, 0, (), (None,) * len(trials), 0.0, right_TV)


def _filled(program: Program, trials: Sequence[Trial]) -> list[Trial]:
    # A bucket that lost members runs the same program, with idle lanes: a result never depends on its neighbours.
    return [*trials, *[trials[-1]] * (program.lanes - len(trials))]


def finished(trials: Sequence[Trial], position: Position) -> bool:
    """Whether every trial is trained to its end, or diverged."""
    return len(position.history) == trials[0].train.epochs or all(step is not None for step in position.diverged)


def advance(program: Program, trials: Sequence[Trial], data: DeviceData, position: Position, most_steps: int) -> Position:
    """Moves on by at most `most_steps` steps, to the epoch's end at most; there the validation images are judged."""
    began = time.perf_counter()
    train = trials[0].train
    examples = len(data.train_labels)
    per_epoch = steps_per_epoch(examples, train.batch_size)
    epoch, first = divmod(position.step, per_epoch)
    last = min(first + most_steps, per_epoch)
    filled = _filled(program, trials)
    order = np.stack([epoch_order(trial.seed, epoch, examples, train.batch_size) for trial in filled])
    state, sums_T2S = program.train(
        position.state,
        _hyper(filled),
        position.sums_T2S,
        data.train_images,
        data.train_labels,
        data.divided(order),
        np.int32(first),
        np.int32(last),
    )
    loss_TS, right_TS = np.asarray(sums_T2S, np.float64).transpose(1, 0, 2)
    diverged = tuple(
        known if known is not None else _first_not_finite(loss_TS[t, first:last], position.step)
        for t, known in enumerate(position.diverged)
    )
    seconds = position.train_seconds + time.perf_counter() - began
    history, right_TV = position.history, position.right_TV
    if last == per_epoch:
        lanes = range(len(trials))
        loss_TV, right_TV = (answers[: len(trials)] for answers in judge(program, state, data, range(data.validation)))
        history = (
            *history,
            {
                "train_loss": [float(loss_TS[t].sum()) / examples for t in lanes],
                "train_accuracy": [float(right_TS[t].sum()) / examples for t in lanes],
                "val_loss": [float(loss_TV[t].mean()) if data.validation else None for t in lanes],
                "val_accuracy": [float(right_TV[t].mean()) if data.validation else None for t in lanes],
            },
        )
    return Position(state, sums_T2S, epoch * per_epoch + last, history, diverged, seconds, right_TV)


def _first_not_finite(loss_S: np.ndarray, step: int) -> int | None:
    bad = np.flatnonzero(~np.isfinite(loss_S))
    return step + int(bad[0]) if len(bad) else None


def judge(program: Program, state: TrainState, data: DeviceData, which: range) -> tuple[np.ndarray, np.ndarray]:
    """Losses (float64) and right answers (bool), each (T, len(which)), of the eval images at `which`: every one, none twice."""
    size = program.eval_batches * EVAL_BATCH
    losses, rights = [np.zeros((program.lanes, 0))], [np.zeros((program.lanes, 0), bool)]
    for begin in range(which.start, which.stop, size):
        count = min(size, which.stop - begin)
        # The last piece is filled up with its own first image, whose answers are then cut off.
        indices = np.where(np.arange(size) < count, np.arange(begin, begin + size), begin).astype(np.int32)
        indices_EB = data.divided(indices.reshape(-1, EVAL_BATCH))
        loss_TEB, right_TEB = program.evaluate(_variables(state), data.eval_images, data.eval_labels, indices_EB)
        losses.append(np.asarray(loss_TEB, np.float64).reshape(program.lanes, -1)[:, :count])
        rights.append(np.asarray(right_TEB).reshape(program.lanes, -1)[:, :count])
    return np.concatenate(losses, 1), np.concatenate(rights, 1)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished trial measured. `variables`: trained values by path, 'params/conv1/kernel'."""

    status: str
    reason: str | None
    history: list[dict[str, Any]]
    test_loss: float | None
    test_correct: np.ndarray | None  # bool per test image
    val_correct: np.ndarray | None  # bool per validation image; None without validation images
    variables: dict[str, np.ndarray]


def results(program: Program, trials: Sequence[Trial], data: DeviceData, position: Position) -> list[Result]:
    """Judges the finished trials on the test images, once; one Result a trial."""
    loss_TN, right_TN = judge(program, position.state, data, range(data.validation, len(data.eval_labels)))
    flat = flax.traverse_util.flatten_dict(jax.device_get(_variables(position.state)), sep="/")
    per_epoch = steps_per_epoch(len(data.train_labels), trials[0].train.batch_size)
    out = []
    for t, _ in enumerate(trials):
        step = position.diverged[t]
        if step is None and not np.isfinite(loss_TN[t]).all():
            step = position.step - 1  # the last step overflowed: its own loss was taken before
        whole = position.history if step is None else position.history[: step // per_epoch]
        curve = [{"epoch": e, **{name: values[t] for name, values in row.items()}} for e, row in enumerate(whole, 1)]
        variables = {path: np.asarray(value[t]) for path, value in flat.items()}
        if step is None:
            held_out = position.right_TV[t] if data.validation else None
            out.append(Result("done", None, curve, float(loss_TN[t].mean()), right_TN[t], held_out, variables))
        else:
            reason = f"loss not finite at step {step} of {trials[t].train.epochs * per_epoch}"  # type: ignore[operator]
            out.append(Result("diverged", reason, curve, None, None, None, variables))
    return out


def train_epochs(trial: Trial, data: Dataset) -> Result:
    """Trains one trial from start to end in this process: the whole engine as one call. Raises UsageError on a bad fit."""
    if not len(data.train_labels):
        raise UsageError("--validation_fraction: no training image is left")
    on_device = DeviceData.put(data)
    program = compile_program(trial, 1, on_device)
    position = start(program, [trial], on_device)
    while not finished([trial], position):
        position = advance(program, [trial], on_device, position, 10**9)
    return results(program, [trial], on_device, position)[0]
