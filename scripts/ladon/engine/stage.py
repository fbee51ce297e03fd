"""One training stage, built when it is entered.

It is made of torchdistill's parts (redesigned models, forward hooks and procs, its registries of
losses, optimizers and schedulers) but not of its boxes: those build every stage's data at once,
change the config they are given, and cannot be resumed. Teacher forward, student loss and step
are separate, so that several students can share one teacher's output.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import sc2bench.loss  # noqa: F401  (registers BppLoss)
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, ReduceLROnPlateau
from torchdistill.common.module_util import get_module
from torchdistill.losses.registry import get_func2extract_model_output
from torchdistill.optim.registry import get_optimizer, get_scheduler

from ladon.bottlenecks import auxiliary_loss
from ladon.engine.criterion import build_criterion
from ladon.engine.distributed import World
from ladon.engine.failures import ACCELERATOR_ERRORS, is_connection_error
from ladon.engine.hooked import HookedModel, paths_read_of_teacher
from ladon.engine.module_paths import PlacedSection
from ladon.engine.single_image import foreseeing_single_image
from ladon.errors import ConfigError, DataError, LadonError, in_one_line
from ladon.models.compiled import compiled
from ladon.models.precision import as_float32, autocast, float32_where_it_matters

logger = logging.getLogger(__name__)

# learning rates that schedules put in the place of the optimizer's: OneCycleLR, CyclicLR
_SET_BY_SCHEDULES = frozenset(("max_lr", "base_lr"))


class StudentLoss(nn.Module):
    """Student forward and criterion in one module.

    DistributedDataParallel prepares gradients from what a forward returns; losses that read hooked
    layers are only reachable if the loss itself is returned.
    """

    def __init__(
        self,
        student: HookedModel,
        criterion_section: Mapping[str, Any],
        device: torch.device,
        precision: str,
    ) -> None:
        super().__init__()
        self._device, self._precision = device, precision
        self.module = student.stage_model
        self._student = [student]  # in a list: no submodule, no second name for its parameters
        self.criterion = build_criterion(criterion_section, device)
        self._model_losses = get_func2extract_model_output(
            criterion_section.get("func2extract_model_loss")
        )
        self._terms: dict[str, Tensor] = {}
        for name, (criterion, weight) in getattr(self.criterion, "term_dict", {}).items():
            criterion.register_forward_hook(self._keeping(name, weight))

    def _keeping(self, name: str, weight: float) -> Callable[..., None]:
        """Return a hook that keeps a term's value, not the large tensors it comes from."""

        def keep(_module: nn.Module, _inputs: Any, value: Tensor) -> None:
            self._terms[name] = weight * value.detach()

        return keep

    def forward(self, images: Any, targets: Any, supp: Any, teacher_io: Any) -> Tensor:
        """Return the weighted sum of the stage's losses, a scalar."""
        with autocast(self._device, self._precision):
            outputs, io = self._student[0].run(self.module, images, targets, supp)
        if self._precision != "float32":
            outputs, io = as_float32(outputs), as_float32(io)
        model_losses = self._model_losses(outputs, targets, supp_dict=supp)
        self._terms = self._weighted(model_losses)
        try:
            return self.criterion({"teacher": teacher_io, "student": io}, model_losses, targets)
        except KeyError as error:
            raise ConfigError(
                f"train: the criterion asks for {error}, which the models do not give: check its "
                "module_path, io and weights, and the forward_hook of teacher and student"
            ) from error
        except IndexError as error:
            raise DataError(f"a label does not fit the model's classes: {error}") from error

    def _weighted(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the losses that a model computes itself, as the criterion sums them.

        Of a segmenter these are its outputs, and no loss.
        """
        weight = getattr(self.criterion, "model_loss_factor", 1.0)
        weights = weight if isinstance(weight, Mapping) else dict.fromkeys(losses, weight)
        return {
            name: weights[name] * value.detach()
            for name, value in losses.items()
            if weights.get(name) and value.numel() == 1
        }

    def weighted_terms(self) -> dict[str, Tensor]:
        """Return the last batch's loss terms by name, on the device, weighted as they are summed.

        They add up to the loss of a weighted sum; of another criterion only the model's own losses
        are known.
        """
        return self._terms

    def terms(self) -> dict[str, float]:
        """Return the last batch's loss terms by name, to say which of them is not finite."""
        return {name: float(value) for name, value in self._terms.items()}


@contextmanager
def setting_up(where: str) -> Iterator[None]:
    """Within it, what a library makes of arguments that it cannot use becomes an error.

    Args:
        where: key, file and line of the stage.

    Raises:
        ConfigError: naming them.
    """
    try:
        yield
    except LadonError:
        raise
    except Exception as error:
        if is_connection_error(error) or isinstance(error, ACCELERATOR_ERRORS):
            raise
        raise ConfigError(f"{where}: cannot set up: {in_one_line(error)}") from error


def _times(rates: Any, factor: float) -> Any:
    """Return a learning rate, or one for each parameter group, multiplied."""
    if isinstance(rates, list | tuple):
        return [rate * factor for rate in rates]
    return rates * factor


class Stage:
    """A stage that is being trained.

    Attributes:
        auxiliary: the last step's auxiliary loss, a scalar; None where nothing learns from one.

    Args:
        section: the stage's config, built.
        student: the model that learns, on its device.
        teacher: the model it learns from; None where the stage has none.
        steps_per_epoch: batches of the stage's own loader.
        world: device and processes.
        lr_factor: multiplies the learning rates of the optimizer, and those that a schedule sets
            in their place; a floor that a schedule goes down to (`eta_min`, `min_lr`) stays.
        precision: of the teacher, and of the student's decoder, body and heads; losses are float32.
        compile_layers: use `torch.compile` on the student's decoder and body, and the teacher's.
        greater_is_better: direction of the score that `end_epoch` is given, which a schedule that
            waits for a plateau follows unless its config says otherwise.
    """

    def __init__(
        self,
        section: Mapping[str, Any],
        student: nn.Module,
        teacher: nn.Module | None,
        steps_per_epoch: int,
        world: World,
        lr_factor: float = 1.0,
        precision: str = "float32",
        compile_layers: bool = False,
        greater_is_better: bool = True,
    ) -> None:
        section = copy.copy(section)
        self._plateau_mode = "max" if greater_is_better else "min"
        self._precision, self._open = precision, ExitStack()
        self._compiles = compile_layers
        student_section = section.get("student") or section.get("model") or {}
        self._world = world
        self.student = HookedModel(student, student_section, "student", world.device)
        self.loss = StudentLoss(self.student, section["criterion"], world.device, precision)
        self._forward = self._synchronised()
        self.optimizer, self._max_grad_norm, self.grad_accum_step = self._build_optimizer(
            section["optimizer"], lr_factor
        )
        self.scheduler, self._scheduling_step = self._build_scheduler(
            section.get("scheduler"), int(section["num_epochs"]), steps_per_epoch, lr_factor
        )
        if lr_factor != 1:
            rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(self.learning_rates))
            logger.info("-adjust_lr: learning rates times %g: from %s on", lr_factor, rates)
        self.grad_count = 0
        self.auxiliary: Tensor | None = None
        # last: a student that cannot be set up must leave no hook on a teacher that others share
        self.teacher: HookedModel | None = None
        if teacher is not None and section.get("teacher") is not None:
            self.teacher = HookedModel(teacher, section["teacher"], "teacher", world.device)
            self.teacher.stop_after(paths_read_of_teacher(section["criterion"]))
        for model in (student, teacher) if teacher is not None else (student,):
            if compile_layers:
                self._open.enter_context(compiled(model))
            if precision != "float32":
                self._open.enter_context(float32_where_it_matters(model))

    def _synchronised(self) -> nn.Module:
        """Return the loss module, averaging gradients over the processes of a distributed run."""
        learns = [p for p in self.loss.parameters() if p.requires_grad]
        if not self._world.distributed or not learns:
            return self.loss
        # quantiles learn from the auxiliary loss alone, which is the same on every process
        quantiles = [n for n, _ in self.loss.named_parameters() if n.endswith(".quantiles")]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self.loss, quantiles)
        return DistributedDataParallel(self.loss, find_unused_parameters=True)

    def _build_optimizer(
        self, section: Mapping[str, Any], lr_factor: float
    ) -> tuple[torch.optim.Optimizer, float | None, int]:
        model = self.student.stage_model
        given = [n for n in ("module_wise_kwargs", "module_wise_configs") if section.get(n)]
        trained: Any = nn.ModuleList([model])
        if given:
            trained = []
            for number, part in enumerate(section[given[0]]):
                module = get_module(model, part["module"])
                if module is None:
                    key = f"{given[0]}.{number}.module"
                    where = section.place(key) if isinstance(section, PlacedSection) else key
                    raise ConfigError(f"{where}: the model has no module '{part['module']}'")
                own = module.parameters() if isinstance(module, nn.Module) else [module]
                trained.append(dict(part.get("kwargs") or {}) | {"params": own})
        optimizer = get_optimizer(
            trained,
            section["key"],
            filters_params=section.get("filters_params", True),
            **(section.get("kwargs") or {}),
        )
        for group in optimizer.param_groups if lr_factor != 1 else ():  # the default lr, too
            group["lr"] = group["lr"] * lr_factor
        optimizer.zero_grad()
        return optimizer, section.get("max_grad_norm"), section.get("grad_accum_step") or 1

    def _build_scheduler(
        self,
        section: Mapping[str, Any] | None,
        num_epochs: int,
        steps_per_epoch: int,
        lr_factor: float,
    ) -> tuple[Any, int]:
        if not section:
            return None, 0
        kwargs = dict(section.get("kwargs") or {})
        for name in _SET_BY_SCHEDULES & set(kwargs):
            kwargs[name] = _times(kwargs[name], lr_factor)
        scheduling_step = section.get("scheduling_step") or 0
        # lengths follow from the stage, whatever a file says about another dataset's
        per_epoch: float = steps_per_epoch
        if scheduling_step > 0:
            every = math.lcm(scheduling_step, self.grad_accum_step)
            per_epoch = steps_per_epoch if every == 1 else steps_per_epoch / every
        if section["key"] == "poly_lr_scheduler":
            for key, value in (("num_iterations", per_epoch), ("num_epochs", num_epochs)):
                if kwargs.get(key, value) != value:
                    logger.warning(
                        "scheduler.kwargs.%s is %s, but the stage has %s: using the stage's",
                        key,
                        kwargs[key],
                        value,
                    )
                kwargs[key] = value
        elif section["key"] == "OneCycleLR" and not {"total_steps", "epochs"} & set(kwargs):
            # one spare step: the scheduler also steps after the last batch
            kwargs["total_steps"] = int(per_epoch * num_epochs) + 1
        elif section["key"] == "ReduceLROnPlateau":
            kwargs.setdefault("mode", self._plateau_mode)
        return get_scheduler(self.optimizer, section["key"], **kwargs), scheduling_step

    @property
    def learning_rates(self) -> list[float]:
        """Learning rate of each parameter group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    @property
    def at_boundary(self) -> bool:
        """Whether no gradients are waiting to be accumulated further."""
        return self.grad_count % self.grad_accum_step == 0

    @property
    def counts_steps(self) -> bool:
        """Whether the schedule is one of steps: its length is that of the stage's epochs."""
        return self.scheduler is not None and self._scheduling_step > 0

    def begin_epoch(self) -> None:
        """Student in train mode; the teacher in eval mode, always."""
        self.student.train()
        if self.teacher is not None:
            self.teacher.model.eval()
            self.teacher.stage_model.eval()

    @torch.no_grad()
    def teacher_forward(self, images: Any, targets: Any, supp: Any) -> dict[str, Any]:
        """Return what the stage's losses read of the teacher: inputs and outputs by path."""
        if self.teacher is None:
            return {}
        with autocast(self._world.device, self._precision):
            _, io = self.teacher(images, targets, supp)
        return io if self._precision == "float32" else as_float32(io)

    def student_loss(
        self, images: Any, targets: Any, supp: Any, teacher_io: dict[str, Any]
    ) -> Tensor:
        """Return the loss of a batch, a scalar that gradients flow from."""
        return self._forward(images, targets, supp, teacher_io)

    def foreseeing_single_image(self, num_images: int, where: str) -> AbstractContextManager[None]:
        """See `single_image`; a compiled model would be compiled anew for it, and is left out."""
        if self._compiles:
            return nullcontext()
        return foreseeing_single_image(self.student.stage_model, num_images, where)

    def step(self, loss: Tensor) -> None:
        """Backward, and the optimizer's step where enough gradients have come together.

        The bottleneck's auxiliary loss (its quantiles; no data in it) goes first while the CDF
        tables are not built yet.
        """
        auxiliary = auxiliary_loss(self.student.model)
        self.auxiliary = None if auxiliary is None else auxiliary.detach()
        if auxiliary is not None:
            auxiliary.backward()
        self.grad_count += 1
        if self.grad_accum_step > 1:
            loss = loss / self.grad_accum_step
        loss.backward()
        if not self.at_boundary:
            return
        if self._max_grad_norm is not None:
            params = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(params, self._max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self._scheduling_step > 0 and self.grad_count % self._scheduling_step == 0:
            self._schedule(self.grad_count // self._scheduling_step, None)

    def end_epoch(self, metric: float | None) -> None:
        """Step a scheduler that counts epochs; `metric` is what a plateau is judged by."""
        if self._scheduling_step <= 0 and self.scheduler is not None:
            self._schedule(self.scheduler.last_epoch + 1, metric)

    def _schedule(self, count: int, metric: float | None) -> None:
        if self.scheduler is None:
            return
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if metric is not None:  # an epoch that is skipped has none
                self.scheduler.step(metric)
        elif isinstance(self.scheduler, CosineAnnealingWarmRestarts):
            self.scheduler.step(count)
        else:
            self.scheduler.step()

    def skip_epochs(self, epochs: int, steps_per_epoch: int) -> None:
        """Move the schedule on as if `epochs` of the stage were done (`--start_epoch`)."""
        per_epoch = steps_per_epoch // self._scheduling_step if self._scheduling_step > 0 else 1
        self._move_on(epochs * per_epoch)

    def take_over(
        self, state: Mapping[str, Any], epochs: int, steps: int, lr_factor: float = 1.0
    ) -> None:
        """Take over what `state_dict` returned in a run of another number of processes.

        Its schedule had another length: this one's is moved on to the same part of its own. One
        that follows a plateau has no length, and goes on.

        Args:
            state: the state.
            epochs: of the stage that are done.
            steps: of the stage that this number of processes would have done.
            lr_factor: of its learning rates to those of the other run.
        """
        self.grad_count = steps - steps % self.grad_accum_step
        self._take_criterion(state)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
            for group in self.optimizer.param_groups:
                group["lr"] *= lr_factor
            return
        every = math.lcm(max(1, self._scheduling_step), self.grad_accum_step)
        self._move_on(self.grad_count // every if self._scheduling_step > 0 else epochs)
        own = self.optimizer.state_dict()
        self.optimizer.load_state_dict(own | {"state": state["optimizer"]["state"]})

    def _move_on(self, times: int) -> None:
        for _ in range(times if self.scheduler is not None else 0):
            # no gradient step is skipped, torch need not warn
            self.optimizer._opt_called = True  # type: ignore[attr-defined]
            self._schedule(self.scheduler.last_epoch + 1, None)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, scheduler, count of gradients, and what the criterion keeps."""
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        if scheduler is not None:
            scheduler = {k: v for k, v in scheduler.items() if not callable(v)}
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": scheduler,
            "grad_count": self.grad_count,
            "criterion": self.loss.criterion.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None and state["scheduler"] is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.grad_count = state["grad_count"]
        self._take_criterion(state)

    def _take_criterion(self, state: Mapping[str, Any]) -> None:
        """Take over what a criterion has counted or learnt; older files hold none of it."""
        if state.get("criterion"):
            self.loss.criterion.load_state_dict(state["criterion"])

    def close(self) -> None:
        """Leave the models as they were, but for what was learnt."""
        self._open.close()
        self.student.close()
        if self.teacher is not None:
            self.teacher.close()
