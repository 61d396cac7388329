"""Why an interval does not repeat, in words: the confirmed causes, and the usual ones otherwise."""

from __future__ import annotations

from typing import Final

CONFIRMED: Final = {
    "autocast": (
        "the loop computes under torch.autocast in bfloat16, which the run does not declare."
        " Declare it with autocast='bfloat16', or leave it out"
    ),
    "averaged-weights": (
        "the step was computed with the running averages in place of the weights. Leave"
        " ema.applied() before the next batch"
    ),
    "averaged": "the loop trains the mean of the losses where loss= declares their sum",
    "clipped-norm": (
        "the loop clips the norm of the gradients to {limit:g}, which the run does not declare."
        " Declare it with clip_norm={limit:g}"
    ),
    "clipped-value": (
        "the loop clips the gradients' values to {limit:g}, which the run does not declare."
        " Declare it with clip_value={limit:g}"
    ),
    "data-order": (
        "the recorded batch is the one that recipe and data give step {other}: seed, batch size or"
        " order of recipe.json are not those of the run"
    ),
    "data-records": "data.safetensors was changed after recording: {records}",
    "eval-mode": (
        "the forward pass is that of model.eval(), without dropout and with the running statistics"
        " of batch normalisation. Call model.train() before it"
    ),
    "forward-after": (
        "the batch passes through the model once more between backward and opt.step(), in training"
        " mode, which moves its buffers ({tensors}). Compute metrics from the output that is there,"
        " or with `with run.paused():` and model.eval()"
    ),
    "forward-before": (
        "the batch passes through the model once before the pass that is trained, which draws"
        " random numbers or moves buffers. Do that with `with run.paused():`, or not at all"
    ),
    "frozen": (
        "{tensors} came out of the step as before it: something undoes the optimizer's step there,"
        " or it was never done"
    ),
    "gradient-scaled": (
        "the gradients{of} are {factor:g} times those of the declared loss: something scales loss"
        " or gradients (a hook, a weighted loss, a loss that is divided or multiplied)"
    ),
    "gradient-zero": (
        "the gradients of {tensors} are zero: something detaches or zeroes them between backward"
        " and opt.step()"
    ),
    "kept-gradients": (
        "the gradients of the step before were not cleared and are added to these. Call"
        " optimizer.zero_grad() for every step, before backward"
    ),
    "loss-scaled": (
        "run.log was given {factor:g} times the loss that loss= computes, while the gradient is"
        " right. Log the loss itself"
    ),
    "no-autocast": "the loop does not compute under torch.autocast, which the run declares",
    "not-augmented": "the batch was trained without the augmentation that the run declares",
    "not-clipped": (
        "the loop does not clip the gradients between backward and opt.step(), as the run declares"
    ),
    "not-smoothed": "the loop trains without the label smoothing that loss= declares",
    "other-batch": (
        "the loop trained batch {other} where it was given batch {number}. Train the batch that"
        " run.batches() gives, in its order"
    ),
    "restored-weights": (
        "the step was computed with the weights of step {step}, which something restored"
    ),
    "reversed-batch": "the loop trained the records of the batch in reversed order",
    "smoothed": "the loop trains with a label smoothing of {value:g} that loss= does not declare",
    "sorted-batch": "the loop trained the records of the batch in the order of the data",
    "steps-changed": (
        "every tensor is as the recorder saw it, and only the file in steps/ says something else:"
        " it was changed after recording"
    ),
    "summed": "the loop trains the sum of the losses where loss= declares their mean",
    "threads": (
        "{threads} threads computed it, and this profile repeats with as many only. Something calls"
        " torch.set_num_threads during the run"
    ),
    "undivided": (
        "the loop does not divide each loss by accumulate={accumulate}. Call"
        " (loss / {accumulate}).backward()"
    ),
    "unshuffled": (
        "the loop trained the data in their own order, not the batches that run.batches() gives"
    ),
    "unsteady": (
        "this machine does not repeat its own result: done again from the same state, {place} gave"
        " other bits"
    ),
}
"""By name; each was tried, and what came out was equal to the record."""

SEEN: Final = frozenset({"data-order", "data-records", "steps-changed", "unsteady"})
"""Those that show without training in another way."""

USUAL: Final = {
    "batch": "the data on disk are not those the run was fed",
    "failed": "the captured graph cannot be computed from this state and batch",
    "forward": (
        "the logged loss is another one too, so the forward pass or the batch was another: a batch"
        " that the loop changes, a loss that is not loss=, randomness of its own, something that"
        " the model remembers without registering it as a buffer, or weights that were changed"
        " between two steps through .data"
    ),
    "backward": (
        "the logged loss agrees, so the forward pass was the declared one and something changed the"
        " gradients afterwards: a hook, a clip by a limit of its own, a second backward, a weighted"
        " loss of which only a part was logged"
    ),
    "loss": "run.log was given another loss than loss= computes",
    "state-buffer": (
        "the gradient agrees, so something besides the trained forward pass changes the buffers"
        " ({tensors}): a forward pass over other data in training mode, or the loop itself"
    ),
    "state-parameter": (
        "the gradient agrees, so something besides the optimizer changes the weights ({tensors}): a"
        " clamp, tied or averaged weights that are copied in, a hook on the optimizer"
    ),
    "state-optimizer": (
        "the gradient agrees, so something besides the optimizer changes its own state ({tensors})"
    ),
    "state-unknown": (
        "the gradient agrees, so something besides the optimizer and the forward pass changes"
        " weights, buffers or the optimizer's state"
    ),
}
"""Where nothing was confirmed, by what the parts that differ show."""
