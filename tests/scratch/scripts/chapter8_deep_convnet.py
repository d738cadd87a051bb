"""The deep network: a few steps of training, and the images that it gets wrong."""

from xpcnn.scratch import np
from xpcnn.scratch.deep_convnet import DeepConvNet
from xpcnn.scratch.mnist import load_mnist
from xpcnn.scratch.trainer import Trainer

(x_train, t_train), (x_test, t_test) = load_mnist(flatten=False)
x_train, t_train = x_train[:20], t_train[:20]
x_test, t_test = x_test[:20], t_test[:20]

network = DeepConvNet()
trainer = Trainer(
    network, x_train, t_train, x_test, t_test,
    epochs=1, mini_batch_size=10, optimizer="Adam", optimizer_param={"lr": 0.001},
    evaluate_sample_num_per_epoch=10,
)  # fmt: skip
trainer.train()
network.save_params("deep_convnet_params.pkl")

network = DeepConvNet()
network.load_params("deep_convnet_params.pkl")
classified_ids = []
acc = 0.0
batch_size = 10
for i in range(int(x_test.shape[0] / batch_size)):
    tx = x_test[i * batch_size : (i + 1) * batch_size]
    tt = t_test[i * batch_size : (i + 1) * batch_size]
    y = np.argmax(network.predict(tx, train_flg=False), axis=1)
    classified_ids.append(y)
    acc += np.sum(y == tt)
acc = acc / x_test.shape[0]
classified_ids = np.array(classified_ids).flatten()
mistakes = [i for i, val in enumerate(classified_ids == t_test) if not val]
