"""A tiny BERT learns which of two documents a line is from, with the Trainer of transformers.

The two documents are named on the command line.
"""

import sys
from pathlib import Path

import milepost
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

texts = [
    (words, label)
    for label, path in enumerate(sys.argv[1:3])
    for line in Path(path).read_text().splitlines()
    if len(words := line.lower().split()[:12]) >= 6
]
vocabulary = {
    word: 2 + place for place, word in enumerate(sorted({w for t, _ in texts for w in t}))
}
dataset = [
    {"input_ids": torch.tensor([1, *(vocabulary[word] for word in words)]), "labels": label}
    for words, label in texts
]


def collate(records):
    ids = torch.nn.utils.rnn.pad_sequence([each["input_ids"] for each in records], batch_first=True)
    labels = torch.tensor([each["labels"] for each in records])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


set_seed(0)
model = BertForSequenceClassification(
    BertConfig(
        vocab_size=2 + len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=16,
        num_labels=2,
    )
)
arguments = TrainingArguments(
    "out",
    max_steps=60,
    per_device_train_batch_size=16,
    learning_rate=5e-3,
    warmup_steps=6,
    weight_decay=0.01,
    use_cpu=True,
    disable_tqdm=True,
    report_to="none",
    save_strategy="no",
)
trainer = Trainer(model=model, args=arguments, train_dataset=dataset, data_collator=collate)
run = milepost.Run("bert-lines", every=15).attach(trainer)
trainer.train()
run.finish()
print(f"loss {trainer.evaluate(dataset)['eval_loss']:.2f}")
