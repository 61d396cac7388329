"""TensorFlow as Keras records need it: loaded on use, and set up so that its bits repeat."""

from __future__ import annotations

import functools
import os
from typing import Any, Final, NamedTuple

from milepost_ml.errors import MissingFramework

INSTALL: Final = "pip install 'milepost[tensorflow]'"


class Modules(NamedTuple):
    """The two modules: neither comes with types."""

    tf: Any
    keras: Any


@functools.cache
def load_keras() -> Modules:
    """TensorFlow and Keras on it; raises MissingFramework."""
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import keras
        import tensorflow as tf
    except ImportError as error:
        raise MissingFramework(
            f"{error.name} is not installed; Keras models are recorded and retrained with it:"
            f" {INSTALL}"
        ) from error
    if keras.backend.backend() != "tensorflow":
        raise MissingFramework(
            f"Keras runs on {keras.backend.backend()} here, and is recorded and retrained on"
            " TensorFlow only: set KERAS_BACKEND=tensorflow"
        )
    return Modules(tf, keras)


@functools.cache
def configure_tensorflow() -> None:
    """Put TensorFlow into the state in which records are made and retraced.

    One thread, deterministic operators, float32, and graphs as they were written: what TensorFlow's
    optimizer makes of a graph depends on what else is in it.  Changes the settings of the whole
    process, once; raises RuntimeError where TensorFlow has already computed on several threads.
    """
    tf, keras = load_keras()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.optimizer.set_jit(False)
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    tf.config.experimental.enable_op_determinism()
    # Without one, TensorFlow now refuses every operator that draws unseeded random numbers.
    tf.random.set_seed(0)
    keras.config.set_floatx("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")
    keras.config.set_dtype_policy("float32")
