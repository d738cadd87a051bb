"""A deeper network with batch normalisation, dropout and weight decay, trained by the Trainer."""

from collections import OrderedDict

from xpcnn.scratch import np
from xpcnn.scratch.layers import *  # noqa: F403
from xpcnn.scratch.mnist import load_mnist
from xpcnn.scratch.trainer import Trainer
from xpcnn.scratch.util import shuffle_dataset


class DeeperNet:
    def __init__(self, sizes, weight_decay_lambda=0.0, dropout_ratio=0.2):
        self.weight_decay_lambda = weight_decay_lambda
        self.params, self.layers = {}, OrderedDict()
        self.depth = len(sizes) - 1
        for idx in range(1, self.depth + 1):
            scale = np.sqrt(2.0 / sizes[idx - 1])
            self.params["W" + str(idx)] = scale * np.random.randn(sizes[idx - 1], sizes[idx])
            self.params["b" + str(idx)] = np.zeros(sizes[idx])
            W, b = self.params["W" + str(idx)], self.params["b" + str(idx)]
            self.layers["Affine" + str(idx)] = Affine(W, b)  # noqa: F405
            if idx < self.depth:
                gamma, beta = np.ones(sizes[idx]), np.zeros(sizes[idx])
                self.params["gamma" + str(idx)], self.params["beta" + str(idx)] = gamma, beta
                self.layers["BatchNorm" + str(idx)] = BatchNormalization(gamma, beta)  # noqa: F405
                self.layers["Activation" + str(idx)] = Relu()  # noqa: F405
                self.layers["Dropout" + str(idx)] = Dropout(dropout_ratio)  # noqa: F405
        self.last_layer = SoftmaxWithLoss()  # noqa: F405

    def predict(self, x, train_flg=False):
        for key, layer in self.layers.items():
            x = layer.forward(x, train_flg) if "Dropout" in key or "BatchNorm" in key else layer.forward(x)
        return x

    def loss(self, x, t, train_flg=False):
        weight_decay = 0
        for idx in range(1, self.depth + 1):
            weight_decay += 0.5 * self.weight_decay_lambda * np.sum(self.params["W" + str(idx)] ** 2)
        return self.last_layer.forward(self.predict(x, train_flg), t) + weight_decay

    def accuracy(self, x, t):
        y = np.argmax(self.predict(x), axis=1)
        if t.ndim != 1:
            t = np.argmax(t, axis=1)
        return np.sum(y == t) / float(x.shape[0])

    def gradient(self, x, t):
        self.loss(x, t, train_flg=True)
        dout = self.last_layer.backward()
        for layer in list(self.layers.values())[::-1]:
            dout = layer.backward(dout)
        grads = {}
        for idx in range(1, self.depth + 1):
            affine, W = self.layers["Affine" + str(idx)], self.params["W" + str(idx)]
            grads["W" + str(idx)], grads["b" + str(idx)] = affine.dW + self.weight_decay_lambda * W, affine.db
            if idx < self.depth:
                norm = self.layers["BatchNorm" + str(idx)]
                grads["gamma" + str(idx)], grads["beta" + str(idx)] = norm.dgamma, norm.dbeta
        return grads


(x_train, t_train), _ = load_mnist(normalize=True)
x_train, t_train = shuffle_dataset(x_train, t_train)
validation_num = int(x_train.shape[0] * 0.20)
x_val, t_val = x_train[:validation_num], t_train[:validation_num]
x_train, t_train = x_train[validation_num:], t_train[validation_num:]

weight_decay = 10 ** np.random.uniform(-4, -8)
network = DeeperNet([784, 40, 30, 10], weight_decay_lambda=weight_decay)
trainer = Trainer(
    network, x_train, t_train, x_val, t_val,
    epochs=10, mini_batch_size=40, optimizer="adam", optimizer_param={"lr": 0.01}, verbose=False,
)  # fmt: skip
trainer.train()
x = np.arange(len(trainer.train_acc_list))
