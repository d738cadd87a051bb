"""The names and signatures of the book, what its star imports bring, and what importing them costs."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

SIGNATURES: dict[str, dict[str, str]] = {
    "layers": {
        "Relu": "()",
        "Sigmoid": "()",
        "Affine": "(W, b)",
        "SoftmaxWithLoss": "()",
        "Dropout": "(dropout_ratio=0.5)",
        "BatchNormalization": "(gamma, beta, momentum=0.9, running_mean=None, running_var=None)",
        "Convolution": "(W, b, stride=1, pad=0)",
        "Pooling": "(pool_h, pool_w, stride=1, pad=0)",
        "Relu.forward": "(self, x)",
        "Relu.backward": "(self, dout)",
        "Affine.forward": "(self, x)",
        "Affine.backward": "(self, dout)",
        "SoftmaxWithLoss.forward": "(self, x, t)",
        "SoftmaxWithLoss.backward": "(self, dout=1)",
        "Dropout.forward": "(self, x, train_flg=True)",
        "BatchNormalization.forward": "(self, x, train_flg=True)",
    },
    "functions": {
        "identity_function": "(x)",
        "step_function": "(x)",
        "sigmoid": "(x)",
        "sigmoid_grad": "(x)",
        "relu": "(x)",
        "relu_grad": "(x)",
        "softmax": "(x)",
        "mean_squared_error": "(y, t)",
        "sum_squared_error": "(y, t)",
        "cross_entropy_error": "(y, t)",
        "softmax_loss": "(X, t)",
    },
    "util": {
        "smooth_curve": "(x)",
        "shuffle_dataset": "(x, t)",
        "conv_output_size": "(input_size, filter_size, stride=1, pad=0)",
        "im2col": "(input_data, filter_h, filter_w, stride=1, pad=0)",
        "col2im": "(col, input_shape, filter_h, filter_w, stride=1, pad=0)",
    },
    "gradient": {
        "numerical_gradient": "(f, x)",
        "numerical_gradient_2d": "(f, X)",
        "_numerical_gradient_1d": "(f, x)",
    },
    "optimizer": {
        "SGD": "(lr=0.01)",
        "Momentum": "(lr=0.01, momentum=0.9)",
        "Nesterov": "(lr=0.01, momentum=0.9)",
        "AdaGrad": "(lr=0.01)",
        "RMSprop": "(lr=0.01, decay_rate=0.99)",
        "Adam": "(lr=0.001, beta1=0.9, beta2=0.999)",
        "SGD.update": "(self, params, grads)",
    },
    "trainer": {
        "Trainer": "(network, x_train, t_train, x_test, t_test, epochs=20, mini_batch_size=100, "
        "optimizer='SGD', optimizer_param={'lr': 0.01}, evaluate_sample_num_per_epoch=None, verbose=True)",
        "Trainer.train": "(self)",
        "Trainer.train_step": "(self)",
    },
    "mnist": {"load_mnist": "(normalize=True, flatten=True, one_hot_label=False)"},
    "simple_convnet": {
        "SimpleConvNet": "(input_dim=(1, 28, 28), conv_param={'filter_num': 30, 'filter_size': 5, 'pad': 0, "
        "'stride': 1}, hidden_size=100, output_size=10, weight_init_std=0.01)"
    },
    "deep_convnet": {
        "DeepConvNet": "(input_dim=(1, 28, 28), "
        + "".join(
            f"conv_param_{i}={{'filter_num': {n}, 'filter_size': 3, 'pad': {pad}, 'stride': 1}}, "
            for i, (n, pad) in enumerate([(16, 1), (16, 1), (32, 1), (32, 2), (64, 1), (64, 1)], start=1)
        )
        + "hidden_size=50, output_size=10)"
    },
}
NETWORK = {
    "predict": "(self, x, train_flg=False)",
    "loss": "(self, x, t)",
    "accuracy": "(self, x, t, batch_size=100)",
    "gradient": "(self, x, t)",
    "numerical_gradient": "(self, x, t)",
    "save_params": "(self, file_name='params.pkl')",
    "load_params": "(self, file_name='params.pkl')",
}
for _module, _name in (("simple_convnet", "SimpleConvNet"), ("deep_convnet", "DeepConvNet")):
    SIGNATURES[_module] |= {f"{_name}.{method}": signature for method, signature in NETWORK.items()}


def signature_of(thing: object) -> str:
    found = inspect.signature(thing)  # type: ignore[arg-type]
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    return str(found.replace(parameters=plain, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in SIGNATURES.items() for n in names])
def test_signatures(module: str, name: str) -> None:
    thing: object = importlib.import_module(f"xpcnn.scratch.{module}")
    for part in name.split("."):
        thing = getattr(thing, part)
    assert signature_of(thing) == SIGNATURES[module][name]


STARS = {
    "layers": {
        "Affine",
        "Convolution",
        "softmax",
        "cross_entropy_error",
        "sigmoid",
        "im2col",
        "col2im",
        "np",
    },
    "functions": {"softmax", "np"},
    "util": {"im2col", "np"},
    "gradient": {"numerical_gradient", "np"},
    "optimizer": {"Adam", "np"},
}


@pytest.mark.parametrize("module", STARS)
def test_star_imports_bring_what_the_books_scripts_take_from_them(module: str) -> None:
    names: dict[str, object] = {}
    exec(f"from xpcnn.scratch.{module} import *", names)
    assert STARS[module] <= names.keys()
    public = {name for name in SIGNATURES[module] if "." not in name and not name.startswith("_")}
    assert public <= names.keys()


def test_importing_xpcnn_does_not_import_the_book() -> None:
    code = "import sys, xpcnn; print([name for name in sys.modules if name.startswith('xpcnn.scratch')])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_importing_the_book_loads_no_heavy_library() -> None:
    modules = ", ".join(f"xpcnn.scratch.{module}" for module in SIGNATURES)
    heavy = "{'pickle', 'matplotlib', 'torch', 'cupy', 'pooch', 'safetensors', 'tqdm'}"
    code = (
        f"import numpy, sys; old = set(sys.modules); import {modules}; "
        f"print({heavy} & (set(sys.modules) - old))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
