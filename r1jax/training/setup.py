"""What a run builds once from its config, and the shapes its batches will have."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from r1jax import cluster
from r1jax import mesh as mesh_lib
from r1jax.aside import require_one_lane
from r1jax.config import Config
from r1jax.data import mixture, sources, templates
from r1jax.data.mixture import Curriculum
from r1jax.data.tasks import Item, Task, item_at, make_task
from r1jax.data.tokenizers import Tokenizer
from r1jax.errors import UserError
from r1jax.models import Transformer, init_params, lora
from r1jax.models.axes import PARAM_AXES, logical_axes
from r1jax.ops.sampling import SamplingParams
from r1jax.rewards.grader import Grader
from r1jax.rollout.plan import require_places
from r1jax.training.auxiliary import require_parts
from r1jax.training.checkpoint import fingerprint
from r1jax.training.grading import make_grader
from r1jax.training.lanes import choose_lanes
from r1jax.training.questions import Files, read_files
from r1jax.training.start import Start, read_start
from r1jax.training.step import init_state
from r1jax.types import PackedBatch, Params, PromptBatch, TrainState


@dataclasses.dataclass(frozen=True)
class Setup:
    config: Config
    mesh: jax.sharding.Mesh
    task: Task
    start: Start
    module: Transformer
    grader: Grader  # whoever made the setup closes it

    @property
    def tokenizer(self) -> Tokenizer:
        return self.start.tokenizer

    @functools.cached_property
    def opened_by_prompt(self) -> bool:
        return templates.opens_thinking(self.prompt_text({"question": "?"}))

    @property
    def sampling(self) -> SamplingParams:
        return dataclasses.replace(self.config.sampling, stop_ids=self.start.stop_ids)

    @property
    def lanes(self) -> int:
        """Of updates, and of passes over their batches."""
        return choose_lanes(self.config.batch, self.mesh)

    def sampling_at(self, step: int) -> SamplingParams:
        """How an RL step samples: with the length and temperature of its stage."""
        return self.config.rl.sampling_at(step, self.sampling)

    def decode_text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    @functools.cached_property
    def files(self) -> Files | None:
        """The questions of files; None where the task draws them. Read when first asked for."""
        return read_files(self.config, self.encode_whole) if self.config.data.has_files else None

    def place(self, batch: PackedBatch) -> PackedBatch:
        """Micro-batches on the devices, the rows of each split over them."""
        return cluster.place(batch, mesh_lib.batch_sharding(self.mesh, None))

    def item(self, split: str, index: int) -> Item:
        """The question at one place of a split's endless stream."""
        if self.files is None:
            return item_at(self.task, seed=self.config.seed, split=split, index=index)
        if split != "eval":
            return self.files.train.item(self.question_number(index))
        return sources.item_at(self.files.held_out, seed=self.config.seed, split=split, index=index)

    def question_number(self, place: int) -> int:
        """Which of the files' questions is at a place of the training stream; of a task's, the
        place itself, as none comes twice."""
        if self.files is None:
            return place
        return self.files.train.number(seed=self.config.seed, place=place)

    def train_places(self, first: int, rates: Mapping[int, float]) -> Iterator[int]:
        """Places of the training stream from `first` on, without those that the curriculum passes
        over; `rates` are of question numbers."""
        data = self.config.data
        if self.files is None or data.curriculum == "none":
            return itertools.count(first)
        curriculum = Curriculum(data.curriculum, data.retire_at)
        train = self.files.train
        return mixture.places(train, curriculum, rates, seed=self.config.seed, first=first)

    def prompt_text(self, item: Item) -> str:
        data = self.config.data
        return templates.prompt_text(data.template, item, self.tokenizer, system=data.system)

    def encode(self, item: Item) -> list[int]:
        """The tokens of an item's prompt; the last of them, where it may be truncated."""
        data = self.config.data
        tokens = self.encode_whole(item)
        return tokens[-data.max_prompt_tokens :] if data.too_long == "truncate" else tokens

    def encode_whole(self, item: Item) -> list[int]:
        text = self.prompt_text(item)
        return templates.prompt_tokens(self.config.data.template, text, self.tokenizer)

    def prompts(self, split: str, start: int, count: int) -> PromptBatch:
        """`count` prompts from place `start` of a split's endless stream."""
        return self.prompts_at(split, range(start, start + count))

    def prompts_at(self, split: str, places: Sequence[int]) -> PromptBatch:
        items = tuple(self.item(split, index) for index in places)
        tokens = tuple(np.array(self.encode(item), np.int32) for item in items)
        longest = max(map(len, tokens), default=0)
        if longest > self.config.data.max_prompt_tokens:
            raise UserError(
                f"a prompt has {longest} tokens, config.data.max_prompt_tokens is "
                f"{self.config.data.max_prompt_tokens}: raise it to {longest} or more"
            )
        return PromptBatch(np.array(places, np.int64), tokens, items)

    @property
    def trains_adapters(self) -> bool:
        return self.config.lora.rank > 0

    def policy(self, base_params: Params, trained: Params) -> Params:
        """The parameters that sample: those that are trained, or the base with its adapters."""
        if not self.trains_adapters:
            return trained
        return lora.join(base_params, trained, self.config.lora.scale)

    def origin(self, base_params: Params) -> dict[str, Any]:
        """Fingerprints of what a run has outside its workdir, kept with its checkpoints."""
        found: dict[str, Any] = {"weights": int(fingerprint(base_params))}
        return found if self.files is None else {**found, "questions": self.files.fingerprint}

    def held_out_prompts(self) -> PromptBatch:
        """What evaluation measures on: no question twice."""
        count = self.config.eval.prompts
        if self.files is not None:
            count = min(count, len(self.files.held_out))
        return self.prompts("eval", 0, count)


