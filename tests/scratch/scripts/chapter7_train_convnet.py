"""The convolutional network trained, saved, and its filters laid over an image."""

from xpcnn.scratch.layers import Convolution
from xpcnn.scratch.mnist import load_mnist
from xpcnn.scratch.simple_convnet import SimpleConvNet
from xpcnn.scratch.trainer import Trainer

(x_train, t_train), (x_test, t_test) = load_mnist(flatten=False)
network = SimpleConvNet(
    input_dim=(1, 28, 28),
    conv_param={"filter_num": 8, "filter_size": 5, "pad": 0, "stride": 1},
    hidden_size=30,
    output_size=10,
    weight_init_std=0.05,
)
trainer = Trainer(
    network, x_train, t_train, x_test, t_test,
    epochs=6, mini_batch_size=30, optimizer="Adam", optimizer_param={"lr": 0.005},
    evaluate_sample_num_per_epoch=100,
)  # fmt: skip
trainer.train()
network.save_params("params.pkl")
print("Saved Network Parameters!")

again = SimpleConvNet(conv_param={"filter_num": 8, "filter_size": 5, "pad": 0, "stride": 1}, hidden_size=30)
again.load_params("params.pkl")
accuracies = network.accuracy(x_test, t_test), again.accuracy(x_test, t_test)

maps = []
for i in range(3):
    w = again.params["W1"][i : i + 1, ...]
    conv_layer = Convolution(w, 0)
    maps.append(conv_layer.forward(x_test[:1, ...]))
