"""Trains with the Trainer, recorded and not, and prints what is refused; for its test alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file
from torch.utils.data import IterableDataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
)

import milepost
from milepost_ml.files import MODEL, RECIPE
from milepost_ml.keyed import Order, make_seed
from milepost_ml.recipe import decode_recipe

WORDS, RECORDS, BATCH, STEPS = 50, 48, 8, 6
SMALL = {"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 0}


def make_gpt() -> GPT2LMHeadModel:
    torch.manual_seed(3)
    still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return GPT2LMHeadModel(
        GPT2Config(n_positions=16, n_embd=16, n_layer=1, n_head=2, **SMALL, **still)
    )


def make_bert() -> BertForSequenceClassification:
    torch.manual_seed(3)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=WORDS,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            num_labels=3,
        )
    )


def make_lines() -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(0, WORDS, (RECORDS, 9), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in ids]


def make_sentences() -> list[dict[str, Any]]:
    return [
        {
            "input_ids": torch.cat([line["input_ids"][:length], torch.zeros(9 - length).long()]),
            "attention_mask": (torch.arange(9) < length).long(),
            "labels": int(line["input_ids"][0]) % 3,
        }
        for place, line in enumerate(make_lines())
        for length in (4 + place % 6,)
    ]


def make_trainer(model: Any, dataset: Any, collator: Any = None, **options: Any) -> Trainer:
    chosen = {"max_steps": STEPS, "per_device_train_batch_size": BATCH, "use_cpu": True} | {
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "warmup_steps": 2,
        "weight_decay": 0.1,
        "learning_rate": 1e-2,
        "max_grad_norm": 0.5,
        **options,
    }
    arguments = TrainingArguments("out", **chosen)
    datasets = {"train_dataset": dataset, "eval_dataset": dataset}
    return Trainer(model=model, args=arguments, data_collator=collator, **datasets)


def make_run(name: str, **options: Any) -> milepost.Run:
    return milepost.Run(name, every=3, seed=7, quiet=True, selfcheck=False, **options)


def measure_distance(accumulate: int) -> float:
    """The largest difference of a weight from training without a record, in the same order."""
    lines = make_lines()
    # Adam would magnify roundings of gradients that are nearly zero.
    options = {"gradient_accumulation_steps": accumulate, "optim": "sgd", "learning_rate": 0.5}
    trainer = make_trainer(make_gpt(), lines, eval_strategy="steps", eval_steps=2, **options)
    run = make_run("gpt", profile="class").attach(trainer)
    trainer.train()
    recorded = load_file(run.finish() / MODEL)
    order = Order(seed=make_seed(7), records=RECORDS, batch_size=BATCH)
    numbers = range(STEPS * accumulate)
    ordered = [lines[place] for number in numbers for place in order.get_indices(number)]
    sequential = {"train_sampling_strategy": "sequential", **options}
    plain = make_trainer(make_gpt(), ordered, **sequential)
    plain.train()
    return max(
        float(abs(recorded[name] - tensor.detach().numpy()).max())
        for name, tensor in plain.model.named_parameters()
    )


def record_bert() -> dict[str, Any]:
    """With label smoothing, a saved checkpoint and the tensors that it has in common."""
    trainer = make_trainer(
        make_bert(), make_sentences(), label_smoothing_factor=0.1, save_strategy="no"
    )
    run = make_run("bert").attach(trainer)
    trainer.train()
    trainer.save_model("saved")
    folder = run.finish()
    saved, recorded = load_file("saved/model.safetensors"), load_file(folder / MODEL)
    return {
        "profile": decode_recipe((folder / RECIPE).read_bytes()).profile,
        "same file": saved.keys() == recorded.keys()
        and all(saved[name].tobytes() == recorded[name].tobytes() for name in saved),
        "folder": str(Path(folder).absolute()),
    }


def mask_at_random(records: list[dict[str, Any]]) -> dict[str, Any]:
    ids = torch.stack([each["input_ids"] for each in records])
    return {"input_ids": ids.masked_fill(torch.rand(ids.shape) < 0.5, 0), "labels": ids}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(make_lines())


def make_ragged() -> list[dict[str, torch.Tensor]]:
    lines = make_lines()
    ragged = lines[0]["labels"].clone()
    ragged[5:] = -100
    return [{**lines[0], "labels": ragged}, *lines[1:]]


def attach(dataset: Any = None, collator: Any = None, **options: Any) -> None:
    make_run("refused").attach(
        make_trainer(make_gpt(), make_lines() if dataset is None else dataset, collator, **options)
    )


def refuse(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except Exception as error:
        return f"{type(error).__name__} {getattr(error, 'slug', '')}: {error}"
    return "not refused"


REFUSALS: dict[str, Callable[[], object]] = {
    "precision": lambda: attach(bf16=True),
    "best": lambda: attach(
        load_best_model_at_end=True, save_strategy="steps", eval_strategy="steps"
    ),
    "noise": lambda: attach(neftune_noise_alpha=0.1),
    "masking": lambda: attach(collator=mask_at_random),
    "stream": lambda: attach(Stream()),
    "ragged": lambda: attach(make_ragged(), gradient_accumulation_steps=2),
}

if __name__ == "__main__":
    answers: dict[str, Any] = {name: refuse(attempt) for name, attempt in REFUSALS.items()}
    answers["distances"] = [measure_distance(accumulate) for accumulate in (1, 2)]
    answers["bert"] = record_bert()
    json.dump(answers, sys.stdout)
