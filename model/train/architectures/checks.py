"""Checks of a tiny model of an architecture (probe.py), each of which raises UnfitError.

Values are compared before and after other tokens took the place of those that a loss must not see;
that finds jumps (experts, keys that are chosen) and all that passes by way of the tokens' numbers.
Gradients must be zero there, which finds what is too little for the values to show.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from model.data.dataset import IGNORED
from model.train.architectures.tokens import COMPARED, ROWS, ProbeTokens, other_tokens, probe_tokens
from model.train.loss import Losses, ModelWithLoss

TOLERANCE = 1e-5
"""Largest difference of two mean losses that should be equal, relative to 1 + the loss. Rounding
in fp32 makes 1e-6, a leak 1e-4 and more."""
GRADIENT_TOLERANCE = 1e-7
"""Largest gradient that may reach another document, relative to the document's own largest."""
SEEN = "lets documents that share a row see each other: "


class UnfitError(Exception):
    """An architecture fails a check.

    Its first argument is the rest of a sentence that begins with the architecture; its second is
    true where the check concerns documents that share a row.
    """


def check_whole(model: ModelWithLoss, separate_documents: bool) -> None:
    """The loss is the model's own, finite, causal, and reaches every weight. Raises UnfitError."""
    if separate_documents and not model.takes_positions:
        raise UnfitError("is not told where documents begin (it takes no position_ids)", True)
    probe = probe_tokens(model, separate=separate_documents)
    with _router_included(model):
        found = probe.losses(model)
    everything = found.mean()
    if found.router is not None:
        everything = everything + model.router_weight * found.router
    if not torch.isfinite(everything) or not torch.isfinite(found.by_sample).all():
        raise UnfitError("gives losses that are not finite", False)
    everything.backward()  # type: ignore[no-untyped-call]
    _check_gradients(model)

    with torch.no_grad():
        probe.losses(model, ids=other_tokens(probe.input_ids, torch.ones_like(probe.labels).bool()))
        again = probe.losses(model)
    _same(
        found,
        again,
        "carries something from one batch to the next: the same tokens had another loss, by {:.1e}",
    )
    _check_causal(model, probe)
    _check_own_loss(model)


def _check_causal(model: ModelWithLoss, probe: ProbeTokens) -> None:
    """No later token, and none of another row, reaches a loss."""
    length = probe.input_ids.shape[1]
    middle = length - ROWS[0][-1] // 2
    before_middle, first_row = probe.marked(0, 0, middle), probe.marked(0, 0, length)
    nearest = probe.marked(0, middle - 1, middle)  # a look at one token ahead changes no other
    not_causal = "is not causal: a token changed the loss of tokens before it by {:.1e}"
    rows = "lets the rows of a batch see each other: one changed the loss of another by {:.1e}"
    for counted, changed, message in (
        (before_middle, first_row & ~before_middle, not_causal),
        (nearest, first_row & ~before_middle, not_causal),
        (first_row, ~first_row, rows),
    ):
        with torch.no_grad():
            before = probe.losses(model, counted=counted)
            ids = other_tokens(probe.input_ids, changed)
            after = probe.losses(model, ids=ids, counted=counted)
        _same(before, after, message)
    _check_reach(
        model,
        probe,
        [(before_middle, before_middle)],
        "is not causal: the gradient of a loss reaches later tokens, or another row",
    )


def _check_own_loss(model: ModelWithLoss) -> None:
    """The loss is that of Transformers' own code."""
    alone = probe_tokens(model, separate=False)
    ids = torch.cat([alone.input_ids, alone.labels[:, -1:]], dim=1)[:1]
    with torch.no_grad(), _router_included(model):
        own = _own_loss(model, ids)
        ours = model(ids[:, :-1], ids[:, 1:])
        # The model's own routing loss counts the last token, which predicts nothing here.
        if ours.router is not None:
            whole = model(ids, torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], IGNORED)], dim=1))
            own = own - model.router_weight * whole.router
    difference = float((own - ours.mean()).abs() / (1 + own.abs()))
    if not difference <= TOLERANCE:
        raise UnfitError(
            "computes another loss than Steel, which takes the cross entropy of the next token "
            f"(and a router's loss): they differ by {difference:.1e}",
            False,
        )


