"""What turns gradients into weights: AdamW, or Muon with AdamW for the rest; and the averaged weights for scoring."""

import torch
from torch import Tensor, nn

from trainer.backends import Model
from trainer.muon import Muon
from trainer.recipe import Recipe


class Optimizer:
    """One step over all parameters of a model, by as many optimizers as the recipe asks for."""

    def __init__(self, model: Model, recipe: Recipe) -> None:
        groups = model.groups()
        decayed = {"weight_decay": recipe.weight_decay}
        matrices = {"params": groups["matrices"], "share": 1.0, **decayed}
        others = [
            {"params": groups["embeddings"], "share": recipe.embedding_lr_multiplier, **decayed},
            {"params": groups["head"], "share": 1.0, **decayed},
            {"params": groups["vectors"], "share": 1.0, "weight_decay": 0.0},
        ]
        self._peak = recipe.lr
        adamw = others if recipe.optimizer == "muon" else [matrices, *others]
        betas = (recipe.beta1, recipe.beta2)
        self._optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW([group for group in adamw if group["params"]], lr=recipe.lr, betas=betas, fused=True)
        ]
        if recipe.optimizer == "muon":
            # beta1 stays the knob of Adam's momentum; Muon has its own.
            muon = Muon(groups["matrices"], model.stacks(), recipe.lr, recipe.weight_decay)
            muon.param_groups[0]["share"] = 1.0
            self._optimizers.append(muon)

    def step(self, lr: float) -> None:
        """Updates every parameter from its gradient with this learning rate, and forgets the gradients."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * group["share"]
            optimizer.step()
            optimizer.zero_grad()


class AveragedWeights:
    """An exponential moving average of the weights.

    Early on it forgets faster, min(decay, (1 + steps) / (10 + steps)): in a run of a few hundred steps the random
    start would otherwise stay in it.
    """

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self._parameters, self._decay, self._steps = parameters, decay, 0
        self._averages: list[Tensor] = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights as they are after one more step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._averages, list(self._parameters), 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Puts the average in the weights' place: training is over."""
        torch._foreach_copy_(list(self._parameters), self._averages)