def make_setup(config: Config, workdir: pathlib.Path | None = None) -> Setup:
    """`workdir`: of a run that may have kept what it started from."""
    start = read_start(config, workdir)
    require_parts(config.auxiliary, start.model)
    require_places(start.model, config.data.max_prompt_tokens, config.sampling.max_tokens)
    mesh = mesh_lib.make_mesh(**dataclasses.asdict(config.mesh))
    require_one_lane("rollout", config.rollout.lanes, mesh.size)
    require_one_lane("batch", config.batch.lanes, mesh.size)
    return Setup(
        config=config,
        mesh=mesh,
        task=make_task(config.data.task, config.data.size),
        start=start,
        module=Transformer(start.model),
        grader=make_grader(config),
    )


def require_same_origin(now: Mapping[str, Any], then: Mapping[str, Any]) -> None:
    """A run goes on only from the weights and the questions that it started with."""
    wrong = [name for name in now if name in then and now[name] != then[name]]
    if wrong:
        names = {
            "weights": "config.init_from",
            "questions": "config.data.train, data.mix and data.eval",
        }
        raise UserError(
            f"{' and '.join(names[name] for name in wrong)}: the {' and '.join(wrong)} are not "
            "those that this run started with; put them back, or start another workdir"
        )


def abstract_state(
    setup: Setup, optimizer: optax.GradientTransformation, *, adapters: bool = False
) -> TrainState:
    """Shapes, dtypes and shardings of the training state: nothing is computed."""
    shapes = jax.eval_shape(
        lambda: init_state(_init_trained(setup, adapters, setup.config.seed), optimizer)
    )
    axes = lora.logical_axes(shapes.params, PARAM_AXES) if adapters else logical_axes(shapes.params)
    return with_shardings(setup, shapes, optimizer, axes)


def with_shardings(
    setup: Setup, shapes: TrainState, optimizer: optax.GradientTransformation, axes: Any
) -> TrainState:
    """An abstract state laid over the devices; `axes`: the logical ones of its parameters."""
    params = mesh_lib.param_shardings(setup.mesh, shapes.params, axes)
    shardings = mesh_lib.state_shardings(setup.mesh, shapes, optimizer, params)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _init_trained(setup: Setup, adapters: bool, seed: int | jax.Array) -> Params:
    if not adapters:
        return init_params(setup.module, seed)
    shapes = jax.eval_shape(functools.partial(init_params, setup.module), 0)
    wanted = setup.config.lora
    return lora.init(shapes, rank=wanted.rank, targets=wanted.targets, seed=seed)


def fresh_params(setup: Setup, *, adapters: bool = False) -> Params:
    """Initial parameters, or adapters, made where they will lie."""
    make = functools.partial(_init_trained, setup, adapters)
    shapes = jax.eval_shape(make, setup.config.seed)
    axes = lora.logical_axes(shapes, PARAM_AXES) if adapters else logical_axes(shapes)
    shardings = mesh_lib.param_shardings(setup.mesh, shapes, axes)
    return jax.jit(make, out_shardings=shardings)(setup.config.seed)


def fresh_state(
    setup: Setup,
    optimizer: optax.GradientTransformation,
    params: Params,
    *,
    adapters: bool = False,
) -> TrainState:
    """Step 0 with these parameters, whose memory it takes over; the optimizer's moments are made
    where they will lie."""
    like = abstract_state(setup, optimizer, adapters=adapters)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, like)
    make = jax.jit(
        functools.partial(init_state, optimizer=optimizer),
        out_shardings=shardings,
        donate_argnums=0,
    )
    return make(params)