def _own_loss(model: ModelWithLoss, ids: Tensor) -> Tensor:
    """The loss of Transformers' own code."""
    options: dict[str, Any] = {"use_cache": False} if _accepts(model.model, "use_cache") else {}
    if model.router_weight:
        options["output_router_logits"] = True
    loss: Tensor = model.model(input_ids=ids, labels=ids, **options).loss
    return loss


def _check_gradients(model: ModelWithLoss) -> None:
    without = []
    for name, parameter in model.model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.grad is None:
            without.append(name)
        elif not torch.isfinite(parameter.grad).all():
            raise UnfitError(f"gives gradients that are not finite ({name}, for one)", False)
    if without:
        raise UnfitError(
            f"has {len(without)} weights that no text would train ({without[0]}, for one)", False
        )


def check_separate(model: ModelWithLoss) -> None:
    """Documents that share a row do not see each other. Raises UnfitError."""
    probe = probe_tokens(model, separate=True)
    for row, number in COMPARED:
        start, end = probe.document(row, number)
        whole, first = probe.marked(row, start, end), probe.marked(row, start, start + 1)
        changed = other_tokens(probe.input_ids, ~whole)
        with torch.no_grad():
            packed = probe.losses(model, counted=whole)
            beside_another = probe.losses(model, ids=changed, counted=whole)
            # Its first token alone: what reaches a token or two is lost among all of them.
            begun = probe.losses(model, counted=first)
            begun_beside = probe.losses(model, ids=changed, counted=first)
            alone = model(probe.input_ids[row, start:end][None], probe.labels[row, start:end][None])
        seen = SEEN + "one changed the loss of another by {:.1e}"
        _same(packed, beside_another, seen, True)
        _same(begun, begun_beside, seen, True)
        _same(
            packed,
            alone,
            "does not begin anew at each document of a row: the loss of one was other than alone, "
            "by {:.1e}",
            True,
        )
    check_gradients_within_documents(model, probe)


def check_gradients_within_documents(model: ModelWithLoss, probe: ProbeTokens) -> None:
    """No gradient of a document's loss reaches the tokens of another. Raises UnfitError."""
    documents = [probe.marked(row, *probe.document(row, number)) for row, number in COMPARED]
    _check_reach(
        model,
        probe,
        [(document, document) for document in documents],
        f"{SEEN}the gradient of the loss of one reaches another",
        True,
    )


def _check_reach(
    model: ModelWithLoss,
    probe: ProbeTokens,
    counted_and_seen: list[tuple[Tensor, Tensor]],
    message: str,
    about_documents: bool = False,
) -> None:
    """The gradient of the losses that count reaches only the tokens that they may see.

    In training mode, where architectures take other ways through their code than in evaluation.
    """
    embedded: list[Tensor] = []
    embedding = model.model.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda _, __, output: embedded.append(output))
    model.train()
    try:
        for counted, may_be_seen in counted_and_seen:
            embedded.clear()
            found = probe.losses(model, counted=counted)
            if not torch.isfinite(found.total):
                raise UnfitError("gives losses that are not finite", about_documents)
            if not embedded or not embedded[0].requires_grad:
                return  # it does not call its embedding: its losses have to do
            (gradient,) = torch.autograd.grad(found.total, embedded[:1], materialize_grads=True)
            size = gradient.float().norm(dim=-1)
            outside = size.masked_fill(may_be_seen, 0).max() / size.max()
            if not outside <= GRADIENT_TOLERANCE:
                raise UnfitError(f"{message} ({float(outside):.1e} of its own)", about_documents)
    finally:
        hook.remove()
        model.eval()


def _same(one: Losses, other: Losses, message: str, about_documents: bool = False) -> None:
    difference = float((one.mean() - other.mean()).abs() / (1 + one.mean().abs()))
    if not difference <= TOLERANCE:
        raise UnfitError(message.format(difference), about_documents)


def _accepts(model: PreTrainedModel, name: str) -> bool:
    parameters = inspect.signature(model.forward).parameters
    return name in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )


@contextmanager
def _router_included(model: ModelWithLoss) -> Iterator[None]:
    """Let the router's loss be computed as in training, while the model has no dropout."""
    model.training = True
    try:
        yield
    finally:
        model.training = False
