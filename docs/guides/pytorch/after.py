"""A perceptron learns the digits of scikit-learn."""

import milepost
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from torch.utils import data

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
dataset = data.TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
run = milepost.Run("digits", model, optimizer, loss=F.cross_entropy, every=14)
for x, y in run.batches(dataset, batch_size=32, steps=56):
    loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    run.log(loss)
run.finish()
model.eval()
hits = model(dataset.tensors[0]).argmax(1) == dataset.tensors[1]
print(f"accuracy {hits.float().mean():.2f}")
