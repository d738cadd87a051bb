"""The names and signatures of the book, what its star imports bring, and what importing them costs."""

import importlib
import inspect
import operator
import re
from pathlib import Path

import pytest

CONV = "{{'filter_num': {}, 'filter_size': {}, 'pad': {}, 'stride': 1}}"
DEEP = ", ".join(
    f"conv_param_{i}={CONV.format(n, 3, pad)}"
    for i, (n, pad) in enumerate([(16, 1), (16, 1), (32, 1), (32, 2), (64, 1), (64, 1)], start=1)
)
NETWORK = (
    "predict(self, x, train_flg=False); loss(self, x, t); accuracy(self, x, t, batch_size=100); "
    "gradient(self, x, t); numerical_gradient(self, x, t); "
    "save_params(self, file_name='params.pkl'); load_params(self, file_name='params.pkl')"
)
SIGNATURES = {
    "layers": "Relu(); Sigmoid(); Affine(W, b); SoftmaxWithLoss(); Dropout(dropout_ratio=0.5); "
    "BatchNormalization(gamma, beta, momentum=0.9, running_mean=None, running_var=None); "
    "Convolution(W, b, stride=1, pad=0); Pooling(pool_h, pool_w, stride=1, pad=0); "
    "Relu.forward(self, x); Relu.backward(self, dout); Affine.forward(self, x); Affine.backward(self, dout); "
    "SoftmaxWithLoss.forward(self, x, t); SoftmaxWithLoss.backward(self, dout=1); "
    "Dropout.forward(self, x, train_flg=True); BatchNormalization.forward(self, x, train_flg=True)",
    "functions": "identity_function(x); step_function(x); sigmoid(x); sigmoid_grad(x); relu(x); "
    "relu_grad(x); softmax(x); mean_squared_error(y, t); sum_squared_error(y, t); "
    "cross_entropy_error(y, t); softmax_loss(X, t)",
    "util": "smooth_curve(x); shuffle_dataset(x, t); "
    "conv_output_size(input_size, filter_size, stride=1, pad=0); "
    "im2col(input_data, filter_h, filter_w, stride=1, pad=0); "
    "col2im(col, input_shape, filter_h, filter_w, stride=1, pad=0)",
    "gradient": "numerical_gradient(f, x); numerical_gradient_2d(f, X)",
    "optimizer": "SGD(lr=0.01); AdaGrad(lr=0.01); Momentum(lr=0.01, momentum=0.9); "
    "Nesterov(lr=0.01, momentum=0.9); RMSprop(lr=0.01, decay_rate=0.99); "
    "Adam(lr=0.001, beta1=0.9, beta2=0.999); SGD.update(self, params, grads)",
    "trainer": "Trainer(network, x_train, t_train, x_test, t_test, epochs=20, mini_batch_size=100, "
    "optimizer='SGD', optimizer_param={'lr': 0.01}, evaluate_sample_num_per_epoch=None, verbose=True); "
    "Trainer.train(self); Trainer.train_step(self)",
    "mnist": "load_mnist(normalize=True, flatten=True, one_hot_label=False)",
    "simple_convnet": f"SimpleConvNet(input_dim=(1, 28, 28), conv_param={CONV.format(30, 5, 0)}, "
    "hidden_size=100, output_size=10, weight_init_std=0.01); "
    + "; ".join(f"SimpleConvNet.{method}" for method in NETWORK.split("; ")),
    "deep_convnet": f"DeepConvNet(input_dim=(1, 28, 28), {DEEP}, hidden_size=50, output_size=10)",
}


def signature_of(thing):
    found = inspect.signature(thing)
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    return str(found.replace(parameters=plain, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("module", SIGNATURES)
def test_signatures(module):
    for signature in SIGNATURES[module].split("; "):
        name = signature.partition("(")[0]
        thing = operator.attrgetter(name)(importlib.import_module(f"xpcnn.scratch.{module}"))
        assert name + signature_of(thing) == signature


STARS = {
    "layers": {"softmax", "cross_entropy_error", "sigmoid", "im2col", "col2im", "np"},
    **{module: {"np"} for module in ("functions", "util", "gradient", "optimizer")},
}


@pytest.mark.parametrize("module", STARS)
def test_star_imports_bring_what_the_books_scripts_take_from_them(module):
    names = {}
    exec(f"from xpcnn.scratch.{module} import *", names)
    public = {signature.partition("(")[0] for signature in SIGNATURES[module].split("; ")}
    assert STARS[module] | {name for name in public if "." not in name} <= names.keys()


# -- docs/from-scratch.md --------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "from-scratch.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples_of_the_page_run_in_order_and_print_what_they_should(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(block, PAGE.name, "exec"), names)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert (err, lines[0]) == ("", "6 steps, 2 epochs")
    assert lines[1].startswith("{'W1': (4, 1, 3, 3), 'b1': (4,), 'W2': (100, 20)")
    assert lines[2:4] == ["True True True True", "(4, 1, 3, 3) (4, 1, 3, 3)"]
    assert lines[4:8] == ["True", "float32 float32", "(4,)", "True True"]
    assert "array_api_strict" in lines[8]
    for line in re.findall(r"`(from xpcnn\.scratch\S* import [^`]+)`", TEXT):
        exec(line, {})
