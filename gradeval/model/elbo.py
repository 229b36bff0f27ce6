"""Objectives of a variational autoencoder with binary codes: the negative ELBO, and the bound of K samples."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from gradeval.arguments import whole
from gradeval.errors import GradevalError, unknown_name
from gradeval.model.head_loss import HeadLoss, PointLoss
from gradeval.model.losses import bernoulli, check_targets
from gradeval.model.maps import BernoulliDecoder, Copies, EachCopy
from gradeval.model.network import BinaryLayer, StochasticBinaryNetwork
from gradeval.model.objective import WithConstant

KL_FORMS = ("sampled", "analytic")
"""The forms of the KL divergence in `NegativeElbo`."""


@dataclass(frozen=True)
class NegativeElbo:
    """J = mean over points of E_{s ~ q(s|x)}[−log p(x|s) − log p(s) + log q(s|x)] = mean of E[−log p(x|s)] + KL(q‖p).

    q(s|x) is the network's one stochastic layer, p(x|s) a product of Bernoulli variables with the head's logits, and
    p(s) of independent units with the head's prior logits. x in p(x|s) are the problem's targets, from 0 to 1.
    Both forms of the KL have the same J and the same ∇J:

    * "sampled": f(s) = −log p(x|s) − log p(s) + log q(s|x). f depends on the encoder's parameters. At states between 0
      and 1, as relaxations have them, it is the multilinear extension: s log q(1) + (1 − s) log q(0), of every unit.
    * "analytic": f(s) = −log p(x|s), to which Σⱼ KL(qⱼ‖pⱼ) is added as a constant (`WithConstant`): the same gradient,
      without noise, for every estimator.

    Args:
        kl: "sampled" or "analytic".

    Raises:
        GradevalError: another form.

    Source: Kingma & Welling, ICLR 2014, arXiv:1312.6114, eq. 3; with binary codes Mnih & Gregor, ICML 2014,
    arXiv:1402.0030; the sampled form as in Tucker et al., NeurIPS 2017, arXiv:1703.07370.

    Examples:
        >>> from torch import nn
        >>> from gradeval import Problem, exact_gradient
        >>> encoder, decoder = nn.Linear(5, 2), BernoulliDecoder(nn.Linear(2, 5), torch.zeros(2))
        >>> network = StochasticBinaryNetwork([encoder], decoder)
        >>> pixels = torch.tensor([[0.0, 1.0, 1.0, 0.0, 1.0]])
        >>> first, second = (exact_gradient(Problem(network, pixels, pixels, NegativeElbo(kl))) for kl in KL_FORMS)
        >>> torch.testing.assert_close(first.vector, second.vector)
    """

    kl: str = "sampled"

    def __post_init__(self) -> None:
        if self.kl not in KL_FORMS:
            raise unknown_name("form of the KL", str(self.kl), KL_FORMS)

    def bind(self, network: StochasticBinaryNetwork, inputs: Tensor, targets: Tensor) -> PointLoss:
        """The objective as a function of the states.

        Args:
            network: with one stochastic layer and a `BernoulliDecoder` for a head.
            inputs: what the encoder sees, [points, inputs].
            targets: x in p(x|s), [points, outputs].

        Returns:
            x_L ↦ f(x_L), [..., points, units] -> [..., points].

        Raises:
            GradevalError: the network is another one.
        """
        decoder, layer = _decoder_of(network), network.layers[0]
        reconstruction = HeadLoss(decoder.map, bernoulli, targets)
        if self.kl == "analytic":
            return WithConstant(reconstruction, self.divergence(network, inputs))
        ratios = _log_ratios(layer, layer.preactivation(inputs), decoder.prior_logits)
        return _SampledElbo(reconstruction, layer, *ratios)

    def divergence(self, network: StochasticBinaryNetwork, inputs: Tensor) -> Float[Tensor, " points"]:
        """KL(q(s|x)‖p(s)) = Σⱼ qⱼ log qⱼ/πⱼ + (1 − qⱼ) log (1 − qⱼ)/(1 − πⱼ), exact.

        Args:
            network: as of `bind`.
            inputs: what the encoder sees, [points, inputs].

        Returns:
            The divergence of every point, [points], differentiable in encoder and prior.

        Raises:
            GradevalError: the network is another one.
        """
        decoder, layer = _decoder_of(network), network.layers[0]
        a = layer.preactivation(inputs)
        on, off = _log_ratios(layer, a, decoder.prior_logits)
        return (layer.probability(a) * on + layer.probability(-a) * off).sum(-1)

    def check(self, network: StochasticBinaryNetwork, inputs: Tensor, targets: Tensor) -> None:
        """Refuse a network or targets that the objective has no meaning for.

        Args:
            network: must have one stochastic layer and a `BernoulliDecoder` with a prior logit for each unit.
            inputs: [points, inputs].
            targets: must be from 0 to 1, [points, outputs].

        Raises:
            GradevalError: something does not fit; the message says what.
        """
        decoder = _decoder_of(network)
        _check_units(decoder, network.layers[0].preactivation(inputs[:1]).shape[-1], decoder.map, targets)


@dataclass(frozen=True)
class MultiSampleBound:
    """J = −mean over points of E log (1/K) Σₖ wₖ, wₖ = p(x|sₖ) p(sₖ)/q(sₖ|x), for K independent samples sₖ ~ q(s|x).

    The K samples are the states of *one* layer of K · units units: K copies of the encoder's units (`Copies`), which
    share its parameters and are independent given x; the decoder is applied to each copy (`EachCopy`). So f is a
    function of the states like any other, and the exact gradient and all estimators work unchanged; those that are made
    for the bound (`gradeval.estimators.multi_sample`) see the K losses −log wₖ too.

    K = 1 is `NegativeElbo` with the sampled KL. At states between 0 and 1 each log wₖ is extended as there.

    Args:
        samples: K ≥ 1.

    Raises:
        GradevalError: fewer samples.

    Source: Burda, Grosse & Salakhutdinov, ICLR 2016, arXiv:1509.00519, eq. 8; Mnih & Rezende, ICML 2016,
    arXiv:1602.06725, eq. 2.

    Examples:
        >>> import gradeval
        >>> vae = gradeval.load_problem("vae", units=2, points=3)
        >>> bound = MultiSampleBound(3)
        >>> problem = gradeval.Problem(bound.network(vae.network), vae.inputs, vae.targets, bound)
        >>> problem.widths, gradeval.exact_gradient(problem).value < gradeval.exact_gradient(vae).value
        ([6], True)
    """

    samples: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", whole("samples", self.samples, least=1))

    def network(self, single: StochasticBinaryNetwork) -> StochasticBinaryNetwork:
        """The network whose states are K samples.

        Args:
            single: with one stochastic layer and a `BernoulliDecoder`, as for `NegativeElbo`.

        Returns:
            A network with K times the units, which shares the other's maps; the prior's logits are a copy.

        Raises:
            GradevalError: the network is another one.
        """
        decoder, layer = _decoder_of(single), single.layers[0]
        head = BernoulliDecoder(EachCopy(decoder.map, self.samples), decoder.prior_logits)
        return StochasticBinaryNetwork(Copies(layer.map, self.samples), head, single.noise, single.states)

    def single(self, network: StochasticBinaryNetwork) -> StochasticBinaryNetwork:
        """The network of one sample, from which `network` makes one of K.

        Args:
            network: as `network` makes it.

        Returns:
            The network, which shares the other's maps; the prior's logits are a copy.

        Raises:
            GradevalError: the network is another one.
        """
        _, encoder, decoder, each = self._parts(network)
        head = BernoulliDecoder(each.map, decoder.prior_logits)
        return StochasticBinaryNetwork(encoder, head, network.noise, network.states)

    def bind(self, network: StochasticBinaryNetwork, inputs: Tensor, targets: Tensor) -> SampleLosses:
        """The objective as a function of the K samples.

        Args:
            network: as `network` makes it.
            inputs: what the encoder sees, [points, inputs].
            targets: x in p(x|s), [points, outputs].

        Returns:
            x_L ↦ f(x_L), [..., points, K · units] -> [..., points].

        Raises:
            GradevalError: the network is another one.
        """
        layer, encoder, decoder, each = self._parts(network)
        ratios = _log_ratios(layer, encoder(inputs), decoder.prior_logits)
        return SampleLosses(_SampledElbo(HeadLoss(each.map, bernoulli, targets), layer, *ratios), self.samples)

    def check(self, network: StochasticBinaryNetwork, inputs: Tensor, targets: Tensor) -> None:
        """Refuse a network or targets that the objective has no meaning for.

        Args:
            network: must be as `network` makes it.
            inputs: [points, inputs].
            targets: must be from 0 to 1, [points, outputs].

        Raises:
            GradevalError: something does not fit; the message says what.
        """
        _, encoder, decoder, each = self._parts(network)
        _check_units(decoder, encoder(inputs[:1]).shape[-1], each.map, targets)

    def _parts(self, network: StochasticBinaryNetwork) -> tuple[BinaryLayer, nn.Module, BernoulliDecoder, EachCopy]:
        decoder, layer = _decoder_of(network), network.layers[0]
        copies, each = layer.map, decoder.map
        if isinstance(copies, Copies) and isinstance(each, EachCopy) and copies.copies == each.copies == self.samples:
            return layer, copies.map, decoder, each
        raise GradevalError(
            f"{self} needs a network of {self.samples} copies, whose maps are Copies and EachCopy; found "
            f"{type(copies).__name__} and {type(each).__name__}: {self}.network(network) makes it from one VAE's."
        )


IN_FILES = (*(f"negative-elbo:kl={kl}" for kl in KL_FORMS), "multi-sample-bound:samples=K")
"""What problem files call the objectives of this module."""

ElboObjective = NegativeElbo | MultiSampleBound
"""The objectives of this module."""


def objective_in_file(name: str) -> ElboObjective | None:
    """The objective that a problem file names.

    Args:
        name: as in `IN_FILES`, with a number for K.

    Returns:
        The objective; None where the name is not of one.

    Examples:
        >>> objective_in_file("negative-elbo:kl=analytic"), objective_in_file("multi-sample-bound:samples=3")
        (NegativeElbo(kl='analytic'), MultiSampleBound(samples=3))
        >>> objective_in_file("squared") is None
        True
    """
    if name in IN_FILES[:-1]:
        return NegativeElbo(name.partition("=")[2])
    found = re.fullmatch(r"multi-sample-bound:samples=([1-9]\d{0,3})", name)
    return MultiSampleBound(int(found[1])) if found else None


def name_in_file(objective: object) -> str | None:
    """What problem files call an objective.

    Args:
        objective: any.

    Returns:
        The name; None of another object than those of this module.

    Examples:
        >>> name_in_file(MultiSampleBound(3)), name_in_file("squared") is None
        ('multi-sample-bound:samples=3', True)
    """
    if isinstance(objective, NegativeElbo):
        return f"negative-elbo:kl={objective.kl}"
    return f"multi-sample-bound:samples={objective.samples}" if isinstance(objective, MultiSampleBound) else None


@dataclass(frozen=True)
class SampleLosses:
    """f = −log (1/K) Σₖ wₖ of K samples, with the losses −log wₖ of each.

    Args:
        one: −log w of one sample, [..., points, units] -> [..., points].
        samples: K.
    """

    one: PointLoss
    samples: int

    def __call__(self, x: Float[Tensor, "*batch points units"]) -> Float[Tensor, "*batch points"]:
        return self.joined(self.each(x))

    def each(self, x: Float[Tensor, "*batch points units"]) -> Float[Tensor, "*batch points samples"]:
        """−log wₖ of every sample.

        Args:
            x: the states of all samples, [..., points, K · units].

        Returns:
            The losses, [..., points, K].
        """
        return self.one(x.unflatten(-1, (self.samples, -1)).movedim(-2, 0)).movedim(0, -1)

    def joined(self, losses: Float[Tensor, "*batch points samples"]) -> Float[Tensor, "*batch points"]:
        """f of the losses of all samples.

        Args:
            losses: −log wₖ, [..., points, K].

        Returns:
            −log (1/K) Σₖ wₖ, [..., points].
        """
        return math.log(self.samples) - (-losses).logsumexp(-1)

    def with_one_replaced(
        self, losses: Float[Tensor, "*batch points samples"], by: Float[Tensor, "*broadcast samples"]
    ) -> Float[Tensor, "*both samples"]:
        """f with the loss of one sample replaced, in turn for every sample.

        Args:
            losses: −log wₖ, [..., points, K].
            by: what takes the place of each, [..., points, K]; it is broadcast with the losses.

        Returns:
            For every k: f of the losses, of which that of sample k is byₖ, [..., points, K].
        """
        own = torch.eye(self.samples, dtype=torch.bool, device=losses.device)
        others = (-losses[..., None, :]).masked_fill(own, -math.inf).logsumexp(-1)
        return math.log(self.samples) - torch.logaddexp(others, -by)


@dataclass(frozen=True)
class _SampledElbo:
    """−log p(x|s) + Σⱼ log q(sⱼ|x)/p(sⱼ); ``on`` and ``off`` are that log-ratio at sⱼ = 1 and 0, [points, units]."""

    reconstruction: HeadLoss
    layer: BinaryLayer
    on: Tensor
    off: Tensor

    def __call__(self, x: Float[Tensor, "*batch points units"]) -> Float[Tensor, "*batch points"]:
        s = (x - self.layer.lo) / self.layer.delta
        return self.reconstruction(x) + self._log_ratio(s).sum(-1)

    def flipped(
        self, layer: BinaryLayer, s: Float[Tensor, "*batch points units"]
    ) -> Float[Tensor, "units *batch points"]:
        """As `HeadLoss.flipped`; a flip changes one term of the log-ratio."""
        ratio = self._log_ratio(s)
        change = (self._log_ratio(1 - s) - ratio).movedim(-1, 0)
        return self.reconstruction.flipped(layer, s) + ratio.sum(-1) + change

    def _log_ratio(self, s: Tensor) -> Tensor:
        return s * self.on + (1 - s) * self.off


def _log_ratios(layer: BinaryLayer, a: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """log q(sⱼ|x)/p(sⱼ) at sⱼ = 1 and at sⱼ = 0, each [points, units].

    A state that cannot be has log q = −∞, and 0 · ∞ is no number: it gets the logarithm of the smallest positive
    number, with a zero gradient. No expectation depends on it.
    """
    floor = math.log(torch.finfo(a.dtype).tiny)
    on, off = (torch.nan_to_num(layer.noise.log_cdf(t), nan=math.nan, neginf=floor) for t in (a, -a))
    return on - logsigmoid(logits), off - logsigmoid(-logits)


def _decoder_of(network: StochasticBinaryNetwork) -> BernoulliDecoder:
    if len(network.layers) != 1:
        raise GradevalError(
            f"NegativeElbo is defined for one stochastic layer, found {len(network.layers)}: make the layers below it "
            "deterministic (nn.Sequential), or write an objective of your own with bind(network, inputs, targets)."
        )
    if not isinstance(network.head, BernoulliDecoder):
        raise GradevalError(
            f"NegativeElbo needs a head with prior logits, BernoulliDecoder(map, prior_logits); found a head of the "
            f"class {type(network.head).__name__}."
        )
    return network.head


def _check_units(decoder: BernoulliDecoder, units: int, logits: nn.Module, targets: Tensor) -> None:
    """Refuse prior logits that are not one a unit, and targets that are not one a pixel."""
    if decoder.prior_logits.shape != (units,):
        found = list(decoder.prior_logits.shape)
        raise GradevalError(f"the decoder's prior_logits must have the shape [{units}], one a unit, found {found}.")
    check_targets("bernoulli", targets, logits(decoder.prior_logits.new_zeros(1, units)).shape[-1])
