"""Options that no input can fit are refused when a layer is built, not when images arrive."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.nn import mentions
from xpcnn import Trainer, data, models, nn, ops, optim
from xpcnn.errors import AlgorithmError, ArgumentError, BackendError, DtypeError, ShapeError, XpcnnError
from xpcnn.train import evaluate, predict

NAN, INF = math.nan, math.inf

IMPOSSIBLE = """
nn.Conv2d(0, 2, 3)                              | Conv2d in_channels 0
nn.Conv2d(1, 0, 3)                              | Conv2d out_channels 0
nn.Conv2d(4, 4, 3, groups=3)                    | Conv2d groups=3 in_channels=4 divide
nn.Conv2d(1, 2, 0)                              | Conv2d kernel_size 0
nn.Conv2d(1, 2, 3, stride=0)                    | Conv2d stride 0
nn.Conv2d(1, 2, 3, dilation=0)                  | Conv2d dilation 0
nn.Conv2d(1, 2, 3, padding=-1)                  | Conv2d padding -1
nn.Conv2d(1, 2, 3, bias='no')                   | Conv2d bias 'no'
nn.Conv2d(1, 2, 3, algorithm='fastest')         | 'fastest' im2col
nn.Conv2d(1, 2, 3, dtype='int8')                | Conv2d dtype 'int8' float32
nn.Conv2d(1, 2, 3, weight_init='best')          | weight_init 'best' 'he'
nn.Conv2d(1, 2, 3, weight_init=-1.0)            | weight_init -1.0
nn.Conv2d(1, 2, 3, weight_init=NAN)             | weight_init nan
nn.Conv2d(1, 2, 3, weight_init=None)            | weight_init None
nn.Conv2d(1, 2, 3, weight_init=scalar)          | weight_init () (2, 1, 3, 3)
nn.ConvTranspose2d(0, 2, 3)                     | ConvTranspose2d in_channels 0
nn.ConvTranspose2d(2, 2.0, 3)                   | ConvTranspose2d out_channels 2.0
nn.ConvTranspose2d(4, 4, 3, groups=3)           | ConvTranspose2d groups=3
nn.ConvTranspose2d(1, 2, 3, padding=-1)         | ConvTranspose2d padding -1
nn.ConvTranspose2d(1, 2, 3, output_padding=1)   | ConvTranspose2d output_padding (1, 1) stride (1, 1)
nn.ConvTranspose2d(1, 2, 3, dtype='int32')      | ConvTranspose2d dtype 'int32'
nn.ConvTranspose2d(1, 2, 3, bias=2)             | ConvTranspose2d bias 2
nn.MaxPool2d(0)                                 | MaxPool2d kernel_size 0
nn.MaxPool2d(2, padding=2)                      | MaxPool2d padding half (2, 2)
nn.MaxPool2d(2, stride=0)                       | MaxPool2d stride 0
nn.MaxPool2d(2, ceil_mode='yes')                | MaxPool2d ceil_mode 'yes'
nn.AvgPool2d(3, padding=2)                      | AvgPool2d padding half
nn.AvgPool2d(2, count_include_pad=None)         | AvgPool2d count_include_pad None
nn.AdaptiveAvgPool2d(0)                         | AdaptiveAvgPool2d output_size 0
nn.ScaledAvgPool2d(0, 2)                        | ScaledAvgPool2d: channels integer 0
nn.ScaledAvgPool2d(1, -2)                       | ScaledAvgPool2d kernel_size -2
nn.ScaledAvgPool2d(1, 2, dtype='bool')          | ScaledAvgPool2d dtype 'bool'
nn.Linear(4.0, 2)                               | Linear: in_features integer 4.0
nn.Linear(4, 0)                                 | Linear: out_features integer 0
nn.Linear(4, 2, bias=None)                      | Linear bias None
nn.Linear(4, 2, dtype='float')                  | Linear dtype 'float'
nn.Linear(4, 2, weight_init=INF)                | weight_init inf
nn.BatchNorm2d(0)                               | BatchNorm2d: num_features integer 0
nn.BatchNorm1d(2.0)                             | BatchNorm1d: num_features integer 2.0
nn.BatchNorm2d(3, eps=-1)                       | BatchNorm2d eps -1
nn.BatchNorm2d(3, momentum=1.5)                 | BatchNorm2d momentum 1.5
nn.BatchNorm1d(3, momentum=None)                | BatchNorm1d momentum None
nn.BatchNorm2d(3, affine=1)                     | BatchNorm2d affine 1
nn.BatchNorm2d(3, affine=False, dtype='int64')  | BatchNorm2d dtype 'int64'
nn.LayerNorm(0)                                 | LayerNorm normalized_shape 0
nn.LayerNorm(3, eps=-1e-5)                      | LayerNorm eps -1e-05
nn.LayerNorm(3, affine=None)                    | LayerNorm affine None
nn.GroupNorm(3, 4)                              | GroupNorm num_groups=3 num_channels=4 divide
nn.GroupNorm(2, 4.0)                            | GroupNorm num_channels 4.0
nn.GroupNorm(2, 4, eps=NAN)                     | GroupNorm eps nan
nn.LocalResponseNorm(0)                         | LocalResponseNorm: size integer 0
nn.LocalResponseNorm(5, alpha=-1)               | LocalResponseNorm alpha -1
nn.LocalResponseNorm(5, beta=NAN)               | LocalResponseNorm beta nan
nn.LocalResponseNorm(5, k=-1.0)                 | LocalResponseNorm k -1.0
nn.Dropout(1.5)                                 | Dropout p 1.5
nn.LeakyReLU(NAN)                               | LeakyReLU slope nan
nn.Softmax(1.0)                                 | Softmax axis 1.0
nn.init.normal(-1)                              | normal std -1
models.vgg11(classes=0)                         | vgg11: classes integer 0
models.lenet5(classes='10')                     | lenet5: classes integer '10'
models.lenet5(in_channels=0)                    | lenet5: in_channels integer 0
models.lenet5(variant='relu')                   | lenet5 variant 'relu'
models.lenet5(dtype='int8')                     | lenet5 dtype 'int8'
models.resnet20(classes=None)                   | resnet20: classes integer None
models.resnet18(small_images=1)                 | resnet18 small_images 1
models.googlenet(aux='no')                      | googlenet aux 'no'
models.alexnet(dropout=NAN)                     | alexnet dropout nan
models.tiny_convnet(filters=0)                  | tiny_convnet: filters integer 0
models.tiny_convnet(bias=None)                  | tiny_convnet bias None
models.simple_convnet(hidden=-1)                | simple_convnet: hidden integer -1
models.simple_convnet(filter_size='5')          | simple_convnet: filter_size integer '5'
models.simple_convnet(stride=0)                 | simple_convnet stride 0
models.simple_convnet(padding='SAME')           | simple_convnet padding 'SAME'
models.simple_convnet(input_shape=28)           | simple_convnet input_shape 28
models.simple_convnet(weight_std=NAN)           | weight_init nan
models.deep_convnet(filters=8)                  | deep_convnet filters three 8
models.deep_convnet(batch_norm='yes')           | deep_convnet batch_norm 'yes'
models.build('lenet5', classes=0)               | lenet5: classes integer 0
nn.Sequential(nn.ReLU)                          | Sequential '0' Layer
nn.Sequential({1: nn.ReLU()})                   | Sequential name 1
nn.Sequential({'a.b': nn.ReLU()})               | Sequential dot 'a.b'
nn.Sequential(forward=nn.ReLU())                | Sequential 'forward'
nn.Sequential(_layers=nn.ReLU())                | Sequential '_layers'
nn.Sequential({'a': nn.ReLU()}, a=nn.Tanh())    | Sequential 'a'
nn.Concat(None)                                 | Concat '0' Layer
nn.Residual(None)                               | Residual Layer
nn.Residual(nn.ReLU(), 3)                       | Residual 'downsample' Layer
nn.Residual(nn.ReLU(), nn.ReLU(), shortcut_name='a.b') | Residual dot 'a.b'
nn.Ensemble(nn.ReLU)                            | Ensemble '0' Layer
nn.Residual(nn.ReLU(), nn.Tanh(), shortcut_name='') | Residual shortcut_name
nn.Ensemble()                                   | Ensemble: no members
nn.Ensemble(nn.ReLU(), vote='best')             | Ensemble 'mean', 'geometric' 'best'
nn.Ensemble(nn.ReLU(), 'runs/a')                | Ensemble '1' Layer 'runs/a'
nn.Preprocess(mean=NAN)                         | Preprocess: mean finite nan
nn.Preprocess(mean='0.5')                       | Preprocess: mean finite '0.5'
nn.Preprocess(mean=(0.1, None, 0.3))            | Preprocess: mean finite None
nn.Preprocess(mean=())                          | Preprocess: mean finite ()
nn.Preprocess(mean=1e9)                         | Preprocess: mean from 1000000000.0
nn.Preprocess(std=0)                            | Preprocess: std from 0
nn.Preprocess(std=(0.5, -1))                    | Preprocess: std from -1
nn.Preprocess(std=INF)                          | Preprocess: std finite inf
nn.Preprocess(mean=(0.1, 0.2), std=(1, 1, 1))   | Preprocess: one each mean=(0.1, 0.2) std=(1.0, 1.0, 1.0)
nn.registered('1st')                            | registered: name letter '1st'
nn.registered('a/b')                            | registered: name letter 'a/b'
nn.registered('x' * 81)                         | registered: name 80
nn.registered(nn.ReLU)                          | registered: name missing
nn.fuse([])                                     | fuse: model Layer list
nn.summary(nn.ReLU(), ())                       | summary: input_shape ()
nn.summary(nn.ReLU(), (3, 0, 4))                | summary: input_shape (3, 0, 4)
nn.summary(nn.ReLU(), (1.5,))                   | summary: input_shape (1.5,)
nn.Gradients().merge({})                        | Gradients.merge: Gradients dict
nn.Gradients().merge(nn.Gradients(), weight=INF) | Gradients.merge: weight finite inf
nn.Gradients().merge(nn.Gradients(), weight='half') | Gradients.merge: weight finite 'half'
nn.Gradients().merge(nn.Gradients(), weight=True) | Gradients.merge: weight finite True
models.register_model('tests_bad')(nn.Linear)   | function returns model
models.register_model('tests_bad')(lambda *classes: nn.ReLU()) | takes *classes, no name
models.tiny_convnet(input_shape=(28, 28))       | tiny_convnet: input_shape (channels, height, width)
models.tiny_convnet(input_shape=(1, 3, 9))      | tiny_convnet: 4x4 (1, 3, 9)
models.tiny_convnet(input_shape=(1, 9, 3))      | tiny_convnet: 4x4 (1, 9, 3)
models.simple_convnet(input_shape=(1, 4, 4))    | kernel 5x5 larger 4x4
models.simple_convnet(input_shape=(1, 5, 5))    | input_shape (1, 5, 5) 1x1 little
models.simple_convnet(input_shape=(1, 28, 5))   | 24x1
models.simple_convnet(weight_std='lecun')       | initialiser 'lecun'
models.deep_convnet(filters=[8, 16])            | deep_convnet: filters three (8, 16)
models.build('SimpleConvNet')                   | 'SimpleConvNet' known: alexnet vgg19_bn
models.build('tiny_convnet', depth=3)           | tiny_convnet: 'depth' takes bias
nn.Parameter([1.0], dtype=[])                   | dtype list
nn.Conv2d(1, 2, 3, algorithm=['fft'])           | algorithm ['fft']
nn.Linear(2**31, 1)                             | Linear in_features 2147483648 at most 2147483647
nn.Linear(10**5000, 2)                          | Linear in_features number 4,300 digits
nn.Conv2d(1, 1, 3, dtype=10**5000)              | Conv2d dtype 4,300 digits
models.build(['tiny_convnet'])                  | ['tiny_convnet'] known
nn.Residual(nn.ReLU(), nn.ReLU(), shortcut_name=[]) | Residual shortcut_name []
nn.Linear(1, 1).to(backend=[])                  | backend []
nn.Linear(1, 1).to(backend='')                  | backend ''
nn.Linear(1, 1).to(dtype=[])                    | dtype list
nn.Linear(1, 1).freeze(3)                       | freeze 3
nn.summary(3, (1, 2))                           | summary model int
optim.SGD(nn.Linear(1, 1), groups=0)            | SGD groups 0
Trainer(nn.Linear(1, 1), None)                  | Trainer Optimizer NoneType
Trainer(3, optim.SGD(nn.Linear(1, 1)))          | Trainer Layer int
Trainer(nn.Linear(1, 1), [1.0])                 | optimizer optim.Optimizer list
Trainer(MODEL, SGD, schedule='adam')            | schedule optim.Schedule 'adam'
Trainer(MODEL, SGD, average=[1.0])              | average optim.WeightAverage [1.0]
evaluate(None, DIGITS)                          | model Layer NoneType
predict('adam', DIGITS.images)                  | model Layer str
data.Loader(DIGITS.images)                      | Loader: dataset Dataset ndarray
Trainer(MODEL, SGD).fit(DIGITS, callbacks=None) | callbacks list Callbacks
Trainer(MODEL, SGD).fit(DIGITS, augment='adam') | augment callable None str
Trainer(MODEL, SGD).fit(DIGITS, progress=[1.0]) | progress 'auto' Callback None
models.tiny_convnet().to(dtype=[1])             | expected dtype name
models.tiny_convnet().to(dtype={})              | expected dtype name
xpcnn.set_backend([1])                          | unknown backend
"""


def scalar(rng: Any, shape: Any, fan_in: int, fan_out: int) -> Any:
    return np.float64(rng.standard_normal())


KINDS = (ArgumentError, DtypeError, AlgorithmError, BackendError, ShapeError)
CASES = [tuple(part.strip() for part in line.split("|")) for line in IMPOSSIBLE.strip().splitlines()]
MODEL = models.tiny_convnet()
NAMES = {
    "nn": nn,
    "models": models,
    "optim": optim,
    "Trainer": Trainer,
    "np": np,
    "NAN": NAN,
    "xpcnn": xpcnn,
    "data": data,
    "evaluate": evaluate,
    "predict": predict,
    "MODEL": MODEL,
    "SGD": optim.SGD(MODEL),
    "DIGITS": data.synthetic_digits(4),
    "INF": INF,
    "scalar": scalar,
}


@pytest.mark.parametrize(("text", "told"), CASES, ids=[text for text, _ in CASES])
def test_impossible_options(text: str, told: str) -> None:
    with pytest.raises(KINDS, match=mentions(*told.split())) as caught:
        eval(text, NAMES)
    assert isinstance(caught.value, XpcnnError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


POSSIBLE = """
nn.Conv2d(1, 2, 2, padding=5)
nn.Conv2d(np.int64(1), np.int32(2), np.int64(3), stride=np.int64(2), padding=(np.int64(1), 0))
nn.Conv2d(1, 2, [3, 1], padding='same', dilation=2)
nn.Conv2d(4, 8, 3, groups=4, padding='valid', stride=2, algorithm='winograd')
nn.Conv2d(1, 2, 3, weight_init=0, bias=False, dtype=np.float64)
nn.ConvTranspose2d(4, 2, 3, 2, output_padding=1, groups=2)
nn.ConvTranspose2d(1, 1, 3, dilation=3, output_padding=2)
nn.MaxPool2d(3, 1, 1)
nn.MaxPool2d((2, 5), padding=(1, 2), ceil_mode=True)
nn.AdaptiveAvgPool2d((None, 2))
nn.Linear(np.int64(3), 1)
nn.BatchNorm2d(1, eps=0, momentum=0)
nn.BatchNorm2d(1, eps=np.float32(1e-3), momentum=1)
nn.LayerNorm([2, 3], eps=0.0)
nn.GroupNorm(4, 4)
nn.LocalResponseNorm(3, alpha=0, beta=-1, k=2)
nn.Dropout(0)
nn.LeakyReLU(-2)
nn.Softmax(-2)
models.deep_convnet(filters=[2, 3, 4], hidden=np.int64(5))
models.simple_convnet(input_shape=[1, 12, 12], filters=np.int64(2), hidden=3)
"""


@pytest.mark.parametrize("text", POSSIBLE.strip().splitlines())
def test_possible_options(text: str) -> None:
    eval(text, NAMES)


@pytest.mark.fuzz
def test_what_a_layer_accepts_the_op_accepts() -> None:
    """On images as small as the kernel, whatever the stride, padding and dilation."""
    rng = np.random.default_rng(0)
    built = 0
    for _ in range(300):
        kernel, stride, dilation = (tuple(map(int, rng.integers(1, 4, 2))) for _ in range(3))
        padding = tuple(map(int, rng.integers(0, 4, 2)))
        x = np.zeros((1, 2, *(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))), np.float32)
        nn.Conv2d(2, 1, kernel, stride, padding, dilation)(x)
        try:
            layer = nn.MaxPool2d(kernel, stride, padding)
        except ArgumentError:
            with pytest.raises(ArgumentError):
                ops.max_pool2d(np.zeros((1, 1, 9, 9)), kernel, stride, padding)
        else:
            layer(np.zeros((1, 1, *kernel)))
            built += 1
    assert 50 < built < 250
